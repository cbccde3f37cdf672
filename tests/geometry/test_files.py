import json
import re
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from meshgan.errors import MeshganError, MeshganWarning, UsageError
from meshgan.geometry import files, glb
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.mesh import Mesh, strips
from meshgan.geometry.plaintext import Words
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


@settings(max_examples=40)
@given(meshes(), st.sampled_from([".ply", ".obj"]))
def test_ply_and_obj_give_float32_vertices_back_exactly(tmp_path_factory, mesh: Mesh, ending: str) -> None:
    path = tmp_path_factory.mktemp("mesh") / f"mesh{ending}"
    write_mesh(path, mesh)
    again = read_mesh(path)
    np.testing.assert_array_equal(again.vertices.astype(np.float32), mesh.vertices.astype(np.float32))
    np.testing.assert_array_equal(again.triangles, mesh.triangles)


@settings(max_examples=40)
@given(meshes())
def test_stl_gives_the_corners_of_the_triangles_back(tmp_path_factory, mesh: Mesh) -> None:
    path = tmp_path_factory.mktemp("mesh") / "mesh.stl"
    write_mesh(path, mesh)
    again = read_mesh(path)
    np.testing.assert_array_equal(again.vertices[again.triangles], mesh.vertices[mesh.triangles])
    assert len(np.unique(again.vertices, axis=0)) == len(again.vertices)


@settings(max_examples=20)
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
    again = read_mesh(tmp_path / f"mesh.{ending}", glb_unit="mm")  # trimesh writes the numbers that it is given
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
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_mesh(tmp_path / folder / f"face{ending}", MESH)
        assert (tmp_path / f"a/face{ending}").read_bytes() == (tmp_path / f"b/face{ending}").read_bytes()


def test_a_scene_names_each_mesh_after_its_file(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        write_mesh(tmp_path / f"{name}.glb", MESH)
        scene = trimesh.load_scene(tmp_path / f"{name}.glb")
        assert name in scene.graph.nodes
        assert list(scene.geometry) == [f"{name}-mesh"]


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
    expected_vertices, expected_triangles = files.read_obj(data)
    monkeypatch.setattr(files, "BLOCK", block)
    vertices, triangles = files.read_obj(data)
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
    "huge": lambda d: d["accessors"][0].update(count=1_000_000_000),
    "overlap": lambda d: d["bufferViews"][0].update(byteStride=0),
    "sparse": lambda d: d["accessors"][0].update(sparse={}),
    "elsewhere": lambda d: d["buffers"][0].update(uri="../secret"),
    "compressed": lambda d: d["accessors"][0].pop("bufferView"),
    "lines": lambda d: [p.update(mode=1) for p in d["meshes"][0]["primitives"]],
    "no scene": lambda d: d.update(scene=1),
    "float": lambda d: d["accessors"][0].update(count=4.0),
    "compression": lambda d: d.update(extensionsRequired=["EXT_meshopt_compression"]),
    "too many targets": lambda d: (
        d["meshes"][0].update(weights=[1]) or d["meshes"][0]["primitives"][0].update(targets=[{"POSITION": 1}])
    ),
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
        "huge.stl": b"\0" * 80 + struct.pack("<I", 1_000_000_000) + b"\0" * 500,
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
    start = time.process_time()
    with pytest.raises(MeshganError) as caught:
        read_mesh(tmp_path / name)
    assert time.process_time() - start < 5
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 150 + len(str(tmp_path / name))
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


@settings(max_examples=60)
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


# --- what other programs write: valid, if unusual, or refused with the reason

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5], [2, 2, 2]], dtype=np.float64)
FACES = np.array([[0, 1, 2], [0, 2, 3], [2, 4, 3]])
XYZ = "property float x\nproperty float y\nproperty float z\n"
TEXT_OBJ = "".join(f"v {x:.2f} {y:.2f} {z:.2f}\n" for x, y, z in CORNERS) + "f 1 2 3\nf 1 3 4\nf 3 5 4\n"
TEXT_STL = (
    "solid a\n"
    + "".join(
        "facet normal 0 0 1\nouter loop\n"
        + "".join(f"vertex {x:g} {y:g} {z:g}\n" for x, y, z in CORNERS[face])
        + "endloop\nendfacet\n"
        for face in FACES
    )
    + "endsolid a\n"
)


def ply(
    layout: str, vertex: str = XYZ, face: str = "element face 3\nproperty list uchar int vertex_indices\n"
) -> bytes:
    return f"ply\nformat {layout} 1.0\nelement vertex 5\n{vertex}{face}end_header\n".encode()


