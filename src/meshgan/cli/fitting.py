"""From mesh files to codes and back, for the verbs `fit`, `interpolate` and `compose`."""

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from meshgan.arrays import Booleans, Codes, Faces, Reals
from meshgan.cli.use import one_run_in, refuse_other_runs
from meshgan.data.corpora.basis import face_template, face_within
from meshgan.data.corpora.naming import mesh_files
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, MeshganWarning, UsageError
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.files import MILLIMETRES, read_mesh, write_mesh
from meshgan.geometry.mesh import same_triangles
from meshgan.model.face_model import check_codes, check_connectivity
from meshgan.model.latent import Fit, target_of_points
from meshgan.model.load import Model, load_model
from meshgan.model.samplers import known_number
from meshgan.reading import read_json, read_table, read_text, shown
from meshgan.registration.templates import AUTO, in_correspondence, shown_by, sized
from meshgan.storage import atomic_file
from meshgan.view.figures import heat_maps

ROUNDS = 3  # of aligning and fitting, where only a part of the face is known
MOST_CODE = 2**20  # bytes of a file with a code
LONGEST = 200  # bytes of a result's name, without its ending
RESERVED = frozenset({"summary", "errors"})  # files beside the results
TURNED, FEWEST = 45.0, 6  # degrees within which a face is as the model's, and the points that tell so much
SHOWN = 32  # heat maps in the picture


class CodeFile(BaseModel):
    """A JSON file with the code of one face, as `sample` and `fit` write it; measurements beside it are ignored."""

    model_config = ConfigDict(extra="ignore")

    code: list[float]
    model: str = ""


@dataclass(frozen=True, eq=False)
class _Targets:
    """Faces (B, V, 3) to fit, of which the vertices with weight (V,) above zero count."""

    names: tuple[str, ...]
    faces: Faces
    weights: Faces

    @property
    def whole(self) -> bool:
        return bool((self.weights > 0).all())


def fit_files(
    where: str, paths: Sequence[Path], out: Path, unit: str, vertices: Path | None, align: bool
) -> dict[str, Any]:
    """Fit a model to mesh or landmark files, write what `meshgan fit` promises, and return its summary.

    Results of an earlier run in `out` are neither overwritten nor mixed with.
    """
    refuse_other_runs(out, ())
    model = load_model(where)
    groups = _read_targets(model, paths, unit, vertices)
    for name in (name for targets in groups for name in targets.names):
        if taken := [path for ending in ("ply", "json") if (path := out / f"{name}.{ending}").exists()]:
            raise UsageError(f"{taken[0]} exists already; choose another --out, or move it away.")
    fits = [(targets, *_fit_aligned(model, targets, align)) for targets in groups]
    with one_run_in(out, ()):
        return _write_all(model, fits, out)


