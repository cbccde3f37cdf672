from pathlib import Path

import numpy as np
import pytest

from meshgan.errors import MeshganError
from meshgan.model.directions import (
    Directions,
    estimate_directions,
    fit_reader,
    marginal,
    responses,
    selectivity,
    variance_explained,
)


def population(
    count: int = 4000, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Codes (N, 8) that depend linearly on two correlated labels, with the true effects (2, 8) of one unit."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, count)
    weight = 0.5 + 0.005 * (age - 50) + 0.1 * rng.normal(size=count)  # older people are heavier here
    effects = np.linalg.qr(rng.normal(size=(8, 2)))[0].T * [[0.05], [4.0]]
    codes = rng.normal(size=8) + np.outer(age, effects[0]) + np.outer(weight, effects[1])
    return codes + noise * rng.normal(size=(count, 8)), {"age": age, "weight": weight}, effects


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def test_directions_of_noiseless_codes_are_the_true_effects() -> None:
    codes, labels, effects = population(noise=0.0)
    directions = estimate_directions(codes, labels)
    np.testing.assert_allclose(directions.vectors / directions.deviation[:, None], effects, rtol=1e-8, atol=1e-12)


def test_the_naive_direction_of_age_makes_people_heavier_and_ours_does_not() -> None:
    codes, labels, effects = population()
    table = np.column_stack(list(labels.values()))
    centred, standard = codes - codes.mean(0), (table - table.mean(0)) / table.std(0)
    ours = estimate_directions(codes, labels).vectors
    naive = marginal(centred, standard)
    assert angle(naive[0], effects[0]) > 20
    assert angle(ours[0], effects[0]) < 3
    assert abs(naive[0] @ effects[1]) > 5 * abs(ours[0] @ effects[1])


def test_shares_that_sum_to_one_lead_to_the_class_means() -> None:
    rng = np.random.default_rng(3)
    kinds = np.arange(3000) % 3
    centres = rng.normal(size=(3, 6))
    labels = {name: (kinds == number).astype(float) for number, name in enumerate(("anger", "fear", "joy"))}
    directions = estimate_directions(centres[kinds], labels)
    for number, name in enumerate(labels):
        np.testing.assert_allclose(directions.at(name, 1.0), centres[number], atol=1e-9)
    assert directions.move(np.zeros(6, np.float32), "fear", 2.0).dtype == np.float32


def test_at_puts_the_mean_face_at_a_value() -> None:
    codes, labels, effects = population(noise=0.0)
    directions = estimate_directions(codes, labels)
    np.testing.assert_allclose(directions.at("age", labels["age"].mean()), directions.origin)
    step = directions.at("age", 60.0) - directions.at("age", 50.0)
    np.testing.assert_allclose(step, 10 * effects[0], rtol=1e-8, atol=1e-12)


def test_a_constant_label_is_named() -> None:
    with pytest.raises(MeshganError, match="age is the same"):
        estimate_directions(np.random.default_rng(0).normal(size=(9, 2)), {"age": np.ones(9)})


def test_variance_explained_is_r_squared() -> None:
    rng = np.random.default_rng(1)
    labels = rng.normal(size=(500, 2))
    values = np.outer(labels[:, 0], [1.0, 2.0, 0.0]) + rng.normal(size=(500, 3))
    expected = []
    for column in labels.T:
        design = np.column_stack((column, np.ones(500)))
        residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        expected.append(1 - residual.var(0).sum() / values.var(0).sum())
    np.testing.assert_allclose(variance_explained(values, labels), expected, rtol=1e-9)
    assert variance_explained(3 * labels[:, :1] - 1, labels)[0] == pytest.approx(1.0)


def test_reader_reads_labels_off_vertices_and_responses_measure_what_a_direction_moves() -> None:
    rng = np.random.default_rng(2)
    shapes = rng.normal(size=(4, 30, 3))
    codes = rng.normal(size=(600, 4))

    def decode(z: np.ndarray) -> np.ndarray:
        return np.tensordot(z, shapes, 1) + 5.0

    labels = codes[:, :2] / codes[:, :2].std(0)
    labels -= labels[:400].mean(0)
    reader = fit_reader(decode(codes[:400]), labels[:400], decode(codes[400:]), labels[400:])
    assert (reader.r_squared > 0.999).all()
    mixed = np.array([[1.0, 0.5, 0, 0], [0, 1, 0, 0]])
    response = responses(decode, codes[:20], mixed, reader)
    expected = mixed[:, :2] / codes[:, :2].std(0)
    np.testing.assert_allclose(response, expected, atol=1e-4)  # codes are decoded in single precision
    np.testing.assert_allclose(selectivity(expected, [0, 1]), [expected[0, 0] / expected[0].sum(), 1.0])


def test_reader_of_noise_reads_nothing() -> None:
    rng = np.random.default_rng(4)
    faces, labels = rng.normal(size=(300, 20, 3)), rng.normal(size=(300, 1))
    assert fit_reader(faces[:200], labels[:200], faces[200:], labels[200:]).r_squared[0] < 0.1


def test_labels_of_one_group_do_not_count_against_each_other() -> None:
    response = np.array([[1.0, -0.5, 0.25], [-0.5, 1.0, 0.0], [0.0, 0.0, 2.0]])
    np.testing.assert_allclose(selectivity(response, [0, 0, 1]), [0.8, 1.0, 1.0])
    np.testing.assert_allclose(selectivity(response, [0, 1, 2]), [1 / 1.75, 1 / 1.5, 1.0])


def test_files_round_trip_and_damage_is_named(tmp_path: Path) -> None:
    codes, labels, _ = population(count=50)
    directions = estimate_directions(codes, labels)
    directions.save(tmp_path)
    loaded = Directions.load(tmp_path)
    assert loaded.names == ("age", "weight")
    for name in ("origin", "vectors", "mean", "deviation"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(directions, name))
    file = tmp_path / "directions.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(MeshganError, match="estimate the directions again"):
        Directions.load(tmp_path)
