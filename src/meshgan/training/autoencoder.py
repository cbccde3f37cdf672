"""CoMA (Ranjan et al. 2018): an auto-encoder trained with L1, the baseline of the paper; and the linear one, PCA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshgan.nn.plan import NetworkSpec
from meshgan.training import Later
from meshgan.training.objective import Curves, refuse_mapping

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import networks, patches
    from meshgan.training.state import Batch, State
else:
    torch, nn, networks = Later("torch"), Later("torch.nn"), Later("meshgan.nn.networks")
    patches = Later("meshgan.nn.patches")

EXPLODED = 10.0  # always answering with the mean face costs about 0.8


def weight_penalty(parts: Iterable[nn.Module]) -> Tensor:
    """½ Σ θ² over weights and biases of the fully connected layers; convolutions are not penalised, as in CoMA."""
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]
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
    keeps: ClassVar[tuple[str, ...]] = ("generator", "encoder")
    curves: ClassVar[Curves] = {
        "Loss of the auto-encoder, network units": {"L_real": "L(x)"},
        "Weight penalty": {"penalty": "L2"},
    }

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a network is not made for this objective."""
        refuse_mapping(spec, self.kind)

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """Encoder and decoder, of convolutions or of patches; the decoder is the model's generator."""
        return {
            "encoder": patches.encoder_of(hierarchy, spec, generator),
            "generator": patches.decoder_of(hierarchy, spec, generator),
        }

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """None."""
        return {}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of both halves."""
        encoder, decoder = state.networks["encoder"], state.networks["generator"]
        reconstruction = networks.l1(batch.faces, decoder(encoder(batch.faces)))
        penalty = self.l2 * weight_penalty((encoder, decoder))
        (reconstruction + penalty).backward()
        state.update("encoder", "generator")
        error, weights = state.mean(reconstruction, penalty)
        return {"L_real": error, "penalty": weights}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """An error far beyond that of the mean face."""
        return f"the loss exploded (L = {stats['L_real']:.3g})" if stats["L_real"] > EXPLODED else None


@dataclass(frozen=True)
class Components:
    """Principal components, `network.code` of them: the best linear auto-encoder, computed instead of trained.

    Their coordinates are drawn from a `distribution` of `model.samplers`, or from N(0, Λ).
    """

    kind: Literal["pca"] = "pca"
    distribution: Literal["normal", "mixture", "bootstrap", "flow"] = "normal"

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["standard-normal"]] = "standard-normal"
    keeps: ClassVar[tuple[str, ...]] = ("generator",)
    curves: ClassVar[Curves] = {}

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` for sizes of networks other than the code's, of which there are none."""
        if spec != NetworkSpec(code=spec.code):
            raise ValueError("principal components have no network; of the section network set code alone")

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """None."""
        return {}

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """None."""
        return {}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """There is none: `training.loop.train` computes them at once."""
        raise NotImplementedError

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Never."""
        return None
