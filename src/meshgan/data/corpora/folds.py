"""Folds and marks of the skin: lines on the template, each with a groove whose depth and course are a person's own.

A fold is a curve on the template and a profile across it: a groove with low shoulders; one with a cheek that bulges
beside it; a pit; a bump. Where a fold runs, how long it is and how wide differs from person to person, and so the
folds of many people lie in no few linear directions. What is shared by everybody is `FoldLines`; `Folds` are the
folds of some people, `depth` those that show at rest, `capacity` how deep they become when the skin is squeezed.

All of it moves vertices along the template's normals: `Folds.displacement` is linear in the depths.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import scipy
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Booleans, Floats, Integers, Singles
from meshgan.compiled import compiled
from meshgan.data.corpora.basis import face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.population import People
from meshgan.geometry.mesh import Mesh

GROOVE, STEP, PIT, BUMP = range(4)
REACH = 4.5  # widths on each side that a profile reaches at most, courses included
WANDER = (0.9, 0.7, 0.5)  # mm: standard deviation of a course's shift, tilt and bend, at a width of 2 mm
SAMPLES_MM = 0.5  # between points of a curve
SIDES = 0.25  # how far the logarithm of a fold's depth differs between left and right
EYES, EYE_RADIUS = np.array([[-28.878, 24.81, -1.87], [28.878, 24.81, -1.87]]), 15.0  # mm: the template's eyeballs
SPOTS, SPOT_REACH = 4, 6.5  # moles a person may have, and their reach in mm


@dataclass(frozen=True)
class Fold:
    """One fold of the right half of the face or, if it is not `paired`, of the whole.

    `points` are (x, y) of its course on the template seen from the front; `width` is the profile's in mm. It grows
    from `onset` years on, over `years`, to `depth` mm at rest, and holds `capacity` mm when squeezed; `share` of the
    people who are old enough have it. `weight` and `female` are the effects of a heavy build and of the sex on the
    logarithm of the depth; folds of children begin with a negative onset.
    """

    name: str
    kind: int
    width: float
    points: tuple[tuple[float, float], ...]
    onset: float
    years: float
    depth: float
    capacity: float = 0.0
    share: float = 1.0
    weight: float = 0.0
    female: float = 0.0
    paired: bool = True


# fmt: off
FOLDS = (
    Fold("forehead_1", GROOVE, 2.3, ((-37, 53), (-20, 56), (0, 53.5), (20, 56), (37, 53)),
         32, 40, 0.75, 1.3, 0.85, 0, -0.1, False),
    Fold("forehead_2", GROOVE, 2.3, ((-36, 62), (-18, 65), (0, 62.5), (18, 65), (36, 62)),
         34, 40, 0.8, 1.4, 0.85, 0, -0.1, False),
    Fold("forehead_3", GROOVE, 2.3, ((-34, 71), (-16, 74), (0, 72), (16, 74), (34, 71)),
         38, 40, 0.7, 1.2, 0.7, 0, -0.1, False),
    Fold("forehead_4", GROOVE, 2.3, ((-26, 80), (-12, 82.5), (0, 81), (12, 82.5), (26, 80)),
         42, 40, 0.5, 0.8, 0.5, 0, -0.1, False),
    Fold("frown_1", GROOVE, 2.1, ((-6.5, 33), (-7.5, 41), (-8.5, 50)), 30, 40, 0.8, 1.3, 0.8, 0, -0.2),
    Fold("frown_2", GROOVE, 2.1, ((-13, 42), (-14.5, 48), (-15, 54)), 42, 40, 0.4, 0.9, 0.4, 0, -0.2),
    Fold("nose_root", GROOVE, 2.1, ((-8, 30), (0, 28.5), (8, 30)), 32, 40, 0.6, 1.1, 0.7, 0, 0, False),
    Fold("bunny", GROOVE, 2.0, ((-7, 23), (-10.5, 17), (-12.5, 9)), 50, 40, 0.25, 0.9, 0.5),
    Fold("crow_1", GROOVE, 1.9, ((-46, 27), (-53, 31), (-60, 36)), 33, 35, 0.6, 1.1, 0.8),
    Fold("crow_2", GROOVE, 1.9, ((-47, 23.5), (-54.5, 24.5), (-62, 26)), 30, 35, 0.7, 1.2, 0.9),
    Fold("crow_3", GROOVE, 1.9, ((-46, 20), (-53, 17.5), (-60, 15.5)), 32, 35, 0.7, 1.2, 0.9),
    Fold("crow_4", GROOVE, 1.9, ((-43, 15.5), (-49, 11), (-55, 7)), 38, 35, 0.5, 1.0, 0.7),
    Fold("under_eye", GROOVE, 1.8, ((-18, 15), (-26, 11.8), (-35, 12.4), (-42, 16)), 24, 50, 0.6, 0.9, 0.85, 0.1),
    Fold("tear_trough", STEP, 2.8, ((-14, 17), (-19, 9), (-27, 4), (-36, 3.5)), 25, 50, 1.0, 0.7, 0.8, 0.1),
    Fold("upper_lid", GROOVE, 1.8, ((-18, 27), (-26, 32), (-35, 31.5), (-43, 27.5)), 0, 60, 0.5, 0.0, 0.8),
    Fold("nasolabial", STEP, 2.6, ((-17, -12), (-21.5, -19), (-27, -29), (-31, -39), (-32.5, -47)),
         16, 50, 1.5, 1.5, 1.0, 0.35),
    Fold("marionette", STEP, 2.4, ((-26, -46), (-29, -53), (-31, -60), (-31, -67)), 38, 40, 1.2, 0.9, 0.85, 0.2),
    Fold("cheek_1", GROOVE, 2.4, ((-33, -13), (-38.5, -25), (-41, -37), (-39.5, -48)), 38, 40, 0.6, 1.3, 0.55, -0.3),
    Fold("cheek_2", GROOVE, 2.4, ((-42, -6), (-47.5, -20), (-49.5, -34)), 46, 40, 0.5, 1.0, 0.45, -0.3),
    Fold("upper_lip_1", GROOVE, 1.9, ((-3.6, -25.5), (-3.2, -33)), 48, 30, 0.35, 0.5, 0.6, 0, 0.3),
    Fold("upper_lip_2", GROOVE, 1.9, ((-9.6, -26), (-8.6, -33.5)), 45, 30, 0.4, 0.6, 0.7, 0, 0.3),
    Fold("upper_lip_3", GROOVE, 1.9, ((-16, -28.5), (-14, -35.5)), 45, 30, 0.4, 0.6, 0.7, 0, 0.3),
    Fold("lower_lip_1", GROOVE, 1.9, ((-6, -51.5), (-6.6, -58)), 52, 30, 0.3, 0.4, 0.5, 0, 0.2),
    Fold("lower_lip_2", GROOVE, 1.9, ((-13.5, -50), (-15, -56.5)), 50, 30, 0.35, 0.5, 0.5, 0, 0.2),
    Fold("chin_crease", STEP, 2.6, ((-16, -53), (0, -56.5), (16, -53)), -30, 60, 0.9, 0.9, 0.85, 0.1, -0.1, False),
    Fold("double_chin", STEP, 3.0, ((-24, -73), (0, -78), (24, -73)), 10, 50, 1.3, 0.5, 0.6, 1.2, 0, False),
    Fold("cheek_dimple", PIT, 2.8, ((-34, -37),), -40, 50, 0.7, 1.6, 0.14, 0.2, 0.2),
    Fold("chin_dimple", PIT, 3.0, ((0, -68),), -40, 50, 0.9, 0.6, 0.2, 0, -0.3, False),
    Fold("jowl", BUMP, 7.0, ((-37, -63),), 40, 40, 2.0, 0.0, 0.9, 0.5),
    Fold("eye_bag", BUMP, 4.2, ((-28, 9.5),), 35, 40, 1.1, 0.0, 0.7, 0.2),
    Fold("temple", BUMP, 10.0, ((-58, 44),), 45, 40, -2.0, 0.0, 0.8, -0.6),
    Fold("cheek_hollow", BUMP, 10.0, ((-44, -22),), 45, 40, -2.2, 0.0, 0.8, -1.2),
)
# fmt: on
LABELS = {  # what the labels tell: the deepest of these folds
    "forehead_lines": ("forehead_1", "forehead_2", "forehead_3", "forehead_4"),
    "frown_lines": ("frown_1", "frown_2"),
    "crows_feet": ("crow_1", "crow_2", "crow_3", "crow_4"),
    "eye_bags": ("eye_bag",),
    "nasolabial_folds": ("nasolabial",),
    "marionette_lines": ("marionette",),
    "lip_lines": ("upper_lip_1", "upper_lip_2", "upper_lip_3", "lower_lip_1", "lower_lip_2"),
    "double_chin": ("double_chin",),
    "dimples": ("cheek_dimple",),
}


@dataclass(frozen=True, eq=False)
class FoldLines:
    """F folds on the template, left and right counted apart, as P pairs of a fold and a vertex within its reach.

    `fold`, `vertex` (P,): which; `along` (P,) in [0, 1]: where on the curve the vertex's nearest point lies; `away`
    (P,): the distance from it in mm, signed: positive towards the outside of the face (upwards, if the fold is not
    paired); `beyond` (P,): how far in mm the vertex lies beyond an end; `across` (P, 3): the unit vector in the
    surface, across the fold, in which the skin is squeezed where the fold deepens.
    """

    names: tuple[str, ...]  # (F,): a fold's name, of a paired one with `right_` or `left_` before it
    kinds: tuple[Fold, ...]
    fold: Integers
    vertex: Integers
    along: Singles
    away: Singles
    beyond: Singles
    across: Singles
    onto: sp.csr_array  # (V, P): sums the pairs of each vertex
    spots: Integers  # vertices that a mole may sit on
    spot_reach: tuple[Integers, Singles]  # for each of them the vertices near it (S, K), and their distances in mm

    @property
    def widths(self) -> Floats:
        return np.array([fold.width for fold in self.kinds])

    def column(self, name: str) -> list[int]:
        """The folds (one or two) that are called so, with or without their side."""
        return [i for i, full in enumerate(self.names) if name in (full, full.split("_", 1)[1])]


@dataclass(frozen=True, eq=False)
class Folds:
    """The folds of B people: `depth` (B, F) at rest and `capacity` (B, F) when squeezed fully, both in mm; the
    `course` (B, F, 3) of each (shift, tilt and bend in mm), `width` (B, F) in mm, and the `ends` (B, F, 2) between
    which it runs, of [0, 1]. `spots` (B, S) index `FoldLines.spots`, `heights` (B, S) in mm are those of moles."""

    lines: FoldLines
    depth: Floats
    capacity: Floats
    course: Floats
    width: Floats
    ends: Floats
    spots: Integers
    heights: Floats

    def of(self, rows: Integers) -> "Folds":
        """The folds of these people."""
        names = ("depth", "capacity", "course", "width", "ends", "spots", "heights")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def profiles(self, wanted: Booleans | None = None) -> Singles:
        """(B, P): how far a fold of depth 1 moves each vertex of its reach along the normal; zero for those folds that
        are not `wanted` (B, F)."""
        lines, f32 = self.lines, np.float32
        profiles = np.zeros((len(self.depth), len(lines.fold)), dtype=f32)
        wanted = np.ones(self.depth.shape, dtype=np.bool_) if wanted is None else wanted
        kinds = np.array([fold.kind for fold in lines.kinds])
        own = (self.course.astype(f32), self.width.astype(f32), self.ends.astype(f32))
        _profiles(kinds, lines.fold, lines.along, lines.away, lines.beyond, *own, wanted, profiles)
        return profiles

    def displacement(self, depth: ArrayLike | None = None, profiles: Singles | None = None) -> Singles:
        """How far (B, V) in mm the skin lies along the template's normals if the folds have these depths (B, F);
        without, those at rest. `profiles` saves making them again."""
        depth = self.depth if depth is None else np.asarray(depth)
        profiles = self.profiles(depth != 0) if profiles is None else profiles
        lines = self.lines
        along = np.zeros((len(depth), lines.onto.shape[0]), dtype=np.float32)
        _add_pairs(lines.fold, lines.vertex, profiles, depth.astype(np.float32), along)
        return along

    def moles(self) -> Singles:
        """(B, V): how far moles stand out, in mm."""
        near, distance = self.lines.spot_reach
        out = np.zeros((len(self.depth), self.lines.onto.shape[0]), dtype=np.float32)
        for place, height in zip(self.spots.T, self.heights.T, strict=True):
            bell = height[:, None] * np.exp(-0.5 * (distance[place] / 2.0) ** 2)
            np.add.at(out, (np.arange(len(out))[:, None], near[place]), bell.astype(np.float32))
        return out

    def labels(self) -> dict[str, Floats]:
        """For each of `LABELS` the depth (B,) in mm of the deepest such fold, and the number of moles."""
        told = {}
        for label, names in LABELS.items():
            columns = [column for name in names for column in self.lines.column(name)]
            told[f"{label}_mm"] = np.abs(self.depth[:, columns]).max(axis=1)
        return told | {"moles": (self.heights > 0).sum(axis=1).astype(np.float64)}


def draw_folds(lines: FoldLines, people: People, draws: Draws) -> Folds:
    """The folds of each of `people` (B), which depend on age, weight, sex and chance."""
    age, weight, female = people.phenotype.age, people.phenotype.weight, people.phenotype.female
    kinds, count = lines.kinds, len(lines.names)
    base = [name.split("_", 1)[1] if fold.paired else name for name, fold in zip(lines.names, kinds, strict=True)]
    shared, which = np.unique(base, return_inverse=True)
    skin = np.exp(0.3 * draws.normal(1) - 0.045)  # how readily somebody's skin folds
    own = 0.32 * draws.normal(len(shared))[:, which] + SIDES * draws.normal(count)
    has = draws.uniform(len(shared))[:, which] < np.array([fold.share for fold in kinds])
    told = {key: np.array([getattr(fold, key) for fold in kinds]) for key in ("onset", "years", "weight", "female")}
    # ageing has its own pace: seven years to and fro
    felt = age[:, None] + 7 * np.clip(draws.normal(1), -2, 2) * np.clip((age[:, None] - 15) / 25, 0, 1)
    aged = np.clip((felt - told["onset"]) / told["years"], 0, 1.15)
    build = np.exp(
        told["weight"] * np.clip((weight[:, None] - 0.5) / 0.2, -1.5, 2.0) + told["female"] * (female[:, None] - 0.5)
    )
    size = skin * np.exp(np.clip(own, -0.9, 0.9)) * build
    depth = np.array([fold.depth for fold in kinds]) * has * aged**1.3 * size
    limits = 1.8 * np.abs(np.array([fold.depth for fold in kinds]))
    capacity = np.array([fold.capacity for fold in kinds]) * size * (0.35 + 0.65 * np.clip((felt - 8) / 50, 0, 1))
    wander = np.array(WANDER) * (lines.widths / 2)[:, None]
    pair = draws.normal(3 * len(shared)).reshape(-1, len(shared), 3)[:, which]
    course = wander * (0.85 * pair + 0.5 * draws.normal(3 * count).reshape(-1, count, 3))
    width = lines.widths * np.exp(0.14 * np.clip(draws.normal(count), -2, 2))
    ends = 0.28 * draws.uniform(2 * count).reshape(-1, count, 2) ** 1.5
    spots = np.minimum((draws.uniform(SPOTS) * len(lines.spots)).astype(np.int64), len(lines.spots) - 1)
    present = draws.uniform(SPOTS) < np.clip((age[:, None] - 5) / 60, 0.02, 0.6) * np.array([0.55, 0.35, 0.2, 0.1])
    heights = present * (0.35 + 0.65 * draws.uniform(SPOTS) ** 2)
    return Folds(
        lines,
        np.clip(depth, -limits, limits),
        np.minimum(capacity, 2.5),
        np.clip(course, -2.2 * wander, 2.2 * wander),
        width,
        np.stack([ends[..., 0], 1 - ends[..., 1]], axis=2),
        spots,
        heights,
    )


@cache
def fold_lines() -> FoldLines:
    """The folds of `FOLDS` on the face template of the package."""
    template = face_template()
    names, kinds, curves = [], [], []
    for fold in FOLDS:
        points = np.array(fold.points, dtype=np.float64)
        for side in ("right", "left") if fold.paired else ("",):
            names.append(f"{side}_{fold.name}" if side else fold.name)
            kinds.append(fold)
            curves.append(points * [-1, 1] if side == "left" else points)
    lids = _near_eyes(template)
    parts = [_pairs(template, fold, curve, ~lids) for fold, curve in zip(kinds, curves, strict=True)]
    of_fold = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    vertex, along, away, beyond, across = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    shape = (len(template.vertices), len(vertex))
    onto = sp.csr_array((np.ones(len(vertex), np.float32), (vertex, np.arange(len(vertex)))), shape=shape)
    rim = scipy.spatial.cKDTree(template.vertices[template.boundary_vertices]).query(template.vertices)[0]
    spots = np.flatnonzero((rim > 12) & ~lids & (template.vertex_normals[:, 2] > 0.1))
    distance, near = scipy.spatial.cKDTree(template.vertices).query(template.vertices[spots], k=14)
    reach = near.astype(np.int64), np.where(distance < SPOT_REACH, distance, np.inf).astype(np.float32)
    f32 = np.float32
    return FoldLines(
        tuple(names), tuple(kinds), of_fold, vertex, along.astype(f32), away.astype(f32), beyond.astype(f32),
        across.astype(f32), onto, spots, reach,
    )  # fmt: skip


def _pairs(template: Mesh, fold: Fold, points: Floats, allowed: Booleans) -> tuple[NDArray[np.generic], ...]:
    """The vertices within a fold's reach, and where they lie to its curve: `FoldLines` says how."""
    curve = _curve(template, points)
    distance, nearest = scipy.spatial.cKDTree(curve).query(template.vertices)
    middle = curve[nearest]
    tangents = np.gradient(curve, axis=0) if len(curve) > 1 else np.zeros((1, 3))
    reach = REACH * fold.width + (2.4 * fold.width if fold.kind == STEP else 0)
    facing = (template.vertex_normals * template.vertex_normals[_nearest(template, middle)]).sum(axis=1) > 0.2
    vertex = np.flatnonzero((distance < reach) & allowed & facing)
    offset = template.vertices[vertex] - middle[vertex]
    if len(curve) == 1:
        away = np.linalg.norm(offset, axis=1)
        zero = np.zeros(len(vertex))
        across = offset / np.maximum(away, 1e-9)[:, None]
        return vertex, zero + 0.5, away, zero, across
    tangent = tangents[nearest[vertex]]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.cross(template.vertex_normals[vertex], tangent)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    outwards = np.sign(points[:, 0].mean()) * across[:, 0].sum() if fold.paired else across[:, 1].sum()
    across *= -1.0 if outwards < 0 else 1.0
    along = nearest[vertex] / (len(curve) - 1)
    at_end = (along == 0) | (along == 1)
    beyond = np.where(at_end, np.abs((offset * tangent).sum(axis=1)), 0.0)
    side = offset - (offset * tangent).sum(axis=1)[:, None] * tangent
    away = np.linalg.norm(side, axis=1) * np.where((side * across).sum(axis=1) < 0, -1.0, 1.0)
    return vertex, along, away, beyond, across


