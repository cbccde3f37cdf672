"""A scan's own colours: read with care, used where they show the face, and left alone where they do not."""

import importlib
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from meshgan.data.corpora.basis import face_layout, face_template
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.registration import finding
from meshgan.registration.bake import as_png
from meshgan.registration.colours import (
    Painted,
    PaintedScene,
    ScanColours,
    colour_files,
    read_painted,
)
from meshgan.registration.fake_scans import fake_scan, plain_people
from meshgan.registration.finding import HALF_WIDTH, seen_in_colours
from meshgan.registration.jobs import Settings, outcome_of, plan, work_on
from meshgan.registration.landmarks import Detector, Landmarks, available
from meshgan.registration.painted_scans import Canvas, painted_picture, worn
from meshgan.registration.register import register, sight, sighted
from meshgan.registration.scan import Frame, Scene, thinned
from meshgan.registration.templates import OWN, adopted, default_template

FACE = face_template()
needs_detector = pytest.mark.skipif(not available(), reason="the extra [landmarks] is not installed")


@pytest.fixture(scope="module")
def template():
    return default_template()


def in_colours(template, person, seed):
    """A fake scan of a face (V, 3) in colours, where its vertices truly are, and its face as bare shape shows it."""
    face = FACE.with_vertices(person.astype(np.float64))
    rng = np.random.default_rng(seed)
    scan = fake_scan(face, rng)
    painted = worn(scan, face, painted_picture(Canvas(template), face.vertices, rng), 1)
    middle = scan.pose(FACE.vertices.mean(axis=0)[None])[0]
    frame = Frame(scan.pose.rotation.T, middle, HALF_WIDTH)
    with Detector() as detector:
        found = finding._closer_look(Scene(scan.mesh, 1), detector, template, frame)
    assert found is not None
    return scan, painted, scan.pose(face.vertices), found


@pytest.fixture(scope="module")
def scene(template):
    return in_colours(template, plain_people(2, "colours")[1], 8)


def textured(folder: Path, picture: bytes, material: str = "map_Kd scan.png") -> Path:
    """The face template as a scan with a texture: OBJ, its material and a PNG."""
    write_mesh(folder / "scan.obj", FACE, face_layout())
    body = (folder / "scan.obj").read_text()
    (folder / "scan.obj").write_text(f"mtllib scan.mtl\nusemtl skin\n{body}")
    (folder / "scan.mtl").write_text(f"newmtl skin\nKd 1 1 1\n{material}\n")
    (folder / "scan.png").write_bytes(picture)
    return folder / "scan.obj"


def plain_png(width: int, height: int) -> bytes:
    return as_png(np.full((height, width, 3), 150, np.uint8))


