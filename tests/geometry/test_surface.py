import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import MeshganError
from meshgan.geometry.decimate import decimate
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface, closest_points, upsampling
from shapes import bumpy, grid, icosphere


def distance_by_search(point: np.ndarray, mesh: Mesh) -> float:
    """Distance to the nearest triangle: its plane where the foot lies inside, else its three sides."""
    best = np.inf
    for a, b, c in mesh.vertices[mesh.triangles]:
        (s, t), *_ = np.linalg.lstsq(np.stack([b - a, c - a], axis=1), point - a, rcond=None)
        feet = [a + s * (b - a) + t * (c - a)] if s >= 0 and t >= 0 and s + t <= 1 else []
        for p, q in ((a, b), (b, c), (c, a)):
            share = np.clip((point - p) @ (q - p) / max((q - p) @ (q - p), 1e-300), 0, 1)
            feet.append(p + share * (q - p))
        best = min(best, *(float(np.linalg.norm(foot - point)) for foot in feet))
    return best


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_distance_is_that_of_an_exhaustive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mesh = bumpy(4, 4, seed)
    points = rng.uniform(-2, 6, (12, 3))
    found = closest_points(points, mesh)
    np.testing.assert_allclose(found.distance, [distance_by_search(point, mesh) for point in points], atol=1e-9)


def test_what_is_returned_agrees_with_itself() -> None:
    mesh = icosphere(2)
    points = np.random.default_rng(1).standard_normal((200, 3))
    found = closest_points(points, mesh)
    assert (found.barycentric >= 0).all()
    np.testing.assert_allclose(found.barycentric.sum(axis=1), 1, atol=1e-15)
    corners = mesh.vertices[mesh.triangles[found.triangle]]
    np.testing.assert_allclose(found.points, (found.barycentric[:, :, None] * corners).sum(axis=1))
    np.testing.assert_allclose(found.distance, np.linalg.norm(points - found.points, axis=1))


def test_points_above_a_plane_are_projected() -> None:
    mesh = grid(5, 5, jitter=0.2)
    above = np.random.default_rng(0).uniform(0.5, 4.5, (50, 3))
    np.testing.assert_allclose(closest_points(above, mesh).points, above * [1, 1, 0], atol=1e-12)


def test_triangles_without_area_are_passed_over() -> None:
    clean = bumpy(4, 4)
    v = len(clean.vertices)
    vertices = np.concatenate([clean.vertices, [[1, 1, 9], [1, 1, 9], [1, 1, 9], [2, 2, 9], [3, 3, 9]]])
    dirty = Mesh(vertices, np.concatenate([[[v, v + 1, v + 2], [v, v + 3, v + 4], [0, 0, 1]], clean.triangles]))
    points = np.random.default_rng(0).uniform(0, 4, (40, 3)) + np.array([0, 0, 5])
    found, expected = closest_points(points, dirty), closest_points(points, clean)
    np.testing.assert_array_equal(found.triangle, expected.triangle + 3)
    np.testing.assert_array_equal(found.barycentric, expected.barycentric)


def test_normals_have_length_one_or_none_where_two_sides_meet() -> None:
    ball = icosphere(2)
    surface, points = Surface(ball), np.random.default_rng(0).standard_normal((30, 3)) * 2
    normals = surface.normals(surface.closest(points))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-12)
    assert (np.einsum("nc,nc->n", normals, points) > 0.95 * np.linalg.norm(points, axis=1)).all()
    leaf = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 1]])
    np.testing.assert_array_equal(Surface(leaf).normals(closest_points(points, leaf)), 0)


@settings(max_examples=20)
@given(st.floats(-9, 0), st.integers(0, 100))
def test_needles_give_sound_weights(exponent: float, seed: int) -> None:
    needle = Mesh([[0, 0, 0], [1, 0, 0], [0.3, 10.0**exponent, 0]], [[0, 1, 2]])
    points = np.random.default_rng(seed).uniform(-1, 2, (20, 3))
    found = closest_points(points, needle)
    assert (found.barycentric >= 0).all()
    np.testing.assert_allclose(found.barycentric.sum(axis=1), 1, atol=1e-12)
    on_the_line = np.clip(points[:, 0], 0, 1)
    np.testing.assert_allclose(found.points[:, 0], on_the_line, atol=10 * 10.0**exponent)


def test_no_points_are_no_problem_and_no_surface_is_an_error() -> None:
    assert closest_points(np.empty((0, 3)), grid(1, 1)).barycentric.shape == (0, 3)
    for mesh in (Mesh(np.zeros((3, 3)), [[0, 1, 2]]), Mesh(np.zeros((3, 3)), [])):
        with pytest.raises(MeshganError, match="no triangle with an area"):
            closest_points([[0, 0, 0]], mesh)


def test_upsampling_is_exact_on_kept_vertices_and_on_linear_functions_of_a_plane() -> None:
    fine = grid(12, 9, jitter=0.2)
    coarse = decimate(fine, 30)
    up = upsampling(coarse.mesh, fine)
    assert up.shape == (len(fine.vertices), 30)
    np.testing.assert_allclose(up.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(up @ coarse.mesh.vertices, fine.vertices, atol=1e-12)
    np.testing.assert_array_equal(up[coarse.kept].toarray(), np.eye(30))


def test_upsampling_stays_near_the_surface() -> None:
    fine = icosphere(3)
    coarse = decimate(fine, 160)
    gap = np.linalg.norm(upsampling(coarse.mesh, fine) @ coarse.mesh.vertices - fine.vertices, axis=1)
    assert gap.max() < 0.1
