"""PLY files: text and binary of either byte order, read by what their header says, with any further properties.

Text whose lines are its rows, as nearly all are, is read by lines: rows may be longer than the header says, and
anything may stand behind the last. Other text, and binary, is one number after another.
"""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import MOST, Mesh, fans, strips, within_bounds
from meshgan.geometry.plaintext import Words, plain
from meshgan.reading import shown, wide_encoding

LONGEST_HEADER = 2**16  # bytes
MOST_UNEVEN = 5_000_000  # rows of different lengths, which are passed one by one: some seconds
TAKEN = 2**20  # values taken from scattered places at a time
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
TYPES |= {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
LETTERS = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}  # of `struct`
ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}
END = re.compile(rb"(?:^|[\r\n])[ \t]*end_header[ \t]*(\r\n|\n|\r)", re.IGNORECASE)
CORNERS = ("vertex_indices", "vertex_index")
Values = NDArray[np.generic]


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

    @property
    def has_lists(self) -> bool:
        """Whether rows differ in length."""
        return any(p.length_type for p in self.properties)


class _Body:
    """What follows the header, `size` units of it: bytes."""

    def __init__(self, content: bytes) -> None:
        self.content: bytes | memoryview = content
        self.size = len(content)
        self.stride: int | None = None  # from row to row of the element that was looked at last, if it is one

    def width(self, kind: str) -> int:
        """The units that a value of a type takes."""
        return np.dtype(kind).itemsize

    def take(self, at: Integers, kind: str) -> Values:
        """The values of a type that begin at the places `at` (N,), which lie inside."""
        raw, width = np.frombuffer(self.content, dtype=np.uint8), self.width(kind)
        values = np.empty(len(at), dtype=kind)
        for start in range(0, len(at), TAKEN):
            places = at[start : start + TAKEN, None] + np.arange(width)
            values[start : start + TAKEN] = np.ascontiguousarray(raw[places]).view(kind)[:, 0]
        return values

    def evenly(self, start: int, shape: tuple[int, int], kind: str) -> Values:
        """The values (N, K) of rows that lie a stride apart, K of them beside each other, the first at `start`."""
        return np.ndarray(shape, kind, self.content, start, (self.stride or 0, self.width(kind)))

    def reader(self, kind: str) -> Callable[[int], float]:
        """What reads the value of a type at a place."""
        whole = struct.Struct(kind[0] + LETTERS[kind[1:]])
        return lambda at: whole.unpack_from(self.content, at)[0]

    def rows(self, element: Element, offset: int) -> tuple[Integers, int]:
        """Where the rows of the next element start (N,), and where the element after it does."""
        self.stride = self._uniform(element, offset)
        if self.stride is not None:
            return offset + self.stride * np.arange(element.count), offset + self.stride * element.count
        within_bounds(element.count, "rows of different lengths", MOST_UNEVEN)
        starts, steps = np.empty(element.count, dtype=np.int64), self._steps(element)
        try:
            for row in range(element.count):
                starts[row] = offset
                for before, length_of, length_width, width in steps:
                    offset += before
                    if length_of is not None:
                        length = length_of(offset)
                        if not 0 <= length <= self.size:
                            raise MeshganError("a list has a length that cannot be.")
                        offset += length_width + int(length) * width
                if offset > self.size:
                    raise IndexError
        except (IndexError, struct.error) as error:
            raise MeshganError("it is cut off, or its header announces too much.") from error
        return starts, offset

    def _steps(self, element: Element) -> list[tuple[int, Callable[[int], float] | None, int, int]]:
        """How to pass a row: what lies before a list, what reads its length, and the widths of length and items."""
        steps: list[tuple[int, Callable[[int], float] | None, int, int]] = []
        before = 0
        for p in element.properties:
            if p.length_type is None:
                before += self.width(p.type)
            else:
                steps.append((before, self.reader(p.length_type), self.width(p.length_type), self.width(p.type)))
                before = 0
        return [*steps, (before, None, 0, 0)]

    def _uniform(self, element: Element, offset: int) -> int | None:
        """The width of every row, if every list is as long as in the first row; else None."""
        place, lists = offset, []
        for p in element.properties:
            if p.length_type and element.count:
                if place + self.width(p.length_type) > self.size:
                    return None
                length = self.reader(p.length_type)(place)
                if not 0 <= length <= self.size:
                    return None
                lists.append((place - offset, p.length_type, length))
                place += self.width(p.length_type) + int(length) * self.width(p.type)
            else:
                place += self.width(p.type)
        width = place - offset
        if offset + element.count * width > self.size:
            if not element.has_lists:
                raise MeshganError("it is cut off, or its header announces too much.")
            return None
        starts = offset + width * np.arange(element.count if lists else 0)
        same = ((self.take(starts + shift, kind) == length).all() for shift, kind, length in lists)
        return width if all(same) else None


