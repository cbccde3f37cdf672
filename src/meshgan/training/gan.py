"""The original GAN (Goodfellow et al. 2014) with the non-saturating loss of its generator."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import softplus

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.networks import Decoder, NetworkSpec, ScalarCritic
from meshgan.training.state import Batch, Curves, State, refuse_code_activation, refuse_mapping

EXPLODED = 1e4


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(x)) − log(1 − σ(D(G(z)))), means over logits (B,); 2 log 2 for a discriminator that cannot tell."""
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """−log σ(D(G(z))): non-saturating, it pulls hardest where the discriminator is sure."""
    return softplus(-fake).mean()


@dataclass(frozen=True)
class Gan:
    """Discriminator and generator in turn, one step each (k = 1 there)."""

    kind: Literal["gan"] = "gan"

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("generator",)
    curves: ClassVar[Curves] = {"Losses": {"L_critic": "discriminator", "L_generator": "generator"}}

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a network is not made for this objective."""
        refuse_mapping(spec, self.kind)
        refuse_code_activation(spec, self.kind)

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """The generator that all models share, and a discriminator with one output."""
        return {
            "generator": Decoder(hierarchy, spec, generator),
            "critic": ScalarCritic(hierarchy, spec, generator),
        }

    def variables(self, spec: NetworkSpec) -> dict[str, Tensor]:
        """None."""
        return {}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """First the discriminator, then the generator against the new discriminator; gradients never cross."""
        generator, critic = state.networks["generator"], state.networks["critic"]
        faces = generator(batch.codes)
        critic_loss = discriminator_loss(critic(batch.faces), critic(faces.detach()))
        critic_loss.backward(inputs=list(critic.parameters()))
        state.update("critic")
        loss = generator_loss(critic(faces))
        loss.backward(inputs=list(generator.parameters()))
        state.update("generator")
        of_critic, of_generator = state.mean(critic_loss, loss)
        return {"L_critic": of_critic, "L_generator": of_generator}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Logits without bound."""
        worst = max(stats["L_critic"], stats["L_generator"])
        return f"the losses exploded ({worst:.3g})" if worst > EXPLODED else None
