"""Closest points on a surface, once or many times over, and the barycentric way from a coarse mesh to a fine one."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import point_cloud_utils as pcu
import scipy.sparse as sp
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.compiled import compiled
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh

THINNEST = 1e-10  # ratio of area to squared longest edge under which a triangle has no area to speak of


@dataclass(frozen=True, eq=False)
class ClosestPoints:
    """For each of N queries: `triangle` (N,), `barycentric` (N, 3) ≥ 0 with sum 1, `points` (N, 3), `distance` (N,)."""

    triangle: Integers
    barycentric: Floats
    points: Floats
    distance: Floats


def closest_points(points: ArrayLike, mesh: Mesh) -> ClosestPoints:
    """The closest point on the mesh to each of `points` (N, 3).

    Triangles without area are passed over (their edges belong to others); raises `MeshganError` if there are no
    others. Unreferenced vertices are no part of the surface.
    """
    queries = np.ascontiguousarray(points, dtype=np.float64)
    solid = _with_area(mesh)
    _, found, _ = pcu.closest_points_on_mesh(queries, mesh.vertices, mesh.triangles[solid])
    triangle = solid[found]
    corners = mesh.vertices[mesh.triangles[triangle]]
    weights = _weights(queries, corners)  # those of the library are NaN on thin triangles
    nearest = np.einsum("nk,nkc->nc", weights, corners)
    return ClosestPoints(triangle, weights, nearest, np.linalg.norm(nearest - queries, axis=1))


def upsampling(coarse: Mesh, fine: Mesh) -> sp.csr_array:
    """U (V_fine, V_coarse): carries values on `coarse` to the closest points of the vertices of `fine`.

    Each row holds the at most three barycentric coordinates there: they are positive and sum to 1.
    """
    return barycentric_matrix(closest_points(fine.vertices, coarse), coarse)


def barycentric_matrix(found: ClosestPoints, mesh: Mesh) -> sp.csr_array:
    """(N, V): carries values on the vertices of `mesh` to the points `found` on it; rows sum to 1."""
    columns = mesh.triangles[found.triangle]
    rows = np.repeat(np.arange(len(columns)), 3)
    shape = (len(columns), len(mesh.vertices))
    matrix = sp.csr_array((found.barycentric.ravel(), (rows, columns.ravel())), shape=shape)
    matrix.eliminate_zeros()
    return matrix


def _with_area(mesh: Mesh) -> Integers:
    corners = mesh.vertices[mesh.triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1, initial=0.0)
    solid = np.flatnonzero(mesh.areas > THINNEST * longest**2)
    if not len(solid):
        raise MeshganError("the mesh has no triangle with an area, so there is no surface to look for points on.")
    return solid


SPACING = 3.0  # mm: triangles with longer edges get sample points inside, so that the search cannot miss them
ON = 1e-3  # barycentric coordinate below which a point lies on a side
NEAREST = 2  # samples whose triangles are tried


class Surface:
    """A mesh with a search tree over its vertices and, in large triangles, over samples: for many searches on one mesh.

    A query takes the triangles that touch its nearest samples and projects onto those exactly. That is the true
    closest point but for rare corners of badly shaped triangles, and some ten times quicker than a tree that is
    built anew for every call.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        samples, self._starts, self._owners = _samples(mesh)
        self._tree = cKDTree(samples, balanced_tree=False, compact_nodes=False)

    def closest(self, points: Floats) -> ClosestPoints:
        """The closest point to each of `points` (N, 3)."""
        nearest = self._tree.query(points, k=min(NEAREST, self._tree.n))[1].reshape(len(points), -1)
        triangle, weights = _project(
            points, nearest, self._starts, self._owners, self.mesh.vertices, self.mesh.triangles
        )
        found = np.einsum("nk,nkc->nc", weights, self.mesh.vertices[self.mesh.triangles[triangle]])
        return ClosestPoints(triangle, weights, found, np.linalg.norm(points - found, axis=1))

    def normals(self, found: ClosestPoints) -> Floats:
        """Unit normals (N, 3) there, between those of the vertices."""
        corners = self.mesh.triangles[found.triangle]
        normals = np.einsum("nk,nkc->nc", found.barycentric, self.mesh.vertex_normals[corners])
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def on_border(self, found: ClosestPoints) -> Booleans:
        """Whether points lie on an edge or a vertex of a border (N,)."""
        triangle, weights = found.triangle, found.barycentric
        on_side = ((weights < ON) & self._border_sides[triangle]).any(axis=1)
        at_vertex = ((weights > 1 - ON) & self._border_vertices[self.mesh.triangles[triangle]]).any(axis=1)
        return np.asarray(on_side | at_vertex)

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


@compiled()
def _weights(points: Floats, corners: Floats) -> Floats:
    """Barycentrics (N, 3) of the point nearest to each of `points` (N, 3) on its own triangle `corners` (N, 3, 3)."""
    weights = np.empty((len(points), 3))
    for n in range(len(points)):
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners[n, 0], corners[n, 1], corners[n, 2]
        px, py, pz = points[n]
        weights[n, 0], weights[n, 1], weights[n, 2] = _nearest_to_origin(
            ax - px, ay - py, az - pz, bx - px, by - py, bz - pz, cx - px, cy - py, cz - pz
        )
    return weights


@compiled()
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


@compiled()
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