def _curve(template: Mesh, points: Floats) -> Floats:
    """Points (N, 3), close together, on the front of the template under a smooth curve through `points` (K, 2)."""
    if len(points) > 1:
        places = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        count = int(np.ceil(places[-1] / SAMPLES_MM)) + 1
        points = _spline(places / places[-1], points, np.linspace(0, 1, count))
    corners = template.vertices[template.triangles]
    low, high = corners[..., :2].min(axis=1), corners[..., :2].max(axis=1)
    corners = corners[((low <= points.max(axis=0)) & (high >= points.min(axis=0))).all(axis=1)]
    a, b, c = (corners[:, i, :2] - points[:, None] for i in range(3))
    shares = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=2)
    whole = shares.sum(axis=2)
    inside = (shares >= -1e-9).all(axis=2) & (whole > 1e-9)
    heights = (shares * corners[:, :, 2]).sum(axis=2) / np.where(inside, whole, 1.0)
    return np.column_stack([points, np.where(inside, heights, -np.inf).max(axis=1)])


def _spline(places: Floats, values: Floats, at: Floats) -> Floats:
    """The smooth curve (N, C) through `values` (K, C) at `places` (K,): a cubic spline whose knots are all places but
    the two first and the two last ones. (scipy has it, in a package that takes a second to import.)"""

    def basis(x: Floats) -> Floats:
        powers = x[:, None] ** np.arange(min(len(places), 4))
        return np.concatenate([powers, np.maximum(x[:, None] - places[2:-2], 0) ** 3], axis=1)

    return np.asarray(basis(at) @ np.linalg.solve(basis(places), values))


