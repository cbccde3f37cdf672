"""PLY files: text and binary of either byte order, read by what their header says, with any further properties."""

import re
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Floats, Integers
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.polygons import fans

LONGEST_HEADER = 2**16  # bytes
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
TYPES |= {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class Property:
    """A column: its name, its numpy type, and for lists the type of their length."""

    name: str
    type: str
    length_type: str | None = None


@dataclass(frozen=True)
class Element:
    """A table of the file: so many rows of these columns."""

    name: str
    count: int
    properties: tuple[Property, ...]


def read(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of a PLY file. Raises if it is damaged."""
    elements, is_text, body = _header(data)
    if is_text:
        body, elements = _as_binary(body, elements)
    vertices, triangles, offset = np.empty((0, 3)), np.empty((0, 3), dtype=np.int64), 0
    for element in elements:
        if element.count > len(body):
            raise ValueError("more rows than bytes")
        if element.name == "face":
            triangles, offset = _faces(body, offset, element)
        else:
            table, offset = _table(body, offset, element)
            if element.name == "vertex":
                vertices = np.stack([table[axis].astype(np.float64) for axis in "xyz"], axis=1)
    return vertices, triangles


def write(mesh: Mesh) -> bytes:
    """The mesh as a binary PLY file, vertices in float32."""
    header = ["ply", "format binary_little_endian 1.0", "comment meshgan, millimetres"]
    header += [f"element vertex {len(mesh.vertices)}", *(f"property float {axis}" for axis in "xyz")]
    header += [f"element face {len(mesh.triangles)}", "property list uchar int vertex_indices", "end_header", ""]
    faces = np.zeros(len(mesh.triangles), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.triangles
    return "\n".join(header).encode() + mesh.vertices.astype("<f4").tobytes() + faces.tobytes()


def _header(data: bytes) -> tuple[list[Element], bool, bytes]:
    """The elements, whether the body is text, and the body."""
    end = re.search(rb"\bend_header[ \t]*(\r\n|\n|\r)", data[:LONGEST_HEADER])
    if not data.startswith(b"ply") or end is None:
        raise ValueError("not a PLY file")
    lines = [line.split() for line in data[: end.start()].decode("latin-1").splitlines()]
    layout = next(words[1] for words in lines if words[:1] == ["format"])
    elements: list[Element] = []
    for words in lines:
        if words[:1] == ["element"]:
            elements.append(Element(words[1], int(words[2]), ()))
        elif words[:1] == ["property"]:
            last = elements.pop()
            elements.append(Element(last.name, last.count, (*last.properties, _property(words, ORDERS[layout]))))
    if any(element.count < 0 for element in elements):
        raise ValueError("a negative number of rows")
    return elements, layout == "ascii", data[end.end() :]


def _property(words: list[str], order: str) -> Property:
    if words[1] == "list":
        return Property(words[4], order + TYPES[words[3]], order + TYPES[words[2]])
    return Property(words[2], order + TYPES[words[1]])


def _as_binary(text: bytes, elements: list[Element]) -> tuple[bytes, list[Element]]:
    """The numbers of a text body as float64, and the elements as they then are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # at what is no number, parsing stops
        numbers = np.fromstring(text, sep=" ", dtype="<f8")
    return numbers.tobytes(), [
        Element(e.name, e.count, tuple(Property(p.name, "<f8", p.length_type and "<f8") for p in e.properties))
        for e in elements
    ]


def _table(body: bytes, offset: int, element: Element) -> tuple[NDArray[np.void], int]:
    """The rows of an element without lists as a structured array, and where the next element starts.

    Elements with lists (other than faces) are passed over row by row.
    """
    if any(p.length_type for p in element.properties):
        for _ in range(element.count):
            offset = _row(body, offset, element)[1]
        return np.empty(0, dtype=np.void), offset
    row = np.dtype([(p.name, p.type) for p in element.properties])
    return np.frombuffer(body, row, element.count, offset), offset + element.count * row.itemsize


def _faces(body: bytes, offset: int, element: Element) -> tuple[Integers, int]:
    """Triangles (F, 3) of the faces, and where the next element starts."""
    if not element.count:
        return np.empty((0, 3), dtype=np.int64), offset
    name = next(p.name for p in element.properties if p.name in ("vertex_indices", "vertex_index"))
    uniform = _uniform_rows(body, offset, element)
    if uniform is not None:
        corners = uniform[name]
        counts = np.full(len(corners), corners.shape[1])
        return fans(_whole(corners.ravel()), counts), offset + uniform.nbytes
    polygons = []
    for _ in range(element.count):
        row, offset = _row(body, offset, element)
        polygons.append(row[name])
    counts = np.array([len(polygon) for polygon in polygons])
    return fans(_whole(np.concatenate(polygons)), counts), offset


def _uniform_rows(body: bytes, offset: int, element: Element) -> NDArray[np.void] | None:
    """All rows at once, if every list is as long as in the first row; else None."""
    first, _ = _row(body, offset, element)
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    for p in element.properties:
        fields += [(f"{p.name} length", p.length_type), (p.name, p.type, len(first[p.name]))] if p.length_type else []
        fields += [] if p.length_type else [(p.name, p.type)]
    row = np.dtype(fields)
    if offset + element.count * row.itemsize > len(body):
        return None
    rows = np.frombuffer(body, row, element.count, offset)
    lists = [p.name for p in element.properties if p.length_type]
    return rows if all((rows[f"{name} length"] == len(first[name])).all() for name in lists) else None


def _row(body: bytes, offset: int, element: Element) -> tuple[dict[str, NDArray[np.generic]], int]:
    """One row, each property as an array, and where the next row starts."""
    row = {}
    for p in element.properties:
        length = 1
        if p.length_type:
            value = np.frombuffer(body, p.length_type, 1, offset)
            length, offset = int(value[0]), offset + value.nbytes
            if length < 0:
                raise ValueError("a list of negative length")
        row[p.name] = np.frombuffer(body, p.type, length, offset)
        offset += row[p.name].nbytes
    return row, offset


def _whole(numbers: NDArray[np.generic]) -> Integers:
    """Vertex numbers as integers; raises if they are not."""
    if not np.isfinite(numbers).all():
        raise ValueError("a face names a vertex that cannot be")
    whole = numbers.astype(np.int64)
    if (whole != numbers).any():
        raise ValueError("a face names a vertex that cannot be")
    return whole
