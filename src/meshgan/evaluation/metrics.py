"""How good a generative model of faces is: pure functions of arrays, each with its source.

Faces are (N, V, 3) in millimetres; the distance of two faces is the mean of their per-vertex Euclidean distances.
No metric stands alone: a collapsed model has excellent specificity, a memorising one excellent precision. Read
specificity beside diversity and coverage, and all of them beside the row of real faces.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Faces, Floats, Integers, Reals
from meshgan.errors import UsageError

Finite = Annotated[float, Field(allow_inf_nan=False)]
Interval = tuple[Finite, Finite]

BLOCK = 64  # faces at a time, so that temporary arrays stay small
LEAST_RATIO = 1e-3  # of band energies: a model without any detail is as bad as one with a thousandth of it
SILENT = 1e-9  # mm²: bands in which real faces have no more energy than this are rounding errors


@dataclass(frozen=True)
class Errors:
    """Reconstruction errors in mm.

    `mean` ± `std` are over faces of the mean error of a face, as in the paper's Tables 1 and 2; `vertex_std`,
    `median` and `maximum` are over all vertices of all faces, as in Ranjan et al. 2018 (CoMA), Table 2.
    """

    mean: float
    std: float
    vertex_std: float
    median: float
    maximum: float


@dataclass(frozen=True)
class Score:
    """What one metric says of one model: a `value`, and where there are any, the standard deviation over faces, the
    95 % bootstrap interval of the value, and the numbers that it is made of."""

    value: Finite
    std: Finite | None = None
    interval: tuple[Finite, Finite] | None = None
    parts: Mapping[str, Finite] = field(default_factory=dict)


def vertex_errors(faces: Faces, others: Faces) -> Reals:
    """Euclidean distances (N, V) between corresponding vertices of two arrays of faces (N, V, 3)."""
    if faces.shape != others.shape:
        raise UsageError(f"faces of shape {faces.shape} cannot be compared with faces of shape {others.shape}.")
    difference = faces - others
    return np.sqrt(np.einsum("nvc,nvc->nv", difference, difference))


def generalisation(errors: Reals) -> Errors:
    """Summarise per-vertex errors (N, V) of unseen faces: the paper's generalisation (after Davies et al. 2002)."""
    faces = errors.mean(axis=1, dtype=np.float64)
    return Errors(
        mean=float(faces.mean()),
        std=float(faces.std()),
        vertex_std=float(errors.std(dtype=np.float64)),
        median=float(np.median(errors)),
        maximum=float(errors.max()),
    )


def mean_score(values: Reals, seed: int = 0) -> Score:
    """Mean, standard deviation and 95 % bootstrap interval of the mean of values (N,)."""
    return Score(float(np.mean(values)), float(np.std(values)), bootstrap_interval(values, np.mean, seed=seed))


def share_score(hits: Booleans, seed: int = 0) -> Score:
    """The share of `hits` (N,), with its 95 % bootstrap interval."""
    return Score(float(hits.mean()), None, bootstrap_interval(hits.astype(np.float64), np.mean, seed=seed))


