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

TINY = 1e-8  # beside energies: their roots have a slope at zero
Several = Annotated[int, Field(ge=2, le=2**20)]


@dataclass(frozen=True)
class BeganEncoder:
    """L_D = L(x) − k L(G(w)), w = μ + √3 Σ^½ z, z from U(−1, 1),
    L_{G,E} = mean |x − G(E(x))| + weight · L(G(w)) + spectrum · mean (√(E / E_real) − 1)²

    μ and Σ are of the last `memory` codes E(x), E the energies of the faces G(w) by wavelength, their mean over a
    batch: a discriminator that rebuilds smooth faces does not see ripples. A finished model draws its codes from
    N(μ, Σ) of training faces.
    """

    kind: Literal["began-encoder"] = "began-encoder"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.7  # as in BEGAN
    lambda_k: Annotated[float, Field(gt=0)] = 0.001  # as in BEGAN
    weight: Annotated[float, Field(gt=0)] = 0.2  # of BEGAN beside rebuilding: more draws towards the mean face
    spectrum: Annotated[float, Field(ge=0)] = 0.1  # of the energies
    memory: Several = 512  # codes

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("generator", "encoder")
    curves: ClassVar[Curves] = {
        **BALANCE,
        "Rebuilt from codes, network units": {"rebuilt": "mean |x − G(E(x))|"},
        "Energies of drawn faces": {"spectrum": "mean (√(E / E of real faces) − 1)²"},
    }

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
        k, known, shares = state.variables["k"], state.variables["known"], state.networks["spectrum"].shares
        codes, drawn = encoder(batch.faces), state.networks["mapping"](batch.codes)
        made, rebuilt = generator(torch.cat([drawn, codes])).split(len(codes))
        missed = networks.l1(batch.faces, rebuilt)
        real_loss, fake_loss = reconstruction_loss(critic, batch.faces), reconstruction_loss(critic, made)
        energies = state.networks["spectrum"](made).mean(dim=0)
        off = (shares * ((energies + TINY).sqrt() - 1).square()).sum()
        theta = [*generator.parameters(), *encoder.parameters()]
        total = missed + self.weight * fake_loss + self.spectrum * off
        set_gradients(real_loss, total, k / self.weight, critic.parameters(), theta)
        state.update("generator", "encoder", "critic")
        with torch.no_grad():
            seen = state.team.gather(codes.detach())[-self.memory :]
            known.copy_(torch.cat([known[len(seen) :], seen]))
        real, fake, away, uneven = state.mean(real_loss, fake_loss, missed, off)
        k.copy_(next_k(k, real, fake, self.gamma, self.lambda_k))
        measure = convergence(real, fake, self.gamma)
        return {"L_real": real, "L_fake": fake, "k": k.clone(), "M": measure, "rebuilt": away, "spectrum": uneven}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Losses far beyond what the mean face would cost."""
        return f"the losses exploded (M = {stats['M']:.3g})" if stats["M"] > EXPLODED else None
