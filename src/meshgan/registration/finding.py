"""From "somewhere in this scan" to the exact pose of its face: landmarks, pose, a better view, better landmarks.

The detector's first, quick network looks at the scan from directions spread over the sphere, each in four turns.
It answers to a face within some 40 degrees, so the true pose collects many answers that agree with each other,
and a chance likeness on a shoulder or a palm collects few. The mode of the answers is where the landmarks start: the
detector's points on several views, lifted to the surface, kept where views agree.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from scipy.spatial.transform import Rotation

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.align import Similarity, robust_similarity
from meshgan.geometry.decomposition import eigen
from meshgan.geometry.mesh import Mesh
from meshgan.registration.colours import Painted, PaintedScene
from meshgan.registration.landmarks import POINTS, Detector
from meshgan.registration.scan import Frame, Hits, Scene, bulk, extent
from meshgan.registration.template import DetectorPoints, FaceTemplate

HALF_WIDTH = 125.0  # mm at the template's scale: a face with some air around it
YAWS = (0.0, -30.0, 30.0)  # degrees around the face's own up axis
SIZE = 384  # pixels a side; the network looks at 256 of them
STEEPEST = 0.3  # cosine between surface and view below which a lifted point is not to be trusted
JUMP = 3.0  # mm at the template's scale, of depth between neighbouring pixels that mark a silhouette
AGREEMENT = 4.0  # mm at the template's scale, between the views' opinions


@dataclass(frozen=True, eq=False)
class Detection:
    """The detector's points on a surface: `points` (478, 3), NaN where none is trusted; `views` (478,) that agree."""

    points: Floats
    views: Integers

    @property
    def found(self) -> Booleans:
        return self.views > 0


def detect(scene: Scene, detector: Detector, frontal: Frame, template: FaceTemplate | None = None) -> Detection:
    """Look at a face from the front and from both sides; `frontal` frames it upright.

    With a `template`, points on something before the face or behind it are not among those found.
    """
    frames = [turned(frontal, yaw) for yaw in YAWS]
    opinions = [lifted(scene, detector, frame) for frame in frames]
    scale = frontal.half_width / HALF_WIDTH
    points, trust = (np.stack(part) for part in zip(*opinions, strict=True))
    if template is not None:
        views = zip(points, trust, frames, strict=True)
        trust = trust * np.stack([_deep_as_a_face(seen, sure > 0, frame, template) for seen, sure, frame in views])
    found = agreed(points / scale, trust)
    return Detection(found.points * scale, found.views)


def turned(frame: Frame, yaw: float) -> Frame:
    """The frame of a viewer who has walked `yaw` degrees around the face's up axis."""
    cosine, sine = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    return Frame(turn @ frame.rotation, frame.centre, frame.half_width)


def lifted(scene: Scene, detector: Detector, frame: Frame) -> tuple[Floats, Floats]:
    """Points (478, 3) on the surface and trust (478,) in them: the cosine of the view, zero where not to be used."""
    image, hits = scene.photograph(frame, SIZE)
    pixels = detector.landmarks(image)
    if pixels is None:
        return np.full((POINTS, 3), np.nan), np.zeros(POINTS)
    found = scene.cast(frame, pixels[:, 0], pixels[:, 1], SIZE)
    facing = np.abs(scene.normals(found) @ frame.rotation[2])
    steady = ~_near_silhouette(hits, pixels, JUMP * frame.half_width / HALF_WIDTH)
    trust = np.where(found.found & steady & (facing > STEEPEST), facing, 0.0)
    return scene.points(found), trust


def _near_silhouette(hits: Hits, pixels: Floats, jump: float) -> Booleans:
    """Whether the depth jumps by three times `jump` within the 3 × 3 pixels around each point."""
    depth = np.pad(hits.depth.reshape(SIZE, SIZE), 1, constant_values=np.inf)
    column, row = np.clip(np.rint(pixels).astype(np.int64), 0, SIZE - 1).T
    around = np.stack([depth[row + i, column + j] for i in range(3) for j in range(3)])
    with np.errstate(invalid="ignore"):  # inf - inf
        step = np.maximum(around[[0, 1, 2, 3, 5, 6, 7, 8]].max(axis=0) - around[4], around[4] - around.min(axis=0))
    return ~(step < 3 * jump)


