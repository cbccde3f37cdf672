"""From "somewhere in this scan" to the exact pose of its face: landmarks, pose, a better view, better landmarks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Booleans, Floats
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh
from meshgan.registration.detect import Detection, detect, lifted
from meshgan.registration.detector import Detector
from meshgan.registration.orient import degrees_between, search
from meshgan.registration.pose import Similarity, robust_similarity
from meshgan.registration.template import FaceTemplate
from meshgan.registration.views import Frame, Scene

HALF_WIDTH = 125.0  # mm at the template's scale: a face with some air around it
ROUNDS, STILL_DEGREES = 4, 2.0  # of looking again, and the turn under which another look changes nothing
FEWEST_POINTS = 60  # lifted points that make a pose
ORDERED = 0.95  # share of half-edges that are not run through twice in one direction
SURE_MISFIT = 4.5  # mm: below it no other candidate is looked at
WORST_MISFIT = 9.0  # mm, median at the template's scale: above it, what was seen is no face (or seen from inside)


@dataclass(frozen=True, eq=False)
class Found:
    """A face in a scan: the `pose` that carries the template there, and the detector's points on its surface."""

    pose: Similarity
    detection: Detection
    misfit_mm: float


def find_face(mesh: Mesh, detector: Detector, template: FaceTemplate) -> Found:
    """The best face of the scan. Raises `MeshganError` if nothing in it has the shape of a face.

    First the outside of the surfaces is looked at; a scan that is inside out shows its face on the other side, and
    one without any order on both.
    """
    for outward in (1, -1) if _ordered(mesh) else (0,):
        found = list(_faces(Scene(mesh, outward), detector, template))
        if found:
            return min(found, key=lambda face: face.misfit_mm)
    raise MeshganError("no face was found from any side; is it a scan of a face, and is the face in it whole?")


def _faces(scene: Scene, detector: Detector, template: FaceTemplate) -> Iterator[Found]:
    """What holds up of the candidates, until one is beyond doubt."""
    for frame in search(scene, detector):
        face = _closer_look(scene, detector, template, frame)
        if face is not None:
            yield face
            if face.misfit_mm < SURE_MISFIT:
                return


def _ordered(mesh: Mesh) -> bool:
    """Whether neighbouring triangles agree, with few exceptions, on which side is out."""
    directed = mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    codes = directed[:, 0] * len(mesh.vertices) + directed[:, 1]
    return len(np.unique(codes)) > ORDERED * len(codes)  # an edge run through twice in one direction is disorder


def frontal_frame(pose: Similarity, template: FaceTemplate) -> Frame:
    """The frame that looks straight at a face in this pose."""
    middle = pose(template.mesh.vertices.mean(axis=0)[None])[0]
    return Frame(pose.rotation.T, middle, HALF_WIDTH * pose.scale)


def _closer_look(scene: Scene, detector: Detector, template: FaceTemplate, frame: Frame) -> Found | None:
    """Refine the pose view by view, then look from three sides; None where no face holds up."""
    for _ in range(ROUNDS):
        points, trust = lifted(scene, detector, frame)
        fitted = _pose(points, trust > 0, template)
        if fitted is None:
            return None
        better = frontal_frame(fitted[0], template)
        turn = degrees_between(better.rotation, frame.rotation)
        frame = better
        if turn < STILL_DEGREES:
            break
    detection = detect(scene, detector, frame)
    fitted = _pose(detection.points, detection.found, template)
    if fitted is None or fitted[1] > WORST_MISFIT:
        return None
    return Found(fitted[0], detection, fitted[1])


def _pose(points: Floats, seen: Booleans, template: FaceTemplate) -> tuple[Similarity, float] | None:
    """The template's pose from the detector's points, and the median misfit in mm at the template's scale."""
    used = np.flatnonzero(seen & np.isfinite(template.detector_sigma))
    if len(used) < FEWEST_POINTS:
        return None
    places = template.detector_rows[used] @ template.mesh.vertices
    pose = robust_similarity(places, points[used], template.detector_sigma[used])
    misfit = np.linalg.norm(pose(places) - points[used], axis=1) / pose.scale
    return pose, float(np.median(misfit))
