"""What stands in C++ as well as in Python (native/kernels.cpp) gives the same bits, on faces and on what is none."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from meshgan import compiled
from meshgan.data.corpora import lips, motion
from meshgan.data.corpora.basis import face_template
from meshgan.view import raster

TEMPLATE = face_template()
CORNERS = TEMPLATE.triangles.astype(np.uint32)

pytestmark = pytest.mark.skipif(compiled._library() is None, reason="the library was not built")


def faces() -> np.ndarray:
    """Faces that move a little, with lips that overlap, and wrecks: noise, NaN, infinite, far away, one point."""
    rng = np.random.default_rng(0)
    found = TEMPLATE.vertices.astype(np.float32) + rng.normal(0, 0.2, (10, *TEMPLATE.vertices.shape)).astype(np.float32)
    found[2:5, np.unique(motion.contacts().lips.surfaces[0]), 1] -= np.float32(2.5)
    found[5] += rng.normal(0, 5, found[5].shape)
    found[6, ::7], found[7, ::9], found[8] = np.nan, np.inf, found[8] * 1e6
    found[9] = 0
    return found


def of_areas(vertices: np.ndarray) -> tuple[Any, ...]:
    return vertices, CORNERS, np.empty(vertices.shape[:2], np.float32), np.empty_like(vertices)


def of_areas_alone(vertices: np.ndarray) -> tuple[Any, ...]:
    return vertices, CORNERS, np.empty(vertices.shape[:2], np.float32), np.empty((len(vertices), 0, 3), np.float32)


def of_look(vertices: np.ndarray) -> tuple[Any, ...]:
    known, count = motion.contacts().lips, len(vertices)
    found = np.zeros((count, 2)), np.zeros((count, lips.PLACES))
    return vertices[:, known.near].copy(), known._middle, *known._own, np.array([0.25, 0.75]), *found


def of_part(vertices: np.ndarray) -> tuple[Any, ...]:
    known = motion.contacts().lips
    corners = known._middle, *known._own, *known._pressed, known._moving
    return vertices[:, known.near].copy(), *corners, lips.BLUR, known._yields


def of_pull(vertices: np.ndarray) -> tuple[Any, ...]:
    known, rng = motion.contacts().lips, np.random.default_rng(2)
    corner, amounts = rng.normal(-20, 9, (len(vertices), 2)), rng.normal(0, 2, (len(vertices), lips.PLACES))
    return vertices[:, known.near].copy(), known._moving, corner, amounts, lips.BLUR, known._shuts


def of_picture(light: raster.Light, size: int, supersample: int, coloured: bool) -> Callable[..., tuple[Any, ...]]:
    def given(vertices: np.ndarray) -> tuple[Any, ...]:
        points, corners = raster._checked(vertices, TEMPLATE.triangles)
        colours = np.random.default_rng(1).random((points.shape[1], 3)) if coloured else None
        channels, camera = 3 if coloured else len(light.albedo), raster.Camera.framing(TEMPLATE.vertices, 20, 10)
        surface = raster._albedo(light, channels, colours, points.shape[:2])
        images = np.zeros((len(points), size, size, channels), np.uint8)
        place, lamps = camera.projection(size * supersample), light.lamps(camera, channels)
        return points, corners, surface, supersample, place, lamps, light.table(), images

    return given


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (motion._areas, of_areas),
        (motion._areas, of_areas_alone),
        (lips._look, of_look),
        (lips._part, of_part),
        (lips._pull, of_pull),
        (raster.draw, of_picture(raster.LAMBERT, 64, 2, False)),
        (raster.draw, of_picture(raster.CLAY, 96, 3, False)),
        (raster.draw, of_picture(raster.LAMBERT, 60, 4, True)),
    ],
)
def test_the_library_and_numba_give_the_same_bits(function: Any, given: Callable[..., tuple[Any, ...]]) -> None:
    vertices = faces()
    ours, numba = given(vertices), given(vertices)
    assert function._words(list(compiled._flat(ours))) is not None  # so it is the library that is called
    function(*ours)
    function.compiled(*numba)
    before = given(vertices)
    changed = [
        mine.tobytes() != started.tobytes()
        for mine, started in zip(compiled._flat(ours), compiled._flat(before), strict=True)
        if isinstance(mine, np.ndarray)
    ]
    assert any(changed)
    for mine, other in zip(compiled._flat(ours), compiled._flat(numba), strict=True):
        assert not isinstance(mine, np.ndarray) or mine.tobytes() == other.tobytes()


def test_what_the_library_does_not_take_is_left_to_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    took = []
    monkeypatch.setattr(motion._areas, "compiled", lambda *given: took.append(given[0].dtype.name))
    points, corners, areas, normals = of_areas(faces()[:1])
    motion._areas(points, corners, areas, normals)
    assert not took
    motion._areas(points.astype(np.float64), corners, areas, normals)
    motion._areas(points[:, ::-1], corners, areas, normals)  # not contiguous
    monkeypatch.setenv(compiled.CHOICE, "none")
    motion._areas(points, corners, areas, normals)
    assert took == ["float64", "float32", "float32"]


def test_a_face_with_its_rig_and_picture_needs_neither_numba_nor_pytorch() -> None:
    """Importing them takes longer than all the rest."""
    program = (
        "import sys\nfrom meshgan.model.rig import rig\nfrom meshgan.data.corpora.basis import face_template\n"
        "from meshgan.view.raster import render\n"
        "posed = rig(face_template()).posed({'jawOpen': 1.0})\n"
        "render(posed[None], face_template().triangles)\n"
        "print(sorted({'numba', 'torch', 'matplotlib', 'trimesh', 'scipy.spatial'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
