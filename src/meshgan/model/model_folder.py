"""The model folder: everything that a finished model needs, moved anywhere; data and never code.

MODEL/model.json           what the model is and the SHA-256 of every other file (see `ModelCard`)
MODEL/weights.safetensors  weights, normalisation and samplers
MODEL/template.ply         mean shape and connectivity
MODEL/hierarchy.npz        the levels of the template, where the model has convolutions
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from meshgan.nn.networks import NetworkSpec
from meshgan.storage import atomic_folder

Sampler = Literal["uniform", "standard-normal", "fitted-normal"]


class Origin(BaseModel):
    """Where a model comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str  # TOML
    data: str  # name of the FaceSet
    source: str
    licence: str
    synthetic: bool
    faces_seen: int
    seed: int


class ModelCard(BaseModel):
    """The content of model.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["network", "pca"]
    name: str
    code: Annotated[int, Field(ge=1)]
    network: NetworkSpec | None = None  # of a "network"
    sampler: Sampler  # used unless another is asked for
    origin: Origin
    template: str  # content hash
    files: dict[str, str] = {}  # SHA-256 of every other file


@dataclass(frozen=True)
class ModelParts:
    """The content of a model folder."""

    card: ModelCard
    template: Mesh
    hierarchy: Hierarchy | None
    tensors: Mapping[str, Tensor]


def write_model_folder(path: Path, parts: ModelParts, replace: bool = False) -> None:
    """Write a model folder; it appears whole or not at all. Raises `UsageError` if `path` holds something.

    With `replace`, an earlier one that was written so gives way to it, if its files are as they were written.
    """
    with atomic_folder(path, keep=(lambda file: False) if replace else None, listed=True) as partial:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in parts.tensors.items()}
        (partial / "weights.safetensors").write_bytes(safetensors.torch.save(tensors))
        write_mesh(partial / "template.ply", parts.template)
        if parts.hierarchy is not None:
            parts.hierarchy.save(partial / "hierarchy.npz")
        files = {file.name: _hash(file) for file in sorted(partial.iterdir())}
        card = parts.card.model_copy(update={"files": files})
        (partial / "model.json").write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_model_folder(path: Path) -> ModelParts:
    """Read and check a model folder. Raises `UsageError` if it is none, `MeshganError` if a file is damaged."""
    card = _read_card(path / "model.json")
    for name, expected in card.files.items():
        if not (path / name).is_file():
            raise MeshganError(f"{path / name} is missing; get the model again.")
        if _hash(path / name) != expected:
            raise MeshganError(f"{path / name} is damaged or was changed; get the model again.")
    needed = {"weights.safetensors", "template.ply"} | ({"hierarchy.npz"} if card.kind == "network" else set())
    if set(card.files) != needed or (card.kind == "network") != (card.network is not None):
        raise MeshganError(f"{path / 'model.json'} is damaged; get the model again.")
    template = read_mesh(path / "template.ply")
    if template.content_hash != card.template:
        raise MeshganError(f"{path / 'template.ply'} is not the template of this model; get the model again.")
    hierarchy = Hierarchy.load(path / "hierarchy.npz") if card.kind == "network" else None
    return ModelParts(card, template, hierarchy, _read_tensors(path / "weights.safetensors"))


def _read_card(path: Path) -> ModelCard:
    if not path.is_file():
        raise UsageError(f"{path.parent} is not a model folder (it has no model.json).")
    try:
        return ModelCard.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except (ValidationError, UnicodeDecodeError, OSError, UsageError) as error:
        raise MeshganError(f"{path} is damaged; get the model again.") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise MeshganError(f"{path} is damaged; get the model again.") from error


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