def agreed(points: Floats, trust: Floats) -> Detection:
    """Combine the opinions (views, 478, 3): around the most central one, the mean of those within `AGREEMENT`.

    A point that several views see, but of which no two agree, is dropped.
    """
    safe = np.where(trust[..., None] > 0, points, 0.0)
    apart = np.linalg.norm(safe[:, None] - safe[None], axis=3)  # (views, views, 478)
    friends = (apart < AGREEMENT) * trust[None]
    support = np.where(trust > 0, friends.sum(axis=1), 0.0)
    centre = support.argmax(axis=0)
    everyone = np.arange(points.shape[1])
    weights = friends[centre, :, everyone].T  # (views, 478)
    views = (weights > 0).sum(axis=0)
    views = np.where((views == 1) & ((trust > 0).sum(axis=0) > 1), 0, views)
    with np.errstate(invalid="ignore"):
        mean = np.einsum("vp,vpc->pc", weights, safe) / weights.sum(axis=0)[:, None]
    return Detection(np.where(views[:, None] > 0, mean, np.nan), views)


DIRECTIONS = 48  # some 32 degrees between neighbours
SEARCH_SIZE = 160  # pixels; the network scales its input to 128
ALIKE_DEGREES = 25.0  # two answers this far apart still support each other (Gaussian width)
BEST = 5  # modes worth a closer look, before others have had theirs
NUDGES = (-25.0, 0.0, 25.0)  # degrees around a mode


def search(scene: Scene, detector: Detector, centre: Floats, radius: float) -> Iterator[Frame]:
    """Frames that look at what may be a face, upright, the likeliest first; none if no side of the scan shows any.

    What lies within `radius` of `centre` (3,) is looked at.
    """
    answers = list(_answers(scene, detector, centre, radius))
    if not answers:
        return
    rotations = np.stack([frame.rotation for frame, _ in answers])
    scores = np.array([score for _, score in answers])
    support = _agreement(rotations) * _nearness([frame for frame, _ in answers]) @ scores
    modes: list[Frame] = []
    for index in np.argsort(-support):
        if all(degrees_between(rotations[index], mode.rotation) > ALIKE_DEGREES for mode in modes):
            modes.append(answers[index][0])
    yield from (_best_around(mode, scene, detector) for mode in modes)


def _best_around(frame: Frame, scene: Scene, detector: Detector) -> Frame:
    """Of some turns around a frame, the one in which the detector is surest of a face."""
    best, best_score = frame, 0.0
    for pitch in NUDGES:
        for yaw in NUDGES:
            turn = Rotation.from_euler("xy", [pitch, yaw], degrees=True).as_matrix()
            nudged = Frame(turn @ frame.rotation, frame.centre, frame.half_width)
            image, _ = scene.photograph(nudged, SEARCH_SIZE)
            score = max((face.score for face in detector.faces(image)), default=0.0)
            if score > best_score:
                best, best_score = nudged, score
    return best


def _answers(scene: Scene, detector: Detector, centre: Floats, radius: float) -> Iterator[tuple[Frame, float]]:
    """Every face that the quick network sees: a frame around it with its confidence."""
    for direction in sphere(DIRECTIONS):
        frame = Frame(looking_along(direction), centre, radius)
        image, _ = scene.photograph(frame, SEARCH_SIZE)
        for quarter in range(4):
            for face in detector.faces(np.ascontiguousarray(np.rot90(image, quarter))):
                yield _closer(_turned(frame, quarter), scene, face.middle, face.side), face.score


def _turned(frame: Frame, quarter: int) -> Frame:
    """The frame in which an image turned counter-clockwise by quarters was taken."""
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter]
    roll = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=np.float64)
    return Frame(roll @ frame.rotation, frame.centre, frame.half_width)