ROWS = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in CORNERS) + "".join(f"3 {a} {b} {c}\n" for a, b, c in FACES)
BINARY_FACES = b"".join(b"\3" + face.astype("<i4").tobytes() for face in FACES)
SOUND = {
    "mark.obj": b"\xef\xbb\xbf" + TEXT_OBJ.encode(),
    "cr.obj": TEXT_OBJ.replace("\n", "\r").encode(),
    "utf16.obj": TEXT_OBJ.encode("utf-16"),
    "utf16 without a mark.obj": TEXT_OBJ.encode("utf-16-be"),
    "capitals.OBJ": TEXT_OBJ.upper().encode(),
    "blanks.obj": TEXT_OBJ.replace(" ", " \t ").replace("v", "  v").encode(),
    "nan colours.obj": re.sub(r"(v .*)", r"\1 nan nan nan", TEXT_OBJ).encode(),
    "words behind.obj": re.sub(r"(v .*)", r"\1 red and blue", TEXT_OBJ).encode(),
    "latin.obj": b"usemtl M\xfcller\n" + TEXT_OBJ.encode() + b"\x1a",
    "mark.ply": b"\xef\xbb\xbf" + ply("ascii") + ROWS.encode(),
    "blank line first.ply": b"\n" + ply("ascii") + ROWS.encode(),
    "ctrl z.ply": ply("ascii") + ROWS.encode() + b"\x1a",
    "utf16.ply": (ply("ascii").decode() + ROWS).encode("utf-16"),
    "cr.ply": (ply("ascii").decode() + ROWS).replace("\n", "\r").encode(),
    "capitals.ply": ply("ascii").upper() + ROWS.encode(),
    "longer rows.ply": ply("ascii") + ROWS.replace("\n", " 9 9\n").encode(),
    "words behind.ply": ply("ascii") + ROWS.encode() + b"the end\n",
    "one line.ply": ply("ascii") + ROWS.replace("\n", " ").encode(),
    "one number a line.ply": ply("ascii") + ROWS.replace(" ", "\n").encode(),
    "empty lines.ply": ply("ascii") + ROWS.replace("\n", "\n\n").encode(),
    "list in text.ply": ply("ascii", XYZ + "property list uchar float w\n")
    + re.sub(r"(?m)^(\S+ \S+ \S+)$", r"\1 2 .5 .5", ROWS).encode(),
    "list in vertex.ply": ply("binary_little_endian", "property list uchar float w\n" + XYZ)
    + b"".join(bytes([k]) + b"\0\0\0\0" * k + v.astype("<f4").tobytes() for k, v in enumerate(CORNERS))
    + BINARY_FACES,
    "repeated.ply": ply("binary_little_endian", XYZ + "property uchar q\nproperty uchar q\n")
    + b"".join(v.astype("<f4").tobytes() + b"\0\0" for v in CORNERS)
    + BINARY_FACES,
    "strips.ply": ply("binary_little_endian", face="element tristrips 1\nproperty list int int vertex_indices\n")
    + CORNERS.astype("<f4").tobytes()
    + np.array([12, 0, 1, 2, -1, 0, 2, 3, -1, 2, 4, 3, -1], "<i4").tobytes(),
    "behind.ply": ply("binary_little_endian") + CORNERS.astype("<f4").tobytes() + BINARY_FACES + b"more",
    "cr header.ply": ply("binary_little_endian").replace(b"\n", b"\r") + CORNERS.astype("<f4").tobytes() + BINARY_FACES,
    "mark.stl": b"\xef\xbb\xbf" + TEXT_STL.encode(),
    "capitals.stl": TEXT_STL.upper().encode(),
    "cr.stl": TEXT_STL.replace("\n", "\r").encode(),
    "utf16.stl": TEXT_STL.encode("utf-16"),
    "longer rows.stl": re.sub(r"(vertex .*)", r"\1 7 x", TEXT_STL).encode() + b"and more\n",
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_is_valid_if_unusual_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SOUND[name])
    mesh = read_mesh(tmp_path / name)
    np.testing.assert_allclose(mesh.vertices[mesh.triangles], CORNERS[FACES])
    assert len(mesh.vertices) == len(CORNERS)


