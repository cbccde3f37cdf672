"""FaceSet: many faces of one template, in a folder that any tool can read.

SET/card.json      what the faces are: source, licence, unit, split seed (see `Card`)
SET/template.ply   the template: mean shape and connectivity
SET/vertices.npy   (N, V, 3) float32, millimetres, memory-mapped
SET/labels.csv     one row per face; the column `subject` is required
"""

import csv
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from tokenize import TokenError
from types import MappingProxyType
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshgan.arrays import Faces, Integers
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import WRITERS, read_mesh, write_mesh
from meshgan.geometry.mesh import Layout, Mesh, surface_of
from meshgan.progress import counted, track
from meshgan.reading import check_file, read_json, read_text, shown
from meshgan.storage import atomic_folder

BLOCK = 256  # faces held in memory at a time
FAR_MM = 1e6  # no face lies a kilometre away
OTHER_UNIT = 5.0  # a face so many times larger or smaller than the template must be in another unit
LONGEST = 200  # bytes of a file's name
HASHED = 2**24  # bytes hashed by a thread at a time
MOST_CARD, MOST_LABELS = 2**20, 2**30  # bytes of a card, and of a table of labels in memory
MOST_VERTICES = 2**50  # bytes: they are never read at once

Labels = Mapping[str, NDArray[np.str_]]


Text = Annotated[str, Field(max_length=100_000)]


