"""The surface that a template is drawn onto: many quick closest-point searches on one scan."""

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.geometry.mesh import Mesh

SPACING = 3.0  # mm: triangles with longer edges get sample points inside, so that the search cannot miss them
ON = 1e-3  # barycentric coordinate below which a point lies on a side
NEAREST = 2  # samples whose triangles are tried


@dataclass(frozen=True, eq=False)
class Matches:
    """For each query its closest surface point (N, 3), the triangle (N,) and the normal (N, 3) there, the distance,
    and whether the point lies on a border."""

    triangle: Integers
    points: Floats
    normals: Floats
    distance: Floats
    on_border: Booleans


@dataclass(frozen=True, eq=False)
class Pull:
    """Where the surface draws the vertices of a template: closest points (V, 3) with normals (V, 3), the distance
    (V,), and the cosine (V,) between the two normals, -1 where the surface must have no say."""

    points: Floats
    normals: Floats
    distance: Floats
    cosine: Floats

    def weights(self, far: float, least_cosine: float) -> Floats:
        """Weights (V,): zero where a test fails, else falling with the distance (Geman and McClure, at half of far)."""
        believed = (self.distance < far) & (self.cosine > least_cosine)
        return np.where(believed, (1 + (2 * self.distance / far) ** 2) ** -2, 0.0)


class Surface:
    """A scan with a search tree over its vertices and, in large triangles, over samples.

    A query takes the triangles that touch its nearest samples and projects onto those exactly. That is the true
    closest point but for rare corners of badly shaped triangles, and some ten times quicker than a tree that is
    built anew for every call.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        samples, self._starts, self._owners = _samples(mesh)
        self._tree = cKDTree(samples, balanced_tree=False, compact_nodes=False)

    @cached_property
    def _border_sides(self) -> Booleans:
        """Whether the side opposite each corner (F, 3) lies on a border."""
        size = len(self.mesh.vertices)
        sides = np.sort(self.mesh.triangles[:, [[1, 2], [2, 0], [0, 1]]], axis=2) @ [size, 1]
        return np.isin(sides, self.mesh.boundary_edges @ [size, 1])

    @cached_property
    def _border_vertices(self) -> Booleans:
        flags = np.zeros(len(self.mesh.vertices), dtype=bool)
        flags[self.mesh.boundary_vertices] = True
        return flags

    def _on_border(self, triangle: Integers, weights: Floats) -> Booleans:
        """Whether points on triangles (N,) at `weights` (N, 3) lie on a border's edge or vertex."""
        on_side = ((weights < ON) & self._border_sides[triangle]).any(axis=1)
        at_vertex = ((weights > 1 - ON) & self._border_vertices[self.mesh.triangles[triangle]]).any(axis=1)
        return np.asarray(on_side | at_vertex)

    def closest(self, points: Floats) -> Matches:
        """Closest surface points of `points` (N, 3)."""
        nearest = self._tree.query(points, k=min(NEAREST, self._tree.n))[1].reshape(len(points), -1)
        triangle, weights = _project(
            points, nearest, self._starts, self._owners, self.mesh.vertices, self.mesh.triangles
        )
        corners = self.mesh.triangles[triangle]
        found = np.einsum("nk,nkc->nc", weights, self.mesh.vertices[corners])
        normals = np.einsum("nk,nkc->nc", weights, self.mesh.vertex_normals[corners])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        distance = np.linalg.norm(points - found, axis=1)
        return Matches(triangle, found, normals, distance, self._on_border(triangle, weights))


