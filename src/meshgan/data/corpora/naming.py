"""What the names of files say: their natural order, and the subject and labels of each."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshgan.errors import UsageError
from meshgan.progress import counted
from meshgan.reading import read_table, shown

ENDINGS = {".obj", ".ply", ".glb", ".stl"}
PARTS = re.compile(r"[_\-. ]+")
FOLDERS = re.compile(  # names of folders that are no people
    r"(train|training|test|testing|val|valid|validation|eval|meshes|mesh|scans|data|models?|registrations?|registered|"
    r"aligned|raw|obj|ply|glb|stl|faces|heads|"
    r"(session|sequence|seq|take|day|batch|part|split|fold|visit|set)[_\- ]?\d*)",
    re.IGNORECASE,
)
EXPRESSIONS = re.compile(  # words that are no people either
    r"(neutral|rest|smile|smiling|grin|happy|happiness|sad|sadness|angry|anger|fear|afraid|disgust|surprise|contempt|"
    r"bareteeth|cheeks?|(eye)?brows?|lips?|mouth|jaw|eyes?|nose|closed?|open|blink|kiss|pucker|expressions?|emotion|"
    r"high|low|wide|up|down|in|out|back|left|right|middle|side|extreme)",
    re.IGNORECASE,
)
DATE = re.compile(r"(19|20)?\d{6}")

Row = dict[str, str]


def mesh_files(folder: Path) -> list[str]:
    """Paths of all meshes in and below `folder`, relative to it, in natural order; hidden files are left out.

    Folders that are links are followed, each real folder once.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.")
    if all((folder / name).is_file() for name in ("card.json", "vertices.npy")):
        raise UsageError(f"{folder} is a set of faces already; `meshgan data export` makes meshes of it.")
    names, seen = [], set()
    for place, inside, files in os.walk(folder, followlinks=True):
        here = Path(place)
        real = here.resolve()
        if real in seen:
            inside.clear()  # a link that leads back
            continue
        seen.add(real)
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found = (here / name for name in files if not name.startswith("."))
        names += [path.relative_to(folder).as_posix() for path in found if path.suffix.lower() in ENDINGS]
    if not names:
        raise UsageError(f"{folder} holds no mesh; files ending in {', '.join(sorted(ENDINGS))} are read.")
    return sorted(names, key=natural)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts numbers within names by their value (`face2` before `face10`), the same on every machine."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def label_rows(files: Sequence[str], labels: Path | None, pattern: str | None) -> tuple[list[Row], dict[str, str]]:
    """A row of labels for each file, `file` and `subject` first, and why the other files have none.

    `labels` is a CSV (see `read_labels`), `pattern` a regular expression for the subject (see `subjects_of`); a
    table needs a column for the subject unless there is a pattern. Names are as they are shown.
    """
    table = read_labels(labels, ["file"] if pattern else ["file", "subject"]) if labels else {}
    subjects = subjects_of(files, pattern)
    rows: list[Row] = []
    without: dict[str, str] = {}
    for name in files:
        given = _row_of(name, table)
        row = {"file": shown(name), "subject": shown(subjects[name])} | (given or {}) | {"file": shown(name)}
        if labels and given is None:
            without[row["file"]] = f"{labels.name} has no row for it"
        elif not row["subject"]:
            without[row["file"]] = "it has no subject"
        else:
            rows.append(row)
    if not rows:
        first = next(iter(without))
        nothing_fits = table and not any(_row_of(name, table) for name in files)
        beside = f"; its rows name {', '.join(list(table)[:2])}, …" if nothing_fits else ""
        raise UsageError(
            f"none of the {counted(len(files), 'mesh', 'meshes')} can be labelled; {first}: {without[first]}{beside}."
        )
    return rows, without


def unused_rows(files: Sequence[str], labels: Path) -> list[str]:
    """The names in a table of labels that none of the files has."""
    table = read_labels(labels, ["file"])
    used = [id(row) for name in files if (row := _row_of(name, table)) is not None]
    return [row["file"] for row in table.values() if id(row) not in used]


def guess_told(rows: Sequence[Row]) -> str:
    """How many subjects were guessed from the names, with examples and what to do, for a person to check."""
    return f"{subjects_told(rows)}; if that is wrong, say it by `subject_pattern` or `labels`."


