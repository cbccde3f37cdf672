"""The original GAN (Goodfellow et al. 2014) with the non-saturating loss of its generator; and WGAN.

WGAN (Arjovsky et al. 2017): a critic of bounded slope estimates the Wasserstein-1 distance to the real faces. The slope
is bounded by clipping the weights, as there, or by the gradient penalty of Gulrajani et al. 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshgan.nn.plan import NetworkSpec
from meshgan.training import Later
from meshgan.training.objective import Curves, refuse_code_activation, refuse_mapping

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import networks
    from meshgan.training.state import Batch, State
else:
    torch, functional = Later("torch"), Later("torch.nn.functional")
    networks = Later("meshgan.nn.networks")

EXPLODED = 1e4  # a loss of GAN
CRITIC_STEPS = 5  # critic steps for each step of the generator, in both papers
RUNAWAY = 1e6  # an estimate of WGAN


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(x)) − log(1 − σ(D(G(z)))), means over logits (B,); 2 log 2 for a discriminator that cannot tell."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """−log σ(D(G(z))): non-saturating, it pulls hardest where the discriminator is sure."""
    return functional.softplus(-fake).mean()


class _Adversaries:
    """What both have in common: the generator of all models against a critic with one output."""

    kind: str

    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("generator",)

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a network is not made for this objective."""
        refuse_mapping(spec, self.kind)
        refuse_code_activation(spec, self.kind)

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """The generator that all models share, and a critic with one output."""
        return {
            "generator": networks.Decoder(hierarchy, spec, generator),
            "critic": networks.ScalarCritic(hierarchy, spec, generator),
        }

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """None."""
        return {}


@dataclass(frozen=True)
class Gan(_Adversaries):
    """Discriminator and generator in turn, one step each (k = 1 there)."""

    kind: Literal["gan"] = "gan"

    phases: ClassVar[int] = 1
    curves: ClassVar[Curves] = {"Losses": {"L_critic": "discriminator", "L_generator": "generator"}}

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


def distance_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """E D(x) − E D(G(z)): the critic raises it, the generator lowers it."""
    return real.mean() - fake.mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """E (‖∇D(x̂)‖ − 1)² at x̂ = m x + (1 − m) G(z), with m of `mix` (B,) in [0, 1] for each pair of faces (B, V, 3)."""
    between = torch.lerp(fake, real, mix[:, None, None]).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@dataclass(frozen=True)
class Wgan(_Adversaries):
    """Five critic steps, on a batch each, for one step of the generator; give either `clip` or `penalty`."""

    kind: Literal["wgan"] = "wgan"
    clip: Annotated[float, Field(ge=0)] = 0.0  # bound on every weight of the critic; 0: none
    penalty: Annotated[float, Field(ge=0)] = 0.0  # weight of the gradient penalty; 0: none

    phases: ClassVar[int] = CRITIC_STEPS
    curves: ClassVar[Curves] = {
        "Wasserstein estimate": {"W": "E D(x) − E D(G(z))"},
        "Gradient penalty": {"slope": "E (‖∇D‖ − 1)²"},
    }

    def __post_init__(self) -> None:
        if (self.clip > 0) == (self.penalty > 0):
            raise ValueError("give either clip or penalty, larger than 0")

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of the critic, and in the last phase one of the generator; gradients never cross."""
        generator, critic = state.networks["generator"], state.networks["critic"]
        with torch.no_grad():
            fake = generator(batch.codes)
        estimate = distance_estimate(critic(batch.faces), critic(fake))
        slope = gradient_penalty(critic, batch.faces, fake, batch.mix) if self.penalty else torch.zeros_like(estimate)
        (self.penalty * slope - estimate).backward(inputs=list(critic.parameters()))
        state.update("critic")
        if self.clip:
            clip_weights(critic, self.clip)
        if batch.phase == self.phases - 1:
            loss = -critic(generator(batch.codes)).mean()
            loss.backward(inputs=list(generator.parameters()))
            state.update("generator")
        found, penalty = state.mean(estimate, slope)
        return {"W": found, "slope": penalty} if self.penalty else {"W": found}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """An estimate without bound."""
        return f"the critic exploded (W = {stats['W']:.3g})" if abs(stats["W"]) > RUNAWAY else None


def clip_weights(critic: nn.Module, bound: float) -> None:
    """Clamp every parameter to [-bound, bound]."""
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.clamp_(-bound, bound)
