"""One scan, one result: find the face, fit the face model, let the template go, and say how good it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.align import Similarity, rigid, robust_similarity
from meshgan.geometry.files import MILLIMETRES
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface
from meshgan.registration.colours import Colours
from meshgan.registration.finding import Found, find_face, seen_in_colours
from meshgan.registration.landmarks import Detector, Landmarks, available, no_detector
from meshgan.registration.nricp import FACING, State, nonrigid_icp, unfolded
from meshgan.registration.prior import FINE, FIT, SCALE_SIGMA, Anchors, FitStep, Fitted, Prior, fit
from meshgan.registration.scan import Met, Pull, around, calmed, cleaned, facing_like, thinned
from meshgan.registration.template import NOSE_BASE, Drawn, FaceTemplate

REACH = 1.35  # of the template's radius: what of the scan is kept around the face
GIVEN_SIGMA = 2.0  # mm: how well a person sets a landmark
CONTOUR_SIGMA = 6.0  # mm: the 17 points of the jaw line, which slide along it
CONTOUR = 17
WORST_GIVEN = 12.0  # mm, median at the template's scale: above it, landmarks given are not what they are called
ASTRAY = 12.0  # mm from the fitted model: landmarks found there are none of the face
HUMAN = (36.0, 90.0)  # mm between the middles of the eyes, with room for an inexact pose: small faces have 40
OTHER_SIZE = 1.5  # times that of the frames before: such a frame is in another unit
BESIDE, CHIN = 45.0, 25.0  # mm to its sides, and from the model, where a chin may be
NEAR, SOME = 2.0, 2000  # mm; points that are enough
CLEAR, BETTER, LOSS = 0.93, 0.05, 0.01  # shares of that near the model: enough, more, and of the face less
TOUCHING, NEARER, HIDDEN = 0.8, 0.2, 3.0  # mm below the nose: near enough, nearer, and too far to tell
FAR, LOOKING = 6.0, 0.5  # mm at most of a vertex, and least cosine, for that
ABOVE, SIDES, BEHIND = 5.0, 70.0, 120.0  # mm around the base of the nose, where a surface looks for an open mouth
OPENED = (FitStep(3, 31, 15.0, 4.0, 4.0), FitStep(3, 81, 8.0, 1.0, 4.0), FitStep(3, 401, 4.0, 0.2, 4.0))
GROWN = 50.0  # mm on the template around landmarks that a person gave
FIXED, FREE = 1e-4, SCALE_SIGMA  # how far the model may grow, as a share


@dataclass(frozen=True, eq=False)
class Sighting:
    """A face found: the `pose` that carries the template onto it, and the points known there."""

    pose: Similarity
    anchors: Anchors
    landmarks: Landmarks
    noisy: bool = False  # the scan was smoothed before

    def seen_from(self, frame: Similarity) -> "Sighting":
        """The same in the frame that `frame` carries into the present one."""
        targets, sigma = frame.inverse(self.anchors.targets), self.anchors.sigma / frame.scale
        anchors = replace(self.anchors, targets=targets, sigma=sigma)
        landmarks = Landmarks(self.landmarks.index, frame.inverse(self.landmarks.points))
        return Sighting(frame.inverse.after(self.pose), anchors, landmarks, self.noisy)


@dataclass(frozen=True, eq=False)
class Registration:
    """The template laid onto a scan.

    `vertices` (V, 3) is the result and `fitted` (V, 3) the model's part of it. They, the `scan` around the face and
    the `landmarks` found or given lie in the template's frame; `to_scan` leads back to the scan's own. Of a frame that
    is `followed` from the one before, none were looked for: they are the result's own.
    """

    vertices: Floats
    fitted: Floats
    believed: Booleans
    scan: Mesh
    landmarks: Landmarks
    to_scan: Similarity
    noisy: bool = False  # the scan was smoothed before
    followed: bool = False
    found: bool = False  # a detector found the landmarks, and some may lie on what is before the face


Watch = Callable[[State], None]


def register(
    mesh: Mesh,
    template: FaceTemplate,
    landmarks: Landmarks | None = None,
    unit: str = "mm",
    watch: Watch | None = None,
    colours: Colours | None = None,
) -> Registration:
    """Lay the template onto a scan in any orientation.

    `mesh` and `landmarks` are in millimetres; `unit` is what they came from, for messages: mm, cm or m, or "glb", which
    is metres that nobody chose (see `unit_of`). With "auto" it is unknown, and the face is made as large as the
    model's average. Without `landmarks` the extra `[landmarks]` finds them, in the scan's own `colours` if these show
    the face. `watch` sees every state of the non-rigid stage. The systems are small, so that BLAS is quickest with one
    thread, which is for the caller to set. Raises `MeshganError` if there is no face, hardly a surface, or no human
    size.
    """
    with surface_needed():
        sighting, scan, to_scan = sight(mesh, template, landmarks, unit, colours=colours)
        return lay(sighting, scan, to_scan, template, unit, watch)


@contextmanager
def surface_needed() -> Iterator[None]:
    """Equations that cannot be solved are told as what they come from: hardly any surface."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise MeshganError(
            "hardly any surface lies where the landmarks say that the face is; are they right?"
        ) from error


