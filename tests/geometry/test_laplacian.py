import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshgan.geometry import laplacian as laplacian_module
from meshgan.geometry.laplacian import (
    combinatorial_laplacian,
    cotangent_laplacian,
    cotangent_weights,
    largest_eigenvalue,
    mass,
    rescale,
)
from meshgan.geometry.mesh import Mesh
from shapes import bumpy, grid, icosphere, together

MESHES = [bumpy(9, 7), icosphere(2), together(icosphere(1), grid(3, 2))]


def weights_by_the_paper(mesh: Mesh) -> np.ndarray:
    """Sec. 3.1 written out as loops, in the paper's sign (positive weights off the diagonal)."""
    W = np.zeros((len(mesh.vertices),) * 2)
    for triangle, area in zip(mesh.triangles.tolist(), mesh.areas, strict=True):
        for turn in range(3):
            i, j, k = triangle[turn:] + triangle[:turn]
            squares = [((mesh.vertices[a] - mesh.vertices[b]) ** 2).sum() for a, b in ((i, j), (j, k), (k, i))]
            W[i, j] += (-squares[0] + squares[1] + squares[2]) / (8 * area)
            W[j, i] += (-squares[0] + squares[1] + squares[2]) / (8 * area)
    return W - np.diag(W.sum(axis=1))


@pytest.mark.parametrize("mesh", MESHES)
def test_weights_are_those_of_the_paper(mesh: Mesh) -> None:
    np.testing.assert_allclose(cotangent_weights(mesh).toarray(), -weights_by_the_paper(mesh), atol=1e-12)


def test_known_cotangents() -> None:
    """An equilateral triangle has weights cot(60°)/2; the right angle of a half square has none."""
    equilateral = Mesh([[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(3) / 2, 0]], [[0, 1, 2]])
    half_cotangent = 0.5 / np.sqrt(3)
    np.testing.assert_allclose(cotangent_weights(equilateral).toarray(), half_cotangent * (3 * np.eye(3) - 1))
    half_square = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    np.testing.assert_allclose(cotangent_weights(half_square).toarray()[1, 2], 0, atol=1e-15)
    np.testing.assert_allclose(cotangent_weights(half_square).toarray()[0, 1], -0.5)


@pytest.mark.parametrize("mesh", MESHES)
def test_weights_are_symmetric_semi_definite_and_zero_on_constants(mesh: Mesh) -> None:
    W = cotangent_weights(mesh)
    assert (W != W.T).nnz == 0
    eigenvalues = np.linalg.eigvalsh(W.toarray())
    assert eigenvalues[0] > -1e-10
    assert (eigenvalues < 1e-9).sum() == len(np.unique(mesh.components))
    np.testing.assert_allclose(cotangent_laplacian(mesh) @ np.ones(len(mesh.vertices)), 0, atol=1e-10)


def test_linear_functions_are_harmonic_inside_a_plane() -> None:
    mesh = grid(8, 8, jitter=0.3)
    values = cotangent_laplacian(mesh) @ (mesh.vertices @ [2.0, -3.0, 1.0])
    inside = np.setdiff1d(np.arange(len(mesh.vertices)), mesh.boundary_vertices)
    np.testing.assert_allclose(values[inside], 0, atol=1e-10)
    assert np.abs(values[mesh.boundary_vertices]).max() > 0.1


def test_a_boundary_edge_uses_its_one_triangle() -> None:
    square = grid(1, 1)
    W = cotangent_weights(square).toarray()
    np.testing.assert_allclose(W[0, 1], -0.5)  # opposite 45°
    np.testing.assert_allclose(W[0, 3], 0, atol=1e-15)  # the diagonal: opposite two right angles


def test_an_obtuse_angle_gives_a_negative_weight() -> None:
    obtuse = Mesh([[0, 0, 0], [4, 0, 0], [2, 0.5, 0]], [[0, 1, 2]])
    W = cotangent_weights(obtuse).toarray()
    assert W[0, 1] > 0
    assert np.linalg.eigvalsh(W)[0] > -1e-12


@pytest.mark.parametrize("mesh", MESHES)
def test_mass_sums_to_the_area(mesh: Mesh) -> None:
    np.testing.assert_allclose(mass(mesh).sum(), mesh.areas.sum())
    corner = mesh.triangles[0, 0]
    np.testing.assert_allclose(mass(mesh)[corner], mesh.areas[(mesh.triangles == corner).any(axis=1)].sum() / 3)


