"""Recorded weights on a face: what is read, what is refused, and the animation that comes out."""

import json
from pathlib import Path

import numpy as np
import pygltflib
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from khronos import accessor, issues_of, needs_validator
from meshgan.cli.main import app
from meshgan.data.corpora.basis import face_template, layout_of
from meshgan.errors import MeshganError, MeshganWarning, UsageError
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.model.drive import Performance, pivot, read_performance, write_driven, write_preview
from meshgan.model.rig import ARKIT, VISEMES, Rig, rig, rigger
from meshgan.registration import landmarks
from meshgan.registration.landmarks import read_video

EYES = [f"{side}Eye{way}" for side in ("Left", "Right") for way in ("Yaw", "Pitch", "Roll")]
HEADER = [
    "Timecode",
    "BlendShapeCount",
    *(name[0].upper() + name[1:] for name in ARKIT),
    "HeadYaw",
    "HeadPitch",
    "HeadRoll",
]
HEADER += EYES


@pytest.fixture(scope="module")
def made() -> Rig:
    return rig(face_template(), "arkit")


@pytest.fixture
def played() -> Performance:
    """Half a second in which the mouth opens and the head turns."""
    times, weights, head = np.arange(31) / 60, np.zeros((31, 52)), np.zeros((31, 3))
    weights[:, ARKIT.index("jawOpen")] = np.linspace(0, 0.8, 31)
    weights[:, ARKIT.index("mouthSmileLeft")] = 0.3
    head[:, 0] = np.linspace(0, 0.4, 31)
    return Performance(times, weights, head)


def live_link(played: Performance) -> str:
    lines = [",".join(HEADER)]
    for row, (weights, head) in enumerate(zip(played.weights, played.head, strict=True)):
        numbers = [*weights, *head, *np.zeros(len(EYES))]
        lines.append(f"10:25:{59 + row // 60:02d}:{row % 60:02d}.000,61," + ",".join(f"{x:.6f}" for x in numbers))
    return "\n".join(lines) + "\n"


def test_a_live_link_face_table_is_read(tmp_path: Path, played: Performance) -> None:
    (tmp_path / "take.csv").write_text(live_link(played))
    found = read_performance(tmp_path / "take.csv")
    np.testing.assert_allclose(found.weights, played.weights, atol=1e-6)
    np.testing.assert_allclose(found.head, played.head, atol=1e-6)
    np.testing.assert_allclose(found.times, played.times, atol=1e-6)
    slower = read_performance(tmp_path / "take.csv", 30).times
    np.testing.assert_allclose(slower, 2 * played.times, atol=1e-6)


def test_a_time_code_tells_its_rate(tmp_path: Path) -> None:
    lines = [f"0:0:{frame // 24}:{frame % 24},{frame / 100}" for frame in range(72)]
    (tmp_path / "film.csv").write_text("Timecode,JawOpen\n" + "\n".join(lines))
    np.testing.assert_allclose(read_performance(tmp_path / "film.csv").times, np.arange(72) / 24, atol=1e-9)


