"""Folds and intersections, on surfaces whose faults are known and against a slow search over all pairs."""

import numpy as np
import pytest

from meshgan.arrays import Booleans, Floats
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import folded, intersecting
from shapes import bumpy, grid, icosphere, together


def slowly(mesh: Mesh) -> Booleans:
    """All pairs: a segment meets a triangle's inside, by solving for where."""
    corners = mesh.vertices[mesh.triangles]
    hit = np.zeros(len(corners), dtype=bool)

    def pierced(segment: Floats, triangle: Floats) -> bool:
        a, b, c = triangle
        matrix = np.stack([segment[0] - segment[1], b - a, c - a], axis=1)
        if abs(np.linalg.det(matrix)) < 1e-12:
            return False
        t, u, v = np.linalg.solve(matrix, segment[0] - a)
        return bool(1e-9 < t < 1 - 1e-9 and u > 1e-9 and v > 1e-9 and u + v < 1 - 1e-9)

    for i in range(len(corners)):
        for j in range(len(corners)):
            for k in range(3):
                ends = mesh.triangles[i][[k, (k + 1) % 3]]
                if i != j and not set(ends) & set(mesh.triangles[j]) and pierced(mesh.vertices[ends], corners[j]):
                    hit[[i, j]] = True
    return hit


@pytest.mark.parametrize("mesh", [bumpy(12, 9), icosphere(2), grid(8, 6, jitter=0.2)], ids=["hills", "ball", "plane"])
def test_whole_surfaces_have_neither(mesh: Mesh) -> None:
    assert not intersecting(mesh.vertices[None], mesh.triangles).any()
    assert not folded(mesh.vertices[None], mesh).any()
    turned = mesh.vertices @ np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    assert not folded(turned[None], mesh).any()  # even in a mirror: the surface is as it was


def test_intersections_are_those_of_a_search_over_all_pairs() -> None:
    for seed in range(6):
        mesh = bumpy(7, 6, seed=seed)
        noise = np.random.default_rng(seed).normal(scale=0.1 + 0.1 * seed, size=mesh.vertices.shape)
        crumpled = mesh.with_vertices(mesh.vertices + noise)
        np.testing.assert_array_equal(intersecting(crumpled.vertices[None], mesh.triangles)[0], slowly(crumpled))


def test_two_balls_intersect_where_they_meet() -> None:
    ball = icosphere(2)
    for distance, expected in ((2.1, False), (1.5, True)):
        pair = together(ball, ball.with_vertices(ball.vertices + np.array([distance, 0.0, 0.0])))
        found = intersecting(pair.vertices[None], pair.triangles)[0]
        assert found.any() == expected
        middle = pair.vertices[pair.triangles].mean(axis=1)[:, 0]
        assert not found[(middle < 0.2) | (middle > 1.3)].any()


def test_surfaces_that_touch_do_not_intersect() -> None:
    plane = grid(4, 4)
    above = plane.with_vertices(plane.vertices + np.array([0.3, 0.2, 0.0]))  # in the same plane
    pair = together(plane, above)
    assert not intersecting(pair.vertices[None], pair.triangles).any()
    rng = np.random.default_rng(0)
    turns = [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(4)]  # now rounding moves them off the plane
    turned = np.stack([size * pair.vertices @ turn for turn in turns for size in (1e-4, 1.0, 1e4)])
    assert not intersecting(turned, pair.triangles).any()


def test_a_vertex_pulled_over_its_neighbour_folds() -> None:
    plane = grid(6, 6)
    middle = int(np.flatnonzero((plane.vertices == [3, 3, 0]).all(axis=1))[0])
    pulled = plane.vertices.copy()
    pulled[middle, 0] += 1.4
    found = folded(np.stack([plane.vertices, pulled]), plane)
    assert not found[0].any()
    assert 1 <= found[1].sum() <= 4
    assert (plane.triangles[found[1]] == middle).any(axis=1).all()  # those around it, not what they lie on
    pulled[middle] = plane.vertices[middle] + [0.4, 0.0, 0.0]
    assert not folded(pulled[None], plane).any()


