import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry import files, obj
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.mesh import Mesh
from shapes import bumpy

SCANS = Path(__file__).parents[2] / "../shared/data/scans"

MESH = bumpy(5, 4)


def rounded(mesh: Mesh) -> np.ndarray:
    return mesh.vertices.astype(np.float32).astype(np.float64)


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@st.composite
def meshes(draw) -> Mesh:
    count = draw(st.integers(3, 12))
    number = st.floats(-(2.0**40), 2.0**40, width=32)
    vertices = draw(hnp.arrays(np.float32, (count, 3), elements=number))
    faces = draw(hnp.arrays(np.int64, st.tuples(st.integers(1, 9), st.just(3)), elements=st.integers(0, count - 1)))
    return Mesh(vertices, faces)


@settings(max_examples=40, deadline=None)
@given(meshes(), st.sampled_from([".ply", ".obj"]))
def test_ply_and_obj_give_float32_vertices_back_exactly(tmp_path_factory, mesh: Mesh, ending: str) -> None:
    path = tmp_path_factory.mktemp("mesh") / f"mesh{ending}"
    write_mesh(path, mesh)
    again = read_mesh(path)
    np.testing.assert_array_equal(again.vertices.astype(np.float32), mesh.vertices.astype(np.float32))
    np.testing.assert_array_equal(again.triangles, mesh.triangles)


@settings(max_examples=40, deadline=None)
@given(meshes())
def test_stl_gives_the_corners_of_the_triangles_back(tmp_path_factory, mesh: Mesh) -> None:
    path = tmp_path_factory.mktemp("mesh") / "mesh.stl"
    write_mesh(path, mesh)
    again = read_mesh(path)
    np.testing.assert_array_equal(again.vertices[again.triangles], mesh.vertices[mesh.triangles])
    assert len(np.unique(again.vertices, axis=0)) == len(again.vertices)


@settings(max_examples=20, deadline=None)
@given(meshes())
def test_glb_is_in_metres_and_keeps_order(tmp_path_factory, mesh: Mesh) -> None:
    path = tmp_path_factory.mktemp("mesh") / "mesh.glb"
    write_mesh(path, mesh)
    again = read_mesh(path, unit="m")
    np.testing.assert_allclose(again.vertices, mesh.vertices, rtol=2e-7, atol=1e-40)
    np.testing.assert_array_equal(again.triangles, mesh.triangles)


def test_stl_vertices_come_in_the_order_of_first_mention(tmp_path: Path) -> None:
    mesh = Mesh(MESH.vertices, MESH.triangles)
    write_mesh(tmp_path / "a.stl", mesh)
    again = read_mesh(tmp_path / "a.stl")
    assert len(again.vertices) == len(mesh.vertices)
    mentioned = again.triangles.ravel()
    _, first = np.unique(mentioned, return_index=True)
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("ending", [".ply", ".obj", ".stl", ".glb"])
def test_other_software_reads_what_is_written(tmp_path: Path, ending: str) -> None:
    write_mesh(tmp_path / f"mesh{ending}", MESH)
    other = trimesh.load_mesh(tmp_path / f"mesh{ending}", process=False)
    scale = 1000 if ending == ".glb" else 1
    np.testing.assert_allclose(other.triangles * scale, MESH.vertices[MESH.triangles], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ending", ["ply", "obj", "stl", "glb"])
def test_what_other_software_writes_is_read(tmp_path: Path, ending: str) -> None:
    trimesh.Trimesh(MESH.vertices, MESH.triangles, process=False).export(tmp_path / f"mesh.{ending}")
    again = read_mesh(tmp_path / f"mesh.{ending}")
    np.testing.assert_allclose(again.vertices[again.triangles], rounded(MESH)[MESH.triangles], atol=1e-7)


def test_ascii_variants_of_other_software_are_read(tmp_path: Path) -> None:
    other = trimesh.Trimesh(MESH.vertices, MESH.triangles, process=False)
    other.export(tmp_path / "mesh.ply", encoding="ascii")
    other.export(tmp_path / "mesh.stl", file_type="stl_ascii")
    for path in tmp_path.iterdir():
        again = read_mesh(path)
        np.testing.assert_allclose(again.vertices[again.triangles], rounded(MESH)[MESH.triangles], atol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("cm", 10), ("m", 1000)])
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    write_mesh(tmp_path / "a.ply", MESH)
    np.testing.assert_array_equal(read_mesh(tmp_path / "a.ply", unit).vertices, rounded(MESH) * factor)


