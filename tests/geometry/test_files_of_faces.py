"""GLB files read back by independent readers, and judged by the Khronos validator where it is installed."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from khronos import accessor, issues_of, needs_validator
from meshgan.errors import MeshganError
from meshgan.geometry import glb
from meshgan.geometry.files import read_mesh, write_faces, write_glb
from meshgan.geometry.mesh import Layout, Mesh, Part

pygltflib = pytest.importorskip("pygltflib")

BALL = trimesh.creation.icosphere(subdivisions=2, radius=90)
FACE = Mesh(np.asarray(BALL.vertices) * [0.8, 1.1, 0.9], BALL.faces)
RNG = np.random.default_rng(0)
TARGETS = {"jawOpen": RNG.normal(size=FACE.vertices.shape), "Älter?": RNG.normal(size=FACE.vertices.shape)}


def test_an_independent_reader_finds_the_same_mesh(tmp_path: Path) -> None:
    write_glb(tmp_path / "face.glb", FACE, TARGETS)
    scene = trimesh.load_scene(tmp_path / "face.glb", process=False)
    (loaded,) = scene.geometry.values()
    np.testing.assert_allclose(loaded.vertices, FACE.vertices / 1000, atol=1e-7)
    np.testing.assert_array_equal(loaded.faces, FACE.triangles)
    np.testing.assert_allclose(loaded.vertex_normals, FACE.vertex_normals, atol=1e-6)


def test_vertices_that_stay_take_no_room() -> None:
    """A target of a few vertices names these alone; one of all does not name any; one of none is still one."""
    few, none = np.zeros(FACE.vertices.shape), np.zeros(FACE.vertices.shape)
    few[[3, 50]] = (1.0, 2.0, 3.0)
    gltf = pygltflib.GLTF2.load_from_bytes(as_bytes(FACE, {"few": few, "all": TARGETS["jawOpen"], "none": none}))
    found = [gltf.accessors[target["POSITION"]] for target in gltf.meshes[0].primitives[0].targets]
    assert [found[0].sparse.count, found[1].sparse, found[2].sparse.count] == [2, None, 1]
    for target, shift in zip(gltf.meshes[0].primitives[0].targets, (few, TARGETS["jawOpen"], none), strict=True):
        np.testing.assert_allclose(accessor(gltf, target["POSITION"]), shift / 1000, atol=1e-9)
    read, _, *_ = glb.read(as_bytes(FACE, {"few": few}, weights={"few": 0.5}))
    np.testing.assert_allclose(read, (FACE.vertices + 0.5 * few) / 1000, atol=1e-7)


@given(st.lists(st.floats(-1, 2), min_size=2, max_size=2))
@settings(max_examples=20)
def test_weights_reproduce_the_vertices(weights: list[float]) -> None:
    """base + Σ weight · target from the file, in metres, is what we would decode, to 1e-5 m."""
    gltf = pygltflib.GLTF2.load_from_bytes(as_bytes(FACE, TARGETS))
    primitive = gltf.meshes[0].primitives[0]
    read = accessor(gltf, primitive.attributes.POSITION).astype(float)
    for weight, target in zip(weights, primitive.targets, strict=True):
        read += weight * accessor(gltf, target["POSITION"])
    ours = FACE.vertices + sum(w * d for w, d in zip(weights, TARGETS.values(), strict=True))
    assert np.abs(read - ours / 1000).max() < 1e-5


def as_bytes(mesh: Mesh, targets: dict[str, NDArray[np.float64]], **options: Any) -> bytes:
    return glb.write(mesh, targets, options.get("weights", {}))


def test_names_weights_and_normals_of_targets(tmp_path: Path) -> None:
    path = tmp_path / "face.glb"
    write_glb(path, FACE, TARGETS, weights={"Älter?": 0.25}, name="head", rights="CC0")
    gltf = pygltflib.GLTF2().load(str(path))
    mesh = gltf.meshes[0]
    assert mesh.extras["targetNames"] == ["jawOpen", "Älter?"]
    assert mesh.weights == [0.0, 0.25]
    names = gltf.nodes[0].name, mesh.name, gltf.materials[0].name
    assert names == ("head", "head-mesh", "head-skin")  # none of them clashes with another
    base = accessor(gltf, mesh.primitives[0].attributes.NORMAL)
    moved = FACE.with_vertices(FACE.vertices + TARGETS["jawOpen"]).vertex_normals
    change = accessor(gltf, mesh.primitives[0].targets[0]["NORMAL"])
    np.testing.assert_allclose(base + change, moved, atol=1.51 / 127)  # the turns are bytes, and the least are left out
    assert "meshgan" in gltf.asset.generator
    assert gltf.asset.copyright == "CC0"


def in_two_parts() -> tuple[Mesh, Layout]:
    """Two balls, one of which has a seam: three vertices with a second place in the texture."""
    count = len(FACE.vertices)
    mesh = Mesh(
        np.concatenate([FACE.vertices, FACE.vertices + np.array([300.0, 0.0, 0.0])]),
        np.concatenate([FACE.triangles, FACE.triangles + count]),
    )
    corners = mesh.triangles.copy()
    doubled = mesh.triangles[-1]
    corners[-1] = 2 * count + np.arange(3)
    coordinates = RNG.random((2 * count + 3, 2))
    parts = (Part("skin", count, (0.5, 0.3, 0.2)), Part("eye", count, (0.8, 0.8, 0.8), 0.1))
    return mesh, Layout(coordinates, corners, doubled, parts)


def test_parts_are_nodes_with_materials_and_the_targets_that_move_them(tmp_path: Path) -> None:
    mesh, layout = in_two_parts()
    count = len(FACE.vertices)
    smile, look = np.zeros((2, *mesh.vertices.shape))
    smile[:count], look[count:] = 1.0, 2.0
    path = tmp_path / "head.glb"
    motion = glb.Animation(np.arange(2.0), np.eye(2), np.tile([0.0, 0.0, 0.0, 1.0], (2, 1)), np.array([0.0, 0.1, 0.0]))
    write_glb(path, mesh, {"smile": smile, "look": look}, {"look": 0.0}, "head", layout=layout, animation=motion)
    gltf = pygltflib.GLTF2().load(str(path))
    assert [node.name for node in gltf.nodes] == ["head-skin", "head-eye", "head", "head-pivot"]
    assert [found.extras["targetNames"] for found in gltf.meshes] == [["smile"], ["look"]]
    assert [material.name for material in gltf.materials] == ["head-skin", "head-eye"]
    assert gltf.materials[1].pbrMetallicRoughness.roughnessFactor == 0.1
    channels = [(channel.target.node, channel.target.path) for channel in gltf.animations[0].channels]
    assert channels == [(0, "weights"), (1, "weights"), (3, "rotation")]
    weights = [accessor(gltf, sampler.output)[:, 0] for sampler in gltf.animations[0].samplers[:2]]
    np.testing.assert_array_equal(weights, np.eye(2))
    read = read_mesh(path)
    np.testing.assert_array_equal(read.triangles, mesh.triangles)
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-3)


def described(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The description of a GLB."""
    data = glb.write(*arguments, **options)
    found: dict[str, Any] = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    return found


