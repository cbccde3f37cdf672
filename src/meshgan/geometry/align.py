"""Bringing point sets and surfaces into the same place: Procrustes in batches, generalised Procrustes, rigid ICP."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Floats
from meshgan.errors import UsageError

MOST_ROUNDS = 100
SETTLED = 1e-9  # of the size of the shape: smaller steps change nothing
OPEN = 1e-12  # how little a rotation is drawn to none: it decides only where the points do not


@dataclass(frozen=True, eq=False, init=False)
class Similarity:
    """A motion `x -> scale R x + t`, or many: `scale` (...), `rotation` (..., 3, 3) proper, `translation` (..., 3).

    The leading dimensions are none for one motion and (N,) for N. Raises `ValueError` if they contradict each other.
    """

    scale: Floats
    rotation: Floats
    translation: Floats

    def __init__(self, scale: ArrayLike, rotation: ArrayLike, translation: ArrayLike) -> None:
        factor, turn, shift = (np.asarray(part, dtype=np.float64) for part in (scale, rotation, translation))
        if turn.shape != (*factor.shape, 3, 3) or shift.shape != (*factor.shape, 3):
            raise ValueError(f"scale {factor.shape}, rotation {turn.shape}, translation {shift.shape} do not fit.")
        object.__setattr__(self, "scale", factor[()])  # of one motion a number
        object.__setattr__(self, "rotation", turn)
        object.__setattr__(self, "translation", shift)

    @classmethod
    def none(cls, count: int | None = None) -> "Similarity":
        """The motion, or `count` motions, that leaves everything where it is."""
        shape = () if count is None else (count,)
        return cls(np.ones(shape), np.broadcast_to(np.eye(3), (*shape, 3, 3)), np.zeros((*shape, 3)))

    def __call__(self, points: ArrayLike) -> Floats:
        """Carry `points` (..., V, 3), or (V, 3) by all motions alike; returns (..., V, 3)."""
        moved = np.asarray(np.asarray(points, dtype=np.float64) @ np.swapaxes(self.rotation, -1, -2))
        moved *= np.asarray(self.scale)[..., None, None]
        moved += self.translation[..., None, :]
        return moved

    def __getitem__(self, row: int) -> "Similarity":
        """One of many motions."""
        return Similarity(self.scale[row], self.rotation[row], self.translation[row])

    @cached_property
    def inverse(self) -> "Similarity":
        """The way back."""
        back, scale = np.swapaxes(self.rotation, -1, -2), 1 / np.asarray(self.scale)
        return Similarity(scale, back, -scale[..., None] * np.einsum("...ij,...j->...i", back, self.translation))

    def after(self, first: "Similarity") -> "Similarity":
        """`first`, then this."""
        moved = self(first.translation[..., None, :])[..., 0, :]
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, moved)


def rigid(points: ArrayLike, reference: ArrayLike, weights: ArrayLike | None = None) -> Similarity:
    """The rotations and translations that bring each of `points` (..., V, 3) closest to `reference`.

    The reference, and `weights` >= 0, are of one for all, (V, 3) and (V,), or of each. Least squares, never a
    reflection (Kabsch 1976, Umeyama 1991). What the points leave open, as points on a line do, is not turned.
    """
    return _fit(points, reference, weights, scaled=False)


def similarity(points: ArrayLike, reference: ArrayLike, weights: ArrayLike | None = None) -> Similarity:
    """Like `rigid`, with one scale each. Points that all coincide get scale 1."""
    return _fit(points, reference, weights, scaled=True)


def robust_similarity(points: ArrayLike, reference: ArrayLike, sigma: ArrayLike, rounds: int = 10) -> Similarity:
    """Like `similarity` of one shape (V, 3), by points known to `sigma` (V,), with weights that fall further where the
    two disagree by more than the usual (median) misfit."""
    own, target = np.asarray(sigma, dtype=np.float64) ** -2.0, np.asarray(reference, dtype=np.float64)
    motion = similarity(points, reference, own)
    for _ in range(rounds):
        misfit = np.linalg.norm(motion(points) - target, axis=1)
        motion = similarity(points, reference, own / (1 + (misfit / (2 * np.median(misfit) + 1e-9)) ** 2) ** 2)
    return motion


def procrustes_mean(points: ArrayLike, weights: ArrayLike | None = None, scaled: bool = False) -> Floats:
    """Generalised Procrustes (Gower 1975): the mean (V, 3) of `points` (N, V, 3), aligned to that mean in turn.

    It lies where the first shape lies. With `scaled`, shapes are also scaled, to the first one's size.
    """
    shapes = np.asarray(points, dtype=np.float64)
    fit = similarity if scaled else rigid
    mean = shapes[0]
    for _ in range(MOST_ROUNDS):
        aligned = fit(shapes, mean, weights)(shapes).mean(axis=0)
        aligned = fit(aligned, shapes[0], weights)(aligned)
        moved = np.abs(aligned - mean).max()
        mean = aligned
        if moved < SETTLED * np.abs(mean - mean.mean(axis=0)).max():
            break
    return mean


def _fit(points: ArrayLike, reference: ArrayLike, weights: ArrayLike | None, scaled: bool) -> Similarity:
    source, target = np.asarray(points, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    share = np.ones(target.shape[-2:-1]) if weights is None else np.asarray(weights, dtype=np.float64)
    try:
        fits = np.broadcast_shapes(source.shape, target.shape, (*share.shape, 3)) == source.shape and source.ndim > 1
    except ValueError:
        fits = False
    if not fits or source.shape[-2:] != target.shape[-2:] or share.shape[-1:] != source.shape[-2:-1]:
        raise UsageError(f"points {source.shape}, reference {target.shape} and weights {share.shape} do not fit.")
    if not (share.sum(axis=-1) > 0).all() or (share < 0).any():
        raise UsageError("weights must not be negative, nor all be zero.")
    share = (share / share.sum(axis=-1, keepdims=True))[..., None]
    source_middle, target_middle = (np.swapaxes(share, -1, -2) @ one for one in (source, target))
    centred = source - source_middle
    products = np.swapaxes(share * (target - target_middle), -1, -2) @ centred
    size = np.linalg.norm(products, axis=(-2, -1), keepdims=True)
    u, stretch, vt = np.linalg.svd(products + OPEN * size * np.eye(3))
    signs = np.ones(stretch.shape)
    signs[..., 2] = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
    rotation = (u * signs[..., None, :]) @ vt
    scale = np.ones(source.shape[:-2])
    if scaled:
        spread = (share * centred**2).sum(axis=(-2, -1))
        np.divide((stretch * signs).sum(axis=-1), spread, out=scale, where=spread > 0)
    turned = np.swapaxes(rotation @ np.swapaxes(source_middle, -1, -2), -1, -2)
    translation = target_middle - scale[..., None, None] * turned
    return Similarity(scale, rotation, np.broadcast_to(translation, (*scale.shape, 1, 3))[..., 0, :])


def rotations(vectors: ArrayLike) -> Floats:
    """The matrices (..., 3, 3) that turn about `vectors` (..., 3), by as many radians as these are long (Rodrigues)."""
    axes = np.asarray(vectors, dtype=np.float64)
    angle = np.linalg.norm(axes, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(axes, -1, 0)
    none = np.zeros_like(x)
    cross = np.stack([none, -z, y, z, none, -x, -y, x, none], axis=-1).reshape(*axes.shape, 3)
    sine, cosine = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi)) ** 2 / 2  # over the angle, over its square
    return np.asarray(np.eye(3) + sine * cross + cosine * (cross @ cross))
