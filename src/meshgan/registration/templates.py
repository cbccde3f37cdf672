"""Templates ready for registration: the one of this package, a user's own, and the face model behind each."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from threadpoolctl import threadpool_limits

from meshgan.arrays import Booleans, Floats, Reals
from meshgan.data.corpora.basis import ASSETS, face_template, face_within
from meshgan.data.corpora.heads import faces_of
from meshgan.data.corpora.motion import contacts
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.align import similarity
from meshgan.geometry.files import MILLIMETRES, read_mesh
from meshgan.geometry.mesh import Mesh, same_triangles, surface_of
from meshgan.geometry.surface import barycentric_matrix, closest_points
from meshgan.model.face_model import check_connectivity
from meshgan.model.rig import ARKIT, rigger
from meshgan.reading import read_json
from meshgan.registration.prior import Prior, blended, learn
from meshgan.registration.register import register, unit_of
from meshgan.registration.template import DetectorPoints, FaceTemplate

MODEL_FACES, COMPONENTS = 2000, 200  # of a trained model as a prior
BLENDED = 400  # components of it and of the template's face model together
UPRIGHT_DEGREES = 30.0
FAR_MM = 6.0  # a detector point so far from a user's template has no place there
MOST_MARKS = 2**20  # bytes
AUTO = "auto"  # the unit of a mesh whose scale is to be found
OTHER_UNIT = 3.0  # a face so many times smaller or larger than the model's is in another unit
WIDE = 0.9  # of Apple's jawOpen: some 30 mm between the lips
OWN = files("meshgan.registration") / "assets"
EYES_TOGETHER = 1.7  # times the sigma of points around eyes that the detector saw in colours, at most
ASSET_FILES = ("face_prior.npz", "detector_points.npz", "colour_points.npz")


@cache
def default_template() -> FaceTemplate:
    """The template of this package, with the corpus as its face model."""
    mesh = face_template()
    marks = json.loads((ASSETS / "face_landmarks.json").read_text(encoding="utf-8"))
    rows = _rows([mark["vertices"] for mark in marks], [mark["weights"] for mark in marks], len(mesh.vertices))
    bare = _detector_points("detector_points", mesh)
    arrays = _asset("face_prior")
    prior = Prior(arrays["mean"].astype(np.float64), arrays["basis"] * np.float32(arrays["step_mm"]))
    names = tuple(mark["name"] for mark in marks)
    return FaceTemplate(mesh, names, rows, bare, _coloured(mesh, bare), prior, partial(_opening, prior.mean), _parted)


def _detector_points(asset: str, mesh: Mesh) -> DetectorPoints:
    """Where the detector sees its points on the template of this package."""
    points = _asset(asset)
    rows = barycentric_matrix(closest_points(points["points"], mesh), mesh)
    return DetectorPoints(rows, points["scatter_mm"].astype(np.float64), np.full(len(points["points"]), np.inf))


def _coloured(mesh: Mesh, bare: DetectorPoints) -> DetectorPoints:
    """The same in colours; away from eyes its points scatter as those in bare shape do, about the same places."""
    seen, eyes = _detector_points("colour_points", mesh), _asset("colour_points")["eyes"]
    sigma, together = np.where(eyes, seen.sigma, bare.sigma), np.where(eyes, EYES_TOGETHER, np.inf)
    return DetectorPoints(seen.rows, sigma, together)


def _parted(face: Floats) -> Floats:
    """A face (V, 3) of the template of this package, its lips apart where they pass through each other.

    What a scan shows of closed lips is the line between them; behind it, the two know nothing of each other.
    """
    before = face[None].astype(np.float32)
    after = before.copy()
    contacts().lips.part(after)
    return face + (after - before)[0].astype(np.float64)


def _opening(face: Floats) -> Floats:
    """What a face (V, 3) of the template of this package does when its mouth opens wide."""
    weights = np.zeros((1, len(ARKIT)))
    weights[0, ARKIT.index("jawOpen")] = WIDE
    return np.asarray(rigger().performed(face, weights)[0] - face, dtype=np.float64)


def in_correspondence(
    mesh: Mesh, template: Mesh, unit: str, source: str, told: Callable[[str], object] = lambda _: None
) -> tuple[Floats, Booleans]:
    """Where the vertices (V, 3) of a model's template lie on a mesh, in mm, and which of them (V,) it shows.

    The mesh was read in `unit`. One of the template's triangles lies where it did; vertices that no triangle uses may
    be there besides. If the model is of the package's faces or heads, a face of the package shows that part of a head,
    and any other mesh is a raw scan, which is registered first: `told` is given a sentence then. What has no scale
    (`AUTO`) becomes as large as the template. Raises `UsageError` for another unit or another mesh, and `MeshganError`
    for a scan without a face; `source` is what messages call the mesh.
    """
    known = [template, *([face_template()] if face_within(template) is not None else [])]
    used = mesh
    if all(len(mesh.vertices) != len(one.vertices) for one in known):
        used = surface_of(mesh)[1]
    found = next((one for one in known if same_triangles(used, one)), None)
    if found is not None:
        vertices = sized(used.vertices, found.vertices, unit, source)
    else:
        if len(known) == 1:
            check_connectivity(used, template, source)
        told(f"{source} is of other triangles than the model; it is registered first.")
        vertices = _registered(mesh, unit, source)
    shown = None if found is template else shown_by(vertices, template)
    return shown or (vertices, np.ones(len(vertices), dtype=bool))


def _registered(mesh: Mesh, unit: str, source: str) -> Floats:
    """The package's template laid onto a scan (V, 3), where the scan lies; one without a scale goes to the template."""
    try:
        with threadpool_limits(1, user_api="blas"):
            found = register(mesh, default_template(), unit=unit_of(source, unit))
    except MeshganError as error:
        raise type(error)(f"{source} is not of the model's template, and cannot be registered: {error}") from error
    return np.asarray(found.vertices if unit == AUTO else found.to_scan(found.vertices))


