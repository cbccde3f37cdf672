"""The latent space: what is asked of a fit of codes to faces and what it gives, interpolation and extrapolation between
codes (Eq. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Codes, Faces
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh

Number = TypeVar("Number", int, int | None)

STEPS = 100  # of Adam, for Eq. 2


@dataclass(frozen=True, eq=False)
class Fit:
    """Codes (B, D), the faces (B, V, 3) in mm that they decode to, and the distance (B, V) in mm to what was asked.

    `error_mm` is NaN at vertices that had no weight.
    """

    codes: Codes
    vertices: Faces
    error_mm: Faces

    @classmethod
    def of(cls, codes: Codes, vertices: Faces, targets: Faces, weights: Faces) -> "Fit":
        """Measure the distances."""
        errors = np.linalg.norm(vertices - targets, axis=-1)
        return cls(codes, vertices, np.where(weights > 0, errors, np.nan).astype(np.float32))


def check_weights(weights: ArrayLike | None, template: Mesh) -> Faces:
    """Weights (V,) of vertices as float32, by default ones where there is a surface: vertices that no triangle uses
    count nowhere. Raises `UsageError` if they cannot be used."""
    count = len(template.vertices)
    if weights is None:
        return np.isin(np.arange(count), template.triangles).astype(np.float32)
    values = np.asarray(weights, dtype=np.float32)
    if values.shape != (count,) or not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
        raise UsageError(f"weights must be {count} finite numbers, none negative and not all zero.")
    return values


def target_of_points(template: ArrayLike, indices: ArrayLike, points: ArrayLike) -> tuple[Faces, Faces]:
    """A face (1, V, 3) and weights (V,) that ask for `points` (P, 3) at vertices `indices` (P,) and nothing else."""
    target = np.array(template, dtype=np.float32)
    chosen, places = np.asarray(indices), np.asarray(points, dtype=np.float32)
    if chosen.ndim != 1 or places.shape != (len(chosen), 3) or not len(chosen) or not np.isfinite(places).all():
        raise UsageError("points must be finite positions (P, 3), one for each of P vertex indices.")
    if chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= len(target):
        raise UsageError(f"vertex indices must be whole numbers from 0 to {len(target) - 1}.")
    if len(np.unique(chosen)) < len(chosen):
        raise UsageError("a vertex is named twice among the points.")
    weights = np.zeros(len(target), dtype=np.float32)
    target[chosen], weights[chosen] = places, 1.0
    return target[None], weights


def interpolate(first: ArrayLike, second: ArrayLike, factors: Sequence[float]) -> Codes:
    """Eq. 3: (1 − f) z₁ + f z₂ for each factor f, as (len(factors), D); f below 0 or above 1 extrapolates."""
    try:
        start, end, wanted = (np.asarray(part, dtype=np.float64) for part in (first, second, factors))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"codes and factors must be numbers ({error}).") from error
    if start.ndim != 1 or start.shape != end.shape:
        raise UsageError(f"two codes of the same length are needed, not of shapes {start.shape} and {end.shape}.")
    if not all(np.isfinite(part).all() for part in (start, end, wanted)):
        raise UsageError("codes and factors must be finite.")
    f = wanted[:, None]
    return ((1.0 - f) * start + f * end).astype(np.float32)


def nearer(first: Number, second: Number, factor: float) -> Number:
    """The number that the details of chance at `factor` of a line follow from: that of the end that is nearer.

    Details of two numbers have no face between them that has the details of either, so they change once, in the middle.
    """
    return first if factor <= 0.5 else second
