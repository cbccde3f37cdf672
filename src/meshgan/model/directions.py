"""Semantic directions: what to add to a code so that a face becomes older, heavier, angrier, and nothing else.

All functions take arrays: `codes` (N, D) and `labels` (N, L), one row per face. A label is a number (age in years,
weight) or a share (1 for anger, else 0); shares that sum to 1 are welcome, the least-norm solution then measures each
against the mean of all.

Beside them the principal axes of a model's own faces, as directions in its code. They take seconds to find and are the
same each time, so they come with a model (`axes.npz` in its folder); where they do not, or are another model's, they
are found anew.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from meshgan.arrays import Codes, Floats, Singles
from meshgan.data.principal import principal_components
from meshgan.errors import MeshganError
from meshgan.geometry.decomposition import principal_axes
from meshgan.model.load import Model
from meshgan.model.model_folder import find_model, read_card
from meshgan.reading import read_arrays
from meshgan.storage import atomic_file

FILE = "directions.safetensors"  # in a model folder
MOST_BYTES = 2**26
LARGEST = 1e12  # a label, or a number in a code

Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=10_000)]

AXES_FILE = "axes.npz"  # in a model folder too
COUNT = 10  # axes
SAMPLES = 1000  # faces from which the axes are found
QUICK = 40  # steps of Eq. 2 for the template, which lies near the mean
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Directions:
    """For each of L `names`: `vectors` (L, D), the change of the code for one standard deviation of the label.

    `origin` (D,) is the mean code; `deviation` (L,) the label's standard deviation in its own unit and `mean` (L,)
    its mean, so that `origin + vectors[i] * (value - mean[i]) / deviation[i]` has the label's `value`.
    """

    names: tuple[str, ...]
    origin: Floats
    vectors: Floats
    mean: Floats
    deviation: Floats

    def move(self, codes: NDArray[Any], name: str, amount: float) -> NDArray[Any]:
        """Codes (..., D) moved by `amount` standard deviations of the label `name`."""
        return codes + amount * self.vectors[self.names.index(name)].astype(codes.dtype)

    def at(self, name: str, value: float) -> Floats:
        """The code (D,) of the mean face with the label `name` at `value`, in the label's own unit."""
        i = self.names.index(name)
        return self.origin + self.vectors[i] * (value - self.mean[i]) / self.deviation[i]

    def save(self, folder: Path) -> None:
        """Write `directions.safetensors` into a model folder."""
        arrays = {name: getattr(self, name) for name in ("origin", "vectors", "mean", "deviation")}
        with atomic_file(folder / FILE) as partial:
            partial.write_bytes(save(arrays, {"names": json.dumps(self.names)}))

    @classmethod
    def load(cls, folder: Path) -> "Directions":
        """Read them from a model folder. Raises `MeshganError` if the file is damaged."""
        path = folder / FILE
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise MeshganError(f"{path} is missing, or larger than directions are; estimate them again.")
        try:
            with safe_open(path, framework="numpy") as file:
                names = tuple(TypeAdapter(Names).validate_json(file.metadata()["names"], strict=True))
                directions = cls(names=names, **{key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise MeshganError(f"{path} is damaged; estimate the directions again.") from error
        if not directions._is_sound():
            raise MeshganError(f"{path} is damaged; estimate the directions again.")
        if (folder / "model.json").is_file() and read_card(folder).code != len(directions.origin):
            raise MeshganError(f"{path} is of another model; estimate the directions again.")
        return directions

    def _is_sound(self) -> bool:
        """Whether shapes, kinds and numbers are those of directions."""
        shapes = {"origin": self.vectors.shape[1:], "vectors": (len(self.names), self.origin.size)}
        shapes |= {"mean": (len(self.names),), "deviation": (len(self.names),)}
        arrays = {name: getattr(self, name) for name in shapes}
        return (
            len(set(self.names)) == len(self.names)
            and all(array.shape == shapes[name] and array.dtype == np.float64 for name, array in arrays.items())
            and all(bool((np.abs(array) < LARGEST).all()) for array in arrays.values())
            and bool((self.deviation > 0).all())
        )


def estimate_directions(codes: NDArray[Any], labels: Mapping[str, NDArray[Any]]) -> Directions:
    """Directions for all `labels` (name → (N,)): the mean code's change with one label, the others held fixed.

    This is the linear regression of codes on all labels together. Regressed on one label alone, a code would also
    take up whatever usually comes with it: where the old are heavier, ageing would fatten.
    """
    table = np.column_stack([np.asarray(column, np.float64) for column in labels.values()])
    mean, deviation = table.mean(0), table.std(0)
    constant = [name for name, spread in zip(labels, deviation, strict=True) if spread == 0]
    if constant:
        raise MeshganError(f"the label {constant[0]} is the same for all faces, so it has no direction.")
    origin = codes.mean(0, dtype=np.float64)
    vectors = joint(codes - origin, (table - mean) / deviation)
    return Directions(tuple(labels), origin, vectors, mean, deviation)


def joint(codes: Floats, labels: Floats) -> Floats:
    """The directions (L, D) of `estimate_directions`, from centred codes (N, D) and centred labels (N, L)."""
    products = labels.T @ labels
    inverse = np.linalg.pinv(products, rcond=1e-6, hermitian=True)
    own = np.diag(inverse @ products)  # below 1 where a label cannot change alone, as with shares that sum to 1
    return inverse @ labels.T @ codes / own[:, None]


def marginal(codes: Floats, labels: Floats) -> Floats:
    """The naive directions (L, D): each label alone, whatever else changes with it. For comparison."""
    return labels.T @ codes / (labels**2).sum(0)[:, None]


def variance_explained(values: Floats, labels: Floats) -> Floats:
    """Share (L,) of the variance of `values` (N, K) that each label of `labels` (N, L) explains alone (linear R²).

    Values may be codes or vertices in mm; the variance is summed over the K columns.
    """
    values, labels = values - values.mean(0), labels - labels.mean(0)
    fitted = labels.T @ values  # (L, K)
    return (fitted**2).sum(1) / (labels**2).sum(0) / (values**2).sum()


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads labels off vertices, linearly: `(x - mean) @ weights`, in standard deviations of each label.

    `r_squared` (L,) says how well, on faces that it was not fitted to.
    """

    mean: Floats
    weights: Floats
    r_squared: Floats

    def __call__(self, vertices: NDArray[Any]) -> Floats:
        """Faces (N, V, 3) in mm to readings (N, L)."""
        return (vertices.reshape(len(vertices), -1) - self.mean) @ self.weights


def fit_reader(
    vertices: NDArray[Any], labels: Floats, test_vertices: NDArray[Any], test_labels: Floats, components: int = 64
) -> Reader:
    """A `Reader` by regression on the first principal components of real faces (N, V, 3).

    Labels (N, L) of both parts are in standard deviations of the training part, centred on its mean.
    """
    flat = vertices.reshape(len(vertices), -1).astype(np.float64)
    mean = flat.mean(0)
    flat -= mean
    _, axes = principal_axes(flat, components)
    scores = flat @ axes.T
    reader = Reader(mean, axes.T @ np.linalg.lstsq(scores, labels, rcond=None)[0], np.empty(0))
    residual = test_labels - reader(test_vertices)
    return Reader(mean, reader.weights, 1 - (residual**2).sum(0) / (test_labels**2).sum(0))


def responses(
    decode: Callable[[Singles], Singles],
    codes: NDArray[Any],
    vectors: Floats,
    read: Callable[[NDArray[Any]], Floats],
) -> Floats:
    """How readings change, (L, L): row i for a step of one deviation along direction i, mean over `codes` (N, D).

    Central differences of half a deviation either way, through the decoder and the `Reader`.
    """
    rows = []
    for vector in vectors:
        forth, back = (read(decode((codes + half * vector).astype(np.float32))) for half in (0.5, -0.5))
        rows.append((forth - back).mean(0))
    return np.stack(rows)


def selectivity(response: Floats, groups: Sequence[int]) -> Floats:
    """Share (L,) of each row's absolute `responses` that falls on the label itself.

    Labels of one group (say, shares of ancestry) cannot move apart; the others of a label's own group do not count.
    """
    group = np.asarray(groups)
    counted = (group[:, None] != group[None, :]) | np.eye(len(group), dtype=bool)
    return np.abs(np.diag(response)) / (np.abs(response) * counted).sum(1)


@dataclass(frozen=True, eq=False)
class Axes:
    """The K strongest axes: `vectors` (K, D), what to add to a code to move a face by one standard deviation, and
    `shares` (K,) of the variance of faces. `neutral` (D,) is the code nearest to the template."""

    vectors: Codes
    shares: Singles
    neutral: Codes

    @classmethod
    def of(cls, model: Model, count: int = COUNT) -> "Axes":
        """Find them, from `SAMPLES` random faces. The same model has the same axes."""
        codes, faces = model.codes(SAMPLES), model.sample(SAMPLES)
        template = model.template.vertices[None].astype(np.float32)
        found = principal_components(faces, np.arange(SAMPLES), count)
        scores = found.codes(faces)
        return cls(
            vectors=principal_directions(codes, scores).astype(np.float32),
            shares=(found.variances / np.var(faces, axis=0, ddof=1, dtype=np.float64).sum()).astype(np.float32),
            neutral=model.fit(template, steps=QUICK).codes[0].astype(np.float32),
        )

    @classmethod
    def find(cls, model: Model, where: str | Path) -> "Axes":
        """Those that came with the model that was loaded from `where`, or else found anew."""
        path = find_model(where) / AXES_FILE
        with suppress(MeshganError, OSError, KeyError, TypeError, ValueError):
            if path.is_file():
                arrays = read_arrays(path, MOST_BYTES)
                of = bytes(arrays.pop("of")).hex()
                axes = cls(**{part.name: arrays[part.name].astype(np.float32) for part in fields(cls)})
                if of == model.card.files.get(WEIGHTS, "") and axes._fit(model):
                    return axes
        return cls.of(model)

    def save(self, folder: Path) -> None:
        """Write them into the folder of their model."""
        arrays: dict[str, NDArray[Any]] = {part.name: getattr(self, part.name) for part in fields(self)}
        arrays["of"] = np.frombuffer(bytes.fromhex(read_card(folder).files[WEIGHTS]), np.uint8)
        with atomic_file(folder / AXES_FILE) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # an array cannot be named allow_pickle

    def _fit(self, model: Model) -> bool:
        """Whether shapes and numbers are those of axes of the model."""
        count, size = len(self.shares), model.code_size
        shapes = {"vectors": (count, size), "shares": (count,), "neutral": (size,)}
        arrays = {name: getattr(self, name) for name in shapes}
        return all(arrays[name].shape == shapes[name] and np.isfinite(arrays[name]).all() for name in shapes)


def principal_directions(codes: Codes, scores: NDArray[Any]) -> Floats:
    """Latent directions (K, D), each of which changes one column of `scores` (N, K) by its standard deviation.

    Scores, here coordinates on principal components of faces, are regressed on the codes (N, D) that the faces were
    made from; of all changes of a code that move one score and no other, the likeliest under the codes' own
    covariance is taken.
    """
    centred = codes - codes.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred / len(codes)
    weights = np.linalg.lstsq(centred, scores - scores.mean(axis=0), rcond=1e-6)[0]  # (D, K)
    spread = covariance @ weights
    return (spread @ np.linalg.pinv(weights.T @ spread)).T * scores.std(axis=0)[:, None]
