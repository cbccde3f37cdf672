"""Any folder of registered meshes becomes a FaceSet: one connectivity, any format, any unit.

Files are taken in the natural order of their names, whatever the file system says. Each is compared with the
template, moved rigidly onto it, and written; what cannot be used is skipped, and SET/report.csv says why (columns
`file`, `reason`). SET/labels.csv holds the file and the subject of every face.

Vertices that no triangle uses stay out, and where triangles share no vertices (as many exporters write them), those at
one place become one; so that a set holds a surface and nothing else.
"""

import csv
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from meshgan.data.corpora.naming import Row, guess_told, label_rows, mesh_files, natural, unused_rows
from meshgan.data.faceset import Card, FaceSetWriter, create_faceset
from meshgan.data.template import turn_upright
from meshgan.errors import MeshganError, MeshganWarning, UsageError
from meshgan.geometry.align import procrustes_mean, rigid
from meshgan.geometry.files import MILLIMETRES, millimetres_of, read_mesh
from meshgan.geometry.mesh import Mesh, in_one_order, surface_of
from meshgan.machine import process_pool
from meshgan.progress import counted, track
from meshgan.reading import shown

BLOCK = 64  # meshes in memory at a time, twice: one block is read while the one before is aligned
FEW = 128  # files for which more processes cost more time than they save
ASKED = 64  # files that the template is sought among, first
PLAIN = 0.9  # of them that are alike: the others need not be asked
KEPT_BYTES = 2**26  # of them in memory, for their mean
OTHER_UNIT = 5.0  # a mesh so many times larger or smaller than the template must be in another unit
FACE_MM = (50.0, 900.0)  # the longest side of the box around a face, or a head with its shoulders
LIKELY_MM = (80.0, 700.0)
REASONS = 5  # that a summary tells


@dataclass(frozen=True)
class Imported:
    """What an import did: faces, their subjects and vertices, and why each other file was left out."""

    faces: int
    subjects: int
    vertices: int
    skipped: Mapping[str, str]  # file → reason
    notes: Sequence[str] = ()  # what a person should know of: subjects that were guessed, rows without a file, …

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [
            f"Imported {counted(self.faces, 'mesh', 'meshes')} of {counted(self.vertices, 'vertex', 'vertices')}, of "
            f"{counted(self.subjects, 'subject')}."
        ]
        reasons = Counter(self.skipped.values()).most_common()
        lines += [f"{times} skipped: {reason}." for reason, times in reasons[:REASONS]]
        rest = sum(times for _, times in reasons[REASONS:])
        lines += [f"{rest} skipped for {counted(len(reasons) - REASONS, 'other reason')}."] * bool(rest)
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, eq=False)
class Connectivity:
    """What each mesh is compared with: number of vertices, size in mm, digests of the triangles; and which of its
    vertices (K,) make the surface."""

    vertices: int
    size_mm: float
    in_order: bytes  # triangles as they stand in the file
    sorted: bytes  # whatever their order and first corner
    kept: Integers

    @classmethod
    def of(cls, mesh: Mesh) -> "Connectivity":
        """The connectivity of a template."""
        digests = _digest(mesh.triangles), _digest(in_one_order(mesh.triangles))
        return cls(len(mesh.vertices), _size(mesh), *digests, surface_of(mesh)[0])

    def differs(self, mesh: Mesh) -> str:
        """Why `mesh` is no face of this template, or ''."""
        if len(mesh.vertices) != self.vertices:
            return f"{counted(len(mesh.vertices), 'vertex', 'vertices')} where the template has {self.vertices:,}"
        if _digest(mesh.triangles) != self.in_order and _digest(in_one_order(mesh.triangles)) != self.sorted:
            return "its triangles are not the template's"
        if not 1 / OTHER_UNIT < _size(mesh) / self.size_mm < OTHER_UNIT:
            return "its size is far from the template's; is it in another unit?"
        return ""


def size_told(mesh: Mesh, name: str, unit: str, option: str = "unit") -> str:
    """A sentence if a mesh is not as large as a face or head, with the unit that would fit; else ''."""
    extent = float(np.ptp(mesh.vertices[np.unique(mesh.triangles)], axis=0).max())
    if FACE_MM[0] <= extent <= FACE_MM[1]:
        return ""
    fitting = [u for u in MILLIMETRES if LIKELY_MM[0] <= extent * MILLIMETRES[u] / MILLIMETRES[unit] <= LIKELY_MM[1]]
    advice = "faces measure 100 to 400 mm"
    if fitting:
        size = extent * MILLIMETRES[fitting[0]] / MILLIMETRES[unit]
        advice = f"with `{option}={fitting[0]!r}` it would measure {size:.0f} mm"
    return f"{name} measures {extent:.3g} mm, as {unit}, and is no face; {advice}"


