"""One person's scans in the order of time: each starts from the one before, and all share one face at rest.

A frame is, in the frame of the head,

    x = n + Σ_k w_k s_k + r

where n is the person's face at rest, s_k what Apple's shape k does to it (`model.rig`), w_k ≥ 0 its weight, and r what
neither says. The first frame is registered like any scan, and n is the likeliest face at rest behind it: that of a
person of the corpora, with few shapes on. A running mean over the first frames mends n; then it is held. Of every
further frame the pose and the weights are fitted to the surface from those of the frame before, and the vertices are
let go towards it, held back by where the frame before would have them: the weight that this has, in surface points, is
the number of frames before, up to `REMEMBERED`, so that noise of scans averages out, but only where the two agree.

Where a surface does not fit any more (the head has jumped, a cut), the face is searched for as in any scan. If it is
this person's, it is laid as such; else by itself, and may be the first of another one. The frames before are not
forgotten: a single odd frame leaves no trace, since the next one is first tried where frames followed each other. Only
frames that follow one mend the face at rest.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import scipy.sparse as sp
from scipy.optimize import lsq_linear

from meshgan.arrays import Floats, Singles
from meshgan.data.corpora.basis import face_basis
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.population import draw_people
from meshgan.errors import MeshganError
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface
from meshgan.model.rig import ARKIT, targets_of
from meshgan.registration.colours import Colours
from meshgan.registration.landmarks import Landmarks
from meshgan.registration.nricp import FACING, Step, nonrigid_icp, unfolded
from meshgan.registration.prior import Anchors, FitStep, Prior, fit, learn
from meshgan.registration.register import (
    Registration,
    Sighting,
    covered,
    cropped,
    lay,
    placed,
    register,
    sight,
    surface_needed,
)
from meshgan.registration.scan import calmed, cleaned
from meshgan.registration.template import FaceTemplate

# The shapes that a surface tells: it shows neither where eyes look nor, in this template, a tongue.
SHAPES = [column for column, name in enumerate(ARKIT) if not name.startswith("eyeLook") and name != "tongueOut"]

PEOPLE, COMPONENTS = 300, 100  # that say how faces at rest differ
STRENGTH, CHANGE = 0.3, 0.15  # deviation of a weight, and of its change from one frame to the next
SPARSE, RESTING = 2.0, 12.0  # logarithm of how much likelier a weight is 0 than 1, and is so in a first frame
MISFIT_MM, ALIKE = 0.5, 20.0  # of a vertex from n + Σ w s; so many vertices side by side err together
MENDED = 8  # frames over which the face at rest is a running mean
REMEMBERED = 8  # surface points that the frame before counts as at most
DOUBT_MM = 0.5  # between that and the surface: it soon says nothing
KEPT = 0.98  # of r, from one frame to the next
NEAR_MM, LOST = 2.0, 0.8  # the surface so near the fitted face has to cover that share of what it did before
RECALLED = 0.95  # of that share, from one frame to the next, where a frame holds less
OWN = 0.85  # of what the face model covers of a face that was searched for, the person has to
MOST_SHOTS = 3  # so that two odd frames in a row do not push out those before
FAR_MM = 3.0  # closest points beyond this are not believed
STEPS = (Step(-1, 0.5, 0.0, FAR_MM, 2), Step(-1, 0.2, 0.0, FAR_MM, 1))  # landmarks: see `REMEMBERED`
EXACT = 1e-6  # deviation of the size, as a share: it is known
FOLLOWED = (FitStep(3, 0, 15.0, 4.0), FitStep(3, len(SHAPES), 8.0, 1.0), FitStep(4, len(SHAPES), 4.0, 0.2))
SOUGHT = (
    FitStep(2, len(SHAPES), 0.0, np.inf, 1.0),
    FitStep(3, len(SHAPES), 15.0, 4.0, 3.0),
    FitStep(3, len(SHAPES), 8.0, 1.0, 4.0),
    FitStep(4, len(SHAPES), 4.0, 0.2, 4.0),
)


class LostError(MeshganError):
    """The face is not where the frame before says."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What is known once a frame is laid.

    Its `vertices` (V, 3) and the person's face at rest, `still` (V, 3), both in the frame of the head, which `to_scan`
    carries into the scan; the `weights` (52,) of the shapes; the share of the face that the scan `held`; how many
    `frames` of the person there have been; and its `place` among them.
    """

    vertices: Floats
    still: Floats
    weights: Floats
    to_scan: Similarity
    held: float
    frames: int
    place: "Place"


@dataclass(frozen=True)
class Place:
    """Where a frame stands: its own `number`, that of the frame with which its person `began`, and that of the frame it
    goes on `after`, -1 if its face was searched for; and the last frames of the `other` shots that may go on."""

    number: int = 0
    began: int = 0
    after: int = -1
    other: tuple[int, ...] = ()

    @property
    def searched(self) -> bool:
        """Whether the face was searched for."""
        return self.after < 0


@dataclass(frozen=True, eq=False)
class Person:
    """What `shapes` (K, V, 3) in mm do to a person's face at weight 1, in the order of `SHAPES`."""

    shapes: Singles
    template: FaceTemplate

    @classmethod
    def of(cls, still: Floats, template: FaceTemplate) -> "Person":
        """The person with this face at rest (V, 3)."""
        targets = targets_of(still, "arkit")
        return cls(np.stack([targets[ARKIT[column]] for column in SHAPES]), template)

    @cached_property
    def _rows(self) -> Floats:
        return _inside(self.shapes, self.template)

    @cached_property
    def _products(self) -> Floats:
        return self._rows @ self._rows.T

    def moved(self, weights: Floats) -> Floats:
        """What the weights (52,) do: displacements (V, 3)."""
        return np.asarray(np.tensordot(weights[SHAPES].astype(np.float32), self.shapes, 1), dtype=np.float64)

    def weights(self, away: Floats) -> Floats:
        """The likeliest weights (52,) in [0, 1] of displacements (V, 3) of the face at rest."""
        precision = 1 / (MISFIT_MM**2 * ALIKE)
        matrix = precision * self._products + np.eye(len(SHAPES)) / STRENGTH**2
        right = precision * self._rows @ _inside(away[None], self.template)[0] - SPARSE / 2
        weights = np.zeros(len(ARKIT))
        weights[SHAPES] = _bounded(matrix, right, len(SHAPES))
        return weights

    def expected(self, before: Moment) -> Floats:
        """The face (V, 3) with which the next frame begins."""
        shaped = before.still + self.moved(before.weights)
        return shaped + KEPT * (before.vertices - shaped)

    def prior(self, mean: Floats, deviation: float) -> Prior:
        """Faces about this one whose weights differ by so much."""
        basis = np.ascontiguousarray(deviation * self.shapes.transpose(2, 0, 1), dtype=np.float32)
        return Prior(mean, basis)


