"""The principal axes of a model's own faces, as directions in its code.

They take seconds to find and are the same each time, so they come with a model (`axes.npz` in its folder);
where they do not, or are another model's, they are found anew.
"""

from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Codes, Floats, Singles
from meshgan.data.principal import principal_components
from meshgan.errors import MeshganError
from meshgan.model.load import Model
from meshgan.model.model_folder import find_model, read_card
from meshgan.reading import read_arrays
from meshgan.storage import atomic_file

FILE = "axes.npz"  # in a model folder
MOST_BYTES = 2**26
COUNT = 10
SAMPLES = 1000  # faces from which the axes are found
QUICK = 40  # steps of Eq. 2 for the template, which lies near the mean
WEIGHTS = "weights.safetensors"


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
        path = find_model(where) / FILE
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
        with atomic_file(folder / FILE) as partial, partial.open("wb") as stream:
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
