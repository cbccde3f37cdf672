"""PCA: the linear face model (Blanz and Vetter 1999), with the same verbs as `FaceModel`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.data.faceset import BLOCK, Faces
from meshgan.errors import UsageError
from meshgan.progress import track

Rows = NDArray[np.int64]

COMPONENTS = 64  # the latent size of the paper's networks
OVERSAMPLED = 16  # directions carried along beyond those asked for
PASSES = 8  # over the data


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of faces in millimetres.

    `axes` (K, V, 3) are orthonormal and sorted by their `variances` (K,), which are in mm² summed over all vertices.
    """

    mean: Faces  # (V, 3)
    axes: Faces
    variances: NDArray[np.float64]

    def codes(self, faces: Faces) -> Faces:
        """Coordinates (N, K) of faces (N, V, 3) along the axes."""
        flat: Faces = (faces - self.mean).reshape(len(faces), -1)
        return flat @ self.axes.reshape(len(self.axes), -1).T

    def faces(self, codes: NDArray[Any]) -> Faces:
        """The faces (N, V, 3) of codes (N, K)."""
        flat: Faces = codes.astype(np.float32) @ self.axes.reshape(len(self.axes), -1)
        return flat.reshape(-1, *self.mean.shape) + self.mean


def principal_components(vertices: Faces, rows: Rows, count: int, seed: int = 0) -> Components:
    """The `count` strongest components of `vertices[rows]`, at most one fewer than there are rows.

    Randomised subspace iteration (Halko et al. 2011): eight passes over the data block by block, so that memory
    stays at one block and two (3V, count + 16) arrays, however many faces there are.
    """
    if len(rows) < 2:
        raise UsageError("principal components need at least two faces.")
    count = min(count, len(rows) - 1)
    size = vertices.shape[1] * 3
    mean = np.zeros(size)
    for block in _blocks(vertices, rows, np.zeros(size, np.float32)):
        mean += block.sum(axis=0, dtype=np.float64) / len(rows)
    centre = mean.astype(np.float32)
    basis = np.random.default_rng(seed).normal(size=(size, min(count + OVERSAMPLED, size)))
    for _ in track(range(PASSES), "Principal components"):
        basis = _orthonormal(_covariance_times(vertices, rows, centre, basis))
    inner = basis.T @ _covariance_times(vertices, rows, centre, basis)
    values, turn = np.linalg.eigh((inner + inner.T) / 2)
    strongest = np.argsort(values)[::-1][:count]
    axes = _signed((basis @ turn[:, strongest]).T).reshape(len(strongest), -1, 3)
    shape = vertices.shape[1:]
    return Components(centre.reshape(shape), axes.astype(np.float32), np.maximum(values[strongest], 0.0))


def _covariance_times(vertices: Faces, rows: Rows, centre: Faces, basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product C Q of the covariance (3V, 3V), which is never formed, with a basis (3V, K)."""
    single = basis.astype(np.float32)
    total = np.zeros(basis.shape)
    for block in _blocks(vertices, rows, centre):
        total += block.T @ (block @ single)
    return total / (len(rows) - 1)


def _blocks(vertices: Faces, rows: Rows, centre: Faces) -> Iterator[Faces]:
    for start in range(0, len(rows), BLOCK):
        faces = vertices[rows[start : start + BLOCK]]
        yield faces.reshape(len(faces), -1) - centre


def _orthonormal(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.qr(basis)[0]


def _signed(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each axis (K, D) with its largest entry positive, so that the same faces always give the same axes."""
    largest = np.abs(axes).argmax(axis=1)
    return axes * np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)[:, None]