def test_the_same_mesh_gives_the_same_bytes(tmp_path: Path) -> None:
    for ending in (".ply", ".obj", ".stl", ".glb"):
        for name in ("a", "b"):
            write_mesh(tmp_path / f"{name}{ending}", MESH)
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


# --- OBJ


def test_obj_with_seams_objects_and_materials_has_one_vertex_for_each_line(tmp_path: Path) -> None:
    path = text(
        tmp_path / "a.obj",
        """mtllib a.mtl
o first
v 0 0 0 1.0
v 1 0 0 1.0
vt 0 0
vt 1 0
vt 0.5 1
vt 0.25 0.75
vn 0 0 1
v 1 1 0 1.0
v 0 1 0 1.0
usemtl skin
f 1/1/1 2/2/1 3/3/1
f 1/4/1 3/1/1 4/2/1
o second # not joined to the first
g a b
v 5 5 5 0.5 0.5 0.5
v 0 0 0
usemtl other
s off
f 6//1 5//1 4//1
l 1 2
vp 0.3
""",
    )
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5], [0, 0, 0]])
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3], [5, 4, 3]])


def test_obj_polygons_negative_numbers_continued_lines_and_any_line_end(tmp_path: Path) -> None:
    lines = [
        "v 0 0 0",
        "v 1 0 0",
        "v 1 1 0",
        "f -3 -2 -1",
        "v 0 1 0",
        "  v 2e-1 1.5E0 .0",
        "f 1 2 3 4 \\",
        "5",
        "f -1/7 -2 -3",
    ]
    for end in ("\n", "\r\n"):
        path = tmp_path / "a.obj"
        path.write_bytes(end.join(lines).encode())
        mesh = read_mesh(path)
        np.testing.assert_array_equal(mesh.vertices[4], [0.2, 1.5, 0])
        np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 1, 2], [0, 2, 3], [0, 3, 4], [4, 3, 2]])


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_obj_is_read_the_same_in_blocks_of_any_size(tmp_path: Path, monkeypatch, block: int) -> None:
    write_mesh(tmp_path / "a.obj", MESH)
    data = (tmp_path / "a.obj").read_bytes() + b"f -1 -2 -3\nv 1 2 3\nf -1 -2 -3"
    expected_vertices, expected_triangles = obj.read(data)
    monkeypatch.setattr(obj, "BLOCK", block)
    vertices, triangles = obj.read(data)
    np.testing.assert_array_equal(vertices, expected_vertices)
    np.testing.assert_array_equal(triangles, expected_triangles)
    v = len(vertices)
    np.testing.assert_array_equal(triangles[-2:], [[v - 2, v - 3, v - 4], [v - 1, v - 2, v - 3]])


# --- PLY

TEXT_PLY = """ply
format ascii 1.0
comment made by hand
obj_info nothing
element camera 1
property float fov
property list uchar float pose
element vertex 5
property uchar red
property double x
property double y
property double z
element face 2
property list uchar int vertex_indices
property uchar group
element extra 1
property int value
end_header
60 2 0.5 0.25
255 0 0 0
255 1 0 0
255 1 1 0
0 0 1 0
0 0.1 2.5 -1e-3
4 0 1 2 3 7
3 3 2 4 7
12
"""


