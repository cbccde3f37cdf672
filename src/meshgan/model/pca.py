"""PCA: the linear face model (Blanz and Vetter 1999), with the same verbs as `FaceModel`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Codes, Faces, Floats, Integers
from meshgan.data.faceset import BLOCK, FaceSet
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import check_codes, check_faces, find_model
from meshgan.model.latent import Fit, check_weights
from meshgan.model.model_folder import (
    ModelCard,
    ModelParts,
    Origin,
    Sampler,
    read_model_folder,
    write_model_folder,
)
from meshgan.model.samplers import Samplers
from meshgan.progress import track

COMPONENTS = 64  # the latent size of the paper's networks
PRIOR = 1e-4  # mm² for each unit of |z|²/K: decides only what the given vertices leave open
OVERSAMPLED = 16  # directions carried along beyond those asked for
PASSES = 8  # over the data


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


class PcaModel:
    """Faces = mean + Σ zₖ √λₖ axisₖ. Codes (B, K) count standard deviations: N(0, I) on them is N(0, Λ) on the axes."""

    def __init__(self, parts: ModelParts) -> None:
        if parts.card.kind != "pca":
            raise UsageError(f"the model '{parts.card.name}' is of kind '{parts.card.kind}', not 'pca'.")
        self.card: ModelCard = parts.card
        self.template: Mesh = parts.template
        self.samplers = Samplers.of(parts.card, parts.tensors)
        shape = self.template.vertices.shape
        mean, basis = (parts.tensors.get(f"pca/{name}") for name in ("mean", "basis"))
        if mean is None or basis is None or mean.shape != shape or basis.shape != (self.card.code, *shape):
            raise MeshganError("weights.safetensors does not fit model.json; get the model again.")
        self.mean: Faces = mean.numpy()
        self.basis: Faces = basis.numpy()  # (K, V, 3): the axes times their standard deviations, in mm
        self._parts = parts

    @classmethod
    def load(cls, where: str | Path) -> "PcaModel":
        """Load from a model folder. Raises `UsageError` if it is none, `MeshganError` if a file is damaged."""
        return cls(read_model_folder(find_model(where)))

    def save(self, folder: str | Path, replace: bool = False) -> None:
        """Write a model folder. Raises `UsageError` if it holds something already (see `write_model_folder`)."""
        write_model_folder(Path(folder), self._parts, replace)

    @property
    def code_size(self) -> int:
        """K, the number of components."""
        return len(self.basis)

    def codes(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Codes:
        """Draw codes (count, K), from N(0, I) unless told otherwise."""
        return self.samplers.draw(count, seed, sampler)

    def sample(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Faces:
        """Draw faces (count, V, 3) in mm."""
        return self.decode(self.codes(count, seed, sampler))

    def decode(self, codes: ArrayLike) -> Faces:
        """The faces (B, V, 3) of codes (B, K)."""
        values = check_codes(codes, self.code_size)
        return self.mean + (values @ self.basis.reshape(len(self.basis), -1)).reshape(-1, *self.mean.shape)

    def encode(self, vertices: ArrayLike) -> Codes:
        """The codes (B, K) of faces (B, V, 3): the orthogonal projection."""
        return self.fit(vertices).codes

    def fit(self, vertices: ArrayLike, weights: ArrayLike | None = None) -> Fit:
        """The codes whose faces are nearest to `vertices` (B, V, 3) in the least-squares sense, in closed form.

        `weights` (V,) says how much each vertex counts. What they leave open stays near the mean.
        """
        targets, shares = check_faces(vertices, self.template), check_weights(weights, len(self.mean))
        root = np.sqrt(shares / shares.sum(), dtype=np.float64)[:, None]
        basis = (self.basis * root).reshape(len(self.basis), -1)
        wanted = ((targets - self.mean) * root).reshape(len(targets), -1)
        normal = basis @ basis.T + PRIOR / len(basis) * np.eye(len(basis))
        codes = np.linalg.solve(normal, basis @ wanted.T).T.astype(np.float32)
        return Fit.of(codes, self.decode(codes), targets, shares)


def fit_pca(faces: FaceSet, components: int = COMPONENTS, seed: int = 0) -> PcaModel:
    """The PCA model of the training part of a FaceSet, with at most one component fewer than it has faces."""
    rows = faces.split.train
    found = principal_components(faces.vertices, rows, components, seed)
    size = len(found.axes)
    basis = found.axes * np.sqrt(found.variances).astype(np.float32)[:, None, None]
    card = ModelCard(
        kind="pca",
        name="pca",
        code=size,
        sampler="fitted-normal",
        origin=Origin(
            recipe=f'name = "pca"\ncomponents = {size}\n',
            data=faces.card.name,
            source=faces.card.source,
            licence=faces.card.licence,
            synthetic=faces.card.synthetic,
            faces_seen=len(rows),
            seed=seed,
        ),
        template=faces.template.content_hash,
    )
    tensors = {
        "pca/mean": torch.from_numpy(found.mean),
        "pca/basis": torch.from_numpy(basis),
        "sampler/mean": torch.zeros(size),
        "sampler/covariance": torch.eye(size),
    }
    return PcaModel(ModelParts(card, faces.template, None, tensors))


def principal_components(vertices: Faces, rows: Integers, count: int, seed: int = 0) -> Components:
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


def _orthonormal(basis: Floats) -> Floats:
    return np.linalg.qr(basis)[0]


def _signed(axes: Floats) -> Floats:
    """Each axis (K, D) with its largest entry positive, so that the same faces always give the same axes."""
    largest = np.abs(axes).argmax(axis=1)
    return axes * np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)[:, None]
