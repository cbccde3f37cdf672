"""The 52 shapes: Apple's names, what each does on a face of its own size and jaw, and how linear targets add up."""

import json
from pathlib import Path

import numpy as np
import pygltflib
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from khronos import accessor, issues_of, needs_validator
from meshgan.cli.main import app
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.heads import heads, sphere
from meshgan.data.corpora.population import draw_people
from meshgan.errors import UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.files import read_mesh, write_glb
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points
from meshgan.model.rig import ARKIT, EXPRESSION_WEIGHTS, VISEMES, Rig, kind_of_rig, rig, rigger, spelled_out

# fmt: off
APPLE = [
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
]
# fmt: on
OCULUS = ["sil", "PP", "FF", "TH", "DD", "kk", "CH", "SS", "nn", "RR", "aa", "E", "I", "O", "U"]


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, np.ndarray]:
    """Three neutral faces of the corpus, and the joints of their jaws."""
    basis = FaceBasis.read()
    drawn = draw_people(basis, Draws(5, "rig-test", np.arange(3)))
    neutral = basis.neutral(drawn.phenotype, drawn.features)
    return neutral.vertices, neutral.joints


@pytest.fixture(scope="module")
def rigged(people) -> Rig:
    return rig(people[0][0])


def chin_of(vertices: np.ndarray) -> int:
    """The foremost vertex that goes all the way with the jaw, and not with the lips."""
    far = rigger().motion.basis.jaw_weights > 0.98
    far[rigger().gathering.free] = far[rigger().gathering.held] = False
    return int(np.flatnonzero(far)[vertices[far, 2].argmax()])


