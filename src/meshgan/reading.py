"""Reading what comes from outside: one gate for a file's type, size and encoding, whatever it holds.

Only ordinary files are read (a pipe would wait for ever, a device never ends), none beyond its kind's size, and text
is decoded in one way: UTF-8 or UTF-16, with or without a byte order mark, with any line ends. Every function raises
`UsageError` where the path is wrong and `MeshganError` where the content is; both name the file, and the line and
word where there is one.
"""

import csv
import io
import json
import os
import re
import stat
import tomllib
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.errors import MeshganError, UsageError
from meshgan.progress import counted

MOST_TEXT = 64 * 2**20  # bytes of a table or a JSON file
MOST_TOML = 2**16  # bytes; a recipe is two thousand
MOST_DOTS = 200  # in a line of TOML: a key of thousands of parts takes tomllib minutes
MOST_ARRAYS = 2**30  # bytes that an archive of arrays may unfold to
WIDE = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
COMMA = re.compile(r"\s*[-+]?[0-9]*,[0-9]+([eE][-+]?[0-9]+)?\s*")  # a number with a decimal comma


def read_bytes(path: str | Path, most: int) -> bytes:
    """The content of an ordinary file of at most `most` bytes."""
    path = Path(path)
    try:
        # without O_NONBLOCK, opening a pipe would wait for somebody to write into it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path} does not exist or is not a file.")
            if status.st_size <= most:
                with os.fdopen(descriptor, "rb", closefd=False) as stream:
                    data = stream.read(status.st_size + 1)
                    while len(data) <= most and (more := stream.read(2**20)):
                        data += more  # what grows meanwhile, or tells no size
                if len(data) <= most:
                    return data
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a zero in the name
        raise UsageError(f"{path} does not exist.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
    raise UsageError(f"{path} is larger than {_size(most)}, the most that is read of such a file.")


def check_file(path: str | Path, most: int) -> None:
    """Raise `UsageError` unless a path is an ordinary file of at most `most` bytes, for what is read by a library."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "there is no such name"
        raise UsageError(f"{path} cannot be read ({reason}).") from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} does not exist or is not a file.")
    if status.st_size > most:
        raise UsageError(f"{path} is larger than {_size(most)}, the most that is read of such a file.")


def decoded(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 as its mark or its zeros say; lines end in `\\n`.

    A byte order mark is dropped, and so is what old systems put behind the end (Ctrl-Z, zeros). Raises `MeshganError`
    that names the line where the bytes are no text.
    """
    encoding = wide_encoding(data) or "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MeshganError(f"line {line} is not text in UTF-8 (byte 0x{data[error.start]:02x}).") from error
    text = text.rstrip("\x1a\0").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise MeshganError("it holds zeros; it is no text.")
    return text


def wide_encoding(data: bytes) -> str | None:
    """The encoding of a text whose letters take two bytes or four, as its mark or its zeros tell."""
    for mark, name in WIDE.items():
        if data.startswith(mark):
            return name
    pairs = np.frombuffer(data[: min(16, len(data) // 2 * 2)], np.uint8).reshape(-1, 2) == 0
    if len(pairs) and len(data) % 2 == 0 and (pairs == pairs[0]).all():
        return {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((bool(pairs[0, 0]), bool(pairs[0, 1])))
    return None


def read_text(path: str | Path, most: int = MOST_TEXT) -> str:
    """A text file of at most `most` bytes, see `decoded`."""
    data = read_bytes(path, most)
    try:
        return decoded(data)
    except MeshganError as error:
        raise MeshganError(f"{path}: {error}") from error


def read_json(path: str | Path, most: int = MOST_TEXT) -> Any:
    """What a JSON file holds. Numbers are finite and integers have 64 bits: NaN and infinity are no JSON."""
    return parse_json(read_text(path, most), str(path))


def parse_json(text: str, source: str) -> Any:
    """The value of a JSON text; `source` names it in errors."""
    try:
        return json.loads(text, parse_constant=_not_finite, parse_float=_finite, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise MeshganError(f"{source} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except RecursionError as error:
        raise MeshganError(f"{source} is nested too deeply.") from error
    except ValueError as error:
        raise MeshganError(f"{source} holds a number that is none: {_clipped(str(error))}.") from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """What a TOML file holds."""
    return parse_toml(read_text(path, MOST_TOML), str(path))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The table of a TOML text; `source` names it in errors."""
    if len(text) > MOST_TOML or any(line.count(".") > MOST_DOTS for line in text.split("\n")):
        raise UsageError(f"{source} is no recipe: it is larger, or its keys have more parts, than any has.")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{source} is nested too deeply.") from error
    except ValueError as error:  # also numbers of thousands of digits
        raise UsageError(f"{source} is no TOML file ({_clipped(str(error))}).") from error


def read_table(path: str | Path, needed: Sequence[str] = (), most: int = MOST_TEXT) -> list[dict[str, str]]:
    """The rows of a CSV file by the names of its columns, which are `needed` whatever their capitals and blanks.

    Commas, semicolons or tabs stand between cells; with the latter two, numbers may have decimal commas, which
    become points. Empty lines and cells behind the last column are left out. A missing column is a `UsageError`
    that names those that are there.
    """
    text = read_text(path, most)
    try:
        lines = cells(text)
        header = _header(lines[0][1] if lines else [], needed)
        return [_row(header, number, row) for number, row in lines[1:]]
    except MeshganError as error:
        raise type(error)(f"{path}: {error}") from error


def cells(text: str) -> list[tuple[int, list[str]]]:
    """The lines of a CSV text that are not empty: their number and their cells, without blanks around them."""
    first, _, rest = text.partition("\n")
    given = re.fullmatch(r"\s*sep=(.)\s*", first)  # as spreadsheets write it
    start = next((line for line in text.split("\n") if line.strip()), "") if given is None else ""
    between = given[1] if given else max(",;\t", key=lambda sign: (_outside_quotes(start).count(sign), sign == ","))
    reader = csv.reader(io.StringIO(rest if given else text, newline=""), delimiter=between, strict=True)
    found: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            stripped = [cell.strip() for cell in row]
            if any(stripped):
                if between != ",":
                    stripped = [cell.replace(",", ".") if COMMA.fullmatch(cell) else cell for cell in stripped]
                found.append((reader.line_num + bool(given), stripped))
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num + bool(given)} is no line of a CSV file ({error}).") from error
    return found


def read_arrays(path: str | Path, most: int = MOST_ARRAYS) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` archive that unfolds to at most `most` bytes. Nothing is unpickled."""
    data = read_bytes(path, most)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > most:
                raise MeshganError(f"{path} unfolds to more than {_size(most)}, the most that is read of such a file.")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        if not all(isinstance(values, np.ndarray) for values in found.values()):
            raise ValueError("numpy hands over the bytes of whatever is no array")
        return found
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise MeshganError(f"{path} is damaged: it is no archive of arrays.") from error
    except (zipfile.BadZipFile, zlib.error, TokenError, OverflowError, MemoryError, RecursionError) as error:
        raise MeshganError(f"{path} is damaged: it is no archive of arrays.") from error


def shown(name: str | bytes | Path) -> str:
    """A file's name, or a word of a file, as any terminal can print and any file can hold it.

    It is one line; what is no text is escaped.
    """
    raw = os.fsencode(name) if isinstance(name, bytes | Path) else _bytes(name)
    text = unicodedata.normalize("NFC", raw.decode("utf-8", "backslashreplace"))
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # as file names come
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _header(names: Sequence[str], needed: Sequence[str]) -> list[str]:
    """The columns' names, the needed ones as they are asked for. Raises if one is missing or comes twice."""
    wanted = {name.casefold(): name for name in needed}
    header = [wanted.get(name.casefold(), name) for name in names]
    while header and not header[-1]:
        header.pop()
    folded = [name.casefold() for name in header]
    missing = [name for name in needed if name not in header]
    if missing:
        there = ", ".join(_clipped(name) for name in header) or "none"
        raise UsageError(f"the column '{missing[0]}' is missing; it has {_clipped(there, 120)}.")
    if len(set(folded)) < len(folded) or "" in folded:
        twice = next(name for name in header if folded.count(name.casefold()) > 1 or not name)
        raise UsageError(f"two columns are called '{_clipped(twice)}'." if twice else "a column has no name.")
    return header


def _row(header: Sequence[str], number: int, row: Sequence[str]) -> dict[str, str]:
    if len(row) < len(header) or any(row[len(header) :]):
        raise UsageError(f"line {number} has {counted(len(row), 'cell')}, the header {len(header)}.")
    return dict(zip(header, row, strict=False))


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _finite(text: str) -> float:
    value = float(text)
    return value if np.isfinite(value) else _not_finite(text)


def _integer(text: str) -> int:
    """A whole number of at most 64 bits: `float` cannot take every longer one, and nothing counts as far."""
    value = int(text)
    return value if abs(value) < 2**64 else int(_not_finite(text))


def _not_finite(text: str) -> float:
    raise ValueError(_clipped(text))


def _clipped(text: str, most: int = 40) -> str:
    return shown(text if len(text) <= most else text[: most - 1] + "…")


def _size(most: int) -> str:
    return f"{most / 2**20:,.0f} MB" if most >= 2**20 else f"{most / 2**10:,.0f} kB"
