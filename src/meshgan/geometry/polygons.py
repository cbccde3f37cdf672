"""Polygons of any size to triangles."""

import numpy as np

from meshgan.arrays import Integers


def fans(corners: Integers, counts: Integers) -> Integers:
    """Triangles (F, 3) of polygons whose `corners` follow one another, `counts` (P,) of them each.

    A polygon (a, b, c, d, ...) becomes (a, b, c), (a, c, d), ...; what has fewer than three corners vanishes.
    """
    starts = np.cumsum(counts) - counts
    pieces = np.maximum(counts - 2, 0)
    first = np.repeat(starts, pieces)
    step = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return corners[np.stack([first, first + step + 1, first + step + 2], axis=1)]
