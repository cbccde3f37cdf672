"""Templates ready for registration: the one of this package, a user's own, and the face model behind each."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from meshgan.arrays import Booleans, Floats, Reals
from meshgan.data.corpora.basis import ASSETS, face_template, face_within
from meshgan.data.corpora.heads import faces_of
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import read_mesh
from meshgan.geometry.mesh import Mesh, same_triangles
from meshgan.geometry.surface import barycentric_matrix, closest_points
from meshgan.reading import read_json
from meshgan.registration.prior import Prior, learn
from meshgan.registration.register import register
from meshgan.registration.template import FaceTemplate

MODEL_FACES, COMPONENTS = 2000, 200  # of a trained model as a prior
UPRIGHT_DEGREES = 30.0
FAR_MM = 6.0  # a detector point so far from a user's template has no place there
MOST_MARKS = 2**20  # bytes
OWN = files("meshgan.registration") / "assets"
ASSET_FILES = ("face_prior.npz", "detector_points.npz")


@cache
def default_template() -> FaceTemplate:
    """The template of this package, with the corpus as its face model."""
    mesh = face_template()
    marks = json.loads((ASSETS / "face_landmarks.json").read_text(encoding="utf-8"))
    rows = _rows([mark["vertices"] for mark in marks], [mark["weights"] for mark in marks], len(mesh.vertices))
    points = _asset("detector_points")
    seen = barycentric_matrix(closest_points(points["points"], mesh), mesh)
    arrays = _asset("face_prior")
    prior = Prior(arrays["mean"].astype(np.float64), arrays["basis"] * np.float32(arrays["step_mm"]))
    names = tuple(mark["name"] for mark in marks)
    return FaceTemplate(mesh, names, rows, seen, points["scatter_mm"].astype(np.float64), prior)


def shown_by(face: Reals, template: Mesh) -> tuple[Floats, Booleans] | None:
    """What a face (V, 3) of the default template shows of another template of the package: its vertices (W, 3), and
    which of them (W,) are known; the others are where the template has them. None where it is no such template."""
    own = face_within(template)
    if own is None:
        return None
    vertices = template.vertices.copy()
    vertices[: len(own)] = face[own]
    return vertices, np.arange(len(vertices)) < len(own)


def _asset(name: str) -> dict[str, NDArray[Any]]:
    with (OWN / f"{name}.npz").open("rb") as stream:
        return dict(np.load(stream, allow_pickle=False))


def _rows(vertices: Sequence[Sequence[int]], weights: Sequence[Sequence[float]], size: int) -> sp.csr_array:
    """(L, V): the combinations of vertices (L, 3) with weights (L, 3)."""
    places = np.repeat(np.arange(len(vertices)), 3)
    columns = np.ravel(vertices).astype(np.int64)
    values = np.ravel(weights).astype(np.float64)
    return sp.csr_array(sp.coo_array((values, (places, columns)), shape=(len(vertices), size)))


def load_template(path: Path | None, model: Path | None) -> FaceTemplate:
    """The template to lay onto scans: the default one, or the mesh at `path`, guided by the corpus or by a model.

    Landmarks that `meshgan data template` has written beside the mesh go before those found on it. Raises
    `UsageError` if the mesh shows no upright face in millimetres, or the model is of another template.
    """
    template = default_template()
    if path is not None:
        template = with_own_landmarks(adopted(read_mesh(path), template, path), landmark_file(path))
    return replace(template, prior=_model_prior(model, template.mesh)) if model is not None else template


def template_of(mesh: Mesh, source: str) -> FaceTemplate:
    """A face of a set or a model as a template: the package's where it has its triangles, else see `adopted`."""
    known = default_template()
    return known if same_triangles(mesh, known.mesh) else adopted(mesh, known, Path(source))