def import_folder(
    folder: Path,
    out: Path,
    unit: str,
    template: Path | None = None,
    labels: Path | None = None,
    subject_pattern: str | None = None,
    workers: int = 1,
    glb_unit: str = "m",
    template_unit: str | None = None,
    up: str | None = None,
    front: str | None = None,
) -> Imported:
    """Make the FaceSet `out` of all meshes in and below `folder`, whose files are in `unit` (mm, cm or m).

    GLB files are in metres by definition, or in `glb_unit`. The template is the mesh in the file `template`, where it
    lies; else it has the commonest connectivity of all, and is the Procrustes mean of faces from the whole folder, with
    the middle of its bounding box at the origin. A template is in `template_unit`; without, in millimetres, or in
    `unit` if it would be no face in millimetres. It looks along `front` with `up` up and is turned to look along z with
    y up, see `turn_upright`; all others follow it. Labels and subjects come from the CSV `labels` (columns `file`,
    `subject` and any others), the subject also from `subject_pattern` or from the customs of naming (module `naming`).
    `workers` processes read. An unusable mesh is skipped; a `MeshganError` is raised only if all are, and a
    `UsageError` where the unit makes no face of them, or they plainly stand otherwise than is said; where nothing is
    said, they are turned.
    """
    for given in (unit, glb_unit, *([template_unit] if template_unit else [])):
        millimetres_of(given)
    files = mesh_files(folder)
    rows, skipped = label_rows(files, labels, subject_pattern)
    paths = {shown(name): folder / name for name in files}
    read = Reading(unit, glb_unit)
    raw, name, others = (
        (*read_template(template, read, template_unit), None) if template else commonest(paths, rows, read)
    )
    turn, told = turn_upright(raw, name, up, front)
    raw = raw.with_vertices(raw.vertices @ turn.T)
    kept, mesh = surface_of(raw)
    if others is not None:
        mesh = _mean_of(mesh, [vertices[kept] for vertices in others])
    notes = [] if labels or subject_pattern else [guess_told(rows)]
    notes += [told] * bool(told)
    if labels and (unused := unused_rows(files, labels)):
        some = ", ".join(unused[:3]) + (", …" if len(unused) > 3 else "")
        notes.append(f"Of no mesh here: {counted(len(unused), 'row')} of {labels.name}, {some}.")
    if len(kept) < len(raw.vertices):
        notes.append(
            f"Left out {len(raw.vertices) - len(kept)} of {len(raw.vertices)} vertices, in no triangle, or just where "
            "another one lies."
        )
    card = Card(
        name=shown(out.name),
        source=f"meshes imported from a folder named {shown(folder.resolve().name)}",
        licence="that of the imported meshes",
        synthetic=False,
        parameters={"unit": unit, "template": template.name if template else "mean", "files": len(files)},
    )
    with create_faceset(out, mesh, len(rows), card) as writer, _readers(workers, len(rows)) as pool:
        skipped |= _append_all(writer, paths, rows, raw, mesh, read, pool)
        if writer.count == 0:
            raise MeshganError(f"{folder} holds no face of the template: {next(iter(skipped.values()))}.")
        _write_report(writer.folder / "report.csv", skipped)
        subjects = {row["subject"] for row in rows if row["file"] not in skipped}
    return Imported(writer.count, len(subjects), len(mesh.vertices), skipped, notes)


@dataclass(frozen=True)
class Reading:
    """The units of files: of GLB, and of all others."""

    unit: str
    glb_unit: str = "m"

    def of(self, path: Path) -> tuple[str, str]:
        """The unit of a file, and the option that says so."""
        glb = path.suffix.lower() == ".glb"
        return (self.glb_unit, "glb_unit") if glb else (self.unit, "unit")


def read_template(path: Path, read: Reading, unit: str | None = None) -> tuple[Mesh, str]:
    """The mesh that the user chose, and its name. Raises `UsageError` if it has no surface, or no face's size."""
    glb = path.suffix.lower() == ".glb"
    tried = [unit] if unit else [read.glb_unit] if glb else list(dict.fromkeys(["mm", read.unit]))
    problem = ""
    for one in tried:
        mesh = read_mesh(path, one, one)
        if flaw := _flaw(mesh):
            raise UsageError(f"{path} cannot be the template: {flaw}.")
        told = size_told(mesh, str(path), one, "template_unit")
        if not told:
            return mesh, str(path)
        problem = problem or told
    raise UsageError(f"{problem}.")