def test_other_tables_and_json_say_the_same(tmp_path: Path, played: Performance) -> None:
    frames = [dict(zip(ARKIT, row.tolist(), strict=True)) | {"headYaw": turn} for row, turn in
              zip(played.weights, played.head[:, 0].tolist(), strict=True)]  # fmt: skip
    timed = [{"time": t, "blendshapes": frame} for t, frame in zip((5 + played.times).tolist(), frames, strict=True)]
    both = np.c_[played.weights, played.head[:, 0]]
    matrix = {"exportFps": 60, "facsNames": [*ARKIT, "headYaw"], "weightMat": both.tolist()}
    opened = played.weights[:, ARKIT.index("jawOpen")]
    table = "time;jaw_open;MOUTHSMILELEFT;headYaw\n" + "".join(
        f"{t:.6f};{w:.6f};0,3;{h:.6f}\n" for t, w, h in zip(played.times, opened, played.head[:, 0], strict=True)
    )
    for name, content in {
        "a.json": json.dumps(frames), "b.json": json.dumps(timed), "c.json": json.dumps(matrix),
        "d.json": json.dumps({"fps": 60, "frames": frames}), "e.csv": table,
    }.items():  # fmt: skip
        (tmp_path / name).write_text(content)
        found = read_performance(tmp_path / name, None if name != "a.json" else 60)
        np.testing.assert_allclose(found.weights, played.weights, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found.head, played.head, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found.times, played.times, atol=1e-5, err_msg=name)
    (tmp_path / "v.csv").write_text("viseme_aa,jawOpen\n0.5,0.1\n")
    weights = read_performance(tmp_path / "v.csv").weights[0]
    assert weights[ARKIT.index("jawOpen")] == pytest.approx(0.1 + 0.5 * VISEMES["viseme_aa"]["jawOpen"])


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.csv", "jawOpne\n1\n", UsageError, "jawOpne.*did you mean jawOpen\\?$"),
        ("a.csv", "jawOpen,Wrong\n1,1\n", UsageError, "'Wrong' is no shape of ARKit.*or leave it out\\.$"),
        ("a.csv", "time\n1\n", UsageError, "no column with the name of a shape"),
        ("a.csv", "", MeshganError, "a.csv"),
        ("a.csv", "jawOpen,mouthClose\n0.5,\n", MeshganError, "frame 1 has no number for mouthClose"),
        ("a.csv", "jawOpen\n0.5\nwide\n", MeshganError, "frame 2 has 'wide' for jawOpen"),
        ("a.csv", "jawOpen\nnan\n", MeshganError, "frame 1 has nan"),
        ("a.csv", "jawOpen\n900\n", MeshganError, "between 0 and 1"),
        ("a.csv", "time,jawOpen\n0,0\n0,1\n", MeshganError, "time of frame 2"),
        ("a.csv", "Timecode,JawOpen\n12,0\n", MeshganError, "time code '12'"),
        ("a.json", "3", UsageError, "no list of frames"),
        ("a.json", "[1]", UsageError, "no list of frames"),
        ("a.json", "[]", MeshganError, "no frame"),
        ("a.json", "{", MeshganError, "a.json"),
        ("a.json", '[{"jawOpen": {}}]', MeshganError, "frame 1"),
        ("a.json", '[{"jawOpen": 1, "time": 0}, {"jawOpen": 1}]', MeshganError, "1 of 2 frames"),
        ("a.json", '{"names": ["jawOpen"], "weights": [[1, 2]]}', MeshganError, "frame 1 needs"),
        ("a.json", '{"fps": "fast", "frames": []}', MeshganError, "rate"),
        ("a.mov", "", UsageError, "csv and .json"),
    ],
)
def test_what_is_no_performance_is_told_in_a_sentence(
    tmp_path: Path, name: str, content: str, error, words: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=words):
        read_performance(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "BlendShapeCount,JawOpen\n52,0\n0,\n52,1\n52,1\n"),
        ("a.json", '{"fps": 60, "frames": [{"jawOpen": 0}, {}, {"jawOpen": 1}, {"jawOpen": 1}]}'),
        (
            "b.json",
            '[{"time": 5, "jawOpen": 0}, {"time": 5.0167}, {"time": 5.0333333, "jawOpen": 1}, '
            '{"time": 5.05, "jawOpen": 1}]',
        ),
    ],
)
def test_a_gap_takes_the_time_that_it_took(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.warns(MeshganWarning, match="bridged 1 frame without"):
        found = read_performance(tmp_path / name)
    np.testing.assert_allclose(found.times, [0, 2 / 60, 3 / 60], atol=1e-6)
    np.testing.assert_array_equal(found.weights[:, ARKIT.index("jawOpen")], [0, 1, 1])


def test_frames_without_a_face_are_bridged(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Timecode,BlendShapeCount,JawOpen\n0:0:0:0,52,0\n0:0:0:1,0,\n0:0:0:2,52,1\n")
    with pytest.warns(MeshganWarning, match="bridged 1 frame without"):
        found = read_performance(tmp_path / "a.csv")
    assert found.at(np.array([found.times[1] / 2])).weights.max() == pytest.approx(0.5)


def test_the_animation_holds_the_weights_and_the_turns(tmp_path: Path, made: Rig, played: Performance) -> None:
    path = tmp_path / "driven.glb"
    write_driven(path, made, played)
    gltf = pygltflib.GLTF2().load(str(path))
    (animation,) = gltf.animations
    found = {}
    for channel in animation.channels:
        sampler = animation.samplers[channel.sampler]
        np.testing.assert_allclose(accessor(gltf, sampler.input)[:, 0], played.times, atol=1e-6)
        found[channel.target.path] = (gltf.nodes[channel.target.node], accessor(gltf, sampler.output))
    names = gltf.meshes[0].extras["targetNames"]
    node, values = found["weights"]
    assert node.mesh == 0
    np.testing.assert_allclose(values.reshape(31, -1)[:, names.index("jawOpen")], np.linspace(0, 0.8, 31), atol=1e-6)
    node, values = found["rotation"]
    np.testing.assert_allclose(np.array(node.translation) * 1000, pivot(made), atol=1e-3)
    np.testing.assert_allclose(Rotation.from_quat(values[-1]).as_rotvec(), [0, 0.4, 0], atol=1e-5)
    np.testing.assert_allclose(read_mesh(path).vertices, made.mesh.vertices, atol=1e-4)  # at rest, where it was


def test_a_still_head_has_no_turns(tmp_path: Path, made: Rig, played: Performance) -> None:
    write_driven(tmp_path / "a.glb", made, Performance(played.times, played.weights, 0 * played.head))
    (animation,) = pygltflib.GLTF2().load(str(tmp_path / "a.glb")).animations
    assert [channel.target.path for channel in animation.channels] == ["weights"]


def test_the_preview_moves(tmp_path: Path, made: Rig, played: Performance) -> None:
    write_preview(tmp_path / "a.gif", made, played)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 11  # half a second at 20 a second, and the last
        first = np.asarray(picture.convert("L")).astype(float)
        picture.seek(10)
        assert np.abs(np.asarray(picture.convert("L")) - first).mean() > 1


def test_the_verb_drives_a_face_of_ones_own(tmp_path: Path, played: Performance) -> None:
    write_mesh(tmp_path / "me.ply", face_template())
    (tmp_path / "take.csv").write_text(live_link(played))
    arguments = [
        "drive",
        str(tmp_path / "me.ply"),
        "--from",
        str(tmp_path / "take.csv"),
        "--out",
        str(tmp_path / "a.glb"),
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 31
    (tmp_path / "bad.csv").write_text("jawOpen\nwide\n")
    arguments[3], arguments[5] = str(tmp_path / "bad.csv"), str(tmp_path / "b.glb")
    assert isinstance(CliRunner().invoke(app, arguments).exception, MeshganError)
    assert not (tmp_path / "b.glb").exists()


@pytest.mark.parametrize("time", ["9" * 400 + ":0:0:0", f"{10**12}:0:0:0"])
def test_a_time_that_no_clock_shows_is_told(time: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"Timecode,JawOpen\n0:0:0:0,0\n{time},1\n")
    with pytest.raises(MeshganError, match=r"a\.csv has times beyond"):
        read_performance(tmp_path / "a.csv")


needs_detector = pytest.mark.skipif(not landmarks.available(), reason="needs the extra landmarks")


@needs_detector
@pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x18ftypmp42" + bytes(500)])
def test_what_is_no_video_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MeshganError, match=r"a\.mp4 is no video"):
        read_video(tmp_path / "a.mp4")


def test_a_video_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmarks, "available", lambda: False)
    arguments = ["drive", "identity", "--from", str(tmp_path / "a.MOV"), "--out", str(tmp_path / "a.glb")]
    assert "extra `landmarks`" in str(CliRunner().invoke(app, arguments).exception)


@pytest.mark.slow
@needs_detector
def test_a_film_is_read_as_it_was_played(tmp_path: Path, made: Rig) -> None:
    times = np.arange(41) / 20
    weights, head = np.zeros((41, 52)), np.zeros((41, 3))
    weights[:, ARKIT.index("jawOpen")] = np.sin(3 * times) ** 2
    weights[:, ARKIT.index("eyeBlinkLeft")] = np.sin(2 * times) ** 2
    head[:, 0], head[:, 1] = 0.3 * np.sin(2.5 * times), 0.2 * np.sin(4 * times)
    write_preview(tmp_path / "film.mp4", made, Performance(times, weights, head))
    seen = read_video(tmp_path / "film.mp4")
    np.testing.assert_allclose(seen.times, times, atol=1e-6)
    opened, left, right = (ARKIT.index(name) for name in ("jawOpen", "eyeBlinkLeft", "eyeBlinkRight"))
    assert np.corrcoef(seen.weights[:, opened], weights[:, opened])[0, 1] > 0.9
    assert np.ptp(seen.weights[:, left]) > 1.3 * np.ptp(seen.weights[:, right])  # the person's own left
    for axis in (0, 1):
        assert np.corrcoef(seen.head[:, axis], head[:, axis])[0, 1] > 0.8


@pytest.mark.slow
@needs_detector
def test_a_film_without_a_face_is_told(tmp_path: Path) -> None:
    import cv2

    film = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (320, 240))
    for _ in range(3):
        film.write(np.full((240, 320, 3), 128, np.uint8))
    film.release()
    with pytest.raises(MeshganError, match="no face in 3 frames"):
        read_video(tmp_path / "a.mp4")


