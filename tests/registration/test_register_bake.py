"""The face template's layout, and a scan's colours on it."""

import re
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from meshgan.data.corpora.basis import face_layout, face_template, layout_of
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry import glb
from meshgan.geometry.files import read_mesh, write_glb, write_mesh
from meshgan.geometry.mesh import Layout, Mesh
from meshgan.registration.bake import as_png, bake, check_size, covered, filled
from meshgan.registration.colours import read_painted

FACE = face_template()


def painted(size: int) -> np.ndarray:
    """A picture of soft bands."""
    y, x = np.mgrid[:size, :size] / size
    return (255 * np.stack([x, y, 0.5 + 0.5 * np.sin(6 * x + 3 * y)], axis=2)).astype(np.uint8)


def textured(folder: Path, picture: np.ndarray) -> Path:
    """The face template as a scan with this texture: OBJ, its material and a PNG."""
    write_mesh(folder / "scan.obj", FACE, face_layout())
    body = (folder / "scan.obj").read_text()
    (folder / "scan.obj").write_text(f"mtllib scan.mtl\nusemtl skin\n{body}")
    (folder / "scan.mtl").write_text("newmtl skin\nKd 1 1 1\nmap_Kd scan.png\n")
    (folder / "scan.png").write_bytes(as_png(picture))
    return folder / "scan.obj"


def test_no_triangle_of_the_layout_lies_over_another() -> None:
    layout = face_layout()
    a, b, c = (layout.coordinates[layout.corners[:, i]] for i in range(3))
    areas = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert areas.min() > 0
    assert layout.coordinates.min() >= 0
    assert layout.coordinates.max() <= 1
    owner, shares = covered(layout, 1024)
    last, others = covered(Layout(layout.coordinates, layout.corners[::-1], layout.doubled), 1024)
    within = (shares.min(axis=2) > 1e-4) & (others.min(axis=2) > 1e-4)
    assert (owner[within] == len(layout.corners) - 1 - last[within]).all()  # whoever comes last covers the same
    assert ((owner >= 0) == (last >= 0)).all()
    assert areas.sum() == pytest.approx((owner >= 0).mean(), rel=0.01)
    np.testing.assert_allclose(shares[owner >= 0].sum(axis=1), 1, atol=1e-6)


def test_seams_are_doubled_in_the_files_only(tmp_path: Path) -> None:
    layout = layout_of(FACE)
    assert layout is not None
    assert layout_of(Mesh(FACE.vertices, FACE.triangles[::-1])) is None
    np.testing.assert_array_equal(layout.owner[layout.corners], FACE.triangles)
    assert 50 < len(layout.doubled) < 500
    for ending in ("obj", "glb"):
        write_mesh(tmp_path / f"face.{ending}", FACE, layout)
        read = read_mesh(tmp_path / f"face.{ending}")
        np.testing.assert_array_equal(read.triangles, FACE.triangles)
        np.testing.assert_allclose(read.vertices, FACE.vertices, atol=1e-4)
    other = trimesh.load_mesh(tmp_path / "face.glb", process=False)
    assert len(other.vertices) == len(layout.coordinates)
    np.testing.assert_allclose(other.visual.uv, layout.coordinates, atol=2e-5)
    shift = np.zeros(FACE.vertices.shape)
    shift[layout.doubled[0]] = 5.0
    data = glb.write(FACE, {"a": shift}, {"a": 1.0}, layout=layout)
    np.testing.assert_allclose(glb.read(data)[0] * 1000, FACE.vertices + shift, atol=1e-4)
    data = re.sub(rb'(?<="doubledVertices":\[)\d+', lambda number: b"9" * len(number[0]), data)
    assert len(glb.read(data)[0]) == len(layout.coordinates)  # what lies about its seams is read as it is


