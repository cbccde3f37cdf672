"""Quadric edge collapse (Garland and Heckbert 1997) that keeps a subset of the vertices.

A half-edge collapse u → v removes u and hands its triangles to v; v stays where it is, so the coarse vertices are
fine vertices and down-sampling is a selection. The textbook takes one collapse at a time from a heap. Here each
round takes the cheapest half-edges, drops those that would harm the surface, and applies at once all that are the
cheapest in their neighbourhood: the same order up to collapses that do not touch each other, in whole-array steps.
"""

from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.progress import counted

ROUND_SHARE = 4  # a round looks at a quarter as many half-edges as there are vertices, the cheapest ones
BOUNDARY_WEIGHT = 1.0  # of the planes that hold boundary edges in place, against those of triangles
SPREAD_WEIGHT = 1e-3  # of the distance to vertices already removed: decides on flat parts, where planes do not


@dataclass(frozen=True)
class Stage:
    """What a collapse may do to a triangle: the least cosine of its turn, and the least shape quality it may get."""

    cosine: float
    quality: float  # 1 for an equilateral triangle, 0 for one without area


STAGES = (Stage(0.5, 0.2), Stage(0.2, 0.05), Stage(0.01, 1e-4))  # the next one only where the last leads no further


@dataclass(frozen=True, eq=False)
class Decimation:
    """The coarse `mesh`, and `kept` (count,): for each of its vertices the index in the fine mesh, increasing.

    `stage` is the index of the last of `STAGES` that was needed: 0, unless the count is hard to reach.
    """

    mesh: Mesh
    kept: Integers
    stage: int


def decimate(mesh: Mesh, count: int, exact: bool = True) -> Decimation:
    """Reduce a mesh to `count` of its vertices; the same input gives the same output.

    The topology stays: no edge gets a third triangle, no hole closes, no component dies, boundary vertices move
    along the boundary only, and no triangle turns over or away from the original surface. Unreferenced vertices
    go first; duplicate triangles count once. Should this make `count` unreachable, raises `MeshganError`, or with
    `exact=False` returns the smallest mesh on the way there.
    """
    if not 1 <= count <= len(mesh.vertices):
        raise UsageError(f"a mesh of {counted(len(mesh.vertices), 'vertex', 'vertices')} cannot be reduced to {count}.")
    state = _State(mesh, count)
    stage = 0
    while state.surplus and stage < len(STAGES):
        chosen = _choose(state, STAGES[stage])
        if len(chosen):
            state.collapse(chosen[: state.surplus])
        else:
            stage += 1
    if state.surplus and exact:
        fewest = state.surplus + count
        raise MeshganError(
            f"the mesh cannot be reduced to {counted(count, 'vertex', 'vertices')} without tearing or folding "
            f"it; {fewest} is the fewest."
        )
    kept = np.flatnonzero(state.alive)
    number = np.cumsum(state.alive) - 1
    return Decimation(Mesh(mesh.vertices[kept], number[state.triangles]), kept, min(stage, len(STAGES) - 1))


class _State:
    """A mesh on its way to `count` vertices; vertex numbers are those of the input until the end."""

    def __init__(self, mesh: Mesh, count: int) -> None:
        self.count = count
        self.triangles = _proper(mesh.triangles)
        self.points = _unit_sized(mesh.vertices, np.unique(self.triangles))
        self.quadrics, self.monomials = vertex_quadrics(Mesh(self.points, self.triangles)), monomials(self.points)
        self.normals = mesh.vertex_normals
        self.alive = np.ones(len(mesh.vertices), dtype=bool)
        lone = np.setdiff1d(np.arange(len(mesh.vertices)), self.triangles)
        self.alive[lone[::-1][: self.surplus]] = False

    @property
    def surplus(self) -> int:
        return int(np.count_nonzero(self.alive)) - self.count

    def costs(self, u: Integers, v: Integers) -> Floats:
        """What collapses u → v (N,) would cost: the quadrics of u and v at the place of v."""
        own = (self.quadrics * self.monomials).sum(axis=1)
        return own[v] + np.einsum("nk,nk->n", self.quadrics[u], self.monomials[v])

    def collapse(self, pairs: Integers) -> None:
        """Apply half-edges u → v (N, 2), no two of which share a triangle around u."""
        u, v = pairs.T
        self.quadrics[v] += self.quadrics[u]
        self.alive[u] = False
        target = np.arange(len(self.alive))
        target[u] = v
        triangles = target[self.triangles]
        self.triangles = triangles[_corners_differ(triangles)]