def unit_of(name: str, unit: str) -> str:
    """The unit of a scan by the `name` of its file, where that of others is `unit`: a GLB is in metres."""
    return "glb" if unit != "auto" and name.lower().endswith(".glb") else unit


def lay(
    sighting: Sighting,
    scan: Mesh,
    to_scan: Similarity,
    template: FaceTemplate,
    unit: str = "mm",
    watch: Watch | None = None,
) -> Registration:
    """The template laid onto a face that was found (see `sight`); the arguments are those of `register`."""
    surface = Surface(scan)
    fitted = fit_model(sighting, surface, template, FIXED if unit == "auto" else FREE)
    pull = partial(template.drawn.pull, surface=surface)
    anchors = _not_astray(sighting.anchors, fitted.vertices)
    states = nonrigid_icp(fitted.vertices, pull, template.nodes, template.mesh.edges, anchors)
    for state in states:
        if watch is not None:
            watch(state)
    vertices = unfolded(template.mesh.with_vertices(state.vertices), fitted.vertices)
    believed = state.weights > 0
    result = Registration(
        vertices, fitted.vertices, believed, scan, sighting.landmarks, to_scan, sighting.noisy, found=anchors.found
    )
    upright = _upright(result, template)
    return replace(upright, vertices=template.parted(upright.vertices))


def _not_astray(anchors: Anchors, fitted: Floats) -> Anchors:
    """The anchors without those a detector saw on something else, a strand of hair or a hand before the face: they are
    farther than `ASTRAY` from where a fitted model (V, 3) has them."""
    away = np.linalg.norm(anchors.rows @ fitted - anchors.targets, axis=1)
    if not anchors.found or (away < ASTRAY).all():
        return anchors
    kept = np.flatnonzero(away < ASTRAY)
    return anchors.some(kept)


def fit_model(sighting: Sighting, surface: Surface, template: FaceTemplate, scale_sigma: float = FREE) -> Fitted:
    """The template's face model laid onto a surface in its frame.

    Some vertices come near, all of them then say how the model lies best, and landmarks keep their share in that.
    """
    prior, near, meets = _come_near(sighting, surface, template, scale_sigma)
    pull = partial(template.drawn.pull, surface=surface)
    meeting = _meeting(template.drawn, sighting, surface, template) if meets else None
    fine = replace(FINE, say=len(template.drawn.vertices) / len(template.sparse.vertices))
    return fit(prior, sighting.anchors, near, pull, scale_sigma, (fine,), meeting=meeting)


def _come_near(
    sighting: Sighting, surface: Surface, template: FaceTemplate, scale_sigma: float
) -> tuple[Prior, Fitted, bool]:
    """The face model, where some vertices of it lie near a surface, and whether the surface looked for it.

    Where it leaves what is before mouth and chin, as it does if the detector and nearest points have missed how wide a
    mouth is open, it is laid once more from a wide open one. Where it is still away from the surface below the nose,
    the surface looks for it, too. Each counts if it is better.
    """
    pull = partial(template.sparse.pull, surface=surface)
    chosen = template.sparse.vertices
    prior = template.prior
    fitted = _first_fit(sighting, pull, template, scale_sigma)
    explained = _explained(fitted, surface, template)
    if explained <= CLEAR:
        opened = fit(template.wide, sighting.anchors, fitted.pose, pull, scale_sigma, OPENED, chosen)
        more = _explained(opened, surface, template)
        before, after = (
            covered(one.vertices, surface, template, NEAR * float(one.pose.scale)) for one in (fitted, opened)
        )
        if more >= explained + BETTER and after > before - LOSS:
            prior, fitted, explained = template.wide, opened, more
    apart = _apart(fitted, surface, template)
    if not TOUCHING < apart < HIDDEN:  # behind a hand, there is hardly anything to be near to
        return prior, fitted, False
    meeting = _meeting(template.sparse, sighting, surface, template)
    opened = fit(template.wide, sighting.anchors, sighting.pose, pull, scale_sigma, OPENED, chosen, meeting)
    more = _explained(opened, surface, template)  # a tube before the mouth explains no more
    if more > explained and apart - _apart(opened, surface, template) > NEARER:
        return template.wide, opened, True
    return prior, fitted, False


