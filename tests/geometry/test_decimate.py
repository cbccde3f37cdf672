import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.decimate import STAGES, _choose, _State, decimate
from meshgan.geometry.mesh import Mesh
from shapes import bumpy, grid, icosphere, together


def directed_edges(mesh: Mesh) -> np.ndarray:
    return mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def euler(mesh: Mesh) -> int:
    return len(np.unique(mesh.triangles)) - len(mesh.edges) + len(mesh.triangles)


def assert_sound(coarse: Mesh, fine: Mesh) -> None:
    """Oriented and manifold (each directed edge once), same topology, same components, nothing left over."""
    edges = directed_edges(coarse)
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert euler(coarse) == euler(fine)
    assert len(np.unique(coarse.components)) == len(np.unique(fine.components))
    assert len(np.unique(coarse.triangles)) == len(coarse.vertices)


def one_at_a_time(mesh: Mesh, count: int) -> Mesh:
    """The textbook: always the single cheapest collapse."""
    state = _State(mesh, count)
    while state.surplus:
        state.collapse(_choose(state, STAGES[0])[:1])
    number = np.cumsum(state.alive) - 1
    return Mesh(mesh.vertices[state.alive], number[state.triangles])


CASES = [
    (bumpy(20, 14), 80),
    (icosphere(3), 50),
    (together(icosphere(2), bumpy(8, 6), icosphere(0)), 40),
]


@pytest.mark.parametrize(("fine", "count"), CASES)
def test_the_coarse_mesh_is_a_subset_of_exact_size_and_sound(fine: Mesh, count: int) -> None:
    result = decimate(fine, count)
    assert result.kept.shape == (count,)
    assert (np.diff(result.kept) > 0).all()
    np.testing.assert_array_equal(result.mesh.vertices, fine.vertices[result.kept])
    assert_sound(result.mesh, fine)
    assert result.stage == 0


@settings(max_examples=25)
@given(st.integers(3, 9), st.integers(3, 9), st.integers(0, 1000), st.floats(0.15, 1.0))
def test_any_open_surface_stays_sound(columns: int, rows: int, seed: int, share: float) -> None:
    fine = together(bumpy(columns, rows, seed), bumpy(3, 3, seed))
    count = max(16, round(share * len(fine.vertices)))
    coarse = decimate(fine, count).mesh
    assert len(coarse.vertices) == count
    assert_sound(coarse, fine)


@pytest.mark.parametrize("count", [200, 50, 12])
def test_no_triangle_of_a_sphere_is_turned_over(count: int) -> None:
    coarse = decimate(icosphere(3), count).mesh
    outward = coarse.vertices[coarse.triangles].mean(axis=1)
    assert ((coarse.triangle_normals * outward).sum(axis=1) > 0.2 * np.linalg.norm(outward, axis=1)).all()


@pytest.mark.parametrize("fine", [bumpy(25, 25), CASES[2][0]])
def test_no_triangle_faces_away_from_the_original_surface(fine: Mesh) -> None:
    for count in (150, 40):
        result = decimate(fine, count)
        original = fine.vertex_normals[result.kept][result.mesh.triangles].mean(axis=1)
        assert ((original * result.mesh.triangle_normals).sum(axis=1) > 0).all()


def test_deep_folds_survive() -> None:
    """A pleated sheet, whose folds nearly touch, like lids and lips."""
    flat = grid(80, 12, jitter=0.1)
    x, y, _ = flat.vertices.T
    pleats = flat.with_vertices(np.stack([x / 8, y, 3 * np.sin(x / 2)], axis=1))
    coarse = decimate(pleats, 150)
    original = pleats.vertex_normals[coarse.kept][coarse.mesh.triangles].mean(axis=1)
    assert ((original * coarse.mesh.triangle_normals).sum(axis=1) > 0).all()


def test_a_plane_keeps_its_outline_and_never_folds() -> None:
    fine = grid(12, 9, jitter=0.2)
    coarse = decimate(fine, 25).mesh
    np.testing.assert_allclose(coarse.areas.sum(), 12 * 9)
    assert (coarse.triangle_normals[:, 2] > 0.99).all()
    for corner in ([0, 0, 0], [12, 0, 0], [0, 9, 0], [12, 9, 0]):
        assert (coarse.vertices == corner).all(axis=1).any()