def _cross(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def _nearest(template: Mesh, points: Floats) -> Integers:
    return np.asarray(scipy.spatial.cKDTree(template.vertices).query(points)[1], dtype=np.int64)


def _near_eyes(template: Mesh) -> Booleans:
    """Vertices of the eyeballs and of the lids' edges, which no fold may touch."""
    return eye_gap(template) < 0.6


def eye_gap(template: Mesh) -> Floats:
    """How far (V,) in mm vertices lie before the nearer eyeball of the template; those not before one, infinitely."""
    arms = template.vertices[:, None] - EYES
    gap = np.linalg.norm(arms, axis=2) - EYE_RADIUS
    return np.asarray(np.where(arms[..., 2] > 0, np.abs(gap), np.inf).min(axis=1))


@compiled()
def _profiles(kinds, folds, along, away, beyond, course, widths, ends, wanted, profiles):  # type: ignore[no-untyped-def]
    """Fill the `profiles` (B, P) of the `wanted` folds (B, F), of `course` (B, F, 3), `widths` and `ends` (B, F, 2)."""
    one, half, most = np.float32(1), np.float32(0.5), np.float32(1e-3)
    for b in range(len(profiles)):
        for i in range(len(folds)):
            f, t = folds[i], along[i]
            if not wanted[b, f]:
                continue
            kind, width = kinds[f], widths[b, f]
            wave = np.sin(np.float32(2 * np.pi) * t)
            u = (away[i] - (course[b, f, 0] + course[b, f, 1] * (t + t - one) + course[b, f, 2] * wave)) / width
            v = beyond[i] / width
            square = u * u + v * v
            bell = np.exp(-half * square)
            if kind == BUMP:
                profiles[b, i] = bell
                continue
            profile = -(one - np.float32(0.4) * square) * bell
            if kind == STEP:
                beside = (u - np.float32(2.4)) / np.float32(1.5)
                profile += np.float32(0.75) * np.exp(-half * (beside * beside + v * v))
            if kind != PIT:
                start, end = ends[b, f, 0], ends[b, f, 1]
                taper = max((end - start) * np.float32(0.3), most)
                profile *= _smooth((t - start) / taper) * _smooth((end - t) / taper)
            profiles[b, i] = profile


@compiled()
def _add_pairs(folds, vertices, profiles, depth, along):  # type: ignore[no-untyped-def]
    """Add to `along` (B, V) what pairs (P,) of a fold and a vertex have: `profiles` (B, P) times `depth` (B, F)."""
    for b in range(len(along)):
        for i in range(len(folds)):
            along[b, vertices[i]] += depth[b, folds[i]] * profiles[b, i]


@compiled(inline="always")
def _smooth(x):  # type: ignore[no-untyped-def]
    x = min(max(x, np.float32(0)), np.float32(1))
    return x * x * (np.float32(3) - np.float32(2) * x)
