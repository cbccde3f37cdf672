"""Expression recognition (the paper's Sec. 4.3): the loss of a classifier, trained by the loop of all objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from meshgan.errors import UsageError
from meshgan.nn.plan import NetworkSpec
from meshgan.training import Later
from meshgan.training.objective import Curves

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from meshgan.arrays import Integers
    from meshgan.data.faceset import FaceSet
    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import spline
    from meshgan.training.state import Batch, State
else:
    functional, spline = Later("torch.nn.functional"), Later("meshgan.nn.spline")

Word = Annotated[str, Field(min_length=1, max_length=100)]


@dataclass(frozen=True)
class Classification:
    """Mean cross-entropy of the classifier's logits against the `label` of each face, one of `classes`."""

    kind: Literal["classification"] = "classification"
    label: Annotated[str, Field(max_length=100)] = "expression"  # the column of the FaceSet that is learned
    classes: Annotated[tuple[Word, ...], Field(min_length=2, max_length=1000)] = (
        "anger",
        "disgust",
        "fear",
        "happiness",
        "sadness",
        "surprise",
    )

    phases: ClassVar[int] = 1
    prior: ClassVar[Literal["uniform"]] = "uniform"
    keeps: ClassVar[tuple[str, ...]] = ("classifier",)
    curves: ClassVar[Curves] = {
        "Cross-entropy": {"loss": "training faces"},
        "Recognised, share": {"accuracy": "training faces, on the way"},
    }

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is named twice")

    def check(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` for a network section: the classifier's network is the paper's."""
        if spec != NetworkSpec():
            raise ValueError("the objective classification has a network of its own; leave out the section network")

    def targets(self, faces: FaceSet) -> Integers:
        """The number (N,) of each face's class. Raises `UsageError` for a label that is missing or of no class."""
        if self.label not in faces.labels:
            raise UsageError(f"{faces.path} has no label column '{self.label}' to learn.")
        number = {name: i for i, name in enumerate(self.classes)}
        unknown = set(faces.labels[self.label].tolist()) - number.keys()
        if unknown:
            raise UsageError(f"{faces.path} has faces of '{min(unknown)}', which objective.classes does not name.")
        return np.array([number[word] for word in faces.labels[self.label]], dtype=np.int64)

    def build(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator) -> dict[str, nn.Module]:
        """The classifier."""
        try:
            return {"classifier": spline.ExpressionClassifier(hierarchy, len(self.classes), generator=generator)}
        except ValueError as error:
            raise UsageError(f"the classifier needs a template with five levels ({error}).") from error

    def variables(self, players: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """None."""
        return {}

    def step(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step on faces in millimetres."""
        assert batch.targets is not None
        logits = state.networks["classifier"](batch.faces)
        loss = functional.cross_entropy(logits, batch.targets)
        loss.backward()
        state.update("classifier")
        mean, hits = state.mean(loss, (logits.argmax(1) == batch.targets).float().mean())
        return {"loss": mean, "accuracy": hits}

    def trouble(self, stats: Mapping[str, float]) -> str | None:
        """Nothing that is not seen as a loss that is no number."""
        return None