def binary_ply(order: str, polygons: list[list[int]]) -> bytes:
    name = {"<": "little", ">": "big"}[order]
    header = f"""ply
format binary_{name}_endian 1.0
element vertex 4
property float x
property float y
property float z
property uchar alpha
element face {len(polygons)}
property float weight
property list uint8 uint16 vertex_index
end_header
"""
    corners = [(0, 0, 0, 9), (1, 0, 0, 9), (1, 1, 0, 9), (0, 1, 0.5, 9)]
    vertices = b"".join(struct.pack(order + "fffB", *corner) for corner in corners)
    faces = b"".join(struct.pack(f"{order}fB{len(p)}H", 0.5, len(p), *p) for p in polygons)
    return header.encode() + vertices + faces


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_ply_with_further_elements_and_properties(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.ply").write_bytes(TEXT_PLY.replace("\n", end).encode())
    mesh = read_mesh(tmp_path / "a.ply")
    np.testing.assert_array_equal(mesh.vertices[4], [0.1, 2.5, -1e-3])
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3], [3, 2, 4]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("polygons", [[[0, 1, 2], [0, 2, 3]], [[0, 1, 2, 3]], [[0, 1, 2, 3], [0, 1, 2], [1, 2]]])
def test_binary_ply_of_either_order_with_any_polygons(tmp_path: Path, order: str, polygons) -> None:
    (tmp_path / "a.ply").write_bytes(binary_ply(order, polygons))
    mesh = read_mesh(tmp_path / "a.ply")
    expected = [[p[0], p[k], p[k + 1]] for p in polygons for k in range(1, len(p) - 1)]
    np.testing.assert_array_equal(mesh.triangles, expected)
    np.testing.assert_array_equal(mesh.vertices[3], [0, 1, 0.5])


# --- GLB


def test_glb_nodes_are_placed_in_file_order(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    turns = trimesh.transformations.random_rotation_matrix(np.array([0.1, 0.5, 0.9]))
    turns[:3, 3] = [10, 0, 0]
    mirror = np.diag([-1.0, 1, 1, 1])
    parts = {"z": np.eye(4), "a": turns, "m": mirror}
    for name, placement in parts.items():
        part = trimesh.Trimesh(MESH.vertices, MESH.triangles, process=False)
        scene.add_geometry(part, node_name=name, geom_name=f"part {name}", transform=placement)
    scene.export(tmp_path / "a.glb")
    mesh = read_mesh(tmp_path / "a.glb", "m")
    for number, placement in enumerate(parts.values()):
        own = slice(number * len(MESH.vertices), (number + 1) * len(MESH.vertices))
        expected = trimesh.transformations.transform_points(MESH.vertices, placement) * 1000
        np.testing.assert_allclose(mesh.vertices[own], expected, rtol=1e-5, atol=1e-2)
    third = slice(2 * len(MESH.triangles), None)
    assert (mesh.triangle_normals[third, 2] > 0).all()  # mirrored, yet not inside out


def glb_bytes(document: dict, binary: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(binary), len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


def two_material_glb() -> tuple[dict, bytes]:
    """A strip of two triangles, one of each material, over one interleaved, quantised vertex buffer."""
    corners = np.array([[0, 0, 0], [127, 0, 0], [127, 127, 0], [0, 127, -127]], dtype=np.int8)
    interleaved = np.concatenate([corners, np.zeros((4, 1), np.int8)], axis=1).tobytes()
    indices = bytes([0, 1, 2, 0, 2, 3, 0, 0])
    position = {"bufferView": 0, "componentType": 5120, "normalized": True, "count": 4, "type": "VEC3"}
    index = {"bufferView": 1, "componentType": 5121, "count": 3, "type": "SCALAR"}
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [1]}],
        "nodes": [{"mesh": 0, "scale": [2, 2, 2]}, {"children": [0], "translation": [0, 0, 1]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": k} for k in (1, 2)]}],
        "accessors": [position, index, index | {"byteOffset": 3}],
        "bufferViews": [
            {"buffer": 0, "byteLength": 16, "byteStride": 4},
            {"buffer": 0, "byteOffset": 16, "byteLength": 6},
        ],
        "buffers": [{"byteLength": 24}],
    }
    return document, interleaved + indices


def test_glb_parts_that_share_vertices_go_on_sharing_them(tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_bytes(glb_bytes(*two_material_glb()))
    mesh = read_mesh(tmp_path / "a.glb", "m")
    np.testing.assert_allclose(mesh.vertices / 1000, [[0, 0, 1], [2, 0, 1], [2, 2, 1], [0, 2, -1]])
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3]])


