"""Pictures by which a person judges a registration in seconds: scan, result, overlay and error map, from two sides."""

from pathlib import Path

import numpy as np
from PIL import Image

from meshgan.arrays import Bytes, Floats
from meshgan.registration.finding import turned
from meshgan.registration.quality import scan_distances
from meshgan.registration.register import Registration
from meshgan.registration.template import FaceTemplate
from meshgan.registration.views import Frame, Hits, Scene, pixels
from meshgan.storage import atomic_file

Colours = Floats  # (size, size, 3), 0-255

SIZE = 288  # pixels a side of one picture
HALF_WIDTH = 115.0  # mm
YAWS = (0.0, 40.0)
WORST = 3.0  # mm, the end of the error map's scale
STOPS = np.array([[40, 60, 150], [60, 170, 190], [150, 210, 110], [250, 210, 70], [220, 50, 40]], dtype=np.float64)
NOT_FACE = np.array([110.0, 110.0, 110.0])
WIRE = np.array([20.0, 90.0, 200.0])
WIRE_WIDTH = 0.08  # barycentric coordinate under which a point belongs to an edge
WIRE_OPACITY = 0.75
FINER = 3  # the wires are narrower than pixels
GIVEN_COLOUR, RESULT_COLOUR = np.array([0.0, 200.0, 60.0]), np.array([230.0, 30.0, 40.0])


def draw(result: Registration, template: FaceTemplate, path: Path) -> None:
    """Write one JPEG: four pictures wide, two views high."""
    scan = Scene(result.scan)
    face = Scene(template.mesh.with_vertices(result.vertices))
    distances = scan_distances(result, template)
    middle = template.mesh.vertices.mean(axis=0)
    rows = []
    for yaw in YAWS:
        frame = turned(Frame(np.eye(3), middle, HALF_WIDTH), yaw)
        rows.append(np.concatenate(_pictures(scan, face, frame, distances, result, template), axis=1))
    image = Image.fromarray(np.concatenate(rows).clip(0, 255).astype(np.uint8))
    with atomic_file(path) as partial:
        image.save(partial, format="JPEG", quality=85)


def _pictures(
    scan: Scene, face: Scene, frame: Frame, distances: Floats, result: Registration, template: FaceTemplate
) -> list[Colours]:
    grey, scan_hits = scan.photograph(frame, SIZE)
    plain, _ = face.photograph(frame, SIZE)
    shaded, alone = _coloured(grey), _coloured(plain)
    errors = shaded / 255 * _heat(_interpolated(scan, scan_hits, distances)).reshape(SIZE, SIZE, 3) * 1.2
    here = (template.landmark_rows @ result.vertices)[result.landmarks.index]
    with_points = _dotted(_dotted(shaded, frame, result.landmarks.points, GIVEN_COLOUR), frame, here, RESULT_COLOUR)
    return [with_points, alone, _overlay(shaded, face, frame), errors]


def _coloured(image: Bytes) -> Colours:
    return np.repeat(image[:, :, None].astype(np.float64), 3, axis=2)


def _overlay(scan: Colours, face: Scene, frame: Frame) -> Colours:
    """The scan with the template's edges drawn over it: how much of each pixel they cover, of `FINER` squared."""
    hits = face.cast(frame, *pixels(FINER * SIZE), FINER * SIZE)
    edge = hits.found & (hits.barycentric.min(axis=1) < WIRE_WIDTH)
    cover = edge.reshape(SIZE, FINER, SIZE, FINER).mean(axis=(1, 3))[:, :, None]
    return scan + WIRE_OPACITY * cover * (WIRE - scan)


def _interpolated(scene: Scene, hits: Hits, values: Floats) -> Floats:
    corners = values[scene.mesh.triangles[np.maximum(hits.triangle, 0)]]
    return np.where(hits.found, np.einsum("nk,nk->n", hits.barycentric, corners), np.nan)


def _heat(values: Floats) -> Colours:
    """Colours (N, 3) of distances (N,): blue for none, red for `WORST` and beyond, grey for what does not count."""
    place = np.nan_to_num(values).clip(0, WORST) / WORST * (len(STOPS) - 1)
    colours = np.stack([np.interp(place, np.arange(len(STOPS)), STOPS[:, channel]) for channel in range(3)], axis=1)
    return np.where(np.isfinite(values)[:, None], colours, NOT_FACE)


def _dotted(image: Colours, frame: Frame, points: Floats, colour: Floats) -> Colours:
    """The image with a dot of 3 × 3 pixels at each point (L, 3)."""
    place = (points - frame.centre) @ frame.rotation.T / frame.half_width
    columns = np.rint((place[:, 0] + 1) * SIZE / 2 - 0.5).astype(np.int64)
    rows = np.rint((1 - place[:, 1]) * SIZE / 2 - 0.5).astype(np.int64)
    image = image.copy()
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            image[(rows + i).clip(0, SIZE - 1), (columns + j).clip(0, SIZE - 1)] = colour
    return image