def test_the_asset_is_what_the_tool_makes_of_the_paint(monkeypatch):
    """If this fails, the paint, the tool or the asset has changed: run tools/build_colour_points.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    tool = importlib.import_module("build_colour_points")
    with np.load(OWN / "colour_points.npz", allow_pickle=False) as asset:
        arrays = {key: asset[key] for key in asset.files}
    made = str(arrays.pop("fingerprint"))
    assert made == tool.fingerprint(arrays)
    monkeypatch.setattr(tool, "MOST_SCATTER", 4.0)
    assert made != tool.fingerprint(arrays)


@needs_detector
def test_in_colours_eyes_are_seen_where_they_are(template):
    """On the mean over some people: of one whose eyes are seen well by shape, colours can tell but little more."""
    missed = np.zeros((3, 2))
    for row, person in enumerate(plain_people(len(missed), "colours")):
        scan, painted, truth, found = in_colours(template, person, 8 + row)
        with Detector() as detector:
            better = seen_in_colours(painted, found, detector, template)
        assert better is not None
        marks = template.landmark_rows @ truth
        for column, face in enumerate((found, better)):
            sighting = sighted(face, template)
            index, points = sighting.landmarks.index, sighting.landmarks.points
            off = np.linalg.norm(points - marks[index], axis=1)
            missed[row, column] = off[np.isin(index, range(36, 48))].mean()
        assert sighting.anchors.together is not None
        assert sighting.seen_from(scan.pose).anchors.together is sighting.anchors.together
    shape, colours = missed.mean(axis=0)
    assert colours < 0.9 * shape
    assert colours < 1.7


def junk(kind: str, painted: Painted, truth: np.ndarray) -> Painted:
    """The scan in colours that show no face, or one that is elsewhere."""
    colours, rng = painted.of_vertices(), np.random.default_rng(0)
    if kind in ("black", "white"):
        return replace(painted, colours=np.full_like(colours, 0 if kind == "black" else 255))
    if kind == "noise":
        return replace(painted, colours=rng.integers(0, 255, colours.shape).astype(np.uint8))
    if kind == "another unwrapping":
        return replace(painted, colours=colours[rng.permutation(len(colours))])
    if kind == "another place":
        return Painted(painted.mesh.with_vertices(painted.mesh.vertices + 500.0), colours=colours)
    up = truth[:, 1].max() - truth[:, 1].min()  # a pattern of squares
    squares = (painted.mesh.vertices // (up / 8)).astype(int).sum(axis=1) % 2
    return replace(painted, colours=np.repeat(230 * squares[:, None], 3, axis=1).astype(np.uint8))


@needs_detector
@pytest.mark.parametrize("kind", ["black", "white", "noise", "another unwrapping", "another place", "squares"])
def test_colours_that_show_no_face_do_not_count(template, scene, kind):
    _, painted, truth, found = scene
    with Detector() as detector:
        assert seen_in_colours(junk(kind, painted, truth), found, detector, template) is None


@needs_detector
def test_a_scan_without_usable_colours_is_what_it_was(template, scene, monkeypatch):
    """Black colours, and none, leave each bit as it was."""
    scan, painted, truth, found = scene
    monkeypatch.setattr("meshgan.registration.register.find_face", lambda *_: found)
    bare = register(scan.mesh, template)
    for colours in (lambda: None, lambda: junk("black", painted, truth)):
        again = register(scan.mesh, template, colours=colours)
        np.testing.assert_array_equal(again.vertices, bare.vertices)
        np.testing.assert_array_equal(again.landmarks.points, bare.landmarks.points)
    seen = register(scan.mesh, template, colours=lambda: painted)
    assert (seen.vertices != bare.vertices).any()
    given = Landmarks(np.arange(17, 68), (template.landmark_rows @ truth)[17:68])
    sight(scan.mesh, template, given, colours=lambda: pytest.fail("nobody asked for colours"))


def test_a_picture_shows_the_colours_of_what_lies_behind_each_pixel():
    colours = np.where(FACE.vertices[:, :1] > 0, [[200, 20, 20]], [[20, 20, 200]]).astype(np.uint8)
    scene = PaintedScene(Painted(FACE, colours=colours))
    picture, hits = scene.photograph(Frame(np.eye(3), FACE.vertices.mean(axis=0), HALF_WIDTH), 96)
    x = scene.points(hits)[:, 0].reshape(96, 96)
    assert picture.shape == (96, 96, 3)
    assert (picture[~hits.found.reshape(96, 96)] == 0).all()
    assert (picture[x > 4][:, 0] >= picture[x > 4][:, 2]).all()
    assert (picture[x < -4][:, 2] >= picture[x < -4][:, 0]).all()
    turned = PaintedScene(Painted(type(FACE)(FACE.vertices, FACE.triangles[:, ::-1]), colours=colours))
    inside_out, _ = turned.photograph(Frame(np.eye(3), FACE.vertices.mean(axis=0), HALF_WIDTH), 96)
    assert np.abs(inside_out.astype(int) - picture).max() <= 1  # either side is seen


def test_what_is_looked_at_is_bounded(monkeypatch):
    colours = np.repeat((FACE.vertices[:, :1] > 0) * 200, 3, axis=1).astype(np.uint8)
    painted = Painted(FACE, colours=colours)
    assert painted.around(np.array([1e6, 0, 0]), 100.0) is None
    near = painted.around(FACE.vertices[0], 30.0)
    assert near is not None
    assert np.linalg.norm(near.mesh.vertices - FACE.vertices[0], axis=1).max() < 30
    monkeypatch.setattr("meshgan.registration.colours.MANY_TRIANGLES", 2000)
    monkeypatch.setattr("meshgan.registration.colours.thinned", lambda mesh: thinned(mesh, 2000))
    few = painted.around(np.zeros(3), 1000.0)
    assert few is not None
    assert len(few.mesh.triangles) <= 2000
    sure = np.abs(few.mesh.vertices[:, 0]) > 10
    np.testing.assert_array_equal(few.of_vertices()[sure, 0] > 100, few.mesh.vertices[sure, 0] > 0)


def test_a_large_texture_is_sampled(tmp_path, monkeypatch):
    picture = np.zeros((300, 500, 3), np.uint8)
    picture[:, 250:] = 200
    path = textured(tmp_path, as_png(picture))
    whole = read_painted(path, "mm")
    monkeypatch.setattr("meshgan.registration.colours.LOOKED_AT", 10_000)
    some = ScanColours(path, "mm")()
    assert whole is not None
    assert some is not None
    assert whole.picture is not None
    assert some.picture is not None
    assert whole.picture.shape[:2] == (300, 500)
    assert some.picture.shape[0] * some.picture.shape[1] <= 10_100
    assert (some.picture[:, -20:] == 200).all()
    for part in (whole, some):
        assert part.at(np.arange(5), np.full((5, 3), 1 / 3)).shape == (5, 3)
    monkeypatch.setattr("meshgan.registration.colours.MOST_AGAIN", 1000)
    assert ScanColours(path, "mm")() is None


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "text", "huge", "outside", "absolute", "device"])
def test_a_texture_that_cannot_be_read_leaves_a_word_at_most(tmp_path, kind):
    folder = tmp_path / "scans"
    folder.mkdir()
    png = as_png(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    path = textured(folder, png)
    image = folder / "scan.png"
    if kind == "missing":
        image.unlink()
    elif kind == "huge":  # so many pixels in so few bytes
        header = bytearray(png)
        header[16:24] = (60_000).to_bytes(4, "big") * 2
        image.write_bytes(bytes(header))
    elif kind in ("truncated", "empty", "text"):
        image.write_bytes({"truncated": png[: len(png) // 2], "empty": b"", "text": b"no picture"}[kind])
    elif kind == "device":
        image.unlink()
        os.mkfifo(image)
    else:
        image.rename(tmp_path / "secret.png")
        name = "../secret.png" if kind == "outside" else str(tmp_path / "secret.png")
        (folder / "scan.mtl").write_text(f"newmtl skin\nmap_Kd {name}\n")
    colours = ScanColours(path, "mm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert colours() is None
    assert "\n" not in colours.trouble
    assert str(path) not in colours.trouble
    if kind == "truncated":
        assert "cannot be read" in colours.trouble
    assert all(file.is_relative_to(folder.resolve()) for file in colour_files(path))


@pytest.mark.parametrize("number", ["nan", "inf", "-1e300", "1e9", "words"])
def test_texture_coordinates_may_be_anything(tmp_path, number):
    path = textured(tmp_path, plain_png(32, 32))
    lines = path.read_text().split("\n")
    changed = [f"vt {number} 0.5" if line.startswith("vt") and k % 3 == 0 else line for k, line in enumerate(lines)]
    path.write_text("\n".join(changed))
    painted = ScanColours(path, "mm")()
    if painted is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = painted.at(np.arange(len(painted.mesh.triangles)), np.full((len(painted.mesh.triangles), 3), 1 / 3))
        assert np.isfinite(found).all()


def test_a_scan_without_colours_is_nothing_to_tell_of(tmp_path):
    for ending in ("obj", "ply", "stl", "glb"):
        write_mesh(tmp_path / f"plain.{ending}", FACE)
        colours = ScanColours(tmp_path / f"plain.{ending}", "mm")
        assert colours() is None
        assert colours.trouble == ""
        assert colour_files(tmp_path / f"plain.{ending}") == []


def test_another_texture_is_another_job(tmp_path):
    path = textured(tmp_path, plain_png(8, 8))
    settings = Settings("mm")
    assert [file.name for file in colour_files(path)] == ["scan.mtl", "scan.png"]
    keys = [plan([(path, "scan.obj", None)], settings, tmp_path)[0].key]
    (tmp_path / "scan.png").write_bytes(plain_png(9, 9))
    keys.append(plan([(path, "scan.obj", None)], settings, tmp_path)[0].key)
    (tmp_path / "scan.png").unlink()
    keys.append(plan([(path, "scan.obj", None)], settings, tmp_path)[0].key)
    assert len(set(keys)) == 3
    (tmp_path / "marks.json").write_text("[]")
    given = plan([(path, "scan.obj", tmp_path / "marks.json")], settings, tmp_path)[0].key
    (tmp_path / "scan.png").write_bytes(plain_png(8, 8))
    assert plan([(path, "scan.obj", tmp_path / "marks.json")], settings, tmp_path)[0].key == given  # not looked at
    mesh = trimesh.Trimesh(FACE.vertices, FACE.triangles, process=False)
    body = mesh.export(file_type="ply").replace(b"ply\n", b"ply\n", 1)
    head, rest = body.split(b"element vertex", 1)
    (tmp_path / "scan.ply").write_bytes(head + b"comment TextureFile scan.png\nelement vertex" + rest)
    assert [file.name for file in colour_files(tmp_path / "scan.ply")] == ["scan.png"]


@needs_detector
def test_a_damaged_texture_is_told_in_the_report_and_spoils_nothing(tmp_path, template, monkeypatch):
    path = textured(tmp_path, plain_png(64, 64)[:60])
    mesh = read_mesh(path)
    frame = Frame(np.eye(3), FACE.vertices.mean(axis=0), HALF_WIDTH)
    with Detector() as detector:
        found = finding._closer_look(Scene(mesh, 1), detector, template, frame)
    monkeypatch.setattr("meshgan.registration.register.find_face", lambda *_: found)
    work_on(job := plan([(path, "scan.obj", None)], Settings("mm"), tmp_path)[0])
    outcome = outcome_of(job)
    assert outcome is not None
    assert outcome.verdict != "failed"
    assert "shape alone was looked at: its colours cannot be read" in outcome.reason


def test_a_template_of_ones_own_takes_the_places_along(template, monkeypatch):
    laid = register(FACE, template, Landmarks(np.arange(17, 68), (template.landmark_rows @ FACE.vertices)[17:68]))
    monkeypatch.setattr("meshgan.registration.templates.register", lambda *_: laid)
    theirs = adopted(FACE, template, Path("own.ply"))
    used = np.isfinite(theirs.coloured.sigma)
    assert used.sum() > 0.9 * np.isfinite(template.coloured.sigma).sum()
    apart = np.linalg.norm(theirs.coloured.rows @ FACE.vertices - template.coloured.rows @ FACE.vertices, axis=1)
    assert np.median(apart[used]) < 0.5
