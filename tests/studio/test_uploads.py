"""What visitors bring along: their own meshes, and whatever else somebody may send."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.data.corpora.anny import identities
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.heads import heads
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.align import similarity
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.model.compose import compose
from meshgan.model.load import load_model
from meshgan.model.pca import fit_pca
from meshgan.studio import exchange
from meshgan.studio.exchange import Upload, download, fit, read_code, read_upload
from meshgan.studio.session import Session, read_seed
from meshgan.studio.sliders import identity_model, rig_model

SCANS = Path(__file__).parents[2] / "../shared/data/scans"
TURN = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])


@pytest.fixture
def mesh(pair):
    """An unseen face, turned and moved."""
    return pair[0].template.with_vertices(pair[0].decode(pair[0].model.codes(1, seed=5))[0] @ TURN.T + [40, -10, 900])


def content(mesh, tmp_path, ending):
    write_mesh(tmp_path / f"mesh{ending}", mesh)
    return (tmp_path / f"mesh{ending}").read_bytes()


def read(name, data, unit, folder):
    """What the worker reads of a file that came as `name`."""
    path = folder / f"upload{Path(name).suffix.lower()[:8]}"
    path.write_bytes(data)
    return read_upload(name, path, unit)


@pytest.mark.parametrize("ending", [".obj", ".ply", ".glb", ".PLY"])
def test_a_mesh_is_read_and_fitted(mesh, pair, tmp_path, ending):
    upload = read(f"my face{ending}", content(mesh, tmp_path, ending.lower()), "mm", tmp_path)
    np.testing.assert_allclose(upload.mesh.vertices, mesh.vertices, atol=1e-3)
    found = fit(upload, pair[0].model)
    sides = [np.linalg.norm(v[1:] - v[:-1], axis=1) for v in (found.target, mesh.vertices)]
    np.testing.assert_allclose(*sides, rtol=1e-4)  # moved, not bent
    np.testing.assert_array_equal(found.identity, pair[0].model.fit(found.target[None]).codes[0])
    assert found.expression is None


def test_where_a_mesh_lies_does_not_matter(mesh, pair):
    upright = mesh.with_vertices((mesh.vertices - [40, -10, 900]) @ TURN)
    first, second = (fit(Upload("x", one, "mm"), pair[0].model) for one in (mesh, upright))
    np.testing.assert_allclose(first.identity, second.identity, atol=1e-4)
    np.testing.assert_allclose(first.target, second.target, atol=1e-3)


def test_vertices_that_no_triangle_uses_may_be_there_besides(mesh, pair):
    more = Mesh(np.concatenate([mesh.vertices, [[0, 0, 9999.0]]]), mesh.triangles)
    first, second = (fit(Upload("x", one, "mm"), pair[0].model) for one in (mesh, more))
    np.testing.assert_array_equal(first.target, second.target)


def test_identity_and_expression_are_fitted_in_turn(pair):
    identity, expression = pair
    person, feeling = identity.model.codes(1, seed=5), expression.model.codes(1, seed=6)
    face = compose(identity.decode(person), expression.decode(feeling), expression.still)[0]
    mesh = identity.template.with_vertices(face)
    session = Session(*pair)
    errors = []
    for other in ((None, None), (expression.model, expression.still)):
        found = fit(Upload("x", mesh, "mm"), identity.model, *other)
        session.adopt(found.target, found.identity, found.expression)
        errors.append(np.linalg.norm(session.face - found.target, axis=1).mean())
    assert errors[1] <= errors[0] + 1e-3
    assert found.expression is not None


def test_the_unit_is_asked_for_and_checked(mesh, pair):
    small = mesh.with_vertices(mesh.vertices / 1000)
    with pytest.raises(UsageError, match=r"head\.obj measures 0\.\d+ mm, read in mm.*; the unit m would fit\."):
        fit(Upload("head.obj", small, "mm"), pair[0].model)
    with pytest.raises(UsageError, match="choose unknown"):
        fit(Upload("head.obj", mesh.with_vertices(mesh.vertices * 4), "mm"), pair[0].model)


def test_an_unknown_unit_makes_the_face_as_large_as_the_template(mesh, pair):
    found = [fit(Upload("x", mesh.with_vertices(mesh.vertices * s), "unknown"), pair[0].model) for s in (0.02, 30)]
    np.testing.assert_allclose(found[0].target, found[1].target, atol=1e-3)
    assert similarity(found[0].target[None], pair[0].template.vertices).scale[0] == pytest.approx(1)


def test_a_mesh_of_another_template_is_told_what_to_do(pair, mesh):
    """Where the model is not of the template that scans are registered to."""
    other = type(mesh)(mesh.vertices[:40], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(UsageError, match=r"scan\.obj is not of the model's template.*register it first"):
        fit(Upload("scan.obj", other, "mm"), pair[0].model)


@pytest.fixture
def scan_model(tmp_path):
    """An identity model of the default template."""
    faces = identities(FaceBasis.read(), face_template(), 0, 0)[0][:60]
    card = Card(name="people", source="test", licence="CC0-1.0", synthetic=True)
    with create_faceset(tmp_path / "people", face_template(), len(faces), card) as writer:
        writer.append(faces, [{"subject": f"I{i}"} for i in range(len(faces))])
    return identity_model(fit_pca(FaceSet.open(tmp_path / "people"), 20), None)


def test_what_holds_no_face_is_said_so():
    box = trimesh.creation.box((150, 180, 120)).subdivide().subdivide().subdivide()
    with pytest.raises(MeshganError, match=r"^box\.obj is not of the model's template.*: no face was found"):
        fit(Upload("box.obj", Mesh(box.vertices, box.faces), "mm"), load_model("identity"))


@pytest.mark.slow
@pytest.mark.skipif(not SCANS.is_dir(), reason="needs the real scans")
@pytest.mark.parametrize(
    ("name", "unit"), [("james/james.obj", "mm"), ("lee_perry_smith/LeePerrySmith.ply", "unknown")]
)
def test_a_real_scan_is_registered_and_fitted(scan_model, name, unit):
    found = fit(read_upload(name, SCANS / name, unit), scan_model.model)
    error = np.linalg.norm(scan_model.decode(found.identity[None])[0] - found.target, axis=1)
    assert error.mean() < 3.5  # twenty components of sixty faces are a coarse model
    assert np.linalg.norm(found.target - scan_model.mean_face, axis=1).mean() < 12


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("virus.exe", b"MZ", r"virus\.exe: meshes are read from"),
        ("none", b"", "none: meshes are read from"),
        ("a.obj", b"", r"a\.obj"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 999999999999\nend_header\n", r"a\.ply"),
        ("a.glb", b"glTF" + b"\xff" * 40, r"a\.glb"),
        ("a.stl", b"\0" * 84, r"a\.stl"),
        ("a.obj", b"v nan nan nan\nv 0 0 0\nv 1 0 0\nf 1 2 3\n", r"a\.obj"),
        ("a.obj", b"v 0 0 0\nf 1 2 99999999\n", r"a\.obj"),
        ("../../etc/passwd.obj", b"f f f", r"^passwd\.obj"),
        ("..\\..\\boot.obj", b"f f f", r"^boot\.obj"),
        ("x" * 500 + ".obj", b"f f f", "^x{56}.obj"),
        ("a\n\x1b[2J.obj", b"f f f", r"^a\[2J\.obj"),
    ],
)
def test_bad_files_are_one_sentence_without_our_paths(name, data, sentence, tmp_path):
    with pytest.raises(MeshganError, match=sentence) as caught:
        read(name, data, "mm", tmp_path)
    assert "/tmp" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_not_even_read(monkeypatch, tmp_path):
    monkeypatch.setattr(exchange, "MOST_BYTES", 10)
    with pytest.raises(UsageError, match="larger than"):
        read("a.obj", b"v 0 0 0\n" * 9, "mm", tmp_path)


@given(st.binary(max_size=300), st.sampled_from([".obj", ".ply", ".glb", ".stl", ".json"]))
@settings(max_examples=60)
def test_any_bytes_are_a_mesh_or_a_sentence(tmp_path_factory, data, ending):
    try:
        read_code("a.json", data) if ending == ".json" else read(
            f"a{ending}", data, "mm", tmp_path_factory.getbasetemp()
        )
    except MeshganError as error:
        assert str(error).endswith((".", "?"))


def test_a_saved_code_brings_the_face_back(pair):
    session = Session(*pair, seed=3)
    session.blend(0.37)
    session.slide("age", 4)
    seed = read_code("face.json", download(session, "json", {}))
    other = Session(*pair, seed=99)
    other.use_seed(seed)
    np.testing.assert_array_equal(other.face, session.face)


def test_a_code_of_the_command_line_is_read_too(pair):
    code = pair[0].model.codes(1, seed=8)[0]
    state = read_seed(read_code("face-000.json", json.dumps({"code": code.tolist(), "mean_mm": 1}).encode()), *pair)
    np.testing.assert_allclose(state.identity.code(pair[0]), code, atol=2e-3)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"code": "x"}', b'{"code": [[1], [2, 3]]}', b"[" * 100000, b"{" + b" " * 2**21 + b"}"]
)
def test_other_json_is_refused(data):
    with pytest.raises(UsageError, match=r"face\.json holds no face"):
        read_code("face.json", data)


def test_a_face_fitted_by_a_model_of_heads_tells_only_the_face(head_model):
    """A mesh of the face template, somewhere: the head is found whose face it is, and the rest has no target."""
    code = np.array([[1.0, -0.5, 0.7]], np.float32)
    (head,) = head_model.decode(code)
    face = face_template().with_vertices(heads().face_of(head) @ TURN.T + [40, -10, 900])
    found = fit(Upload("face.ply", face, "mm"), head_model)
    np.testing.assert_allclose(found.identity, code[0], atol=0.05)
    assert found.expression is None
    kept = len(heads().kept)
    assert np.isfinite(found.target[:kept]).all()
    assert np.isnan(found.target[kept:]).all()
    rig = rig_model(head_model.template)
    found = fit(Upload("face.ply", face, "mm"), head_model, rig.model, rig.still)
    assert found.expression.shape == (52,)
    with pytest.raises(UsageError, match="the unit cm would fit"):
        fit(Upload("face.ply", face.with_vertices(face.vertices / 10), "mm"), head_model)
