"""The numerical core against slow references: banded solver, similarity, folds, cleaning."""

import numpy as np
import pytest
import scipy.sparse as sp
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from meshgan.errors import MeshganError
from meshgan.geometry.align import Similarity, robust_similarity, similarity
from meshgan.geometry.mesh import Mesh
from meshgan.registration import scan
from meshgan.registration.nricp import BandedForm, folded, unfolded


def sphere(level=3, radius=50.0):
    ball = trimesh.creation.icosphere(level, radius=radius)
    return Mesh(ball.vertices, ball.faces)


def graph_laplacian(edges, count):
    i, j = edges.T
    adjacency = sp.coo_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(count, count)).tocsr()
    return sp.csr_array(sp.diags_array(adjacency.sum(axis=1)) - adjacency)


@pytest.mark.parametrize("block", [1, 4])
def test_banded_form_solves_what_the_dense_solver_solves(block):
    rng = np.random.default_rng(0)
    mesh = sphere(1)
    count = len(mesh.vertices)
    stiffness = sp.csr_array(sp.kron(graph_laplacian(mesh.edges, count), np.eye(block)))
    rows = sp.random_array((150, count * block), density=0.05, rng=rng, format="csr") + sp.eye_array(150, count * block)
    weights, targets = rng.random(150) + 0.1, rng.normal(size=(150, 3))
    stiffness = stiffness + 0.01 * sp.eye_array(count * block)
    found = BandedForm(sp.csr_array(stiffness), sp.csr_array(rows), block).solve(0.7, weights, targets)
    dense = rows.toarray()
    matrix = 0.7 * stiffness.toarray() + dense.T @ (weights[:, None] * dense)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, dense.T @ (weights[:, None] * targets)), atol=1e-10)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_similarities_compose_and_invert(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(20, 3))
    one, two = (Similarity(rng.uniform(0.1, 9), Rotation.random(rng=rng).as_matrix(), rng.normal(size=3)) for _ in "ab")
    np.testing.assert_allclose(one.after(two)(points), one(two(points)), atol=1e-9)
    np.testing.assert_allclose(one.inverse(one(points)), points, atol=1e-9)
    np.testing.assert_allclose(one.inverse.after(two)(points), one.inverse(two(points)), atol=1e-9)
    found = similarity(points, one(points), rng.random(20) + 0.1)
    np.testing.assert_allclose(found(points), one(points), atol=1e-9)


def test_the_robust_similarity_shrugs_off_gross_errors():
    rng = np.random.default_rng(0)
    points = rng.normal(scale=50, size=(60, 3))
    truth = Similarity(1.2, Rotation.random(rng=rng).as_matrix(), np.array([5.0, -3.0, 100.0]))
    targets = truth(points) + rng.normal(scale=0.5, size=points.shape)
    targets[:12] += rng.normal(scale=80, size=(12, 3))
    found = robust_similarity(points, targets, np.ones(60))
    assert np.linalg.norm(found(points) - truth(points), axis=1).max() < 1.0
    plain = similarity(points, targets, np.ones(60))
    assert np.linalg.norm(plain(points) - truth(points), axis=1).max() > 5.0  # the test can tell


def test_folds_are_found_and_ironed_out_locally():
    reference = sphere(3)
    vertices = reference.vertices.copy()
    vertices[100] = vertices[100] * 0.9 + np.array([0.0, 14.0, 0.0])  # pushed across its neighbours
    crumpled = reference.with_vertices(vertices)
    assert folded(crumpled, reference.vertices).any()
    flat = unfolded(crumpled, reference.vertices)
    assert not folded(reference.with_vertices(flat), reference.vertices).any()
    moved = np.linalg.norm(flat - vertices, axis=1) > 1e-9
    assert moved.sum() < 60
    same = unfolded(reference, reference.vertices)
    np.testing.assert_array_equal(same, reference.vertices)


def soup(mesh):
    """Every triangle with corners of its own, as STL files have them."""
    corners = mesh.vertices[mesh.triangles].reshape(-1, 3)
    return Mesh(corners, np.arange(len(corners)).reshape(-1, 3))


