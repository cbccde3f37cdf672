import numpy as np

from meshgan.geometry.decimate import (
    BOUNDARY_WEIGHT,
    SPREAD_WEIGHT,
    monomials,
    plane_quadrics,
    point_quadrics,
    vertex_quadrics,
)
from shapes import bumpy, grid

RNG = np.random.default_rng(0)


def at(quadrics: np.ndarray, points: np.ndarray) -> np.ndarray:
    return (quadrics * monomials(points)).sum(axis=1)


def test_plane_and_point_quadrics_are_squared_distances() -> None:
    normals, origins, points = RNG.standard_normal((3, 50, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    weights = RNG.uniform(0, 2, 50)
    distances = ((points - origins) * normals).sum(axis=1)
    np.testing.assert_allclose(
        at(plane_quadrics(normals, origins, weights), points), weights * distances**2, atol=1e-12
    )
    squares = ((points - origins) ** 2).sum(axis=1)
    np.testing.assert_allclose(at(point_quadrics(origins, weights), points), weights * squares)


def test_a_vertex_gathers_its_triangles_and_boundary_edges() -> None:
    mesh = bumpy(4, 4)
    for vertex in (0, 2, 12):
        place = RNG.uniform(0, 4, 3)
        expected = 0.0
        for triangle, area, normal in zip(mesh.triangles, mesh.areas, mesh.triangle_normals, strict=True):
            if vertex in triangle:
                expected += area * ((place - mesh.vertices[triangle[0]]) @ normal) ** 2
                expected += SPREAD_WEIGHT * area * ((place - mesh.vertices[vertex]) ** 2).sum()
        for i, j in mesh.boundary_edges:
            if vertex in (i, j):
                owner = np.flatnonzero(np.isin(mesh.triangles, (i, j)).sum(axis=1) == 2)[0]
                along = mesh.vertices[j] - mesh.vertices[i]
                across = np.cross(along, mesh.triangle_normals[owner]) / np.linalg.norm(along)
                expected += BOUNDARY_WEIGHT * (along @ along) * ((place - mesh.vertices[i]) @ across) ** 2
        np.testing.assert_allclose(at(vertex_quadrics(mesh)[[vertex]], place[None]), expected)


def test_in_a_plane_only_the_spread_costs_anything() -> None:
    mesh = grid(4, 4)
    inside = 12
    place = np.array([[1.0, 2.5, 0]])
    area = mesh.areas[(mesh.triangles == inside).any(axis=1)].sum()
    expected = SPREAD_WEIGHT * area * ((place[0] - mesh.vertices[inside]) ** 2).sum()
    np.testing.assert_allclose(at(vertex_quadrics(mesh)[[inside]], place), expected)
