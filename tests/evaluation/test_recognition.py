import numpy as np
import pytest

from meshgan.evaluation.semantics import FACTORS, confusion, extrapolation_hits, recognition_curve
from meshgan.model.pca import fit_pca


def test_confusion_counts_truth_in_rows() -> None:
    truth, predicted = np.array(["a", "a", "b", "c"]), np.array(["a", "b", "b", "a"])
    assert confusion(truth, predicted, ["a", "b", "c"]).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_the_band_of_one_face_per_person_is_the_binomial_one() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((1, 400)) < 0.7
    curve = recognition_curve(hits, np.arange(400).astype(str))
    assert curve.rate[0] == hits.mean()
    half = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 400)
    assert curve.rate[0] - curve.low[0] == pytest.approx(half, rel=0.1)
    assert curve.high[0] - curve.rate[0] == pytest.approx(half, rel=0.1)


def test_the_band_knows_that_the_faces_of_one_person_are_alike() -> None:
    per_person = np.random.default_rng(1).random(40) < 0.6
    hits, subjects = np.repeat(per_person, 25)[None], np.repeat(np.arange(40), 25).astype(str)
    curve = recognition_curve(hits, subjects)
    alone = recognition_curve(per_person[None], np.arange(40).astype(str))
    np.testing.assert_allclose([curve.low, curve.high], [alone.low, alone.high])
    independent = recognition_curve(hits, np.arange(1000).astype(str))
    assert curve.high[0] - curve.low[0] > 4 * (independent.high[0] - independent.low[0])


def test_curves_of_several_factors_are_independent_of_each_other() -> None:
    hits = np.random.default_rng(2).random((3, 100)) < [[0.9], [0.5], [0.0]]
    subjects = (np.arange(100) % 20).astype(str)
    together = recognition_curve(hits, subjects)
    np.testing.assert_array_equal(together.low[1], recognition_curve(hits[1:2], subjects).low[0])
    assert together.rate[2] == together.high[2] == 0


def test_faces_are_exaggerated_away_from_the_template(tiny_faces) -> None:
    """A linear model with all its components exaggerates exactly: template + f (face − template)."""
    model = fit_pca(tiny_faces, 15)
    faces = model.sample(7, seed=3)
    template = model.template.vertices
    seen = []

    def predict(exaggerated: np.ndarray) -> np.ndarray:
        seen.append(exaggerated)
        return np.array(["joy"] * len(exaggerated))

    labels = np.array(["joy", "fear"] * 3 + ["joy"])
    hits = extrapolation_hits(model, faces, labels, predict, factors=[1.0, 2.5])
    assert hits.tolist() == [(labels == "joy").tolist()] * 2
    neutral = model.fit(template[None]).vertices[0]
    for factor, exaggerated in zip((1.0, 2.5), seen, strict=True):
        np.testing.assert_allclose(exaggerated, neutral + factor * (faces - neutral), atol=0.05)


def test_expressions_are_exaggerated_up_to_three_times() -> None:
    """The paper's Fig. 6."""
    assert FACTORS == (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)


def test_the_limits_of_the_band_are_its_quantiles() -> None:
    """Two people, one always right: of four draws one has neither, two have one, one has both."""
    curve = recognition_curve(np.array([[True, False]]), np.array(["a", "b"]), resamples=4000)
    assert (curve.rate[0], curve.low[0], curve.high[0]) == (0.5, 0.0, 1.0)
    hits = np.arange(200)[None] < 100
    curve = recognition_curve(hits, np.arange(200).astype(str), resamples=20_000)
    low, high = (curve.low[0] - 0.5) * np.sqrt(800), (curve.high[0] - 0.5) * np.sqrt(800)
    assert (low, high) == (pytest.approx(-1.96, abs=0.1), pytest.approx(1.96, abs=0.1))  # 96.5 % would be 1.81