def test_a_skin_is_plain_or_coloured_or_has_a_picture() -> None:
    layout = Layout(RNG.random((len(FACE.vertices), 2)), FACE.triangles, np.empty(0, np.int64))
    plain, worn = described(FACE), described(FACE, layout=layout, picture=b"a picture")
    colours = RNG.random(FACE.vertices.shape)
    coloured = described(FACE, colours=colours)
    looks = [document["materials"][0]["pbrMetallicRoughness"] for document in (plain, worn, coloured)]
    assert looks[0] == {"metallicFactor": 0.0, "roughnessFactor": 0.6, "baseColorFactor": [*glb.PLAIN, 1.0]}
    assert looks[1] == {"metallicFactor": 0.0, "roughnessFactor": 0.6, "baseColorTexture": {"index": 0}}
    assert looks[2] == {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    assert all(document["materials"][0]["doubleSided"] for document in (plain, worn, coloured))
    assert [document["materials"][0]["name"] for document in (plain, worn, coloured)] == [
        "face-skin", "face-skin", "face-colours"
    ]  # fmt: skip
    assert worn["textures"] == [{"source": 0, "sampler": 0}]
    assert worn["samplers"] == [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}]
    gltf = pygltflib.GLTF2.load_from_bytes(glb.write(FACE, layout=layout, picture=b"a picture"))
    view = gltf.bufferViews[gltf.images[0].bufferView]
    assert gltf.binary_blob()[view.byteOffset :][: view.byteLength] == b"a picture"
    places = accessor(gltf, gltf.meshes[0].primitives[0].attributes.TEXCOORD_0)
    np.testing.assert_allclose(places, layout.coordinates * [1, -1] + [0, 1], atol=1e-6)  # v is downwards there
    gltf = pygltflib.GLTF2.load_from_bytes(glb.write(FACE, colours=colours))
    np.testing.assert_allclose(accessor(gltf, gltf.meshes[0].primitives[0].attributes.COLOR_0), colours, atol=1e-6)