def test_cleaning_welds_seams_and_drops_what_has_no_area():
    whole = sphere(3)
    dirty = soup(whole)
    twisted = np.concatenate([dirty.triangles, dirty.triangles[:50], [[0, 0, 1], [2, 2, 2]]])
    far_vertex = np.concatenate([dirty.vertices, [[40.0, 0.0, 0.0]]])
    clean = scan.cleaned(Mesh(far_vertex, twisted))
    assert len(clean.vertices) == len(whole.vertices)
    assert len(clean.triangles) == len(whole.triangles)
    assert not len(clean.boundary_edges)
    assert len(soup(whole).boundary_edges) == 3 * len(whole.triangles)


@pytest.mark.parametrize("vertices", [np.zeros((900, 3)), np.eye(3)[np.arange(900) % 3] * 1e-300])
def test_a_mesh_without_a_surface_is_refused(vertices):
    with pytest.raises(MeshganError, match="0 usable triangles"):
        scan.cleaned(Mesh(vertices, np.arange(900).reshape(-1, 3)))
    with pytest.raises(MeshganError, match="1 usable triangle;"):
        scan.cleaned(Mesh(np.eye(3), np.arange(3)[None]))


def test_too_many_triangles_are_refused_at_once():
    mesh = Mesh(np.eye(3), np.zeros((scan.MOST_TRIANGLES + 1, 3), dtype=np.int64))
    with pytest.raises(MeshganError, match="reduce it"):
        scan.cleaned(mesh)


def test_thinning_bounds_the_count_and_keeps_the_shape():
    fine = sphere(5)
    thin = scan.thinned(fine, 3000)
    assert 1000 < len(thin.triangles) <= 3000
    assert np.abs(np.linalg.norm(thin.vertices, axis=1) - 50).max() < 2.0
    assert scan.thinned(thin, 3000) is thin


def test_a_scan_is_turned_to_face_as_the_model_does():
    whole = sphere(3)
    inside_out = Mesh(whole.vertices, whole.triangles[:, ::-1])
    rng = np.random.default_rng(0)
    mixed = Mesh(
        whole.vertices, np.where(rng.random((len(whole.triangles), 1)) < 0.5, whole.triangles, whole.triangles[:, ::-1])
    )
    for broken in (whole, inside_out, mixed):
        mended = scan.facing_like(broken, whole)
        outward = np.einsum("fc,fc->f", mended.triangle_normals, mended.vertices[mended.triangles].mean(axis=1))
        assert (outward > 0).all()


def test_the_extent_of_a_scan_ignores_specks():
    ball = sphere(3)
    speck = sphere(0).vertices * 0.001 + [5000.0, 0, 0]
    both = Mesh(
        np.concatenate([ball.vertices, speck]),
        np.concatenate([ball.triangles, sphere(0).triangles + len(ball.vertices)]),
    )
    centre, radius = scan.extent(both)
    assert np.linalg.norm(centre) < 1.0
    assert 50 < radius < 100


def test_stray_pieces_are_not_looked_at_but_a_scan_torn_to_pieces_is():
    """Pieces that are a twentieth of the largest one, wherever they float, and as many small ones as make a face."""
    ball, shift = sphere(3), np.array([400.0, 0, 0])
    parts = [ball, ball.with_vertices(0.5 * ball.vertices - shift), ball.with_vertices(0.1 * ball.vertices + shift)]
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    whole = Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=False)]),
    )
    kept = scan.bulk(whole)
    np.testing.assert_array_equal(kept.vertices, whole.vertices[: starts[2]])
    assert kept.areas.sum() == pytest.approx(1.25 * ball.areas.sum())
    assert scan.bulk(kept) is kept
    torn = Mesh(ball.vertices[ball.triangles].reshape(-1, 3), np.arange(ball.triangles.size).reshape(-1, 3))
    crumbs = torn.with_vertices(torn.vertices * np.repeat(1 + 9 * (np.arange(len(ball.triangles)) == 0), 3)[:, None])
    assert scan.bulk(crumbs) is crumbs