@dataclass(frozen=True, eq=False)
class Shot:
    """Frames that follow each other: whom they show, and the last of them."""

    person: Person
    last: Moment


def _inside(moves: Floats | Singles, template: FaceTemplate) -> Floats:
    """Displacements (N, V, 3) where they count, as rows (N, 3 I)."""
    return np.asarray(moves[:, template.inside], dtype=np.float64).reshape(len(moves), -1)


def _bounded(matrix: Floats, right: Floats, weights: int) -> Floats:
    """The x that minimises x'Ax - 2 b'x, the last so many of which lie in [0, 1]."""
    root = np.linalg.cholesky(matrix)
    free = np.full(len(right) - weights, np.inf)
    bounds = np.concatenate([-free, np.zeros(weights)]), np.concatenate([free, np.ones(weights)])
    found = lsq_linear(root.T, np.linalg.solve(root, right), bounds, method="bvls").x
    return np.asarray(np.clip(found, *bounds))  # the solver's own may lie outside by a last bit


def at_rest(face: Floats, template: FaceTemplate) -> tuple[Floats, Floats]:
    """The likeliest face at rest (V, 3) behind a face (V, 3), and the weights (52,) of the shapes that it has on.

    People's faces at rest are a Gaussian; the face may also lie a little elsewhere than they do. The shapes are first
    those of the average face, then those of the face found.
    """
    basis, average = face_basis(), template.mesh.vertices
    people = draw_people(basis, Draws(0, "at rest", np.arange(PEOPLE)))
    neutral = basis.neutral(people.phenotype, people.features).vertices
    resting = learn(rigid(neutral, average)(neutral).astype(np.float32), COMPONENTS)
    arms = average - average.mean(axis=0)
    motions = [np.cross(axis, arms) / 100 for axis in np.eye(3)]
    motions += [np.broadcast_to(axis, arms.shape) for axis in np.eye(3)]
    free = _inside(np.concatenate([np.stack(motions), resting.basis.transpose(1, 2, 0)]), template)
    loose = np.concatenate([np.full(6, 1e-6), np.ones(len(free) - 6), np.full(len(SHAPES), STRENGTH**-2)])
    away, still = _inside((face - resting.mean)[None], template)[0], average
    for _ in range(2):
        person = Person.of(still, template)  # of the average face, then of the one found
        rows = np.concatenate([free, _inside(person.shapes, template)])
        precision = 1 / (MISFIT_MM**2 * ALIKE)
        right = precision * rows @ away
        right[len(free) :] -= RESTING / 2
        weights = np.zeros(len(ARKIT))
        weights[SHAPES] = _bounded(precision * rows @ rows.T + np.diag(loose), right, len(SHAPES))[len(free) :]
        still = face - person.moved(weights)
    return still, weights


