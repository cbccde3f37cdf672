import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import MeshganError
from meshgan.geometry.decimate import decimate
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import (
    ON,
    SPACING,
    ClosestPoints,
    Surface,
    barycentric_matrix,
    closest_points,
    distances,
    far_from,
)
from shapes import bumpy, grid, icosphere, together


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


def test_distances_alone_are_those_of_the_closest_points() -> None:
    rng = np.random.default_rng(1)
    mesh, points = bumpy(5, 5, 1), rng.normal(scale=3, size=(50, 3))
    np.testing.assert_allclose(distances(points, mesh), closest_points(points, mesh).distance, atol=1e-12)
    wanted = np.linalg.norm(points[:, None] - mesh.vertices, axis=2).min(axis=1)
    np.testing.assert_allclose(far_from(points, mesh.vertices), wanted, rtol=1e-12)


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


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), stretch=st.floats(0.1, 30))
def test_many_searches_on_one_mesh_find_what_one_finds(seed: int, stretch: float) -> None:
    rng = np.random.default_rng(seed)
    mesh = icosphere(2, 50.0).with_vertices(icosphere(2, 50.0).vertices * [1, 1, stretch / 10])
    points = rng.normal(scale=40, size=(200, 3))
    matches, truth = Surface(mesh).closest(points), closest_points(points, mesh)
    assert (matches.distance >= truth.distance - 1e-9).all()
    assert (np.isclose(matches.distance, truth.distance, atol=1e-6)).mean() > 0.97  # rare corners may be missed
    assert (matches.distance - truth.distance).max() < 3.0
    corners = mesh.vertices[mesh.triangles[matches.triangle]]
    np.testing.assert_allclose(matches.points, np.einsum("nk,nkc->nc", matches.barycentric, corners), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(matches.points - points, axis=1), matches.distance, atol=1e-9)


def test_points_above_any_part_of_a_triangle_are_found() -> None:
    """Over its inside, its sides and its corners, and beyond them: a lattice round one triangle, at any size."""
    for size in (1e-6, 0.1, 1.0, 100.0, 1e12):
        mesh = Mesh(size * np.array([[0, 0, 0], [2, 0, 0], [1, 2, 0]]), [[0, 1, 2]])
        points = size * np.stack(np.meshgrid(*[np.arange(-2, 4.5, 0.5)] * 2, [0.0, 1.0]), axis=-1).reshape(-1, 3)
        expected = [distance_by_search(point, mesh) for point in points]
        for found in (Surface(mesh).closest(points), closest_points(points, mesh)):
            np.testing.assert_allclose(found.distance, expected, atol=1e-9 * size)
            assert (found.barycentric >= 0).all()
            np.testing.assert_allclose(found.barycentric.sum(axis=1), 1)


def test_triangles_are_searched_from_samples_that_lie_close_on_them() -> None:
    """No point of a triangle is further from its nearest sample than from the corners of a triangle of `SPACING`."""
    small = grid(3, 3, jitter=0.2)
    large = bumpy(5, 4).with_vertices(4.0 * bumpy(5, 4).vertices + [100.0, 0.0, 0.0])
    mesh = together(small, Mesh([[50.0, 0.0, 0.0]], []), large)
    surface = Surface(mesh)
    samples, starts, owners = surface._tree.data, surface._starts, surface._owners
    assert len(starts) == len(samples) + 1
    assert starts[-1] == len(owners)
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    of = np.repeat(np.arange(len(samples)), np.diff(starts))
    for number, corners in enumerate(mesh.vertices[mesh.triangles]):
        own = samples[of[owners == number]]
        assert len(np.unique(own.round(9), axis=0)) == len(own) >= 3
        np.testing.assert_allclose(closest_points(own, Mesh(corners, [[0, 1, 2]])).distance, 0, atol=1e-9)
        gaps = np.linalg.norm((weights @ corners)[:, None] - own, axis=2).min(axis=1)
        assert gaps.max() <= SPACING / np.sqrt(3)
    assert sum(owners < len(small.triangles)) == small.triangles.size  # small triangles are known by their corners


def test_huge_triangles_are_searched_within() -> None:
    mesh = Mesh([[0, 0, 0], [200, 0, 0], [0, 200, 0]], [[0, 1, 2]])
    surface = Surface(mesh)
    matches = surface.closest(np.array([[60.0, 60.0, 5.0], [300.0, -5.0, 0.0]]))
    np.testing.assert_allclose(matches.points, [[60, 60, 0], [200, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(surface.normals(matches), [[0, 0, 1], [0, 0, 1]])
    assert surface.on_border(matches).tolist() == [False, True]
    assert len(surface._tree.data) < 600  # however huge


def test_borders_are_told_from_the_inside() -> None:
    """Against the definition, at and around corners and sides of all triangles; a closed surface has no border."""
    mesh, ball = bumpy(4, 3), icosphere(1)
    places = np.array([[1, 0, 0], [1 - ON / 2, ON / 4, ON / 4], [0.5, 0.5, 0], [0.5 - ON / 4, 0.5 - ON / 4, ON / 2],
                       [1 - 4 * ON, 2 * ON, 2 * ON], [0.5 - ON, 0.5 - ON, 2 * ON], [0.2, 0.3, 0.5]])  # fmt: skip
    places = np.concatenate([np.roll(places, turn, axis=1) for turn in range(3)])
    border = {frozenset(edge) for edge in mesh.boundary_edges.tolist()}
    ends = {vertex for edge in border for vertex in edge}
    for triangle, (a, b, c) in enumerate(mesh.triangles.tolist()):
        expected = []
        for weights in places:
            at = {v for v, weight in zip((a, b, c), weights, strict=True) if weight > 1 - ON}
            sides = ({b, c}, {c, a}, {a, b})
            on = {frozenset(side) for side, weight in zip(sides, weights, strict=True) if weight < ON}
            expected.append(bool(at & ends or on & border))
        number = np.full(len(places), triangle)
        found = ClosestPoints(number, places, np.zeros((len(places), 3)), np.zeros(len(places)))
        assert Surface(mesh).on_border(found).tolist() == expected
        assert not Surface(ball).on_border(found).any()


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
    up = barycentric_matrix(closest_points(fine.vertices, coarse.mesh), coarse.mesh)
    assert up.shape == (len(fine.vertices), 30)
    np.testing.assert_allclose(up.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(up @ coarse.mesh.vertices, fine.vertices, atol=1e-12)
    np.testing.assert_array_equal(up[coarse.kept].toarray(), np.eye(30))


def test_upsampling_stays_near_the_surface() -> None:
    fine = icosphere(3)
    coarse = decimate(fine, 160)
    up = barycentric_matrix(closest_points(fine.vertices, coarse.mesh), coarse.mesh)
    gap = np.linalg.norm(up @ coarse.mesh.vertices - fine.vertices, axis=1)
    assert gap.max() < 0.1
