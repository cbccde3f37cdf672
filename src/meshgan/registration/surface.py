"""The surface that a template is drawn onto: many quick closest-point searches on one scan."""

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from meshgan.geometry.mesh import Mesh

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SPACING = 3.0  # mm: triangles with longer edges get sample points inside, so that the search cannot miss them
ON = 1e-3  # barycentric coordinate below which a point lies on a side
NEAREST = 3  # samples whose triangles are tried


@dataclass(frozen=True, eq=False)
class Matches:
    """For each query its closest surface point (N, 3), the triangle (N,) and the normal (N, 3) there, the distance,
    and whether the point lies on a border."""

    triangle: Integers
    points: Floats
    normals: Floats
    distance: Floats
    on_border: NDArray[np.bool_]


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
    def _border_sides(self) -> NDArray[np.bool_]:
        """Whether the side opposite each corner (F, 3) lies on a border."""
        size = len(self.mesh.vertices)
        sides = np.sort(self.mesh.triangles[:, [[1, 2], [2, 0], [0, 1]]], axis=2) @ [size, 1]
        return np.isin(sides, self.mesh.boundary_edges @ [size, 1])

    @cached_property
    def _border_vertices(self) -> NDArray[np.bool_]:
        flags = np.zeros(len(self.mesh.vertices), dtype=bool)
        flags[self.mesh.boundary_vertices] = True
        return flags

    def _on_border(self, triangle: Integers, weights: Floats) -> NDArray[np.bool_]:
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


@numba.njit(cache=True, fastmath=False)
def _project(
    points: Floats, nearest: Integers, starts: Integers, owners: Integers, vertices: Floats, triangles: Integers
) -> tuple[Integers, Floats]:
    """For each point the closest of the candidate triangles (N,) and the barycentrics (N, 3) there."""
    count = len(points)
    best_triangle = np.zeros(count, dtype=np.int64)
    best_weights = np.zeros((count, 3))
    for n in range(count):
        best = np.inf
        for sample in nearest[n]:
            for slot in range(starts[sample], starts[sample + 1]):
                triangle = owners[slot]
                a, b, c = triangles[triangle]
                u, v, w = _barycentric(points[n], vertices[a], vertices[b], vertices[c])
                away = 0.0
                for axis in range(3):
                    at = u * vertices[a, axis] + v * vertices[b, axis] + w * vertices[c, axis]
                    away += (points[n, axis] - at) ** 2
                if away < best:
                    best = away
                    best_triangle[n] = triangle
                    best_weights[n, 0], best_weights[n, 1], best_weights[n, 2] = u, v, w
    return best_triangle, best_weights


@numba.njit(cache=True)
def _dot(a: Floats, b: Floats) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@numba.njit(cache=True)
def _barycentric(p: Floats, a: Floats, b: Floats, c: Floats) -> tuple[float, float, float]:
    """Barycentrics of the point of triangle abc closest to p: Ericson, Real-Time Collision Detection, 5.1.5."""
    ab, ac, ap = b - a, c - a, p - a
    d1, d2 = _dot(ab, ap), _dot(ac, ap)
    if d1 <= 0 and d2 <= 0:
        return 1.0, 0.0, 0.0
    bp = p - b
    d3, d4 = _dot(ab, bp), _dot(ac, bp)
    if d3 >= 0 and d4 <= d3:
        return 0.0, 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0 and d1 >= 0 and d3 <= 0:
        along = d1 / (d1 - d3) if d1 > d3 else 0.0
        return 1.0 - along, along, 0.0
    cp = p - c
    d5, d6 = _dot(ab, cp), _dot(ac, cp)
    if d6 >= 0 and d5 <= d6:
        return 0.0, 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0 and d2 >= 0 and d6 <= 0:
        along = d2 / (d2 - d6) if d2 > d6 else 0.0
        return 1.0 - along, 0.0, along
    va = d3 * d6 - d5 * d4
    if va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
        along = (d4 - d3) / ((d4 - d3) + (d5 - d6)) if (d4 - d3) + (d5 - d6) > 0 else 0.0
        return 0.0, 1.0 - along, along
    total = va + vb + vc
    if total <= 0:  # a triangle without area: one of its corners is as good as any other
        return 1.0, 0.0, 0.0
    return va / total, vb / total, vc / total
