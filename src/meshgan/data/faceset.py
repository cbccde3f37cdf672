"""FaceSet: many faces of one template, in a folder that any tool can read.

SET/card.json      what the faces are: source, licence, unit, split seed (see `Card`)
SET/template.ply   the template: mean shape and connectivity
SET/vertices.npy   (N, V, 3) float32, millimetres, memory-mapped
SET/labels.csv     one row per face; the column `subject` is required
"""

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshgan.arrays import Faces, Integers
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.progress import track
from meshgan.storage import atomic_folder

BLOCK = 256  # faces held in memory at a time

Labels = Mapping[str, NDArray[np.str_]]


class Card(BaseModel):
    """What a FaceSet says about itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str  # where the faces come from, in a sentence
    licence: str
    synthetic: bool
    unit: Literal["mm"] = "mm"
    split_seed: int = 0
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    parameters: dict[str, Any] = {}  # what made it, enough to make it again


@dataclass(frozen=True)
class Split:
    """Row indices of the training and the test part; no subject is in both."""

    train: Integers
    test: Integers


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
                f"{path} is not a FaceSet (it has no card.json); `meshgan data --help` says how to make one."
            )
        template = read_mesh(path / "template.ply")
        vertices = _open_vertices(path / "vertices.npy", template)
        labels = _read_labels(path / "labels.csv", len(vertices))
        return cls(path, _read_card(path / "card.json"), template, vertices, labels)

    def __len__(self) -> int:
        return len(self.vertices)

    @property
    def subjects(self) -> NDArray[np.str_]:
        """The subject (N,) of each face."""
        return self.labels["subject"]

    @cached_property
    def split(self) -> Split:
        """Training and test rows: `test_share` of the subjects, chosen by `split_seed` alone.

        Which subjects are tested depends on their names and the seed, never on the order of files or rows. At least
        one subject is tested, unless there is only one: that one is trained on.
        """
        names = np.unique(self.subjects)
        count = min(max(1, round(self.card.test_share * len(names))), len(names) - 1)
        chosen = np.random.default_rng(self.card.split_seed).permutation(len(names))[:count]
        tested = np.isin(self.subjects, names[chosen])
        return Split(np.flatnonzero(~tested), np.flatnonzero(tested))

    @cached_property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the training part, summed in float64 block by block."""
        return measure_normalisation(self.vertices, self.split.train)


def measure_normalisation(vertices: Faces, rows: Integers, floor_mm: float = 0.01) -> Normalisation:
    """Mean and standard deviation of `vertices[rows]`, read once in blocks; `std` is at least `floor_mm`."""
    reference = vertices[rows[0]].astype(np.float64)  # sums of differences do not cancel
    total, squares = np.zeros_like(reference), np.zeros_like(reference)
    for start in range(0, len(rows), BLOCK):
        difference = vertices[rows[start : start + BLOCK]] - reference
        total += difference.sum(axis=0)
        squares += np.einsum("nvc,nvc->vc", difference, difference)
    mean = total / len(rows)
    std = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))
    return Normalisation((reference + mean).astype(np.float32), np.maximum(std, floor_mm).astype(np.float32))


def fingerprint(faces: FaceSet, sampled: int = 64) -> str:
    """A hash of the template, the labels and some of the faces, spread evenly over the set."""
    digest = hashlib.sha256(faces.template.content_hash.encode())
    for name in sorted(faces.labels):
        digest.update(name.encode() + "\n".join(faces.labels[name]).encode())
    for row in np.linspace(0, len(faces) - 1, sampled).astype(int):
        digest.update(np.ascontiguousarray(faces.vertices[row]).tobytes())
    return digest.hexdigest()


class FaceSetWriter:
    """Collects blocks of faces for `create_faceset`; `folder` is the set's while it is made, for files beside."""

    def __init__(self, folder: Path, stream: BinaryIO, vertices: int) -> None:
        self.folder = folder
        self._stream = stream
        self._shape = (vertices, 3)
        self.count = 0
        self._rows: list[Mapping[str, object]] = []

    def append(self, faces: NDArray[Any], labels: Sequence[Mapping[str, object]]) -> None:
        """Write a block of faces (B, V, 3) in millimetres with one label row each."""
        if len(faces) != len(labels) or faces.shape[1:] != self._shape:
            raise ValueError(f"faces {faces.shape} with {len(labels)} label rows, expected (B, *{self._shape})")
        self._stream.write(np.ascontiguousarray(faces, dtype="<f4").data)
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
    `MeshganError`. `keep` and `listed` are those of `atomic_folder`.
    """
    with atomic_folder(path, keep, listed) as partial:
        with (partial / "vertices.npy").open("wb") as stream:
            writer = FaceSetWriter(partial, stream, len(template.vertices))
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
        (partial / "card.json").write_text(card.model_dump_json(indent=2) + "\n")


def _write_header(stream: BinaryIO, count: int, template: Mesh) -> None:
    """The header of a `.npy` file; numpy pads it so that its length is the same for every count."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, len(template.vertices), 3)}
    np.lib.format.write_array_header_1_0(stream, header)


def _open_vertices(path: Path, template: Mesh) -> Faces:
    try:
        vertices = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise MeshganError(f"{path} is missing or damaged; make the FaceSet again.") from error
    if vertices.dtype != np.float32 or vertices.shape[1:] != template.vertices.shape or vertices.size == 0:
        raise MeshganError(f"{path} does not hold faces of its template; make the FaceSet again.")
    return vertices


def _read_card(path: Path) -> Card:
    try:
        return Card.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise MeshganError(f"{path} is damaged; make the FaceSet again.") from error


def _read_labels(path: Path, count: int) -> Labels:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise MeshganError(f"{path} is missing or damaged; make the FaceSet again.") from error
    if "subject" not in header or len(rows) != count or any(len(row) != len(header) for row in rows):
        raise MeshganError(f"{path} needs a column 'subject' and exactly {count} rows, one for each face.")
    columns = zip(header, zip(*rows, strict=True), strict=True)
    return MappingProxyType({name: np.array(column) for name, column in columns})


def _write_labels(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def blocks(count: int, title: str, size: int = BLOCK) -> Iterator[slice]:
    """Slices of `size` that cover `count` faces, with progress."""
    slices = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    yield from track(slices, title, total=count, step=size)
