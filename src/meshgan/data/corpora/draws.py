"""Random numbers that belong to a place: draw k of item i depends on the seed, i and k, never on how many there are.

Philox (Salmon et al. 2011) is a function from a counter to random bits, so each item has its own stretch of the
stream: the same bits as numpy's `Philox`, for all items in one loop, where making a generator takes longer than most
draws. The bits are turned into numbers by inverse distribution functions here, not by numpy's methods, whose
streams may change between versions.

Of them is also registration noise made: what is left when a template is laid onto a scan, smooth at two scales, and a
little white.
"""

import zlib

import numpy as np
import scipy
from numpy.typing import ArrayLike

from meshgan.arrays import Floats, Integers, Singles
from meshgan.compiled import compiled

ROUNDS = 10
HALF, LOW = np.uint64(32), np.uint64(2**32 - 1)
FACTORS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], dtype=np.uint64)
WEYL = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], dtype=np.uint64)

# Over which length the smooth parts lose their correlation, and their shares of the variance: correspondences that
# slide along the surface, and the roughness of the scan. The rest is independent from vertex to vertex.
SMOOTH = ((12.0, 0.5), (4.0, 0.3))
WAVES = 160  # in each smooth part


class Draws:
    """Draws for the items numbered `items` (B,) of the stream `name` under `seed`; each call uses up fresh ones."""

    def __init__(self, seed: int, name: str, items: ArrayLike) -> None:
        self.key = np.array([seed & (2**64 - 1), zlib.crc32(name.encode())], dtype=np.uint64)
        self.items = np.asarray(items, dtype=np.uint64)
        self.used = 0

    def uniform(self, columns: int) -> Floats:
        """(B, columns), strictly between 0 and 1."""
        self.used += 1
        bits = np.empty((len(self.items), columns), dtype=np.uint64)
        _philox(self.key, np.uint64(self.used), self.items, bits)
        bits >>= np.uint64(11)
        return (bits.astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, columns: int) -> Floats:
        """(B, columns), mean 0 and variance 1."""
        return scipy.special.ndtri(self.uniform(columns))

    def choice(self, shares: ArrayLike) -> Integers:
        """(B,): indices drawn with these probabilities, (K,) or for each item (B, K)."""
        edges = np.cumsum(np.atleast_2d(np.asarray(shares, dtype=np.float64)), axis=1)
        edges /= edges[:, -1:]
        return np.minimum((self.uniform(1) > edges).sum(axis=1), edges.shape[1] - 1)

    def sparse(self, columns: int, share: float) -> Floats:
        """(B, columns): most are 0, a `share` of them uniform in (0, 1)."""
        values = self.uniform(columns)
        return np.maximum(values - (1 - share), 0) / share


@compiled()
def _philox(key, used, items, bits):  # type: ignore[no-untyped-def]
    """Fill `bits` (B, columns): row b is what the counters (1, used, items[b], 0), (2, used, items[b], 0), … give."""
    for row in range(len(items)):
        for block in range((bits.shape[1] + 3) // 4):
            c0, c1, c2, c3 = np.uint64(block + 1), used, items[row], np.uint64(0)
            k0, k1 = key[0], key[1]
            for _ in range(ROUNDS):
                high0, high1 = _high(FACTORS[0], c0), _high(FACTORS[1], c2)
                c0, c1, c2, c3 = high1 ^ c1 ^ k0, FACTORS[1] * c2, high0 ^ c3 ^ k1, FACTORS[0] * c0
                k0, k1 = k0 + WEYL[0], k1 + WEYL[1]
            words = (c0, c1, c2, c3)
            for place in range(min(4, bits.shape[1] - 4 * block)):
                bits[row, 4 * block + place] = words[place]


@compiled(forceinline=True)
def _high(a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of a product of two numbers of 64."""
    low, middle = (a & LOW) * (b & LOW), (a >> HALF) * (b & LOW)
    middle += low >> HALF
    other = (a & LOW) * (b >> HALF) + (middle & LOW)
    return (a >> HALF) * (b >> HALF) + (middle >> HALF) + (other >> HALF)


class RegistrationNoise:
    """Random displacements of points (V, 3) in mm: Gaussian fields in space, each drawn as a sum of plane waves
    (Rahimi and Recht 2007), and white noise."""

    def __init__(self, points: Floats, seed: int) -> None:
        draws = Draws(seed, "noise-waves", np.arange(WAVES))
        waves = [np.sqrt(share) * _waves(points, draws, length) for length, share in SMOOTH]
        self.waves = np.concatenate(waves, axis=1).T.astype(np.float32)
        self.white = np.sqrt(1 - sum(share for _, share in SMOOTH))

    def draw(self, draws: Draws, size_mm: float) -> Singles:
        """Displacements (B, V, 3) whose length has the root mean square `size_mm`."""
        waves, count = self.waves.shape
        noise = draws.normal(3 * waves).reshape(-1, waves).astype(np.float32) @ self.waves
        noise += (self.white * draws.normal(3 * count)).reshape(noise.shape).astype(np.float32)
        noise *= np.float32(size_mm / np.sqrt(3))
        return np.ascontiguousarray(noise.reshape(-1, 3, count).transpose(0, 2, 1))


def _waves(points: Floats, draws: Draws, length: float) -> Floats:
    """Cosines and sines (V, 2 WAVES) whose random combinations have variance 1 and the correlation length (mm)."""
    phases = points @ (draws.normal(3) / length).T + 2 * np.pi * draws.uniform(1).T
    return np.concatenate([np.cos(phases), np.sin(phases)], axis=1) / np.sqrt(WAVES)
