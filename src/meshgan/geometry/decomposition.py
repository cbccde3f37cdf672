"""Eigenvectors that every machine agrees on.

An eigenvector has no sign of its own, eigenvectors of equal eigenvalues have no directions of their own, and what a
library returns for them follows its rounding errors: another processor, another answer. Here both are decided by one
rule that does not look at rounding errors. Eigenvalues are first put into clusters, whose members cannot be told apart;
the subspace of a cluster is well determined, and its basis is the Gram-Schmidt basis of some fixed irregular vectors,
projected onto it. For a cluster of one this says that an eigenvector has a positive product with the first of them.
(The usual rule, that the largest entry be positive, fails on faces: they are symmetric, and left and right are as
large.)
"""

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Floats

ALIKE = 1e-6  # of the largest deviation: what two deviations may differ by and still be one cluster


def canonical(values: Floats, vectors: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Eigenvalues (K,), largest first, and orthonormal eigenvectors (K, D), rows, whoever computed them.

    Two eigenvalues are of one cluster if their square roots, deviations where they are variances, differ by less than
    `ALIKE` of the largest; they then become their mean. A cluster must be whole, so cut to the strongest afterwards.
    """
    order = np.argsort(-values, kind="stable")
    ordered = np.asarray(values, dtype=np.float64)[order]
    rows = np.array(vectors[order], dtype=np.float64)
    deviations = np.sign(ordered) * np.sqrt(np.abs(ordered))
    apart = -np.diff(deviations) > ALIKE * np.abs(deviations).max(initial=0.0)
    for cluster in np.split(np.arange(len(order)), np.flatnonzero(apart) + 1):
        if len(cluster):
            ordered[cluster] = ordered[cluster].mean()
            rows[cluster] = _basis(rows[cluster])
    return ordered, rows


def eigen(symmetric: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Canonical eigenvalues (D,), largest first, and eigenvectors (D, D), rows, of a symmetric matrix (D, D)."""
    matrix = np.asarray(symmetric, dtype=np.float64)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return canonical(values, vectors.T)


def principal_axes(rows: NDArray[np.floating], count: int) -> tuple[Floats, Floats]:
    """Variances (K,), largest first, and canonical principal axes (K, D), K <= `count`, of centred `rows` (N, D).

    Exact, by the smaller of the two Gram matrices in float64. Variances are divided by N - 1. Axes whose deviation is
    less than `ALIKE` of the largest cannot be told from rounding errors, and are left out; of N centred rows at most
    N - 1 remain.
    """
    data = np.asarray(rows, dtype=np.float64)
    tall = len(data) > data.shape[1]
    values, vectors = np.linalg.eigh(data.T @ data if tall else data @ data.T)
    deviations, vectors = np.sqrt(np.maximum(values[::-1], 0.0)), vectors.T[::-1]
    known = int(np.count_nonzero(deviations > ALIKE * deviations.max(initial=0.0)))
    cut = min(count, known)
    while 0 < cut < known and deviations[cut - 1] - deviations[cut] < ALIKE * deviations[0]:
        cut += 1  # to the end of its cluster
    axes = vectors[:cut] if tall else vectors[:cut] @ data / deviations[:cut, None]
    values, axes = canonical(deviations[:cut] ** 2 / max(len(data) - 1, 1), axes)
    return values[:count], axes[:count]


def _basis(rows: Floats) -> Floats:
    """The basis (M, D) of the space that orthonormal `rows` (M, D) span, whichever rows span it."""
    irregular = np.random.default_rng(0).random((len(rows), rows.shape[1])) - 0.5
    turn, triangle = np.linalg.qr(rows @ irregular.T)
    signs = np.where(np.diag(triangle) < 0, -1.0, 1.0)
    return (turn * signs).T @ rows
