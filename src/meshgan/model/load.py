"""What every model can do, and loading one of any kind."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Codes, Faces
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import FaceModel
from meshgan.model.latent import STEPS, Fit
from meshgan.model.model_folder import find_model, read_card
from meshgan.model.pca import PcaModel
from meshgan.model.samplers import Sampled

if TYPE_CHECKING:
    import torch
    from torch import nn


class Model(Sampled, Protocol):
    """A trained thing, of whatever kind: `FaceModel` says what each verb does.

    Faces are (B, V, 3) float32 in mm, codes (B, D) float32.
    """

    template: Mesh

    @property
    def device(self) -> "torch.device": ...
    @property
    def mean_face(self) -> Faces: ...
    @property
    def encodes(self) -> bool: ...
    def encode(self, vertices: ArrayLike) -> Codes: ...
    def fit(self, vertices: ArrayLike, weights: ArrayLike | None = None, steps: int = STEPS) -> Fit: ...
    def fitting(self, steps: int = STEPS) -> str: ...
    def network(self) -> "nn.Module": ...
    def save(self, folder: str | Path, replace: bool = False) -> None: ...


def load_model(where: str | Path) -> Model:
    """Load a model of either kind from a model folder, a run folder, or by the name of one that ships."""
    path = find_model(where)
    return PcaModel.load(path) if read_card(path).kind == "pca" else FaceModel.load(path)


def check_same_template(first: Model, second: Model) -> None:
    """Raise `UsageError` unless two models are of the same connectivity."""
    if not np.array_equal(first.template.triangles, second.template.triangles):
        from meshgan.data.corpora.basis import layout_of

        rigged = layout_of(first.template) is not None
        own = f", or one of them alone: what `meshgan sample` writes of '{first.card.name}' has expressions of its own"
        raise UsageError(
            f"the models '{first.card.name}' and '{second.card.name}' are of different templates; "
            f"take two models that were trained on one template{own if rigged else ''}."
        )