def begin(
    mesh: Mesh,
    template: FaceTemplate,
    landmarks: Landmarks | None = None,
    unit: str = "mm",
    number: int = 0,
    colours: Colours | None = None,
) -> tuple[Registration, Moment]:
    """A first frame: registered as any scan is (see `register`), then told apart into face at rest and weights."""
    return _begun(register(mesh, template, landmarks, unit, colours=colours), template, number)


def _begun(result: Registration, template: FaceTemplate, number: int) -> tuple[Registration, Moment]:
    still, weights = at_rest(result.vertices, template)
    motion = rigid(template.mesh.vertices, still, template.inside.astype(np.float64))
    result = placed(result, motion)
    held = float(result.believed[template.inside].mean())
    place = Place(number, began=number)
    return result, Moment(result.vertices, motion.inverse(still), weights, result.to_scan, held, 1, place)


def follow(
    mesh: Mesh,
    shots: Sequence[Shot],
    number: int,
    landmarks: Landmarks | None = None,
    unit: str = "mm",
    colours: Colours | None = None,
) -> tuple[Registration, Moment]:
    """A further frame, which goes on from the last one of a shot or, where none fits, from where its face is found.

    Of the `shots`, the latest first, those of one frame, which may be an odd one, are tried last. With `landmarks` it
    begins there. The other arguments and errors are those of `register`.
    """
    if landmarks is None:
        given = cleaned(mesh)
        whole = calmed(given)
        for shot in sorted(shots, key=lambda shot: shot.last.place.searched):
            template, way = shot.person.template, shot.last.to_scan
            sighting = replace(_nothing_seen(template), noisy=whole is not given)
            with suppress(MeshganError, np.linalg.LinAlgError):  # it is lost, or hardly anything is there
                scan = cropped(whole, template, way, way)
                prior = shot.person.prior(shot.person.expected(shot.last), CHANGE)
                return _laid(sighting, scan, way, shot, shots, number, prior, FOLLOWED)
    return find_again(mesh, shots, number, landmarks, unit, colours)


@surface_needed()
def find_again(
    mesh: Mesh,
    shots: Sequence[Shot],
    number: int,
    landmarks: Landmarks | None = None,
    unit: str = "mm",
    colours: Colours | None = None,
) -> tuple[Registration, Moment]:
    """A frame whose face is searched for, as that of the person of most frames if it is theirs, else by itself.

    The arguments are those of `follow`.
    """
    shot = max(shots, key=lambda shot: shot.last.frames)
    person, before, template = shot.person, shot.last, shot.person.template
    known = float(before.to_scan.scale) if unit == "auto" else None
    sighting, scan, to_scan = sight(mesh, template, landmarks, unit, known, colours)
    turn, middle = sighting.pose.rotation, template.mesh.vertices.mean(axis=0)
    start = Similarity(1.0, turn, sighting.pose(middle[None])[0] - turn @ middle)
    prior = person.prior(before.still, STRENGTH)
    theirs: tuple[Registration, Moment] | None = None
    share = 0.0
    with suppress(LostError, np.linalg.LinAlgError):
        theirs = _laid(replace(sighting, pose=start), scan, to_scan, shot, shots, number, prior, SOUGHT)
        share = covered(theirs[0].fitted, Surface(theirs[0].scan), template, NEAR_MM)
        if share >= LOST * before.held:
            return theirs
    own, alone = _begun(lay(sighting, scan, to_scan, template, unit), template, number)
    if theirs is not None and share >= OWN * covered(own.fitted, Surface(own.scan), template, NEAR_MM):
        return theirs
    return own, replace(alone, place=replace(alone.place, other=_others(shots)))


