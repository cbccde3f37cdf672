"""OBJ files: the positions (`v`) and faces (`f`) of all objects in a file, in file order.

Texture coordinates, normals, groups and materials do not touch the vertices: there is one for each `v` line.
"""

import re

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.plaintext import Words, plain
from meshgan.geometry.polygons import MOST, fans, within_bounds

BLOCK = 2**24  # bytes parsed at a time, so that the memory needed is little more than the result
COMMENT = re.compile(rb"#[^\n]*")
TEXTURE_AND_NORMAL = re.compile(rb"/\S*")


def read(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of an OBJ file. Raises `MeshganError` if it is damaged."""
    vertices, triangles, known, size, line = [np.empty((0, 3))], [np.empty((0, 3), dtype=np.int64)], 0, 0, 1
    for block in _blocks(plain(data).replace(b"\\\n", b" ")):
        text = COMMENT.sub(b"", block) if b"#" in block else block
        words = Words.of(TEXTURE_AND_NORMAL.sub(b"", text) if b"/" in text else text, line)
        line += block.count(b"\n")
        vertices.append(words.coordinates(b"v", MOST))
        triangles.append(_triangles(words, known))
        known = within_bounds(known + len(vertices[-1]), "vertices")
        size = within_bounds(size + len(triangles[-1]), "triangles")
    return np.concatenate(vertices), np.concatenate(triangles)


def write(mesh: Mesh) -> bytes:
    """The mesh as an OBJ file; nine digits give float32 values back exactly."""
    vertices, triangles = mesh.vertices.astype(np.float32), mesh.triangles + 1
    text = "v %.9g %.9g %.9g\n" * len(vertices) % tuple(vertices.ravel().tolist())
    text += "f %d %d %d\n" * len(triangles) % tuple(triangles.ravel().tolist())
    return b"# meshgan, millimetres\n" + text.encode()


def _blocks(data: bytes) -> list[bytes]:
    """The data cut at line ends into pieces of about `BLOCK` bytes."""
    blocks, start = [], 0
    while start < len(data):
        stop = data.find(b"\n", start + BLOCK) + 1 or len(data)
        blocks.append(data[start:stop])
        start = stop
    return blocks


def _triangles(words: Words, known: int) -> Integers:
    """Zero-based triangles of a block; `known` vertices precede it, and negative numbers count back from a face."""
    first, counts = words.statements(b"f")
    lengths = counts - 1
    before = known + np.searchsorted(words.statements(b"v")[0], first)  # vertices before each face
    places = np.repeat(first + 1 - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    named = words.some(places)
    numbers = named.numbers()
    with np.errstate(invalid="ignore"):
        corners = numbers.astype(np.int64)
    possible = (corners == numbers) & (corners != 0)
    if not possible.all():
        raise MeshganError(f"line {named.line(int(possible.argmin()))} names a vertex that cannot be.")
    corners = np.where(corners < 0, corners + np.repeat(before, lengths), corners - 1)
    return fans(corners, lengths)
