"""How good a generative model of faces is: pure functions of arrays, each with its source.

Faces are (N, V, 3) in millimetres; the distance of two faces is the mean of their per-vertex Euclidean distances.
No metric stands alone: a collapsed model has excellent specificity, a memorising one excellent precision. Read
specificity beside diversity and coverage, and all of them beside the row of real faces.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Faces, Integers, Reals
from meshgan.errors import UsageError

Interval = tuple[float, float]

BLOCK = 64  # faces at a time, so that temporary arrays stay small


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
class Summary:
    """Mean and standard deviation of a metric over samples, and the bootstrap interval of the mean, in mm."""

    mean: float
    std: float
    interval: Interval


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


def specificity(distances: Reals, seed: int = 0) -> Summary:
    """Summarise distances (N,) of samples to their nearest test faces (`nearest.FaceIndex`); Styner et al. 2003."""
    return summarise(distances, seed)


def summarise(values: Reals, seed: int = 0) -> Summary:
    """Mean, standard deviation and 95 % bootstrap interval of the mean of values (N,)."""
    interval = bootstrap_interval(values, np.mean, seed=seed)
    return Summary(float(np.mean(values)), float(np.std(values)), interval)


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
