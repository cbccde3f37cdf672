from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.evaluation.semantics import Curve
from meshgan.model.pca import PcaModel, fit_pca
from meshgan.report.paper_figures import (
    exaggerated,
    exaggerations,
    expression_grid,
    recognition_plot,
    reconstructions,
    representative,
)


@pytest.fixture(scope="module")
def models(tiny_faces: FaceSet) -> dict[str, PcaModel]:
    return {"rough": fit_pca(tiny_faces, 1), "fine": fit_pca(tiny_faces, 12)}


@pytest.fixture(scope="module")
def unseen(tiny_faces: FaceSet) -> np.ndarray:
    return np.asarray(tiny_faces.vertices[tiny_faces.split.test[:3]])


def drawn(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_reconstructions_show_and_return_each_model_s_error(models, unseen: np.ndarray, tmp_path: Path) -> None:
    errors = reconstructions(models, unseen, tmp_path / "figure1.png", size=48)
    expected = {name: float(model.fit(unseen).error_mm.mean()) for name, model in models.items()}
    assert errors == pytest.approx(expected)
    assert errors["fine"] < errors["rough"]
    image = drawn(tmp_path / "figure1.png")
    assert image.shape[0] > image.shape[1]  # five rows of three faces
    rough, fine = (saturation(image, share) for share in (0.5, 0.9))  # the rows of the error maps
    assert rough > fine


def saturation(image: np.ndarray, height: float) -> float:
    """How far from yellow the heat map is that a horizontal line at a share of the height crosses, left of the bar."""
    line = image[round(height * len(image)), : round(0.75 * image.shape[1])]
    coloured = line[np.ptp(line, axis=1) > 25]
    return float((255 - coloured[:, 1]).mean())


def test_exaggeration_starts_at_the_face_and_leaves_the_template(models, unseen: np.ndarray) -> None:
    model = models["fine"]
    line = exaggerated(model, unseen, (0.0, 1.0, 2.0))
    template = model.fit(model.template.vertices[None])
    np.testing.assert_allclose(line[:, 0], np.repeat(template.vertices, 3, axis=0), atol=1e-3)
    np.testing.assert_allclose(line[:, 1], model.fit(unseen).vertices, atol=1e-3)
    np.testing.assert_allclose(line[:, 2], 2 * line[:, 1] - line[:, 0], atol=2e-3)  # as the model is linear


def test_one_row_for_each_target_and_a_column_for_each_model_and_factor(
    models, unseen: np.ndarray, tmp_path: Path
) -> None:
    targets = {"tall": unseen[0], "wide": unseen[1]}
    exaggerations(models, targets, tmp_path / "both.png", factors=(1.0, 2.0), size=48)
    exaggerations({"fine": models["fine"]}, targets, tmp_path / "one.png", factors=(1.0, 2.0), size=48)
    both, one = drawn(tmp_path / "both.png"), drawn(tmp_path / "one.png")
    assert both.shape[1] / one.shape[1] == pytest.approx(5 / 3, rel=0.15)
    assert both.shape[0] == pytest.approx(one.shape[0], rel=0.15)


def test_the_grid_varies_with_both_factors_and_repeats(models, tmp_path: Path) -> None:
    first, again, other = (tmp_path / f"{name}.png" for name in "abc")
    expression_grid(models["fine"], models["fine"], first, seed=1, factors=(0.0, 1.0), size=64)
    expression_grid(models["fine"], models["fine"], again, seed=1, factors=(0.0, 1.0), size=64)
    expression_grid(models["fine"], models["fine"], other, seed=2, factors=(0.0, 1.0), size=64)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_recognition_is_plotted_with_bands(tmp_path: Path) -> None:
    rate = np.array([0.9, 0.7, 0.5])
    curves = {name: Curve(rate - drop, rate - drop - 0.05, rate - drop + 0.05) for name, drop in (("a", 0), ("b", 0.2))}
    recognition_plot(curves, (1.0, 2.0, 3.0), 0.95, tmp_path / "figure6.png")
    image = drawn(tmp_path / "figure6.png")
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)[:, :3].tolist()} if image.shape[2] == 3 else None
    colours = colours or {tuple(pixel[:3]) for pixel in image.reshape(-1, 4).tolist()}
    assert {(192, 80, 77), (42, 111, 189)} <= colours


def test_a_representative_is_the_unseen_face_nearest_to_its_group_s_mean(tiny_faces: FaceSet) -> None:
    kind = np.where(np.arange(len(tiny_faces)) % 3 == 0, "round", "long")
    faces = replace(tiny_faces, labels={**tiny_faces.labels, "kind": kind})
    train = [row for row in faces.split.train if kind[row] == "long"]
    test = [row for row in faces.split.test if kind[row] == "long"]
    mean = faces.vertices[train].mean(axis=0)
    best = min(test, key=lambda row: np.linalg.norm(faces.vertices[row] - mean, axis=1).mean())
    np.testing.assert_array_equal(representative(faces, kind="long"), faces.vertices[best])


def test_a_group_without_unseen_faces_is_named(tiny_faces: FaceSet) -> None:
    with pytest.raises(UsageError, match="too few faces of age 999"):
        representative(tiny_faces, age="999")