def _write_all(model: Model, fits: Sequence[tuple[_Targets, Fit, Similarity]], out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = {"model": model.card.name, "faces": []}
    drawn: list[tuple[Faces, Faces]] = []
    for targets, fit, motion in fits:
        summary["faces"] += [_write(model, fit, motion, row, name, out) for row, name in enumerate(targets.names)]
        drawn += zip(fit.vertices, fit.error_mm, strict=True)
    summary["mean_mm"] = float(np.mean([face["mean_mm"] for face in summary["faces"]]))
    with atomic_file(out / "summary.json") as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    faces, errors = (np.stack(arrays) for arrays in zip(*drawn[:SHOWN], strict=True))
    with atomic_file(out / "errors.png") as partial:
        captions = [face["name"] for face in summary["faces"][:SHOWN]]
        heat_maps(faces, errors, model.template.triangles, partial, captions=captions)
    return summary


def read_code(model: Model, path: Path, unit: str) -> Codes:
    """The code (D,) of a JSON file, or of a mesh by fitting it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name one face, a mesh or a JSON file with its code.")
    if path.suffix.lower() != ".json":
        (targets,) = _read_targets(model, [path], unit, None)
        return _fit_aligned(model, targets, align=True)[0].codes[0]
    try:
        known = CodeFile.model_validate(read_json(path, MOST_CODE))
    except (ValidationError, OverflowError) as error:
        raise MeshganError(f'{path} holds no code: it should look like {{"code": [0.1, …]}}.') from error
    try:
        code = check_codes([known.code], model.code_size)[0]
    except UsageError as error:
        raise UsageError(f"{path} is not of this model: {error}") from error
    if known.model not in ("", model.card.name):
        told = (
            f"{path} is of the model {shown(known.model[:40])}, and {model.card.name} makes another face of its code."
        )
        warnings.warn(told, MeshganWarning, stacklevel=2)
    return code


def _fit_aligned(model: Model, targets: _Targets, align: bool) -> tuple[Fit, Similarity]:
    """Fit after moving the targets rigidly onto the template; the motions back come second.

    Where only a part is known, the motion and the face are found in turn.
    """
    count = len(targets.faces)
    still = Similarity.none(count)
    if not align:
        _check_standing(model, targets)
        return model.fit(targets.faces, targets.weights), still
    motion = rigid(targets.faces, model.template.vertices, targets.weights)
    fit = model.fit(motion(targets.faces), targets.weights)
    for _ in range(0 if targets.whole else ROUNDS - 1):
        motion = rigid(targets.faces, fit.vertices, targets.weights)
        fit = model.fit(motion(targets.faces), targets.weights)
    return fit, motion.inverse


def _check_standing(model: Model, targets: _Targets) -> None:
    """Raise `UsageError` where faces stand quite another way than the model's, which no code can follow."""
    if np.count_nonzero(targets.weights) < FEWEST:
        return
    turn = rigid(targets.faces, model.template.vertices, targets.weights).rotation
    degrees = np.degrees(np.arccos(((np.trace(turn, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))
    if degrees.max() > TURNED:
        name = targets.names[int(degrees.argmax())]
        raise UsageError(
            f"{name} is turned by {degrees.max():.0f} degrees against the model's faces; `--align` turns it first."
        )


def _write(model: Model, fit: Fit, back: Similarity, row: int, name: str, out: Path) -> dict[str, Any]:
    """Write one fitted mesh, where its target lay, and its code; returns its line of the summary."""
    errors = fit.error_mm[row][~np.isnan(fit.error_mm[row])]
    measured = {"mean": errors.mean(), "median": np.median(errors), "max": errors.max()}
    numbers = {f"{key}_mm": round(float(value), 4) for key, value in measured.items()}
    placed = back[row](fit.vertices[row])
    write_mesh(out / f"{name}.ply", model.template.with_vertices(placed))
    with atomic_file(out / f"{name}.json") as partial:
        partial.write_text(json.dumps({"code": fit.codes[row].tolist(), **numbers}) + "\n", encoding="utf-8")
    return {"name": name, "file": str(out / f"{name}.ply"), **numbers}


def _read_targets(model: Model, paths: Sequence[Path], unit: str, part: Path | None) -> list[_Targets]:
    """What to fit: all meshes together, each landmark file for itself."""
    if unit not in (*MILLIMETRES, AUTO):
        raise UsageError(f"unknown unit '{unit}': choose from {', '.join(MILLIMETRES)} and {AUTO}.")
    paths = [file for path in paths for file in _files_of(path)]
    meshes = [path for path in paths if path.suffix.lower() != ".csv"]
    faces = [found for path in meshes for found in _read_faces(model, path, unit)]
    points = [path for path in paths if path not in meshes]
    names = _names([*(source for source, *_ in faces), *points])
    groups = []
    for whole in (True, False):
        some = [(names[source], face, known) for source, face, known in faces if known.all() == whole]
        if some:
            given, shapes, (known, *_) = zip(*some, strict=True)
            groups.append(_Targets(given, np.stack(shapes), _part_weights(model, part) * known))
    return groups + [_read_points(model, path, unit, names[path]) for path in points]


def _files_of(path: Path) -> list[Path]:
    """The meshes of a folder that is no set of faces; else what was named itself."""
    if not path.is_dir() or (path / "card.json").exists():
        return [path]
    if not (found := mesh_files(path)):
        raise UsageError(f"{path} is no set of faces, and holds no mesh either.")
    return [path / name for name in found]


def _read_faces(model: Model, path: Path, unit: str) -> list[tuple[Path, Faces, Booleans]]:
    """The face of a mesh file, or those of a set, each with the path that it might have as a file of its own, and which
    of the model's vertices (V,) it has."""
    if not path.is_dir():
        return [(path, *_read_face(model, path, unit))]
    faces = FaceSet.open(path)
    paths = [path / f"{name}.ply" for name in faces.names()]
    if face_within(model.template) is not None and same_triangles(faces.template, face_template()):
        return [(one, *_shown(model, face)) for one, face in zip(paths, faces, strict=True)]
    check_connectivity(faces.template, model.template, str(path))
    whole = np.ones(len(model.template.vertices), dtype=bool)
    return [(one, face, whole) for one, face in zip(paths, faces, strict=True)]


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file that no other has: its stem, with a number behind where it is taken.

    Names differ by more than their capitals, which some file systems do not tell apart, and none is one of the files
    that come beside the results.
    """
    if len(set(paths)) < len(paths):
        raise UsageError("a file is named twice.")
    stems = {path: shown(path.stem) for path in paths}
    taken = {stem.casefold() for stem in stems.values()} | RESERVED
    names: dict[Path, str] = {}
    given: set[str] = set(RESERVED)
    for path, stem in stems.items():
        while len(stem.encode()) > LONGEST:
            stem = stem[:-1]
        name, number = stem, 2
        while name.casefold() in given or (name != stem and name.casefold() in taken):
            name, number = f"{stem}-{number}", number + 1
        given.add(name.casefold())
        names[path] = name
    return names


def _read_face(model: Model, path: Path, unit: str) -> tuple[Faces, Booleans]:
    """Where the model's vertices (V, 3) lie in mm on a mesh or raw scan, and which of them (V,) it shows."""
    mesh = read_mesh(path, "mm" if unit == AUTO else unit)
    vertices, known = in_correspondence(
        mesh, model.template, unit, str(path), lambda said: print(said, file=sys.stderr)
    )
    return vertices.astype(np.float32), known


def _shown(model: Model, face: Reals) -> tuple[Faces, Booleans]:
    """What a face (F, 3) of the package's face template shows of a model's faces, which are of one of the package's."""
    found = shown_by(face, model.template)
    assert found is not None
    return found[0].astype(np.float32), found[1]


def read_face(model: Model, path: Path, unit: str) -> tuple[Faces, Codes | None]:
    """A face (V, 3) that lies as the model's do, and its code (D,) if the file has one: a JSON file, or a mesh.

    The mesh is that face itself, and not what the model makes of it, unless the model's are whole heads and the mesh
    shows a face alone.
    """
    if path.suffix.lower() != ".json":
        face, known = _read_face(model, path, unit)
        if known.all():
            return rigid(face, model.template.vertices)(face).astype(np.float32), None
        code = read_code(model, path, unit)
        return model.decode(code[None])[0], code
    code = read_code(model, path, unit)
    number = read_number(path)
    return model.decode(code[None], numbers=None if number is None else [number])[0], code


def read_number(path: Path) -> int | None:
    """The number of a face's details of chance, if `path` is a JSON file that has one."""
    return known_number(read_json(path, MOST_CODE).get("number")) if path.suffix.lower() == ".json" else None


def _part_weights(model: Model, path: Path | None) -> Faces:
    count = len(model.template.vertices)
    if path is None:
        return np.ones(count, dtype=np.float32)
    try:
        indices = np.array([int(word) for word in read_text(path).split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{path} should hold one vertex index a line.") from error
    if not len(indices) or indices.min() < 0 or indices.max() >= count:
        raise UsageError(f"{path} should hold vertex indices from 0 to {count - 1}.")
    return np.bincount(indices, minlength=count).clip(max=1).astype(np.float32)


def _read_points(model: Model, path: Path, unit: str, name: str) -> _Targets:
    """Landmarks: a CSV file with the columns vertex, x, y, z."""
    if unit == AUTO:
        raise UsageError(f"{path} holds landmarks, and only the scale of a scan is found; give their --unit.")
    rows = read_table(path, ["vertex", "x", "y", "z"])
    try:
        indices = np.array([int(row["vertex"]) for row in rows], dtype=np.int64)
        points = np.array([[float(row[axis]) for axis in "xyz"] for row in rows]) * MILLIMETRES[unit]
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{path} should be a CSV file with the columns vertex,x,y,z and one point a line.") from error
    template = model.template.vertices
    try:
        faces, weights = target_of_points(template, indices, points.reshape(-1, 3))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    sized(points, template[indices], unit, str(path))
    return _Targets((name,), faces, weights)
