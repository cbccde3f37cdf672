"""Small operators for the tests of the networks, random but of the right kind."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
import scipy.spatial


def laplacian(vertices: int, rng: np.random.Generator) -> sp.csr_array:
    """An unsymmetric A⁻¹W of a random planar triangulation, rescaled to eigenvalues in [-1, 1]."""
    points = rng.random((vertices, 2))
    corners = scipy.spatial.Delaunay(points).simplices
    i, j = corners[:, [0, 1, 2]].ravel(), corners[:, [1, 2, 0]].ravel()
    weights = sp.coo_array((rng.uniform(0.2, 1.0, len(i)), (i, j)), shape=(vertices, vertices)).tocsr()
    weights = weights + weights.T
    stiffness = sp.diags_array(weights.sum(axis=1)) - weights
    mass = rng.uniform(0.5, 1.5, vertices)
    matrix = (sp.diags_array(1 / mass) @ stiffness).tocsr()
    root = sp.diags_array(mass**-0.5)  # A^-½ W A^-½ is symmetric and has the same eigenvalues
    similar = (root @ stiffness @ root).tocsr()
    if vertices < 50:
        largest = np.linalg.eigvalsh(similar.toarray())[-1]
    else:
        largest = scipy.sparse.linalg.eigsh(similar, k=1, v0=rng.random(vertices), return_eigenvectors=False)[0]
    return sp.csr_array(2 / largest * matrix - sp.eye_array(vertices))


def upsampling(fine: int, coarse: int, rng: np.random.Generator) -> sp.csr_array:
    """Rows of three positive weights that sum to 1."""
    columns = np.argsort(rng.random((fine, coarse)), axis=1)[:, : min(3, coarse)]
    weights = rng.uniform(0.1, 1.0, columns.shape)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(fine), columns.shape[1])
    return sp.csr_array((weights.ravel(), (rows, columns.ravel())), shape=(fine, coarse))


def hierarchy(counts: tuple[int, ...] = (60, 30, 15, 8, 5), seed: int = 0) -> Any:
    """A stand-in with the fields of `Hierarchy` that the networks read."""
    rng = np.random.default_rng(seed)
    levels = []
    for i, count in enumerate(counts):
        last = i + 1 == len(counts)
        levels.append(
            SimpleNamespace(
                laplacian=laplacian(count, rng),
                kept=None if last else np.sort(rng.choice(count, counts[i + 1], replace=False)),
                up=None if last else upsampling(count, counts[i + 1], rng),
            )
        )
    return SimpleNamespace(levels=tuple(levels))
