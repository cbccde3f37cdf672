"""Polygons and strips to triangles, and how many of them a file may hold."""

import numpy as np

from meshgan.arrays import Integers
from meshgan.errors import MeshganError

MOST = 10_000_000  # vertices, and triangles, of a mesh that is read: what fits in two gigabytes while it is read


def within_bounds(count: float, what: str, most: int = MOST) -> int:
    """`count` as an integer. Raises `MeshganError` if it is more than is read."""
    if not count <= most:
        raise MeshganError(f"it would have {count:,.0f} {what}; {most:,} are read at most.")
    return int(count)


def fans(corners: Integers, counts: Integers) -> Integers:
    """Triangles (F, 3) of polygons whose `corners` follow one another, `counts` (P,) of them each.

    A polygon (a, b, c, d, ...) becomes (a, b, c), (a, c, d), ...; what has fewer than three corners vanishes.
    """
    if (counts == 3).all():
        return corners.reshape(-1, 3)
    pieces = np.maximum(counts - 2, 0)
    within_bounds(pieces.sum(dtype=np.float64), "triangles")
    starts = np.cumsum(counts) - counts
    first = np.repeat(starts, pieces)
    step = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    triangles = np.empty((len(first), 3), dtype=np.int64)
    for corner, place in enumerate((first, first + step + 1, first + step + 2)):
        triangles[:, corner] = corners[place]
    return triangles


def strips(corners: Integers) -> Integers:
    """Triangles (F, 3) of a strip, in which each corner makes one with the two before; -1 begins another strip.

    Every second triangle is turned, so that all face the same way; those that name a corner twice vanish.
    """
    if len(corners) < 3:
        return np.empty((0, 3), dtype=np.int64)
    triangles = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    breaks = np.where(corners == -1, np.arange(len(corners)), -1)
    odd = (np.arange(len(triangles)) - np.maximum.accumulate(breaks)[:-2] - 1) % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    a, b, c = triangles.T
    return triangles[(triangles >= 0).all(axis=1) & (a != b) & (b != c) & (c != a)]
