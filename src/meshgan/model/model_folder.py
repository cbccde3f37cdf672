"""The model folder: everything that a finished model needs, moved anywhere; data and never code.

MODEL/model.json           what the model is and the SHA-256 of every other file (see `ModelCard`)
MODEL/weights.safetensors  weights, normalisation and samplers; a matrix may be packed (see `packed`)
MODEL/template.ply         mean shape and connectivity
MODEL/hierarchy.npz        the levels of the template, where the model has convolutions
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from meshgan.arrays import Singles
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from meshgan.nn.plan import NetworkSpec
from meshgan.reading import parse_toml, read_bytes, read_text
from meshgan.storage import atomic_folder

SHIPPED = Path(__file__).parent / "shipped"

MOST_FILE = 2**30  # bytes of one file of a model
MOST_CARD = 2**20
MOST_CODE = 4096  # numbers in a code
FLOATS = (np.float16, np.float32, np.float64)
HEAVIEST = 1e6  # a weight: products of larger ones are soon no numbers
FOURTEEN = 14  # bits of a number of a packed matrix, where nothing else is said
FAR_MM = 1e6  # no face lies a kilometre away, nor do its vertices move so far

Sampler = Literal["uniform", "standard-normal", "fitted-normal", "mixture", "bootstrap", "flow"]
Prior = Literal["uniform", "standard-normal"]
Text = Annotated[str, Field(max_length=10_000)]
Tensors = Mapping[str, NDArray[Any]]  # by their names in weights.safetensors


class Origin(BaseModel):
    """Where a model comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Annotated[str, Field(max_length=100_000)]  # TOML
    data: Text  # name of the FaceSet
    source: Text
    licence: Text
    synthetic: bool
    faces_seen: Annotated[int, Field(ge=0, le=10**15)]
    seed: Annotated[int, Field(ge=0, lt=2**64)]


class ModelCard(BaseModel):
    """The content of model.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["network", "pca"]
    name: Annotated[str, Field(max_length=200)]
    code: Annotated[int, Field(ge=1, le=MOST_CODE)]
    network: NetworkSpec | None = None  # of a "network"
    sampler: Sampler  # used unless another is asked for
    prior: Prior = "uniform"  # what codes were drawn from in training, or an auto-encoder's are compared with
    origin: Origin
    template: Annotated[str, Field(max_length=100)]  # content hash
    files: dict[str, str] = {}  # SHA-256 of every other file


class _Kind(BaseModel):
    """What is looked at first in a model.json, of whatever kind."""

    kind: str


@dataclass(frozen=True)
class ModelParts:
    """The content of a model folder."""

    card: ModelCard
    template: Mesh
    hierarchy: Hierarchy | None
    tensors: Tensors


def find_model(where: str | Path) -> Path:
    """The model folder that a path (model folder or run folder) or the name of a shipped model means."""
    path = Path(where)
    for folder in (path, path / "model", SHIPPED / str(where)):
        if (folder / "model.json").is_file():
            return folder
    if (path / "recipe.toml").is_file():
        raise UsageError(f"{path} is a run that has not finished; go on with it first (`meshgan train … --resume`).")
    names = ", ".join(sorted(folder.name for folder in SHIPPED.glob("*") if (folder / "model.json").is_file()))
    raise UsageError(f"{where} is no model folder, no run folder and no model that ships ({names or 'none does'}).")


def write_model_folder(path: Path, parts: ModelParts, replace: bool = False) -> None:
    """Write a model folder; it appears whole or not at all. Raises `UsageError` if `path` holds something.

    With `replace`, an earlier one that was written so gives way to it, if its files are as they were written.
    """
    write_contents(path, parts.card, parts.template, parts.hierarchy, parts.tensors, replace)


def write_contents(
    path: Path,
    card: BaseModel,
    template: Mesh,
    hierarchy: Hierarchy | None,
    tensors: Tensors,
    replace: bool = False,
) -> None:
    """Write the files of a model and its card, whatever kind that is of, with their sums in its field `files`."""
    with atomic_folder(path, keep=(lambda file: False) if replace else None, listed=True) as partial:
        plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        (partial / "weights.safetensors").write_bytes(safetensors.save(plain))
        write_mesh(partial / "template.ply", template)
        if hierarchy is not None:
            hierarchy.save(partial / "hierarchy.npz")
        files = {file.name: _hash(file.read_bytes()) for file in sorted(partial.iterdir())}
        text = card.model_copy(update={"files": files}).model_dump_json(indent=2)
        (partial / "model.json").write_text(text + "\n", encoding="utf-8")


def read_model_folder(path: Path) -> ModelParts:
    """Read and check a model folder. Raises `UsageError` if it is none, `MeshganError` if a file is damaged."""
    card = read_card(path)
    template, hierarchy, tensors = read_contents(path, card.files)
    if template.content_hash != card.template:
        raise MeshganError(f"{path / 'template.ply'} is not the template of this model; get the model again.")
    return ModelParts(card, template, hierarchy, tensors)


def read_contents(path: Path, files: Mapping[str, str]) -> tuple[Mesh, Hierarchy | None, Tensors]:
    """Template, hierarchy (where there is one) and tensors of a model whose card says the SHA-256 sums of `files`."""
    contents = {name: _content(path / name, expected) for name, expected in files.items()}
    template = read_mesh(path / "template.ply")
    hierarchy = Hierarchy.load(path / "hierarchy.npz") if "hierarchy.npz" in files else None
    return template, hierarchy, _tensors(contents["weights.safetensors"], path / "weights.safetensors")


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder, consistent in itself. Raises as `read_model_folder` does."""
    path = folder / "model.json"
    if not path.is_file():
        raise UsageError(f"{folder} is not a model folder (it has no model.json).")
    try:
        text = read_text(path, MOST_CARD)
        classifies = _Kind.model_validate_json(text).kind == "classifier"
        card = None if classifies else ModelCard.model_validate_json(text, strict=True)
        agrees = card is not None and _agrees(card, parse_toml(card.origin.recipe, "its recipe"))
    except (ValidationError, MeshganError) as error:
        raise MeshganError(f"{path} is damaged; get the model again.") from error
    if card is None:
        raise UsageError(f"{folder} holds a classifier of expressions: it makes no faces.")
    if not agrees:
        raise MeshganError(f"{path} is damaged: its parts contradict each other; get the model again.")
    return card


