"""FaceModel: the same seed gives the same bits, and a model folder that is not whole is refused in a sentence."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model import model_folder
from meshgan.model.face_model import FaceModel, check_connectivity
from meshgan.model.load import load_model
from meshgan.model.pca import fit_pca
from meshgan.model.samplers import BLOCK
from meshgan.training.loop import train
from meshgan.training.recipe import parse_recipe


@pytest.fixture(scope="module")
def model(tiny_run):
    return FaceModel.load(tiny_run)


@pytest.fixture
def folder(tmp_path, tiny_run):
    """A copy of a model folder, to damage."""
    return shutil.copytree(tiny_run / "model", tmp_path / "model")


def test_samples_are_faces_in_millimetres(model, tiny_faces):
    faces = model.sample(10, seed=1)
    assert faces.shape == (10, 162, 3)
    assert faces.dtype == np.float32
    assert 60 < np.linalg.norm(faces, axis=-1).mean() < 100  # spheres of radius 80
    assert (faces == model.decode(model.codes(10, seed=1))).all()


@given(count=st.integers(0, 2 * BLOCK + 1), seed=st.integers(0, 5))
@settings(max_examples=15)
def test_more_samples_begin_with_the_same_ones(model, count, seed):
    for sampler in model.samplers.names:
        assert (model.sample(2 * BLOCK + 1, seed, sampler)[:count] == model.sample(count, seed, sampler)).all()


def test_decoding_undoes_the_normalisation(model):
    code = np.zeros((1, model.code_size), np.float32)
    values = model.decoder(__import__("torch").zeros(1, model.code_size)).numpy()
    np.testing.assert_allclose(
        model.decode(code), values * model.normalisation.std + model.normalisation.mean, atol=1e-4
    )


def test_a_saved_model_is_the_same_model(tmp_path, model, tiny_run):
    model.save(tmp_path / "copy")
    again = FaceModel.load(tmp_path / "copy")
    assert (again.sample(5) == model.sample(5)).all()
    for name in ("model.json", *model.card.files):
        assert (tmp_path / "copy" / name).read_bytes() == (tiny_run / "model" / name).read_bytes(), name
    with pytest.raises(MeshganError, match="exists already"):
        model.save(tmp_path / "copy")


def test_a_model_loads_by_folder_run_or_name(monkeypatch, tmp_path, tiny_run, model):
    monkeypatch.setattr(model_folder, "SHIPPED", tmp_path)
    shutil.copytree(tiny_run / "model", tmp_path / "tiny")
    for where in (tiny_run, tiny_run / "model", str(tiny_run), "tiny"):
        assert (FaceModel.load(where).sample(2) == model.sample(2)).all()
        assert isinstance(load_model(where), FaceModel)
    with pytest.raises(UsageError, match=r"no model that ships \(tiny\)"):
        FaceModel.load("tony")


def test_an_unfinished_run_says_so(tmp_path, tiny_run):
    (tmp_path / "recipe.toml").write_text((tiny_run / "recipe.toml").read_text())
    with pytest.raises(UsageError, match="has not finished; go on with"):
        FaceModel.load(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "template.ply", "hierarchy.npz"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_in_any_file_is_named(folder, name, place, bit):
    content = (folder / name).read_bytes()
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    (folder / name).write_bytes(changed)
    with pytest.raises(MeshganError, match=rf"{name} is damaged or was changed"):
        FaceModel.load(folder)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ["weights.safetensors", "template.ply", "hierarchy.npz"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(MeshganError, match=rf"{name} is missing"):
        FaceModel.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"code": 5},
        {"code": "4"},
        {"kind": "magic"},
        {"kind": "pca"},
        {"sampler": "magic"},
        {"template": "0" * 64},
        {"network": None},
        {"network": {"code": 4, "widths": [4, 8], "terms": 2}},
        {"network": {"code": 4, "widths": [4, 4, 4], "terms": 2}},
        {"network": {"code": 0, "widths": [4, 4], "terms": 2}},
        {"files": {}},
        {"extra": 1},
        {"format": 2},
    ],
    ids=str,
)
def test_a_card_edited_by_hand_is_refused_in_a_sentence(folder, change):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(MeshganError, match="model"):
        FaceModel.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 1}'])
def test_a_damaged_card_is_named(folder, content):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(MeshganError, match=r"model.json is damaged"):
        FaceModel.load(folder)


def rewrite(folder, change):
    """Change the tensors of a model and make its hash fit again, as a careful hand would."""
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    card = json.loads((folder / "model.json").read_text())
    card["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("generator/dense.weight"),
        lambda tensors: tensors.pop("normalisation/mean"),
        lambda tensors: tensors.update({"generator/more": np.zeros(3, np.float32)}),
        lambda tensors: tensors.update({"generator/dense.bias": np.zeros(3, np.float32)}),
        lambda tensors: tensors["generator/dense.bias"].fill(np.nan),
        lambda tensors: tensors["generator/dense.bias"].fill(1e30),
        lambda tensors: tensors["normalisation/std"].fill(0),
        lambda tensors: tensors.update({"sampler/mean": np.zeros(9)}),
        lambda tensors: tensors.update({"sampler/covariance": np.full((4, 4), np.nan)}),
    ],
)
def test_tensors_that_do_not_fit_are_refused_in_a_sentence(folder, change):
    rewrite(folder, change)
    with pytest.raises(MeshganError, match=str(folder)):
        FaceModel.load(folder)


def test_codes_and_faces_of_the_wrong_shape_are_refused(model):
    with pytest.raises(UsageError, match=r"codes must be .*\(B, 4\)"):
        model.decode(np.zeros((2, 5)))
    with pytest.raises(UsageError, match="codes must be finite"):
        model.decode(np.full((2, 4), np.inf))
    with pytest.raises(UsageError, match=r"faces must be .*\(B, 162, 3\)"):
        model.fit(np.zeros((162, 3)))
    with pytest.raises(UsageError, match="no sampler"):
        model.sample(2, sampler="magic")


def test_a_model_without_encoder_fits_and_one_with_it_encodes(tmp_path, model, tiny_faces, recipe_table):
    assert not model.encodes
    assert (model.encode(tiny_faces.vertices[:2]) == model.fit(tiny_faces.vertices[:2]).codes).all()
    recipe_table["objective"] = {"kind": "autoencoder"}
    coma = FaceModel.load(train(parse_recipe(recipe_table, "x"), tiny_faces, tmp_path / "run"))
    assert coma.encodes
    codes = coma.encode(tiny_faces.vertices[:3])
    assert codes.shape == (3, 4)
    scored = coma.encode(tiny_faces.vertices[tiny_faces.split.train])
    np.testing.assert_allclose(coma.samplers.mean, scored.mean(axis=0), atol=0.3 * scored.std())


def test_a_mesh_of_another_template_is_refused(model, tiny_faces):
    check_connectivity(tiny_faces.template, model.template, "a.ply")
    with pytest.raises(UsageError, match=r"a\.ply is not of the model's template"):
        check_connectivity(Mesh(np.eye(3), [[0, 1, 2]]), model.template, "a.ply")


def test_loading_a_model_draws_no_random_numbers_of_the_caller(tiny_run):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    FaceModel.load(tiny_run)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("kind", ["network", "pca"])
def test_tensors_give_tensors_that_gradients_flow_through(tiny_run, tiny_faces, kind):
    model = FaceModel.load(tiny_run).to("cpu") if kind == "network" else fit_pca(tiny_faces, 4)
    codes = model.codes(3)
    given = torch.from_numpy(codes).requires_grad_()
    faces = model.decode(given)
    assert isinstance(faces, torch.Tensor)
    np.testing.assert_allclose(faces.detach().numpy(), model.decode(codes), atol=1e-3)
    (gradient,) = torch.autograd.grad(faces.square().sum(), [given])
    assert bool((gradient != 0).any())
    found = model.encode(faces)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), model.encode(faces.detach().numpy()), atol=1e-3)
    np.testing.assert_array_equal(model.fit(faces).codes, model.fit(faces.detach().numpy()).codes)
    with pytest.raises(UsageError, match=r"shape \(B, 4\)"):
        model.decode(given[:, :2])
    if kind == "network":
        with pytest.raises(UsageError, match="no device 'nowhere' here"):
            model.to("nowhere")


@given(
    matrix=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=6),
        elements=st.floats(-1e3, 1e3, width=32),
    ),
    bits=st.integers(9, 16),
)
def test_some_bits_hold_a_matrix_to_a_step_of_each_row(matrix, bits):
    held = model_folder.packed("a", matrix, bits)
    assert held["a.high"].nbytes + held["a.low"].nbytes <= len(matrix) * (bits / 8 * matrix[0].size + 1)
    found = model_folder.unpacked(*held.values())
    assert found.shape == matrix.shape
    step = np.abs(matrix).max(axis=tuple(range(1, matrix.ndim)), keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(found - matrix) <= 0.51 * step + 1e-6).all()


def test_fourteen_bits_lie_as_they_did_in_files_that_ship():
    """Two rows that the first version of `packed` has written: those of four numbers in three bytes."""
    high = np.array([[128, 255, 0, 129], [0, 1, 2, 255]], np.uint8)
    words = (0b000001_000000_111111_000101, 0b111111_000000_100000_000001)
    low = np.array([list(word.to_bytes(3, "little")) for word in words], np.uint8)
    whole = [[5, 8191, -8192, 65], [-8191, -8192 + 64 + 32, -8192 + 128, 8191]]
    found = model_folder.unpacked(high, low, np.array([1.0, 2.0], np.float32))
    np.testing.assert_array_equal(found, np.array(whole) * [[1.0], [2.0]])
    assert sorted(model_folder.packed("a", found)) == ["a.high", "a.low", "a.step"]


def test_a_model_with_packed_weights_loads_and_saves_plain(tmp_path, tiny_run, model):
    parts = model_folder.read_model_folder(tiny_run / "model")
    name = "generator/dense.weight"
    tensors = {key: value for key, value in parts.tensors.items() if key != name}
    tensors |= model_folder.packed(name, parts.tensors[name])
    model_folder.write_model_folder(tmp_path / "packed", replace(parts, tensors=tensors))
    found = FaceModel.load(tmp_path / "packed")
    assert 0 < np.abs(found.sample(5) - model.sample(5)).max() < 0.1
    found.save(tmp_path / "again")
    assert (FaceModel.load(tmp_path / "again").sample(5) == found.sample(5)).all()
    for wrong in (
        {f"{name}.step": np.ones(3, np.float32)},
        {f"{name}.low": tensors[f"{name}.low"][:, 1:]},
        {f"{name}.bits": np.array([7], np.uint8)},
        {f"{name}.bits": np.array([13, 13], np.uint8)},
        {f"{name}.bits": np.array([np.nan], np.float32)},
    ):
        shutil.rmtree(tmp_path / "packed")
        model_folder.write_model_folder(tmp_path / "packed", replace(parts, tensors=tensors | wrong))
        with pytest.raises(MeshganError, match=r"weights.safetensors is damaged"):
            FaceModel.load(tmp_path / "packed")
