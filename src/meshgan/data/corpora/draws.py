"""Random numbers that belong to a place: draw k of item i depends on the seed, i and k, never on how many there are.

Philox (Salmon et al. 2011) is a function from a counter to random bits, so each item has its own stretch of the
stream. The bits are turned into numbers by inverse distribution functions here, not by numpy's methods, whose
streams may change between versions.
"""

import zlib

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from meshgan.arrays import Floats, Integers


class Draws:
    """Draws for the items numbered `items` (B,) of the stream `name` under `seed`; each call uses up fresh ones."""

    def __init__(self, seed: int, name: str, items: ArrayLike) -> None:
        self.key = [seed & (2**64 - 1), zlib.crc32(name.encode())]
        self.items = np.asarray(items, dtype=np.uint64)
        self.used = 0

    def uniform(self, columns: int) -> Floats:
        """(B, columns), strictly between 0 and 1."""
        self.used += 1
        raw = [
            np.random.Philox(key=self.key, counter=[0, self.used, int(item), 0]).random_raw(columns)
            for item in self.items
        ]
        bits = np.array(raw, dtype=np.uint64).reshape(len(raw), columns) >> np.uint64(11)
        return (bits.astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, columns: int) -> Floats:
        """(B, columns), mean 0 and variance 1."""
        return ndtri(self.uniform(columns))

    def choice(self, shares: ArrayLike) -> Integers:
        """(B,): indices drawn with these probabilities, (K,) or for each item (B, K)."""
        edges = np.cumsum(np.atleast_2d(np.asarray(shares, dtype=np.float64)), axis=1)
        edges /= edges[:, -1:]
        return np.minimum((self.uniform(1) > edges).sum(axis=1), edges.shape[1] - 1)

    def sparse(self, columns: int, share: float) -> Floats:
        """(B, columns): most are 0, a `share` of them uniform in (0, 1)."""
        values = self.uniform(columns)
        return np.maximum(values - (1 - share), 0) / share