def _closer(frame: Frame, scene: Scene, middle: tuple[float, float], side: float) -> Frame:
    """A frame around a box of an image that `frame` took, its centre on the surface in the box's middle."""
    pixel = 2 * frame.half_width / SEARCH_SIZE
    hit = scene.cast(frame, np.array([middle[0] - 0.5]), np.array([middle[1] - 0.5]), SEARCH_SIZE)
    right, up = (middle[0] * pixel - frame.half_width), (frame.half_width - middle[1] * pixel)
    centre = scene.points(hit)[0] if hit.found[0] else frame.centre + right * frame.rotation[0] + up * frame.rotation[1]
    return Frame(frame.rotation, centre, side * pixel)


def sphere(count: int) -> Floats:
    """Directions (count, 3) spread evenly over the sphere: a Fibonacci lattice."""
    step = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * step / count), np.pi * (1 + np.sqrt(5)) * step
    return np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)


def looking_along(towards_viewer: Floats) -> Floats:
    """A rotation (3, 3) whose last row is the unit vector from the object to the viewer."""
    helper = np.eye(3)[np.argmin(np.abs(towards_viewer))]
    right = np.cross(helper, towards_viewer)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards_viewer, right), towards_viewer])


def _agreement(rotations: Floats) -> Floats:
    """How much each answer supports each other one (N, N): a Gaussian in the angle between their rotations."""
    cosines = (np.einsum("aij,bij->ab", rotations, rotations) - 1) / 2
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return np.exp(-0.5 * (angles / ALIKE_DEGREES) ** 2)


def _nearness(frames: list[Frame]) -> Floats:
    """Answers support each other only where they mean the same place and a face of the same size (N, N)."""
    centres = np.stack([frame.centre for frame in frames])
    widths = np.array([frame.half_width for frame in frames])
    smaller = np.minimum(widths[:, None], widths[None])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) / smaller
    ratio = np.log2(widths[:, None] / widths[None])
    return np.exp(-0.5 * (apart / 0.5) ** 2 - 0.5 * (ratio / 0.5) ** 2)


def degrees_between(a: Floats, b: Floats) -> float:
    """The angle of the turn between two rotations (3, 3)."""
    return float(np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1))))


ROUNDS, STILL_DEGREES = 4, 2.0  # of looking again, and the turn under which another look changes nothing
FEWEST_POINTS = 60  # lifted points that make a pose
LOOKED_AT = 150.0  # radius that a scan has while its face is looked for
HEAD = 0.14  # of a body's length: the reach of a window on its head
ORDERED = 0.95  # share of half-edges that are not run through twice in one direction
DEEP = 15.0  # mm at the template's scale, before or behind a face: what lies beyond is something else
SURROUNDINGS = 1.6  # times half of a picture's width: what is seen in it, or lights it
PLAIN = 4.0  # deviation of colours, of 255: below it they are all one
AS_MANY, MANY_MORE = 0.85, 1.25  # times the points on which views agree in bare shape: as good, and surer
WORSE, ELSEWHERE = 1.0, 3.5  # mm: points in colours fit a face so much less, or are so far from the others, at most
NO_WORSE, FAR = 0.5, 6.0  # the same where many more views agree in colours
COMMON = 40  # points seen either way, by which the two are compared
SURE_MISFIT = 4.5  # mm: below it no other candidate is looked at
WORST_MISFIT = 9.0  # mm, median at the template's scale: above it, what was seen is no face (or seen from inside)


@dataclass(frozen=True, eq=False)
class Found:
    """A face in a scan: the `pose` that carries the template there, and the detector's points on its surface, which it
    saw in a picture of bare shape or `in_colours`."""

    pose: Similarity
    detection: Detection
    misfit_mm: float
    in_colours: bool = False


def find_face(mesh: Mesh, detector: Detector, template: FaceTemplate) -> Found:
    """The best face of the scan. Raises `MeshganError` if nothing in it has the shape of a face.

    The scan is looked at without stray pieces, beside which a face would be small, and then, if there is none, with all
    of them: a body's head may be a piece of its own.
    """
    core = bulk(mesh)
    for part in (core, mesh)[: 1 if core is mesh else 2]:
        found = _best_face(part, detector, template)
        if found is not None:
            return found
    raise MeshganError(
        "no face was found from any side; is it a scan of a face, and is the face in it whole? If something hides half "
        "of it, give four landmarks or more, as `landmarks`."
    )


