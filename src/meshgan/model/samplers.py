"""Where codes come from: the distributions that a model can be sampled with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from meshgan.arrays import Codes, Faces, Floats, Singles
from meshgan.errors import MeshganError, UsageError
from meshgan.model.coordinates import DISTRIBUTIONS, Distribution, read_distribution
from meshgan.model.model_folder import ModelCard, Sampler, filled
from meshgan.nn import kernel
from meshgan.nn.networks import MappingNetwork

NUMBERS = 2**62  # a face's number is below
CHANCE = 1  # the stream of random numbers beside that of codes
BLOCK = 32  # rows at a time; always the same, so that the bits do not depend on the count
LARGEST = 1e9  # mean or covariance of a code
ROUNDING = 1e-6  # a covariance whose eigenvalues fall below zero by more, relative to the largest, is none


@dataclass(frozen=True, eq=False)
class Samplers:
    """The samplers of one model: "uniform" on [-1, 1], "standard-normal", and "fitted-normal" where one was fitted.

    The fitted one is a normal distribution with `mean` (D,) and `root` (D, D), a square root of its covariance. Where
    the model has a `mapping` network, uniform codes go through it, and standard normal ones mean nothing.
    """

    size: int
    default: Sampler
    mean: Floats | None = None
    root: Floats | None = None
    mapping: MappingNetwork | None = None
    other: Distribution | None = None  # the default, where it is none of the three

    @classmethod
    def of(cls, card: ModelCard, tensors: Mapping[str, Tensor]) -> "Samplers":
        """The samplers that a model folder holds. Raises `MeshganError` if they contradict its card."""
        if card.sampler in DISTRIBUTIONS:
            return cls(card.code, card.sampler, other=read_distribution(card.sampler, card.code, tensors))
        mapping = None
        if card.network is not None and card.network.mapping:
            mapping = filled(MappingNetwork(card.network, torch.Generator()), "mapping", tensors)
        if "sampler/mean" not in tensors or "sampler/covariance" not in tensors:
            if card.sampler == "fitted-normal":
                raise MeshganError(f"the model '{card.name}' lacks the sampler that its model.json names.")
            return cls(card.code, card.sampler, mapping=mapping)
        mean, covariance = (tensors[f"sampler/{part}"].double().numpy() for part in ("mean", "covariance"))
        if mean.shape != (card.code,) or covariance.shape != (card.code, card.code):
            raise MeshganError(f"the model '{card.name}' has a sampler of the wrong size.")
        if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
            raise MeshganError(f"the model '{card.name}' has a sampler with numbers that are not finite.")
        if max(np.abs(mean).max(), np.abs(covariance).max()) > LARGEST:
            raise MeshganError(f"the model '{card.name}' has a sampler with numbers that no code has.")
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        if values.min() < -ROUNDING * values.max():
            raise MeshganError(f"the model '{card.name}' has a sampler that is no normal distribution.")
        root = (np.sqrt(np.maximum(values, 0.0)) * vectors) @ vectors.T  # whatever signs the vectors have
        return cls(card.code, card.sampler, mean, root, mapping)

    @property
    def names(self) -> tuple[Sampler, ...]:
        """What `draw` accepts."""
        if self.other is not None:
            return (self.default,)
        known: tuple[Sampler, ...] = ("uniform",) if self.mapping else ("uniform", "standard-normal")
        return known if self.mean is None else (*known, "fitted-normal")

    def draw(self, count: int, seed: int, sampler: Sampler | None = None) -> Codes:
        """Codes (count, D). The same seed gives the same codes, and more of them begin with the same ones."""
        chosen = sampler or self.default
        if chosen not in self.names:
            raise UsageError(f"this model has no sampler '{chosen}'; choose one of {', '.join(self.names)}.")
        if seed < 0 or count < 0:
            raise UsageError(f"a seed and a count cannot be negative ({seed}, {count}).")
        if self.other is not None:
            return self.other.draw(count, seed)
        rng = np.random.default_rng(seed)
        if chosen == "uniform":
            codes = rng.uniform(-1.0, 1.0, (count, self.size)).astype(np.float32)
            return codes if self.mapping is None else in_blocks(self.mapping, codes)
        normal = rng.standard_normal((count, self.size))
        if chosen == "fitted-normal" and self.mean is not None and self.root is not None:
            normal = self.mean + np.einsum("nd,de->ne", normal, self.root)  # einsum: the same bits for any count
        return normal.astype(np.float32)


class Sampled(Protocol):
    """What a model of any kind does with its samplers."""

    card: ModelCard
    samplers: Samplers

    @property
    def code_size(self) -> int:
        """D, the length of a code."""
        return self.card.code

    def codes(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Codes:
        """Draw codes (count, D); `sampler` is one of `samplers.names`, else the model's own."""
        return self.samplers.draw(count, seed, sampler)

    def sample(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Faces:
        """Draw faces (count, V, 3) in mm. The same seed gives the same faces, bit by bit on one machine."""
        return self.decode(self.codes(count, seed, sampler), numbers=face_numbers(count, seed))

    def decode(self, codes: ArrayLike, same_bits: bool = True, numbers: ArrayLike | None = None) -> Faces:
        """The faces (B, V, 3) in mm of codes (B, D)."""
        ...


def in_blocks(network: nn.Module, *values: Codes | Faces) -> Singles:
    """Apply a network to arrays in blocks of one size (the last is padded), so that the bits never vary."""
    count = len(values[0])
    padding = -count % BLOCK
    widened = (np.concatenate([one, np.zeros((padding, *one.shape[1:]), np.float32)]) for one in values)
    padded = [torch.from_numpy(one) for one in widened]
    place = next(network.parameters()).device
    with kernel.pytorch_in_one_thread(), torch.inference_mode():
        blocks = zip(*(one.split(BLOCK) for one in padded), strict=True)
        parts = [network(*(part.to(place) for part in block)).cpu() for block in blocks]
        return torch.cat(parts)[:count].numpy()


def face_numbers(count: int, seed: int) -> NDArray[np.int64]:
    """Numbers (count,), one for each face, that its details of chance follow from. More begin with the same ones."""
    return np.random.default_rng((seed, CHANCE)).integers(NUMBERS, size=count)


def known_number(value: object) -> int | None:
    """A face's number as a file has it, None where there is none, or what nobody has written."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUMBERS else None


def chance(numbers: NDArray[np.integer[Any]], size: int) -> Singles:
    """N(0, 1) numbers (B, size) for faces of these `numbers` (B,)."""
    drawn = [np.random.default_rng((int(number), CHANCE)).standard_normal(size, np.float32) for number in numbers]
    return np.stack(drawn) if drawn else np.zeros((0, size), np.float32)