def test_the_names_are_apples_and_the_six_expressions(rigged: Rig) -> None:
    assert sorted(ARKIT) == sorted(APPLE)
    names = [f"expression{name}" for name in ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")]
    assert list(rigged.targets) == [*ARKIT, *names]
    assert list(rig(rigged.mesh, "arkit").targets) == list(ARKIT)
    assert list(rig(rigged.mesh, "expressions").targets) == names
    assert rig(rigged.mesh, "none").targets == {}


def test_each_shape_moves_what_its_name_says_on_the_side_it_says(rigged: Rig) -> None:
    """The left is the person's own left, at positive x."""
    still = {"tongueOut"}  # a face has none
    for name, shift in list(rigged.targets.items())[: len(ARKIT)]:
        reach = np.linalg.norm(shift, axis=1)
        assert (reach.max() > 0.3) == (name not in still), name
        side = rigged.mesh.vertices[reach.argmax(), 0]
        if name.startswith(("jaw", "mouthLeft", "mouthRight")) and name.endswith(("Left", "Right")):
            side = shift[:, 0].sum()
        if name.endswith(("Left", "Right")):
            assert (side > 0) == name.endswith("Left"), name
    chin = chin_of(rigged.mesh.vertices)
    assert rigged.targets["jawOpen"][chin, 1] < -10
    assert rigged.targets["jawForward"][chin, 2] > 3
    assert rigged.targets["browInnerUp"][:, 1].max() > 2


def test_a_target_is_the_motion_at_strength_one(rigged: Rig) -> None:
    weights = np.zeros((1, len(ARKIT)))
    weights[0, ARKIT.index("mouthSmileLeft")] = 1
    truth = rigger().performed(rigged.mesh.vertices, weights)[0]
    np.testing.assert_allclose(rigged.posed({"mouthSmileLeft": 1}), truth, atol=1e-4)
    truth = rigger().performed(rigged.mesh.vertices, EXPRESSION_WEIGHTS[3:4])[0]
    np.testing.assert_allclose(rigged.posed({"expressionHappiness": 1}), truth, atol=1e-4)


def test_lips_that_jaw_open_parts_are_closed_by_mouth_close(people) -> None:
    """To 0.5 mm of how they lie at rest, at every strength; and the jaw stays down."""
    lips = rigger().motion.lips
    upper = np.unique(lips.surfaces[0])
    for face in people[0]:
        made = rig(face, "arkit")

        def gaps(vertices: np.ndarray) -> np.ndarray:
            return closest_points(vertices[upper], Mesh(vertices, lips.surfaces[1])).distance

        rest = gaps(made.mesh.vertices)
        meeting = rest < rest.min() + 1.0
        open_ = gaps(made.posed({"jawOpen": 1.0}))[meeting]
        assert np.median(open_) > 10
        for strength in (0.3, 0.6, 1.0):
            shut = made.posed({"jawOpen": strength, "mouthClose": strength})
            assert np.abs(gaps(shut)[meeting] - rest[meeting]).max() < 0.5
            chin = chin_of(made.mesh.vertices)
            np.testing.assert_allclose(shut[chin], made.posed({"jawOpen": strength})[chin], atol=0.5)


def test_the_joint_of_the_jaw_is_found_from_the_vertices(people) -> None:
    for face, joint in zip(*people, strict=True):
        assert np.linalg.norm(rigger().joint(face.astype(np.float64)) - joint) < 6.0
    template = face_template().vertices
    np.testing.assert_allclose(rigger().joint(template), rigger().at_rest)
    assert np.linalg.norm(np.diff(people[1], axis=0), axis=1).min() > 1  # people's joints do differ


def test_a_rig_goes_with_its_face(people, rigged: Rig) -> None:
    """A face that is elsewhere and turned has the same targets, turned; a larger face moves further."""
    turn = Rotation.from_rotvec([0.4, -1.2, 2.0]).as_matrix()
    face = people[0][0].astype(np.float64)
    there = rig(face @ turn.T + [300.0, -20.0, 55.0], "expressions")
    for name, shift in there.targets.items():
        np.testing.assert_allclose(shift, rigged.targets[name] @ turn.T, atol=0.02)
    large = rig(1.2 * face, "expressions").targets["expressionHappiness"]
    ratio = np.linalg.norm(large) / np.linalg.norm(rigged.targets["expressionHappiness"])
    assert 1.1 < ratio < 1.3


def test_lids_close_over_the_eyes(rigged: Rig) -> None:
    """A blink at 1 leaves no eyeball uncovered, and nothing that is not about the eye moves."""
    eye = rigger().motion.eyes[0]
    shift = rigged.targets["eyeBlinkLeft"]
    assert not shift[eye.ball].any()
    opening = []
    for vertices in (rigged.mesh.vertices[None], rigged.posed({"eyeBlinkLeft": 1})[None]):
        angle = eye.balls(rigged.mesh.vertices[None]).polar(vertices[:, eye.margin])[2]
        opening.append((angle @ (eye.upper - eye.lower).T).max())  # radians between the lids
    assert opening[1] < 0.25 * opening[0]
    assert np.abs(shift[rigged.mesh.vertices[:, 0] < 0]).max() < 0.01


def test_visemes_are_combinations_of_the_shapes(rigged: Rig) -> None:
    assert [name.removeprefix("viseme_") for name in VISEMES] == OCULUS
    for weights in VISEMES.values():
        assert set(weights) <= set(ARKIT)
        assert all(0 < weight <= 1 for weight in weights.values())
    both = {"viseme_aa": 0.5, "jawOpen": 0.1}
    assert spelled_out(both)["jawOpen"] == pytest.approx(0.1 + 0.5 * VISEMES["viseme_aa"]["jawOpen"])
    np.testing.assert_allclose(rigged.posed(both), rigged.posed(spelled_out(both)))
    np.testing.assert_array_equal(rigged.posed({"viseme_sil": 1.0}), rigged.mesh.vertices)
    with pytest.raises(UsageError, match="jawAjar"):
        rigged.posed({"jawAjar": 1.0})


def test_what_is_no_face_of_the_template_is_refused_in_a_sentence() -> None:
    template = face_template()
    with pytest.raises(UsageError, match="register"):
        rig(np.zeros((12, 3)))
    with pytest.raises(UsageError, match="register"):
        rig(Mesh(template.vertices, template.triangles[:, [0, 2, 1]]))
    with pytest.raises(UsageError, match="numbers"):
        rig(np.full(template.vertices.shape, np.nan))
    for other_size in (0.0, 0.001, 1e30):
        with pytest.raises(UsageError, match="in another unit"):
            rig(other_size * template.vertices)
    with pytest.raises(UsageError, match="arkit"):
        kind_of_rig("arkti", template)
    other = Mesh(np.eye(3), [[0, 1, 2]])
    assert (kind_of_rig(None, other), kind_of_rig("none", other), kind_of_rig(None, template)) == (
        "none",
        "none",
        "both",
    )
    with pytest.raises(UsageError, match="leave out `rig`"):
        kind_of_rig("arkit", other)


def test_the_file_is_small_and_says_the_same(rigged: Rig, tmp_path: Path) -> None:
    rigged.save(tmp_path / "face.glb", {"viseme_aa": 1.0})
    assert (tmp_path / "face.glb").stat().st_size < 2_500_000
    gltf = pygltflib.GLTF2().load(str(tmp_path / "face.glb"))
    (mesh,) = gltf.meshes
    assert mesh.extras["targetNames"] == list(rigged.targets)
    (primitive,) = mesh.primitives
    shown = accessor(gltf, primitive.attributes.POSITION).astype(np.float64)
    for weight, target in zip(mesh.weights, primitive.targets, strict=True):
        shown += weight * accessor(gltf, target["POSITION"])
    posed = rigged.posed({"viseme_aa": 1.0})
    seams = posed[rigged.layout.doubled]  # the vertices on them stand twice in the file
    np.testing.assert_allclose(shown * 1000, np.concatenate([posed, seams]), atol=0.05)


@pytest.mark.slow
@needs_validator
def test_the_khronos_validator_finds_nothing(rigged: Rig, tmp_path: Path) -> None:
    write_glb(tmp_path / "face.glb", rigged.mesh, rigged.targets)
    issues = issues_of(tmp_path / "face.glb")
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


@pytest.mark.slow
def test_sample_and_compose_write_rigs(tmp_path: Path) -> None:
    run = CliRunner().invoke
    for kind, first, count in (("arkit", ARKIT[0], 52), ("expressions", "expressionAnger", 6), ("none", "", 0)):
        out = tmp_path / kind
        assert run(app, ["sample", "identity", "--out", str(out), "--count", "1", "--rig", kind]).exit_code == 0
        names = (pygltflib.GLTF2().load(str(out / "face-000.glb")).meshes[0].extras or {}).get("targetNames", [])
        assert len(names) == count
        assert names[:1] == [first] * (count > 0)
    told = json.loads(
        run(app, ["compose", "identity", "expression", "--out", str(tmp_path / "c"), "--count", "1", "--json"]).stdout
    )
    assert told["targets"][:2] == ["expressionRandom", ARKIT[0]]
    assert len(told["targets"]) == 1 + 52 + 6


@pytest.fixture(scope="module")
def head() -> Rig:
    return rig(heads().people(5, np.arange(1))[0][0], "arkit")


def part_of(name: str) -> slice:
    return heads().parts[name]


def test_the_face_of_a_head_moves_as_the_same_face_does(head: Rig) -> None:
    face = rig(heads().face_of(head.mesh.vertices), "arkit")
    kept = heads().kept
    for name in set(ARKIT) - {"tongueOut", "eyeBlinkLeft", "eyeBlinkRight"}:  # lids close further over an eye
        np.testing.assert_allclose(head.targets[name][: len(kept)], face.targets[name][kept], atol=2e-3)


def test_eyes_turn_about_their_middles_to_where_they_look(head: Rig) -> None:
    for side, sign in (("Left", 1), ("Right", -1)):
        part = part_of(f"eye{side}")
        rest = head.mesh.vertices[part]
        middle, radius = sphere(rest)
        pupil = 0  # the first vertex
        for what, (x, y) in {"Out": (sign, 0), "In": (-sign, 0), "Up": (0, 1), "Down": (0, -1)}.items():
            moved = rest + head.targets[f"eyeLook{what}{side}"][part]
            np.testing.assert_allclose(np.linalg.norm(moved - middle, axis=1), radius, atol=0.01)
            way = (moved - rest)[pupil, :2]
            assert way @ [x, y] > 0.9 * np.linalg.norm(way)
            assert np.linalg.norm(way) > 4
        other = part_of("eyeRight" if side == "Left" else "eyeLeft")
        assert not head.targets[f"eyeLookUp{side}"][other].any()


def test_the_jaw_takes_the_lower_teeth_along_and_the_tongue_comes_out(head: Rig) -> None:
    upper, lower, tongue = (part_of(name) for name in ("teethUpper", "teethLower", "tongue"))
    for name, shift in head.targets.items():
        assert not shift[upper].any(), name
        together = slice(lower.start, lower.stop if name == "tongueOut" else tongue.stop)
        rest, moved = head.mesh.vertices[together], head.mesh.vertices[together] + shift[together]
        back = rigid(moved, rest)(moved)
        np.testing.assert_allclose(back, rest, atol=0.01, err_msg=name)  # nothing is bent
    assert head.targets["jawOpen"][lower][:, 1].mean() < -8
    assert not head.targets["mouthSmileLeft"][lower].any()
    tip = tongue.start + head.mesh.vertices[tongue, 2].argmax()
    lips = head.mesh.vertices[: len(heads().kept)][:, 2]
    assert head.targets["tongueOut"][tip, 2] > 15
    assert (head.mesh.vertices + head.targets["tongueOut"])[tongue, 2].max() > np.quantile(lips, 0.9)


def test_a_head_is_a_file_of_named_parts_that_reads_back(head: Rig, tmp_path: Path) -> None:
    head.save(tmp_path / "head.glb", {"jawOpen": 0.0})
    gltf = pygltflib.GLTF2().load(str(tmp_path / "head.glb"))
    names = [part.name for part in head.layout.parts]
    assert [node.name for node in gltf.nodes] == [*(f"head-{name}" for name in names), "head"]
    assert len({material.name for material in gltf.materials}) == len(names)
    owned = {
        node.name.removeprefix("head-"): (gltf.meshes[node.mesh].extras or {}).get("targetNames", [])
        for node in gltf.nodes[:-1]
    }
    assert owned["eyeLeft"] == [f"eyeLook{way}Left" for way in ("Down", "In", "Out", "Up")]
    assert owned["teethUpper"] == []
    assert set(owned["teethLower"]) >= {"jawOpen", "jawForward", "jawLeft", "jawRight"}
    assert "tongueOut" in owned["tongue"]
    assert len(gltf.images) == 1
    read = read_mesh(tmp_path / "head.glb")
    np.testing.assert_array_equal(read.triangles, head.mesh.triangles)
    np.testing.assert_allclose(read.vertices, head.mesh.vertices, atol=2e-4)
    assert (tmp_path / "head.glb").stat().st_size < 5_000_000
    if not needs_validator.args[0]:
        found = issues_of(tmp_path / "head.glb")
        assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"][:3]
