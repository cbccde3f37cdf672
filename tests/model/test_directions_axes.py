"""The axes that come with a model."""

import numpy as np
import pytest

from meshgan.data.principal import principal_components
from meshgan.model.directions import AXES_FILE, COUNT, SAMPLES, Axes
from meshgan.model.load import load_model
from meshgan.model.model_folder import SHIPPED
from meshgan.model.pca import fit_pca


@pytest.fixture
def folder(tiny_faces, tmp_path):
    fit_pca(tiny_faces, 4).save(tmp_path / "pca")
    return tmp_path / "pca"


@pytest.fixture
def found_anew(monkeypatch):
    """How often axes were found anew."""
    times, of = [], Axes.of
    monkeypatch.setattr(Axes, "of", lambda model: times.append(1) or of(model))
    return times


def test_an_axis_moves_faces_by_a_standard_deviation_along_its_shape(folder):
    model = load_model(folder)
    axes = Axes.of(model)
    start, faces = model.codes(1, seed=3), model.sample(SAMPLES)
    shapes = principal_components(faces, np.arange(SAMPLES), COUNT).axes
    for number, vector in enumerate(axes.vectors):
        step = (model.decode(start + vector) - model.decode(start))[0].ravel()
        along = step @ shapes.reshape(len(shapes), -1).T
        spread = np.tensordot(faces, shapes[number], 2).std()
        np.testing.assert_allclose(along, spread * (np.arange(len(along)) == number), atol=0.02 * spread + 1e-3)
    assert axes.shares.sum() == pytest.approx(1, abs=1e-3)


def test_axes_that_came_with_the_model_are_read(folder, found_anew):
    model = load_model(folder)
    axes = Axes.find(model, folder)
    axes.save(folder)
    again = Axes.find(model, folder)
    assert found_anew == [1]
    for name, array in vars(axes).items():
        np.testing.assert_array_equal(getattr(again, name), array)


@pytest.mark.parametrize("damage", ["cut", "other", "shape", "nan", "missing"])
def test_axes_that_do_not_fit_are_found_anew(folder, found_anew, damage):
    model = load_model(folder)
    Axes.of(model).save(folder)
    path = folder / AXES_FILE
    arrays = dict(np.load(path))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        changed = {
            "shape": ("shares", arrays["shares"][:2]),
            "nan": ("neutral", arrays["neutral"] * np.nan),
            "other": ("of", b"x"),
        }
        arrays |= dict([changed[damage]]) if damage in changed else {}
        arrays = {name: np.asarray(array) for name, array in arrays.items() if (damage, name) != ("missing", "shares")}
        np.savez(path, **arrays)
    Axes.find(model, folder)
    assert found_anew == [1, 1]


@pytest.mark.parametrize("name", ["identity", "expression", "head"])
def test_models_that_ship_bring_theirs(name, found_anew):
    model = load_model(name)
    axes = Axes.find(model, name)
    assert not found_anew
    assert (SHIPPED / name / AXES_FILE).stat().st_size < 2**14
    assert np.abs(model.decode(axes.neutral[None]) - model.template.vertices).max() < 15