def _first_fit(
    sighting: Sighting, pull: Callable[[Floats], Pull], template: FaceTemplate, scale_sigma: float
) -> Fitted:
    """The face model laid onto a surface, which draws some vertices by `pull`.

    A person may have given few landmarks. What lies beyond `GROWN` of all of them is then drawn last, when the rest of
    the face says where it is: from the mean face, a chin would go to a hand before it, or to the lower lip.
    """
    anchors, chosen = sighting.anchors, template.sparse.vertices
    known = anchors.rows @ template.mesh.vertices
    beyond = cKDTree(known).query(template.mesh.vertices[chosen])[0] > GROWN
    if anchors.found or not beyond.any():
        return fit(template.prior, anchors, sighting.pose, pull, scale_sigma, chosen=chosen)

    def near(points: Floats) -> Pull:
        everywhere = pull(points)
        return replace(everywhere, cosine=np.where(beyond, -1.0, everywhere.cosine))

    begun = fit(template.prior, anchors, sighting.pose, near, scale_sigma, FIT[:-1], chosen)
    return fit(template.prior, anchors, begun, pull, scale_sigma, FIT[-1:], chosen)


def _meeting(drawn: Drawn, sighting: Sighting, surface: Surface, template: FaceTemplate) -> Callable[[Floats], Met]:
    """What of the drawn vertices that a jaw may move a surface below the nose meets."""
    seen, able = _lower(sighting, surface, template), template.lower[drawn.vertices]
    return partial(drawn.met, surface=surface, seen=seen, able=able)


def _apart(fitted: Fitted, surface: Surface, template: FaceTemplate) -> float:
    """How far the face below the nose is from a surface on the mean, in the model's mm; no vertex by more than `FAR`,
    and those that meet borders or what faces elsewhere by as much."""
    drawn, scale = template.drawn.pull(fitted.vertices, surface), float(fitted.pose.scale)
    away = np.where(drawn.weights(FAR * scale, LOOKING) > 0, drawn.distance / scale, FAR)
    return float(away[template.lower & template.inside].mean())


