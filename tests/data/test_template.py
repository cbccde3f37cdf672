import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshgan.cli import data
from meshgan.data.corpora.basis import face_template
from meshgan.data.template import Template, cut, make_template, nose_tip, refine, turn_upright
from meshgan.errors import UsageError
from meshgan.geometry.decimate import decimate
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.mesh import Mesh
from shapes import bumpy, grid, icosphere, together

SCANS = Path(__file__).parents[2] / "../shared/data/scans"
NOSE = np.array([0.0, -30, 125])


def head() -> Mesh:
    """A sphere of 100 mm with a nose, eyeballs that float inside it, and a chest further forward than the nose."""
    ball = icosphere(4, 100)
    bump = np.exp(-((ball.vertices - [0, -28, 96]) ** 2).sum(axis=1) / 200)
    skull = ball.with_vertices(ball.vertices + bump[:, None] * (NOSE - [0, -28, 96]))
    eyes = [icosphere(1, 12).with_vertices(icosphere(1, 12).vertices + np.array([x, 10, 60])) for x in (-30, 30)]
    chest = icosphere(2, 150).with_vertices(icosphere(2, 150).vertices + np.array([0, -330, 30]))
    return together(*eyes, skull, chest)


def whole(mesh: Mesh) -> Template:
    return Template(mesh, sp.eye_array(len(mesh.vertices), format="csr"))


def quality(mesh: Mesh) -> np.ndarray:
    corners = mesh.vertices[mesh.triangles]
    squares = ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=(1, 2))
    return 4 * np.sqrt(3) * mesh.areas / squares


@pytest.fixture(scope="module")
def template() -> Template:
    return make_template(head(), 700)


def test_a_head_becomes_one_sheet_of_the_exact_size(template: Template) -> None:
    mesh = template.mesh
    assert len(mesh.vertices) == 700
    assert len(np.unique(mesh.components)) == 1
    assert len(mesh.vertices) - len(mesh.edges) + len(mesh.triangles) == 1  # a disc
    assert np.linalg.norm(mesh.vertices - NOSE, axis=1).max() < 111
    edge = np.linalg.norm(mesh.vertices[mesh.boundary_vertices] - NOSE, axis=1)
    assert (np.abs(edge - 110) < 3).all()  # a clean outline, not the zigzag of whole triangles