def _model_prior(folder: Path, template: Mesh) -> Prior:
    """A trained model as a prior: the principal components of its samples."""
    from meshgan.model.load import load_model  # needs torch, which registration else does without

    model = load_model(folder)
    whole = face_within(model.template) is not None and face_within(template) is not None  # heads have faces
    if not whole and not np.array_equal(model.template.triangles, template.triangles):
        raise UsageError(f"{folder} is a model of another template; give its template as `template`.")
    return learn(faces_of(model.sample(MODEL_FACES, seed=0), model.template).astype(np.float32), COMPONENTS)


def landmark_file(mesh: Path) -> Path:
    """Where a template's own landmarks lie, if it has any."""
    return mesh.with_suffix(".landmarks.json")


class Mark(BaseModel):
    """A named landmark of a template: a combination of three vertices."""

    model_config = ConfigDict(extra="forbid")

    name: str
    vertices: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]
    weights: tuple[FiniteFloat, FiniteFloat, FiniteFloat]


def with_own_landmarks(template: FaceTemplate, path: Path) -> FaceTemplate:
    """The template with the landmarks of a file in place of its own; unchanged if there is none.

    Raises `UsageError` if the file is of another mesh or names what the scheme does not have.
    """
    if not path.is_file():
        return template
    try:
        marks = TypeAdapter(list[Mark]).validate_python(read_json(path, MOST_MARKS))
    except (MeshganError, ValidationError, RecursionError) as error:
        raise UsageError(f"{path} is damaged; make the template again with `meshgan data template`.") from error
    size, names = len(template.mesh.vertices), template.landmark_names
    if not all(mark.name in names and max(mark.vertices) < size for mark in marks):
        raise UsageError(f"{path} does not belong to this template; remove it, or make both again.")
    own = _rows([mark.vertices for mark in marks], [mark.weights for mark in marks], size)
    rows = template.landmark_rows.tolil()
    rows[[names.index(mark.name) for mark in marks]] = own.tolil()
    return replace(template, landmark_rows=sp.csr_array(rows))


def adopted(mesh: Mesh, template: FaceTemplate, path: Path) -> FaceTemplate:
    """A user's `mesh` as a template: ours is laid onto it, and what is known of ours is carried over.

    Landmarks and the detector's points go to the nearest place on the mesh; the model's motions are those of the
    nearest point of ours.
    """
    try:
        laid = register(mesh, template)
    except MeshganError as error:
        raise UsageError(f"{path} cannot be the template: {error}") from error
    if np.degrees(np.arccos(np.clip(laid.to_scan.rotation[[1, 2], [1, 2]], -1, 1))).max() > UPRIGHT_DEGREES:
        raise UsageError(
            f"{path} cannot be the template: its face must look along +z, with y up; "
            "`meshgan data template` turns one that does not."
        )
    ours = template.mesh.with_vertices(laid.to_scan(laid.vertices))
    carry = barycentric_matrix(closest_points(mesh.vertices, ours), ours)
    turn = laid.to_scan.rotation
    basis = np.einsum("dc,ckv->dkv", turn, np.stack([(carry @ part.T).T for part in template.prior.basis]))
    mean = mesh.vertices + carry @ ((template.prior.mean - laid.vertices) @ turn.T)
    return FaceTemplate(
        mesh,
        template.landmark_names,
        _carried(template.landmark_rows @ ours.vertices, mesh)[0],
        *_detector_points(template, ours, mesh),
        Prior(mean, basis.astype(np.float32)),
    )


def _detector_points(template: FaceTemplate, ours: Mesh, mesh: Mesh) -> tuple[sp.csr_array, Floats]:
    """Rows (478, V) and scatter (478,) of the detector's points on another mesh."""
    rows, away = _carried(template.detector_rows @ ours.vertices, mesh)
    return rows, np.where(away < FAR_MM, template.detector_sigma, np.inf)


def _carried(points: Floats, mesh: Mesh) -> tuple[sp.csr_array, Floats]:
    """Combinations of vertices (L, V) nearest to points (L, 3), and how far away (L,) they are."""
    nearest = closest_points(points, mesh)
    return barycentric_matrix(nearest, mesh), nearest.distance