GLB_EDITS = {
    "circle": lambda d: d["nodes"][0].update(children=[1]),
    "diamond": lambda d: d["nodes"][1].update(children=[0] * 1000),
    "far": lambda d: d["accessors"][0].update(byteOffset=20),
    "before": lambda d: d["accessors"][1].update(byteOffset=-4),
    "huge": lambda d: d["accessors"][0].update(count=2_000_000_000),
    "overlap": lambda d: d["bufferViews"][0].update(byteStride=0),
    "sparse": lambda d: d["accessors"][0].update(sparse={}),
    "elsewhere": lambda d: d["buffers"][0].update(uri="../secret"),
    "compressed": lambda d: d["accessors"][0].pop("bufferView"),
    "lines": lambda d: [p.update(mode=1) for p in d["meshes"][0]["primitives"]],
    "no scene": lambda d: d.pop("scenes"),
    "out of range": lambda d: d["accessors"][0].update(count=2),
    "list": lambda d: d.update(nodes=3),
    "nan": lambda d: d["nodes"][1].update(translation=[float("nan"), 0, 0]),
    "infinite": lambda d: d["nodes"][0].update(scale=[1e308] * 3),
}


@pytest.mark.parametrize("edit", GLB_EDITS)
def test_a_hand_edited_glb_is_refused(tmp_path: Path, edit: str) -> None:
    document, binary = two_material_glb()
    GLB_EDITS[edit](document)
    (tmp_path / "a.glb").write_bytes(glb_bytes(document, binary))
    with pytest.raises(MeshganError, match=r"a\.glb"):
        read_mesh(tmp_path / "a.glb", "m")


# --- hostile files


def hostile() -> dict[str, bytes]:
    garbage = np.random.default_rng(0).bytes(5000)
    huge_ply = b"ply\nformat binary_little_endian 1.0\nelement vertex 2000000000\nproperty float x\nproperty float y\n"
    huge_ply += b"property float z\nelement face 2000000000\nproperty list int int vertex_indices\nend_header\n"
    v = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    cases = {f"garbage{ending}": garbage for ending in files.READERS}
    cases |= {f"empty{ending}": b"" for ending in files.READERS}
    cases |= {f"zeros{ending}": b"\0" * 3000 for ending in files.READERS}
    return cases | {
        "huge.ply": huge_ply + b"\0" * 100,
        "huge_text.ply": huge_ply.replace(b"binary_little_endian", b"ascii") + b"1 2 3\n",
        "huge_list.ply": TEXT_PLY.encode().replace(b"4 0 1 2 3 7", b"2000000000 0 1 2 3 7"),
        "negative_list.ply": TEXT_PLY.encode().replace(b"4 0 1 2 3 7", b"-4 0 1 2 3 7"),
        "endless_list.ply": TEXT_PLY.encode().replace(b"4 0 1 2 3 7", b"inf 0 1 2 3 7"),
        "negative.ply": TEXT_PLY.encode().replace(b"vertex 5", b"vertex -5"),
        "digits.ply": TEXT_PLY.encode().replace(b"vertex 5", b"vertex " + b"9" * 5000),
        "word.ply": TEXT_PLY.encode().replace(b"2.5", b"two"),
        "nan.ply": TEXT_PLY.encode().replace(b"2.5", b"nan"),
        "infinite.ply": TEXT_PLY.encode().replace(b"2.5", b"inf"),
        "out_of_range.ply": TEXT_PLY.encode().replace(b"3 3 2 4", b"3 3 2 5"),
        "below_zero.ply": TEXT_PLY.encode().replace(b"3 3 2 4", b"3 3 2 -1"),
        "fraction.ply": TEXT_PLY.encode().replace(b"3 3 2 4", b"3 3 2 1.5"),
        "no_faces.ply": TEXT_PLY.encode().replace(b"element face 2", b"element face 0"),
        "unknown_type.ply": TEXT_PLY.encode().replace(b"double x", b"quad x"),
        "twice.ply": TEXT_PLY.encode().replace(b"double y", b"double x"),
        "endless_header.ply": b"ply\n" + b"comment x\n" * 100_000,
        "no_format.ply": b"ply\nelement vertex 1\nend_header\n",
        "points.obj": v,
        "nan.obj": v + b"v nan 0 0\nf 1 2 3\n",
        "infinite.obj": v + b"v 1e999 0 0\nf 1 2 3\n",
        "word.obj": v + b"f 1 2 x\n",
        "zero.obj": v + b"f 0 1 2\n",
        "out_of_range.obj": v + b"f 1 2 4\n",
        "far_back.obj": v + b"f -1 -2 -4\n",
        "short.obj": v + b"v 1 2\nf 1 2 3\n",
        "fraction.obj": v + b"f 1 2 2.5\n",
        "gigantic.obj": v + b"f 1 2 99999999999999999999\n",
        "huge.stl": b"\0" * 80 + struct.pack("<I", 2_000_000_000) + b"\0" * 500,
        "none.stl": b"\0" * 80 + struct.pack("<I", 0),
        "nan.stl": b"\0" * 80 + struct.pack("<I", 1) + struct.pack("<12fH", *[np.nan] * 12, 0),
        "cut.stl": b"solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 0 1 0\n",
        "word.stl": b"solid x\nvertex 0 0 0\nvertex 0 1 0\nvertex 0 1 a\nendsolid",
        "no_json.glb": struct.pack("<4sIII4s", b"glTF", 2, 24, 4, b"JSON") + b"{}  ",
        "deep.glb": struct.pack("<4sIII4s", b"glTF", 2, 100_020, 100_000, b"JSON") + b"[" * 100_000,
    }


