from types import SimpleNamespace

import numpy as np
import pytest

from meshgan.geometry.decimate import (
    BOUNDARY_WEIGHT,
    SPREAD_WEIGHT,
    Stage,
    _harmed,
    _normals_and_quality,
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


def test_quality_is_one_for_equal_sides_and_falls_to_zero() -> None:
    """4√3 area over the sum of squared sides, whatever the size and place; normals are right-handed."""
    corners = RNG.standard_normal((40, 3, 3))
    corners[0] = np.eye(3)  # equilateral
    corners[1] = [[0, 0, 0], [1, 0, 0], [3, 0, 0]]  # without area
    corners[2] = 7.0  # a point
    normals, quality = _normals_and_quality(corners)
    for (a, b, c), normal, found in zip(corners, normals, quality, strict=True):
        area = np.linalg.norm(np.cross(b - a, c - a)) / 2
        squares = sum(side @ side for side in (a - b, b - c, c - a))
        assert found == pytest.approx(4 * np.sqrt(3) * area / squares if squares else 0, abs=1e-12)
        np.testing.assert_allclose(normal * 2 * area, np.cross(b - a, c - a), atol=1e-12)
        assert np.linalg.norm(normal) == pytest.approx(1.0 if area else 0.0)
    assert quality[0] == pytest.approx(1)
    np.testing.assert_allclose(_normals_and_quality(9 * corners + 5)[1][3:], quality[3:])


def test_a_collapse_harms_what_it_turns_thins_or_turns_away() -> None:
    """Each reason alone, at either side of its limit, and none where it was so before."""
    stage = Stage(cosine=0.5, quality=0.2)

    def tip(height: float, degrees: float = 0.0) -> np.ndarray:
        """The third corner of a triangle on the side from 0 to 1, turned out of the plane about it."""
        return np.array([0.5, height * np.cos(np.radians(degrees)), height * np.sin(np.radians(degrees))])

    def harmed(before: np.ndarray, after: np.ndarray, *normal: float) -> bool:
        """The third corner moves; all vertices of the original surface face along `normal`."""
        points = np.array([[0, 0, 0], [1, 0, 0], before, after])
        state = SimpleNamespace(points=points, normals=np.array([normal] * 4))
        return bool(_harmed(state, np.array([[0, 1, 2]]), np.array([[0, 1, 3]]), stage)[0])

    assert [harmed(tip(1), tip(1, degrees), 0, 0, 0) for degrees in (0, 59, 61, 120)] == [False, False, True, True]
    assert not harmed(tip(1), tip(1, 50), 0, -1, 0)  # towards the side that the surface faces
    assert harmed(tip(1), tip(1, -50), 0, -1, 0)  # away from it
    assert not harmed(tip(1), tip(0.9), 0, 0, -1)  # which it was before
    assert not harmed(tip(0), tip(1), 0, 0, 1)  # there was no area that could turn
    assert [harmed(tip(1), tip(height), 0, 0, 1) for height in (0.08, 0.1)] == [True, False]  # qualities 0.18, 0.23
    assert not harmed(tip(0.07), tip(0.08), 0, 0, 1)  # it was thinner
