"""Loading a model of any kind, and the verbs that all kinds share."""

from pathlib import Path
from typing import Protocol

from numpy.typing import ArrayLike

from meshgan.arrays import Codes, Faces
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import FaceModel, find_model
from meshgan.model.latent import Fit
from meshgan.model.model_folder import ModelCard, Sampler, read_model_folder
from meshgan.model.pca import PcaModel
from meshgan.model.samplers import Samplers


class Model(Protocol):
    """What `FaceModel` and `PcaModel` have in common; see `FaceModel` for the meaning."""

    card: ModelCard
    template: Mesh
    samplers: Samplers

    @property
    def code_size(self) -> int: ...
    def codes(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Codes: ...
    def sample(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Faces: ...
    def decode(self, codes: ArrayLike) -> Faces: ...
    def fit(self, vertices: ArrayLike, weights: ArrayLike | None = None) -> Fit: ...
    def save(self, folder: str | Path) -> None: ...


def load_model(where: str | Path) -> Model:
    """Load a model of either kind from a model folder, a run folder, or by the name of one that ships."""
    path = find_model(where)
    return PcaModel.load(path) if read_model_folder(path).card.kind == "pca" else FaceModel.load(path)
