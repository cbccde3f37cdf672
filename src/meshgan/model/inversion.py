"""Eq. 2 of the paper: the codes whose faces are nearest to given ones, by Adam through the decoder."""

import math

import torch
from torch import Tensor, nn

from meshgan.arrays import Codes, Faces
from meshgan.data.faceset import Normalisation
from meshgan.model.latent import STEPS
from meshgan.nn import kernel
from meshgan.progress import track

PRIOR = 0.1  # mm for each unit of |z|²/D where only a part is known: keeps the code in range, and the rest likely
CHUNK = 64  # faces optimised together; each has its own code, so chunks do not change the result
EXAMPLES = 512  # generated faces that the first guess is learned from
RATE = 0.05  # Adam's learning rate at the start; falls to zero along a cosine
STEEP = 1e-3  # mm per unit of a code: gradients far below are rounding errors, not to be blown up to full steps
SMOOTHING = 1e-2  # mm: distances below this count as squares, which keeps the gradient finite at zero


def fit_codes(
    decoder: nn.Module,
    normalisation: Normalisation,
    targets: Faces,
    weights: Faces,
    examples: Codes,
    steps: int = STEPS,
    start: Codes | None = None,
) -> Codes:
    """Eq. 2, x* = argmin_z |x − G(z)|: codes (B, D) for faces (B, V, 3) in mm, all at once.

    Minimises the mean over vertices, weighted by `weights` (V,), of the Euclidean distance in mm, the quantity that
    the paper reports; where some vertices have no weight, plus a weak pull of the code towards zero. `steps` steps
    of Adam from `start`, by default what a ridge regression from faces to codes says that was learned from the
    decoded `examples` (N, D).
    """
    place = next((parameter.device for parameter in decoder.parameters()), torch.device("cpu"))
    arrays = (normalisation.apply(targets), normalisation.std, weights, examples if start is None else start)
    values, scale, shares, first = (torch.from_numpy(array).to(place) for array in arrays)
    if start is None:
        first = first_guess(decoder, first, values, scale, shares)
    prior = 0.0 if (weights > 0).all() else PRIOR / examples.shape[1]
    return invert(decoder, values, scale, shares, first, steps, prior).cpu().numpy()


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
    with kernel.pytorch_in_one_thread():
        return torch.cat([_invert_chunk(decoder, part, scale, weights, start, steps, prior) for part, start in parts])


def _invert_chunk(
    decoder: nn.Module, faces: Tensor, scale: Tensor, weights: Tensor, start: Tensor, steps: int, prior: float
) -> Tensor:
    codes = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([codes], lr=RATE, eps=STEEP)
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
