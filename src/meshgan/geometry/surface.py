"""Closest points on a surface, and the barycentric way from a coarse mesh to a fine one."""

from dataclasses import dataclass

import numpy as np
import point_cloud_utils as pcu
import scipy.sparse as sp
from numpy.typing import ArrayLike

from meshgan.arrays import Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh

THINNEST = 1e-10  # ratio of area to squared longest edge under which a triangle has no area to speak of
SMALLEST_WEIGHT = 1e-9  # smaller barycentric coordinates are rounding errors of zero


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
    weights = _barycentric(queries, corners)  # those of the library are NaN on thin triangles
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


def _barycentric(points: Floats, corners: Floats) -> Floats:
    """Barycentric coordinates (N, 3) of the closest point to each of `points` (N, 3) on triangle `corners` (N, 3, 3).

    It is the best of four: the foot on the plane, if that lies inside, and the nearest point of each side.
    """
    candidates = np.stack([_foot_on_plane(points, corners), *(_foot_on_side(points, corners, k) for k in range(3))])
    misses = np.linalg.norm(np.einsum("mnk,nkc->mnc", candidates, corners) - points, axis=2)
    misses[0, (candidates[0] < 0).any(axis=1)] = np.inf
    weights = candidates[misses.argmin(axis=0), np.arange(len(points))]
    weights = np.where(weights > SMALLEST_WEIGHT, weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _foot_on_plane(points: Floats, corners: Floats) -> Floats:
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    normals = np.cross(b - a, c - a)
    doubled = np.maximum((normals**2).sum(axis=1), np.finfo(float).tiny)
    beta = (np.cross(points - a, c - a) * normals).sum(axis=1) / doubled
    gamma = (np.cross(b - a, points - a) * normals).sum(axis=1) / doubled
    return np.stack([1 - beta - gamma, beta, gamma], axis=1)


def _foot_on_side(points: Floats, corners: Floats, side: int) -> Floats:
    start, end = side, (side + 1) % 3
    along = corners[:, end] - corners[:, start]
    squares = np.maximum((along**2).sum(axis=1), np.finfo(float).tiny)
    share = np.clip(((points - corners[:, start]) * along).sum(axis=1) / squares, 0, 1)
    weights = np.zeros((len(points), 3))
    weights[:, start], weights[:, end] = 1 - share, share
    return weights
