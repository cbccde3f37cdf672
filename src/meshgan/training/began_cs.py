"""BEGAN-CS (Chang et al. 2018): BEGAN whose discriminator must also read the code off a generated face."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.networks import Decoder, Encoder, NetworkSpec
from meshgan.training.autoencoder import l1
from meshgan.training.began import EXPLODED, convergence, next_k, set_gradients
from meshgan.training.state import BALANCE, Batch, Curves, State, refuse_mapping


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
            "generator": Decoder(hierarchy, spec, generator),
            "encoder": Encoder(hierarchy, plain, generator),
            "decoder": Decoder(hierarchy, plain, generator),
        }

    def variables(self, spec: NetworkSpec) -> dict[str, Tensor]:
        """k₀ = 0."""
        return {"k": torch.zeros(())}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of both players on the same generated faces; the constraint moves the encoder alone."""
        generator, encoder, decoder = (state.networks[name] for name in ("generator", "encoder", "decoder"))
        k, theta_e = state.variables["k"], list(encoder.parameters())
        real_loss = l1(batch.faces, decoder(encoder(batch.faces)))
        faces = generator(batch.codes)
        codes = encoder(faces)
        fake_loss = l1(faces, decoder(codes))
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
