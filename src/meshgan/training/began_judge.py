"""BEGAN on the mesh with a judge of the whole face: two discriminators that share the work.

BEGAN's auto-encoder compares how well faces are reconstructed, and that is all it holds the generator to. Faces nearer
to the mean are reconstructed better; which faces there are, and how many of each, it cannot say. The judge can. It is a
small network that sees a face as its principal coordinates, and plays the ordinary GAN game (Goodfellow et al. 2014,
non-saturating, with the R1 penalty of Mescheder et al. 2018) against a mapping network, which turns the uniform code
into coordinates. What coordinates cannot say, the generator's convolutions add: they learn it from real faces, rebuilt
from their coordinates, and from BEGAN's discriminator. What is left of the difference in mean and covariance, an affine
map mends when the run ends (`training.finish.match_moments`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshgan.nn.plan import NetworkSpec
from meshgan.training import Later
from meshgan.training.began import EXPLODED, convergence, next_k, reconstruction_loss, set_gradients
from meshgan.training.objective import BALANCE, Curves

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import details as judges
    from meshgan.nn import networks
    from meshgan.training.state import Batch, State
else:
    torch, functional = Later("torch"), Later("torch.nn.functional")
    networks, judges = Later("meshgan.nn.networks"), Later("meshgan.nn.details")

JUDGE = 512  # width of the judge's layers
Several = Annotated[int, Field(ge=2, le=2**20)]

# Of a batch: faces whose details are compared, which costs more than all else done to a face, and more of them where
# faces differ in how much they have. Of those compared, the same part is looked at for faults.
COMPARED, WITH_TRAITS = 0.25, 0.375
STEADY = 0.05  # of `spectrum`: what energies of details that are the same in all faces cost, see `docs/research.md`
# How hard means of energies of the last faces are held to those of real ones, where faces differ in how much they have:
# of what differs too little the score likes the median, and the mean lies above it.
EVEN = 5.0
SOON = 0.02  # of each step in those means
TINY = 1e-8  # beside variances: their roots have a slope at zero


@dataclass(frozen=True)
class BeganJudge:
    """L_D = L(x) − k L(G(w)), L_G = L(G(w)) + anchor · mean |x − G(P x)|, with w = M(z) and P x the coordinates of x.

    The judge J and the mapping network M compare `window` faces and codes in every step, out of the last `memory` ones:
    L_J = mean softplus(−J(P x)) + mean softplus(J(M(z))) + penalty / 2 · mean |∇J(P x)|²
    L_M = mean softplus(−J(M(z)))
    J sees each face beside the deviations of all that it is compared with: `with_deviations`.

    With `network.detail`, real faces are compared with G(P x, ε), what is made of their coordinates and of chance ε, by
    L_G = spectrum · mean ((√(E / E_real) − 1)² + STEADY · E' / E_real),
    E energies of bands of what chance does, E' of what the convolutions do without it, in one face,
    and with `network.traits` spectrum · (energy score of √(E / E_real) of each face + share of the traits of x that are
    missed + EVEN · mean (1 − 1 / √e) E / E_real) in its place, e of each band the mean of E / E_real in the last steps,
    E then of whole details, drawn twice: `nn.details.score`, `nn.details.Traits`; STEADY stays,
    + validity · mean (folds + crossings) / V, V vertices: `nn.validity`. Steps take turns: in one BEGAN is played and
    faces are rebuilt, in the next details are compared; the judge plays in both.
    """

    kind: Literal["began-judge"] = "began-judge"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.7  # as in BEGAN
    lambda_k: Annotated[float, Field(gt=0)] = 0.001  # as in BEGAN
    anchor: Annotated[float, Field(ge=0)] = 1.0  # weight of rebuilding real faces
    window: Several = 128  # faces that the judge compares at a time
    memory: Several = 2048  # faces that they are taken from; `window` of the last are nearly all the same in the next
    # step, and the game runs after them
    penalty: Annotated[float, Field(ge=0)] = 0.3  # R1; computed in one step of `phases`, with so many times the weight
    spectrum: Annotated[float, Field(ge=0)] = 0.0  # weight of the energies of bands, in L_G
    validity: Annotated[float, Field(ge=0)] = 0.0  # weight of folds and crossings, in L_G

    phases: ClassVar[int] = 8
    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("generator", "mapping")
    curves: ClassVar[Curves] = {
        **BALANCE,
        "Rebuilt from coordinates, network units": {"anchor": "mean |x − G(P x)|"},
        "Loss of the judge": {"judge": "without its penalty"},
        "Energies of details": {"spectrum": "mean (√(E / E of real faces) − 1)²", "steady": "of all faces alike"},
        "Details of one face": {"amount": "energy score of √(E / E of real faces)", "traits": "share of them missed"},
        "Faults of a face": {"folds": "folds, sum of cosines", "crossings": "pairs of triangles that cross"},
    }

    def __post_init__(self) -> None:
        if self.window > self.memory:
            raise ValueError("window cannot be larger than memory")

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a network is not made for this objective."""
        if not spec.linear or not spec.mapping:
            raise ValueError("objective began-judge needs network.linear = true and a network.mapping, say 256")
        if (self.spectrum or self.validity) and not spec.detail:
            raise ValueError("objective.spectrum and objective.validity are about details: set network.detail = true")

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """Generator and auto-encoding discriminator, mapping network and judge."""
        return {
            "generator": networks.Decoder(hierarchy, spec, generator),
            "critic": networks.Autoencoder(hierarchy, replace(spec, linear=False, detail=False, traits=0), generator),
            "mapping": networks.MappingNetwork(spec, generator),
            "judge": networks.perceptron((2 * spec.code, JUDGE, JUDGE, JUDGE, 1), generator),
        }

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """k₀ = 0, and nothing remembered."""
        generator, details = players["generator"], players.get("details")
        assert isinstance(generator, networks.Decoder)
        strengths: dict[str, Tensor] = {}
        if isinstance(details, judges.Details) and details.traits is not None:
            strengths["strengths"] = torch.ones_like(details.spectrum.real)  # means of energies over real ones
        return strengths | {
            "k": torch.zeros(()),
            "steps": torch.zeros((), dtype=torch.int64),
            "seen": torch.zeros(self.memory, generator.spec.code),
            "drawn": torch.zeros(self.memory, generator.spec.code),
        }

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of BEGAN or of details on the meshes of a batch, and one of the judge on remembered coordinates."""
        generator, own = state.networks["generator"], state.variables
        assert isinstance(generator, networks.Decoder)
        with torch.no_grad():
            seen = generator.project(batch.faces)
            all_seen, all_drawn = (state.team.gather(rows)[-self.memory :] for rows in (seen, batch.codes))
            window = remembered(own["steps"], len(all_seen), self.window, self.memory)
            places = newest(own["steps"], len(all_seen), self.memory)
            own["seen"].index_copy_(0, places, all_seen)
            own["drawn"].index_copy_(0, places, all_drawn)
        of_details = batch.noise is not None and batch.phase % 2 == 1
        stats = self._details(state, batch, seen) if of_details else self._began(state, batch, seen)
        stats["judge"] = self._judge(state, window, penalised=batch.phase == 0)
        own["steps"].add_(1)
        state.update(*state.optimisers)
        return stats

    def _began(self, state: State, batch: Batch, seen: Tensor) -> dict[str, Tensor]:
        """Set the gradients of BEGAN's discriminator and of the generator, which rebuilds faces beside; returns what to
        show."""
        generator, critic, k = state.networks["generator"], state.networks["critic"], state.variables["k"]
        with torch.no_grad():
            mapped = state.networks["mapping"](batch.codes)
        generated, rebuilt = generator(torch.cat([mapped, seen])).split(len(seen))
        real_loss, fake_loss = reconstruction_loss(critic, batch.faces), reconstruction_loss(critic, generated)
        anchor = networks.l1(batch.faces, rebuilt)
        set_gradients(real_loss, fake_loss + self.anchor * anchor, k, critic.parameters(), generator.parameters())
        real, fake, missed = state.mean(real_loss, fake_loss, anchor)
        k.copy_(next_k(k, real, fake, self.gamma, self.lambda_k))
        measure = convergence(real, fake, self.gamma)
        return {"L_real": real, "L_fake": fake, "k": k.clone(), "M": measure, "anchor": missed}

    def _details(self, state: State, batch: Batch, seen: Tensor) -> dict[str, Tensor]:
        """Set the gradients of the generator; returns what to show.

        Real faces are compared with what the generator makes of their own coordinates and of chance, so that only
        details can tell them apart. Energies are those of chance alone, what is made less what is made without it:
        coordinates say next to nothing of real details, and what is the same in all faces is no variation. That it
        draws lips and lids apart, where smooth faces cross, is worth some energy, and not what comes for nothing.
        """
        generator, details = state.networks["generator"], state.networks["details"]
        assert isinstance(generator, networks.Decoder)
        assert isinstance(details, judges.Details)
        assert batch.noise is not None
        assert generator.linear is not None
        part = COMPARED if details.traits is None else WITH_TRAITS
        count = math.ceil(part * len(seen))
        faces, codes = batch.faces[:count], seen[:count]
        draws = 1 if details.traits is None else 2
        noise = torch.cat([batch.noise.roll(draw, 0)[:count] for draw in range(draws)])
        made, *again = generator(codes.repeat(draws, 1), noise).split(count)
        linear = (codes @ generator.linear).view_as(made)
        real, fake = (faces - linear) * details.freedom, (made - linear) * details.freedom.sign()
        still = generator(codes)
        shares = details.spectrum.shares
        if details.traits is None:
            energies, alike = details.spectrum(torch.cat([made - still, still[:1] - linear[:1]])).split((count, 1))
            held, added, shown = 1.0, made.new_zeros(()), {}
        else:
            other = (again[0] - linear) * details.freedom.sign()
            of_all = details.spectrum(torch.cat([fake, other, still[:1] - linear[:1]]))
            energies, alike = of_all.split((2 * count, 1))
            with torch.no_grad():
                theirs = (details.spectrum(real) + TINY).sqrt()
            first, second = (energies + TINY).sqrt().split(count)
            score = judges.score(first, second, theirs, shares)
            missed = details.traits.missed(real, generator(codes, traits=details.traits(real)) - still)
            shown = dict(zip(("amount", "traits"), state.mean(score, missed), strict=True))
            held, added = EVEN, score + missed
        mean = energies.mean(dim=0)
        (strengths,) = state.mean(mean)  # of what all processes made
        if details.traits is not None:
            strengths = state.variables["strengths"].lerp_(strengths, SOON)
        lengths = (strengths + TINY).sqrt()
        shown |= {"spectrum": (shares * (lengths - 1).square()).sum()}
        added = added + held * (shares * (1 - 1 / lengths) * mean).sum()  # of the gradient of `held` times that
        steady = (shares * alike.mean(dim=0)).sum()
        added = self.spectrum * (added + STEADY * steady)
        shown |= {"steady": state.mean(steady)[0]}
        if details.validity is not None:
            folds, crossings = details.validity(made[: math.ceil(part * count)])
            added = added + self.validity * (folds + crossings) / made.shape[1]
            shown |= dict(zip(("folds", "crossings"), state.mean(folds, crossings), strict=True))
        theta = list(generator.parameters())
        for parameter, gradient in zip(theta, torch.autograd.grad(added, theta), strict=True):
            parameter.grad = gradient
        return shown

    def _judge(self, state: State, window: Tensor, penalised: bool) -> Tensor:
        """Set the gradients of the judge and of the mapping network; returns the judge's loss without its penalty."""
        judge, mapping, generator = state.networks["judge"], state.networks["mapping"], state.networks["generator"]
        assert isinstance(generator, networks.Decoder)
        scale = weights(generator)
        real = (state.variables["seen"][window] * scale).requires_grad_(penalised)
        of_real = judge(with_deviations(real))
        of_fake = judge(with_deviations(mapping(state.variables["drawn"][window]) * scale))
        loss = functional.softplus(-of_real).mean() + functional.softplus(of_fake).mean()
        total = loss
        if penalised and self.penalty:
            (slope,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
            total = loss + self.phases * self.penalty / 2 * slope.square().sum(dim=1).mean()
        theta_j, theta_m = list(judge.parameters()), list(mapping.parameters())
        gradients = torch.autograd.grad(total, theta_j, retain_graph=True)
        gradients += torch.autograd.grad(functional.softplus(-of_fake).mean(), theta_m)
        for parameter, gradient in zip(theta_j + theta_m, gradients, strict=True):
            parameter.grad = gradient
        return loss.detach()

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Losses far beyond what the mean face would cost."""
        return f"the losses exploded (M = {stats['M']:.3g})" if stats.get("M", 0.0) > EXPLODED else None


def newest(steps: Tensor, batch: int, memory: int) -> Tensor:
    """Where in the memory a batch goes (batch,), after so many `steps`: over the oldest rows, in a circle."""
    return (steps * batch + torch.arange(batch, device=steps.device)) % memory


def remembered(steps: Tensor, batch: int, window: int, memory: int) -> Tensor:
    """Which rows of the memory are compared (window,): evenly spread over those filled, the next ones in each step."""
    filled = ((steps + 1) * batch).clamp(max=memory)
    stride = (filled // window).clamp(min=1)
    return (torch.arange(window, device=steps.device) * stride + steps) % filled


def with_deviations(coordinates: Tensor) -> Tensor:
    """Coordinates (N, code) of faces, and beside each the standard deviations of all: (N, 2 · code).

    That all of them vary too little cannot be seen in any one of them (after the minibatch discrimination of Salimans
    et al. 2016 and the deviations of Karras et al. 2018).
    """
    deviations = (coordinates.var(dim=0, correction=0) + TINY).sqrt()
    return torch.cat([coordinates, deviations.expand_as(coordinates)], dim=1)


def weights(generator: networks.Decoder) -> Tensor:
    """What coordinates (code,) are multiplied with before they are judged.

    Their standard deviations become the square roots of what they are in the faces, relative to the largest: as they
    are, the largest few would be all that counts; all equal, the smallest would count as much as the largest.
    """
    assert generator.linear is not None
    deviations = generator.linear.norm(dim=1)
    return (3.0 * deviations / deviations.max()).sqrt()
