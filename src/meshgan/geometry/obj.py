"""OBJ files: the positions (`v`) and faces (`f`) of all objects in a file, in file order.

Texture coordinates, normals, groups and materials do not touch the vertices: there is one for each `v` line.
"""

import re
import warnings

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.polygons import fans

BLOCK = 2**24  # bytes parsed at a time, so that the memory needed is little more than the result
STATEMENT = re.compile(rb"^[ \t]*([vf])[ \t]+([^\r\n#]*)", re.MULTILINE)
TEXTURE_AND_NORMAL = re.compile(rb"/\S*")


def read(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of an OBJ file. Raises `ValueError` if it is damaged."""
    vertices, triangles, known = [np.empty((0, 3))], [np.empty((0, 3), dtype=np.int64)], 0
    for block in _blocks(data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")):
        statements = STATEMENT.findall(block)
        is_vertex = np.array([kind == b"v" for kind, _ in statements], dtype=bool)
        before = known + np.cumsum(is_vertex)
        known = int(before[-1]) if len(before) else known
        vertices.append(_vertices([text for kind, text in statements if kind == b"v"]))
        triangles.append(_triangles([text for kind, text in statements if kind == b"f"], before[~is_vertex]))
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


def _vertices(texts: list[bytes]) -> Floats:
    """The first three numbers of each text; a weight or a colour may follow."""
    numbers, counts = _numbers(texts)
    if (counts < 3).any():
        raise ValueError("a vertex needs three coordinates")
    starts = np.cumsum(counts) - counts
    return numbers[starts[:, None] + np.arange(3)]


def _triangles(texts: list[bytes], known: Integers) -> Integers:
    """Zero-based triangles; `known` vertices precede each face, and negative numbers count back from there."""
    numbers, counts = _numbers(texts)
    corners = numbers.astype(np.int64)
    if (corners != numbers).any() or (corners == 0).any():
        raise ValueError("a face names a vertex that cannot be")
    corners = np.where(corners < 0, corners + np.repeat(known, counts), corners - 1)
    return fans(corners, counts)


def _numbers(texts: list[bytes]) -> tuple[Floats, Integers]:
    """All numbers in the texts, one after another, and how many there are in each; what follows a `/` is left out."""
    text = b"\n".join([*texts, b""])
    if b"/" in text:
        text = TEXTURE_AND_NORMAL.sub(b"", text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # at what is no number, parsing stops
        numbers = np.fromstring(text, sep=" ")
    characters = np.frombuffer(b"\n" + text, dtype=np.uint8)
    solid = characters > ord(" ")
    begins = np.cumsum(solid[1:] & ~solid[:-1])
    counts = np.diff(begins[np.flatnonzero(characters[1:] == ord("\n"))], prepend=0)
    if len(numbers) != counts.sum() or not np.isfinite(numbers).all():
        raise ValueError("not a number")
    return numbers, counts