def commonest(paths: Mapping[str, Path], rows: Sequence[Row], read: Reading) -> tuple[Mesh, str, list[Faces]]:
    """The first file of the connectivity that most have, its name, and the vertices of some others of it.

    Of a large folder, files spread over it are asked; unless nearly all of them are alike, all are. Of
    two that are as common, the one that comes first. Raises `MeshganError` if no mesh can be used.
    """
    asked = np.unique(np.linspace(0, len(rows) - 1, min(ASKED, len(rows))).astype(int)).tolist()
    found: dict[bytes, list[int]] = {}
    some: dict[int, Faces] = {}
    room, reason = KEPT_BYTES, ""

    def ask(number: int) -> None:
        nonlocal room, reason
        mesh = _read(paths[rows[number]["file"]], read)
        if isinstance(mesh, str):
            reason = reason or f"{rows[number]['file']}: {mesh}"
            return
        key = _digest(in_one_order(mesh.triangles)) + len(mesh.vertices).to_bytes(8, "little")
        found.setdefault(key, []).append(number)
        if room > 0:
            some[number] = mesh.vertices.astype(np.float32)
            room -= some[number].nbytes

    for number in track(asked, "Looking for the template"):
        ask(number)
    if max(map(len, found.values()), default=0) < PLAIN * len(asked) and len(asked) < len(rows):
        for number in track(sorted(set(range(len(rows))) - set(asked)), "Looking for the template"):
            ask(number)
    if not found:
        folder = os.path.commonpath([path.parent for path in paths.values()])
        raise MeshganError(f"{folder} holds no usable mesh; {reason}.")
    alike = max(found.values(), key=lambda numbers: (len(numbers), -min(numbers)))
    name = rows[min(alike)]["file"]
    mesh = _read(paths[name], read, tell=True)
    assert isinstance(mesh, Mesh)
    if told := size_told(mesh, name, *read.of(paths[name])):
        raise UsageError(f"{told}.")
    return mesh, name, [some[number] for number in sorted(alike)[1:] if number in some]


def _mean_of(first: Mesh, others: Sequence[Faces]) -> Mesh:
    """The Procrustes mean of faces (K, 3), standing as the first mesh does, its bounding box's middle at the origin.

    Faces of quite another size are in another unit, and do not count.
    """
    size = np.linalg.norm(np.std(first.vertices, axis=0))
    alike = [face for face in others if 1 / OTHER_UNIT < np.linalg.norm(np.std(face, axis=0)) / size < OTHER_UNIT]
    mean = procrustes_mean(np.stack([first.vertices, *alike]))
    used = mean[np.unique(first.triangles)]
    return first.with_vertices(mean - (used.min(axis=0) + used.max(axis=0)) / 2)


def read_face(path: Path, connectivity: Connectivity, read: Reading | str) -> Faces | str:
    """Vertices (K, 3) in mm of the surface of one mesh of the template, or why it cannot be used."""
    mesh = _read(path, Reading(read) if isinstance(read, str) else read)
    if isinstance(mesh, str):
        return mesh
    return connectivity.differs(mesh) or mesh.vertices[connectivity.kept].astype(np.float32)


def _read(path: Path, read: Reading, tell: bool = False) -> Mesh | str:
    """A mesh with a surface, or why there is none; `tell` warns of what is not read, once for all files alike."""
    try:
        with warnings.catch_warnings():
            if not tell:
                warnings.simplefilter("ignore", MeshganWarning)
            mesh = read_mesh(path, read.unit, read.glb_unit)
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
    writer: FaceSetWriter,
    paths: Mapping[str, Path],
    rows: Sequence[Row],
    raw: Mesh,
    template: Mesh,
    read_as: Reading,
    pool: Executor | None,
) -> dict[str, str]:
    """Read, check, align and write every file; returns the reasons for those left out."""
    read = partial(read_face, connectivity=Connectivity.of(raw), read=read_as)
    skipped: dict[str, str] = {}
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    results = _in_blocks(read, [[paths[row["file"]] for row in block] for block in blocks], pool)
    for block, faces in zip(blocks, track(results, "Importing", total=len(rows), step=BLOCK), strict=True):
        skipped |= {row["file"]: face for row, face in zip(block, faces, strict=True) if isinstance(face, str)}
        usable = [face for face in faces if not isinstance(face, str)]
        if usable:
            moved = np.stack(usable)
            moved = rigid(moved, template.vertices)(moved).astype(np.float32)
            writer.append(moved, [row for row in block if row["file"] not in skipped])
    return skipped


@contextmanager
def _readers(workers: int, files: int) -> Iterator[Executor | None]:
    """A pool of processes that read meshes, or None where one process does as well."""
    if workers <= 1 or files <= FEW:
        yield None
        return
    try:
        with process_pool(min(workers, files)) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise MeshganError(
            "the processes that read meshes ended early; is there enough memory? A script must call this under "
            "`if __name__ == '__main__':`, or with one worker."
        ) from error


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


def _digest(values: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()
