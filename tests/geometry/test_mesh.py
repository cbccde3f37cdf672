import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import MeshganError
from meshgan.geometry import align, decimate, files, glb, hierarchy, laplacian, plaintext, ply, surface
from meshgan.geometry import mesh as mesh_module
from meshgan.geometry.mesh import Mesh, in_one_order, surface_of, within_bounds
from shapes import bumpy, grid, icosphere, together
from values import assert_sound_values


def test_it_cannot_be_changed() -> None:
    vertices = np.zeros((3, 3))
    mesh = Mesh(vertices, [[0, 1, 2]])
    vertices[0] = 7  # the mesh holds a copy
    assert not mesh.vertices.any()
    with pytest.raises(ValueError, match="read-only"):
        mesh.vertices[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        mesh.vertices = vertices  # type: ignore[misc]


@pytest.mark.parametrize(
    ("vertices", "triangles", "message"),
    [
        (np.zeros((3, 2)), [[0, 1, 2]], "shape"),
        (np.zeros(3), [], "shape"),
        ([[0, 0, np.nan]] * 3, [[0, 1, 2]], "NaN or infinite"),
        ([[0, 0, np.inf]] * 3, [[0, 1, 2]], "NaN or infinite"),
        (np.zeros((3, 3)), [[0, 1, 3]], "outside"),
        (np.zeros((3, 3)), [[0, 1, -1]], "outside"),
    ],
)
def test_what_is_no_mesh_is_refused(vertices, triangles, message: str) -> None:
    with pytest.raises(MeshganError, match=message):
        Mesh(vertices, triangles)


def test_other_vertices_must_be_as_many() -> None:
    mesh = grid(2, 2)
    np.testing.assert_array_equal(mesh.with_vertices(mesh.vertices + 1).triangles, mesh.triangles)
    with pytest.raises(MeshganError, match="expected 9 vertices, got 10"):
        mesh.with_vertices(np.zeros((10, 3)))


@pytest.mark.parametrize("mesh", [bumpy(5, 3), icosphere(1), together(grid(2, 2), icosphere(0)), Mesh([[0, 0, 0]], [])])
def test_edges_are_those_of_a_plain_loop(mesh: Mesh) -> None:
    uses: dict[tuple[int, int], int] = {}
    for a, b, c in mesh.triangles.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            uses[min(i, j), max(i, j)] = uses.get((min(i, j), max(i, j)), 0) + 1
    assert [tuple(edge) for edge in mesh.edges.tolist()] == sorted(uses)
    boundary = sorted(edge for edge, count in uses.items() if count == 1)
    assert [tuple(edge) for edge in mesh.boundary_edges.tolist()] == boundary
    assert mesh.boundary_vertices.tolist() == sorted({i for edge in boundary for i in edge})


def test_areas_and_normals_of_a_sphere() -> None:
    sphere = icosphere(3, radius=2)
    assert sphere.areas.sum() == pytest.approx(4 * np.pi * 4, rel=0.01)
    np.testing.assert_allclose(sphere.vertex_normals, sphere.vertices / 2, atol=0.02)
    outward = sphere.vertices[sphere.triangles].mean(axis=1)
    assert ((sphere.triangle_normals * outward).sum(axis=1) > 1.9).all()


def test_normals_are_zero_where_there_is_no_area() -> None:
    mesh = Mesh([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [9, 9, 9]], [[0, 1, 2], [0, 1, 3]])
    np.testing.assert_array_equal(mesh.triangle_normals, [[0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(mesh.vertex_normals[[2, 4]], np.zeros((2, 3)))


def test_components_are_counted_with_lone_vertices() -> None:
    mesh = together(grid(2, 1), icosphere(0), Mesh([[5, 5, 5]], []))
    labels = mesh.components
    assert [len(np.unique(labels[part])) for part in (slice(0, 6), slice(6, 18), slice(18, 19))] == [1, 1, 1]
    assert len(np.unique(labels)) == 3


@settings(max_examples=30)
@given(st.integers(0, 17), st.sampled_from(["vertex", "triangle", "order"]))
def test_the_hash_sees_every_change_but_not_float64_digits(number: int, kind: str) -> None:
    mesh = bumpy(3, 3)
    vertices, triangles = mesh.vertices.copy(), mesh.triangles.copy()
    if kind == "vertex":
        vertices[number % 16, number % 3] += 1e-4
    elif kind == "triangle":
        triangles[number] = np.roll(triangles[number], 1)
    else:
        triangles = np.roll(triangles, 1, axis=0)
    assert Mesh(vertices, triangles).content_hash != mesh.content_hash
    rounded = mesh.with_vertices(mesh.vertices.astype(np.float32))
    assert rounded.content_hash == mesh.content_hash


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_the_same_triangles_come_in_one_order_and_face_as_they_did(seed: int) -> None:
    rng = np.random.default_rng(seed)
    triangles = np.stack([rng.permutation(12)[:3] for _ in range(9)])
    turned = np.stack([np.roll(triangle, rng.integers(3)) for triangle in rng.permutation(triangles)])
    found = in_one_order(turned)
    rolled = [min(np.roll(triangle, k).tolist() for k in range(3)) for triangle in triangles]
    assert found.tolist() == sorted(rolled)
    assert in_one_order(triangles[:, ::-1]).tolist() != found.tolist()


def test_the_surface_leaves_out_vertices_that_no_triangle_uses() -> None:
    mesh = bumpy(3, 2)
    spread = np.full((2 * len(mesh.vertices), 3), 77.0)
    spread[1::2] = mesh.vertices
    kept, surface = surface_of(Mesh(spread, 2 * mesh.triangles + 1))
    np.testing.assert_array_equal(kept, np.arange(1, len(spread), 2))
    np.testing.assert_array_equal(surface.vertices, mesh.vertices)
    np.testing.assert_array_equal(surface.triangles, mesh.triangles)


def test_triangles_that_share_nothing_are_joined_and_a_few_doubles_are_not() -> None:
    mesh = bumpy(3, 2)
    corners = mesh.vertices[mesh.triangles].reshape(-1, 3)
    kept, joined = surface_of(Mesh(corners, np.arange(len(corners)).reshape(-1, 3)))
    assert len(kept) == len(mesh.vertices)
    np.testing.assert_array_equal(joined.vertices[joined.triangles], mesh.vertices[mesh.triangles])
    np.testing.assert_array_equal(joined.vertices, corners[kept])
    assert (np.diff(kept) > 0).all()
    for doubles, count in ((2, 6), (3, 3)):  # of six vertices; half of them decide
        vertices = np.arange(18.0).reshape(6, 3)
        vertices[6 - doubles :] = vertices[:doubles]
        kept, surface = surface_of(Mesh(vertices, [[0, 1, 2], [3, 4, 5]]))
        assert kept.tolist() == list(range(count))
        np.testing.assert_array_equal(surface.vertices[surface.triangles], vertices[[[0, 1, 2], [3, 4, 5]]])


def test_counts_from_files_are_bounded() -> None:
    assert within_bounds(3.0, "rows", 3) == 3
    for count in (4, np.inf, np.nan, 3.5):
        with pytest.raises(MeshganError, match="rows; 3 are read at most"):
            within_bounds(count, "rows", 3)


def test_values_cannot_be_changed_and_arrays_are_not_compared() -> None:
    for module in (align, decimate, glb, hierarchy, laplacian, mesh_module, plaintext, ply, surface):
        assert_sound_values(module, {"_Scene"})


def test_faces_are_numbered_with_three_digits_or_as_many_as_they_need() -> None:
    assert files.face_names("face", 3) == ["face-000", "face-001", "face-002"]
    assert files.face_names("face", 1000)[-1] == "face-999"
    assert files.face_names("face", 1001)[::500] == ["face-0000", "face-0500", "face-1000"]
