"""The last touch of a mapping network: its codes get the mean and the covariance of the training faces' coordinates.

A judge holds the mapping network to the faces' distribution, and leaves means and deviations a little off. What is
left over in them is linear, and known: of all affine maps that mend it, the one that moves faces least, the optimal
transport between two Gaussians, is appended to the mapping network. N(μ, Σ) does the same for an auto-encoder's codes.
"""

import numpy as np
import torch

from meshgan.arrays import Floats
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.nn.networks import Decoder, MappingNetwork
from meshgan.training.batches import MOMENTS, fixed_codes
from meshgan.training.state import State

DRAWN = 100_000  # codes: deviations are then known to 0.2 %, 1 / √(2 · DRAWN)
SEEN = 20_000  # training faces, at most
FLOOR = 1e-6  # added to variances, which are about 1/3: where neither side varies, nothing is stretched


@torch.no_grad()
def match_moments(state: State, faces: FaceSet, seed: int) -> None:
    """Set the affine end of the mapping network. The same state, faces and seed give the same map."""
    generator, mapping = state.best("generator"), state.best("mapping")
    assert isinstance(generator, Decoder)
    assert isinstance(mapping, MappingNetwork)
    device = state.team.device
    drawn = fixed_codes(DRAWN, len(mapping.offset), "uniform", seed, MOMENTS)
    made = torch.cat([mapping(codes.to(device)).cpu() for codes in drawn.split(5000)])
    rows = some_rows(faces.split.train, SEEN)
    blocks = (faces.normalisation.apply(faces.vertices[part]) for part in np.array_split(rows, -(-len(rows) // 64)))
    seen = torch.cat([generator.project(torch.from_numpy(block).to(device)).cpu() for block in blocks])
    assert generator.linear is not None
    lengths = generator.linear.norm(dim=1).double().cpu().numpy()
    matrix, offset = transport(made.double().numpy(), seen.double().numpy(), lengths)
    mapping.append(torch.from_numpy(matrix), torch.from_numpy(offset))


def transport(source: Floats, target: Floats, lengths: Floats) -> tuple[Floats, Floats]:
    """`matrix` (D, D) and `offset` (D,): source @ matrix + offset has the mean and the covariance of the target.

    The optimal transport between the Gaussians of two samples (N, D) and (M, D): A⁻½ (A½ B A½)½ A⁻½ for covariances A
    and B (Dowson and Landau 1982; Peyré and Cuturi 2019, Remark 2.31). `lengths` (D,) says how far a face moves with
    each coordinate: the less, the more the coordinate may move.
    """
    weights = np.maximum(lengths / max(lengths.max(), 1e-12), 1e-3)
    floor = np.diag(FLOOR * weights**2)
    a, b = (np.cov(values * weights, rowvar=False) + floor for values in (source, target))
    root, inverse = _power(a, 0.5), _power(a, -0.5)
    matrix = inverse @ _power(root @ b @ root, 0.5) @ inverse * weights[:, None] / weights
    return matrix, target.mean(axis=0) - source.mean(axis=0) @ matrix


def _power(symmetric: Floats, exponent: float) -> Floats:
    """A power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.maximum(values, 1e-300) ** exponent) @ vectors.T