def _best_face(mesh: Mesh, detector: Detector, template: FaceTemplate) -> Found | None:
    """The best face of what is looked at, None if there is no face.

    It is looked at in a size of its own, since the numbers in a file may be in any unit; first as a whole, then its
    ends, for a body's head is small in it, and then as a whole again for less likely views: chance likenesses on a
    smooth skull may agree more than those of the face. Of ordered surfaces the side is looked at first that faces away
    from the scan's middle; the other one too, unless that leaves no doubt: a face that is inside out looks like a
    hollow one from behind, and a hollow one from behind like a face.
    """
    centre, radius = extent(mesh)
    if not radius > 0:
        raise MeshganError("all of the scan lies at one place.")
    own = Similarity(radius / LOOKED_AT, np.eye(3), centre)  # of what is looked at into the scan
    small = mesh.with_vertices(own.inverse(mesh.vertices))
    sides = (0,) if not _ordered(mesh) else (1, -1) if _faces_out(small) else (-1, 1)
    scenes = [Scene(small, outward) for outward in sides]
    whole = [(scene, search(scene, detector, np.zeros(3), LOOKED_AT)) for scene in scenes]
    ends = [(scene, search(scene, detector, *window)) for scene in scenes for window in _ends(small)]
    for looks in (_first(whole), _first(ends), whole):
        found = list(_faces(looks, detector, template))
        if found:
            best = min(found, key=lambda face: face.misfit_mm)
            detection = Detection(own(best.detection.points), best.detection.views)
            return Found(own.after(best.pose), detection, best.misfit_mm)
    return None


def seen_in_colours(painted: Painted, found: Found, detector: Detector, template: FaceTemplate) -> Found | None:
    """A face that was found by its shape, looked at once more in its own colours; None if they show none there.

    Colours may be anything: a pattern, all white, the texture of another scan. They count if they differ at all, the
    detector's views of them agree on hardly fewer points than without colours, these have a face's shape in space as
    well as the others do, and most are where it saw them before; not quite there, if its views agree on many more,
    since then it was the shape that it did not see well.
    """
    frame = frontal_frame(found.pose, template)
    part = painted.around(frame.centre, SURROUNDINGS * frame.half_width)
    if part is None or part.of_vertices().std(axis=0).max() < PLAIN:
        return None
    detection = detect(PaintedScene(part), detector, frame, template)
    fitted = _pose(detection.points, detection.found, template, template.coloured)
    used = np.isfinite(template.bare.sigma)
    here, before = detection.found & used, found.detection.found & used
    both = here & before
    if fitted is None or both.sum() < COMMON or here.sum() < AS_MANY * before.sum():
        return None
    apart = np.linalg.norm(detection.points - found.detection.points, axis=1)[both] / fitted[0].scale
    limits = [(WORSE, ELSEWHERE)] + [(NO_WORSE, FAR)] * bool(here.sum() > MANY_MORE * before.sum())
    if not any(fitted[1] < found.misfit_mm + worse and np.median(apart) < far for worse, far in limits):
        return None
    return Found(fitted[0], detection, fitted[1], in_colours=True)


def _faces_out(mesh: Mesh) -> bool:
    """Whether the triangles of a mesh around the origin face away from it, on the whole: a head's do, and a mask's."""
    middles = mesh.vertices[mesh.triangles].mean(axis=1)
    middles = middles - np.average(middles, axis=0, weights=mesh.areas)
    return float(mesh.areas @ np.einsum("fc,fc->f", mesh.triangle_normals, middles)) >= 0


def _ends(mesh: Mesh) -> list[tuple[Floats, float]]:
    """Windows (middle, reach) on the ends of a mesh along its two longer axes: on one of them, a body has its head."""
    middles = mesh.vertices[mesh.triangles].mean(axis=1)
    centred = middles - np.average(middles, axis=0, weights=mesh.areas)
    axes = eigen((centred * mesh.areas[:, None]).T @ centred)[1][:2]
    reach = HEAD * max(float(np.ptp(centred @ axis)) for axis in axes)
    windows = []
    for axis in axes:
        for along in (centred @ axis, -(centred @ axis)):
            at_end = along > along.max() - reach
            windows.append((np.average(middles[at_end], axis=0, weights=mesh.areas[at_end]), reach))
    return windows


