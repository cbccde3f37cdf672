"""Symmetric positive definite systems of a mesh, solved by LAPACK's banded Cholesky factorisation.

Vertices of a mesh, ordered by Cuthill and McKee's breadth-first search, touch only vertices near them in the order.
On graphs of the size of a face template that beats the sparse direct solvers that pip installs everywhere
(SuperLU, CHOLMOD through cholespy, QDLDL).
"""

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.sparse.csgraph import reverse_cuthill_mckee

from meshgan.arrays import Floats, Integers


class BandedForm:
    """Minimises `alpha x'Kx + sum_m w_m |rows_m x - t_m|^2`, for many alphas, weights w and targets t.

    K (N, N) is symmetric, `rows` (M, N) are the linear forms that data weigh. Unknowns come in blocks of `block`
    that are ordered together. The order and the pattern of K are worked out once.
    """

    def __init__(self, stiffness: sp.csr_array, rows: sp.csr_array, block: int = 1) -> None:
        self.rows = rows
        self._order = _block_order(stiffness, rows, block)
        self._stiffness = sp.csr_array(stiffness[self._order][:, self._order])
        self._placed = sp.csr_array(rows[:, self._order])
        self._transposed = sp.csr_array(self._placed.T)

    def solve(self, alpha: float, weights: Floats, targets: Floats) -> Floats:
        """The minimiser x (N, C) for weights (M,) and targets (M, C)."""
        weighted = sp.diags_array(weights) @ self._placed
        matrix = sp.coo_array(alpha * self._stiffness + self._transposed @ weighted)
        band = _band(matrix.row, matrix.col, matrix.data, matrix.shape[0])
        factor = cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
        solution = np.empty((len(self._order), targets.shape[1]))
        right = self._transposed @ (weights[:, None] * targets)
        solution[self._order] = cho_solve_banded((factor, True), right, overwrite_b=True, check_finite=False)
        return solution


def _block_order(stiffness: sp.csr_array, rows: sp.csr_array, block: int) -> Integers:
    """Cuthill-McKee order of the nodes (blocks of unknowns) of the whole pattern, spelt out for the unknowns."""
    count = stiffness.shape[0]
    member = sp.csr_array((np.ones(count), (np.arange(count) // block, np.arange(count))))
    nodes = [
        sp.csr_array(member @ abs(matrix)) @ member.T for matrix in (stiffness, sp.csr_array(abs(rows).T @ abs(rows)))
    ]
    order = reverse_cuthill_mckee(sp.csr_matrix(nodes[0] + nodes[1]), symmetric_mode=True).astype(np.int64)
    return np.asarray(block * order[:, None] + np.arange(block)).ravel()


def _band(i: Integers, j: Integers, values: Floats, count: int) -> Floats:
    """The lower triangle of a symmetric matrix as LAPACK holds it: diagonals as rows."""
    lower = i >= j
    below = i[lower] - j[lower]
    band = np.zeros((int(below.max()) + 1, count))
    band[below, j[lower]] = values[lower]
    return band
