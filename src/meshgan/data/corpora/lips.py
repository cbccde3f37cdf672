"""Lips that meet and press, and never pass through each other.

Over a grid of places from side to side and from front to back, the underside of the upper lip is a height, and so is
the upper side of the lower lip. Where the lower one is above the upper one they overlap. What overlaps by more than
`FLAT_MM` moves apart with the lips as a whole, and the rest is flattened onto the surface half-way between, as pressed
lips are. Everything is a function of the face alone, and a continuous one.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components, dijkstra

from meshgan.arrays import Floats, Integers, Reals, Singles
from meshgan.compiled import compiled
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import distances

BOX = ((-20.5, -60.0, -5.0), (20.5, -20.0, 60.0))  # mm: the mouth of the template, without its corners
SURFACES_MM = (-53.0, -28.0)  # heights on the template between which the lips are held against each other
MEET_MM = 1.2  # vertices so close to the other lip are those that it meets
STEP_MM = 0.5  # of the grid
PLACES, DEPTHS = 168, 96  # of the grid: from the subject's right to the left, and from back to front
FLAT_MM = 0.7  # of overlap are flattened, not moved
YIELDS = (0.4, 0.6)  # shares of the upper and the lower lip in moving apart
STIFF_MM, SOFT_MM = (
    4.5,
    9.0,
)  # from where they meet, skin moves with the lip, and beyond, over that length, less and less
CORNER_MM = 3.0  # towards a corner, where the way to either lip differs by less than this, it moves less
SEAL_MM = 9.0  # an open mouth is closed by this at most, by lips alone
SHUT = (0.35, 0.65)  # shares of the lips in that
CLEAR_MM = 0.03  # left between lips that were moved apart
ROUNDS = 20  # of moving apart what still overlaps, at most
OFFSETS = (  # of the grid in turn: one looks where others did not
    (0.0, 0.0), (0.5, 0.5), (0.25, 0.75), (0.75, 0.25), (0.5, 0.0), (0.0, 0.5), (0.25, 0.25), (0.75, 0.75),
)  # fmt: skip
OVERLAP_MM = 0.04  # is not worth another round
OWN = 0.3  # surfaces that follow a lip so far can be flattened
STEEP = 0.15  # triangles seen so obliquely from below have no height
BLUR = np.bartlett(11)[1:-1]  # weights of neighbouring places in what moves lips
FAR = 999.0


@dataclass(frozen=True, eq=False)
class Contact:
    """B mouths over a grid of G places that starts at `corner` (B, 2), x and z in mm: the least distance `gap` (B, G)
    between the lips at each place; what overlaps is below zero, and where there is but one lip it is about FAR."""

    corner: Floats
    gap: Floats


class Lips:
    """The lips of the template, and how they meet on any face of it.

    `surfaces` are the triangles of the upper and the lower lip; `vertices` (N,) move with them, by `weights` (2, N).
    Those of `middle` are corners of `surfaces`. All that matters to a mouth are the vertices `near` (M,), and what is
    private here works on them alone, faces (B, M, 3): `_moving`, `_middle` and `_pressed` (those of either lip that
    can be flattened; towards the corners, where lips do not move apart, all) are places among them.
    """

    def __init__(self, template: Mesh) -> None:
        inside = np.all((template.vertices > np.array(BOX[0])) & (template.vertices < np.array(BOX[1])), axis=1)
        edges = template.edges[inside[template.edges].all(axis=1)]
        graph = sp.coo_array((np.ones(len(edges)), edges.T), shape=(len(template.vertices),) * 2)
        piece = np.where(inside, connected_components(graph, directed=False)[1], -1)
        largest = np.unique(piece[inside], return_counts=True)
        two = largest[0][np.argsort(largest[1])[-2:]]
        height = [template.vertices[piece == label, 1].mean() for label in two]
        level = (template.vertices[:, 1] > SURFACES_MM[0]) & (template.vertices[:, 1] < SURFACES_MM[1])
        sides = [(piece == label) & level for label in two[np.argsort(height)[::-1]]]
        self.surfaces = [template.triangles[side[template.triangles].all(axis=1)] for side in sides]
        meshes = [Mesh(template.vertices, surface) for surface in self.surfaces]
        ways = []
        for lip in (0, 1):
            own = np.unique(self.surfaces[lip])
            meets = own[distances(template.vertices[own], meshes[1 - lip]) < MEET_MM]
            ways.append(_ways(template, meets))
        near = [np.exp(-((np.maximum(way - STIFF_MM, 0) / SOFT_MM) ** 2)) for way in ways]
        weights = np.stack([near[lip] * np.clip((ways[1 - lip] - ways[lip]) / CORNER_MM, 0, 1) for lip in (0, 1)])
        self.vertices = np.flatnonzero(weights.max(axis=0) > 1e-3)
        self.weights = weights[:, self.vertices]
        self.middle = np.unique(np.concatenate([surface.ravel() for surface in self.surfaces]))
        x = template.vertices[self.middle, 0]
        self.corners = template.vertices[self.middle[[x.argmin(), x.argmax()]]]
        pressed = [np.union1d(self.vertices[self.weights[lip] > OWN], self.surfaces[lip]) for lip in (0, 1)]
        self.near = np.unique(np.concatenate([self.vertices, self.middle, *pressed])).astype(np.int64)
        self._moving, self._middle = (np.searchsorted(self.near, part) for part in (self.vertices, self.middle))
        self._pressed = [np.searchsorted(self.near, part) for part in pressed]
        self._yields = _in_y(YIELDS, self.weights)
        self._shuts = _in_y(SHUT, self.weights)
        self._own = [np.searchsorted(self.middle, surface).astype(np.uint32) for surface in self.surfaces]

    def contact(self, faces: Reals, off: tuple[float, float] = (0.0, 0.0)) -> Contact:
        """How the lips of faces (B, V, 3) lie to each other; the grid may lie parts of a step `off` in x and z."""
        return self._contact(faces[:, self.near], off)

    def _contact(self, mouths: Reals, off: tuple[float, float] = (0.0, 0.0)) -> Contact:
        contact = Contact(np.empty((len(mouths), 2)), np.empty((len(mouths), PLACES)))
        _look(np.ascontiguousarray(mouths), self._middle, *self._own, np.array(off), contact.corner, contact.gap)
        return contact

    def seal(self, faces: Singles, strength: Floats) -> None:
        """Bring open lips together, in place, by `strength` (B,) in [0, 1] of what is between them."""
        rows = np.flatnonzero(strength > 0)
        if not len(rows):
            return
        parted = faces[np.ix_(rows, self.near)]
        contact = self._contact(parted)
        gap = np.where(contact.gap < FAR / 2, SEAL_MM * np.tanh(np.maximum(contact.gap, 0) / SEAL_MM), 0.0)
        _pull(parted, self._moving, contact.corner, -strength[rows, None] * gap, BLUR, self._shuts)
        faces[np.ix_(rows, self.near)] = parted

    def part(self, faces: Singles) -> None:
        """Undo overlaps of the lips of faces (B, V, 3), in place."""
        mouths = np.ascontiguousarray(faces[:, self.near])
        _part(mouths, self._middle, *self._own, *self._pressed, self._moving, BLUR, self._yields)
        faces[:, self.near] = mouths


def _in_y(shares: tuple[float, float], weights: Floats) -> Floats:
    """How far (N,) vertices move up where the upper lip moves up, and the lower one down, by these shares."""
    return shares[0] * weights[0] - shares[1] * weights[1]


def _ways(mesh: Mesh, starts: Integers) -> Floats:
    """Along the edges, how far each vertex (V,) is from the nearest of some."""
    i, j = mesh.edges.T
    lengths = np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1)
    graph = sp.coo_array((lengths, (i, j)), shape=(len(mesh.vertices),) * 2).tocsr()
    return np.asarray(dijkstra(graph, directed=False, indices=starts, min_only=True))


@compiled(native="look f4:3 i8:1 u4:2 u4:2 f8:1 f8:2 f8:2")
def _look(mouths, middle, above, below, off, corner, gap):  # type: ignore[no-untyped-def]
    """Fill the `corner` (B, 2) and the `gap` (B, G) of mouths (B, M, 3), whose lips are the triangles `above` and
    `below` of their vertices `middle` (n,)."""
    points, upper, lower = np.empty((len(middle), 3)), np.empty((PLACES, DEPTHS)), np.empty((PLACES, DEPTHS))
    for b in range(len(mouths)):
        back, front = _drawn(mouths[b], middle, above, below, off[0], off[1], points, corner[b], upper, lower)
        _between(upper, lower, back, front, gap[b])


@compiled(native="part f4:3 i8:1 u4:2 u4:2 i8:1 i8:1 i8:1 f8:1 f8:1")
def _part(mouths, middle, above, below, high, low, moving, blur, in_y):  # type: ignore[no-untyped-def]
    """Undo the overlaps of lips of mouths (B, M, 3), in place; `high` and `low` are vertices that can be flattened."""
    points, upper, lower = np.empty((len(middle), 3)), np.empty((PLACES, DEPTHS)), np.empty((PLACES, DEPTHS))
    corner, gap, amounts, wide = np.empty(2), np.empty(PLACES), np.empty(PLACES), np.empty(PLACES)
    for b in range(len(mouths)):
        mouth, sound = mouths[b], 0  # how often in turn no overlap was found
        for turn in range(ROUNDS):
            x, z = OFFSETS[turn % len(OFFSETS)]
            back, front = _drawn(mouth, middle, above, below, x, z, points, corner, upper, lower)
            least = _between(upper, lower, back, front, gap)
            sound += 1
            if least < -OVERLAP_MM:
                sound = 0
                _widest(gap, FLAT_MM if turn == 0 else 0.0, len(blur) // 2, wide)
                _smoothed(wide, blur, amounts)
                _shift(mouth, moving, corner, amounts, in_y)
                _drawn(mouth, middle, above, below, x, z, points, corner, upper, lower)
                _flatten(mouth, high, corner, upper, upper, lower, 1.0)
                _flatten(mouth, low, corner, lower, upper, lower, -1.0)
            if sound == len(OFFSETS):
                break


@compiled(native="pull f4:3 i8:1 f8:2 f8:2 f8:1 f8:1")
def _pull(mouths, moving, corner, amounts, blur, in_y):  # type: ignore[no-untyped-def]
    """Move vertices `moving` (N,) of mouths (B, M, 3) up by shares `in_y` (N,) of blurred `amounts` (B, G)."""
    smooth = np.empty(PLACES)
    for b in range(len(mouths)):
        _smoothed(amounts[b], blur, smooth)
        _shift(mouths[b], moving, corner[b], smooth, in_y)


@compiled()
def _drawn(mouth, middle, above, below, off_x, off_z, points, corner, upper, lower):  # type: ignore[no-untyped-def]
    """Fill the heights (G, Z) of the `upper` and the `lower` lip of a mouth (M, 3), the `points` (n, 3) of both, and
    where the grid starts. Returns between which places lips are, from back to front."""
    least_x, most_x, least_z, most_z = np.inf, -np.inf, np.inf, -np.inf
    for i in range(len(middle)):
        for k in range(3):
            points[i, k] = mouth[middle[i], k]
        x, z = points[i, 0], points[i, 2]
        least_x, most_x = x if x < least_x else least_x, x if x > most_x else most_x
        least_z, most_z = z if z < least_z else least_z, z if z > most_z else most_z
    corner[0] = (least_x + most_x) / 2 + STEP_MM * (off_x - (PLACES - 1) / 2)
    corner[1] = (least_z + most_z) / 2 + STEP_MM * (off_z - (DEPTHS - 1) / 2)
    upper[:], lower[:] = FAR, -FAR
    _heights(points, above, 1.0, corner, upper)
    _heights(points, below, -1.0, corner, lower)
    back = max(int((least_z - corner[1]) / STEP_MM), 0)
    return back, min(int((most_z - corner[1]) / STEP_MM) + 2, DEPTHS)


@compiled()
def _between(upper, lower, back, front, gap):  # type: ignore[no-untyped-def]
    """Fill the `gap` (G,), the least distance between lips at each place; returns the least of all."""
    least_of_all = 2 * FAR
    for g in range(PLACES):
        least = 2 * FAR
        for d in range(back, front):
            between = upper[g, d] - lower[g, d]
            least = between if between < least else least
        gap[g] = least
        least_of_all = least if least < least_of_all else least_of_all
    return least_of_all


@compiled()
def _widest(gap, flat, reach, wide):  # type: ignore[no-untyped-def]
    """Fill `wide` (G,): the most by which lips have to move apart as far to either side as it is then smoothed."""
    for g in range(PLACES):
        most = 0.0
        for i in range(max(g - reach, 0), min(g + reach + 1, PLACES)):
            missing = CLEAR_MM - gap[i] - flat
            most = missing if missing > most else most
        wide[g] = most


@compiled()
def _smoothed(amounts, blur, smooth):  # type: ignore[no-untyped-def]
    """Fill `smooth` (G,): a weighted mean over neighbouring places."""
    reach, total = len(blur) // 2, 0.0
    for i in range(len(blur)):
        total += blur[i]
    for g in range(PLACES):
        there = 0.0
        for i in range(len(blur)):
            there += blur[i] * amounts[min(max(g + i - reach, 0), PLACES - 1)]
        smooth[g] = there / total


@compiled()
def _shift(mouth, moving, corner, amounts, in_y):  # type: ignore[no-untyped-def]
    """Move vertices `moving` (N,) of a mouth (M, 3) up by shares `in_y` (N,) of the `amounts` (G,) at their places."""
    for i in range(len(moving)):
        place = min(max(0.0, (mouth[moving[i], 0] - corner[0]) / STEP_MM), PLACES - 1.0)
        first = min(int(place), PLACES - 2)
        there = amounts[first] + (place - first) * (amounts[first + 1] - amounts[first])
        mouth[moving[i], 1] += np.float32(there * in_y[i])


@compiled()
def _heights(points, triangles, sign, corner, field):  # type: ignore[no-untyped-def]
    """Lower a field (G, Z) of heights (for sign -1, raise it) to the triangles of `points` (n, 3)."""
    for i in range(len(triangles)):
        p, q, r = points[triangles[i, 0]], points[triangles[i, 1]], points[triangles[i, 2]]
        ux, uy, uz = q[0] - p[0], q[1] - p[1], q[2] - p[2]
        vx, vy, vz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
        flat = ux * vz - vx * uz
        if flat**2 <= STEEP**2 * (flat**2 + (uy * vz - vy * uz) ** 2 + (ux * vy - uy * vx) ** 2):
            continue
        low = max(int(np.ceil((min(p[0], q[0], r[0]) - corner[0]) / STEP_MM)), 0)
        high = min(int(np.floor((max(p[0], q[0], r[0]) - corner[0]) / STEP_MM)), PLACES - 1)
        back = max(int(np.ceil((min(p[2], q[2], r[2]) - corner[1]) / STEP_MM)), 0)
        front = min(int(np.floor((max(p[2], q[2], r[2]) - corner[1]) / STEP_MM)), DEPTHS - 1)
        share = STEP_MM / flat  # barycentric coordinates s, t and 1 - s - t grow by these a step
        s_x, s_z, t_x, t_z = share * vz, -share * vx, -share * uz, share * ux
        in_s, in_t, in_rest = _inverse(s_x), _inverse(t_x), _inverse(-s_x - t_x)
        x, z = (corner[0] - p[0]) / STEP_MM, (corner[1] - p[2]) / STEP_MM
        slope = s_x * uy + t_x * vy
        for d in range(back, front + 1):  # most triangles are wider than deep
            s, t = s_z * (z + d) + s_x * x, t_z * (z + d) + t_x * x  # at g = 0
            start, stop = _inside(s, in_s, low, high)
            start, stop = _inside(t, in_t, start, stop)
            start, stop = _inside(1 - s - t, in_rest, start, stop)
            height = p[1] + s * uy + t * vy
            for g in range(start, stop + 1):
                there = height + g * slope
                if sign * there < sign * field[g, d]:
                    field[g, d] = there


@compiled(inline="always")
def _inverse(slope):  # type: ignore[no-untyped-def]
    return 1 / slope if slope != 0 else 0.0


@compiled(inline="always")
def _inside(value, inverse, start, stop):  # type: ignore[no-untyped-def]
    """Of steps from `start` to `stop`, those at which `value + step / inverse` is not below zero; an `inverse` of zero
    says that it does not change."""
    bound = (-1e-9 - value) * inverse
    if inverse > 0:
        if bound > start:
            start = int(np.ceil(min(bound, stop + 1.0)))
    elif inverse < 0:
        if bound < stop:
            stop = int(np.floor(max(bound, start - 1.0)))
    elif value < -1e-9:
        stop = start - 1
    return start, stop


@compiled()
def _flatten(mouth, own, corner, side, upper, lower, sign):  # type: ignore[no-untyped-def]
    """Push the vertices `own` of a lip, whose surface is at `side` (G, Z), out of a mouth (M, 3) by half of what
    overlaps there; those above it, less."""
    for i in own:
        x = min(max(0.0, (mouth[i, 0] - corner[0]) / STEP_MM), PLACES - 1.001)  # so NaN is 0
        z = min(max(0.0, (mouth[i, 2] - corner[1]) / STEP_MM), DEPTHS - 1.001)
        g, d = int(x), int(z)
        height, push, total = 0.0, 0.0, 0.0
        for k in range(4):
            gg, dd = g + k // 2, d + k % 2
            share = (1 - abs(x - gg)) * (1 - abs(z - dd))
            if abs(side[gg, dd]) < FAR:
                height += share * side[gg, dd]
                push += share * max(0.0, lower[gg, dd] - upper[gg, dd]) / 2
                total += share
        if push > 0:
            beyond = max(0.0, sign * (mouth[i, 1] - height / total))
            mouth[i, 1] += sign * max(0.0, push - beyond)
