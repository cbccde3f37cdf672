"""Where on the template the face detector sees its points: makes registration/assets/detector_points.npz.

The detector looks at faces of the corpus, whose every surface point is known on the template, exactly as it looks at
scans: from three sides, lifted to the surface. Each of its points is then somewhere on the template on average, and
scatters about that place. Needs the extra `[landmarks]`; takes a minute.

    python tools/build_detector_points.py [--faces 200]
"""

import argparse
from pathlib import Path

import numpy as np

from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points
from meshgan.registration.detect import detect
from meshgan.registration.detector import POINTS, Detector
from meshgan.registration.find import HALF_WIDTH
from meshgan.registration.models import corpus_faces
from meshgan.registration.views import Frame, Scene

OUT = Path(__file__).parents[1] / "src" / "meshgan" / "registration" / "assets" / "detector_points.npz"
SEED = 20_000  # of faces that the prior does not know
LEAST_SEEN = 0.4  # share of faces on which a point must have been found
MOST_SCATTER = 5.0  # mm


def places(faces: np.ndarray, template: Mesh) -> np.ndarray:
    """Where each face (N, V, 3) shows each detector point, on the template: (N, 478, 3), NaN where it does not."""
    found = np.full((len(faces), POINTS, 3), np.nan)
    with Detector() as detector:
        for row, vertices in enumerate(faces):
            mesh = template.with_vertices(vertices)
            frame = Frame(np.eye(3), mesh.vertices.mean(axis=0), HALF_WIDTH)
            detection = detect(Scene(mesh), detector, frame)
            seen = np.flatnonzero(detection.found)
            if len(seen):
                nearest = closest_points(detection.points[seen], mesh)
                corners = template.vertices[template.triangles[nearest.triangle]]
                found[row, seen] = np.einsum("nk,nkc->nc", nearest.barycentric, corners)
    return found


def build(count: int) -> dict[str, np.ndarray]:
    """The arrays of the file: for each point its triangle's vertices, its weights, and its scatter in mm."""
    faces, template = corpus_faces(count, SEED)
    found = places(faces, template)
    points, scatter = np.zeros((POINTS, 3)), np.full(POINTS, np.inf)
    for number in range(POINTS):
        seen = found[np.isfinite(found[:, number, 0]), number]
        if len(seen) >= LEAST_SEEN * count:
            points[number] = np.median(seen, axis=0)
            away = np.linalg.norm(seen - points[number], axis=1)
            scatter[number] = 1.48 * np.median(away) / 1.54 * np.sqrt(3)  # rms, from the median of a 3D Gaussian
    scatter[scatter > MOST_SCATTER] = np.inf
    nearest = closest_points(points, template)
    return {
        "vertices": template.triangles[nearest.triangle].astype(np.int16),
        "weights": nearest.barycentric.astype(np.float32),
        "scatter_mm": scatter.astype(np.float32),
        "faces": np.array(count),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=200)
    arrays = build(parser.parse_args().faces)
    np.savez_compressed(OUT, **arrays)
    used = np.isfinite(arrays["scatter_mm"])
    print(f"{OUT}: {used.sum()} of {POINTS} points, median scatter {np.median(arrays['scatter_mm'][used]):.2f} mm")


if __name__ == "__main__":
    main()
