"""What the loop asks of an objective, and what several of them share; without PyTorch, as recipes are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from meshgan.nn.plan import NetworkSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.training.state import Batch, State

Curves = Mapping[str, Mapping[str, str]]  # panels of a report by title: the statistics shown in each, with their labels

BALANCE: Curves = {  # of all kinds of BEGAN
    "Loss of the auto-encoder, network units": {"L_real": "L(x)", "L_fake": "L(G(z))"},
    "Convergence M": {"M": "M"},
    "Balance k": {"k": "k"},
}
ALWAYS: Curves = {  # of every run that generates faces
    "Diversity of 16 fixed samples, mm": {"diversity_mm": "samples"},
    "Learning rate": {"lr": "rate"},
}


class Objective(Protocol):
    """What the loop asks of an objective: a frozen dataclass of its numbers, in the file that holds its losses."""

    @property
    def kind(self) -> str:
        """Its name in recipes."""
        ...

    @property
    def phases(self) -> int:
        """Steps after which its pattern of updates repeats; 1 for most."""
        ...

    @property
    def prior(self) -> Literal["uniform", "standard-normal"]:
        """What its codes are drawn from."""
        ...

    @property
    def keeps(self) -> tuple[str, ...]:
        """Those of its networks that go into the model."""
        ...

    @property
    def curves(self) -> Curves:
        """What a report draws of the statistics that `step` returns."""
        ...

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if networks of these sizes are not made for it."""
        ...

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """The networks that it trains, by name; "generator" maps codes (B, code) to faces (B, V, 3).

        `generator` is the source of the random initial weights.
        """
        ...

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Tensors of its own that change while these networks are trained, at their start."""
        ...

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One update of the networks in place; returns scalars to show and log, means over all processes."""
        ...

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """What is wrong, in a few words, if these statistics say that training has failed."""
        ...


def refuse_mapping(spec: NetworkSpec, kind: str) -> None:
    """Raise `ValueError` for a mapping network and for details of chance, which only began-judge trains."""
    if spec.mapping:
        raise ValueError(f"network.mapping is for the objective began-judge; with {kind} set network.mapping = 0")
    if spec.detail:
        raise ValueError(
            f"network.detail is for the objective began-judge; with {kind} set network.detail = false and "
            "network.traits = 0"
        )


def refuse_code_activation(spec: NetworkSpec, kind: str) -> None:
    """Raise `ValueError` for an activation on the code of encoders, where there is none."""
    if spec.code_activation != "none":
        raise ValueError(f'the objective {kind} has no encoder; set network.code_activation = "none"')
