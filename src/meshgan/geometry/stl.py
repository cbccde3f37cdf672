"""STL files, text and binary. Their triangles share nothing: corners at exactly the same place become one vertex."""

import re
import struct

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.geometry.mesh import Mesh

TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of an STL file. Raises if it is damaged."""
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else -1
    if len(data) != 84 + 50 * count and data.lstrip()[:5].lower() == b"solid":
        rows = re.findall(rb"^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)", data, re.MULTILINE)
        corners = np.array(rows, dtype=bytes).astype(np.float32).reshape(-1, 3)
    else:
        corners = np.frombuffer(data, TRIANGLE, count, offset=84)["corners"].reshape(-1, 3)
    if len(corners) % 3:
        raise ValueError("a triangle is not complete")
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