Looks = list[tuple[Scene, Iterator[Frame]]]


def _first(looks: Looks) -> Looks:
    """The same, with the `BEST` frames of each alone."""
    return [(scene, islice(frames, BEST)) for scene, frames in looks]


def _faces(looks: Looks, detector: Detector, template: FaceTemplate) -> Iterator[Found]:
    """What holds up of the candidates, each scene's in turn, until one is beyond doubt."""
    for scene, frames in looks:
        for frame in frames:
            face = _closer_look(scene, detector, template, frame)
            if face is not None:
                yield face
                if face.misfit_mm < SURE_MISFIT:
                    return


def _ordered(mesh: Mesh) -> bool:
    """Whether neighbouring triangles agree, with few exceptions, on which side is out."""
    directed = mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    codes = directed[:, 0] * len(mesh.vertices) + directed[:, 1]
    return len(np.unique(codes)) > ORDERED * len(codes)  # an edge run through twice in one direction is disorder


def frontal_frame(pose: Similarity, template: FaceTemplate) -> Frame:
    """The frame that looks straight at a face in this pose."""
    middle = pose(template.mesh.vertices.mean(axis=0)[None])[0]
    return Frame(pose.rotation.T, middle, HALF_WIDTH * float(pose.scale))


def _closer_look(scene: Scene, detector: Detector, template: FaceTemplate, frame: Frame) -> Found | None:
    """Refine the pose view by view, then look from three sides; None where no face holds up."""
    for _ in range(ROUNDS):
        points, trust = lifted(scene, detector, frame)
        fitted = _pose(
            points, (trust > 0) & _deep_as_a_face(points, trust > 0, frame, template), template, template.bare
        )
        if fitted is None:
            return None
        better = frontal_frame(fitted[0], template)
        turn = degrees_between(better.rotation, frame.rotation)
        frame = better
        if turn < STILL_DEGREES:
            break
    detection = detect(scene, detector, frame, template)
    fitted = _pose(detection.points, detection.found, template, template.bare)
    if fitted is None or fitted[1] > WORST_MISFIT:
        return None
    return Found(fitted[0], detection, fitted[1])


def _deep_as_a_face(points: Floats, seen: Booleans, frame: Frame, template: FaceTemplate) -> Booleans:
    """Which points (478,) of a view lie as deep as those of a face do: not those on a hand before it, or behind a hole.

    In the picture all are where they should be. So their places there say how the face is turned (of the template, seen
    in parallel; the affine map that fits best, made a rotation and a scale), and that says how deep they should lie.
    """
    used = np.flatnonzero(seen & np.isfinite(template.bare.sigma))
    if len(used) < FEWEST_POINTS:
        return seen
    places, views = template.bare.rows[used] @ template.mesh.vertices, points[used] @ frame.rotation.T
    places, flat = places - places.mean(axis=0), views[:, :2] - views[:, :2].mean(axis=0)
    left, sizes, right = np.linalg.svd(np.linalg.lstsq(places, flat, rcond=None)[0].T, full_matrices=False)
    turn, scale = left @ right, float(sizes.mean())
    away = scale * places @ np.cross(turn[0], turn[1]) - views[:, 2]
    kept = np.zeros(len(points), dtype=bool)
    kept[used[np.abs(away - np.median(away)) < DEEP * scale]] = True
    return kept


def _pose(
    points: Floats,
    seen: Booleans,
    template: FaceTemplate,
    looked: DetectorPoints,
) -> tuple[Similarity, float] | None:
    """The template's pose from points (478, 3) that were `seen` (478,), and the median misfit in mm at the template's
    scale; `looked` says where on the template they are."""
    used = np.flatnonzero(seen & np.isfinite(looked.sigma))
    if len(used) < FEWEST_POINTS:
        return None
    places = looked.rows[used] @ template.mesh.vertices
    pose = robust_similarity(places, points[used], looked.sigma[used])
    misfit = np.linalg.norm(pose(places) - points[used], axis=1) / pose.scale
    return pose, float(np.median(misfit))