class _Numbers(_Body):
    """The numbers of a text, `size` of them, one after another."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        super().__init__(b"")
        self.size = len(values)

    def width(self, kind: str) -> int:
        return 1

    def take(self, at: Integers, kind: str) -> Values:
        return self.values[at]

    def evenly(self, start: int, shape: tuple[int, int], kind: str) -> Values:
        return np.ndarray(shape, "<f8", self.values, 8 * start, (8 * (self.stride or 0), 8))

    def reader(self, kind: str) -> Callable[[int], float]:
        return memoryview(self.values.data).__getitem__


class _Lines(_Numbers):
    """The numbers of a text whose lines are the rows."""

    def __init__(self, values: Floats, counts: Integers, numbers: Integers) -> None:
        super().__init__(values)
        self.starts = np.cumsum(counts) - counts
        self.ends = np.cumsum(counts)
        self.lines = numbers  # of each row
        self.done = 0

    def rows(self, element: Element, offset: int) -> tuple[Integers, int]:
        """The rows are the next lines; each must be long enough."""
        mine = slice(self.done, self.done + element.count)
        self.done += element.count
        place = self.starts[mine].copy()
        for p in element.properties:
            short = place >= self.ends[mine]
            if p.length_type and not short.any():
                lengths = self.values[place]
                sound = (lengths >= 0) & (lengths <= self.size)
                if not sound.all():
                    raise MeshganError(f"line {self.lines[mine][sound.argmin()]}: a list has a length that cannot be.")
                place += lengths.astype(np.int64)
            place += 1
        short = place > self.ends[mine]
        if short.any():
            raise MeshganError(f"line {self.lines[mine][short.argmax()]} has fewer numbers than the header says.")
        return self.starts[mine], offset


def read(data: bytes) -> tuple[Floats, Integers]:
    """Vertices (V, 3) and triangles (F, 3) of the bytes of a PLY file. Raises if it is damaged."""
    elements, is_text, body, lines = _header(data)
    if is_text:
        return _surface(elements, _text_body(body, elements, lines + 1))
    return _surface(elements, _Body(body))


def write(mesh: Mesh) -> bytes:
    """The mesh as a binary PLY file, vertices in float32."""
    header = ["ply", "format binary_little_endian 1.0", "comment meshgan, millimetres"]
    header += [f"element vertex {len(mesh.vertices)}", *(f"property float {axis}" for axis in "xyz")]
    header += [f"element face {len(mesh.triangles)}", "property list uchar int vertex_indices", "end_header", ""]
    faces = np.zeros(len(mesh.triangles), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.triangles
    return "\n".join(header).encode() + mesh.vertices.astype("<f4").tobytes() + faces.tobytes()


def _surface(elements: Sequence[Element], body: _Body) -> tuple[Floats, Integers]:
    vertices, triangles, offset = np.empty((0, 3)), np.empty((0, 3), dtype=np.int64), 0
    for element in elements:
        if not element.properties:
            continue
        starts, offset = body.rows(element, offset)
        if element.name == "vertex":
            columns = [_values(body, element, starts, axis)[0] for axis in "xyz"]
            vertices = np.stack([column.astype(np.float64) for column in columns], axis=1)
        elif element.name in ("face", "tristrips") and element.count:
            name = next((p.name for p in element.properties if p.name in CORNERS), "")
            corners, counts = _values(body, element, starts, name)
            more = fans(_whole(corners), counts) if element.name == "face" else strips(_with_breaks(corners, counts))
            triangles = np.concatenate([triangles, more]) if len(triangles) else more
    return vertices, triangles


def _values(body: _Body, element: Element, starts: Integers, name: str) -> tuple[Values, Integers]:
    """The values of one column, one after another, and how many (N,) each row has."""
    place = starts
    for p in element.properties:
        lengths = np.ones(len(starts), dtype=np.int64)
        if p.length_type:
            lengths = body.take(place, p.length_type).astype(np.int64)
            place = place + body.width(p.length_type)
        if p.name == name:
            within_bounds(lengths.sum(dtype=np.float64), "corners", 3 * MOST)
            if body.stride is not None and len(starts):
                return body.evenly(int(place[0]), (len(starts), int(lengths[0])), p.type).ravel(), lengths
            before = np.cumsum(lengths) - lengths
            every = np.repeat(place - before * body.width(p.type), lengths)
            return body.take(every + np.arange(len(every)) * body.width(p.type), p.type), lengths
        place = place + lengths * body.width(p.type)
    raise MeshganError(f"its element '{element.name}' has no property '{name or CORNERS[0]}'.")


def _with_breaks(corners: Values, counts: Integers) -> Integers:
    """The corners of strips that follow one another, with -1 between them."""
    return np.insert(_whole(corners), np.cumsum(counts), -1)


def _header(data: bytes) -> tuple[list[Element], bool, bytes, int]:
    """The elements, whether the body is text, the body, and the number of lines before it."""
    if wide_encoding(data) or data[:1] in b"\xef \t\r\n":
        data = plain(data).lstrip() if wide_encoding(data) else data.removeprefix(b"\xef\xbb\xbf").lstrip()
    end = END.search(data[:LONGEST_HEADER])
    if data[:3].lower() != b"ply" or end is None:
        raise MeshganError("it is no PLY file: it has no header.")
    stop = end.end()
    if end[1] == b"\r\n" and b"\n" not in data[: end.start(1)]:
        stop -= 1  # lines end in \r, and the body happens to begin with \n
    text = data[: end.start(1)].decode("latin-1")
    lines = [line.split() for line in text.lower().splitlines()]
    layout = next((words[1] for words in lines if words[:1] == ["format"] and len(words) > 1), "")
    if layout not in ORDERS:
        raise MeshganError(f"it is a PLY file of an unknown format '{shown(layout[:20])}'.")
    elements: list[Element] = []
    for number, words in enumerate(lines, start=1):
        try:
            if words[:1] == ["element"]:
                elements.append(Element(words[1], within_bounds(int(words[2][:20]), "rows", 3 * MOST), ()))
            elif words[:1] == ["property"]:
                last = elements.pop()
                elements.append(Element(last.name, last.count, (*last.properties, _property(words, ORDERS[layout]))))
        except (IndexError, KeyError, ValueError) as error:
            raise MeshganError(f"line {number}, '{shown(' '.join(words)[:40])}', means nothing.") from error
    if any(element.count < 0 for element in elements):
        raise MeshganError("a table has a negative number of rows.")
    return elements, layout == "ascii", data[stop:], len(lines)


def _property(words: list[str], order: str) -> Property:
    if words[1] == "list":
        return Property(words[4], order + TYPES[words[3]], order + TYPES[words[2]])
    return Property(words[2], order + TYPES[words[1]])


def _text_body(body: bytes, elements: Sequence[Element], first_line: int) -> _Body:
    """The numbers of a text: by lines, if there are enough of them that are long enough."""
    text = plain(body)
    wanted = sum(element.count for element in elements if element.properties)
    words = Words.of(text, first_line)
    solid = np.flatnonzero(words.counts)
    if wanted > len(solid):
        return _Numbers(words.numbers())
    solid = solid[:wanted]
    last = int(words.counts[: solid[-1] + 1].sum()) if len(solid) else 0  # what follows may be anything
    shortest = np.repeat([len(e.properties) for e in elements], [e.count if e.properties else 0 for e in elements])
    if np.count_nonzero(words.counts) > wanted and (words.counts[solid] < shortest).any():
        return _Numbers(words.numbers())  # rows go over several lines
    kept = words.some(np.arange(last))
    return _Lines(kept.numbers(), words.counts[solid], solid + first_line)


def _whole(numbers: Values) -> Integers:
    """Vertex numbers as integers; raises if they are not."""
    with np.errstate(invalid="ignore"):
        whole = numbers.astype(np.int64)
    if not np.isfinite(numbers).all() or (whole != numbers).any():
        raise MeshganError("a face names a vertex that cannot be.")
    return whole
