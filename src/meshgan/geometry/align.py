"""Bringing point sets and surfaces into the same place: Procrustes in batches, generalised Procrustes, rigid ICP."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from meshgan.arrays import Floats
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points

MOST_ROUNDS = 100
SETTLED = 1e-9  # of the size of the shape: smaller steps change nothing
FEWEST_POINTS = 6  # that pin down a motion on a surface


@dataclass(frozen=True, eq=False)
class Similarity:
    """N motions `x -> scale R x + t`: `rotation` (N, 3, 3) proper, `translation` (N, 3), `scale` (N,)."""

    rotation: Floats
    translation: Floats
    scale: Floats

    def apply(self, points: ArrayLike) -> Floats:
        """Move `points` (N, V, 3), or (V, 3) for all motions alike; returns (N, V, 3)."""
        turned = np.asarray(points, dtype=np.float64) @ self.rotation.transpose(0, 2, 1)
        return self.scale[:, None, None] * turned + self.translation[:, None]

    @cached_property
    def inverse(self) -> "Similarity":
        """The motions back."""
        back = self.rotation.transpose(0, 2, 1)
        scale = 1 / self.scale
        return Similarity(back, -scale[:, None] * np.einsum("nij,nj->ni", back, self.translation), scale)


def rigid(points: ArrayLike, reference: ArrayLike, weights: ArrayLike | None = None) -> Similarity:
    """The rotations and translations that bring each of `points` (N, V, 3) closest to `reference` (V, 3).

    Least squares with optional `weights` (V,) >= 0, never a reflection (Kabsch 1976, Umeyama 1991).
    """
    return _fit(points, reference, weights, scaled=False)


def similarity(points: ArrayLike, reference: ArrayLike, weights: ArrayLike | None = None) -> Similarity:
    """Like `rigid`, with one scale each. Points that all coincide get scale 1."""
    return _fit(points, reference, weights, scaled=True)


def procrustes_mean(points: ArrayLike, weights: ArrayLike | None = None, scaled: bool = False) -> Floats:
    """Generalised Procrustes (Gower 1975): the mean (V, 3) of `points` (N, V, 3), aligned to that mean in turn.

    It lies where the first shape lies. With `scaled`, shapes are also scaled, to the first one's size.
    """
    shapes = np.asarray(points, dtype=np.float64)
    fit = similarity if scaled else rigid
    mean = shapes[0]
    for _ in range(MOST_ROUNDS):
        aligned = fit(shapes, mean, weights).apply(shapes).mean(axis=0)
        aligned = fit(aligned[None], shapes[0], weights).apply(aligned)[0]
        moved = np.abs(aligned - mean).max()
        mean = aligned
        if moved < SETTLED * np.abs(mean - mean.mean(axis=0)).max():
            break
    return mean


def rigid_icp(points: ArrayLike, mesh: Mesh, start: Similarity | None = None, trim: float = 0.2) -> Similarity:
    """The rigid motion (N = 1) that lays `points` (P, 3) onto the surface of `mesh`, from a `start` nearby.

    Each round brings the points closer to the tangent planes at their closest points on the surface (Chen and
    Medioni 1992), along which they are free to slide; the share `trim` furthest away, hair or beyond a boundary,
    does not count. Raises `UsageError` if there are too few points.
    """
    points = np.asarray(points, dtype=np.float64)
    if len(points) < FEWEST_POINTS:
        raise UsageError(f"at least {FEWEST_POINTS} points are needed to lay them onto a surface, not {len(points)}.")
    motion = start or Similarity(np.eye(3)[None], np.zeros((1, 3)), np.ones(1))
    size = np.linalg.norm(np.ptp(points, axis=0))
    for _ in range(MOST_ROUNDS):
        moved = motion.apply(points)[0]
        found = closest_points(moved, mesh)
        near = found.distance <= np.quantile(found.distance, 1 - trim)
        step = _point_to_plane(moved[near], found.points[near], mesh.triangle_normals[found.triangle[near]])
        motion = _after(step, motion)
        if np.abs(step.apply(moved)[0] - moved).max() < SETTLED * size:
            break
    return motion


def _fit(points: ArrayLike, reference: ArrayLike, weights: ArrayLike | None, scaled: bool) -> Similarity:
    source, target = np.asarray(points, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    share = np.ones(len(target)) if weights is None else np.asarray(weights, dtype=np.float64)
    if source.ndim != 3 or source.shape[1:] != target.shape or share.shape != target.shape[:1]:
        raise UsageError(f"points {source.shape}, reference {target.shape} and weights {share.shape} do not fit.")
    if not share.sum() > 0 or (share < 0).any():
        raise UsageError("weights must not be negative, nor all be zero.")
    share = share / share.sum()
    source_middle, target_middle = np.einsum("v,nvc->nc", share, source), share @ target
    centred = source - source_middle[:, None]
    u, stretch, vt = np.linalg.svd(np.einsum("vi,v,nvj->nij", target - target_middle, share, centred))
    signs = np.ones((len(source), 3))
    signs[:, 2] = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
    rotation = (u * signs[:, None]) @ vt
    scale = np.ones(len(source))
    if scaled:
        spread = np.einsum("v,nvc,nvc->n", share, centred, centred)
        np.divide((stretch * signs).sum(axis=1), spread, out=scale, where=spread > 0)
    translation = target_middle - scale[:, None] * np.einsum("nij,nj->ni", rotation, source_middle)
    return Similarity(rotation, translation, scale)


def _point_to_plane(points: Floats, targets: Floats, normals: Floats) -> Similarity:
    """The small motion of `points` that brings them closest to the planes through `targets`, all (P, 3)."""
    middle = points.mean(axis=0)
    reach = np.abs(points - middle).max() or 1.0
    system = np.concatenate([np.cross((points - middle) / reach, normals), normals], axis=1)
    gaps = ((targets - points) * normals).sum(axis=1)
    solution = np.linalg.lstsq(system, gaps, rcond=1e-6)[0]  # what the planes leave open stays as it is
    rotation = Rotation.from_rotvec(solution[:3] / reach).as_matrix()
    return Similarity(rotation[None], (middle + solution[3:] - rotation @ middle)[None], np.ones(1))


def _after(second: Similarity, first: Similarity) -> Similarity:
    """`first`, then `second`."""
    translation = second.apply(first.translation[:, None])[:, 0]
    return Similarity(second.rotation @ first.rotation, translation, second.scale * first.scale)