def test_a_texture_goes_into_the_layout_and_comes_out_of_the_glb(tmp_path: Path) -> None:
    picture = painted(128)
    scan = read_painted(textured(tmp_path, picture), "mm")
    assert scan is not None
    assert scan.whole.all()
    baked = bake(FACE, face_layout(), scan, 128)
    there = covered(face_layout(), 128)[0] >= 0
    difference = np.abs(baked.astype(float) - picture)[there]
    assert np.median(difference) < 2
    assert np.quantile(difference, 0.99) < 12  # lips touch: some points lie on the other one's surface
    write_glb(tmp_path / "worn.glb", FACE, layout=face_layout(), picture=as_png(baked))
    worn = read_painted(tmp_path / "worn.glb", "mm")
    assert worn is not None
    assert worn.picture is not None
    np.testing.assert_array_equal(worn.picture, baked)
    np.testing.assert_allclose(worn.mesh.vertices[worn.mesh.triangles], FACE.vertices[FACE.triangles], atol=1e-3)


def test_a_driven_face_wears_what_it_wore(tmp_path: Path, meshgan) -> None:  # type: ignore[no-untyped-def]
    picture = as_png(painted(64))
    write_glb(tmp_path / "worn.glb", FACE, layout=face_layout(), picture=picture)
    write_glb(tmp_path / "bare.glb", FACE, layout=face_layout())
    (tmp_path / "take.csv").write_text("jawOpen\n0.1\n0.5\n")
    for name, wanted in (("worn", picture), ("bare", b"")):
        out = tmp_path / f"{name}-driven.glb"
        driven = ("drive", tmp_path / f"{name}.glb", "--from", tmp_path / "take.csv", "--fps", 30, "--out", out)
        assert meshgan(*driven)[0] == 0
        assert glb.picture_of(out.read_bytes()) == wanted


def test_only_a_picture_of_our_own_is_taken_along() -> None:
    data = glb.write(FACE, layout=face_layout(), picture=as_png(painted(64)))
    assert glb.picture_of(data).startswith(b"\x89PNG")
    assert glb.picture_of(data.replace(b'"generator":"meshgan"', b'"generator":"another"')) == b""
    assert glb.picture_of(data.replace(b"\x89PNG", b"\xff\xd8\xff\xe0")) == b""
    assert glb.picture_of(data.replace(b'"images":[{"bufferView":', b'"images":[{"bufferVieW":')) == b""


def test_colours_of_vertices_go_into_the_layout(tmp_path: Path) -> None:
    colours = np.zeros((len(FACE.vertices), 4), np.uint8)
    colours[:, 0] = np.where(FACE.vertices[:, 0] > 0, 200, 20)
    colours[:, 3] = 255
    mesh = trimesh.Trimesh(FACE.vertices / 10, FACE.triangles, vertex_colors=colours, process=False)
    mesh.export(tmp_path / "scan.ply")
    scan = read_painted(tmp_path / "scan.ply", "cm")
    assert scan is not None
    baked = bake(FACE, face_layout(), scan, 64)
    assert baked[30, 12, 0] == 20
    assert baked[30, 52, 0] == 200
    assert baked[0, 0, 0] == pytest.approx(20, abs=60)  # around the face, what is beside it


def test_gaps_are_filled_from_around() -> None:
    picture, known = np.zeros((33, 20, 3), np.float32), np.zeros((33, 20), bool)
    picture[:, :10], picture[:, 10:] = 10.0, 90.0
    known[::4, ::3] = True
    picture[~known] = 255.0
    result = filled(picture, known)
    assert result.min() >= 10
    assert result.max() <= 90
    assert (result[known] == picture[known]).all()
    assert result[:, :4].mean() < 30 < 70 < result[:, -4:].mean()


def test_what_cannot_be_baked_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="between 64"):
        check_size(12, [face_layout()])
    with pytest.raises(UsageError, match="template of meshgan alone"):
        check_size(512, [None])
    write_mesh(tmp_path / "plain.obj", FACE)
    assert read_painted(tmp_path / "plain.obj", "mm") is None
    far = read_painted(textured(tmp_path, painted(16)), "mm")
    assert far is not None
    with pytest.raises(MeshganError, match="near its scan"):
        bake(FACE.with_vertices(FACE.vertices + 500), face_layout(), far, 64)
    (tmp_path / "scan.png").write_bytes(b"no picture")
    try:
        assert read_painted(tmp_path / "scan.obj", "mm") is None
    except MeshganError as error:
        assert "scan.obj" in str(error)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "scan.png")
    assert read_painted(tmp_path / "scan.obj", "mm") is not None