def sized(points: Floats, usual: Floats, unit: str, source: str) -> Floats:
    """Points (N, 3) of a face in mm; those without a scale (`AUTO`) as large as the `usual` ones (N, 3).

    Raises `UsageError` if they are so much smaller or larger than these that `unit`, in which they were read, is wrong.
    """
    size, wanted = (float(np.linalg.norm(np.std(some, axis=0))) for some in (points, usual))
    if unit == AUTO and size > 0:
        return points * similarity(points, usual).scale
    if wanted == 0 or wanted / OTHER_UNIT < size < wanted * OTHER_UNIT:
        return points
    estimated = f"give `unit='{AUTO}'` to make it as large as they are"
    fitting = [u for u in MILLIMETRES if wanted / 2 < size * MILLIMETRES[u] / MILLIMETRES.get(unit, 1) < wanted * 2]
    advice = f"`unit='{fitting[0]}'` would fit" if fitting else f"no unit fits; {estimated}"
    if source.lower().endswith(".glb"):
        unit, advice = "m", f"a GLB is in metres: write it so, or {estimated}"
    extent, common = (float(np.ptp(some, axis=0).max()) for some in (points, usual))
    raise UsageError(f"{source} measures {extent:.3g} mm, read in {unit}, the model's faces {common:.0f} mm; {advice}.")


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
    return guided(template, model) if model is not None else template


def template_of(mesh: Mesh, source: str) -> FaceTemplate:
    """A face of a set or a model as a template: the package's where it has its triangles, else see `adopted`."""
    known = default_template()
    return known if same_triangles(mesh, known.mesh) else adopted(mesh, known, Path(source))


def guided(template: FaceTemplate, folder: Path) -> FaceTemplate:
    """The template, half of whose people are now those of a trained model: the other half knows expressions, too.

    Raises `UsageError` if the model is of another template.
    """
    from meshgan.model.load import load_model  # needs torch, which registration else does without

    model, mesh = load_model(folder), template.mesh
    whole = face_within(model.template) is not None and face_within(mesh) is not None  # heads have faces
    if not whole and not np.array_equal(model.template.triangles, mesh.triangles):
        raise UsageError(f"{folder} is a model of another template; give its template as `template`.")
    own = learn(faces_of(model.sample(MODEL_FACES, seed=0), model.template).astype(np.float32), COMPONENTS)
    return replace(template, prior=blended(own, template.prior, BLENDED))


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
        _points_carried(template.bare, ours, mesh),
        _points_carried(template.coloured, ours, mesh),
        Prior(mean, basis.astype(np.float32)),
        lambda: np.asarray(carry @ template.opening() @ turn.T),
        lambda face: face,
    )


def _points_carried(points: DetectorPoints, ours: Mesh, mesh: Mesh) -> DetectorPoints:
    """The detector's points on another mesh."""
    carried, away = _carried(points.rows @ ours.vertices, mesh)
    return DetectorPoints(carried, np.where(away < FAR_MM, points.sigma, np.inf), points.together)


def _carried(points: Floats, mesh: Mesh) -> tuple[sp.csr_array, Floats]:
    """Combinations of vertices (L, V) nearest to points (L, 3), and how far away (L,) they are."""
    nearest = closest_points(points, mesh)
    return barycentric_matrix(nearest, mesh), nearest.distance
