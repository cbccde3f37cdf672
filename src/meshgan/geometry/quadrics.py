"""Quadrics (Garland and Heckbert 1997): sums of squared distances to planes and points, as ten numbers each."""

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.geometry.mesh import Mesh

BOUNDARY_WEIGHT = 1.0  # of the planes that hold boundary edges in place, against those of triangles
SPREAD_WEIGHT = 1e-3  # of the distance to vertices already removed: decides on flat parts, where planes do not


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