def test_the_carry_matrix_takes_any_head_onto_the_template(template: Template) -> None:
    np.testing.assert_allclose(template.carry.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(template.carry @ head().vertices, template.mesh.vertices)
    other = head().vertices * [1.1, 0.9, 1.0] + [3, 2, 1]
    np.testing.assert_allclose(template.carry @ other, template.mesh.vertices * [1.1, 0.9, 1.0] + [3, 2, 1])


def test_it_is_refined_when_there_are_too_few_vertices() -> None:
    fine = make_template(head(), 5036)
    assert len(fine.mesh.vertices) == 5036
    np.testing.assert_allclose(fine.carry.sum(axis=1), 1, atol=1e-12)
    assert np.percentile(quality(fine.mesh), 1) > 0.2
    outward = fine.mesh.vertices[fine.mesh.triangles].mean(axis=1)
    assert ((fine.mesh.triangle_normals * outward).sum(axis=1) > 0).all()


def test_landmarks_are_found_again(template: Template) -> None:
    found = template.locate([NOSE, [0, 0, 99]])
    assert found.distance.max() < 3
    assert found.triangle.shape == (2,)


def test_a_mask_or_a_centre_says_what_to_keep() -> None:
    mesh = head()
    front = mesh.vertices[:, 2] > 0
    masked = make_template(mesh, 200, keep=front)
    assert (masked.mesh.vertices[:, 2] > -1e-9).all()
    lower = make_template(mesh, 60, centre=[0, -300, 180], radius_mm=60)
    assert (lower.mesh.vertices[:, 1] < -230).all()


def test_the_nose_is_found_above_a_chest_and_below_a_quiff() -> None:
    quiff = icosphere(1, 15).with_vertices(icosphere(1, 15).vertices + np.array([0, 90, 140]))
    np.testing.assert_allclose(nose_tip(together(head(), quiff)), NOSE, atol=8)


@pytest.mark.parametrize(
    ("mesh", "arguments", "message"),
    [
        (head(), {"centre": [0, 900, 0]}, "no surface is left"),
        (head(), {"keep": np.zeros(len(head().vertices), bool)}, "no surface is left"),
        (head(), {"keep": np.ones(5, bool)}, "mask of"),
        (head(), {"radius_mm": 0.0}, "no surface is left"),
        (head().with_vertices(head().vertices / 1000), {}, "no nose was found"),
        (Mesh(np.zeros((3, 3)), []), {}, "no triangles"),
    ],
)
def test_what_cannot_be_a_template_is_said(mesh: Mesh, arguments, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_template(mesh, 100, **arguments)


@pytest.mark.parametrize("count", [2, 10**9])
def test_a_senseless_count_is_refused_before_anything_is_done(count: int) -> None:
    with pytest.raises(UsageError, match="at least 16 and at most"):
        make_template(head(), count)


@settings(max_examples=20)
@given(st.floats(0, 2 * np.pi), st.floats(-2, 2))
def test_a_straight_cut_leaves_exactly_the_area_on_its_side(angle: float, shift: float) -> None:
    sheet = grid(9, 7)
    normal = np.array([np.cos(angle), np.sin(angle), 0])
    level = (sheet.vertices - [4.5, 3.5, 0]) @ normal - shift
    piece = cut(whole(sheet), level).mesh
    fine = np.stack(np.meshgrid(np.linspace(0, 9, 901), np.linspace(0, 7, 701)), axis=-1).reshape(-1, 2)
    share = (((fine - [4.5, 3.5]) @ normal[:2] - shift) < 0).mean()
    level_after = (piece.vertices - [4.5, 3.5, 0]) @ normal - shift
    assert level_after.max() < 0.36  # vertices within a share of an edge move along an edge onto the line
    assert piece.areas.sum() == pytest.approx(share * 63, abs=2.0)
    assert (piece.triangle_normals[:, 2] > 0.99).all()
    assert quality(piece).min() > 0.15


def test_a_cut_that_misses_changes_nothing() -> None:
    sheet = bumpy(4, 4)
    np.testing.assert_array_equal(cut(whole(sheet), np.full(25, -1.0)).mesh.triangles, sheet.triangles)


def test_refinement_quarters_triangles_and_keeps_a_plane_flat() -> None:
    sheet = grid(4, 3)
    fine = refine(whole(sheet))
    assert len(fine.mesh.triangles) == 4 * len(sheet.triangles)
    assert len(fine.mesh.vertices) == len(sheet.vertices) + len(sheet.edges)
    np.testing.assert_allclose(fine.carry.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(fine.mesh.vertices, fine.carry @ sheet.vertices)
    assert (fine.mesh.triangle_normals[:, 2] > 0.99).all()


def test_refinement_is_loops_rule() -> None:
    """Around a vertex of six neighbours: 10/16 of itself and 1/16 of each; new vertices 3/8, 3/8, 1/8, 1/8."""
    sheet = grid(4, 4)
    carry = refine(whole(sheet)).carry.toarray()
    row = carry[12]
    assert row[12] == pytest.approx(10 / 16)
    np.testing.assert_allclose(np.sort(row)[-7:-1], 1 / 16)
    new = next(r for r in carry[25:] if r[12] > 0 and r[13] > 0 and np.isclose(r[12], r[13]))
    np.testing.assert_allclose(np.sort(new)[-4:], [1 / 8, 1 / 8, 3 / 8, 3 / 8])
    np.testing.assert_allclose(np.sort(carry[2])[-3:], [1 / 8, 1 / 8, 3 / 4])  # on the boundary


def test_refinement_makes_spheres_rounder() -> None:
    def angles(mesh: Mesh) -> float:
        outward = mesh.vertices[mesh.triangles].mean(axis=1)
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        return float(np.arccos(np.clip((outward * mesh.triangle_normals).sum(axis=1), -1, 1)).max())

    coarse = decimate(icosphere(3), 160).mesh
    fine = refine(refine(whole(coarse))).mesh
    assert len(fine.vertices) - len(fine.edges) + len(fine.triangles) == 2
    assert angles(fine) < 0.8 * angles(coarse)


@pytest.mark.skipif(not SCANS.is_dir(), reason="the real scans are not here")
def test_a_real_head_becomes_a_template() -> None:
    mesh = read_mesh(SCANS / "lee_perry_smith/LeePerrySmith.ply")
    mesh = mesh.with_vertices(mesh.vertices * 29)  # about life size
    result = make_template(mesh, 3000, radius_mm=90)
    assert len(result.mesh.vertices) == 3000
    assert np.percentile(quality(result.mesh), 1) > 0.2
    assert abs(result.mesh.vertices[:, 0].max() + result.mesh.vertices[:, 0].min()) < 15  # centred on the nose


def test_a_saved_template_brings_its_landmarks(template: Template, tmp_path: Path) -> None:
    written = template.save(tmp_path / "face.ply", {"nose_tip": NOSE, "chin_tip": [0, -80, 95]})
    assert written == [tmp_path / "face.ply", tmp_path / "face.landmarks.json"]
    mesh = read_mesh(tmp_path / "face.ply")
    marks = json.loads((tmp_path / "face.landmarks.json").read_text())
    assert [mark["name"] for mark in marks] == ["nose_tip", "chin_tip"]
    points = np.array([np.array(mark["weights"]) @ mesh.vertices[mark["vertices"]] for mark in marks])
    np.testing.assert_allclose(points, template.locate([NOSE, [0, -80, 95]]).points, atol=1e-3)
    assert template.save(tmp_path / "bare.ply", {}) == [tmp_path / "bare.ply"]


def test_the_command_makes_a_template_around_the_given_nose(tmp_path: Path) -> None:
    write_mesh(tmp_path / "head.ply", head())
    points = {"nose_tip": NOSE, "chin_tip": [0, -80, 95], "glabella": [0, 20, 95], "36": [-40, 20, 85]}
    (tmp_path / "points.json").write_text(json.dumps(points, default=list))
    arguments = ["template", str(tmp_path / "head.ply"), str(tmp_path / "face.ply"), "--vertices", "300"]
    result = CliRunner().invoke(data.app, [*arguments, "--landmarks", str(tmp_path / "points.json")])
    assert result.exit_code == 0, result.output
    assert len(read_mesh(tmp_path / "face.ply").vertices) == 300
    names = [mark["name"] for mark in json.loads((tmp_path / "face.landmarks.json").read_text())]
    assert set(names) == {"nose_tip", "right_eye_0", "glabella", "chin_tip"}


def somebody() -> Mesh:
    """A face in millimetres that is not the template's: narrower, longer, deeper, elsewhere."""
    face = face_template()
    return face.with_vertices(face.vertices * [0.94, 1.07, 1.1] + np.array([3.0, 1500, -40]))


def standing(mesh: Mesh, up: str, front: str) -> Mesh:
    """What looks along z with y up, as it lies in files in which it looks along `front` with `up` up."""
    axes = [np.eye(3)["xyz".index(axis[-1])] * (-1 if axis[0] == "-" else 1) for axis in (up, front)]
    return mesh.with_vertices(mesh.vertices @ np.stack([np.cross(*axes), *axes]))


@pytest.mark.parametrize(
    ("up", "front", "option"),
    [("z", "-y", "`up='z'` "), ("-y", "z", "`up='-y'` "), ("y", "x", "`up='y'` with `front='x'` "),
     ("z", "x", "`front='x'`"),
     ("-x", "-z", "`up='-x'` with `front='-z'` ")],
)  # fmt: skip
def test_a_face_that_looks_along_another_axis_is_turned_and_told(up: str, front: str, option: str) -> None:
    face = somebody()
    turned = standing(face, up, front)
    turn, told = turn_upright(turned, "a.ply")
    assert told.startswith(f"a.ply looks along {front} with {up} up")
    assert option in told
    np.testing.assert_allclose(turned.vertices @ turn.T, face.vertices, atol=1e-9)
    np.testing.assert_array_equal(turn_upright(turned, "a.ply", up, front)[0], turn)
    left = turn_upright(turned, "a.ply", "y", "z")  # both are said: no questions
    np.testing.assert_array_equal(left[0], np.eye(3))
    assert not left[1]


def test_what_stands_upright_or_is_like_no_face_stays_as_it_is() -> None:
    for mesh in (somebody(), head(), bumpy(20, 20), icosphere(2, 90.0)):
        turn, told = turn_upright(mesh, "a.ply")
        np.testing.assert_array_equal(turn, np.eye(3))
        assert not told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"up": "w"}, "choose one of"), ({"up": "y", "front": "-y"}, "cannot look along -y where y is up"),
     ({"up": "z"}, "looks along z with y up; `up='y'` turns it"), ({"front": "x"}, "looks along z with y")],
)  # fmt: skip
def test_axes_that_are_wrong_are_told(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        turn_upright(somebody(), "a.ply", **arguments)


@pytest.mark.skipif(not SCANS.exists(), reason="the shared scans are not here")
def test_real_scans_are_told_to_stand_as_they_do() -> None:
    for name, scale in (("james/james.obj", 1), ("lee_perry_smith/LeePerrySmith.ply", 42)):
        scan = read_mesh(SCANS / name)
        scan = scan.with_vertices(scan.vertices * scale)
        assert turn_upright(scan, name)[1] == ""
        assert f"{name} looks along -y with z up and was turned" in turn_upright(standing(scan, "z", "-y"), name)[1]


def test_the_command_turns_a_head_and_its_landmarks(tmp_path: Path) -> None:
    write_mesh(tmp_path / "head.ply", standing(head(), "z", "x"))
    upright = {"nose_tip": NOSE, "chin_tip": [0, -80, 95], "glabella": [0, 20, 95], "36": [-40, 20, 85]}
    points = {name: [z, x, y] for name, (x, y, z) in upright.items()}
    (tmp_path / "points.json").write_text(json.dumps(points, default=list))
    arguments = ["template", str(tmp_path / "head.ply"), str(tmp_path / "face.ply"), "--vertices", "200"]
    axes = ["--up", "z", "--front", "x", "--landmarks", str(tmp_path / "points.json")]
    result = CliRunner().invoke(data.app, [*arguments, *axes])
    assert result.exit_code == 0, result.output
    mesh = read_mesh(tmp_path / "face.ply")
    mark = json.loads((tmp_path / "face.landmarks.json").read_text())[0]
    np.testing.assert_allclose(np.array(mark["weights"]) @ mesh.vertices[mark["vertices"]], NOSE, atol=4)