def test_details_are_kept_and_flat_parts_thinned() -> None:
    flat = grid(20, 20, jitter=0.1)
    x, y, _ = flat.vertices.T
    nose = 4 * np.exp(-((x - 10) ** 2 + (y - 10) ** 2) / 4)
    kept = decimate(flat.with_vertices(np.stack([x, y, nose], axis=1)), 110).kept
    near = np.hypot(x - 10, y - 10) < 4
    assert near[kept].mean() > 2 * near.mean()


def test_the_rounds_are_as_accurate_as_one_collapse_at_a_time() -> None:
    fine = bumpy(22, 22)
    x, y, z = fine.vertices.T

    def height_error(coarse: Mesh) -> float:
        from matplotlib.tri import LinearTriInterpolator, Triangulation

        surface = Triangulation(coarse.vertices[:, 0], coarse.vertices[:, 1], coarse.triangles)
        return float(np.abs(LinearTriInterpolator(surface, coarse.vertices[:, 2])(x, y) - z).mean())

    assert height_error(decimate(fine, 60).mesh) < 1.15 * height_error(one_at_a_time(fine, 60))


def test_the_same_mesh_gives_the_same_result() -> None:
    np.testing.assert_array_equal(decimate(bumpy(15, 15), 64).kept, decimate(bumpy(15, 15), 64).kept)


def test_the_whole_mesh_is_its_own_decimation() -> None:
    mesh = bumpy(4, 4)
    result = decimate(mesh, len(mesh.vertices))
    np.testing.assert_array_equal(result.mesh.triangles, mesh.triangles)
    np.testing.assert_array_equal(result.kept, np.arange(len(mesh.vertices)))


def test_vertices_without_triangles_go_first() -> None:
    mesh = bumpy(5, 5)
    lonely = Mesh(np.concatenate([mesh.vertices, np.ones((7, 3))]), mesh.triangles)
    np.testing.assert_array_equal(decimate(lonely, len(mesh.vertices)).kept, np.arange(len(mesh.vertices)))
    np.testing.assert_array_equal(decimate(lonely, 40).kept, np.arange(40))
    np.testing.assert_array_equal(decimate(lonely, 20).kept, decimate(mesh, 20).kept)


def test_degenerate_and_duplicate_triangles_do_no_harm() -> None:
    mesh = bumpy(8, 8)
    dirty = Mesh(mesh.vertices, np.concatenate([mesh.triangles, mesh.triangles[:9, [1, 0, 2]], [[0, 0, 1], [5, 5, 5]]]))
    np.testing.assert_array_equal(decimate(dirty, 30).mesh.triangles, decimate(mesh, 30).mesh.triangles)


def test_vertices_at_the_same_place_can_be_removed() -> None:
    mesh = bumpy(6, 6)
    vertices = mesh.vertices.copy()
    vertices[24] = vertices[25] = vertices[17]
    coarse = decimate(mesh.with_vertices(vertices), 20).mesh
    assert_sound(coarse, mesh)


def test_an_edge_of_three_triangles_gets_no_worse() -> None:
    sheet = bumpy(6, 6)
    fin = Mesh(np.concatenate([sheet.vertices, [[3, 3, 9]]]), np.concatenate([sheet.triangles, [[24, 25, 49]]]))
    coarse = decimate(fin, 20).mesh
    _, counts = np.unique(np.sort(directed_edges(coarse), axis=1), axis=0, return_counts=True)
    assert counts.max() == 3
    assert (counts == 3).sum() == 1


@pytest.mark.parametrize(("mesh", "fewest"), [(icosphere(1), 4), (grid(3, 3), 3)])
def test_what_cannot_be_reached_is_said(mesh: Mesh, fewest: int) -> None:
    assert len(decimate(mesh, 1, exact=False).kept) == fewest
    with pytest.raises(MeshganError, match=f"{fewest} is the fewest"):
        decimate(mesh, fewest - 1)


@pytest.mark.parametrize("count", [0, -3, 26])
def test_a_senseless_count_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="cannot be reduced"):
        decimate(grid(4, 4), count)
