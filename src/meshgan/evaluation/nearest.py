"""The nearest face of a set, exactly and quickly, under the mean of per-vertex distances.

The distance of two faces is the mean over vertices of ‖a_v - b_v‖, as in the paper's specificity. For any cluster
of vertices the triangle inequality gives Σ ‖a_v - b_v‖ ≥ n ‖mean a_v - mean b_v‖, so a face's cluster means, a few
dozen points, bound its distance to another face from below. Clusters of a tree are tried coarse first; only pairs
that no bound excludes are measured vertex by vertex, and those stop as soon as the part measured plus the bound of
the rest exceeds the best distance so far.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Faces, Floats, Integers
from meshgan.compiled import SUMS_IN_ANY_ORDER, compiled
from meshgan.errors import UsageError

COARSE, FINE = 16, 128  # clusters of the two bounds; measured on faces: 16 exclude most pairs, 128 nearly all others
BLOCK = 64  # samples that a thread takes at a time
SLACK = 1.0 - 1e-5  # bounds are float32 sums: they exclude a pair only if they exceed the best by more than rounding


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each of N samples: `index` (N,) of its nearest face and the mean per-vertex `distance` (N,) to it, mm."""

    index: Integers
    distance: Floats


@dataclass(frozen=True, eq=False)
class FaceIndex:
    """M faces, prepared for `nearest`. Vertices are reordered so that each cluster is a contiguous range."""

    order: Integers  # (V,) the reordering
    starts: Integers  # (C + 1,) where each fine cluster begins
    faces: Faces  # (M, 3, V)
    fine: Faces  # (M, 3, C) cluster means
    coarse: Faces  # (M, 3, C / width)

    @classmethod
    def build(cls, faces: Faces) -> "FaceIndex":
        """Prepare faces (M, V, 3) in millimetres."""
        if len(faces) == 0:
            raise UsageError("the nearest face needs at least one face to choose from.")
        count = _power_of_two_below(min(FINE, max(1, faces.shape[1] // 4)))
        clusters = spatial_clusters(faces.mean(axis=0, dtype=np.float64), count)
        order = np.concatenate(clusters)
        starts = np.concatenate([[0], np.cumsum([len(cluster) for cluster in clusters])])
        return cls(order, starts, *_planar(faces, order, starts))

    def nearest(self, samples: Faces) -> Nearest:
        """The nearest of these faces for each of samples (N, V, 3), on all cores."""
        if samples.shape[1:] != (len(self.order), 3):
            raise UsageError(f"expected faces of {len(self.order)} vertices, not of {samples.shape[1]}.")
        blocks = np.array_split(samples, -(-len(samples) // BLOCK) or 1)
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(self._search, blocks))
        return Nearest(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def _search(self, samples: Faces) -> tuple[Integers, Floats]:
        planar, fine, coarse = _planar(samples, self.order, self.starts)
        index = _search(planar, fine, coarse, self.faces, self.fine, self.coarse, self.starts)
        planar -= self.faces[index]  # measured anew: the search adds to bounds and takes them off, which rounds
        return index, np.sqrt(np.einsum("ncv,ncv->nv", planar, planar)).mean(axis=1, dtype=np.float64)


def spatial_clusters(points: Floats, count: int) -> list[Integers]:
    """Split points (V, 3) into `count` (a power of two) compact clusters by halving along the widest axis.

    Clusters 2i and 2i + 1 are the halves of one parent, so coarser clusters are runs of finer ones.
    """
    clusters = [np.arange(len(points))]
    while len(clusters) < count:
        clusters = [half for cluster in clusters for half in _halves(points, cluster)]
    return clusters


def _halves(points: Floats, cluster: Integers) -> list[Integers]:
    axis = np.ptp(points[cluster], axis=0).argmax()
    return np.array_split(cluster[np.argsort(points[cluster, axis], kind="stable")], 2)


def _planar(faces: Faces, order: Integers, starts: Integers) -> tuple[Faces, Faces, Faces]:
    """Faces (N, 3, V) reordered with one plane per coordinate, and the means of their fine and coarse clusters."""
    planar = np.ascontiguousarray(faces[:, order].transpose(0, 2, 1), dtype=np.float32)
    width = max(1, (len(starts) - 1) // COARSE)
    return planar, _means(planar, starts), _means(planar, starts[::width])


def _means(planar: Faces, starts: Integers) -> Faces:
    sums = np.add.reduceat(planar, starts[:-1], axis=2, dtype=np.float64)
    return (sums / np.diff(starts)).astype(np.float32)


def _power_of_two_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)


@compiled(fastmath=SUMS_IN_ANY_ORDER)
def _search(samples, fine, coarse, faces, face_fine, face_coarse, starts):  # type: ignore[no-untyped-def]
    """Indices (N,) of the nearest faces; see the module's docstring for the bounds."""
    clusters = face_fine.shape[2]
    sizes = (starts[1:] - starts[:-1]).astype(np.float32)
    width = clusters // face_coarse.shape[2]
    coarse_sizes = (starts[width::width] - starts[:-width:width]).astype(np.float32)
    index = np.zeros(len(samples), np.int64)
    bounds = np.empty(len(faces), np.float32)
    lower = np.empty(clusters, np.float32)
    for i in range(len(samples)):
        for j in range(len(faces)):
            bounds[j] = _weighted_distance(coarse[i], face_coarse[j], coarse_sizes)
        best, chosen = np.inf, 0
        for j in np.argsort(bounds):
            if bounds[j] * SLACK >= best:
                break
            total = np.float64(_cluster_distances(fine[i], face_fine[j], sizes, lower))
            for c in range(clusters):
                if total * SLACK >= best:
                    break
                total += _range_distance(samples[i], faces[j], starts[c], starts[c + 1]) - lower[c]
            else:
                if total < best or (total == best and j < chosen):
                    best, chosen = total, j
        index[i] = chosen
    return index


@compiled(fastmath=SUMS_IN_ANY_ORDER)
def _weighted_distance(a, b, weights):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for c in range(len(weights)):
        x, y, z = a[0, c] - b[0, c], a[1, c] - b[1, c], a[2, c] - b[2, c]
        total += weights[c] * np.sqrt(x * x + y * y + z * z)
    return total


@compiled(fastmath=SUMS_IN_ANY_ORDER)
def _cluster_distances(a, b, weights, out):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for c in range(len(weights)):
        x, y, z = a[0, c] - b[0, c], a[1, c] - b[1, c], a[2, c] - b[2, c]
        out[c] = weights[c] * np.sqrt(x * x + y * y + z * z)
        total += out[c]
    return total


@compiled(fastmath=SUMS_IN_ANY_ORDER)
def _range_distance(a, b, start, stop):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for v in range(start, stop):
        x, y, z = a[0, v] - b[0, v], a[1, v] - b[1, v], a[2, v] - b[2, v]
        total += np.sqrt(x * x + y * y + z * z)
    return total
