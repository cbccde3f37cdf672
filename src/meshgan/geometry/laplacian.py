"""Laplacians of a mesh: positive semi-definite, zero on constants.

`cotangent_laplacian` is the one of the MeshGAN paper (Sec. 3.1), `combinatorial_laplacian` the one of CoMA. Both are
handed to Chebyshev polynomials, which need the spectrum in [-1, 1]: `largest_eigenvalue`, then `rescale`.
"""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh

from meshgan.arrays import Floats, Integers
from meshgan.geometry.mesh import Mesh

# Below this ratio of area to squared longest edge, a triangle is degenerate: three points of a face in one line,
# stored in float32 millimetres, come out near 1e-5, and weights beyond its inverse would drown the whole spectrum.
DEGENERATE = 1e-5

DENSE_SIZE = 64  # up to here a dense solver is quicker than Lanczos, and cannot fail to converge


def cotangent_weights(mesh: Mesh) -> sp.csr_array:
    """W (V, V): symmetric, `W_ij = -w_ij` on edges and `W_ii = sum_j w_ij`, so that W is positive semi-definite.

    `w_ij` is the paper's, from edge lengths l and triangle areas A alone: the sum over the one or two triangles
    (i, j, k) of `(-l_ij² + l_jk² + l_ki²) / (8 A_ijk)`, half the cotangent of the angle at k. It is negative
    across obtuse angles; W stays semi-definite all the same. Duplicate triangles count once, degenerate ones not
    at all, an edge of more than two triangles sums over all of them, and an unreferenced vertex has a row of zeros.
    """
    triangles, lengths, areas = _metric(mesh)
    squares = lengths**2
    half_cotangents = (squares.sum(axis=1, keepdims=True) - 2 * squares) / (8 * areas[:, None])
    i, j = triangles[:, [1, 2, 0]].ravel(), triangles[:, [2, 0, 1]].ravel()
    weights = sp.coo_array((half_cotangents.ravel(), (i, j)), shape=(len(mesh.vertices),) * 2).tocsr()
    weights = weights + weights.T
    return (sp.diags_array(weights.sum(axis=1)) - weights).tocsr()


def mass(mesh: Mesh) -> Floats:
    """Local areas (V,) in mm²: a third of the areas around each vertex; zero where there are none."""
    triangles, _, areas = _metric(mesh)
    thirds = np.bincount(triangles.ravel(), weights=np.repeat(areas / 3, 3), minlength=len(mesh.vertices))
    return thirds.astype(np.float64)  # without triangles, bincount forgets its weights and counts in integers


def cotangent_laplacian(mesh: Mesh) -> sp.csr_array:
    """The paper's Laplacian `A⁻¹W` (V, V), in 1/mm²; vertices without area have a row of zeros."""
    areas = mass(mesh)
    inverse = np.divide(1.0, areas, out=np.zeros_like(areas), where=areas > 0)
    return (sp.diags_array(inverse) @ cotangent_weights(mesh)).tocsr()


def combinatorial_laplacian(mesh: Mesh) -> sp.csr_array:
    """The symmetric normalised graph Laplacian `I - D^-1/2 A D^-1/2` (V, V); zero rows for unreferenced vertices."""
    i, j = mesh.edges[mesh.edges[:, 0] != mesh.edges[:, 1]].T
    graph = sp.coo_array((np.ones(len(i)), (i, j)), shape=(len(mesh.vertices),) * 2).tocsr()
    graph = graph + graph.T
    degrees = graph.sum(axis=1)
    scale = sp.diags_array(np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0))
    return (sp.diags_array((degrees > 0).astype(np.float64)) - scale @ graph @ scale).tocsr()


def largest_eigenvalue(laplacian: sp.csr_array) -> float:
    """The largest eigenvalue of a Laplacian of this module.

    `A⁻¹W` is similar to the symmetric `A^-1/2 W A^-1/2`, whose entries are `±sqrt(L_ij L_ji)`. Lanczos starts from
    a fixed vector, so that the same mesh gives the same number; should it fail, Gershgorin's bound, which is never
    too small, takes its place.
    """
    symmetric = _symmetrised(laplacian)
    if symmetric.shape[0] <= DENSE_SIZE:
        return float(np.linalg.eigvalsh(symmetric.toarray())[-1])
    start = np.random.default_rng(0).standard_normal(symmetric.shape[0])
    try:
        return float(eigsh(symmetric, k=1, which="LA", v0=start, return_eigenvectors=False)[0])
    except (ArpackNoConvergence, ArpackError):
        return float(abs(symmetric).sum(axis=1).max())


def rescale(laplacian: sp.csr_array, lambda_max: float) -> sp.csr_array:
    """`2 L / λmax - I`: eigenvalues from [0, λmax] to [-1, 1]; a Laplacian of zeros becomes `-I`."""
    factor = 2.0 / lambda_max if lambda_max > 0 else 0.0
    return (factor * laplacian - sp.eye_array(laplacian.shape[0])).tocsr()


def _symmetrised(laplacian: sp.csr_array) -> sp.csr_array:
    products = laplacian.multiply(laplacian.T).tocsr()
    products.data = np.sqrt(np.maximum(products.data, 0.0))
    return laplacian.sign().multiply(products).tocsr()


def _metric(mesh: Mesh) -> tuple[Integers, Floats, Floats]:
    """Distinct triangles with area (F, 3), the length (F, 3) of the edge opposite each corner, the areas (F,)."""
    _, first = np.unique(np.sort(mesh.triangles, axis=1), axis=0, return_index=True)
    triangles = mesh.triangles[np.sort(first)]
    ends = mesh.vertices[triangles[:, [1, 2, 0]]] - mesh.vertices[triangles[:, [2, 0, 1]]]
    lengths = np.linalg.norm(ends, axis=2)
    areas = _areas(lengths)
    sound = areas > DEGENERATE * lengths.max(axis=1, initial=0.0) ** 2
    return triangles[sound], lengths[sound], areas[sound]


def _areas(lengths: Floats) -> Floats:
    """Triangle areas from edge lengths: Heron's formula in Kahan's order, which does not cancel on needles."""
    c, b, a = np.sort(lengths, axis=1).T
    product = (a + (b + c)) * (c - (a - b)) * (c + (a - b)) * (a + (b - c))
    return np.sqrt(np.maximum(product, 0.0)) / 4
