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
PLACES, DEPTHS = 108, 120  # of the grid: from the subject's right to the left, and from back to front
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
ROUNDS = 9  # of moving apart what still overlaps, at most
OFFSETS = ((0.0, 0.0), (0.5, 0.5), (0.25, 0.75), (0.75, 0.25))  # of the grid in turn: one looks where others did not
SOUND = 3  # looks in turn that find nothing are enough
OVERLAP_MM = 0.04  # is not worth another round
OWN = 0.3  # surfaces that follow a lip so far can be flattened
STEEP = 0.15  # triangles seen so obliquely from below have no height
BLUR = np.bartlett(11)[1:-1]  # weights of neighbouring places in what moves lips apart
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
        points, corner = self._placed(mouths, off)
        gap = np.empty((len(mouths), PLACES))
        _gaps(points, *self._own, corner, gap)
        return Contact(corner, gap)

    def _placed(self, mouths: Reals, off: tuple[float, float] = (0.0, 0.0)) -> tuple[Floats, Floats]:
        """The vertices (B, M, 3) of both lips, and where the grid starts (B, 2)."""
        points = mouths[:, self._middle].astype(np.float64, order="C")  # of one layout for few faces and for many:
        middle = (points.min(axis=1) + points.max(axis=1))[:, [0, 2]] / 2  # what follows is compiled for each
        corner = middle + STEP_MM * (np.array(off) - np.array([PLACES - 1, DEPTHS - 1]) / 2)
        return points, np.ascontiguousarray(corner)

    def _shift(self, mouths: Singles, contact: Contact, amounts: Floats, in_y: Floats) -> None:
        """Move the lips up and down by shares `in_y` (N,) of `amounts` (B, G), in place."""
        place = (mouths[:, self._moving, 0] - contact.corner[:, None, 0]) / STEP_MM
        place = np.clip(place, 0, PLACES - 1)
        first = np.minimum(place.astype(np.int64), PLACES - 2)
        low, high = (np.take_along_axis(amounts, first + offset, axis=1) for offset in (0, 1))
        there = low + (place - first) * (high - low)
        mouths[:, self._moving, 1] += (there * in_y).astype(np.float32)

    def seal(self, faces: Singles, strength: Floats) -> None:
        """Bring open lips together, in place, by `strength` (B,) in [0, 1] of what is between them."""
        rows = np.flatnonzero(strength > 0)
        if not len(rows):
            return
        parted = faces[np.ix_(rows, self.near)]
        contact = self._contact(parted)
        gap = np.where(contact.gap < FAR / 2, SEAL_MM * np.tanh(np.maximum(contact.gap, 0) / SEAL_MM), 0.0)
        self._shift(parted, contact, -_smoothed(gap) * strength[rows, None], self._shuts)
        faces[np.ix_(rows, self.near)] = parted

    def part(self, faces: Singles) -> None:
        """Undo overlaps of the lips of faces (B, V, 3), in place."""
        mouths = faces[:, self.near]
        contact = self._contact(mouths)
        rows = np.flatnonzero((contact.gap < CLEAR_MM).any(axis=1))
        contact = Contact(contact.corner[rows], contact.gap[rows])
        sound = np.zeros(len(rows), dtype=np.int64)  # how often in turn no overlap was found
        for turn in range(ROUNDS):
            if not len(rows):
                break
            off = OFFSETS[turn % len(OFFSETS)]
            if turn:
                contact = self._contact(mouths[rows], off)
            overlap = (contact.gap < -OVERLAP_MM).any(axis=1)
            sound = np.where(overlap, 0, sound + 1)
            if overlap.any():
                touching = mouths[rows[overlap]]
                there = Contact(contact.corner[overlap], contact.gap[overlap])
                flat = 0.0 if turn else FLAT_MM
                self._shift(touching, there, _spread(np.maximum(CLEAR_MM - there.gap - flat, 0)), self._yields)
                self._flatten(touching, off)
                mouths[rows[overlap]] = touching
            rows, sound = rows[sound < SOUND], sound[sound < SOUND]
        faces[:, self.near] = mouths

    def _flatten(self, mouths: Singles, off: tuple[float, float]) -> None:
        """Flatten what overlaps onto the surface half-way, in place."""
        points, corner = self._placed(mouths, off)
        upper, lower = (mouths[:, own].astype(np.float64, order="C") for own in self._pressed)
        _press(points, *self._own, corner, upper, lower)
        for own, pressed in zip(self._pressed, (upper, lower), strict=True):
            mouths[:, own, 1] = pressed[..., 1]


def _in_y(shares: tuple[float, float], weights: Floats) -> Floats:
    """How far (N,) vertices move up where the upper lip moves up, and the lower one down, by these shares."""
    return shares[0] * weights[0] - shares[1] * weights[1]


def _spread(amounts: Floats) -> Floats:
    """No less than `amounts` (B, G) anywhere, and smooth along the lips."""
    reach = len(BLUR) // 2
    wide, size = np.pad(amounts, ((0, 0), (reach, reach)), mode="edge"), amounts.shape[1]
    return _smoothed(np.max([wide[:, i : i + size] for i in range(len(BLUR))], axis=0))


def _smoothed(amounts: Floats) -> Floats:
    """A weighted mean over neighbouring places."""
    reach = len(BLUR) // 2
    wide, size = np.pad(amounts, ((0, 0), (reach, reach)), mode="edge"), amounts.shape[1]
    return np.asarray(sum(share * wide[:, i : i + size] for i, share in enumerate(BLUR)) / BLUR.sum())


