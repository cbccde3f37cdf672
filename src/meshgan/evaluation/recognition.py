"""Do exaggerated expressions keep their meaning? The recognition rate over the factor of extrapolation (Fig. 6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Booleans, Faces, Floats, Integers
from meshgan.model.latent import interpolate
from meshgan.model.load import Model
from meshgan.progress import track

BLOCK = 64  # faces decoded and classified at a time
FACTORS = tuple(np.linspace(1.0, 3.0, 9).tolist())


@dataclass(frozen=True, eq=False)
class Curve:
    """Recognition `rate` (K,) at each factor, with a 95 % band `low` to `high` (K,)."""

    rate: Floats
    low: Floats
    high: Floats


def confusion(truth: NDArray[np.str_], predicted: NDArray[np.str_], classes: Sequence[str]) -> Integers:
    """Counts (C, C): row `classes[i]` truly, column `classes[j]` predicted."""
    number = {name: i for i, name in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(table, ([number[name] for name in truth], [number[name] for name in predicted]), 1)
    return table


def recognition_curve(hits: Booleans, subjects: NDArray[np.str_], resamples: int = 2000, seed: int = 0) -> Curve:
    """The share of `hits` (K, N) at each of K factors, with a bootstrap over `subjects` (N,).

    Whole subjects are drawn, since one person's faces are alike and count for less than as many people's.
    """
    _, owner = np.unique(subjects, return_inverse=True)
    people = owner.max() + 1
    right = np.stack([np.bincount(owner, weights=row, minlength=people) for row in hits])  # (K, people)
    drawn = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=resamples)
    rates = drawn @ right.T / (drawn @ np.bincount(owner))[:, None]
    low, high = np.percentile(rates, [2.5, 97.5], axis=0)
    return Curve(hits.mean(1), low, high)


def extrapolation_hits(
    model: Model,
    faces: Faces,
    labels: NDArray[np.str_],
    predict: Callable[[Faces], NDArray[np.str_]],
    factors: Sequence[float] = FACTORS,
) -> Booleans:
    """Whether each face (N, V, 3) is recognised as its label (N,) when exaggerated by each factor: (K, N).

    As in the paper: codes of the neutral template and of the faces by Eq. 2, extrapolated by Eq. 3, decoded, and
    shown to the classifier's `predict`.
    """
    neutral = model.fit(model.template.vertices[None]).codes[0]
    codes = model.fit(faces).codes
    exaggerated = np.stack([interpolate(neutral, code, factors) for code in codes], axis=1)
    hits = np.zeros((len(factors), len(faces)), bool)
    for row, codes_of_factor in enumerate(track(exaggerated, "Exaggerated faces")):
        for start in range(0, len(faces), BLOCK):
            part = slice(start, start + BLOCK)
            hits[row, part] = predict(model.decode(codes_of_factor[part])) == labels[part]
    return hits
