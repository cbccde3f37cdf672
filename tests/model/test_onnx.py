"""The ONNX file against torch, in onnxruntime."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from meshgan.data.corpora.basis import face_template
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.model import onnx
from meshgan.model.face_model import FaceModel
from meshgan.model.model_folder import SHIPPED, read_model_folder
from meshgan.model.onnx import export_onnx
from meshgan.model.pca import fit_pca
from meshgan.nn.chebyshev import ChebConv

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")


@pytest.fixture(scope="module")
def model(tiny_run):
    return FaceModel.load(tiny_run)


@pytest.fixture(scope="module")
def network(model, tmp_path_factory):
    """The exported network of the tiny model."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_onnx(model, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 2, 5, 40])
def test_any_batch_is_what_torch_computes(network, model, batch):
    codes = model.codes(batch, seed=batch)
    (vertices,) = network.run(["vertices"], {"code": codes})
    assert vertices.dtype == np.float32
    np.testing.assert_allclose(vertices, model.decode(codes), atol=1e-4, rtol=0)


def test_the_file_says_what_it_is(network, model):
    (code,) = network.get_inputs()
    vertices, _ = network.get_outputs()
    count = len(model.template.vertices)
    assert (code.name, code.shape[1:], vertices.name, vertices.shape[1:]) == ("code", [4], "vertices", [count, 3])
    (triangles,) = network.run(["triangles"], {"code": model.codes(1)})
    np.testing.assert_array_equal(triangles, model.template.triangles)
    metadata = network.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["card"]) == json.loads(model.card.model_dump_json())
    assert metadata["unit"] == "mm"


def test_codes_can_be_drawn_from_the_metadata_alone(network, model):
    sampler = json.loads(network.get_modelmeta().custom_metadata_map["sampler"])
    assert sampler["kind"] == model.samplers.default
    if sampler["kind"] == "fitted-normal":
        normal = np.random.default_rng(3).standard_normal((6, model.code_size))
        drawn = np.array(sampler["mean"]) + normal @ np.array(sampler["root"])
        np.testing.assert_allclose(drawn, model.codes(6, seed=3), atol=1e-5)


def test_a_mapping_network_is_replaced_by_the_fitted_normal_where_there_is_one():
    parts = read_model_folder(SHIPPED / "identity")
    assert parts.card.network.mapping
    assert json.loads(onnx._metadata(FaceModel(parts))["sampler"])["kind"] == "fitted-normal"
    bare = {name: tensor for name, tensor in parts.tensors.items() if not name.startswith("sampler/")}
    assert json.loads(onnx._metadata(FaceModel(replace(parts, tensors=bare)))["sampler"]) == {"kind": "none"}


def test_pca_is_exported_too_and_quietly(tiny_faces, tmp_path, caplog, capsys):
    model = fit_pca(tiny_faces, 5)
    export_onnx(model, tmp_path / "pca.onnx")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capsys.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(tmp_path / "pca.onnx", providers=["CPUExecutionProvider"])
    codes = model.codes(3, seed=1)
    np.testing.assert_allclose(session.run(["vertices"], {"code": codes})[0], model.decode(codes), atol=1e-4)


def test_a_face_is_exported_too(tmp_path):
    """Exporters treat large constants in their own way: the template's triangles are more than the tiny model's."""
    template, rng = face_template(), np.random.default_rng(0)
    faces = (template.vertices + rng.normal(size=(6, *template.vertices.shape))).astype(np.float32)
    card = Card(name="faces", source="test", licence="CC0-1.0", synthetic=True)
    with create_faceset(tmp_path / "faces", template, len(faces), card) as writer:
        writer.append(faces, [{"subject": str(number)} for number in range(len(faces))])
    model = fit_pca(FaceSet.open(tmp_path / "faces"), 3)
    export_onnx(model, tmp_path / "faces.onnx")
    network = onnxruntime.InferenceSession(tmp_path / "faces.onnx", providers=["CPUExecutionProvider"])
    vertices, triangles = network.run(["vertices", "triangles"], {"code": model.codes(7)})
    np.testing.assert_allclose(vertices, model.decode(model.codes(7)), atol=1e-4, rtol=0)
    np.testing.assert_array_equal(triangles, template.triangles)


def test_what_onnxruntime_refuses_is_a_sentence(tiny_run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("INVALID_GRAPH")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(MeshganError, match=r"x\.onnx: onnxruntime refuses"):
        export_onnx(FaceModel.load(tiny_run), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_wrong_network_is_not_written(tiny_run, tmp_path, monkeypatch):
    """As if the exporter had dropped a term: it is found by comparison, and nothing is left behind."""
    model = FaceModel.load(tiny_run)
    right = model.decode(model.codes(3, seed=3))
    last = model.decoder.last
    assert isinstance(last, ChebConv)
    last.weight[1] *= 1.01
    monkeypatch.setattr(model, "decode", lambda codes: right[: len(codes)])
    with pytest.raises(MeshganError, match=r"face\.onnx.*off by"):
        export_onnx(model, tmp_path / "face.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: name != "onnxscript")
    with pytest.raises(UsageError, match=r"pip install .*\[export\]"):
        export_onnx(model, tmp_path / "face.onnx")


def test_an_older_opset_can_be_asked_for(tiny_faces, tmp_path):
    model = fit_pca(tiny_faces, 3)
    export_onnx(model, tmp_path / "a.onnx", opset=18)
    (found,) = pytest.importorskip("onnx").load(tmp_path / "a.onnx").opset_import
    assert found.version == 18
    with pytest.raises(UsageError, match="opset 1000000 is not known yet"):
        export_onnx(model, tmp_path / "b.onnx", opset=10**6)