TOLD = {
    "comma.obj": (TEXT_OBJ.replace(".", ","), "line 1: '0,00' is not a number; write decimals with a point"),
    "word.obj": (TEXT_OBJ.replace("f 1 3 4", "f 1 x 4"), "line 7: 'x' is not a number"),
    "thousands.obj": (TEXT_OBJ.replace("v 1.00", "v 1_000"), "line 2: '1_000' is not a number"),
    "short.obj": (TEXT_OBJ.replace("v 1.00 0.00 0.00", "v 1 0"), "line 2: a vertex needs three"),
    "zero.obj": (TEXT_OBJ.replace("f 1 2 3", "f 0 2 3"), "line 6 names a vertex that cannot be"),
    "comma.ply": (ply("ascii").decode() + ROWS.replace("0.5", "0,5"), "line 13: '0,5' is not a number; write"),
    "short.ply": (ply("ascii").decode() + ROWS.replace("0 1 0.5", "0 1"), "line 13 has fewer numbers"),
    "list.ply": (ply("ascii").decode() + ROWS.replace("3 0 1 2", "4 0 1 2"), "line 15 has fewer numbers"),
    "second list.ply": (
        ply("ascii", face="element face 3\nproperty list uchar int a\nproperty list uchar int b\n").decode() + ROWS,
        "line 16 has fewer numbers",
    ),
    "header.ply": (
        ply("ascii").decode().replace("float x", "quad x") + ROWS,
        "line 4, 'property quad x', means nothing",
    ),
    "no corners.ply": (
        ply("ascii", face="element face 3\nproperty list uchar int corners\n").decode() + ROWS,
        "its element 'face' has no property 'vertex_indices'",
    ),
    "header alone.stl": ("\0" * 84, "it holds no triangles"),
    "less than a header.stl": ("\0" * 83, "it is shorter than a header"),
    "no x.ply": (ply("ascii").decode().replace("float x", "float a") + ROWS, "'vertex' has no property 'x'"),
    "comma.stl": (TEXT_STL.replace("0.5", "0,5"), "'0,5' is not a number; write decimals with a point"),
    "short.stl": (TEXT_STL.replace("vertex 0 1 0.5", "vertex 0 1"), "a vertex needs three coordinates"),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_wrong_is_told_with_line_and_word(tmp_path: Path, name: str) -> None:
    content, reason = TOLD[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(MeshganError) as caught:
        read_mesh(tmp_path / name)
    assert reason in str(caught.value)
    assert "cut off" not in str(caught.value) or "three" in reason


@settings(max_examples=100)
@given(st.lists(st.floats(-1e300, 1e300) | st.floats(-1e9, 1e9) | st.integers(-(10**19), 10**19), max_size=9))
def test_numbers_of_a_text_are_the_nearest_float64(values: list[float]) -> None:
    for form in ("{}", "{:+.3f}", "{:.17e}", "{:.17f}", "0{:.6g}"):
        words = [form.format(value) for value in values if form != "0{:.6g}" or value > 0]
        found = Words.of(" ".join(words).encode()).numbers()
        np.testing.assert_array_equal(found, [float(word) for word in words])


@settings(max_examples=100)
@given(st.text(alphabet="0123456789+-.eE_xnafi ,\n", max_size=40))
def test_words_are_numbers_where_python_says_so(text: str) -> None:
    def number(word: str) -> bool:
        try:
            float(word)
        except ValueError:
            return False
        return "_" not in word

    words = Words.of(text.encode())
    assert words.counts.sum() == len(text.split())
    assert words.counts.tolist() == [len(line.split()) for line in text.split("\n")]
    if all(map(number, text.split())):
        np.testing.assert_array_equal(words.numbers(), [float(word) for word in text.split()])
    else:
        first = next(word for word in text.split() if not number(word))
        with pytest.raises(MeshganError, match=re.escape(f"'{first[:20]}'")):
            words.numbers()


@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=5))
def test_strips_are_their_triangles_one_by_one(parts: list[list[int]]) -> None:
    expected = []
    for part in parts:
        for k in range(len(part) - 2):
            a, b, c = part[k : k + 3]
            if len({a, b, c}) == 3:
                expected.append((b, a, c) if k % 2 else (a, b, c))
    corners = [corner for part in parts for corner in [*part, -1]]
    assert strips(np.array(corners, dtype=np.int64)).tolist() == [list(t) for t in expected]


# --- GLB as viewers show it


