"""Landmarks found on a scan: the detector's points on several views, lifted to the surface, kept where views agree."""

from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.registration.detector import POINTS, Detector
from meshgan.registration.views import Frame, Hits, Scene

YAWS = (0.0, -30.0, 30.0)  # degrees around the face's own up axis
SIZE = 384  # pixels a side; the network looks at 256 of them
STEEPEST = 0.3  # cosine between surface and view below which a lifted point is not to be trusted
JUMP = 3.0  # mm of depth between neighbouring pixels that mark a silhouette
AGREEMENT = 4.0  # mm between the views' opinions


@dataclass(frozen=True, eq=False)
class Detection:
    """The detector's points on a surface: `points` (478, 3), NaN where none is trusted; `views` (478,) that agree."""

    points: Floats
    views: Integers

    @property
    def found(self) -> Booleans:
        return self.views > 0


def detect(scene: Scene, detector: Detector, frontal: Frame) -> Detection:
    """Look at a face from the front and from both sides; `frontal` frames it upright."""
    opinions = [lifted(scene, detector, turned(frontal, yaw)) for yaw in YAWS]
    return agreed(np.stack([points for points, _ in opinions]), np.stack([trust for _, trust in opinions]))


def turned(frame: Frame, yaw: float) -> Frame:
    """The frame of a viewer who has walked `yaw` degrees around the face's up axis."""
    cosine, sine = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    return Frame(turn @ frame.rotation, frame.centre, frame.half_width)


def lifted(scene: Scene, detector: Detector, frame: Frame) -> tuple[Floats, Floats]:
    """Points (478, 3) on the surface and trust (478,) in them: the cosine of the view, zero where not to be used."""
    image, hits = scene.photograph(frame, SIZE)
    pixels = detector.landmarks(image)
    if pixels is None:
        return np.full((POINTS, 3), np.nan), np.zeros(POINTS)
    found = scene.cast(frame, pixels[:, 0], pixels[:, 1], SIZE)
    facing = np.abs(scene.normals(found) @ frame.rotation[2])
    steady = ~_near_silhouette(hits, pixels)
    trust = np.where(found.found & steady & (facing > STEEPEST), facing, 0.0)
    return scene.points(found), trust


def _near_silhouette(hits: Hits, pixels: Floats) -> Booleans:
    """Whether the depth jumps within the 3 × 3 pixels around each point."""
    depth = np.pad(hits.depth.reshape(SIZE, SIZE), 1, constant_values=np.inf)
    column, row = np.clip(np.rint(pixels).astype(np.int64), 0, SIZE - 1).T
    around = np.stack([depth[row + i, column + j] for i in range(3) for j in range(3)])
    with np.errstate(invalid="ignore"):  # inf - inf
        step = np.maximum(around[[0, 1, 2, 3, 5, 6, 7, 8]].max(axis=0) - around[4], around[4] - around.min(axis=0))
    return ~(step < 3 * JUMP)


def agreed(points: Floats, trust: Floats) -> Detection:
    """Combine the opinions (views, 478, 3): around the most central one, the mean of those within `AGREEMENT`.

    A point that several views see, but of which no two agree, is dropped.
    """
    safe = np.where(trust[..., None] > 0, points, 0.0)
    apart = np.linalg.norm(safe[:, None] - safe[None], axis=3)  # (views, views, 478)
    friends = (apart < AGREEMENT) * trust[None]
    support = np.where(trust > 0, friends.sum(axis=1), 0.0)
    centre = support.argmax(axis=0)
    everyone = np.arange(points.shape[1])
    weights = friends[centre, :, everyone].T  # (views, 478)
    views = (weights > 0).sum(axis=0)
    views = np.where((views == 1) & ((trust > 0).sum(axis=0) > 1), 0, views)
    with np.errstate(invalid="ignore"):
        mean = np.einsum("vp,vpc->pc", weights, safe) / weights.sum(axis=0)[:, None]
    return Detection(np.where(views[:, None] > 0, mean, np.nan), views)