def _samples(mesh: Mesh) -> tuple[Floats, Integers, Integers]:
    """Sample points (S, 3) and, as CSR `starts`, `owners`, the triangles to try for each."""
    corners = mesh.triangles.ravel()
    by_vertex = np.argsort(corners, kind="stable")
    counts = np.bincount(corners, minlength=len(mesh.vertices))
    used = np.flatnonzero(counts)
    inside, owner = _inside_large(mesh)
    samples = np.concatenate([mesh.vertices[used], inside])
    sizes = np.concatenate([counts[used], np.ones(len(inside), dtype=np.int64)])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return samples, starts, np.concatenate([by_vertex // 3, owner])


def _inside_large(mesh: Mesh) -> tuple[Floats, Integers]:
    """Points spread over the triangles with an edge beyond `SPACING`, and the triangle of each."""
    tips = mesh.vertices[mesh.triangles]
    longest = np.linalg.norm(tips - np.roll(tips, 1, axis=1), axis=2).max(axis=1)
    points, owners = [np.empty((0, 3))], [np.empty(0, dtype=np.int64)]
    steps = np.minimum(np.ceil(longest / SPACING).astype(np.int64), 32)
    for step in np.unique(steps[steps > 1]):
        chosen = np.flatnonzero(steps == step)
        grid = np.array([(i, j, step - i - j) for i in range(step + 1) for j in range(step + 1 - i)]) / step
        grid = grid[(grid > 0).sum(axis=1) > 1]  # the corners are there already
        points.append(np.einsum("gk,tkc->tgc", grid, tips[chosen]).reshape(-1, 3))
        owners.append(np.repeat(chosen, len(grid)))
    return np.concatenate(points), np.concatenate(owners)


@numba.njit(cache=True)
def _project(
    points: Floats,
    nearest: Integers,
    starts: Integers,
    owners: Integers,
    vertices: Floats,
    triangles: Integers,
) -> tuple[Integers, Floats]:
    """For each point the closest of the candidate triangles (N,) and the barycentrics (N, 3) there."""
    best_triangle = np.zeros(len(points), dtype=np.int64)
    best_weights = np.zeros((len(points), 3))
    for n in range(len(points)):
        best = np.inf
        px, py, pz = points[n]
        for sample in nearest[n]:
            for slot in range(starts[sample], starts[sample + 1]):
                a, b, c = triangles[owners[slot]]
                # the corners as seen from the point: what is sought is the point nearest to the origin
                ax, ay, az = vertices[a, 0] - px, vertices[a, 1] - py, vertices[a, 2] - pz
                bx, by, bz = vertices[b, 0] - px, vertices[b, 1] - py, vertices[b, 2] - pz
                cx, cy, cz = vertices[c, 0] - px, vertices[c, 1] - py, vertices[c, 2] - pz
                u, v, w = _nearest_to_origin(ax, ay, az, bx, by, bz, cx, cy, cz)
                x, y, z = u * ax + v * bx + w * cx, u * ay + v * by + w * cy, u * az + v * bz + w * cz
                away = x * x + y * y + z * z
                if away < best:
                    best = away
                    best_triangle[n] = owners[slot]
                    best_weights[n, 0], best_weights[n, 1], best_weights[n, 2] = u, v, w
    return best_triangle, best_weights


@numba.njit(cache=True)
def _nearest_to_origin(
    ax: float, ay: float, az: float, bx: float, by: float, bz: float, cx: float, cy: float, cz: float
) -> tuple[float, float, float]:
    """Barycentrics of the point of triangle abc nearest to the origin: Ericson, Real-Time Collision Detection, 5.1.5.

    Scalars throughout: arrays of three would be allocated millions of times.
    """
    abx, aby, abz = bx - ax, by - ay, bz - az
    acx, acy, acz = cx - ax, cy - ay, cz - az
    d1, d2 = -(abx * ax + aby * ay + abz * az), -(acx * ax + acy * ay + acz * az)
    if d1 <= 0 and d2 <= 0:
        return 1.0, 0.0, 0.0
    d3, d4 = -(abx * bx + aby * by + abz * bz), -(acx * bx + acy * by + acz * bz)
    if d3 >= 0 and d4 <= d3:
        return 0.0, 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0 and d1 >= 0 and d3 <= 0:
        along = d1 / (d1 - d3) if d1 > d3 else 0.0
        return 1.0 - along, along, 0.0
    d5, d6 = -(abx * cx + aby * cy + abz * cz), -(acx * cx + acy * cy + acz * cz)
    if d6 >= 0 and d5 <= d6:
        return 0.0, 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0 and d2 >= 0 and d6 <= 0:
        along = d2 / (d2 - d6) if d2 > d6 else 0.0
        return 1.0 - along, 0.0, along
    va = d3 * d6 - d5 * d4
    if va <= 0 and d4 >= d3 and d5 >= d6:
        span = (d4 - d3) + (d5 - d6)
        along = (d4 - d3) / span if span > 0 else 0.0
        return 0.0, 1.0 - along, along
    total = va + vb + vc
    if total <= 0:  # a triangle without area: one of its corners is as good as any other
        return 1.0, 0.0, 0.0
    return va / total, vb / total, vc / total