def _others(shots: Sequence[Shot], after: int = -1) -> tuple[int, ...]:
    """The last frames of the shots that a frame does not go on `after`, as many as are kept."""
    numbers = [shot.last.place.number for shot in shots]
    return tuple(number for number in numbers if number != after)[: MOST_SHOTS - 1]


def _nothing_seen(template: FaceTemplate) -> Sighting:
    """No landmark, and the face where the frame before had it."""
    rows = sp.csr_array((0, len(template.mesh.vertices)))
    nowhere = Landmarks(np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
    return Sighting(Similarity.none(), Anchors(rows, np.zeros((0, 3)), np.zeros(0), found=True), nowhere)


def _laid(
    sighting: Sighting,
    scan: Mesh,
    to_scan: Similarity,
    shot: Shot,
    shots: Sequence[Shot],
    number: int,
    prior: Prior,
    schedule: tuple[FitStep, ...],
) -> tuple[Registration, Moment]:
    """The face of a shot's person laid onto a `scan`, which lies in a frame that `to_scan` leads back from.

    Without landmarks it goes on from the shot's last frame; then, raises `LostError`.
    """
    person, before = shot.person, shot.last
    template, surface = person.template, Surface(scan)
    followed = not len(sighting.landmarks)
    draw = partial(template.sparse.pull, surface=surface)
    fitted = fit(prior, sighting.anchors, sighting.pose, draw, EXACT, schedule, template.sparse.vertices)
    drawn = template.drawn.pull(fitted.vertices, surface)
    near = float((drawn.weights(NEAR_MM, FACING)[template.inside] > 0).mean())
    if followed and near < LOST * before.held:
        raise LostError("the face is not where the frame before says.")
    says = np.where(drawn.weights(FAR_MM, FACING) > 0, drawn.distance, 0.0)
    told = Anchors(sp.csr_array(sp.eye_array(len(says))), fitted.vertices, 1 + (says / DOUBT_MM) ** 2)
    steps = tuple(replace(step, landmarks=float(min(before.frames, REMEMBERED))) for step in STEPS)
    pull = partial(template.drawn.pull, surface=surface)
    *_, state = nonrigid_icp(fitted.vertices, pull, template.nodes, template.mesh.edges, told, steps)
    vertices = unfolded(template.mesh.with_vertices(state.vertices), fitted.vertices)
    landmarks = sighting.landmarks
    if followed:  # a person may correct them
        landmarks = Landmarks(np.arange(len(template.landmark_names)), template.landmark_rows @ vertices)
    believed = state.weights > 0
    found = sighting.anchors.found
    here = Registration(vertices, fitted.vertices, believed, scan, landmarks, to_scan, sighting.noisy, followed, found)
    result = placed(here, fitted.pose)
    weights = person.weights(result.vertices - before.still)
    count, rest = before.frames + 1, np.zeros(3)
    if followed and count <= MENDED:  # an odd frame says nothing of a face at rest
        rest = (result.vertices - person.moved(weights) - before.still) / count
    place = Place(number, before.place.began, before.place.number if followed else -1)
    place = replace(place, other=_others(shots, place.after))
    held = max(near, RECALLED * before.held)
    return result, Moment(result.vertices, before.still + rest, weights, result.to_scan, held, count, place)


def doubt(moment: Moment) -> str:
    """Why a further frame wants a look, since its face was searched for without a person's landmarks; else ''."""
    if not moment.place.searched:
        return ""
    if moment.place.began == moment.place.number:
        return "the face is not the one of the frames before, so it was registered by itself"
    return "the face was not where the frames before have it, so it was searched for anew"