def pair_distances(faces: Faces, seed: int = 0) -> Reals:
    """Distances (N // 2,) between the faces of random pairs; no face is in two pairs, so they are independent.

    Their mean is the diversity: the expected distance of two samples (Yuan and Kitani 2020, DLow, for motions).
    """
    if len(faces) < 2:
        raise UsageError("diversity needs at least two faces.")
    first, second = np.random.default_rng(seed).permutation(len(faces))[: len(faces) // 2 * 2].reshape(2, -1)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(first), BLOCK)]
    return np.concatenate([vertex_errors(faces[first[b]], faces[second[b]]).mean(axis=1) for b in blocks])


def covered(nearest: Integers, count: int) -> Booleans:
    """For each of `count` test faces: is it the nearest of some sample? `nearest` (N,) is each sample's nearest.

    The share that is covered is the coverage of Achlioptas et al. 2018 (Learning representations and generative
    models for 3D point clouds). It grows with the number of samples: compare only rows with equal numbers.
    """
    hit = np.zeros(count, dtype=np.bool_)
    hit[nearest] = True
    return hit


def inside_manifold(points: Reals, manifold: Reals, neighbours: int = 3) -> Booleans:
    """For each of points (N, D): does it lie in the k-nearest-neighbour manifold of the points `manifold` (M, D)?

    The manifold is the union of balls around its points, each reaching the point's k-th nearest neighbour.
    Kynkäänniemi et al. 2019, Eq. 1. Precision is the share of samples inside the manifold of real faces, recall
    the share of real faces inside the manifold of samples; k = 3 and equal numbers on both sides, as there.
    """
    if len(manifold) <= neighbours:
        raise UsageError(f"a {neighbours}-nearest-neighbour manifold needs more than {neighbours} points.")
    radii = cKDTree(manifold).query(manifold, neighbours + 1)[0][:, -1]
    inside = [(_distances(block, manifold) <= radii).any(axis=1) for block in _blocks(points)]
    return np.concatenate(inside)


def _blocks(points: Reals) -> list[Reals]:
    return [points[start : start + BLOCK] for start in range(0, len(points), BLOCK)]


def _distances(points: Reals, others: Reals) -> Reals:
    return np.sqrt(((points[:, None] - others[None]) ** 2).sum(axis=2))


def bootstrap_interval(
    values: Reals, statistic: Callable[[Reals], Reals], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of `statistic` over the first axis of `values`; Efron and Tibshirani 1993."""
    generator = np.random.default_rng(seed)
    draws = [statistic(values[generator.integers(len(values), size=len(values))]) for _ in range(resamples)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Fréchet distance of two Gaussians, never negative (Dowson and Landau 1982).

    ‖μ₁ - μ₂‖² + Tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½). Of Inception features it is the FID (Heusel et al. 2017), of shape codes our
    shape-space distance. Its estimate from n features is biased upwards, the more so the fewer n.

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
    values = [frechet_distance(_gaussian(a, generator), _gaussian(b, generator)) for _ in range(resamples)]
    estimate = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    reach = 1.96 * float(np.std(values, ddof=1))
    return max(0.0, estimate - reach), estimate + reach


def _gaussian(features: Reals, generator: np.random.Generator) -> Gaussian:
    return Gaussian.of_features(features[generator.integers(len(features), size=len(features))])


def kernel_distance(features: Reals, real: Reals, subsets: int = 50, size: int = 1000, seed: int = 0) -> Score:
    """The kernel distance of two feature sets (N, D) and (M, D): KID where they are Inception features.

    The unbiased squared maximum mean discrepancy under the kernel (x·y / D + 1)³, the mean over `subsets` random
    subsets of both; its interval is that of this mean (Bińkowski et al. 2018). Of equal distributions it is zero on
    the average, for any number of features, so that it may be negative.
    """
    generator, count = np.random.default_rng(seed), min(size, len(features), len(real))
    if count < 2:
        raise UsageError("a kernel distance needs two or more feature vectors on both sides.")
    values = np.array(
        [_discrepancy(_some(features, count, generator), _some(real, count, generator)) for _ in range(subsets)]
    )
    reach = 1.96 * float(values.std(ddof=1)) / np.sqrt(subsets)
    value = float(values.mean())
    return Score(value, None, (value - reach, value + reach))


def _some(features: Reals, count: int, generator: np.random.Generator) -> Reals:
    return features[generator.choice(len(features), count, replace=False)].astype(np.float64)


def _discrepancy(a: Reals, b: Reals) -> float:
    """The unbiased estimate from as many features (N, D) of either side."""
    count, width = a.shape
    within = ((a @ a.T / width + 1) ** 3, (b @ b.T / width + 1) ** 3)
    between = (a @ b.T / width + 1) ** 3
    return float(sum((k.sum() - np.trace(k)) / (count * (count - 1)) for k in within) - 2 * between.mean())


def detail(energies: Reals, real: Reals, names: Sequence[str], seed: int = 0, resamples: int = 200) -> Score | None:
    """The distance of log band energies of samples (N, B) and of real faces (M, B): how far their detail is off.

    The root mean square over bands of log(E / E_real), E the mean energy of a band in mm²; 0 is perfect, 0.69 a factor
    of two. Ratios under `LEAST_RATIO` count as that. The parts are the ratios by band. None if no band has energy.
    """
    heard = real.mean(axis=0) > SILENT

    def distance(ours: Reals, theirs: Reals) -> float:
        ratios = np.maximum(ours[:, heard].mean(axis=0) / theirs[:, heard].mean(axis=0), LEAST_RATIO)
        return float(np.sqrt(np.mean(np.log(ratios) ** 2)))

    if not heard.any():
        return None
    generator = np.random.default_rng(seed)
    values = [distance(_resampled(energies, generator), _resampled(real, generator)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    ratios = energies.mean(axis=0)[heard] / real.mean(axis=0)[heard]
    parts = dict(
        zip((name for name, is_heard in zip(names, heard, strict=True) if is_heard), map(float, ratios), strict=True)
    )
    return Score(distance(energies, real), None, (float(low), float(high)), parts)


def _resampled(values: Reals, generator: np.random.Generator) -> Reals:
    return values[generator.integers(len(values), size=len(values))]


def memorising(to_train: Reals, to_test: Reals, real_ratio: float, seed: int = 0) -> Score:
    """How much nearer samples lie to training faces than to test faces: 1 for unseen real faces, 0 for copies.

    The ratio of the mean distances (N,) of samples to their nearest face of either part, over the same ratio of real
    faces that belong to neither (`real_ratio`), since the parts differ in size.
    """
    pairs = np.stack([to_train, to_test], axis=1)

    def ratio(rows: Reals) -> Reals:
        return np.asarray(rows[:, 0].mean() / max(rows[:, 1].mean(), 1e-12) / max(real_ratio, 1e-12))

    return Score(float(ratio(pairs)), None, bootstrap_interval(pairs, ratio, seed=seed))
