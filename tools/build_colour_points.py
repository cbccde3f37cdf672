"""Where the face detector sees its points on faces in colours: src/meshgan/registration/assets/colour_points.npz.

As `build_registration_assets.py` does for bare shape: the detector looks at faces of which every place is known, here
in colours, as scans are looked at. The colours are painted (`registration/painted_scans.py`). What the picture shows of
eyes is where the template's lids and eyeballs are; but where a brow's hair or the red of lips ends is the painter's
choice. So the places are new around eyes alone, and the others are those of bare shape. How points scatter is measured
for all, and used around eyes. Needs the extra `[landmarks]`; takes some five minutes.

    python tools/build_colour_points.py
"""

import hashlib
import sys

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from meshgan.errors import MeshganError
from meshgan.geometry.align import Similarity
from meshgan.geometry.surface import closest_points
from meshgan.progress import track
from meshgan.registration import painted_scans
from meshgan.registration.colours import PaintedScene
from meshgan.registration.fake_scans import FakeScan, corpus_people
from meshgan.registration.finding import detect, frontal_frame
from meshgan.registration.landmarks import POINTS, Detector
from meshgan.registration.painted_scans import Canvas, painted_picture, worn
from meshgan.registration.templates import OWN, default_template

FACES, SEED = 80, 773  # other people than those that the face model was learned from, and those of the corpora
FINER = 1  # the template's triangles are cut into four
LEAST_SEEN = 0.4  # share of faces on which a point must have been found
MOST_SCATTER, LEAST_SCATTER = 5.0, 1.0  # mm
RMS_OF_MEDIAN = 3**0.5 / 1.538  # of the lengths of Gaussian vectors in space
EYES = range(36, 48)  # landmarks: those that points around eyes are nearest to


def seen_places() -> NDArray[np.float64]:
    """Where each face shows each detector point, on the template: (N, 478, 3), NaN where it does not."""
    template, found = default_template(), np.full((FACES, POINTS, 3), np.nan)
    canvas, frame = Canvas(template), frontal_frame(Similarity.none(), template)
    people = corpus_people(FACES // 2, FACES // 2, SEED).astype(np.float64)
    with Detector() as detector:
        for row, vertices in enumerate(track(people, "Looking")):
            face = template.mesh.with_vertices(vertices)
            picture = painted_picture(canvas, vertices, np.random.default_rng([SEED, row]))
            scan = worn(FakeScan(face, Similarity.none()), face, picture, FINER)
            detection = detect(PaintedScene(scan), detector, frame, template)
            seen = np.flatnonzero(detection.found)
            if len(seen):
                nearest = closest_points(detection.points[seen], face)
                corners = template.mesh.vertices[template.mesh.triangles[nearest.triangle]]
                found[row, seen] = np.einsum("nk,nkc->nc", nearest.barycentric, corners)
    return found


def colour_points() -> dict[str, NDArray[np.generic]]:
    """The arrays of the asset: for each point its place on the template, its scatter in mm, and what it is near to."""
    template, found = default_template(), seen_places()
    points = template.bare.rows @ template.mesh.vertices
    nearest = cKDTree(template.landmark_rows @ template.mesh.vertices).query(points)[1]
    eyes = np.isin(nearest, EYES)
    scatter = np.full(POINTS, np.inf)
    for number in np.flatnonzero(np.isfinite(template.bare.sigma)):
        seen = found[np.isfinite(found[:, number, 0]), number]
        if len(seen) >= LEAST_SEEN * FACES:
            middle = np.median(seen, axis=0)
            scatter[number] = max(RMS_OF_MEDIAN * np.median(np.linalg.norm(seen - middle, axis=1)), LEAST_SCATTER)
            if eyes[number]:
                points[number] = middle
    scatter[scatter > MOST_SCATTER] = np.inf
    return {
        "points": points.astype(np.float32),
        "scatter_mm": scatter.astype(np.float32),
        "eyes": eyes,
    }


def fingerprint(arrays: dict[str, NDArray[np.generic]]) -> str:
    """Of what the asset is made from, of the named numbers here and of the paint, and of what it holds."""
    with np.load(str(OWN / "detector_points.npz"), allow_pickle=False) as bare:
        digest = hashlib.sha256(str(bare["fingerprint"]).encode())
    for module in (painted_scans, sys.modules[__name__]):
        for name, value in sorted(vars(module).items()):
            if name.isupper() and isinstance(value, int | float | tuple | range | np.ndarray):
                digest.update(f"{name} {value!r}\n".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def main() -> None:
    arrays = colour_points()
    if not np.isfinite(arrays["scatter_mm"]).any():
        raise MeshganError("the detector has seen no face.")
    path = OWN / "colour_points.npz"
    np.savez_compressed(str(path), fingerprint=np.array(fingerprint(arrays)), **arrays)
    print(f"{path}: {', '.join(f'{key} {array.shape}' for key, array in arrays.items())}")


if __name__ == "__main__":
    main()