def _agrees(card: ModelCard, recipe: Mapping[str, Any]) -> bool:
    """Whether kind, network, code and files of a card belong together, and the recipe made such a model."""
    needed = {"weights.safetensors", "template.ply"} | ({"hierarchy.npz"} if card.kind == "network" else set())
    if set(card.files) != needed or (card.kind == "network") != (card.network is not None):
        return False
    if card.network is None:
        return recipe.get("components", card.code) == card.code
    if card.network.code != card.code:
        return False
    written = recipe.get("network")
    try:
        return written is None or TypeAdapter(NetworkSpec).validate_python(written) == card.network
    except (ValidationError, UsageError):
        return False


def _content(path: Path, expected: str) -> bytes:
    """A file of a model folder, which is what its card says."""
    if not path.is_file():
        raise MeshganError(f"{path} is missing; get the model again.")
    content = read_bytes(path, MOST_FILE)
    if _hash(content) != expected:
        raise MeshganError(f"{path} is damaged or was changed; get the model again.")
    return content


def packed(name: str, matrix: NDArray[Any], bits: int = FOURTEEN) -> Tensors:
    """A matrix (K, N), or a tensor (K, …), in nine to sixteen `bits` a number, as whole multiples of a step for each
    row: the tensors that hold it.

    `NAME.high` (K, …) are the upper eight bits, `NAME.low` the others of a row one after the other, the lowest first,
    `NAME.step` (K,) the steps, and `NAME.bits` says how many bits they are, if not fourteen.
    """
    lower, middle, rows = bits - 8, 2 ** (bits - 1), matrix.reshape(len(matrix), -1)
    step = np.maximum(np.abs(rows).max(axis=1) / (middle - 1), np.finfo(np.float32).tiny).astype(np.float32)
    whole = np.rint(rows / step[:, None]).astype(np.int32) + middle
    rest = (whole[:, :, None] >> np.arange(lower) & 1).astype(np.uint8).reshape(len(whole), -1)
    low = np.packbits(rest, axis=1, bitorder="little")
    high = (whole >> lower).astype(np.uint8).reshape(matrix.shape)
    told = {} if bits == FOURTEEN else {f"{name}.bits": np.array([bits], np.uint8)}
    return {f"{name}.high": high, f"{name}.low": low, f"{name}.step": step} | told


def unpacked(high: NDArray[Any], low: NDArray[Any], step: NDArray[Any], bits: ArrayLike = FOURTEEN) -> Singles:
    """What `packed` has made of a matrix or tensor (K, …). Raises `ValueError` for what it cannot have made."""
    lower = int(np.asarray(bits).item()) - 8
    if not 1 <= lower <= 8 or high.ndim < 2 or not high.size or step.shape != (len(high),):
        raise ValueError("these are no bits of a matrix")
    rows, count = len(high), high.size // len(high)
    if high.dtype != np.uint8 or low.dtype != np.uint8 or low.shape != (rows, -(-count * lower // 8)):
        raise ValueError("these are no bits of a matrix")
    rest = np.zeros((rows, count, 8), np.uint8)
    rest[:, :, :lower] = np.unpackbits(low, axis=1, count=count * lower, bitorder="little").reshape(rows, count, lower)
    whole = (high.reshape(rows, -1).astype(np.int32) << lower) + np.packbits(rest, axis=2, bitorder="little")[:, :, 0]
    matrix = (whole - 2 ** (lower + 7)).astype(np.float32) * step[:, None].astype(np.float32)
    return matrix.reshape(high.shape)


def _tensors(content: bytes, path: Path) -> Tensors:
    try:
        tensors = safetensors.load(content)
        for name in [name.removesuffix(".high") for name in tensors if name.endswith(".high")]:
            high, low, step = (tensors.pop(f"{name}.{part}") for part in ("high", "low", "step"))
            tensors[name] = unpacked(high, low, step, tensors.pop(f"{name}.bits", FOURTEEN))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise MeshganError(f"{path} is damaged; get the model again.") from error
    for name, array in tensors.items():
        if array.dtype not in FLOATS or not np.isfinite(array).all():
            raise MeshganError(f"{path} is damaged: '{name[:80]}' holds what is no number; get the model again.")
        if not name.startswith("sampler/") and array.size and float(np.abs(array).max()) > HEAVIEST:
            raise MeshganError(f"{path} is damaged: '{name[:80]}' holds what no model does; get the model again.")
    return tensors


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
