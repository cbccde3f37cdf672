"""Making a scan upright and frontal: where in it is a face, and which way does that face look?

The detector's first, quick network looks at the scan from directions spread over the sphere, each in four turns.
It answers to a face within some 40 degrees, so the true pose collects many answers that agree with each other,
and a chance likeness on a shoulder or a palm collects few. The mode of the answers is where the landmarks start.
"""

from collections.abc import Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from meshgan.arrays import Floats
from meshgan.registration.detector import Detector
from meshgan.registration.scan import extent
from meshgan.registration.views import Frame, Scene

DIRECTIONS = 48  # some 32 degrees between neighbours
SIZE = 160  # pixels; the network scales its input to 128
ALIKE_DEGREES = 25.0  # two answers this far apart still support each other (Gaussian width)
BEST = 5  # modes worth a closer look
NUDGES = (-25.0, 0.0, 25.0)  # degrees around a mode


def search(scene: Scene, detector: Detector) -> Iterator[Frame]:
    """Frames that look at what may be a face, upright, the best first; none if no side of the scan shows any."""
    answers = list(_answers(scene, detector))
    if not answers:
        return
    rotations = np.stack([frame.rotation for frame, _ in answers])
    scores = np.array([score for _, score in answers])
    support = _agreement(rotations) * _nearness([frame for frame, _ in answers]) @ scores
    modes: list[Frame] = []
    for index in np.argsort(-support):
        if all(degrees_between(rotations[index], mode.rotation) > ALIKE_DEGREES for mode in modes):
            modes.append(answers[index][0])
    yield from (_best_around(mode, scene, detector) for mode in modes[:BEST])


def _best_around(frame: Frame, scene: Scene, detector: Detector) -> Frame:
    """Of some turns around a frame, the one in which the detector is surest of a face."""
    best, best_score = frame, 0.0
    for pitch in NUDGES:
        for yaw in NUDGES:
            turn = Rotation.from_euler("xy", [pitch, yaw], degrees=True).as_matrix()
            nudged = Frame(turn @ frame.rotation, frame.centre, frame.half_width)
            image, _ = scene.photograph(nudged, SIZE)
            score = max((face.score for face in detector.faces(image)), default=0.0)
            if score > best_score:
                best, best_score = nudged, score
    return best


def _answers(scene: Scene, detector: Detector) -> Iterator[tuple[Frame, float]]:
    """Every face that the quick network sees: a frame around it with its confidence."""
    centre, radius = extent(scene.mesh)
    for direction in sphere(DIRECTIONS):
        frame = Frame(looking_along(direction), centre, radius)
        image, _ = scene.photograph(frame, SIZE)
        for quarter in range(4):
            for face in detector.faces(np.ascontiguousarray(np.rot90(image, quarter))):
                yield _closer(_turned(frame, quarter), scene, face.middle, face.side), face.score


def _turned(frame: Frame, quarter: int) -> Frame:
    """The frame in which an image turned counter-clockwise by quarters was taken."""
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter]
    roll = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=np.float64)
    return Frame(roll @ frame.rotation, frame.centre, frame.half_width)


def _closer(frame: Frame, scene: Scene, middle: tuple[float, float], side: float) -> Frame:
    """A frame around a box of an image that `frame` took, its centre on the surface in the box's middle."""
    pixel = 2 * frame.half_width / SIZE
    hit = scene.cast(frame, np.array([middle[0] - 0.5]), np.array([middle[1] - 0.5]), SIZE)
    right, up = (middle[0] * pixel - frame.half_width), (frame.half_width - middle[1] * pixel)
    centre = scene.points(hit)[0] if hit.found[0] else frame.centre + right * frame.rotation[0] + up * frame.rotation[1]
    return Frame(frame.rotation, centre, side * pixel)


def sphere(count: int) -> Floats:
    """Directions (count, 3) spread evenly over the sphere: a Fibonacci lattice."""
    step = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * step / count), np.pi * (1 + np.sqrt(5)) * step
    return np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)


def looking_along(towards_viewer: Floats) -> Floats:
    """A rotation (3, 3) whose last row is the unit vector from the object to the viewer."""
    helper = np.eye(3)[np.argmin(np.abs(towards_viewer))]
    right = np.cross(helper, towards_viewer)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards_viewer, right), towards_viewer])


def _agreement(rotations: Floats) -> Floats:
    """How much each answer supports each other one (N, N): a Gaussian in the angle between their rotations."""
    cosines = (np.einsum("aij,bij->ab", rotations, rotations) - 1) / 2
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return np.exp(-0.5 * (angles / ALIKE_DEGREES) ** 2)


def _nearness(frames: list[Frame]) -> Floats:
    """Answers support each other only where they mean the same place and a face of the same size (N, N)."""
    centres = np.stack([frame.centre for frame in frames])
    widths = np.array([frame.half_width for frame in frames])
    smaller = np.minimum(widths[:, None], widths[None])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) / smaller
    ratio = np.log2(widths[:, None] / widths[None])
    return np.exp(-0.5 * (apart / 0.5) ** 2 - 0.5 * (ratio / 0.5) ** 2)


def degrees_between(a: Floats, b: Floats) -> float:
    """The angle of the turn between two rotations (3, 3)."""
    return float(np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1))))