def test_what_is_known_of_a_face_stands_at_its_top_node() -> None:
    about = {"model": "m", "seed": 3}
    assert described(FACE, about=about)["nodes"] == [{"name": "face", "mesh": 0, "extras": about}]
    assert described(FACE)["scenes"] == [{"nodes": [0]}]
    mesh, layout = in_two_parts()
    *parts, top = described(mesh, layout=layout, about=about)["nodes"]
    assert top == {"name": "face", "children": [0, 1], "extras": about}
    assert parts == [{"name": "face-skin", "mesh": 0}, {"name": "face-eye", "mesh": 1}]


def test_a_head_turns_about_its_pivot() -> None:
    times, turns = np.array([0.0, 0.5, 2.0]), np.eye(4)[[3, 0, 3]]
    pivot = np.array([0.1, 0.2, 0.3])
    weights = RNG.random((3, 2))
    data = glb.write(FACE, TARGETS, animation=glb.Animation(times, weights, turns, pivot))
    gltf = pygltflib.GLTF2.load_from_bytes(data)
    face, head = gltf.nodes
    np.testing.assert_allclose(np.add(face.translation, head.translation), 0)
    np.testing.assert_allclose(head.translation, pivot)
    assert (head.name, head.children, gltf.scenes[0].nodes) == ("face-pivot", [0], [1])
    (animation,) = gltf.animations
    assert [(c.target.node, c.target.path, c.sampler) for c in animation.channels] == [
        (0, "weights", 0),
        (1, "rotation", 1),
    ]
    for sampler, values in zip(animation.samplers, (weights.reshape(-1, 1), turns), strict=True):
        assert sampler.interpolation == "LINEAR"
        np.testing.assert_array_equal(accessor(gltf, sampler.input)[:, 0], times)
        np.testing.assert_allclose(accessor(gltf, sampler.output), values, atol=1e-7)
    still = described(FACE, TARGETS, animation=glb.Animation(times, weights))
    assert [channel["target"]["path"] for channel in still["animations"][0]["channels"]] == ["weights"]
    assert "translation" not in still["nodes"][0]
    assert "animations" not in described(FACE, TARGETS)


def test_a_normal_that_hardly_turns_stays() -> None:
    """Turns are bytes of 127; one of at most one is not in the target, one of two is."""
    strip = Mesh([[0, 0, 0], [10, 0, 0], [0, 10, 0], [50, 0, 0], [60, 0, 0], [50, 10, 0]], [[0, 1, 2], [3, 4, 5]])
    for degrees, rows in ((0.4, []), (0.6, []), (0.8, [3, 4, 5]), (80.0, [3, 4, 5])):
        shift = np.zeros((6, 3))
        shift[5, 2] = 10 * np.tan(np.radians(degrees))
        gltf = pygltflib.GLTF2.load_from_bytes(as_bytes(strip, {"tilt": shift}))
        target = gltf.meshes[0].primitives[0].targets[0]
        turned = accessor(gltf, target["NORMAL"])
        assert np.flatnonzero(turned.any(axis=1)).tolist() == rows
        expected = np.zeros((6, 3))
        expected[rows] = [0, -np.sin(np.radians(degrees)), np.cos(np.radians(degrees)) - 1]
        np.testing.assert_allclose(turned, expected, atol=0.51 / 127)


