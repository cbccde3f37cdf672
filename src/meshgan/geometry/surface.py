"""Closest points on a surface, once or many times over, the barycentric way from a coarse mesh to a fine one, and
whether a mesh is a surface that could exist: no triangle folded over a neighbour, none through another.

Folds are seen at edges: two triangles meet more sharply than at a right angle, and do not in a reference, because one
of them turned over. Intersections are found exactly, up to the rounding of float64: the ends of an edge lie strictly
on either side of a triangle, and the edge meets it. Surfaces in each other's plane, or touched by a corner, do not
intersect.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import point_cloud_utils as pcu
import scipy
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.compiled import compiled
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh

THINNEST = 1e-10  # ratio of area to squared longest edge under which a triangle has no area to speak of

EXCUSED = 0.01  # share of real faces with a fault at a triangle from which on nobody is blamed for it
SIDE = 1e-14  # of the product of lengths: how near to a plane a point is in it, for all that float64 can tell


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


def distances(points: ArrayLike, mesh: Mesh) -> Floats:
    """How far (N,) each of `points` (N, 3) is from the mesh; raises `MeshganError` as `closest_points` does."""
    queries = np.ascontiguousarray(points, dtype=np.float64)
    return np.asarray(pcu.closest_points_on_mesh(queries, mesh.vertices, mesh.triangles[_with_area(mesh)])[0])


def far_from(points: Floats, others: Floats) -> Floats:
    """How far (N,) each of `points` (N, 3) is from the nearest of some hundred `others` (M, 3), one by one.

    It is what a verb needs at once: SciPy's trees are quicker and take longer to import (see `Surface`).
    """
    squares = np.zeros((len(points), len(others)))
    for axis in range(3):
        squares += (points[:, axis, None] - others[:, axis]) ** 2
    return np.sqrt(squares.min(axis=1))


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
        self._tree = scipy.spatial.cKDTree(samples, balanced_tree=False, compact_nodes=False)

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


def folded(faces: NDArray[np.floating], reference: Mesh) -> Booleans:
    """For each mesh of vertices (N, V, 3) and each triangle (N, F): is it folded against a neighbour?

    The normals of two triangles with a common edge point into opposite half-spaces, and do not in the `reference`. Of
    the two the one that also turned away from its reference is meant; both if neither or both did.
    """
    pairs = neighbours(reference)
    before = _unit_normals(reference.vertices[None], reference.triangles)
    smooth = pairs[(before[0, pairs[:, 0]] * before[0, pairs[:, 1]]).sum(axis=1) > 0]
    found = np.zeros((len(faces), len(reference.triangles)), dtype=bool)
    for number, vertices in enumerate(faces):
        after = _unit_normals(vertices[None], reference.triangles)
        sharp = smooth[(after[0, smooth[:, 0]] * after[0, smooth[:, 1]]).sum(axis=1) < 0]
        turned = (after[0] * before[0]).sum(axis=1) < 0
        blamed = turned[sharp] | (turned[sharp].all(axis=1) | ~turned[sharp].any(axis=1))[:, None]
        found[number, sharp[blamed]] = True
    return found


def faults(faces: NDArray[np.floating], reference: Mesh) -> Booleans:
    """For each mesh of vertices (N, V, 3) and each triangle (N, F): is it folded, or does it pass through another?"""
    return folded(faces, reference) | intersecting(faces, reference.triangles)


def intersecting(faces: NDArray[np.floating], triangles: Integers) -> Booleans:
    """For each mesh of vertices (N, V, 3) and each triangle (N, F): does it pass through another one? On all cores."""
    corners = np.ascontiguousarray(triangles, dtype=np.int64)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def of(vertices: NDArray[np.floating]) -> Booleans:
        points: Floats = np.ascontiguousarray(vertices, dtype=np.float64)
        return _intersecting(points, corners, *_cells(points, corners))

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(of, faces))
    return np.stack(found) if found else np.zeros((0, len(corners)), dtype=bool)


def neighbours(mesh: Mesh) -> Integers:
    """Pairs (P, 2) of triangles that share an edge."""
    ends = np.sort(mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    owner = np.repeat(np.arange(len(mesh.triangles)), 3)
    order = np.lexsort((owner, ends[:, 1], ends[:, 0]))
    same = (ends[order[1:]] == ends[order[:-1]]).all(axis=1)
    return np.stack([owner[order[:-1]][same], owner[order[1:]][same]], axis=1)


def _unit_normals(faces: NDArray[np.floating], triangles: Integers) -> Floats:
    a, b, c = (np.asarray(faces, np.float64)[:, triangles[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=2, keepdims=True)
    return np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)


def _cells(points: Floats, triangles: Integers) -> tuple[Floats, Floats, Integers, Integers, Integers]:
    """Boxes (F, 3) low and high of triangles, and a grid: cells in order, and the triangles in each of them.

    A cell is as wide as the triangles are on the average; those that reach over many cells stand in each.
    """
    corners = points[triangles]
    low, high = corners.min(axis=1), corners.max(axis=1)
    width = max(1.5 * float((high - low).max(axis=1, initial=0.0).mean()) if len(low) else 1.0, 1e-12)
    width = max(width, float(np.ptp(points, axis=0).max()) / 512)  # at most 512 cells along a side
    first = np.floor((low - points.min(axis=0)) / width).astype(np.int64)
    counts = np.floor((high - points.min(axis=0)) / width).astype(np.int64) - first + 1
    owner = np.repeat(np.arange(len(triangles)), counts.prod(axis=1))
    number = np.arange(len(owner)) - np.repeat(
        np.cumsum(counts.prod(axis=1)) - counts.prod(axis=1), counts.prod(axis=1)
    )
    wide = counts[owner]
    place = first[owner] + np.stack(
        [number // (wide[:, 1] * wide[:, 2]), number // wide[:, 2] % wide[:, 1], number % wide[:, 2]], axis=1
    )
    code = (place[:, 0] * 1024 + place[:, 1]) * 1024 + place[:, 2]
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1, append=-1))
    return low, high, owner[order], code[order], starts.astype(np.int64)


@compiled()
def _intersecting(points: Any, triangles: Any, low: Any, high: Any, owner: Any, code: Any, starts: Any) -> Any:
    """Mark both triangles of each pair that intersects; pairs are met in every cell that both stand in."""
    hit = np.zeros(len(triangles), np.bool_)
    for cell in range(len(starts) - 1):
        for p in range(starts[cell], starts[cell + 1]):
            i = owner[p]
            for q in range(p + 1, starts[cell + 1]):
                j = owner[q]
                if hit[i] and hit[j]:
                    continue
                apart = False
                for axis in range(3):
                    apart |= low[i, axis] > high[j, axis] or low[j, axis] > high[i, axis]
                if not apart and (
                    _pierces(points, triangles[i], triangles[j]) or _pierces(points, triangles[j], triangles[i])
                ):
                    hit[i] = hit[j] = True
    return hit


@compiled()
def _pierces(points: Any, edges: Any, face: Any) -> Any:
    """Whether an edge of one triangle passes through another; edges that share a corner with it do not."""
    a, b, c = points[face[0]], points[face[1]], points[face[2]]
    for k in range(3):
        start, end = edges[k], edges[(k + 1) % 3]
        touches = False
        for corner in range(3):
            touches |= start == face[corner] or end == face[corner]
        if touches:
            continue
        p, q = points[start], points[end]
        above = _side(a, b, c, p)
        if above == 0 or above * _side(a, b, c, q) >= 0:
            continue
        first, second, third = _side(p, q, a, b), _side(p, q, b, c), _side(p, q, c, a)
        lowest, highest = min(first, second, third), max(first, second, third)
        if (lowest * highest >= 0 and lowest != highest) or lowest == highest != 0:
            return True
    return False


@compiled()
def _side(a: Any, b: Any, c: Any, d: Any) -> Any:
    """On which side of the plane through a, b, c the point d lies: 1, -1, or 0 where rounding could decide."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    wx, wy, wz = d[0] - a[0], d[1] - a[1], d[2] - a[2]
    volume = ux * (vy * wz - vz * wy) - uy * (vx * wz - vz * wx) + uz * (vx * wy - vy * wx)
    size = (abs(ux) + abs(uy) + abs(uz)) * (abs(vx) + abs(vy) + abs(vz)) * (abs(wx) + abs(wy) + abs(wz))
    if abs(volume) <= SIDE * size:
        return 0
    return 1 if volume > 0 else -1