def test_glb_strips_and_fans_are_triangles(tmp_path: Path) -> None:
    document, binary = two_material_glb()
    for mode in (5, 6):
        document["meshes"][0]["primitives"] = [{"attributes": {"POSITION": 0}, "mode": mode}]
        (tmp_path / "a.glb").write_bytes(glb_bytes(document, binary))
        expected = [[0, 1, 2], [2, 1, 3]] if mode == 5 else [[0, 1, 2], [0, 2, 3]]
        assert read_mesh(tmp_path / "a.glb").triangles.tolist() == expected


def test_glb_parts_that_are_no_surface_and_meshes_beside_the_scene_are_told(tmp_path: Path) -> None:
    document, binary = two_material_glb()
    document["meshes"][0]["primitives"][1]["mode"] = 1
    document["nodes"].append({"mesh": 0})
    (tmp_path / "a.glb").write_bytes(glb_bytes(document, binary))
    with pytest.warns(MeshganWarning) as told:
        assert len(read_mesh(tmp_path / "a.glb").triangles) == 1
    assert ["1 part made of points" in str(w.message) or "1 mesh outside" in str(w.message) for w in told] == [True] * 2


@settings(max_examples=20)
@given(st.lists(st.floats(-1, 2), min_size=2, max_size=2))
def test_glb_default_weights_shape_the_mesh(tmp_path_factory, weights: list[float]) -> None:
    path = tmp_path_factory.mktemp("mesh") / "a.glb"
    shifts = np.random.default_rng(0).normal(size=(2, *MESH.vertices.shape))
    path.write_bytes(glb.write(MESH, {"a": shifts[0], "b": shifts[1]}, dict(zip("ab", weights, strict=True))))
    np.testing.assert_allclose(read_mesh(path).vertices, MESH.vertices + np.tensordot(weights, shifts, 1), atol=1e-4)


def test_glb_sparse_accessors_are_filled(tmp_path: Path) -> None:
    whole = glb.write(MESH)
    size = struct.unpack_from("<I", whole, 12)[0]
    document, binary = json.loads(whole[20 : 20 + size]), whole[28 + size :]
    indices, values = np.array([3, 5], "<u2").tobytes(), np.array([[1, 2, 3], [4, 5, 6]], "<f4").tobytes()
    views = document["bufferViews"]
    views += [{"buffer": 0, "byteOffset": len(binary), "byteLength": 4}]
    views += [{"buffer": 0, "byteOffset": len(binary) + 4, "byteLength": 24}]
    document["buffers"][0]["byteLength"] += 28
    document["accessors"][0]["sparse"] = {
        "count": 2,
        "indices": {"bufferView": len(views) - 2, "componentType": 5123},
        "values": {"bufferView": len(views) - 1},
    }
    (tmp_path / "a.glb").write_bytes(glb_bytes(document, binary + indices + values))
    mesh = read_mesh(tmp_path / "a.glb")
    np.testing.assert_allclose(mesh.vertices[[3, 5]], [[1000, 2000, 3000], [4000, 5000, 6000]])
    np.testing.assert_allclose(np.delete(mesh.vertices, [3, 5], 0), np.delete(rounded(MESH), [3, 5], 0), rtol=1e-6)


def test_glb_skins_move_vertices_by_their_joints_and_not_by_their_node(tmp_path: Path) -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4")
    joints = np.array([[0, 1, 0, 0]] * 3, "u1")
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0]], "<f4")
    inverse = np.stack([np.eye(4), np.eye(4)]).astype("<f4")
    inverse[1, 3, :3] = [-1, 0, 0]  # columns first: the second joint's rest place is (1, 0, 0)
    parts = [corners.tobytes(), joints.tobytes(), weights.tobytes(), inverse.tobytes()]
    offsets = np.cumsum([0, *map(len, parts)]).tolist()
    kinds = [(5126, 3, "VEC3"), (5121, 3, "VEC4"), (5126, 3, "VEC4"), (5126, 2, "MAT4")]
    document = {
        "asset": {"version": "2.0"},
        "nodes": [
            {"mesh": 0, "skin": 0, "translation": [9, 9, 9]},
            {"children": [2], "translation": [0, 0, 1]},
            {"translation": [1, 0, 0], "scale": [2, 2, 2]},
        ],
        "skins": [{"joints": [1, 2], "inverseBindMatrices": 3}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "JOINTS_0": 1, "WEIGHTS_0": 2}}]}],
        "accessors": [
            {"bufferView": k, "componentType": c, "count": n, "type": t} for k, (c, n, t) in enumerate(kinds)
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": o, "byteLength": len(p)} for o, p in zip(offsets, parts, strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1]}],
    }
    (tmp_path / "a.glb").write_bytes(glb_bytes(document, b"".join(parts)))
    first, second = [0, 0, 1], [1 + 2 * (1 - 1), 0, 1]
    third = 0.5 * np.array([0, 1, 1]) + 0.5 * np.array([1 + 2 * (0 - 1), 2, 1])
    np.testing.assert_allclose(read_mesh(tmp_path / "a.glb").vertices / 1000, [first, second, third])


