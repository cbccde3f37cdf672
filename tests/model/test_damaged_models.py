"""Files of a model that were damaged, or written by a hostile hand: refused in a sentence, before memory is taken."""

import contextlib
import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from meshgan.errors import MeshganError
from meshgan.model.directions import FILE, Directions
from meshgan.model.face_model import FaceModel
from meshgan.model.load import load_model

HUGE = 10**9


@pytest.fixture
def folder(tmp_path, tiny_run):
    """A copy of a model folder, to damage."""
    return shutil.copytree(tiny_run / "model", tmp_path / "model")


@pytest.fixture
def directions(tmp_path):
    """A folder with directions of two labels."""
    names, size = ("age", "weight"), 4
    Directions(names, np.zeros(size), np.ones((2, size)), np.zeros(2), np.ones(2)).save(tmp_path)
    return tmp_path


def rewrite_card(folder, **changes):
    card = json.loads((folder / "model.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = card
        for parent in parents:
            part = part[parent]
        part[last] = value
    (folder / "model.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    "changes",
    [
        {"code": HUGE, "network__code": HUGE},
        {"code": 4096, "network__code": 4096},
        {"network__widths": [4096, 4096]},
        {"network__widths": [HUGE, HUGE]},
        {"network__widths": [4] * 1000},
        {"network__terms": HUGE},
        {"network__mapping": 4096},
        {"network__mapping": HUGE},
        {"network__linear": True},
        {"network__code": 5},
        {"origin__recipe": "name = "},
        {"origin__recipe": "x = " + "[" * 5000},
        {"origin__recipe": "[network]\ncode = 5\nwidths = [4, 4]\nterms = 2"},
        {"origin__seed": -1},
        {"origin__faces_seen": 10**30},
        {"name": "x" * 10**6},
        {"files": {"../../etc/passwd": "0" * 64}},
        {"sampler": "fitted-normal", "network__mapping": 16},
    ],
    ids=range(18),
)
def test_a_card_with_nonsense_is_refused_before_memory_is_taken(folder, changes):
    rewrite_card(folder, **changes)
    with pytest.raises(MeshganError) as refusal:
        load_model(folder)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"a":' * 20_000, '"\\ud800"', "\ufeff{}", ""])
def test_a_card_of_other_text_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(MeshganError, match=r"model\.json"):
        load_model(folder)


def rewrite_weights(folder, change):
    """Change the tensors of a model and make its sum fit again, as a careful hand would."""
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    rewrite_card(
        folder,
        files={
            **json.loads((folder / "model.json").read_text())["files"],
            path.name: hashlib.sha256(path.read_bytes()).hexdigest(),
        },
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["normalisation/mean"].fill(1e20),
        lambda tensors: tensors["normalisation/std"].fill(1e20),
        lambda tensors: tensors["normalisation/mean"].fill(np.nan),
        lambda tensors: tensors["generator/dense.weight"].fill(np.inf),
        lambda tensors: tensors.update({"sampler/covariance": -np.eye(4)}),
        lambda tensors: tensors.update({"sampler/covariance": np.full((4, 4), 1e300)}),
        lambda tensors: tensors.update({"sampler/mean": np.full(4, 1e300)}),
        lambda tensors: tensors.update({"generator/dense.bias": tensors["generator/dense.bias"].astype(np.int64)}),
        lambda tensors: tensors.update({"encoder/dense.bias": np.zeros(4, np.float32)}),
    ],
    ids=range(9),
)
def test_weights_with_nonsense_are_refused(folder, change):
    rewrite_weights(folder, change)
    with pytest.raises(MeshganError, match="model"):
        FaceModel.load(folder)


FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20)
ENDLESS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def damaged(content, flips, cut):
    changed = bytearray(content)
    for place, byte in flips:
        changed[int(place * len(changed))] = byte
    return bytes(changed[: int(cut * len(changed))])


@ENDLESS
@given(flips=FLIPS, cut=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.01]), header=st.booleans())
def test_damaged_directions_are_refused_or_sound(directions, flips, cut, header):
    path = directions / FILE
    content = path.read_bytes()
    if header:
        flips = [(place * 300 / len(content), byte) for place, byte in flips]
    path.write_bytes(damaged(content, flips, cut))
    try:
        found = Directions.load(directions)
    except MeshganError as error:
        assert FILE in str(error)
    else:
        assert np.isfinite(found.at(found.names[0], 1.0)).all()
    path.write_bytes(content)


@ENDLESS
@given(flips=FLIPS, cut=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.01]))
def test_a_damaged_card_is_refused_or_the_same_model(folder, tiny_run, flips, cut):
    path = folder / "model.json"
    content = path.read_bytes()
    expected = load_model(tiny_run).sample(1, sampler="uniform")
    path.write_bytes(damaged(content, flips, cut))
    with contextlib.suppress(MeshganError):
        np.testing.assert_array_equal(load_model(folder).sample(1, sampler="uniform"), expected)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "arrays",
    [
        {"vectors": np.ones((2, 5))},
        {"vectors": np.full((2, 4), np.nan)},
        {"deviation": np.zeros(2)},
        {"mean": np.full(2, 1e300)},
        {"origin": np.zeros(4, np.float32)},
        {"more": np.zeros(3)},
        {"origin": np.array(3.0)},
    ],
    ids=range(7),
)
def test_directions_with_nonsense_are_refused(directions, arrays):
    good = load_file(directions / FILE)
    save_file({**good, **arrays}, directions / FILE, metadata={"names": '["age", "weight"]'})
    with pytest.raises(MeshganError, match="estimate the directions again"):
        Directions.load(directions)


@pytest.mark.parametrize("names", ["", "3", "[]", '["age"]', '["age", "age"]', '["age", ""]', "[" * 5000, "[1, 2]"])
def test_directions_with_other_names_are_refused(directions, names):
    save_file(load_file(directions / FILE), directions / FILE, metadata={"names": names})
    with pytest.raises(MeshganError, match="estimate the directions again"):
        Directions.load(directions)


def test_directions_of_another_model_are_refused(folder):
    Directions(("age",), np.zeros(5), np.ones((1, 5)), np.zeros(1), np.ones(1)).save(folder)
    with pytest.raises(MeshganError, match="of another model"):
        Directions.load(folder)