def _ways(mesh: Mesh, starts: Integers) -> Floats:
    """Along the edges, how far each vertex (V,) is from the nearest of some."""
    i, j = mesh.edges.T
    lengths = np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1)
    graph = sp.coo_array((lengths, (i, j)), shape=(len(mesh.vertices),) * 2).tocsr()
    return np.asarray(dijkstra(graph, directed=False, indices=starts, min_only=True))


@compiled(native="gaps f8:3 u4:2 u4:2 f8:2 f8:2")
def _gaps(points, above, below, corner, gap):  # type: ignore[no-untyped-def]
    """Fill the `gap` (B, G) of mouths: `points` (B, n, 3), the triangles of the lips `above` and `below`."""
    upper, lower = np.empty((2, PLACES, DEPTHS))
    for b in range(len(points)):
        places = (points[b, :, 2] - corner[b, 1]) / STEP_MM
        back, front = max(int(places.min()), 0), min(int(places.max()) + 2, DEPTHS)  # elsewhere there are no lips
        upper[:, back:front], lower[:, back:front] = FAR, -FAR
        _heights(points[b], above, 1.0, corner[b], upper)
        _heights(points[b], below, -1.0, corner[b], lower)
        for g in range(PLACES):
            least = 2 * FAR
            for d in range(back, front):
                between = upper[g, d] - lower[g, d]
                least = between if between < least else least
            gap[b, g] = least


@compiled(native="press f8:3 u4:2 u4:2 f8:2 f8:3 f8:3")
def _press(points, above, below, corner, upper_points, lower_points):  # type: ignore[no-untyped-def]
    """Push points (B, m, 3) of the upper and of the lower lip out by half of what overlaps there."""
    upper, lower = np.empty((2, PLACES, DEPTHS))
    for b in range(len(points)):
        upper[:], lower[:] = FAR, -FAR
        _heights(points[b], above, 1.0, corner[b], upper)
        _heights(points[b], below, -1.0, corner[b], lower)
        overlap = np.maximum(lower - upper, 0.0) / 2
        _push(upper_points[b], corner[b], upper, overlap, 1.0)
        _push(lower_points[b], corner[b], lower, overlap, -1.0)


@compiled()
def _heights(points, triangles, sign, corner, field):  # type: ignore[no-untyped-def]
    """Lower a field (G, Z) of heights (for sign -1, raise it) to the triangles of `points` (n, 3)."""
    for i in range(len(triangles)):
        p, q, r = points[triangles[i, 0]], points[triangles[i, 1]], points[triangles[i, 2]]
        ux, uy, uz = q[0] - p[0], q[1] - p[1], q[2] - p[2]
        vx, vy, vz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
        flat = ux * vz - vx * uz
        area = np.sqrt(flat**2 + (uy * vz - vy * uz) ** 2 + (ux * vy - uy * vx) ** 2)
        if abs(flat) <= STEEP * area:
            continue
        low = max(int(np.ceil((min(p[0], q[0], r[0]) - corner[0]) / STEP_MM)), 0)
        high = min(int(np.floor((max(p[0], q[0], r[0]) - corner[0]) / STEP_MM)), PLACES - 1)
        back = max(int(np.ceil((min(p[2], q[2], r[2]) - corner[1]) / STEP_MM)), 0)
        front = min(int(np.floor((max(p[2], q[2], r[2]) - corner[1]) / STEP_MM)), DEPTHS - 1)
        share = STEP_MM / flat  # barycentric coordinates s, t and 1 - s - t grow by these a step
        s_x, s_z, t_x, t_z = share * vz, -share * vx, -share * uz, share * ux
        x, z = (corner[0] - p[0]) / STEP_MM, (corner[1] - p[2]) / STEP_MM
        for g in range(low, high + 1):
            s, t = s_x * (x + g) + s_z * z, t_x * (x + g) + t_z * z  # at d = 0
            start, stop = _inside(s, s_z, back, front)
            start, stop = _inside(t, t_z, start, stop)
            start, stop = _inside(1 - s - t, -s_z - t_z, start, stop)
            height, slope = p[1] + s * uy + t * vy, s_z * uy + t_z * vy
            for d in range(start, stop + 1):
                there = height + d * slope
                if sign * there < sign * field[g, d]:
                    field[g, d] = there


@compiled(inline="always")
def _inside(value, slope, start, stop):  # type: ignore[no-untyped-def]
    """Of steps from `start` to `stop`, those at which `value + step * slope` is not below zero."""
    if slope > 0:
        first = (-1e-9 - value) / slope
        if first > start:
            start = int(np.ceil(min(first, stop + 1.0)))
    elif slope < 0:
        last = (-1e-9 - value) / slope
        if last < stop:
            stop = int(np.floor(max(last, start - 1.0)))
    elif value < -1e-9:
        stop = start - 1
    return start, stop


@compiled()
def _push(points, corner, side, overlap, sign):  # type: ignore[no-untyped-def]
    """Push points (n, 3) of a lip whose surface is at `side` (G, Z) out by `overlap`; those above it, less."""
    for i in range(len(points)):
        x = min(max((points[i, 0] - corner[0]) / STEP_MM, 0.0), PLACES - 1.001)
        z = min(max((points[i, 2] - corner[1]) / STEP_MM, 0.0), DEPTHS - 1.001)
        g, d = int(x), int(z)
        height, push, total = 0.0, 0.0, 0.0
        for k in range(4):
            gg, dd = g + k // 2, d + k % 2
            share = (1 - abs(x - gg)) * (1 - abs(z - dd))
            if abs(side[gg, dd]) < FAR:
                height += share * side[gg, dd]
                push += share * overlap[gg, dd]
                total += share
        if total > 0:
            points[i, 1] += sign * max(push - max(sign * (points[i, 1] - height / total), 0.0), 0.0)