# --- bombs: small files that would take long, or unfold to much


def bombs() -> dict[str, bytes]:
    document, binary = two_material_glb()
    many = document | {"nodes": [{"mesh": 0}] * 50_000, "scenes": [{"nodes": list(range(50_000))}]}
    parts = document | {"meshes": [{"primitives": document["meshes"][0]["primitives"] * 15_000}]}
    positions = np.zeros((60_000, 3), "<f4").tobytes()
    repeated = {
        "asset": {},
        "nodes": [{"mesh": 0}] * 10_000,
        "scenes": [{"nodes": list(range(10_000))}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 60_000, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(positions)}],
        "buffers": [{"byteLength": len(positions)}],
    }
    polygon = "ply\nformat binary_little_endian 1.0\nelement vertex 5\n" + XYZ + "element face 1\n"
    polygon += "property list int uchar vertex_indices\nend_header\n"
    twelve = 11_000_000
    return {
        "blank lines.stl": b"solid a\n" + b"\n" * 1_000_000,
        "blanks.stl": b"solid a\n" + b" \t" * 1_000_000,
        "words.stl": b"solid a\n" + b"vertex\n" * 300_000,
        "faces.obj": b"v 0 0 0\nv 0 1 0\n" + b"f 1 2 3\n" * 300_000,
        "blank lines.obj": b"\n" * 1_000_000,
        "polygon.obj": b"v 0 0 0\nf " + b"1 " * 11_000_000,
        "polygon.ply": polygon.encode() + bytes(60) + struct.pack("<i", twelve) + bytes(twelve),
        "rows.ply": ply("ascii").replace(b"face 3", b"face 2000000000") + b"0 0 0\n" * 5 + b"0\n" * 500_000,
        "nodes.glb": glb_bytes(many, binary),
        "parts.glb": glb_bytes(parts, binary),
        "repeated.glb": glb_bytes(repeated, positions),
    }


@pytest.mark.parametrize(("name", "content"), bombs().items(), ids=bombs())
def test_a_bomb_is_refused_in_time_and_memory_of_its_size(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(MeshganError, match=re.escape(name)):
            read_mesh(tmp_path / name)
        seconds, most = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 60  # they took hours, or for ever; measuring memory slows everything down
    assert most < 64 * len(content) + 2e8


@pytest.mark.parametrize("ending", [".ply", ".obj", ".stl", ".glb"])
@pytest.mark.parametrize("unit", ["mm", "cm", "m"])
def test_our_own_glb_is_in_metres_whatever_the_unit_of_other_files(tmp_path: Path, ending: str, unit: str) -> None:
    write_mesh(tmp_path / f"a{ending}", MESH)
    expected = MESH.vertices[MESH.triangles] * (1 if ending == ".glb" else files.MILLIMETRES[unit])
    mesh = read_mesh(tmp_path / f"a{ending}", unit)
    np.testing.assert_allclose(mesh.vertices[mesh.triangles], expected, rtol=1e-5, atol=1e-3)


# --- GLB by the specification


def triangle_glb(**parts) -> tuple[dict, bytes]:
    """One triangle of corners e1, e2, e3 in metres, with other parts of the description."""
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36}],
    }
    return document | parts, np.eye(3, dtype="<f4").tobytes()


def placed(**parts) -> np.ndarray:
    """The vertices in metres of that triangle as they are read."""
    return glb.read(glb_bytes(*triangle_glb(**parts)))[0]


unit = st.floats(-1, 1)