class _Rings:
    """Who touches whom: half-edges (H, 2) sorted by their start, the number of their triangles, triangles by vertex."""

    def __init__(self, triangles: Integers, size: int) -> None:
        self.size = size
        a, b = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T
        self.codes, self.triangles_of = np.unique(np.concatenate([a * size + b, b * size + a]), return_counts=True)
        self.half_edges = np.stack([self.codes // size, self.codes % size], axis=1)
        self.degree = np.bincount(self.half_edges[:, 0], minlength=size)
        self.first_neighbour = np.cumsum(self.degree) - self.degree
        self.valence = np.bincount(triangles.ravel(), minlength=size)
        self.first_star = np.cumsum(self.valence) - self.valence
        self._by_vertex = np.argsort(triangles.ravel(), kind="stable") // 3

    def neighbours(self, vertices: Integers) -> tuple[Integers, Integers]:
        """For each of `vertices` (N,) its neighbours, as rows of `vertices` and vertex numbers."""
        rows, places = _spread(self.first_neighbour[vertices], self.degree[vertices])
        return rows, self.half_edges[places, 1]

    def stars(self, vertices: Integers) -> tuple[Integers, Integers]:
        """For each of `vertices` (N,) its triangles, as rows of `vertices` and triangle numbers."""
        rows, places = _spread(self.first_star[vertices], self.valence[vertices])
        return rows, self._by_vertex[places]

    def joined(self, a: Integers, b: Integers) -> Booleans:
        """Whether a and b are the ends of an edge."""
        codes = a * self.size + b
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return self.codes[places] == codes

    def touches(self, half_edges: Booleans) -> Booleans:
        """Vertices (V,) that one of the chosen half-edges (H,) leaves."""
        touched = np.zeros(self.size, dtype=bool)
        touched[self.half_edges[half_edges, 0]] = True
        return touched


def _choose(state: _State, stage: Stage) -> Integers:
    """Half-edges (N, 2) to collapse together, cheapest first; none if no legal one is left."""
    rings = _Rings(state.triangles, len(state.alive))
    u, v = rings.half_edges.T
    locked = rings.touches(rings.triangles_of > 2)[u]
    off_boundary = rings.touches(rings.triangles_of == 1)[u] & (rings.triangles_of > 1)
    candidates = np.flatnonzero(~(locked | off_boundary))
    costs = state.costs(u[candidates], v[candidates])
    candidates = candidates[np.argsort(costs, kind="stable")]
    start, size = 0, max(64, int(state.alive.sum()) // ROUND_SHARE)
    while start < len(candidates):
        batch = candidates[start : start + size]
        batch = batch[_legal(state, rings, batch, stage)]
        if len(batch):
            return _independent(rings, rings.half_edges[batch])
        start, size = start + size, 2 * size
    return np.empty((0, 2), dtype=np.int64)


def _legal(state: _State, rings: _Rings, chosen: Integers, stage: Stage) -> Booleans:
    """Which of the `chosen` half-edges (N,) keep the topology and harm no triangle beyond what `stage` allows."""
    u, v = rings.half_edges[chosen].T
    shared = rings.triangles_of[chosen]
    row, neighbour = rings.neighbours(u)
    common = np.bincount(row[rings.joined(v[row], neighbour)], minlength=len(u))
    legal = (common == shared) & (rings.valence[u] + rings.valence[v] > 2 * shared)  # links; v keeps a triangle

    row, star = rings.stars(u)
    triangles = state.triangles[star]
    vanishing = (triangles == v[row, None]).any(axis=1)
    row_out, out = row[vanishing], triangles[vanishing]
    opposite = out.sum(axis=1) - u[row_out] - v[row_out]
    legal[row_out[rings.valence[opposite] < 2]] = False  # it would be left without a triangle

    row, before = row[~vanishing], triangles[~vanishing]
    at_u, at_v = before == u[row, None], v[row, None]
    lands_on_another = (at_u | rings.joined(at_v, before)).all(axis=1)  # u and v belong to a tetrahedron
    legal[row[lands_on_another | _harmed(state, before, np.where(at_u, at_v, before), stage)]] = False
    return legal


def _harmed(state: _State, before: Integers, after: Integers, stage: Stage) -> Booleans:
    """Which triangles (N, 3) turn too far, face away from the original surface, or become too thin.

    What was so before does not count against a collapse.
    """
    old, old_quality = _normals_and_quality(state.points[before])
    new, new_quality = _normals_and_quality(state.points[after])
    turned = (old * new).sum(axis=1) < stage.cosine
    was_away = (old * state.normals[before].sum(axis=1)).sum(axis=1) < 0
    away = (new * state.normals[after].sum(axis=1)).sum(axis=1) < 0
    thin = new_quality < np.minimum(stage.quality, old_quality)
    return (turned & (old_quality > 0)) | (away & ~was_away) | thin


def _normals_and_quality(corners: Floats) -> tuple[Floats, Floats]:
    """Unit normals (N, 3), and 4√3 area / (sum of squared edges) (N,), of triangles (N, 3, 3)."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    cross = np.cross(b - a, c - a)
    doubled = np.linalg.norm(cross, axis=1)
    squares = ((b - a) ** 2 + (c - b) ** 2 + (a - c) ** 2).sum(axis=1)
    quality = np.divide(2 * np.sqrt(3) * doubled, squares, out=np.zeros_like(doubled), where=squares > 0)
    normals = np.divide(cross, doubled[:, None], out=np.zeros_like(cross), where=doubled[:, None] > 0)
    return normals, quality


def _independent(rings: _Rings, pairs: Integers) -> Integers:
    """Of half-edges (N, 2) in order of cost, those that nothing cheaper disturbs, still in that order.

    A half-edge u → v claims u and all its neighbours. Whoever is first at all of them is taken; whoever wants
    what is taken is out; the rest try again among themselves.
    """
    _, first = np.unique(pairs[:, 0], return_index=True)
    pairs = pairs[np.sort(first)]
    rows, ring = rings.neighbours(pairs[:, 0])
    rows, ring = np.concatenate([rows, np.arange(len(pairs))]), np.concatenate([ring, pairs[:, 0]])
    taken, wanted = np.zeros(len(pairs), dtype=bool), np.zeros(rings.size, dtype=bool)
    while len(rows):
        claim = np.full(rings.size, len(pairs))
        np.minimum.at(claim, ring, rows)
        late = np.zeros(len(pairs), dtype=bool)
        late[rows[claim[ring] < rows]] = True
        taken[rows] |= ~late[rows]
        wanted[ring[taken[rows]]] = True
        out = taken.copy()
        out[rows[wanted[ring]]] = True
        rows, ring = rows[~out[rows]], ring[~out[rows]]
    return pairs[taken]


def _unit_sized(vertices: Floats, used: Integers) -> Floats:
    """Vertices moved and scaled so that the `used` ones lie in [-1, 1]: sums of squares keep their digits."""
    if not len(used):
        return np.zeros_like(vertices)
    low, high = vertices[used].min(axis=0), vertices[used].max(axis=0)
    return (vertices - (low + high) / 2) / (0.5 * (high - low).max() or 1.0)


def _proper(triangles: Integers) -> Integers:
    """Triangles of three different vertices, each set of three once."""
    triangles = triangles[_corners_differ(triangles)]
    _, first = np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)
    return triangles[np.sort(first)]


def _corners_differ(triangles: Integers) -> Booleans:
    a, b, c = triangles.T
    return (a != b) & (b != c) & (c != a)


def _spread(starts: Integers, lengths: Integers) -> tuple[Integers, Integers]:
    """The ranges `starts[i] ... starts[i] + lengths[i]`, one after another: row i and place of each element."""
    rows = np.repeat(np.arange(len(starts)), lengths)
    offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, starts[rows] + offsets


def vertex_quadrics(mesh: Mesh) -> Floats:
    """For each vertex the quadric (V, 10) of its surroundings, weighted by area.

    It sums the planes of its triangles, planes across its boundary edges, and, lightly, its own place.
    """
    corners = mesh.vertices[mesh.triangles]
    planes = plane_quadrics(mesh.triangle_normals, corners[:, 0], mesh.areas)
    quadrics = np.zeros((len(mesh.vertices), 10))
    for corner in range(3):
        own = planes + point_quadrics(corners[:, corner], SPREAD_WEIGHT * mesh.areas)
        np.add.at(quadrics, mesh.triangles[:, corner], own)
    starts, ends, sides = _boundary(mesh.triangles)
    along = mesh.vertices[ends] - mesh.vertices[starts]
    lengths = np.linalg.norm(along, axis=1)
    across = np.cross(along, mesh.triangle_normals[sides]) / np.where(lengths > 0, lengths, 1.0)[:, None]
    walls = plane_quadrics(across, mesh.vertices[starts], BOUNDARY_WEIGHT * lengths**2)
    for end in (starts, ends):
        np.add.at(quadrics, end, walls)
    return quadrics


def plane_quadrics(normals: Floats, origins: Floats, weights: Floats) -> Floats:
    """Weighted squared distances (N, 10) to planes of unit `normals` through `origins`."""
    n = np.concatenate([normals, -(normals * origins).sum(axis=1, keepdims=True)], axis=1)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3), (3, 3)]
    return np.stack([weights * n[:, i] * n[:, j] for i, j in pairs], axis=1)


def point_quadrics(origins: Floats, weights: Floats) -> Floats:
    """Weighted squared distances (N, 10) to points."""
    x, y, z = origins.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    terms = (one, zero, zero, one, zero, one, -x, -y, -z, x * x + y * y + z * z)
    return np.stack(terms, axis=1) * weights[:, None]


def monomials(points: Floats) -> Floats:
    """The products (N, 10) of coordinates that quadrics weigh: `(quadrics * monomials(points)).sum(axis=1)`."""
    x, y, z = points.T
    one = np.ones_like(x)
    return np.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z, 2 * x, 2 * y, 2 * z, one], axis=1)


def _boundary(triangles: Integers) -> tuple[Integers, Integers, Integers]:
    """Start and end vertices of the boundary edges, and the triangle of each."""
    edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    pairs, first, counts = np.unique(edges, axis=0, return_index=True, return_counts=True)
    single = counts == 1
    return pairs[single, 0], pairs[single, 1], first[single] // 3
