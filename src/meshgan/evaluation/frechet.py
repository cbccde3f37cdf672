"""The Fréchet distance between two Gaussians, and between two sets of features seen as Gaussians.

‖μ₁ - μ₂‖² + Tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), Dowson and Landau 1982. Of Inception features it is the FID (Heusel et al.
2017), of shape codes our shape-space distance. It is reported as it stands, squared, as the field does.

Its estimate from n features is biased upwards, the more so the fewer n: compare equal numbers, and read it beside
the row of real faces, which shows what a perfect model would get.
"""

from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Floats, Reals
from meshgan.errors import UsageError


@dataclass(frozen=True, eq=False)
class Gaussian:
    """`mean` (D,) and a `factor` (K, D) of the covariance: Σ = factorᵀ factor."""

    mean: Floats
    factor: Floats

    @classmethod
    def of_features(cls, features: Reals) -> "Gaussian":
        """The Gaussian with the mean and the unbiased covariance of features (N, D)."""
        if features.ndim != 2 or len(features) < 2:
            raise UsageError(f"a Fréchet distance needs two or more feature vectors, got an array {features.shape}.")
        values = np.asarray(features, dtype=np.float64)
        mean = values.mean(axis=0)
        return cls(mean, np.linalg.qr(values - mean, mode="r") / np.sqrt(len(values) - 1))

    @classmethod
    def of_moments(cls, mean: Reals, covariance: Reals) -> "Gaussian":
        """The Gaussian of a mean (D,) and a symmetric positive semi-definite covariance (D, D)."""
        values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
        return cls(np.asarray(mean, dtype=np.float64), np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Fréchet distance of two Gaussians, never negative.

    Tr (Σ₁Σ₂)^½ is the sum of the singular values of A Bᵀ, where Σ₁ = AᵀA and Σ₂ = BᵀB: their squares are the
    eigenvalues of Σ₁Σ₂. So nothing small is ever squared, and singular covariances, the usual case with fewer
    faces than features, lose no digits and need no offset on the diagonal.
    """
    if a.mean.shape != b.mean.shape:
        raise UsageError(f"features of {len(a.mean)} and {len(b.mean)} dimensions have no Fréchet distance.")
    overlap = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    spread = np.square(a.factor).sum() + np.square(b.factor).sum()
    return float(max(0.0, np.square(a.mean - b.mean).sum() + spread - 2 * overlap))


def frechet_interval(a: Reals, b: Reals, resamples: int, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the Fréchet distance of features (N, D) and (M, D), from its bootstrap standard error.

    Both sides are resampled. The resamples' own values are biased upwards (a resample has fewer distinct points), so
    only their spread is used: estimate ± 1.96 standard errors (Efron and Tibshirani 1993, ch. 12).
    """
    generator = np.random.default_rng(seed)
    values = [frechet_distance(_resampled(a, generator), _resampled(b, generator)) for _ in range(resamples)]
    estimate = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    reach = 1.96 * float(np.std(values, ddof=1))
    return max(0.0, estimate - reach), estimate + reach


def _resampled(features: Reals, generator: np.random.Generator) -> Gaussian:
    return Gaussian.of_features(features[generator.integers(len(features), size=len(features))])