@settings(max_examples=30)
@given(st.tuples(unit, unit, unit, unit).filter(lambda q: np.linalg.norm(q) > 0.1), st.tuples(unit, unit, unit))
def test_glb_nodes_are_scaled_then_turned_then_moved(turn: tuple, other: tuple) -> None:
    q = np.array(turn) / np.linalg.norm(turn)
    x, y, z, w = q.tolist()
    node = {"mesh": 0, "rotation": [x, y, z, w], "scale": [2, 3, 4], "translation": list(other)}
    expected = (Rotation.from_quat(q).as_matrix() * [2, 3, 4]).T + other
    np.testing.assert_allclose(placed(nodes=[node]), expected, atol=1e-7)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = expected.T - np.array(other)[:, None], other
    np.testing.assert_allclose(placed(nodes=[{"mesh": 0, "matrix": matrix.T.ravel().tolist()}]), expected, atol=1e-7)
    parent = {"children": [0], "rotation": [0, 0, np.sqrt(0.5), np.sqrt(0.5)], "translation": [0, 0, 7]}
    turned = np.stack([-expected[:, 1], expected[:, 0], expected[:, 2] + 7], axis=1)
    np.testing.assert_allclose(placed(nodes=[node, parent]), turned, atol=1e-6)


def test_glb_mirrored_nodes_keep_their_outside() -> None:
    for scale, expected in (((1, 1, -1), [2, 1, 0]), ((1, -1, -1), [0, 1, 2]), ((-1, -1, -1), [2, 1, 0])):
        document, binary = triangle_glb(nodes=[{"mesh": 0, "scale": scale}])
        assert glb.read(glb_bytes(document, binary))[1].tolist() == [expected]


def test_glb_the_scene_that_a_file_names_is_read_else_the_first_else_all_roots() -> None:
    nodes = [{"mesh": 0, "translation": [10 * n, 0, 0]} for n in range(3)] + [{"children": [2]}]
    scenes = [{"nodes": [0]}, {"nodes": [3, 1]}]
    for parts, expected in (
        ({"scenes": scenes}, [0]),
        ({"scenes": scenes, "scene": 0}, [0]),
        ({"scenes": scenes, "scene": 1}, [20, 10]),  # depth first, in the order of the file
        ({}, [0, 10, 20]),
    ):
        found = placed(nodes=nodes, **parts)
        assert found[1::3, 0].tolist() == expected


def test_glb_nodes_may_lie_a_hundred_levels_deep() -> None:
    chain = [{"children": [n + 1], "translation": [0, 0, 1]} for n in range(100)]
    assert placed(nodes=[*chain, {"mesh": 0}])[2, 2] == 101
    with pytest.raises(MeshganError, match="circles"):
        placed(nodes=[*chain, {"children": [101]}, {"mesh": 0}])


@pytest.mark.parametrize(("kind", "code"), [("i1", 5120), ("u1", 5121), ("i2", 5122), ("u2", 5123)])
def test_glb_whole_numbers_are_read_as_they_are_or_as_shares(kind: str, code: int) -> None:
    limits = np.iinfo(kind)
    values = np.array([[limits.max, 0, 0], [0, limits.max, 0], [limits.min, 1, 100]], f"<{kind}")
    rows = np.zeros((3, 4), f"<{kind}")
    rows[:, :3] = values
    views = [{"buffer": 0, "byteOffset": 8, "byteLength": rows.nbytes, "byteStride": rows.strides[0]}]
    accessor = {"bufferView": 0, "byteOffset": 4, "componentType": code, "count": 3, "type": "VEC3"}
    parts = triangle_glb(bufferViews=views, accessors=[accessor])[0]
    binary = bytes(12) + rows.tobytes()
    np.testing.assert_array_equal(glb.read(glb_bytes(parts, binary))[0], values)
    accessor["normalized"] = True
    shares = np.maximum(values / float(limits.max), -1)
    np.testing.assert_allclose(glb.read(glb_bytes(parts, binary))[0], shares)
    with pytest.raises(MeshganError, match="beyond the file"):
        glb.read(glb_bytes(parts, binary[: -2 * values.itemsize]))  # the last row lacks a number
    glb.read(glb_bytes(parts, binary[: -values.itemsize]))  # and here only what lies between the rows


def test_glb_a_sparse_accessor_without_data_is_zero_elsewhere() -> None:
    binary = struct.pack("<2H", 0, 2) + np.array([[1, 2, 3], [4, 5, 6]], "<f4").tobytes()
    sparse = {"count": 2, "indices": {"bufferView": 0, "componentType": 5123}, "values": {"bufferView": 1}}
    document, _ = triangle_glb(
        accessors=[{"componentType": 5126, "count": 3, "type": "VEC3", "sparse": sparse}],
        bufferViews=[{"buffer": 0, "byteLength": 4}, {"buffer": 0, "byteOffset": 4, "byteLength": 24}],
    )
    assert glb.read(glb_bytes(document, binary))[0].tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 6]]
    with pytest.raises(MeshganError, match="outside its rows"):
        glb.read(glb_bytes(document, struct.pack("<2H", 0, 3) + binary[4:]))