def test_bounds_are_those_of_the_stored_numbers(tmp_path: Path) -> None:
    write_glb(tmp_path / "face.glb", FACE, TARGETS)
    gltf = pygltflib.GLTF2().load(str(tmp_path / "face.glb"))
    for index, described in enumerate(gltf.accessors):
        values = accessor(gltf, index) * (127 if described.normalized else 1)
        np.testing.assert_allclose(np.array(described.min), values.min(axis=0), rtol=1e-7)
        np.testing.assert_allclose(np.array(described.max), values.max(axis=0), rtol=1e-7)


@pytest.mark.parametrize(("vertices", "kind"), [(0xFFFF, 5123), (0x10000, 5125)])
def test_indices_take_two_bytes_as_long_as_they_may(vertices: int, kind: int) -> None:
    positions = np.zeros((vertices, 3))
    positions[-3:] = np.eye(3)
    mesh = Mesh(positions, [[vertices - 3, vertices - 2, vertices - 1]])
    gltf = pygltflib.GLTF2.load_from_bytes(as_bytes(mesh, {}))
    indices = gltf.meshes[0].primitives[0].indices
    assert gltf.accessors[indices].componentType == kind
    np.testing.assert_array_equal(accessor(gltf, indices)[:, 0], mesh.triangles[0])


def test_the_container_is_well_formed() -> None:
    data = as_bytes(FACE, TARGETS)
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert (kind, size % 4) == (b"JSON", 0)
    document = json.loads(data[20 : 20 + size])
    binary, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0"
    assert 28 + size + binary == len(data)
    assert document["buffers"][0]["byteLength"] == binary
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    primitive, accessors = document["meshes"][0]["primitives"][0], document["accessors"]
    for number, target in ((primitive["indices"], 34963), (primitive["attributes"]["POSITION"], 34962)):
        assert document["bufferViews"][accessors[number]["bufferView"]]["target"] == target


def test_the_same_face_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.glb", "b.glb"):
        write_glb(tmp_path / name, FACE, TARGETS, {"jawOpen": 0.1})
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_wrong_use_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "face.glb"
    with pytest.raises(MeshganError, match=r"face\.glb.*triangle"):
        write_glb(path, Mesh(FACE.vertices, np.zeros((0, 3), int)))
    with pytest.raises(ValueError, match="jaw"):
        write_glb(path, FACE, {"jaw": np.zeros((3, 3))})
    with pytest.raises(ValueError, match="finite"):
        write_glb(path, FACE, {"jaw": np.full(FACE.vertices.shape, np.nan)})
    with pytest.raises(ValueError, match="smile"):
        write_glb(path, FACE, TARGETS, {"smile": 1.0})
    assert not list(tmp_path.iterdir())


def test_faces_as_files(tmp_path: Path) -> None:
    faces = np.stack([FACE.vertices, 1.1 * FACE.vertices]).astype(np.float32)
    paths = write_faces(faces, FACE, tmp_path / "out", ("glb", "obj", "ply"))
    assert [path.name for path in paths] == [f"face-00{i}.{e}" for i in (0, 1) for e in ("glb", "obj", "ply")]
    for path in paths:
        loaded = trimesh.load_mesh(path, process=False)
        scale = 1000 if path.suffix == ".glb" else 1
        np.testing.assert_allclose(loaded.vertices * scale, faces[int(path.stem[-1])], atol=1e-4)
        np.testing.assert_array_equal(loaded.faces, FACE.triangles)


@pytest.mark.slow
@needs_validator
def test_the_khronos_validator_finds_nothing(tmp_path: Path) -> None:
    extra = np.concatenate([FACE.vertices, [[0, 0, 0]]])  # a vertex without a triangle
    cases = {
        "plain.glb": (FACE, {}, {}),
        "targets.glb": (FACE, TARGETS, {"jawOpen": 0.5}),
        "unreferenced.glb": (Mesh(extra, FACE.triangles), {}, {}),
    }
    for name, (mesh, targets, weights) in cases.items():
        write_glb(tmp_path / name, mesh, targets, weights)
        issues = issues_of(tmp_path / name)
        assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
