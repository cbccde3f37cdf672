"""GLB files (glTF 2.0, binary): the triangles of the default scene, placed as its nodes say, in metres.

Nodes are walked depth first in the order of the file; parts of a mesh that share their vertices go on sharing them.
Skins, morph targets, materials and textures are not looked at. Compressed files are not read.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Floats, Integers
from meshgan.geometry.mesh import Mesh

MILLIMETRES_PER_METRE = 1000.0
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3}
TRIANGLES = 4  # the mode of a primitive
DEEPEST = 100  # levels of nodes; files that refer to themselves end here

Document = dict[str, Any]


def read(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) in the file's unit, metres by definition, and triangles (F, 3). Raises if it is damaged."""
    document, binary = _chunks(data)
    vertices, triangles, count = [np.empty((0, 3))], [np.empty((0, 3), dtype=np.int64)], 0
    for mesh, placement in _placed_meshes(document):
        offsets: dict[int, int] = {}
        for primitive in mesh["primitives"]:
            if primitive.get("mode", TRIANGLES) != TRIANGLES:
                continue
            source = primitive["attributes"]["POSITION"]
            if source not in offsets:
                points = _accessor(document, binary, source).astype(np.float64)
                vertices.append(points @ placement[:3, :3].T + placement[:3, 3])
                offsets[source] = count
                count += len(points)
            size = count - offsets[source]
            corners = _accessor(document, binary, primitive["indices"]) if "indices" in primitive else np.arange(size)
            triangles.append(_facing(corners.astype(np.int64).reshape(-1, 3), placement) + offsets[source])
    return np.concatenate(vertices), np.concatenate(triangles)


def write(mesh: Mesh) -> bytes:
    """The mesh as a GLB file, in metres, vertices in float32."""
    positions = (mesh.vertices / MILLIMETRES_PER_METRE).astype("<f4")
    indices = mesh.triangles.astype("<u4")
    low, high = ([float(x) for x in bound] for bound in (positions.min(axis=0), positions.max(axis=0)))
    document = {
        "asset": {"version": "2.0", "generator": "meshgan"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(positions), "type": "VEC3", "min": low, "max": high},
            {"bufferView": 1, "componentType": 5125, "count": indices.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": positions.nbytes, "target": 34962},
            {"buffer": 0, "byteOffset": positions.nbytes, "byteLength": indices.nbytes, "target": 34963},
        ],
        "buffers": [{"byteLength": positions.nbytes + indices.nbytes}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary = positions.tobytes() + indices.tobytes()
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary)) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


def _chunks(data: bytes) -> tuple[Document, bytes]:
    """The JSON document and the binary chunk of a whole GLB file."""
    magic, version, length = struct.unpack_from("<4sII", data)
    if magic != b"glTF" or version != 2 or length != len(data):
        raise ValueError("not a whole GLB file")
    size, kind = struct.unpack_from("<I4s", data, 12)
    document = json.loads(data[20 : 20 + size])
    if kind != b"JSON" or not isinstance(document, dict):
        raise ValueError("a GLB file starts with its description")
    binary_size, _ = struct.unpack_from("<I4s", data, 20 + size)
    binary = data[28 + size : 28 + size + binary_size]
    if len(binary) < binary_size:
        raise ValueError("the binary chunk is cut off")
    return document, binary


def _placed_meshes(document: Document) -> Iterator[tuple[Document, Floats]]:
    """Each mesh of the default scene with its placement (4, 4), depth first."""
    nodes, visits = document["nodes"], 0
    roots = document["scenes"][document.get("scene", 0)]["nodes"]
    stack = [(number, np.eye(4), 0) for number in reversed(roots)]
    while stack:
        number, parent, depth = stack.pop()
        visits += 1
        if depth > DEEPEST or visits > len(nodes):  # in a tree, every node is visited once
            raise ValueError("the nodes go in circles")
        node = nodes[number]
        placement = parent @ _placement(node)
        if "mesh" in node:
            yield document["meshes"][node["mesh"]], placement
        stack += [(child, placement, depth + 1) for child in reversed(node.get("children", []))]


def _placement(node: Document) -> Floats:
    """The matrix (4, 4) of a node: given, or made of scale, then rotation (x, y, z, w), then translation."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    placement = np.eye(4)
    placement[:3, :3] = np.array(rotation) * np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    placement[:3, 3] = node.get("translation", (0, 0, 0))
    return placement


def _facing(triangles: Integers, placement: Floats) -> Integers:
    """A mirroring placement turns triangles round, so that outside stays outside."""
    return triangles[:, ::-1] if np.linalg.det(placement[:3, :3]) < 0 else triangles


def _accessor(document: Document, binary: bytes, number: int) -> NDArray[Any]:
    """The rows of an accessor; raises if they do not lie inside the binary chunk."""
    accessor = document["accessors"][number]
    if "sparse" in accessor:
        raise ValueError("sparse accessors are not read")
    view = document["bufferViews"][accessor["bufferView"]]
    if view["buffer"] != 0 or "uri" in document["buffers"][0]:
        raise ValueError("other files are not read")
    kind, width, count = np.dtype(COMPONENTS[accessor["componentType"]]), WIDTHS[accessor["type"]], accessor["count"]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    stride = view.get("byteStride", width * kind.itemsize)
    stop = start + (count - 1) * stride + width * kind.itemsize
    if not (0 <= start < stop <= len(binary) and count > 0 and width * kind.itemsize <= stride):
        raise ValueError("an accessor reaches beyond the file")
    values = np.ndarray((count, width), kind, binary, start, (stride, kind.itemsize))
    return values / np.iinfo(kind).max if accessor.get("normalized") else values