@pytest.mark.parametrize(("name", "content"), hostile().items(), ids=hostile())
def test_a_hostile_file_is_one_sentence_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    start = time.monotonic()
    with pytest.raises(MeshganError) as caught:
        read_mesh(tmp_path / name)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 100 + len(str(tmp_path / name))
    assert caught.value.exit_status == 1


@pytest.mark.parametrize("ending", [".ply", ".stl", ".glb"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, ending: str) -> None:
    write_mesh(tmp_path / f"whole{ending}", MESH)
    data = (tmp_path / f"whole{ending}").read_bytes()
    path = tmp_path / f"cut{ending}"
    for size in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:size])
        with pytest.raises(MeshganError, match=rf"cut\{ending}"):
            read_mesh(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_with_any_bytes_changed_is_a_mesh_or_an_error(tmp_path_factory, data) -> None:
    ending = data.draw(st.sampled_from(list(files.WRITERS)))
    path = tmp_path_factory.mktemp("mesh") / f"mesh{ending}"
    write_mesh(path, bumpy(2, 2))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert np.isfinite(read_mesh(path).vertices).all()
    except MeshganError as error:
        assert path.name in str(error)


def test_wrong_use_is_said(tmp_path: Path) -> None:
    write_mesh(tmp_path / "a.ply", MESH)
    (tmp_path / "folder.ply").mkdir()
    for path, unit, message in (
        ("missing.ply", "mm", r"missing\.ply does not exist"),
        ("folder.ply", "mm", r"folder\.ply does not exist or is not a file"),
        ("a.fbx", "mm", r"a\.fbx: meshes are read from \.obj, \.ply, \.glb, \.stl files only"),
        ("a.ply", "inch", "choose one of mm, cm, m"),
    ):
        with pytest.raises(UsageError, match=message):
            read_mesh(tmp_path / path, unit)
    with pytest.raises(UsageError, match=r"a\.fbx: meshes are written as"):
        write_mesh(tmp_path / "a.fbx", MESH)
    with pytest.raises(UsageError, match="without triangles"):
        write_mesh(tmp_path / "b.glb", Mesh([[0, 0, 0]], []))


def test_a_file_too_large_is_refused_unread(tmp_path: Path, monkeypatch) -> None:
    write_mesh(tmp_path / "a.ply", MESH)
    monkeypatch.setattr(files, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match="larger than"):
        read_mesh(tmp_path / "a.ply")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_mesh(tmp_path / "a.ply", MESH)
    before = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "b.ply").mkdir()
    with pytest.raises(MeshganError):
        write_mesh(tmp_path / "b.ply", MESH)
    assert (tmp_path / "a.ply").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ply", "b.ply"]


@pytest.mark.skipif(not SCANS.is_dir(), reason="the real scans are not here")
def test_real_scans() -> None:
    james = read_mesh(SCANS / "james/james.obj")
    assert james.vertices.shape == (6393, 3)  # its v lines; there are 6,680 texture coordinates
    assert james.triangles.shape == (12228, 3)
    head = read_mesh(SCANS / "lee_perry_smith/LeePerrySmith.ply")
    assert head.vertices.shape == (8838, 3)
    assert head.triangles.shape == (17672, 3)
