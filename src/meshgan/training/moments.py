"""The last touch of a mapping network: generated faces get the mean and the covariance of the training faces.

A judge holds the mapping network to the faces' distribution, and leaves means and deviations a few per cent off. What is
left over is linear, and known: of all affine maps that mend it, the one that moves coordinates least, the optimal
transport between two Gaussians, is appended to the mapping network. N(μ, Σ) does the same for an auto-encoder's codes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meshgan.data.faceset import FaceSet
from meshgan.nn.networks import Decoder, MappingNetwork
from meshgan.training.batches import MOMENTS, fixed_codes
from meshgan.training.state import State

DRAWN = 10_000  # faces, at most, that each side's moments are measured on
CHUNK = 64  # faces at a time
FLOOR = 1e-6  # added to variances, which are about 1/3: where neither side varies, nothing is stretched

Floats = NDArray[np.float64]


@torch.no_grad()
def match_moments(state: State, faces: FaceSet, seed: int) -> None:
    """Set the affine end of the mapping network, so that coordinates of generated faces have the moments of real ones.

    Measured on generated faces, not on codes: what the convolutions add has coordinates too.
    """
    generator, mapping = state.best("generator"), state.best("mapping")
    assert isinstance(generator, Decoder)
    assert isinstance(mapping, MappingNetwork)
    device = state.team.device
    drawn = fixed_codes(DRAWN, len(mapping.offset), "uniform", seed, MOMENTS)
    rows = np.random.default_rng((seed, MOMENTS)).permutation(faces.split.train)[:DRAWN]
    parts = [np.sort(part) for part in np.array_split(rows, -(-len(rows) // CHUNK))]
    real = (torch.from_numpy(faces.normalisation.apply(faces.vertices[part])) for part in parts)
    wanted = _coordinates([generator.project(part.to(device)) for part in real])
    made = _coordinates([generator.project(state.generate(part.to(device))) for part in drawn.split(CHUNK)])
    matrix, offset = transport(made, wanted)
    mapping.append(torch.from_numpy(matrix), torch.from_numpy(offset))


def transport(source: Floats, target: Floats) -> tuple[Floats, Floats]:
    """`matrix` (D, D) and `offset` (D,): source @ matrix + offset has the mean and the covariance of the target.

    The optimal transport between the Gaussians of two samples (N, D) and (M, D): A⁻½ (A½ B A½)½ A⁻½ for covariances A
    and B (Dowson and Landau 1982; Peyré and Cuturi 2019, Remark 2.31).
    """
    floor = FLOOR * np.eye(source.shape[1])
    a, b = (np.cov(values, rowvar=False) + floor for values in (source, target))
    root, inverse = _power(a, 0.5), _power(a, -0.5)
    matrix = inverse @ _power(root @ b @ root, 0.5) @ inverse
    return matrix, target.mean(axis=0) - source.mean(axis=0) @ matrix


def _power(symmetric: Floats, exponent: float) -> Floats:
    """A power of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.maximum(values, 0.0) ** exponent) @ vectors.T


def _coordinates(parts: list[Tensor]) -> Floats:
    return torch.cat(parts).double().cpu().numpy()