@pytest.mark.slow
@needs_validator
def test_the_khronos_validator_finds_nothing(tmp_path: Path, made: Rig, played: Performance) -> None:
    write_driven(tmp_path / "a.glb", made, played)
    issues = issues_of(tmp_path / "a.glb")
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


def test_a_face_or_head_turns_about_its_own_joint_wherever_it_lies(head_model) -> None:
    turn, move = Rotation.from_euler("xyz", [20, -30, 10], degrees=True), np.array([40.0, -300.0, 900.0])
    joint = rigger().at_rest
    for template in (face_template(), head_model.template):
        moved = template.with_vertices(template.vertices @ turn.as_matrix().T + move)
        found = pivot(Rig(moved, {}, layout_of(template)))
        np.testing.assert_allclose(found, turn.apply(joint) + move, atol=0.5)


def test_a_head_is_driven_part_by_part(head_model, tmp_path: Path, played: Performance) -> None:
    made = rig(head_model.sample(1, seed=1)[0], "arkit")
    write_driven(tmp_path / "driven.glb", made, played)
    gltf = pygltflib.GLTF2.load(tmp_path / "driven.glb")
    names = [gltf.nodes[c.target.node].name.removeprefix("driven-") for c in gltf.animations[0].channels]
    channels = dict(zip(names, (c.target.path for c in gltf.animations[0].channels), strict=True))
    assert channels.pop("pivot") == "rotation"
    assert channels == dict.fromkeys(("skin", "eyeLeft", "eyeRight", "teethLower", "tongue"), "weights")
    for channel in gltf.animations[0].channels[:-1]:
        mesh = gltf.meshes[gltf.nodes[channel.target.node].mesh]
        output = gltf.animations[0].samplers[channel.sampler].output
        assert gltf.accessors[output].count == len(played.times) * len(mesh.weights)
    write_preview(tmp_path / "driven.gif", made, played.at(np.arange(3) / 20))
    with Image.open(tmp_path / "driven.gif") as picture:
        assert picture.n_frames == 3