class Card(BaseModel):
    """What a FaceSet says about itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    source: Text  # where the faces come from, in a sentence
    licence: Text
    synthetic: bool
    unit: Literal["mm"] = "mm"
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    parameters: dict[str, Any] = {}  # what made it, enough to make it again


@dataclass(frozen=True)
class Split:
    """Row indices of three parts; no subject is in two.

    Models learn from `train`, choices between them are made on `validation`, and `test` is for tables alone.
    """

    train: Integers
    validation: Integers
    test: Integers

    def part(self, name: Literal["validation", "test"]) -> Integers:
        """The rows of one of the parts that a model can be measured against."""
        return self.validation if name == "validation" else self.test


def some_rows(rows: Integers, most: int) -> Integers:
    """At most `most` of the rows, always the same, drawn at random: every nth would miss labels that come in turns."""
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), min(most, len(rows)), replace=False))]


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Per vertex and coordinate, `mean` and `std` (V, 3) of training faces in millimetres.

    The network sees `(x - mean) / std`; a floor on `std` keeps vertices that never move finite.
    """

    mean: Faces
    std: Faces

    def apply(self, vertices: Faces) -> Faces:
        """Millimetres (..., V, 3) to network units."""
        return (vertices - self.mean) / self.std

    def undo(self, values: Faces) -> Faces:
        """Network units (..., V, 3) to millimetres."""
        return values * self.std + self.mean


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Many faces of one template; `vertices` (N, V, 3) float32 in millimetres stay on disk until they are read."""

    path: Path
    card: Card
    template: Mesh
    vertices: Faces
    labels: Labels

    @classmethod
    def open(cls, path: str | Path) -> "FaceSet":
        """Open and check the folder. Raises `UsageError` if it is no FaceSet, `MeshganError` if it is damaged."""
        path = Path(path)
        if not (path / "card.json").is_file():
            raise UsageError(
                f"{path} is not a FaceSet (it has no card.json); a folder of meshes becomes one by an import."
            )
        template = read_mesh(path / "template.ply")
        if unused := len(template.vertices) - len(np.unique(template.triangles)):
            raise MeshganError(f"{path}: no triangle uses {unused} of its vertices; make the FaceSet again.")
        vertices = _open_vertices(path / "vertices.npy", template)
        labels = _read_labels(path / "labels.csv", len(vertices))
        return cls(path, _read_card(path / "card.json"), template, vertices, labels)

    @classmethod
    def create(
        cls,
        vertices: ArrayLike,
        template: Mesh,
        labels: Mapping[str, Sequence[object]] | None = None,
        name: str = "faces",
        source: str = "arrays",
        licence: str = "not said",
        synthetic: bool = False,
    ) -> "FaceSet":
        """A set of faces (N, V, 3) in mm, of the connectivity of `template`, in memory; `save` writes it.

        Vertices that no triangle uses stay out, and triangles that share nothing are joined, see `surface_of`.
        `labels` are columns of N values each; without the column `subject`, every face is of another person. Raises
        `UsageError` for shapes that do not fit, and numbers that are none.
        """
        if not isinstance(template, Mesh):
            raise UsageError("`template` should be a mesh, as `read_mesh` gives it.")
        if labels is not None and not isinstance(labels, Mapping):
            raise UsageError('`labels` should be columns by their names, as in {"age": [31, 54]}.')
        try:
            faces = np.ascontiguousarray(vertices, dtype=np.float32)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"faces must be an array of numbers ({error}).") from error
        if faces.ndim != 3 or faces.shape[1:] != template.vertices.shape or not len(faces):
            raise UsageError(
                f"faces of shape {faces.shape} are not of a template of {len(template.vertices)} vertices; "
                f"give at least one, as an array (N, {len(template.vertices)}, 3)."
            )
        if not len(template.triangles):
            raise UsageError("the template has no triangles; a set needs a surface.")
        kept, template = surface_of(template)
        faces = faces[:, kept] if len(kept) < faces.shape[1] else faces
        if not np.isfinite(faces).all():
            raise UsageError("the faces have vertices that are NaN or infinite.")
        size, usual = float(np.ptp(faces[0], axis=0).max()), float(np.ptp(template.vertices, axis=0).max())
        if not usual / OTHER_UNIT < size < usual * OTHER_UNIT:
            raise UsageError(
                f"the faces measure {size:.3g} mm and their template {usual:.3g} mm; are they in another unit?"
            )
        columns = {name: np.array([str(value) for value in _values(column)]) for name, column in (labels or {}).items()}
        columns.setdefault("subject", np.array([f"{row}" for row in range(len(faces))]))
        if wrong := [name for name, column in columns.items() if len(column) != len(faces)]:
            raise UsageError(
                f"the label '{wrong[0]}' has {counted(len(columns[wrong[0]]), 'value')} for "
                f"{counted(len(faces), 'face')}."
            )
        card = Card(name=name, source=source, licence=licence, synthetic=synthetic)
        faces.flags.writeable = False
        return cls(Path(name), card, template, faces, MappingProxyType(columns))

    def save(self, path: str | Path) -> "FaceSet":
        """Write the set to a folder and open it there. Raises `MeshganError` if the folder holds something."""
        with create_faceset(Path(path), self.template, len(self), self.card) as writer:
            for rows in blocks(len(self), "Writing"):
                writer.append(self[rows], self._label_rows(rows))
        return FaceSet.open(path)

    def export(self, folder: str | Path, formats: Sequence[str] = ("ply",), layout: Layout | None = None) -> list[Path]:
        """Write every face as a mesh in each of `formats` (ply, obj, stl in mm, glb in metres) into a new folder.

        OBJ and GLB have the texture coordinates of a `layout`, such as `layout_of(faces.template)`.
        They are named after the label `file` where the set has one whose names differ, else by number;
        `FOLDER/labels.csv` says which is which, as an import of the first format reads it. Returns the paths.
        """
        if unknown := [ending for ending in formats if f".{ending}" not in WRITERS]:
            raise UsageError(f"meshes are written as {', '.join(WRITERS)} only, not as '{unknown[0][:40]}'.")
        folder, names = Path(folder), self.names()
        rows = self._label_rows(slice(None))
        with atomic_folder(folder) as partial:
            for row, name in enumerate(track(names, "Writing meshes")):
                mesh = self.template.with_vertices(self[row])
                for ending in formats:
                    write_mesh(partial / f"{name}.{ending}", mesh, layout)
            listed = [{**row, "file": f"{name}.{formats[0]}"} for name, row in zip(names, rows, strict=True)]
            _write_labels(partial / "labels.csv", listed)
        return [folder / f"{name}.{ending}" for name in names for ending in formats]

    def names(self) -> list[str]:
        """A name for a file of each face, without its ending: that of the label `file`, or a number."""
        digits = max(3, len(str(len(self) - 1)))
        numbered = [f"face-{row:0{digits}d}" for row in range(len(self))]
        if "file" not in self.labels:
            return numbered
        names = [shown(PurePath(str(file)).stem) for file in self.labels["file"]]
        known = {name.casefold() for name in names}
        usable = len(known) == len(names) and all(0 < len(name.encode()) < LONGEST for name in names)
        return names if usable and not any(set(name) & set('/\\:*?"<>|') for name in names) else numbered

    def _label_rows(self, rows: slice) -> list[dict[str, object]]:
        columns = [column[rows].tolist() for column in self.labels.values()]
        return [dict(zip(self.labels, values, strict=True)) for values in zip(*columns, strict=True)]

    def __len__(self) -> int:
        return len(self.vertices)

    def __getitem__(self, rows: Any) -> Faces:
        """A face (V, 3), or faces (B, V, 3) for a slice, a list or a mask; copies in memory.

        So a set is a data set of PyTorch: `DataLoader(faces, 16)` gives tensors (16, V, 3). Unlike `vertices`, it
        raises `MeshganError` for coordinates that are no numbers, or a kilometre away.
        """
        return self._sound(np.array(self.vertices[rows]))

    def __iter__(self) -> Iterator[Faces]:
        """Every face (V, 3), one after the other."""
        return (self[row] for row in range(len(self)))

    def check(self) -> None:
        """Read everything. Raises `MeshganError` where coordinates are no numbers, or a kilometre away."""
        for start, stop in zip(*_starts_and_stops(len(self), BLOCK), strict=True):
            self._sound(self.vertices[start:stop])

    def _sound(self, faces: Faces) -> Faces:
        """Those faces, if they hold nothing that no face does."""
        if not (np.abs(faces) < FAR_MM).all():
            raise MeshganError(
                f"{self.path / 'vertices.npy'} holds what is no number or a kilometre away; make the FaceSet again."
            )
        return faces

    @property
    def subjects(self) -> NDArray[np.str_]:
        """The subject (N,) of each face."""
        return self.labels["subject"]

    @cached_property
    def split(self) -> Split:
        """Rows for training, validation and test: shares of the subjects, chosen by `split_seed` alone.

        Who belongs where depends on the subjects' names and the seed, never on the order of files or rows, and who is
        tested does not depend on the share of the validation. At least one subject is tested and one more validated,
        unless that leaves none to train on.
        """
        names, card = np.unique(self.subjects), self.card
        tested = min(max(1, round(card.test_share * len(names))), len(names) - 1)
        wanted = max(1, round(card.validation_share * len(names))) if card.validation_share else 0
        validated = min(wanted, len(names) - tested - 1)
        place = np.empty(len(names), int)
        place[np.random.default_rng(card.split_seed).permutation(len(names))] = np.arange(len(names))
        places = place[np.searchsorted(names, self.subjects)]
        parts = np.searchsorted([tested, tested + validated], places, side="right")
        test, validation, train = (np.flatnonzero(parts == part) for part in range(3))
        return Split(train, validation, test)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that results depend on: every byte of faces, labels and template, and how they are split.

        Everything is read each time a set is opened and asked: 2 GB/s and more on two cores. A note of the file's
        size and time in place of that would miss changes in place by tools that keep the time.
        """
        card = self.card
        head = [card.split_seed, card.test_share, card.validation_share, self.template.content_hash]
        labels = {name: column.tolist() for name, column in self.labels.items()}
        digest = hashlib.sha256(json.dumps([head, labels], sort_keys=True).encode())
        digest.update(str(self.vertices.shape).encode())
        rows = max(1, HASHED // (4 * self.template.vertices.size))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for part in pool.map(self._digest_of, *_starts_and_stops(len(self), rows)):
                digest.update(part)
        return digest.hexdigest()

    def _digest_of(self, start: int, stop: int) -> bytes:
        block = self._sound(np.ascontiguousarray(self.vertices[start:stop], "<f4"))
        return hashlib.sha256(block.data).digest()

    @cached_property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the training part, summed in float64 block by block."""
        return measure_normalisation(self.vertices, self.split.train)

    def normalised_as(self, normalisation: Normalisation) -> "FaceSet":
        """The same faces under a normalisation of other ones: for a model that was trained on those."""
        other = replace(self)
        other.__dict__["normalisation"] = normalisation
        return other

    def narrowed(self, train: int, test: int) -> "FaceSet":
        """The same faces, of which at most so many of the training, of the validation and of the test part count, the
        same ones each time: enough to measure by where all take too long."""
        parts = (self.split.train, train), (self.split.validation, test), (self.split.test, test)
        other, split = replace(self), Split(*(some_rows(*part) for part in parts))
        other.__dict__["split"] = split
        rows = json.dumps([part.tolist() for part in (split.train, split.validation, split.test)])
        other.__dict__["fingerprint"] = hashlib.sha256(f"{self.fingerprint} {rows}".encode()).hexdigest()
        return other


def _values(column: Any) -> Any:
    """The plain values of a column, which may be an array or a tensor."""
    return column.tolist() if hasattr(column, "tolist") else column


def measure_normalisation(vertices: Faces, rows: Integers, floor_mm: float = 0.01) -> Normalisation:
    """Mean and standard deviation of `vertices[rows]`, read once in blocks; `std` is at least `floor_mm`.

    Raises `MeshganError` if they are no numbers.
    """
    reference = vertices[rows[0]].astype(np.float64)  # sums of differences do not cancel
    total, squares = np.zeros_like(reference), np.zeros_like(reference)
    for start in range(0, len(rows), BLOCK):
        difference = vertices[rows[start : start + BLOCK]] - reference
        total += difference.sum(axis=0)
        squares += np.einsum("nvc,nvc->vc", difference, difference)
    mean = total / len(rows)
    if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
        raise MeshganError("among the faces are some whose coordinates are no numbers; make the FaceSet again.")
    std = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))
    return Normalisation((reference + mean).astype(np.float32), np.maximum(std, floor_mm).astype(np.float32))


def _starts_and_stops(count: int, size: int) -> tuple[range, list[int]]:
    starts = range(0, count, size)
    return starts, [min(start + size, count) for start in starts]


class FaceSetWriter:
    """Collects blocks of faces for `create_faceset`; `folder` is the set's while it is made, for files beside."""

    def __init__(self, folder: Path, stream: BinaryIO, vertices: int, kept: Integers) -> None:
        self.folder = folder
        self._stream = stream
        self._shape = (vertices, 3)
        self._kept = kept if len(kept) < vertices else slice(None)
        self.count = 0
        self._rows: list[Mapping[str, object]] = []

    def append(self, faces: NDArray[Any], labels: Sequence[Mapping[str, object]]) -> None:
        """Write a block of faces (B, V, 3) in millimetres with one label row each."""
        if len(faces) != len(labels) or faces.shape[1:] != self._shape:
            raise ValueError(f"faces {faces.shape} with {len(labels)} label rows, expected (B, *{self._shape})")
        self._stream.write(np.ascontiguousarray(faces[:, self._kept], dtype="<f4").data)
        self.count += len(faces)
        self._rows.extend(labels)


@contextmanager
def create_faceset(
    path: Path,
    template: Mesh,
    count: int,
    card: Card,
    keep: Callable[[PurePath], bool] | None = None,
    listed: bool = False,
) -> Iterator[FaceSetWriter]:
    """Make a FaceSet of about `count` faces block by block; memory stays at one block.

    The room on disk is taken first, so that a full disk is met before the work. The folder appears under its name
    only when all is written. Fewer faces than `count` are legal (files that an import skipped); none at all is a
    `MeshganError`. `keep` and `listed` are those of `atomic_folder`. Faces are given with all vertices of `template`;
    those that no triangle uses, and doubles where triangles share nothing (see `surface_of`), are not written.
    """
    given, (kept, template) = len(template.vertices), surface_of(template)
    with atomic_folder(path, keep, listed) as partial:
        with (partial / "vertices.npy").open("wb") as stream:
            writer = FaceSetWriter(partial, stream, given, kept)
            _write_header(stream, count, template)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, stream.tell() + count * template.vertices.size * 4)
            yield writer
            if writer.count == 0:
                raise MeshganError(f"{path}: no face was usable, so no FaceSet was made.")
            stream.truncate()
            stream.seek(0)
            _write_header(stream, writer.count, template)
        write_mesh(partial / "template.ply", template)
        _write_labels(partial / "labels.csv", writer._rows)
        (partial / "card.json").write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _write_header(stream: BinaryIO, count: int, template: Mesh) -> None:
    """The header of a `.npy` file; numpy pads it so that its length is the same for every count."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, len(template.vertices), 3)}
    np.lib.format.write_array_header_1_0(stream, header)


def _open_vertices(path: Path, template: Mesh) -> Faces:
    try:
        check_file(path, MOST_VERTICES)
        vertices = np.lib.format.open_memmap(path, mode="r")
    except (MeshganError, TokenError, SyntaxError, TypeError, OSError, ValueError, EOFError, OverflowError) as error:
        raise MeshganError(f"{path} is missing or damaged; make the FaceSet again.") from error
    if vertices.dtype != np.float32 or vertices.shape[1:] != template.vertices.shape or vertices.size == 0:
        raise MeshganError(f"{path} does not hold faces of its template; make the FaceSet again.")
    return vertices


def _read_card(path: Path) -> Card:
    try:
        return Card.model_validate(read_json(path, MOST_CARD))
    except (MeshganError, ValidationError) as error:
        raise MeshganError(f"{path} is damaged; make the FaceSet again.") from error


def _read_labels(path: Path, count: int) -> Labels:
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""))
        header = next(lines, [])
        rows = list(itertools.islice(lines, count + 1))
    except (MeshganError, csv.Error) as error:
        raise MeshganError(f"{path} is missing or damaged; make the FaceSet again.") from error
    if "subject" not in header or len(rows) != count or any(len(row) != len(header) for row in rows):
        raise MeshganError(f"{path} needs a column 'subject' and exactly {counted(count, 'row')}, one for each face.")
    if len(set(header)) < len(header):
        raise MeshganError(f"{path} has two columns of one name; make the FaceSet again.")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    if 4 * count * sum(max(map(len, column)) for column in columns.values()) > MOST_LABELS:
        raise MeshganError(f"{path} has labels that are longer than any word; make the FaceSet again.")
    return MappingProxyType({name: np.array(column) for name, column in columns.items()})


def _write_labels(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def blocks(count: int, title: str, size: int = BLOCK) -> Iterator[slice]:
    """Slices of `size` that cover `count` faces, with progress."""
    slices = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    yield from track(slices, title, total=count, step=size)
