"""BEGAN beside an encoder: convolutions alone, without principal components, coordinates or a judge of them.

What BEGAN lacks is variety: its generator sees no real face, and draws fewer and fewer kinds. Here an encoder gives
the generator the codes of real faces to rebuild, as CoMA's does, and BEGAN plays on codes that are drawn with the mean
and the covariance of these (after Larsen et al. 2016, who add a GAN to a variational auto-encoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshgan.nn.plan import NetworkSpec
from meshgan.training import Later
from meshgan.training.began import EXPLODED, convergence, next_k, reconstruction_loss, set_gradients
from meshgan.training.objective import BALANCE, Curves, refuse_mapping

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import networks
    from meshgan.training.state import Batch, State
else:
    torch, networks = Later("torch"), Later("meshgan.nn.networks")

Several = Annotated[int, Field(ge=2, le=2**20)]


@dataclass(frozen=True)
class BeganEncoder:
    """L_D = L(x) − k L(G(w)), L_{G,E} = weight · L(G(w)) + mean |x − G(E(x))|, w = μ + √3 Σ^½ z, z from U(−1, 1).

    μ and Σ are of the last `memory` codes E(x). A finished model draws its codes from N(μ, Σ) of training faces.
    """

    kind: Literal["began-encoder"] = "began-encoder"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.7  # as in BEGAN
    lambda_k: Annotated[float, Field(gt=0)] = 0.001  # as in BEGAN
    weight: Annotated[float, Field(gt=0)] = 0.2  # of BEGAN beside rebuilding: more draws towards the mean face
    memory: Several = 512  # codes

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("generator", "encoder")
    curves: ClassVar[Curves] = {**BALANCE, "Rebuilt from codes, network units": {"rebuilt": "mean |x − G(E(x))|"}}

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a network is not made for this objective."""
        refuse_mapping(spec, self.kind)

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """Generator, encoder, and the auto-encoding discriminator."""
        return {
            "generator": networks.Decoder(hierarchy, spec, generator),
            "encoder": networks.Encoder(hierarchy, spec, generator),
            "critic": networks.Autoencoder(hierarchy, replace(spec, linear=False), generator),
            "mapping": networks.Likeness(self.memory, spec.code),
        }

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """k₀ = 0, and the codes that drawn ones are like."""
        mapping = players["mapping"]
        assert isinstance(mapping, networks.Likeness)
        return {"k": torch.zeros(()), "known": mapping.known}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of the discriminator, and of generator and encoder together."""
        generator, encoder, critic = (state.networks[name] for name in ("generator", "encoder", "critic"))
        k, known = state.variables["k"], state.variables["known"]
        codes, drawn = encoder(batch.faces), state.networks["mapping"](batch.codes)
        made, rebuilt = generator(torch.cat([drawn, codes])).split(len(codes))
        missed = networks.l1(batch.faces, rebuilt)
        real_loss, fake_loss = reconstruction_loss(critic, batch.faces), reconstruction_loss(critic, made)
        theta = [*generator.parameters(), *encoder.parameters()]
        set_gradients(real_loss, self.weight * fake_loss + missed, k / self.weight, critic.parameters(), theta)
        state.update("generator", "encoder", "critic")
        with torch.no_grad():
            seen = state.team.gather(codes.detach())[-self.memory :]
            known.copy_(torch.cat([known[len(seen) :], seen]))
        real, fake, away = state.mean(real_loss, fake_loss, missed)
        k.copy_(next_k(k, real, fake, self.gamma, self.lambda_k))
        measure = convergence(real, fake, self.gamma)
        return {"L_real": real, "L_fake": fake, "k": k.clone(), "M": measure, "rebuilt": away}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Losses far beyond what the mean face would cost."""
        return f"the losses exploded (M = {stats['M']:.3g})" if stats["M"] > EXPLODED else None
