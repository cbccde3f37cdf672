"""STL files, text and binary. Their triangles share nothing: corners at exactly the same place become one vertex."""

import struct

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.plaintext import Words, plain
from meshgan.geometry.polygons import MOST, within_bounds

TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of an STL file. Raises if it is damaged."""
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else -1
    corners = _binary(data, count) if len(data) == 84 + 50 * count or not _is_text(data) else _text(plain(data))
    _, first, inverse = np.unique(corners + np.float32(0), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # vertices in the order in which the file first mentions them
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return corners[first[order]].astype(np.float64), number[inverse].reshape(-1, 3)


def write(mesh: Mesh) -> bytes:
    """The mesh as a binary STL file, corners in float32."""
    records = np.zeros(len(mesh.triangles), TRIANGLE)
    records["normal"] = mesh.triangle_normals
    records["corners"] = mesh.vertices[mesh.triangles]
    return b"\0" * 80 + struct.pack("<I", len(records)) + records.tobytes()


def _is_text(data: bytes) -> bool:
    try:
        start = plain(data[: min(4096, len(data) // 4 * 4)])  # whole letters of UTF-16 and UTF-32
    except MeshganError:
        return False
    return start.lstrip()[:5].lower() == b"solid" and b"\0" not in start


def _binary(data: bytes, count: int) -> Floats:
    """The corners (3F, 3) of a binary file; what follows the triangles is left out."""
    if count < 0:
        raise MeshganError("it is no STL file: it is shorter than a header.")
    if len(data) < 84 + 50 * count:
        raise MeshganError(f"it is cut off: {count:,} triangles are announced, {(len(data) - 84) // 50:,} are there.")
    within_bounds(count, "triangles")
    return np.frombuffer(data, TRIANGLE, count, offset=84)["corners"].reshape(-1, 3)


def _text(text: bytes) -> Floats:
    """The corners (3F, 3) of a text file, as float32; what stands behind three numbers is left out."""
    corners = Words.of(text).coordinates(b"vertex", 3 * MOST)
    if len(corners) % 3:
        raise MeshganError("the last triangle is not complete; is the file cut off?")
    return corners.astype(np.float32)