@pytest.mark.parametrize(
    ("indices", "reason"),
    [([0, 1, 3], "point outside"), ([0, 1], "not complete"), ([0, 1, 2, 0], "not complete"), ([2, 0, 1, 1, 0, 2], "")],
)
def test_glb_indices_name_whole_triangles_of_its_vertices(indices: list[int], reason: str) -> None:
    document, binary = triangle_glb()
    document["meshes"][0]["primitives"][0]["indices"] = 1
    document["accessors"].append({"bufferView": 1, "componentType": 5121, "count": len(indices), "type": "SCALAR"})
    document["bufferViews"].append({"buffer": 0, "byteOffset": 36, "byteLength": len(indices)})
    data = glb_bytes(document, binary + bytes(indices) + bytes(-len(indices) % 4))
    if reason:
        with pytest.raises(MeshganError, match=reason):
            glb.read(data)
    else:
        assert glb.read(data)[1].ravel().tolist() == indices


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["nodes"][0].update(mesh=-1),
        lambda d: d["accessors"][0].update(bufferView=-1),
        lambda d: d["accessors"][0].update(count=3.0),
        lambda d: d["accessors"][0].update(byteOffset=-0.0),
        lambda d: d["bufferViews"][0].update(byteOffset=-4),
        lambda d: d["bufferViews"][0].update(byteStride=True),
        lambda d: d["meshes"][0]["primitives"][0]["attributes"].update(POSITION=-1),
    ],
)
def test_glb_indices_and_sizes_are_whole_and_not_negative(edit) -> None:
    """Python would count from the end."""
    document, binary = triangle_glb()
    edit(document)
    with pytest.raises(MeshganError, match="an index or a size that cannot be"):
        glb.read(glb_bytes(document, binary))


def test_glb_one_vertex_is_enough_for_a_triangle_without_area() -> None:
    document, binary = triangle_glb()
    document["meshes"][0]["primitives"][0]["indices"] = 1
    document["accessors"][0]["count"] = 1
    document["accessors"].append({"bufferView": 1, "componentType": 5121, "count": 3, "type": "SCALAR"})
    document["bufferViews"].append({"buffer": 0, "byteOffset": 36, "byteLength": 3})
    assert glb.read(glb_bytes(document, binary + bytes(4)))[1].tolist() == [[0, 0, 0]]
    with pytest.raises(MeshganError, match="point outside"):
        glb.read(glb_bytes(document, binary + bytes([0, 0, 1, 0])))


def skinned_glb(joints: list[list[int]], weights: list[list[float]]) -> tuple[dict, bytes]:
    document, binary = triangle_glb(
        nodes=[{"mesh": 0, "skin": 0}, {"translation": [0, 0, 1]}, {"translation": [0, 0, 5]}, {}],
        scenes=[{"nodes": [0, 1, 2]}],
        skins=[{"joints": [1, 2]}],
    )
    document["meshes"][0]["primitives"][0]["attributes"] |= {"JOINTS_0": 1, "WEIGHTS_0": 2}
    for size, code in ((12, 5121), (48, 5126)):
        views = document["bufferViews"]
        views.append({"buffer": 0, "byteOffset": sum(view["byteLength"] for view in views), "byteLength": size})
        document["accessors"].append({"bufferView": len(views) - 1, "componentType": code, "count": 3, "type": "VEC4"})
    return document, binary + np.array(joints, "u1").tobytes() + np.array(weights, "<f4").tobytes()


@pytest.mark.parametrize("block", [1, 2, 100])
def test_glb_shares_of_joints_are_made_to_sum_to_one(monkeypatch, block: int) -> None:
    monkeypatch.setattr(glb, "BLOCK", block)
    document, binary = skinned_glb([[0, 1, 0, 0]] * 3, [[2, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0.3, 0, 0]])
    found = glb.read(glb_bytes(document, binary))[0]
    np.testing.assert_allclose(found, [[1, 0, 1], [0, 1, 2], [0, 0, 6]], atol=1e-6)


