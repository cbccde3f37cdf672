"""Sliders: directions in a model's latent space that have a name, an extent and two ends."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Codes, Floats
from meshgan.model.directions import Directions

REACH = 3.0  # standard deviations either way, for traits and axes
FULL, BEYOND = 1.0, 1.5  # expressions: the mean one, and how far past it the slider goes
NEUTRAL = "neutral"  # a label of expressions that is no expression
YEARS = "age"  # the label that is counted in its own unit
WORDS = {  # label: the slider's title, its lower and its upper end
    "age": ("Age, years", "younger", "older"),
    "female": ("Sex", "male", "female"),
    "male": ("Sex", "female", "male"),
    "weight": ("Weight", "lighter", "heavier"),
}


@dataclass(frozen=True, eq=False)
class Slider:
    """`value * vector` (D,) is added to a code, for values from `low` to `high`.

    `key` names it in seeds, `title` and `marks` (value, word) on the page; `expert` ones are principal axes.
    """

    key: str
    title: str
    vector: Codes
    low: float
    high: float
    step: float
    marks: tuple[tuple[float, str], ...]
    expert: bool = False

    def clipped(self, value: float) -> float:
        """The nearest value that the slider has, to two decimals; 0 for what is no number."""
        return round(float(np.clip(value, self.low, self.high)), 2) if np.isfinite(value) else 0.0


def traits(found: Directions) -> list[Slider]:
    """A slider for each label of an identity model, in standard deviations; age in years."""
    return [_trait(name, row, found) for row, name in enumerate(found.names)]


def _trait(name: str, row: int, found: Directions) -> Slider:
    title, less, more = WORDS.get(name, (_title(name), "less", "more"))
    unit = float(found.deviation[row]) if name == YEARS else 1.0
    reach = float(np.ceil(REACH * unit))
    vector = (found.vectors[row] / unit).astype(np.float32)
    return Slider(
        _key(name), title, vector, -reach, reach, 1.0 if unit > 1 else 0.05, ((-reach, less), (0.0, ""), (reach, more))
    )


def expressions(found: Directions, neutral: Codes) -> list[Slider]:
    """A slider for each expression: 0 is `neutral` (D,), 1 the mean face of the label."""
    return [
        Slider(
            _key(name), _title(name), (found.at(name, 1.0) - neutral).astype(np.float32), 0.0, BEYOND, 0.05,
            ((0.0, "none"), (FULL, "full"), (BEYOND, "more")),
        )
        for name in found.names
        if name != NEUTRAL
    ]  # fmt: skip


def axes(vectors: NDArray[Any], shares: Iterable[float], prefix: str) -> list[Slider]:
    """An expert slider for each principal axis (K, D), titled with its share of the variance of faces."""
    return [
        Slider(
            f"{prefix}-{number}", f"Axis {number} ({_percent(share)})", vector.astype(np.float32), -REACH, REACH, 0.05,
            ((-REACH, f"−{REACH:g} σ"), (0.0, ""), (REACH, f"+{REACH:g} σ")), expert=True,
        )
        for number, (vector, share) in enumerate(zip(vectors, shares, strict=True), start=1)
    ]  # fmt: skip


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


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


def _key(name: str) -> str:
    """A label as it stands in a seed: without spaces and equals signs."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
