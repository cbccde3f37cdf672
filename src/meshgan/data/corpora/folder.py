"""Any folder of registered meshes becomes a FaceSet: one connectivity, any format, any unit.

Files are taken in the natural order of their names, whatever the file system says. Each is compared with the
template, moved rigidly onto it, and written; what cannot be used is skipped, and SET/report.csv says why (columns
`file`, `reason`). SET/labels.csv holds the file and the subject of every face.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Faces, Integers
from meshgan.data.corpora.naming import Row, label_rows, mesh_files, natural
from meshgan.data.faceset import Card, FaceSetWriter, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.files import MILLIMETRES, read_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.processes import process_pool
from meshgan.progress import track

BLOCK = 64  # meshes in memory at a time, twice: one block is read while the one before is aligned
FEW = 128  # files for which more processes cost more time than they save
OTHER_UNIT = 5.0  # a mesh so many times larger or smaller than the template must be in another unit
REASONS = 5  # that a summary tells


@dataclass(frozen=True)
class Imported:
    """What an import did: faces, their subjects and vertices, and why each other file was left out."""

    faces: int
    subjects: int
    vertices: int
    skipped: Mapping[str, str]  # file → reason

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.faces} meshes of {self.vertices} vertices imported, {self.subjects} subjects."]
        reasons = Counter(self.skipped.values()).most_common()
        lines += [f"{times} skipped: {reason}." for reason, times in reasons[:REASONS]]
        rest = sum(times for _, times in reasons[REASONS:])
        return "\n".join(lines + [f"{rest} skipped for {len(reasons) - REASONS} other reasons."] * bool(rest))


@dataclass(frozen=True)
class Connectivity:
    """What each mesh is compared with: number of vertices, size in mm, digests of the triangles."""

    vertices: int
    size_mm: float
    in_order: bytes  # triangles as they stand in the file
    sorted: bytes  # whatever their order and first corner

    @classmethod
    def of(cls, mesh: Mesh) -> "Connectivity":
        """The connectivity of a template."""
        digests = _digest(mesh.triangles), _digest(_sorted(mesh.triangles))
        return cls(len(mesh.vertices), _size(mesh), *digests)

    def differs(self, mesh: Mesh) -> str:
        """Why `mesh` is no face of this template, or ''."""
        if len(mesh.vertices) != self.vertices:
            return f"{len(mesh.vertices)} vertices where the template has {self.vertices}"
        if _digest(mesh.triangles) != self.in_order and _digest(_sorted(mesh.triangles)) != self.sorted:
            return "its triangles are not the template's"
        if not 1 / OTHER_UNIT < _size(mesh) / self.size_mm < OTHER_UNIT:
            return "its size is far from the template's; is it in another unit?"
        return ""


def import_folder(
    folder: Path,
    out: Path,
    unit: str,
    template: Path | None = None,
    labels: Path | None = None,
    subject_pattern: str | None = None,
    workers: int = 1,
) -> Imported:
    """Make the FaceSet `out` of all meshes in and below `folder`, whose files are in `unit` (mm, cm or m).

    The template is the mesh in the file `template`, where it lies; else the first usable mesh, with the middle of
    its bounding box moved to the origin. Labels and subjects come from the CSV `labels` (column `file`, any others),
    the subject also from `subject_pattern` or from the customs of naming (module `naming`). `workers` processes
    read. An unusable mesh is skipped; a `MeshganError` is raised only if all are.
    """
    if unit not in MILLIMETRES:
        raise UsageError(f"there is no unit {unit!r}; choose one of {', '.join(MILLIMETRES)}.")
    files = mesh_files(folder)
    rows, skipped = label_rows(files, labels, subject_pattern)
    mesh = read_template(template, unit) if template else first_usable(folder, rows, unit)
    card = Card(
        name=out.name,
        source=f"meshes imported from a folder named {folder.resolve().name}",
        licence="that of the imported meshes",
        synthetic=False,
        parameters={"unit": unit, "template": template.name if template else "first mesh", "files": len(files)},
    )
    with create_faceset(out, mesh, len(rows), card) as writer, _readers(workers, len(rows)) as pool:
        skipped |= _append_all(writer, folder, rows, mesh, unit, pool)
        if writer.count == 0:
            raise MeshganError(f"{folder} holds no face of the template: {next(iter(skipped.values()))}.")
        _write_report(writer.folder / "report.csv", skipped)
        subjects = {row["subject"] for row in rows if row["file"] not in skipped}
    return Imported(writer.count, len(subjects), len(mesh.vertices), skipped)


def read_template(path: Path, unit: str) -> Mesh:
    """The mesh that the user chose. Raises `UsageError` if it has no surface."""
    mesh = read_mesh(path, unit)
    if flaw := _flaw(mesh):
        raise UsageError(f"{path} cannot be the template: {flaw}.")
    return mesh


def first_usable(folder: Path, rows: Iterable[Row], unit: str) -> Mesh:
    """The first of the files that has a surface, with the middle of its bounding box at the origin."""
    reason = ""
    for row in rows:
        mesh = _read(folder / row["file"], unit)
        if isinstance(mesh, Mesh):
            return mesh.with_vertices(mesh.vertices - (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2)
        reason = reason or f"{row['file']}: {mesh}"
    raise MeshganError(f"{folder} holds no usable mesh; {reason}.")


def read_face(path: Path, connectivity: Connectivity, unit: str) -> Faces | str:
    """Vertices (V, 3) in mm of one mesh of the template, or why it cannot be used."""
    mesh = _read(path, unit)
    if isinstance(mesh, str):
        return mesh
    return connectivity.differs(mesh) or mesh.vertices.astype(np.float32)


def _read(path: Path, unit: str) -> Mesh | str:
    try:
        mesh = read_mesh(path, unit)
    except MeshganError as error:
        return str(error).removeprefix(str(path)).strip(" :.")
    return _flaw(mesh) or mesh


def _flaw(mesh: Mesh) -> str:
    """Why a mesh has no usable surface, or ''."""
    if not len(mesh.triangles):
        return "it has no triangles"
    if not np.abs(mesh.vertices).max() < np.finfo(np.float32).max:
        return "its vertices are too far away to be told apart"
    return "" if mesh.areas.any() else "its surface has no area"


def _append_all(
    writer: FaceSetWriter, folder: Path, rows: Sequence[Row], template: Mesh, unit: str, pool: Executor | None
) -> dict[str, str]:
    """Read, check, align and write every file; returns the reasons for those left out."""
    read = partial(read_face, connectivity=Connectivity.of(template), unit=unit)
    used = np.bincount(template.triangles.ravel(), minlength=len(template.vertices)) > 0
    skipped: dict[str, str] = {}
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    results = _in_blocks(read, [[folder / row["file"] for row in block] for block in blocks], pool)
    for block, faces in zip(blocks, track(results, "importing", total=len(rows), step=BLOCK), strict=True):
        skipped |= {row["file"]: face for row, face in zip(block, faces, strict=True) if isinstance(face, str)}
        usable = [face for face in faces if not isinstance(face, str)]
        if usable:
            moved = np.stack(usable)
            moved = rigid(moved, template.vertices, weights=used)(moved).astype(np.float32)
            writer.append(moved, [row for row in block if row["file"] not in skipped])
    return skipped


@contextmanager
def _readers(workers: int, files: int) -> Iterator[Executor | None]:
    """A pool of processes that read meshes, or None where one process does as well."""
    if workers <= 1 or files <= FEW:
        yield None
        return
    try:
        with process_pool(workers) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise MeshganError("a process that was reading meshes was killed; is there enough memory?") from error


def _in_blocks(
    read: Callable[[Path], Faces | str], blocks: Sequence[Sequence[Path]], pool: Executor | None
) -> Iterator[list[Faces | str]]:
    """Results of each block of paths in turn; a pool reads one block ahead."""
    if pool is None:
        yield from ([read(path) for path in block] for block in blocks)
        return
    ahead = pool.map(read, blocks[0], chunksize=4)
    for block in blocks[1:]:
        waiting, ahead = ahead, pool.map(read, block, chunksize=4)
        yield list(waiting)
    yield list(ahead)


def _write_report(path: Path, skipped: Mapping[str, str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "reason"])
        writer.writerows([name, skipped[name]] for name in sorted(skipped, key=natural))


def _size(mesh: Mesh) -> float:
    """The side in mm of a square with the mesh's area; unreferenced vertices do not count."""
    return float(np.sqrt(mesh.areas.sum()))


def _sorted(triangles: Integers) -> Integers:
    """Triangles with the smallest corner first, orientation kept, in lexicographic order."""
    first = triangles.argmin(axis=1)[:, None]
    turned = np.take_along_axis(triangles, (first + np.arange(3)) % 3, axis=1)
    return turned[np.lexsort(turned.T[::-1])]


def _digest(values: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()
