"""The expression classifier (the paper's Sec. 4.3): faces in, the likeliest of its classes out, and its folder.

MODEL/model.json           the classes, in the order of the outputs, and what it was trained on
MODEL/weights.safetensors, template.ply, hierarchy.npz   as in any model folder
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshgan.arrays import Faces, Singles
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.model.model_folder import MOST_CARD, Origin, read_contents, write_contents
from meshgan.nn.generator import weights_of
from meshgan.nn.networks import filled
from meshgan.nn.spline import ExpressionClassifier
from meshgan.reading import read_text

FILES = {"weights.safetensors", "template.ply", "hierarchy.npz"}
NAME = "classifier"  # of its network among tensors

Word = Annotated[str, Field(min_length=1, max_length=100)]


class ClassifierCard(BaseModel):
    """`model.json` of a classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["classifier"] = "classifier"
    classes: Annotated[tuple[Word, ...], Field(min_length=2, max_length=1000)]
    origin: Origin
    files: dict[str, str] = {}  # SHA-256 of every other file


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network with the names of its outputs, for faces of `hierarchy`'s template."""

    network: ExpressionClassifier
    hierarchy: Hierarchy
    card: ClassifierCard

    @torch.no_grad()
    def probabilities(self, vertices: Faces, batch: int = 64) -> Singles:
        """Faces (N, V, 3) in mm to the probability (N, classes) of each class."""
        if vertices.shape[1:] != self.hierarchy.levels[0].mesh.vertices.shape:
            raise UsageError(f"faces of shape {vertices.shape[1:]} are not of the classifier's template.")
        parts = [
            torch.softmax(self.network(torch.tensor(vertices[i : i + batch])), dim=1)
            for i in range(0, len(vertices), batch)
        ]
        return torch.cat(parts).numpy()

    def predict(self, vertices: Faces) -> NDArray[np.str_]:
        """The likeliest class (N,) of each face (N, V, 3) in mm."""
        return np.array(self.card.classes)[self.probabilities(vertices).argmax(1)]

    def save(self, folder: str | Path, replace: bool = False) -> None:
        """Write a model folder. Raises `UsageError` if it holds something already (see `write_model_folder`)."""
        tensors = {f"{NAME}/{key}": value.numpy(force=True) for key, value in self.network.state_dict().items()}
        write_contents(Path(folder), self.card, self.hierarchy.levels[0].mesh, self.hierarchy, tensors, replace)

    @classmethod
    def load(cls, where: str | Path) -> "Classifier":
        """Read a run or model folder. Raises `UsageError` if it is none, `MeshganError` if it is damaged."""
        folder = Path(where)
        folder = folder / "model" if (folder / "model").is_dir() else folder
        if not (folder / "model.json").is_file():
            raise UsageError(f"{folder} is not a classifier's folder (it has no model.json).")
        try:
            card = ClassifierCard.model_validate_json(read_text(folder / "model.json", MOST_CARD), strict=True)
        except (ValidationError, MeshganError) as error:
            raise MeshganError(f"{folder / 'model.json'} is damaged; train the classifier again.") from error
        if set(card.files) != FILES:
            raise MeshganError(f"{folder / 'model.json'} is damaged; train the classifier again.")
        _, hierarchy, tensors = read_contents(folder, card.files)
        assert hierarchy is not None
        try:
            network = ExpressionClassifier(hierarchy, len(card.classes), generator=torch.Generator())
        except ValueError as error:
            raise MeshganError(f"{folder / 'hierarchy.npz'} is not of a classifier; train it again.") from error
        return cls(filled(network, weights_of(NAME, tensors)), hierarchy, card)