def test_glb_targets_that_are_added_move_skinned_vertices_in_the_scene() -> None:
    """Through joints that turn and scale, and mixtures of them; what animated the shapes of before is gone."""
    document, binary = skinned_glb([[0, 1, 0, 0]] * 3, [[1, 0, 0, 0], [0, 1, 0, 0], [0.25, 0.75, 0, 0]])
    document["nodes"][1] |= {"rotation": [0, 0, 0.6, 0.8], "scale": [2, 2, 2]}
    document["nodes"][2] |= {"rotation": [0.6, 0, 0, 0.8]}
    times = {"input": 1, "output": 1}
    channels = [{"sampler": 0, "target": {"node": node, "path": path}} for node, path in ((0, "weights"), (1, "scale"))]
    document["animations"] = [{"samplers": [times], "channels": channels}]
    data = glb_bytes(document, binary)
    (surface,) = glb.placed(data)
    np.testing.assert_allclose(surface.vertices, glb.read(data)[0] * 1000)
    moves = np.array([[1.0, 2, 3], [0, 50, 0], [7, 0, -7]])
    none = np.zeros((3, 3))
    shapes = {"up": [glb.Shaped(moves, none, none)], "down": [glb.Shaped(-moves, none, none)]}
    added = glb.with_targets(data, [surface], shapes)
    length = int.from_bytes(added[12:16], "little")
    described = json.loads(added[20 : 20 + length])
    assert described["meshes"][0]["extras"] == {"targetNames": ["up", "down"]}
    assert [channel["target"]["path"] for channel in described["animations"][0]["channels"]] == ["scale"]
    described["meshes"][0]["weights"] = [1.0, 0.0]
    shaped = glb.read(glb_bytes(described, added[28 + length :]))[0]
    np.testing.assert_allclose(shaped * 1000, surface.vertices + moves, atol=1e-3)


def test_glb_skins_that_do_not_fit_are_refused() -> None:
    document, binary = skinned_glb([[0, 2, 0, 0]] * 3, [[1, 0, 0, 0]] * 3)
    with pytest.raises(MeshganError, match="does not fit"):
        glb.read(glb_bytes(document, binary))
    document["skins"][0]["joints"] = [1, 3, 2]
    with pytest.raises(MeshganError, match="not in the scene"):
        glb.read(glb_bytes(document, binary))
    document["skins"][0]["joints"] = [1, 1, 2]
    assert glb.read(glb_bytes(document, binary))[0][0].tolist() == [1, 0, 1]


def test_glb_headers_are_checked_and_what_follows_the_file_is_left_out() -> None:
    document, binary = triangle_glb()
    whole = glb_bytes(document, binary)
    np.testing.assert_array_equal(glb.read(whole + b"more")[0], np.eye(3))
    size = struct.unpack_from("<I", whole, 12)[0]
    for at, value, reason in (
        (4, 1, "glTF version 1"),
        (8, len(whole) + 1, "cut off"),
        (12, len(whole) - 19, "cut off"),
        (20 + size, len(binary) + 1, "binary part is cut off"),
    ):
        edited = bytearray(whole)
        struct.pack_into("<I", edited, at, value)
        with pytest.raises(MeshganError, match=reason):
            glb.read(bytes(edited))
    short = bytearray(whole[: 20 + size])
    struct.pack_into("<I", short, 8, len(short))
    with pytest.raises(MeshganError, match="beyond the file"):
        glb.read(bytes(short))
    with pytest.raises(MeshganError, match="KHR_draco_mesh_compression"):
        placed(extensionsRequired=["KHR_draco_mesh_compression"])
    np.testing.assert_array_equal(placed(extensionsRequired=["KHR_materials_unlit", "VRMC_vrm"]), np.eye(3))


@pytest.mark.parametrize("doubled", [[0], [1], [0, 0], [0, 0, 0], [2], [-1], ["0"], 1, None])
@pytest.mark.parametrize("changed", [False, True])
def test_glb_doubles_along_seams_are_joined_where_they_are_doubles(doubled, changed: bool) -> None:
    real = doubled in ([0], [1], [0, 0])
    points = np.eye(3, dtype="<f4")
    if real:
        points[3 - len(doubled) :] = points[doubled]
    points[2, 2] += changed  # somebody has moved it since
    document, _ = triangle_glb()
    document["meshes"][0]["primitives"][0]["extras"] = {"doubledVertices": doubled}
    vertices, triangles, *_ = glb.read(glb_bytes(document, points.tobytes()))
    owners = [*range(3 - len(doubled)), *doubled] if real and not changed else [0, 1, 2]
    assert triangles.tolist() == [owners]
    np.testing.assert_array_equal(vertices, points[: max(owners) + 1])
