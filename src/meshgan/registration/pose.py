"""One similarity transform: where the template stands in a scan, and the way between their frames."""

from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Floats
from meshgan.geometry.align import rigid, similarity


@dataclass(frozen=True)
class Similarity:
    """`scale * rotation @ x + translation`, rotation (3, 3)."""

    scale: float
    rotation: Floats
    translation: Floats

    def __call__(self, points: Floats) -> Floats:
        """Carry `points` (N, 3)."""
        return self.scale * points @ self.rotation.T + self.translation

    def inverse(self, points: Floats) -> Floats:
        """Where `points` (N, 3) come from."""
        return (points - self.translation) @ self.rotation / self.scale

    def after(self, first: "Similarity") -> "Similarity":
        """`first`, then this."""
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, self(first.translation[None])[0])

    def undone(self, last: "Similarity") -> "Similarity":
        """`last`, then the way back: where things lie in the frame that this carries to the outside."""
        rotation = self.rotation.T @ last.rotation
        return Similarity(last.scale / self.scale, rotation, self.inverse(last.translation[None])[0])


def similarity_between(source: Floats, target: Floats, weights: Floats, scaled: bool = True) -> Similarity:
    """The motion, never a reflection, that best carries `source` (N, 3) to `target` (N, 3)."""
    found = (similarity if scaled else rigid)(source[None], target, weights)
    return Similarity(float(found.scale[0]), found.rotation[0], found.translation[0])


def robust_similarity(source: Floats, target: Floats, sigma: Floats, rounds: int = 10) -> Similarity:
    """The same with weights that fall where the two disagree by more than the usual (median) misfit."""
    weights = sigma**-2.0
    pose = similarity_between(source, target, weights)
    for _ in range(rounds):
        misfit = np.linalg.norm(pose(source) - target, axis=1)
        weights = sigma**-2.0 / (1 + (misfit / (2 * np.median(misfit) + 1e-9)) ** 2) ** 2
        pose = similarity_between(source, target, weights)
    return pose
