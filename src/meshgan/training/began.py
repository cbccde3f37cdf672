"""BEGAN on meshes (Sec. 3.3.1): the discriminator is an auto-encoder, k_t holds the two players in balance.

And BEGAN-CS (Chang et al. 2018): BEGAN whose discriminator must also read the code off a generated face.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshgan.nn.plan import NetworkSpec
from meshgan.training import Later
from meshgan.training.objective import BALANCE, Curves, refuse_mapping

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import networks
    from meshgan.training.state import Batch, State
else:
    torch, networks = Later("torch"), Later("meshgan.nn.networks")

EXPLODED = 10.0  # a discriminator that always answers with the mean face has a loss near 0.8


def reconstruction_loss(critic: nn.Module, faces: Tensor) -> Tensor:
    """L(v) = mean |v − D(v)|: the L1 loss of the auto-encoding discriminator, in network units."""
    return networks.l1(faces, critic(faces))


def next_k(k: Tensor, real: Tensor, fake: Tensor, gamma: float, lambda_k: float) -> Tensor:
    """k_{t+1} = k_t + λ_k (γ L(x) − L(G(z))), kept in [0, 1]."""
    return (k + lambda_k * (gamma * real - fake)).clamp(0.0, 1.0)


def convergence(real: Tensor, fake: Tensor, gamma: float) -> Tensor:
    """M = L(x) + |γ L(x) − L(G(z))|: falls while the faces get better and the balance holds."""
    return real + (gamma * real - fake).abs()


def set_gradients(real: Tensor, fake: Tensor, k: Tensor, critic: Iterable[Tensor], generator: Iterable[Tensor]) -> None:
    """Gradients of L_D = L(x) − k L(G(z)) for the discriminator and of L_G = L(G(z)) for the generator.

    Differentiation is linear, so one backward pass through D(G(z)) serves both players: the discriminator takes
    −k times its share of it, the generator its own share as it is. What the faces do not depend on, as weights of a
    noise that was not drawn, has no gradient, and its optimiser leaves it alone.
    """
    theta_d, theta_g = list(critic), list(generator)
    of_real = torch.autograd.grad(real, theta_d)
    of_fake = torch.autograd.grad(fake, theta_d + theta_g, allow_unused=True)
    of_critic = torch._foreach_mul(of_fake[: len(theta_d)], -k)
    torch._foreach_add_(of_critic, of_real)
    for parameter, gradient in zip(theta_d + theta_g, (*of_critic, *of_fake[len(theta_d) :]), strict=True):
        parameter.grad = gradient


@dataclass(frozen=True)
class Began:
    """MeshGAN's objective."""

    kind: Literal["began"] = "began"
    gamma: Annotated[float, Field(gt=0, le=1)] = (
        0.7  # E[L(G(z))] / E[L(x)] at the balance: lower is closer to the mean face
    )
    lambda_k: Annotated[float, Field(gt=0)] = 0.001  # learning rate of k

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("generator",)
    curves: ClassVar[Curves] = BALANCE

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a network is not made for this objective."""
        refuse_mapping(spec, self.kind)

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """Generator and auto-encoding discriminator, the latter with a decoder like the generator's."""
        critic_spec = replace(spec, linear=False)  # a linear path in D makes it too strong for the balance
        return {
            "generator": networks.Decoder(hierarchy, spec, generator),
            "critic": networks.Autoencoder(hierarchy, critic_spec, generator),
        }

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """k₀ = 0: the discriminator first learns real faces only."""
        return {"k": torch.zeros(())}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of both players on the same generated faces."""
        generator, critic, k = state.networks["generator"], state.networks["critic"], state.variables["k"]
        real_loss = reconstruction_loss(critic, batch.faces)
        fake_loss = reconstruction_loss(critic, generator(batch.codes))
        set_gradients(real_loss, fake_loss, k, critic.parameters(), generator.parameters())
        state.update("critic", "generator")
        real, fake = state.mean(real_loss, fake_loss)
        k.copy_(next_k(k, real, fake, self.gamma, self.lambda_k))
        return {"L_real": real, "L_fake": fake, "k": k.clone(), "M": convergence(real, fake, self.gamma)}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Losses far beyond what the mean face would cost."""
        return f"the losses exploded (M = {stats['M']:.3g})" if stats["M"] > EXPLODED else None


@dataclass(frozen=True)
class BeganCs:
    """L_D = L(x) − k L(G(z)) + α mean |E(G(z)) − z|, with E the discriminator's encoder; L_G and k as in BEGAN.

    The encoder so becomes an approximate inverse of the generator, and is kept with the model.
    """

    kind: Literal["began-cs"] = "began-cs"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.7  # as in BEGAN
    lambda_k: Annotated[float, Field(gt=0)] = 0.001  # as in BEGAN
    alpha: Annotated[float, Field(gt=0)] = 0.1  # weight of the constraint; the authors' value

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("generator", "encoder")
    curves: ClassVar[Curves] = {**BALANCE, "Constraint on the code": {"constraint": "mean |E(G(z)) − z|"}}

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a network is not made for this objective."""
        refuse_mapping(spec, self.kind)

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """Generator, and the two halves of the discriminator."""
        plain = replace(spec, linear=False)
        return {
            "generator": networks.Decoder(hierarchy, spec, generator),
            "encoder": networks.Encoder(hierarchy, plain, generator),
            "decoder": networks.Decoder(hierarchy, plain, generator),
        }

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """k₀ = 0."""
        return {"k": torch.zeros(())}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of both players on the same generated faces; the constraint moves the encoder alone."""
        generator, encoder, decoder = (state.networks[name] for name in ("generator", "encoder", "decoder"))
        k, theta_e = state.variables["k"], list(encoder.parameters())
        real_loss = networks.l1(batch.faces, decoder(encoder(batch.faces)))
        faces = generator(batch.codes)
        codes = encoder(faces)
        fake_loss = networks.l1(faces, decoder(codes))
        constraint = (codes - batch.codes).abs().mean()
        of_constraint = torch.autograd.grad(constraint, theta_e, retain_graph=True)
        set_gradients(real_loss, fake_loss, k, [*theta_e, *decoder.parameters()], generator.parameters())
        for parameter, gradient in zip(theta_e, of_constraint, strict=True):
            parameter.grad = parameter.grad + self.alpha * gradient  # type: ignore[operator]
        state.update("generator", "encoder", "decoder")
        real, fake, missed = state.mean(real_loss, fake_loss, constraint)
        k.copy_(next_k(k, real, fake, self.gamma, self.lambda_k))
        measure = convergence(real, fake, self.gamma)
        return {"L_real": real, "L_fake": fake, "k": k.clone(), "M": measure, "constraint": missed}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Losses far beyond what the mean face would cost."""
        return f"the losses exploded (M = {stats['M']:.3g})" if stats["M"] > EXPLODED else None
