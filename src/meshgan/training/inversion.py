"""Eq. 2: the codes whose faces are nearest to given ones, for many faces at once."""

import math

import torch
from torch import Tensor, nn

from meshgan.nn import kernel
from meshgan.progress import track

CHUNK = 64  # faces optimised together; each has its own code, so chunks do not change the result
EXAMPLES = 512  # generated faces that the first guess is learned from
RATE = 0.05  # Adam's learning rate at the start; falls to zero along a cosine
SMOOTHING = 1e-2  # mm: distances below this count as squares, which keeps the gradient finite at zero


def invert(
    decoder: nn.Module,
    faces: Tensor,
    scale: Tensor,
    weights: Tensor,
    starts: Tensor,
    steps: int,
    prior: float = 0.0,
    title: str = "Fitting",
) -> Tensor:
    """Codes (B, code) that minimise the mean distance in mm between `decoder(code)` and `faces` (B, V, 3).

    `faces` are in network units and `scale` (V, 3) in mm per unit. `weights` (V,) says how much each vertex counts.
    `prior` adds prior · |z|² (mm) to each face's mean distance. Adam on all codes of a chunk at once, from `starts`.
    """
    chunks = zip(faces.split(CHUNK), starts.split(CHUNK), strict=True)
    parts = track(chunks, title, total=len(faces), step=CHUNK)
    with kernel.alone():
        return torch.cat([_invert_chunk(decoder, part, scale, weights, start, steps, prior) for part, start in parts])


def _invert_chunk(
    decoder: nn.Module, faces: Tensor, scale: Tensor, weights: Tensor, start: Tensor, steps: int, prior: float
) -> Tensor:
    codes = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([codes], lr=RATE)
    share = weights / weights.sum()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        distances = smooth_distances(decoder(codes), faces, scale)
        objective = (distances @ share).sum() + prior * codes.square().sum()
        (codes.grad,) = torch.autograd.grad(objective, [codes])
        optimiser.step()
    return codes.detach()


def smooth_distances(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Per-vertex Euclidean distances (B, V) in mm, smoothed below `SMOOTHING`."""
    return (((first - second) * scale).square().sum(dim=-1) + SMOOTHING**2).sqrt()


@torch.no_grad()
def first_guess(decoder: nn.Module, examples: Tensor, faces: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
    """Codes (B, code) by ridge regression from faces to codes, learned from the decoder's own faces.

    `examples` (N, code) are codes drawn from the model's prior. Solved in the dual: an N×N system.
    """
    root = (weights.sqrt()[:, None] * scale).flatten()
    made = torch.cat([decoder(part) for part in examples.split(CHUNK)]).flatten(1) * root
    mean_face, mean_code = made.mean(dim=0), examples.mean(dim=0)
    centred = made - mean_face
    gram = centred @ centred.T
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    solution = torch.linalg.solve(gram + ridge, examples - mean_code)
    return mean_code + ((faces.flatten(1) * root - mean_face) @ centred.T) @ solution
