"""`meshgan rig`: a head whose own shapes are known, of other triangles, with eyes, teeth and a texture, somewhere."""

import json
import struct
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pygltflib
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from khronos import accessor, issues_of, needs_validator
from meshgan.data.corpora.basis import face_basis
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.heads import heads
from meshgan.data.corpora.motion import contacts
from meshgan.data.corpora.population import draw_people
from meshgan.errors import MeshganError
from meshgan.geometry.align import Similarity
from meshgan.geometry.decimate import decimate
from meshgan.geometry.files import write_mesh
from meshgan.geometry.glb import placed
from meshgan.geometry.mesh import Mesh
from meshgan.model.rig import ARKIT, rigger, targets_of
from meshgan.registration import own_head
from meshgan.registration.landmarks import Landmarks
from meshgan.registration.own_head import KINDS, as_glb, rig_head
from meshgan.registration.register import Registration
from meshgan.registration.templates import default_template

TURN, MOVE = (
    Rotation.from_euler("xyz", [10, 20, 5], degrees=True),
    np.array([0.01, 0.5, -0.2]),
)  # of the node, in metres
WORST = 7  # shapes of the 52 that may be missed by more


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A GLB of a person: skin of 3,000 vertices with seams, doubled, and a picture; eyeballs; teeth; and its rig."""
    folder = tmp_path_factory.mktemp("own")
    template = default_template()
    basis = face_basis()
    drawn = draw_people(basis, Draws(5, "own-head", np.arange(1)))
    face = np.asarray(basis.neutral(drawn.phenotype, drawn.features).vertices[0], dtype=float)
    few = decimate(template.mesh.with_vertices(face), 3000)
    seam = np.flatnonzero(few.mesh.vertices[few.mesh.triangles, 0].mean(axis=1) > 0)  # the left half
    corners = few.mesh.triangles.copy()
    own = np.unique(corners[seam])
    number = np.arange(len(few.mesh.vertices))
    number[own] = len(number) + np.arange(len(own))
    corners[seam] = number[corners[seam]]
    used, corners = np.unique(corners, return_inverse=True)  # others have no normal, which no validator lets through
    corners = corners.reshape(-1, 3)
    kept = np.concatenate([few.kept, few.kept[own]])[used]
    points = np.concatenate([few.mesh.vertices, few.mesh.vertices[own]])[used]
    parts = {"skin": (points, corners)}
    for eye in contacts().eyes:
        ball = eye.balls(face[None])
        sphere = trimesh.creation.icosphere(2, float(ball.radius[0]))
        parts[eye.side] = (sphere.vertices + ball.centre[0], sphere.faces)
    lips = face[contacts().lips.middle]
    for name, lower in (("upper", 4.0), ("lower", -12.0)):
        box = trimesh.creation.box((30.0, 8.0, 6.0))
        parts[name] = (box.vertices + lips.mean(axis=0) + [0, lower, -16.0], box.faces)
    scene = trimesh.Scene()
    for name, (vertices, faces) in parts.items():
        place = np.eye(4)
        place[:3, :3], place[:3, 3] = TURN.as_matrix() * 2.0, MOVE
        mesh = trimesh.Trimesh(vertices / 2000, faces, process=False)  # half as large as its node makes it
        if name == "skin":
            picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
            material = trimesh.visual.material.PBRMaterial(name="my skin", baseColorTexture=picture)
            mesh.visual = trimesh.visual.TextureVisuals(uv=vertices[:, :2] / 300 + 0.5, material=material)
        scene.add_geometry(mesh, node_name=name, geom_name=name, transform=place)
    (folder / "own.glb").write_bytes(scene.export(file_type="glb", include_normals=True))
    marks = TURN.apply(template.landmark_rows @ face / 1000) + MOVE
    names = dict(zip(template.landmark_names, marks.tolist(), strict=True))
    (folder / "own.json").write_text(json.dumps(names))
    rigged = rig_head(folder / "own.glb", landmarks=folder / "own.json")
    (folder / "rigged.glb").write_bytes(rigged.file)
    sizes = [len(vertices) for vertices, _ in parts.values()]
    rows = dict(zip(parts, np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]), strict=True))
    back = {name: TURN.inv().apply(moves) for name, moves in rigged.targets.items()}  # as the person stands
    return SimpleNamespace(folder=folder, face=face, rigged=rigged, rows=rows, kept=kept, targets=back, parts=parts)


def parsed(data: bytes):
    (size,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + size])


def test_the_shapes_are_those_that_the_person_has(made):
    truth = rigger().targets(made.face, "arkit")
    assert tuple(made.targets) == ARKIT
    missed = []
    for name, moves in made.targets.items():
        wanted = truth[name][made.kept]
        error = np.linalg.norm(moves[made.rows["skin"]] - wanted, axis=1).mean()
        if error > 0.2 * np.linalg.norm(wanted, axis=1).mean():
            missed.append(name)
    assert len([name for name in missed if name != "tongueOut"]) <= WORST
    assert "jawOpen" not in missed


def test_doubles_along_seams_stay_together(made):
    _, first, owner = np.unique(made.parts["skin"][0], axis=0, return_index=True, return_inverse=True)
    moves = np.stack(list(made.targets.values()))[:, made.rows["skin"]]
    assert len(first) < len(owner)
    np.testing.assert_array_equal(moves, moves[:, first[owner.ravel()]])


def test_eyes_turn_teeth_go_with_the_jaw_and_others_stay(made):
    assert made.rigged.parts["eyes"] == sum(len(made.rows[side]) for side in ("Left", "Right"))
    assert made.rigged.parts["lower mouth"] == made.rigged.parts["upper mouth"] == 8
    for side in ("Left", "Right"):
        points, rows = made.parts[side][0], made.rows[side]
        front = rows[points[:, 2].argmax()]
        assert made.targets[f"eyeLookUp{side}"][front, 1] > 3.0
        assert made.targets[f"eyeLookDown{side}"][front, 1] < -3.0
        outwards = 1 if side == "Left" else -1  # the person's left is +x
        assert outwards * made.targets[f"eyeLookOut{side}"][front, 0] > 3.0
        assert outwards * made.targets[f"eyeLookIn{side}"][front, 0] < -3.0
        middle = points.mean(axis=0)
        turned = points + made.targets[f"eyeLookUp{side}"][rows]
        np.testing.assert_allclose(
            np.linalg.norm(turned - middle, axis=1), np.linalg.norm(points - middle, axis=1), atol=0.01
        )
        assert not made.targets[f"eyeBlink{side}"][rows].any()
    lower, upper = made.rows["lower"], made.rows["upper"]
    assert made.targets["jawOpen"][lower, 1].mean() < -6.0
    assert not made.targets["jawOpen"][upper].any()
    assert not made.targets["mouthSmileLeft"][lower].any()
    teeth = made.parts["lower"][0]
    moved = teeth + made.targets["jawOpen"][lower]
    np.testing.assert_allclose(trimesh.transformations.superimposition_matrix(teeth.T, moved.T)[3], [0, 0, 0, 1])
    apart = [np.linalg.norm(some[:, None] - some, axis=2) for some in (teeth, moved)]
    np.testing.assert_allclose(*apart, atol=1e-6)  # rigid


def test_normals_turn_with_the_surface(made):
    """In the file's own frame, where they are the person's, turned as the node is."""
    file = pygltflib.GLTF2.load(made.folder / "rigged.glb")
    (mesh,) = [mesh for mesh in file.meshes if mesh.name == "skin"]
    points, corners = made.parts["skin"]
    welded, owner = np.unique(points, axis=0, return_inverse=True)
    target = mesh.primitives[0].targets[ARKIT.index("jawOpen")]
    moved = np.zeros_like(welded)
    moved[owner.ravel()] = made.targets["jawOpen"][made.rows["skin"]]
    before, after = (
        Mesh(some, owner.ravel()[corners]).vertex_normals[owner.ravel()] for some in (welded, welded + moved)
    )
    turned = accessor(file, target["NORMAL"])
    far = np.linalg.norm(made.targets["jawOpen"][made.rows["skin"]], axis=1) > 0.1
    np.testing.assert_allclose(turned[far], (after - before)[far], atol=2e-3)


def test_the_file_is_as_it_was_but_for_its_shapes(made):
    before, after = (parsed((made.folder / name).read_bytes()) for name in ("own.glb", "rigged.glb"))
    for key in ("nodes", "materials", "textures", "images", "scenes", "asset"):
        assert before[key] == after[key]
    for one, two in zip(before["meshes"], after["meshes"], strict=True):
        assert [p["attributes"] for p in one["primitives"]] == [p["attributes"] for p in two["primitives"]]
        if "targets" in two["primitives"][0]:
            assert two["extras"]["targetNames"] == list(ARKIT)
    scene = trimesh.load_scene(made.folder / "rigged.glb", process=False)
    assert scene.geometry["skin"].visual.material.name == "my skin"


@needs_validator
def test_the_file_is_valid(made):
    issues = issues_of(made.folder / "rigged.glb")
    assert issues["numErrors"] == 0, issues["messages"][:3]


def test_the_verb_says_what_it_took_for_what(made, meshgan, monkeypatch, tmp_path):
    monkeypatch.setattr(own_head, "rig_head", lambda *_: made.rigged)
    status, said, _ = meshgan("rig", made.folder / "own.glb", "--out", tmp_path / "rigged.glb")
    assert status == 0
    assert said.startswith(f"Wrote 52 shapes to {tmp_path / 'rigged.glb'}. Vertices of skin ")
    assert (tmp_path / "rigged.glb").read_bytes() == made.rigged.file
    assert meshgan("rig", made.folder / "own.glb", "--out", tmp_path / "rigged.obj")[0] == 2


@pytest.mark.parametrize("animation", [{}, 3, {"channels": 3}, {"channels": [{}]}])
def test_animations_that_are_none_are_a_sentence(made, tmp_path, monkeypatch, animation):
    data = (made.folder / "own.glb").read_bytes()
    (size,) = struct.unpack_from("<I", data, 12)
    text = json.dumps(parsed(data) | {"animations": [animation]}).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, len(data) - size + len(text)) + struct.pack("<I4s", len(text), b"JSON")
    (tmp_path / "a.glb").write_bytes(head + text + data[20 + size :])
    monkeypatch.setattr(own_head, "register", lambda *_, **__: None)
    monkeypatch.setattr(own_head, "missing_part", lambda *_: "")
    sizes = [len(made.rows[name]) for name in made.rows]
    moves = {"jawOpen": np.ones((sum(sizes), 3))}
    monkeypatch.setattr(own_head, "carried", lambda *_: (moves, moves | {"": moves["jawOpen"]}, {}))
    with pytest.raises(MeshganError, match=r"a\.glb: its description is damaged"):
        rig_head(tmp_path / "a.glb")


def test_an_stl_that_only_our_reader_takes_is_rigged_too(tmp_path):
    ball = trimesh.creation.icosphere(1, 80.0)
    content = trimesh.exchange.stl.export_stl(ball)
    for name, more in (("plain", b""), ("longer", b"\n")):
        (tmp_path / f"{name}.stl").write_bytes(content + more)
        (surface,) = placed(as_glb(tmp_path / f"{name}.stl", 10.0))
        assert np.linalg.norm(surface.vertices, axis=1) == pytest.approx(800.0, rel=1e-5)
        assert len(surface.triangles) == len(ball.faces)


def test_a_head_without_a_mouth_is_told():
    template = default_template()
    mesh = template.mesh
    there = np.ones(len(mesh.vertices), dtype=bool)
    mouth = (template.landmark_rows[48:60] @ mesh.vertices).mean(axis=0)
    whole = Registration(
        mesh.vertices, mesh.vertices, there, mesh, Landmarks(np.arange(0), np.zeros((0, 3))), Similarity.none()
    )
    assert own_head.missing_part(whole, template) == ""
    away = np.linalg.norm(mesh.vertices - mouth, axis=1)
    told = own_head.missing_part(replace(whole, believed=away > 22.0), template)
    assert told.startswith("there is no skin in a patch of ")
    assert told.endswith("mm² at the mouth; shapes there are what a face would do.")


def test_vertices_without_a_surface_stay_out_of_the_file(tmp_path):
    """They have no normal, which glTF wants of every vertex."""
    ball = trimesh.creation.icosphere(2, radius=90)
    for ending in ("ply", "obj", "stl"):
        write_mesh(tmp_path / f"ball.{ending}", Mesh(np.vstack([ball.vertices, [[0, 300, 0]]]), ball.faces))
        (surface,) = placed(as_glb(tmp_path / f"ball.{ending}", 1.0))
        assert np.linalg.norm(surface.vertices, axis=1).max() < 91


def test_what_is_no_head_is_a_sentence(tmp_path, made):
    box = trimesh.creation.icosphere(3, 0.1)
    (tmp_path / "ball.glb").write_bytes(trimesh.Scene(box).export(file_type="glb"))
    with pytest.raises(MeshganError, match=r"ball\.glb: "):
        rig_head(tmp_path / "ball.glb", landmarks=made.folder / "own.json")


SOME = ("jawOpen", "mouthSmileLeft", "eyeLookUpLeft", "eyeLookOutRight", "eyeBlinkLeft")


@pytest.fixture(scope="module")
def whole(head_model):
    """A whole head of other triangles, half as many, whose shapes are known; and what parts of it are taken for, and
    do, if only some are there."""
    head, template = head_model.sample(1, seed=4)[0].astype(float), heads().template
    parts = {}
    for name, part in heads().parts.items():
        own = ((template.triangles >= part.start) & (template.triangles < part.stop)).all(axis=1)
        few = decimate(Mesh(head[part], template.triangles[own] - part.start), (part.stop - part.start) // 2)
        parts[name] = part.start + few.kept, few.mesh.triangles

    def moved(names, rest):
        kept = np.concatenate([parts[name][0] for name in names])
        starts = np.cumsum([0, *(len(parts[name][0]) for name in names)])
        triangles = np.concatenate([parts[name][1] + start for name, start in zip(names, starts, strict=False)])
        face = heads().face_of(rest)
        shapes = targets_of(face, "arkit")
        found = own_head._moved(Mesh(rest[kept], triangles), face, {name: shapes[name] for name in SOME})
        rows = {name: slice(*ends) for name, *ends in zip(names, starts[:-1], starts[1:], strict=True)}
        kinds = {name: {KINDS[kind] for kind in np.unique(found.kinds[row])} for name, row in rows.items()}
        shifts = dict(zip(SOME, np.split(found.displacements, len(SOME), axis=1), strict=True))
        return kinds, rows, kept, shifts

    return SimpleNamespace(head=head, truth=targets_of(head, "arkit"), moved=moved)


def test_a_whole_head_moves_part_by_part(whole):
    kinds, rows, kept, shifts = whole.moved(list(heads().parts), whole.head)
    assert kinds == {
        "skin": {"skin"}, "eyeLeft": {"eyes"}, "eyeRight": {"eyes"}, "teethUpper": {"upper mouth"},
        "teethLower": {"lower mouth"}, "tongue": {"lower mouth"},
    }  # fmt: skip

    def off(name, where):
        wanted = whole.truth[name][kept[where]]
        wrong = np.linalg.norm(shifts[name][where] - wanted, axis=1).mean()
        return wrong / np.linalg.norm(wanted, axis=1).mean()

    face = np.flatnonzero(kept[rows["skin"]] < len(heads().kept))
    for name in ("jawOpen", "mouthSmileLeft", "eyeLookUpLeft", "eyeBlinkLeft"):
        assert off(name, face) < 0.2, name
    assert off("jawOpen", rows["teethLower"]) < 0.2
    assert off("jawOpen", rows["tongue"]) < 0.25
    lining = np.flatnonzero(np.isin(kept, heads().beyond.mouth))
    assert off("jawOpen", lining) < 0.5
    for name, part in (("eyeLookUpLeft", "eyeLeft"), ("eyeLookOutRight", "eyeRight")):
        assert off(name, rows[part]) < 0.2
    assert not shifts["jawOpen"][rows["teethUpper"]].any()
    assert not shifts["eyeBlinkLeft"][rows["eyeLeft"]].any()


def test_a_head_without_teeth_or_eyes_moves_what_it_has(whole):
    for names in (["skin", "eyeLeft", "eyeRight"], ["skin", "teethUpper", "teethLower"]):
        kinds, rows, kept, shifts = whole.moved(names, whole.head)
        assert kinds["skin"] == {"skin"}
        assert all("beside the skin" not in kind for kind in kinds.values())
        wrong = np.linalg.norm(shifts["jawOpen"][rows["skin"]] - whole.truth["jawOpen"][kept[rows["skin"]]], axis=1)
        assert np.median(wrong) < 0.5


def test_eyes_that_are_closed_stay_closed(whole):
    shut = whole.head + whole.truth["eyeBlinkLeft"] + whole.truth["eyeBlinkRight"]
    kinds, rows, _, shifts = whole.moved(list(heads().parts), shut)
    assert kinds["eyeLeft"] == {"eyes"}
    lids = shifts["eyeBlinkLeft"][rows["skin"]]
    assert np.isfinite(lids).all()
    assert np.linalg.norm(lids, axis=1).max() < 4.0  # those of open eyes go twice as far
