"""Every file that leaves the studio, opened by another program's reader."""

import io
import json

import numpy as np
import pygltflib
import pytest
import trimesh
from PIL import Image

from khronos import accessor, issues_of, needs_validator
from meshgan.data.corpora.basis import layout_of
from meshgan.geometry.align import rigid
from meshgan.model.rig import ARKIT
from meshgan.studio.exchange import CURRENT, PICTURE, _placed, download, morph_targets, read_upload
from meshgan.studio.session import Session
from meshgan.studio.sliders import identity_model, rig_model

pytest.importorskip("pygltflib", reason="needs the extra studio")


@pytest.fixture(scope="module")
def targets(pair):
    return morph_targets(pair[1])


@pytest.fixture
def session(pair):
    """A face with an expression and moved sliders."""
    session = Session(*pair, seed=2)
    session.random()
    session.slide("age", 9)
    session.slide("anger", 0.6)
    return session


def opened(data):
    """Base (V, 3), targets by name, and weights by name of a GLB, read by pygltflib, in metres."""
    gltf = pygltflib.GLTF2.load_from_bytes(data)
    mesh = gltf.meshes[0]
    primitive, names = mesh.primitives[0], (mesh.extras or {}).get("targetNames", [])
    shifts = {name: accessor(gltf, t["POSITION"]) for name, t in zip(names, primitive.targets or [], strict=True)}
    return accessor(gltf, primitive.attributes.POSITION), shifts, dict(zip(names, mesh.weights or [], strict=True))


def test_the_glb_opens_as_the_face_on_the_page(session, targets):
    base, shifts, weights = opened(download(session, "glb", targets))
    shown = base + sum(weights[name] * shift for name, shift in shifts.items())
    assert np.abs(shown - session.face / 1000).max() < 1e-5
    assert weights == {name: float(name == CURRENT) for name in shifts}


def test_its_sliders_do_what_ours_do(session, targets, pair):
    """With the present expression off, expressionAnger at 1 is the face of our slider at 1, to 1e-5 m."""
    base, shifts, _ = opened(download(session, "glb", targets))
    session.start_over("expression")
    assert np.abs(base - session.face / 1000).max() < 1e-5
    for key, name in (("anger", "expressionAnger"), ("happiness", "expressionHappiness")):
        session.slide(key, 1.0)
        assert np.abs(base + shifts[name] - session.face / 1000).max() < 1e-5
        session.slide(key, 0.0)


def test_the_targets_are_named_expressions(session, targets):
    assert list(targets) == ["expressionAnger", "expressionHappiness"]
    _, shifts, _ = opened(download(session, "glb", targets))
    assert list(shifts) == [CURRENT, *targets]  # the tests' template has no rig


def test_without_expressions_there_are_no_targets_of_a_model(pair):
    session = Session(pair[0], None, seed=2)
    base, shifts, _ = opened(download(session, "glb", morph_targets(None)))
    assert np.abs(base - session.face / 1000).max() < 1e-5
    assert not shifts


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_meshes_hold_the_face_in_millimetres(session, kind):
    loaded = trimesh.load_mesh(io.BytesIO(download(session, kind, {})), file_type=kind, process=False)
    np.testing.assert_allclose(loaded.vertices, session.face, atol=1e-4)
    np.testing.assert_array_equal(loaded.faces, session.identity.template.triangles)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_what_is_saved_can_be_brought_back(session, targets, pair, tmp_path, kind):
    """The browser asks for a unit, and offers millimetres; a GLB is in metres all the same."""
    path = tmp_path / f"mine.{kind}"
    path.write_bytes(download(session, kind, targets))
    for unit in ("mm", "m") if kind == "glb" else ("mm",):
        vertices, known = _placed(read_upload(path.name, path, unit), pair[0].template)
        assert known.all()
        moved = rigid(session.face.astype(float), vertices.astype(float))(session.face)
        np.testing.assert_allclose(moved, vertices, atol=2e-3)


def test_the_picture_is_large_and_seen_from_where_the_visitor_stands(session):
    pictures = [
        np.asarray(Image.open(io.BytesIO(download(session, "png", {}, yaw)))).astype(float) for yaw in (0.0, 50.0)
    ]
    assert pictures[0].shape == (PICTURE, PICTURE, 3)
    assert np.abs(pictures[0] - pictures[1]).mean() > 3
    assert pictures[0].std() > 10


def test_the_code_is_json_for_us_and_for_interpolate(session, pair):
    kept = json.loads(download(session, "json", {}))
    np.testing.assert_allclose(kept["code"], session.state.identity.code(pair[0]), rtol=1e-6)
    np.testing.assert_allclose(kept["expression_code"], session.state.expression.code(pair[1]), rtol=1e-6)
    assert kept["seed"] == session.state.seed
    assert kept["model"] == kept["expression_model"] == "pca"


@pytest.mark.slow
@needs_validator
def test_the_khronos_validator_finds_nothing(session, targets, tmp_path):
    (tmp_path / "face.glb").write_bytes(download(session, "glb", targets))
    issues = issues_of(tmp_path / "face.glb")
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


def test_a_head_that_its_rig_moves_is_saved_with_its_own_shapes_on(head_model):
    session = Session(identity_model(head_model, None), rig_model(head_model.template), seed=1)
    session.start_over("expression")
    session.slide("jawOpen", 0.5)
    session.slide("happiness", 1.0)
    gltf = pygltflib.GLTF2.load_from_bytes(download(session, "glb", {}))
    (skin,) = [mesh for mesh in gltf.meshes if mesh.name.endswith("skin-mesh")]
    names = skin.extras["targetNames"]
    weights = dict(zip(names, skin.weights, strict=True))
    assert set(ARKIT) - {"tongueOut"} <= set(names)
    assert CURRENT not in names
    assert weights["jawOpen"] >= 0.5
    assert weights["mouthSmileLeft"] == pytest.approx(0.9, abs=1e-3)
    assert weights["eyeBlinkLeft"] == weights["expressionAnger"] == 0
    names = [part.name for part in layout_of(head_model.template).parts]
    *nodes, whole = gltf.nodes
    assert [node.name for node in nodes] == [f"{whole.name}-{name}" for name in names]
    assert whole.extras == json.loads(download(session, "json", {}))
    assert {"seed", "model", "licence", "code"} <= set(whole.extras)
