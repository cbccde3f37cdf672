"""Landmarks that a person brings along: named points on a scan, read from the files that landmark tools write.

A landmark is known by its index in the scheme of 79 points (docs/registration.md): 0-67 are the iBUG points,
68-78 are this project's. Files may hold any part of them, by name or by index.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.errors import UsageError
from meshgan.reading import cells, read_text

FARTHEST = 1e12  # of a coordinate, in any unit
MOST_BYTES = 4_000_000  # a landmark file is a few kilobytes; larger ones are something else
CONTOUR, INNER = 17, 51  # of iBUG's points: on the jaw line, and all others
FEWEST = 4  # points that fix a head's place, turn and scale with one to spare

# The groups that menpo writes. Its older files say "leye" for the eye on the left of the image; its newer ones
# say "left_eye" for the person's own left eye, as iBUG does.
GROUPS: dict[str, Sequence[int]] = {
    "chin": range(17),
    "jaw": range(17),
    "leyebrow": range(17, 22),
    "right_eyebrow": range(17, 22),
    "reyebrow": range(22, 27),
    "left_eyebrow": range(22, 27),
    "nose": range(27, 36),
    "leye": range(36, 42),
    "right_eye": range(36, 42),
    "reye": range(42, 48),
    "left_eye": range(42, 48),
    "mouth": range(48, 68),
}


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points (L, 3) in millimetres with their `index` (L,) in the scheme; each index at most once, ascending."""

    index: Integers
    points: Floats

    def __len__(self) -> int:
        return len(self.index)


def read_landmarks(path: Path, names: Sequence[str], millimetres: float = 1.0) -> Landmarks:
    """Read JSON, menpo's ljson, MeshLab's pp or CSV; `millimetres` is the length of the file's unit.

    `names` is the scheme, in order. Raises `UsageError` with the file's name and the remedy.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: landmarks are read from .json, .ljson, .pp and .csv files only.")
    text = read_text(path, MOST_BYTES)
    try:
        rows = list(reader(text, names))
        return _checked(rows, millimetres)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, ET.ParseError, RecursionError) as error:
        raise UsageError(f"{path} is damaged or not a landmark file; see docs/registration.md.") from error


Row = tuple[int, Any]


def _checked(rows: list[Row], millimetres: float) -> Landmarks:
    """Sort by index and refuse what could only be a mistake. Points that are missing (null, NaN) are left out."""
    index = np.array([row[0] for row in rows], dtype=np.int64)
    points = np.array([row[1] for row in rows], dtype=np.float64).reshape(len(rows), 3)
    present = np.isfinite(points).all(axis=1)
    if (np.abs(points[present]) > FARTHEST).any():
        raise UsageError("a landmark is too far away to be one.")
    index, points = index[present], points[present]
    if len(np.unique(index)) != len(index):
        raise UsageError("a landmark is given twice.")
    if len(index) < FEWEST:
        raise UsageError(f"it holds {len(index)} landmarks, but at least {FEWEST} are needed.")
    if np.linalg.matrix_rank(points - points.mean(axis=0), tol=1e-6 * np.abs(points).max()) < 2:
        raise UsageError("its landmarks lie on one line, which leaves the head's turn open.")
    order = np.argsort(index)
    return Landmarks(index[order], points[order] * millimetres)


def index_of(key: object, names: Sequence[str]) -> int:
    """The index of a landmark given by name or by number."""
    word = str(key).strip()
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise UsageError(f"'{word[:40]}' is not one of the {len(names)} landmarks; docs/registration.md lists them.")


def _json(text: str, names: Sequence[str]) -> Iterable[Row]:
    """`{"nose_tip": [x, y, z], "30": [x, y, z], ...}`, or a list of 68 or 79 points in the scheme's order."""
    content = json.loads(text)
    if isinstance(content, dict) and {"groups", "landmarks", "labels"} & set(content):
        return _ljson(text, names)
    if isinstance(content, list):
        return _whole(content, names)
    if not isinstance(content, dict):
        raise ValueError("neither names nor a list")
    return [(index_of(key, names), _point(value)) for key, value in content.items()]


def _ljson(text: str, names: Sequence[str]) -> Iterable[Row]:
    """Menpo's format, versions 1-3: labels with masks over one list of points."""
    content = json.loads(text)
    if "groups" in content and isinstance(content["groups"], dict):
        content = next(iter(content["groups"].values()))
    if "landmarks" not in content:
        raise UsageError("this ljson has no list of landmarks; write it with menpo 0.5 or newer.")
    points = [_point(point) for point in content["landmarks"]["points"]]
    rows = []
    for label in content.get("labels", []):
        members = label["mask"]
        targets = _targets(label["label"], len(members), names)
        rows += [(target, points[member]) for target, member in zip(targets, members, strict=True)] if targets else []
    return rows or _whole(points, names)


def _targets(label: str, count: int, names: Sequence[str]) -> Sequence[int]:
    """What the members of an ljson label are in the scheme; nothing if the label means nothing to us."""
    if label.lower() in GROUPS and len(GROUPS[label.lower()]) == count:
        return GROUPS[label.lower()]
    return [names.index(label)] if label in names and count == 1 else []


def _whole(points: list[Any], names: Sequence[str]) -> Iterable[Row]:
    if len(points) not in (68, len(names)):
        raise UsageError(f"a bare list needs 68 (iBUG) or {len(names)} points, not {len(points)}; give names instead.")
    return list(enumerate(map(_point, points)))


def _pp(text: str, names: Sequence[str]) -> Iterable[Row]:
    """MeshLab's picked points; points that are switched off are left out."""
    if "<!ENTITY" in text:
        raise UsageError("picked points hold no entities.")
    points = [point for point in ET.fromstring(text).iter("point") if point.get("active", "1") != "0"]
    places = _numbered([p.attrib["name"] for p in points], names)
    return [(place, _point([p.attrib[axis] for axis in "xyz"])) for place, p in zip(places, points, strict=True)]


def _numbered(given: Sequence[str], names: Sequence[str]) -> Sequence[int]:
    """The indices of picked points. MeshLab calls them 0, 1, 2, … by itself, in the order of picking.

    That says what they are if they are all of iBUG's 68, its 51 without the jaw line, or the whole scheme.
    """
    if [word.strip() for word in given] != [str(number) for number in range(len(given))]:
        return [index_of(word, names) for word in given]
    if len(given) == INNER:
        return range(CONTOUR, CONTOUR + INNER)
    if len(given) in (CONTOUR + INNER, len(names)):
        return range(len(given))
    raise UsageError(
        f"its {len(given)} points bear MeshLab's own names, 0 to {len(given) - 1}, which do not say what they are; "
        f"rename them in MeshLab, to {names[30]}, {names[36]} and so on."
    )


def _csv(text: str, names: Sequence[str]) -> Iterable[Row]:
    """`name,x,y,z` per line; a first line that says so is skipped."""
    rows = [row for _, row in cells(text) if not row[0].startswith("#")]
    if rows and rows[0][0].strip().lower() in {"name", "index", "landmark"}:
        rows = rows[1:]
    return [(index_of(row[0], names), _point(row[1:])) for row in rows]


def _point(value: Any) -> list[float]:
    """Three numbers; `null` becomes NaN, which means that the point is not there."""
    if len(value) != 3:
        raise ValueError("a point needs three coordinates")
    return [np.nan if number is None else float(number) for number in value]


READERS: dict[str, Callable[[str, Sequence[str]], Iterable[Row]]] = {
    ".json": _json,
    ".ljson": _ljson,
    ".pp": _pp,
    ".csv": _csv,
}
