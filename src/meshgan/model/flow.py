"""A flow: a small network that carries N(0, I) to principal coordinates (Lipman et al. 2023); see `samplers`."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.arrays import Codes
from meshgan.errors import MeshganError
from meshgan.model.model_folder import Tensors

WIDTH, FREQUENCIES, STEPS = 256, 4, 40  # of its layers, of its clock, of Heun's method
RATES, BATCH, HALF_LIFE = (3e-4, 1e-3, 3e-3), 128, 20_000  # learning rates that the validation part chooses from


class Flow(nn.Module):
    """The velocity (B, D) at codes (B, D) and times (B,); `draw` follows it from N(0, I) at time 0 to 1."""

    def __init__(self, size: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        widths = (size + 2 * FREQUENCIES, WIDTH, WIDTH, WIDTH, size)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                bound = (6 / sum(layer.weight.shape)) ** 0.5
                layer.weight.copy_((2 * torch.rand(layer.weight.shape, generator=generator) - 1) * bound)
                layer.bias.zero_()

    def forward(self, codes: Tensor, times: Tensor) -> Tensor:
        angles = times[:, None] * torch.pi * 2.0 ** torch.arange(FREQUENCIES).to(times)
        values = torch.cat([codes, angles.sin(), angles.cos()], dim=1)
        for layer in self.layers[:-1]:
            values = nn.functional.silu(layer(values))
        return self.layers[-1](values)

    @torch.no_grad()
    def draw(self, count: int, seed: int) -> Codes:
        """Codes (count, D), by Heun's method, in blocks of one size so that the bits do not depend on the count."""
        size = self.layers[-1].out_features
        assert isinstance(size, int)
        start = np.random.default_rng(seed).standard_normal((count + -count % BATCH, size)).astype(np.float32)
        blocks = [self._carried(block) for block in torch.from_numpy(start).split(BATCH)]
        return torch.cat(blocks)[:count].numpy() if blocks else start

    def _carried(self, codes: Tensor) -> Tensor:
        for step in range(STEPS):
            now, then = (torch.full((len(codes),), (step + end) / STEPS) for end in (0, 1))
            first = self(codes, now)
            second = self(codes + first / STEPS, then)
            codes = codes + (first + second) / (2 * STEPS)
        return codes

    @classmethod
    def of(cls, size: int, weights: Tensors) -> "Flow":
        """The flow of codes (D,) of that size that a model folder holds. Raises `MeshganError` if it is none."""
        flow = cls(size)
        shapes = {name: tuple(value.shape) for name, value in flow.state_dict().items()}
        if shapes != {name: value.shape for name, value in weights.items()}:
            raise MeshganError("the sampler 'flow' is of the wrong size.")
        flow.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        return flow.requires_grad_(False)

    @property
    def tensors(self) -> Tensors:
        """As a model folder holds it."""
        return {f"flow/{name}": value.detach().numpy() for name, value in self.state_dict().items()}


def fit_flow(codes: Codes, unseen: Codes, seen: int, seed: int = 0) -> Flow:
    """The flow to codes (N, D) after `seen` of them, with the learning rate under which `unseen` ones fit it best."""
    held = torch.from_numpy(unseen if len(unseen) else codes)
    fits = [_trained(torch.from_numpy(codes), rate, seen, seed) for rate in RATES]
    return min(fits, key=lambda flow: _loss_of_unseen(flow, held))


def _trained(codes: Tensor, rate: float, seen: int, seed: int) -> Flow:
    generator = torch.Generator().manual_seed(seed)
    flow = Flow(codes.shape[1], generator)
    average = Flow(codes.shape[1])
    average.load_state_dict(flow.state_dict())
    steps = max(1, seen // BATCH)
    optimiser = torch.optim.Adam(flow.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    keep = 0.5 ** (BATCH / min(HALF_LIFE, max(seen / 4, BATCH)))
    for _ in range(steps):
        rows = torch.randint(len(codes), (BATCH,), generator=generator)
        loss = _matching_loss(flow, codes[rows], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), flow.parameters(), strict=True):
                mine.lerp_(theirs, 1 - keep)
    return average.requires_grad_(False)


def _matching_loss(flow: Flow, codes: Tensor, generator: torch.Generator) -> Tensor:
    """Lipman et al. 2023, Eq. 23 with σ_min = 0: the velocity of straight lines from noise to codes."""
    noise = torch.randn(codes.shape, generator=generator)
    times = torch.rand(len(codes), generator=generator)
    along = noise + times[:, None] * (codes - noise)
    return (flow(along, times) - (codes - noise)).square().mean()


@torch.no_grad()
def _loss_of_unseen(flow: Flow, codes: Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    return sum(float(_matching_loss(flow, codes, generator)) for _ in range(20)) / 20
