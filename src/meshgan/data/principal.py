"""Principal components of faces: the one decomposition behind PCA, linear paths, shape spaces and sliders.

Numpy alone: registration and evaluation use it without loading torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Faces, Floats, Integers, Singles
from meshgan.data.faceset import BLOCK, FaceSet, some_rows
from meshgan.errors import UsageError
from meshgan.geometry.decomposition import canonical, principal_axes
from meshgan.progress import track

EXACT = 1000  # faces whose components are computed exactly; of more, by random projection
OVERSAMPLED = 16  # directions carried along beyond those asked for
PASSES = 8  # over the data: to the last digits
TALL = 4096  # rows that are made orthonormal at a time
NOISE = 1e-5  # of the largest deviation: what lies below it is rounding of single precision
MOST = 2000  # faces that a linear path is estimated from
VARIANCES = {"uniform": 1 / 3, "standard-normal": 1.0}  # of the numbers in a code


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of faces in millimetres.

    `axes` (K, V, 3) are orthonormal and sorted by their `variances` (K,), which are in mm² summed over all vertices.
    """

    mean: Faces  # (V, 3)
    axes: Faces
    variances: Floats

    def codes(self, faces: Faces) -> Faces:
        """Coordinates (N, K) of faces (N, V, 3) along the axes."""
        flat: Faces = (faces - self.mean).reshape(len(faces), -1)
        return flat @ self.axes.reshape(len(self.axes), -1).T

    def faces(self, codes: NDArray[Any]) -> Faces:
        """The faces (N, V, 3) of codes (N, K)."""
        flat: Faces = codes.astype(np.float32) @ self.axes.reshape(len(self.axes), -1)
        return flat.reshape(-1, *self.mean.shape) + self.mean


def principal_components(
    vertices: Faces, rows: Integers, count: int, seed: int = 0, passes: int = PASSES
) -> Components:
    """The at most `count` strongest components of `vertices[rows]`, with canonical signs and order.

    Axes whose deviation is that of rounding are left out: twelve people scanned ten times each have eleven. Of up to
    `EXACT` faces the decomposition is exact; of more it is a randomised subspace iteration (Halko et al. 2011) in
    `passes` over the data block by block, so that memory stays at one block and two (3V, count + 16) arrays,
    however many faces there are. Raises `UsageError` if the faces do not differ.
    """
    if len(rows) < 2:
        raise UsageError("principal components need at least two faces.")
    shape = vertices.shape[1:]
    mean = np.zeros(shape[0] * 3)
    for block in _blocks(vertices, rows, np.zeros(len(mean), np.float32)):
        mean += block.sum(axis=0, dtype=np.float64) / len(rows)
    if len(rows) <= EXACT:
        variances, axes = principal_axes(vertices[rows].reshape(len(rows), -1) - mean, count)
    else:
        variances, axes = _iterated(vertices, rows, mean.astype(np.float32), min(count, len(rows) - 1), seed, passes)
    scale = max(float(np.abs(mean).max()), np.sqrt(variances.max(initial=0.0)))
    known = np.sqrt(variances) > NOISE * np.sqrt(variances.max(initial=0.0))
    if not known.any() or np.sqrt(variances[0]) <= np.finfo(np.float32).eps * scale:
        raise UsageError("the faces are all the same; principal components need faces that differ.")
    axes = axes[known].reshape(-1, *shape).astype(np.float32)
    return Components(mean.reshape(shape).astype(np.float32), axes, variances[known])


def principal_matrix(faces: FaceSet, count: int, prior: str = "uniform", in_mm: bool = False) -> Singles:
    """`count` principal axes (count, V, 3) of the training part in network units, times their deviations.

    With codes drawn from the prior, U(-1, 1) or N(0, I), `code @ matrix` has the covariance of the faces. Axes beyond
    those that the faces have are zero. They are orthogonal, and the strongest, in network units or, with `in_mm`, as
    those of `PcaModel` are, in mm.
    """
    rows = some_rows(faces.split.train, MOST)
    normalised = faces.normalisation.apply(faces.vertices[rows])
    scale = faces.normalisation.std if in_mm else np.ones_like(faces.normalisation.std)
    found = principal_components(normalised * scale, np.arange(len(rows)), count)
    mean_squares = found.variances * (len(rows) - 1) / len(rows)  # as the normalisation has them
    lengths = np.sqrt(mean_squares / VARIANCES[prior])
    matrix = np.zeros((count, *faces.vertices.shape[1:]), dtype=np.float32)
    matrix[: len(lengths)] = lengths[:, None, None] * found.axes / scale
    return matrix


def _iterated(
    vertices: Faces, rows: Integers, centre: Faces, count: int, seed: int, passes: int
) -> tuple[Floats, Floats]:
    """Variances (K,) and axes (K, 3V) by subspace iteration."""
    size = len(centre)
    basis = np.random.default_rng(seed).normal(size=(size, min(count + OVERSAMPLED, size)))
    for _ in track(range(passes), "Principal components"):
        basis = _orthonormal(_covariance_times(vertices, rows, centre, basis))
    inner = basis.T @ _covariance_times(vertices, rows, centre, basis)
    values, turn = np.linalg.eigh((inner + inner.T) / 2)
    values, axes = canonical(np.maximum(values, 0.0), (basis @ turn).T)
    return values[:count], axes[:count]


def _orthonormal(columns: Floats) -> Floats:
    """Orthonormal columns that span the same space, as by `numpy.linalg.qr`: of blocks of rows first, which the cache
    holds, then of what is left of each (Demmel et al. 2012), which takes a third of the time."""
    parts = np.array_split(columns, max(1, len(columns) // max(TALL, 4 * columns.shape[1])))
    firsts, rests = zip(*map(np.linalg.qr, parts), strict=True)
    turns = np.split(np.linalg.qr(np.concatenate(rests))[0], len(parts))
    return np.concatenate([first @ turn for first, turn in zip(firsts, turns, strict=True)])


def _covariance_times(vertices: Faces, rows: Integers, centre: Faces, basis: Floats) -> Floats:
    """The product C Q of the covariance (3V, 3V), which is never formed, with a basis (3V, K)."""
    single = basis.astype(np.float32)
    total = np.zeros(basis.shape)
    for block in _blocks(vertices, rows, centre):
        total += block.T @ (block @ single)
    return total / (len(rows) - 1)


def _blocks(vertices: Faces, rows: Integers, centre: Faces) -> Iterator[Faces]:
    for start in range(0, len(rows), BLOCK):
        faces = vertices[rows[start : start + BLOCK]]
        yield faces.reshape(len(faces), -1) - centre
