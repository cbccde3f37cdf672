"""A model of patches: trained, saved, loaded, fitted and exported as one of convolutions is."""

import numpy as np
import pytest

from meshgan.model.face_model import FaceModel
from meshgan.model.onnx import export_onnx
from meshgan.training.loop import train


@pytest.fixture(scope="module")
def run(tiny_faces, tiny_recipe, tmp_path_factory):
    recipe = tiny_recipe.changed(
        name="patches",
        network={"mixing": 1, "linear": False, "mapping": 0},
        objective={"kind": "autoencoder", "l2": 0},
        schedule={"faces": 2400},
        optimiser={"kind": "adam", "lr": 5e-3},
        sampling={"kind": "fitted-normal", "faces": 40},
    )
    return train(recipe, tiny_faces, tmp_path_factory.mktemp("patches") / "run")


def test_it_learns_to_rebuild_faces(run, tiny_faces):
    model = FaceModel.load(run)
    seen = np.asarray(tiny_faces.vertices[tiny_faces.split.train])
    far = np.linalg.norm(seen - model.mean_face, axis=-1).mean()
    rebuilt = np.linalg.norm(seen - model.decode(model.encode(seen)), axis=-1).mean()
    assert rebuilt < 0.6 * far
    assert model.fit(seen).error_mm.mean() < rebuilt


def test_a_copy_makes_the_same_faces(run, tmp_path):
    model = FaceModel.load(run)
    model.save(tmp_path / "copy")
    np.testing.assert_array_equal(FaceModel.load(tmp_path / "copy").sample(5, seed=3), model.sample(5, seed=3))
    assert not model.has_linear_path


def test_it_is_exported(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    model = FaceModel.load(run)
    export_onnx(model, tmp_path / "patches.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "patches.onnx", providers=["CPUExecutionProvider"])
    codes = model.codes(3, seed=1)
    np.testing.assert_allclose(session.run(["vertices"], {"code": codes})[0], model.decode(codes), atol=1e-4)
