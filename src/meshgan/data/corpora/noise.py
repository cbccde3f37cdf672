"""Registration noise: what is left when a template is laid onto a scan. Smooth at two scales, and a little white."""

import numpy as np

from meshgan.arrays import Floats, Singles
from meshgan.data.corpora.draws import Draws

# Over which length the smooth parts lose their correlation, and their shares of the variance: correspondences that
# slide along the surface, and the roughness of the scan. The rest is independent from vertex to vertex.
SMOOTH = ((12.0, 0.5), (4.0, 0.3))
WAVES = 160  # in each smooth part


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
