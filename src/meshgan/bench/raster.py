"""How fast pictures are drawn: 64×64 images for measurement and 512×512 stills, of a mesh as large as the template."""

import time
from typing import Any

import numpy as np

from meshgan.arrays import Integers, Singles
from meshgan.view.raster import CLAY, render

SIDE = 71  # 5,041 vertices, 9,800 triangles; the template has 5,036
FLOOR = 1000.0  # images a second, 64×64 with 2×2 samples a pixel, on one core
IMAGES, STILLS, ROUNDS = 256, 8, 3


def run() -> dict[str, Any]:
    """Images and stills a second, the best of three rounds; prints them. Compilation is timed apart."""
    faces, triangles = bumpy_faces(IMAGES)
    start = time.perf_counter()
    render(faces[:1], triangles, threads=1)
    render(faces[:1], triangles, 64, 2, light=CLAY, threads=1)
    result = {
        "vertices": SIDE**2,
        "triangles": len(triangles),
        "first_call_s": time.perf_counter() - start,
        "images_per_s_one_core": _rate(lambda: render(faces, triangles, 64, 2, threads=1), IMAGES),
        "images_per_s_two_cores": _rate(lambda: render(faces, triangles, 64, 2, threads=2), IMAGES),
        "stills_per_s_one_core": _rate(
            lambda: render(faces[:STILLS], triangles, 512, 4, light=CLAY, threads=1), STILLS
        ),
        "stills_per_s_two_cores": _rate(
            lambda: render(faces[:STILLS], triangles, 512, 4, light=CLAY, threads=2), STILLS
        ),
        "floor_images_per_s_one_core": FLOOR,
    }
    result["above_floor"] = result["images_per_s_one_core"] >= FLOOR
    _show(result)
    return result


def bumpy_faces(count: int) -> tuple[Singles, Integers]:
    """Half ellipsoids with a nose, as large as faces: (count, V, 3) in mm, and their triangles."""
    u, v = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE)))
    depth = 60 * np.sqrt(np.maximum(0, 2.1 - u**2 - v**2)) + 25 * np.exp(-((u / 0.15) ** 2) - (v / 0.3) ** 2)
    face = np.stack([75 * u, 100 * v, depth - 60], axis=1)
    scale = np.random.default_rng(0).uniform(0.9, 1.1, size=(count, 1, 3))
    cells = np.arange(SIDE**2).reshape(SIDE, SIDE)
    a, b, c, d = (part.ravel() for part in (cells[:-1, :-1], cells[:-1, 1:], cells[1:, 1:], cells[1:, :-1]))
    triangles = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return (face * scale).astype(np.float32), triangles


def _rate(work: Any, count: int) -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def _show(result: dict[str, Any]) -> None:
    print(f"{result['vertices']} vertices, {result['triangles']} triangles; first calls {result['first_call_s']:.1f} s")
    for cores in ("one core", "two cores"):
        images, stills = (result[f"{kind}_per_s_{cores.replace(' ', '_')}"] for kind in ("images", "stills"))
        print(f"{cores:10} {images:7.0f} images/s (64×64, 2×2)   {stills:6.1f} stills/s (512×512, 4×4)")
    print(f"floor {FLOOR:.0f} images/s on one core: {'held' if result['above_floor'] else 'MISSED'}")