def test_a_mesh_as_large_as_a_head_and_one_thin_triangle_across_it() -> None:
    ball = icosphere(4)
    needle = Mesh([[-2.0, 0.001, 0.002], [2.0, 0.003, 0.001], [2.0, 0.004, 0.001]], [[0, 1, 2]])
    both = together(ball, needle)
    found = intersecting(both.vertices[None], both.triangles)[0]
    assert found[-1]
    assert 2 <= found[:-1].sum() <= 8


def hinge(first: float, second: float) -> Mesh:
    """Two triangles that share an edge along y, each turned about it by so many degrees out of the plane z = 0."""
    left, right = np.radians([first, second])
    ends = [[-np.cos(left), 0, np.sin(left)], [np.cos(right), 0, np.sin(right)]]
    return Mesh([[0, -1, 0], [0, 1, 0], *ends], [[0, 1, 2], [1, 0, 3]])


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (0, 89, [False, False]),
        (0, 91, [False, True]),  # it alone turned over
        (95, 0, [True, False]),
        (50, 50, [True, True]),  # neither did: their edge is sharp all the same
        (100, 100, [True, True]),  # both did
        (100, -100, [False, False]),  # the whole was turned, and bent by no more than a right angle
        (-60, 170, [False, True]),
    ],
)
def test_of_two_sharp_triangles_the_one_that_turned_over_is_folded(first: float, second: float, found: list) -> None:
    assert folded(hinge(first, second).vertices[None], hinge(0, 0))[0].tolist() == found


def test_what_was_sharp_before_is_no_fold() -> None:
    box = Mesh([[0, -1, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]], [[0, 1, 2], [1, 0, 3]])  # a right angle
    assert not folded(hinge(0, 170).vertices[None], box).any()
    assert not folded(hinge(0, 170).vertices[None], hinge(0, 120)).any()
    flat = Mesh(np.zeros((4, 3)), box.triangles)  # no normals, so nothing is known of it
    assert not folded(hinge(0, 170).vertices[None], flat).any()
    assert not folded(flat.vertices[None], hinge(0, 0)).any()
    assert folded(np.empty((0, 4, 3)), box).shape == (0, 2)


def spike(x: float, y: float, low: float = -1.0, high: float = 1.0) -> Mesh:
    """A thin triangle, one side of which is a line along z."""
    return Mesh([[x, y, low], [x, y, high], [x + 9.0, y + 7.0, high]], [[0, 1, 2]])


@pytest.mark.parametrize(
    ("x", "y", "hit"),
    [(0.6, 0.3, 1), (0.5, 0.5, 2), (1.0, 1.0, 6), (1.0, 0.5, 2), (-0.5, 0.5, 0)],
    ids=["inside", "diagonal", "corner", "side", "beside"],
)
def test_what_a_line_passes_through_it_intersects_on_its_sides_too(x: float, y: float, hit: int) -> None:
    plane = grid(2, 2)
    pair = together(plane, spike(x, y))
    found = intersecting(pair.vertices[None], pair.triangles)[0]
    other = pair.vertices[pair.triangles[found]]
    assert found[:-1].sum() >= hit  # its two other sides pass through the plane far away
    near = (abs(other[:, :, :2] - [x, y]).max(axis=(1, 2)) <= 1.0).sum()
    assert near == hit


def test_a_line_that_ends_on_a_surface_does_not_intersect_it() -> None:
    for low, high in ((0.0, 1.0), (1e-3, 1.0), (-1.0, -1e-3)):
        pair = together(grid(2, 2), spike(0.6, 0.3, low, high))
        assert not intersecting(pair.vertices[None], pair.triangles).any()
    assert intersecting(np.empty((0, 3, 3)), np.array([[0, 1, 2]])).shape == (0, 1)