def test_degenerate_and_duplicate_triangles_and_lone_vertices_change_nothing() -> None:
    clean = bumpy(5, 4)
    v = len(clean.vertices)
    vertices = np.concatenate([clean.vertices, [[1, 1, 1], [2, 2, 2], [3, 3, 3], [9, 9, 9]]])
    extra = [[v, v + 1, v + 2], [0, 0, 1], [3, 3, 3], clean.triangles[4][[1, 2, 0]], clean.triangles[5][[2, 1, 0]]]
    dirty = Mesh(vertices, np.concatenate([clean.triangles, extra]))
    for operator in (cotangent_weights, cotangent_laplacian):
        result = operator(dirty).toarray()
        np.testing.assert_array_equal(result[:v, :v], operator(clean).toarray())
        assert not result[v:].any()
    np.testing.assert_array_equal(mass(dirty), np.append(mass(clean), np.zeros(4)))
    assert largest_eigenvalue(cotangent_laplacian(dirty)) == pytest.approx(
        largest_eigenvalue(cotangent_laplacian(clean))
    )
    assert not combinatorial_laplacian(dirty).toarray()[v + 3].any()


def test_three_points_in_a_line_stored_as_float32_count_as_degenerate() -> None:
    line = np.array([[101.1, 33.3, 57.7], [102.2, 33.9, 58.1]])
    vertices = np.concatenate([line, [line.mean(axis=0)]]).astype(np.float32)
    assert cotangent_weights(Mesh(vertices, [[0, 1, 2]])).nnz == 0


@pytest.mark.parametrize("mesh", [Mesh([[0, 0, 0]] * 3, [[0, 1, 2]]), Mesh(np.zeros((4, 3)), [])])
def test_a_mesh_without_area_has_a_laplacian_of_zeros(mesh: Mesh) -> None:
    laplacian = cotangent_laplacian(mesh)
    assert largest_eigenvalue(laplacian) == 0
    np.testing.assert_array_equal(rescale(laplacian, 0.0).toarray(), -np.eye(len(mesh.vertices)))


def test_eigenvalues_on_the_sphere_converge_with_second_order() -> None:
    """On the unit sphere they are l(l + 1), each 2l + 1 times."""
    expected = np.array([2] * 3 + [6] * 5 + [12] * 7, dtype=float)
    errors = []
    for subdivisions in (1, 2, 3):
        eigenvalues = np.sort(np.linalg.eigvals(cotangent_laplacian(icosphere(subdivisions)).toarray()).real)
        errors.append(np.abs(eigenvalues[1:16] - expected).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])  # each subdivision halves the edges
    assert (orders > 1.8).all()
    assert errors[-1] < 0.06 * 12


@pytest.mark.parametrize("operator", [cotangent_laplacian, combinatorial_laplacian])
@pytest.mark.parametrize("mesh", MESHES)
def test_the_largest_eigenvalue_is_that_of_a_dense_solver(mesh: Mesh, operator) -> None:
    laplacian = operator(mesh)
    expected = np.linalg.eigvals(laplacian.toarray()).real.max()
    assert largest_eigenvalue(laplacian) == pytest.approx(expected, rel=1e-9)
    assert largest_eigenvalue(laplacian) == largest_eigenvalue(laplacian)


def test_without_convergence_the_largest_eigenvalue_is_bounded_from_above(monkeypatch) -> None:
    def fail(*_, **__):
        raise laplacian_module.ArpackNoConvergence("no", np.array([]), np.array([]))

    laplacian = cotangent_laplacian(MESHES[1])
    expected = largest_eigenvalue(laplacian)
    monkeypatch.setattr(laplacian_module, "eigsh", fail)
    assert expected <= largest_eigenvalue(laplacian) < 3 * expected


@pytest.mark.parametrize("operator", [cotangent_laplacian, combinatorial_laplacian])
def test_rescaling_puts_the_spectrum_between_minus_one_and_one(operator) -> None:
    laplacian = operator(bumpy(9, 7))
    rescaled = rescale(laplacian, largest_eigenvalue(laplacian))
    eigenvalues = np.linalg.eigvals(rescaled.toarray()).real
    assert eigenvalues.min() == pytest.approx(-1, abs=1e-9)
    assert eigenvalues.max() == pytest.approx(1, abs=1e-9)


def test_the_combinatorial_laplacian_is_the_normalised_one() -> None:
    mesh = MESHES[2]
    A = np.zeros((len(mesh.vertices),) * 2)
    A[tuple(mesh.edges.T)] = A[tuple(mesh.edges.T[::-1])] = 1
    root = np.diag(1 / np.sqrt(A.sum(axis=1)))
    np.testing.assert_allclose(combinatorial_laplacian(mesh).toarray(), np.eye(len(A)) - root @ A @ root, atol=1e-15)


@given(st.integers(0, 2**31), st.floats(0.1, 50))
def test_the_laplacian_knows_neither_position_nor_numbering_and_scales_with_area(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    mesh = bumpy(4, 4)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    order = rng.permutation(len(mesh.vertices))
    moved = Mesh((scale * mesh.vertices @ rotation + rng.standard_normal(3))[order], np.argsort(order)[mesh.triangles])
    expected = cotangent_laplacian(mesh).toarray()[np.ix_(order, order)] / scale**2
    np.testing.assert_allclose(cotangent_laplacian(moved).toarray(), expected, rtol=1e-7, atol=1e-9 / scale**2)
