"""What the names of files say: their natural order, and the subject and labels of each."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshgan.errors import UsageError

ENDINGS = {".obj", ".ply", ".glb", ".stl"}

Row = dict[str, str]


def mesh_files(folder: Path) -> list[str]:
    """Paths of all meshes in and below `folder`, relative to it, in natural order; hidden files are left out."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.")
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    names = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    if not names:
        raise UsageError(f"{folder} holds no mesh; files ending in {', '.join(sorted(ENDINGS))} are read.")
    return sorted(names, key=natural)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts numbers within names by their value (`face2` before `face10`), the same on every machine."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def label_rows(files: Sequence[str], labels: Path | None, pattern: str | None) -> tuple[list[Row], dict[str, str]]:
    """A row of labels for each file, `file` and `subject` first, and why the other files have none.

    `labels` is a CSV (see `read_labels`), `pattern` a regular expression for the subject (see `subjects_of`).
    """
    table = read_labels(labels) if labels else {}
    subjects = subjects_of(files, pattern)
    rows: list[Row] = []
    without: dict[str, str] = {}
    for name in files:
        given = table.get(name, table.get(name.rpartition(".")[0]))
        row = {"file": name, "subject": subjects[name]} | (given or {}) | {"file": name}
        if labels and given is None:
            without[name] = f"{labels.name} has no row for it"
        elif not row["subject"]:
            without[name] = "it has no subject"
        else:
            rows.append(row)
    if not rows:
        raise UsageError(f"none of the {len(files)} meshes can be labelled; {files[0]}: {without[files[0]]}.")
    return rows, without


def read_labels(path: Path) -> Mapping[str, Row]:
    """Rows of a CSV in UTF-8 by its column `file`: the path within the folder, with or without its ending.

    Raises `UsageError` if it is no such table, or names a file twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, strict=True))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a CSV file in UTF-8.") from error
    if not rows or "file" not in rows[0]:
        raise UsageError(f"{path} needs a header with the column 'file', and a row for each mesh.")
    if any(None in row or None in row.values() for row in rows):
        raise UsageError(f"{path} has rows with more or fewer cells than its header.")
    table = {Path(row["file"]).as_posix(): row for row in rows}
    if len(table) < len(rows):
        raise UsageError(f"{path} names a file more than once.")
    return table


def subjects_of(files: Sequence[str], pattern: str | None) -> dict[str, str]:
    """The subject of each file: what the first group of `pattern` finds in its path, else `customary_subjects`.

    A file in which the pattern finds nothing has the subject ''. Raises `UsageError` if the pattern is not a
    regular expression with a group.
    """
    if pattern is None:
        return customary_subjects(files)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"the subject pattern {pattern!r} is not a regular expression ({error}).") from error
    if expression.groups == 0:
        raise UsageError(f"the subject pattern {pattern!r} needs parentheses around what is the subject.")
    matches = ((name, expression.search(name)) for name in files)
    return {name: (match.group(1) or "") if match else "" for name, match in matches}


def customary_subjects(files: Sequence[str]) -> dict[str, str]:
    """The first folder of the path, else the name up to its first `_`, `-`, `.` or space.

    Where that is the same for all files (face_001, face_002, …), each file is a subject of its own.
    """
    guesses = {name: name.split("/")[0] if "/" in name else re.split(r"[_\-. ]", name)[0] for name in files}
    if len(set(guesses.values())) > 1:
        return guesses
    return {name: name.rpartition(".")[0] for name in files}
