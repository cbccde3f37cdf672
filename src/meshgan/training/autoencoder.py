"""CoMA (Ranjan et al. 2018): an auto-encoder trained with L1, the baseline of the paper."""

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.networks import Decoder, Encoder, NetworkSpec
from meshgan.training.l1 import l1
from meshgan.training.state import Batch, State

EXPLODED = 10.0  # always answering with the mean face costs about 0.8


def weight_penalty(networks: Iterable[nn.Module]) -> Tensor:
    """½ Σ θ² over weights and biases of the fully connected layers; convolutions are not penalised, as in CoMA."""
    layers = [layer for network in networks for layer in network.modules() if isinstance(layer, nn.Linear)]
    return 0.5 * torch.stack([p.square().sum() for layer in layers for p in layer.parameters()]).sum()


@dataclass(frozen=True)
class Autoencoding:
    """CoMA's objective: mean |x − G(E(x))| + `l2` · ½ Σ θ² over the fully connected layers.

    The activation on the code belongs to the network: none by default, `network.code_activation = "relu"` as in
    CoMA's published code, where N(0, I) then draws codes that the encoder never gives.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    l2: Annotated[float, Field(ge=0)] = 5e-4

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["standard-normal"]] = "standard-normal"

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """Encoder and decoder; the decoder is the model's generator."""
        return {"encoder": Encoder(hierarchy, spec, generator), "generator": Decoder(hierarchy, spec, generator)}

    def numbers(self, spec: NetworkSpec) -> dict[str, Tensor]:
        """None."""
        return {}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of both halves."""
        encoder, decoder = state.networks["encoder"], state.networks["generator"]
        reconstruction = l1(batch.faces, decoder(encoder(batch.faces)))
        penalty = self.l2 * weight_penalty((encoder, decoder))
        (reconstruction + penalty).backward()
        state.update("encoder", "generator")
        error, weights = state.mean(reconstruction, penalty)
        return {"L_real": error, "penalty": weights}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """An error far beyond that of the mean face."""
        return f"the loss exploded (L = {stats['L_real']:.3g})" if stats["L_real"] > EXPLODED else None