def subjects_told(rows: Sequence[Row]) -> str:
    """How many subjects were guessed from the names, with examples."""
    examples = {row["subject"]: row["file"] for row in reversed(rows)}
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    some = ", ".join(f"{examples[subject]} is of {subject}" for subject in subjects[:3])
    return f"Guessed from the names: {counted(len(subjects), 'subject')} ({some}{', …' if len(subjects) > 3 else ''})"


def _row_of(name: str, table: Mapping[str, Row]) -> Row | None:
    return table.get(_key(name), table.get(_key(name).rpartition(".")[0]))


def read_labels(path: Path, needed: Sequence[str] = ("file", "subject")) -> Mapping[str, Row]:
    """Rows of a CSV by its column `file`: the path within the folder, with or without its ending.

    Raises `UsageError` if it is no such table, or names a file twice.
    """
    rows = read_table(path, needed)
    if not rows:
        raise UsageError(f"{path} needs a row for each mesh below its header.")
    table: dict[str, Row] = {}
    for row in rows:
        if _key(row["file"]) in table:
            raise UsageError(f"{path} names a file more than once: {shown(row['file'])}.")
        table[_key(row["file"])] = row
    return table


def _key(name: str) -> str:
    """What names of one file have in common: slashes either way, accents in one piece with their letters or not."""
    return Path(shown(name).replace("\\", "/")).as_posix()


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
    """Who is on each file, by the customs of naming.

    The subject is the first folder that is not the same for all, and is no part of a data set (train, session 2) and
    no expression; where folders of expressions hold folders of people, the latter. Without such a folder it is the
    beginning of the name: what all have in common, then the first part that differs and is no expression, and what
    belongs to it. Where that leaves one subject, each file is one of its own.
    """
    levels = [name.split("/") for name in files]
    depth = min(map(len, levels)) - 1
    columns = [[parts[level] for parts in levels] for level in range(depth)]
    people = [column for column in columns if len(set(column)) > 1 and not _are_no_people(column)]
    if people:
        chosen = people[0]
        for other in people[1:]:  # both orders are in use; numbers are people sooner than words are
            if _recurs(other, chosen) and _numbered(other) > _numbered(chosen):
                chosen = other
        return dict(zip(files, chosen, strict=True))
    same_folder = depth > 0 and any(len(set(column)) > 1 and _are_no_people(column) for column in columns)
    stems = [parts[-1].rpartition(".")[0] for parts in levels]
    guesses = _from_stems(stems)
    if len(set(guesses)) > 1 and guesses != stems:
        return dict(zip(files, guesses, strict=True))
    return {name: stem if same_folder else name.rpartition(".")[0] for name, stem in zip(files, stems, strict=True)}


def _from_stems(stems: Sequence[str]) -> list[str]:
    """The part of each name that says who it is."""
    words = [PARTS.split(stem) for stem in stems]
    shortest = min(map(len, words))
    first = next(
        (
            place
            for place in range(shortest)
            if len(column := {parts[place] for parts in words}) > 1
            and not all(EXPRESSIONS.fullmatch(word) for word in column)
        ),
        None,
    )
    if first is None:
        return [parts[0] or stem for parts, stem in zip(words, stems, strict=True)]
    last = first
    if first + 1 < shortest and all(DATE.fullmatch(parts[first]) for parts in words):
        last += 1  # a date and a number make a person
    while last + 1 < shortest and len({parts[last + 1] for parts in words}) == 1 and len(set(map(len, words))) == 1:
        if any(EXPRESSIONS.fullmatch(parts[last + 1]) for parts in words):
            break
        last += 1
    return [_joined(stem, first, last) or stem for stem in stems]


def _joined(stem: str, first: int, last: int) -> str:
    """The parts of a name from its beginning (or from `first`, behind an expression) to `last`, as they stand."""
    pieces = re.split(r"([_\-. ]+)", stem)
    start = 2 * first if any(EXPRESSIONS.fullmatch(word) for word in pieces[0 : 2 * first : 2]) else 0
    return "".join(pieces[start : 2 * last + 1])


def _are_no_people(column: Sequence[str]) -> bool:
    return all(FOLDERS.fullmatch(name) or all(map(EXPRESSIONS.fullmatch, PARTS.split(name))) for name in column)


def _recurs(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Whether names of `inner` folders stand in several of the `outer` ones."""
    return len(set(zip(inner, outer, strict=True))) > len(set(inner))


def _numbered(column: Sequence[str]) -> float:
    """The share of names that hold a digit."""
    names = set(column)
    return sum(any(sign.isdigit() for sign in name) for name in names) / len(names)