def _lower(sighting: Sighting, surface: Surface, template: FaceTemplate) -> Integers:
    """Vertices of a surface, `SOME` at most, from the base of the nose down, not far to the sides nor behind."""
    points = sighting.pose.inverse(surface.mesh.vertices)
    base = (template.landmark_rows[[NOSE_BASE]] @ template.mesh.vertices)[0]
    before = np.flatnonzero(
        (points[:, 1] < base[1] + ABOVE) & (np.abs(points[:, 0] - base[0]) < SIDES) & (points[:, 2] > base[2] - BEHIND)
    )
    return before[:: max(1, len(before) // SOME)]


def _explained(fitted: Fitted, surface: Surface, template: FaceTemplate) -> float:
    """The share near the fitted model of what of a surface lies before mouth and chin, or not far from there."""
    points = fitted.pose.inverse(surface.mesh.vertices)
    base = (template.landmark_rows[[NOSE_BASE]] @ template.mesh.vertices)[0]
    before = np.flatnonzero((points[:, 1] < base[1]) & (np.abs(points[:, 0] - base[0]) < BESIDE))
    some = before[:: max(1, len(before) // SOME)]
    if not len(some):
        return 1.0
    away = Surface(template.mesh.with_vertices(fitted.vertices)).closest(surface.mesh.vertices[some]).distance
    around = away < CHIN * float(fitted.pose.scale)
    return float((away[around] < NEAR * float(fitted.pose.scale)).mean()) if around.any() else 1.0


def covered(vertices: Floats, surface: Surface, template: FaceTemplate, near: float = NEAR) -> float:
    """The share of a face's inside, where its vertices (V, 3) lie, that has a surface `near` it."""
    drawn = template.drawn.pull(vertices, surface)
    return float((drawn.weights(near, FACING)[template.inside] > 0).mean())


def sight(
    mesh: Mesh,
    template: FaceTemplate,
    landmarks: Landmarks | None = None,
    unit: str = "mm",
    scale: float | None = None,
    colours: Colours | None = None,
) -> tuple[Sighting, Mesh, Similarity]:
    """Find the face: where it is in the template's frame, what of the scan lies around it there, and the way back.

    Of a scan whose unit is "auto", `scale` is how long a millimetre is, if that is known: it counts unless the face is
    of another size by half and more, as that of a frame in another unit is.
    """
    given = cleaned(mesh)
    whole = calmed(given)
    sighting = _given(landmarks, template) if landmarks is not None else _detected(whole, template, colours)
    if unit != "auto":
        _require_human_size(float(sighting.pose.scale) * template.interocular(template.mesh.vertices), unit)
    if scale is None or not 1 / OTHER_SIZE < float(sighting.pose.scale) / scale < OTHER_SIZE:
        scale = float(sighting.pose.scale)
    millimetre = scale if unit == "auto" else 1.0
    to_scan = Similarity(millimetre, sighting.pose.rotation, sighting.pose.translation)
    sighting = replace(sighting, noisy=whole is not given)
    return sighting.seen_from(to_scan), cropped(whole, template, sighting.pose, to_scan), to_scan


def _require_human_size(interocular: float, unit: str) -> None:
    """Refuse a scan whose unit is wrong: nothing that is measured in millimetres would mean anything."""
    if HUMAN[0] <= interocular <= HUMAN[1]:
        return
    estimated = "give `unit='auto'` to estimate the scale"
    if unit == "glb":
        raise MeshganError(
            f"the eyes are {interocular:.3g} mm apart in this scan if it is in metres, as every GLB is; write it so, "
            f"or as PLY or OBJ and say their unit, or {estimated}."
        )
    fitting = [
        other
        for other, length in MILLIMETRES.items()
        if HUMAN[0] <= interocular * length / MILLIMETRES[unit] <= HUMAN[1]
    ]
    advice = f"`unit={fitting[0]!r}` would fit" if fitting else f"no unit fits, so {estimated}"
    raise MeshganError(f"the eyes are {interocular:.3g} mm apart in this scan if its unit is {unit}; {advice}.")


def _given(landmarks: Landmarks, template: FaceTemplate) -> Sighting:
    rows = template.landmark_rows[landmarks.index]
    sigma = np.where(landmarks.index < CONTOUR, CONTOUR_SIGMA, GIVEN_SIGMA)
    places = rows @ template.mesh.vertices
    pose = robust_similarity(places, landmarks.points, sigma)
    misfit = float(np.median(np.linalg.norm(pose(places) - landmarks.points, axis=1))) / pose.scale
    if misfit > WORST_GIVEN:
        raise MeshganError("the landmarks given do not have the shape of a face; are their names and order right?")
    return Sighting(pose, Anchors(rows, landmarks.points, sigma * pose.scale), landmarks)


def _detected(mesh: Mesh, template: FaceTemplate, colours: Colours | None = None) -> Sighting:
    if not available():
        raise no_detector()
    with Detector() as detector:
        found = find_face(thinned(mesh), detector, template)
        if colours is not None and (painted := colours()) is not None:
            found = seen_in_colours(painted, found, detector, template) or found
    return sighted(found, template)


def sighted(found: Found, template: FaceTemplate) -> Sighting:
    """What the detector's points say of a face that was found."""
    seen = template.coloured if found.in_colours else template.bare
    points, sigma = found.detection.points, seen.sigma * found.pose.scale
    used = np.flatnonzero(found.detection.found & np.isfinite(sigma))
    anchors = Anchors(seen.rows, points, sigma, True, seen.together).some(used)
    return Sighting(found.pose, anchors, template.named(points, used, seen))


def cropped(whole: Mesh, template: FaceTemplate, pose: Similarity, frame: Similarity) -> Mesh:
    """What of the scan lies around the face, in the template's frame, its triangles facing out."""
    middle = template.mesh.vertices.mean(axis=0)
    radius = float(np.linalg.norm(template.mesh.vertices - middle, axis=1).max())
    part = thinned(around(whole, pose(middle[None])[0], REACH * radius * float(pose.scale)))
    placed = template.mesh.with_vertices(frame.inverse.after(pose)(template.mesh.vertices))
    return facing_like(part.with_vertices(frame.inverse(part.vertices)), placed)


def _upright(result: Registration, template: FaceTemplate) -> Registration:
    """The same, moved rigidly to where the face lies best on the template's mean."""
    return placed(result, rigid(template.mesh.vertices, result.vertices, template.inside.astype(np.float64)))


def placed(result: Registration, motion: Similarity) -> Registration:
    """The same in the frame that `motion` carries into the present one."""
    return replace(
        result,
        vertices=motion.inverse(result.vertices),
        fitted=motion.inverse(result.fitted),
        scan=result.scan.with_vertices(motion.inverse(result.scan.vertices)),
        landmarks=Landmarks(result.landmarks.index, motion.inverse(result.landmarks.points)),
        to_scan=result.to_scan.after(motion),
    )
