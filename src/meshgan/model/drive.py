"""A performance, weights of the 52 shapes over time, on a face: an animated GLB, and pictures that move.

Read are tables in the format of Live Link Face (CSV with a time code, Apple's names with capitals, and angles of the
head in radians), any CSV with Apple's names or visemes as columns, and JSON: a list of frames, or a matrix of weights
with its names (as Audio2Face writes it).
"""

import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from meshgan.arrays import Bytes, Floats
from meshgan.errors import MeshganError, MeshganWarning, UsageError, missing_extra
from meshgan.geometry.files import write_glb
from meshgan.geometry.glb import METRES, Animation
from meshgan.model.rig import ARKIT, VISEMES, Rig, rigger_of
from meshgan.progress import counted, track
from meshgan.reading import read_json, read_table, shown
from meshgan.storage import atomic_file
from meshgan.view.figures import tiles, worn
from meshgan.view.raster import Camera

FPS = 60.0  # of Live Link Face, where nothing else is said
RATES = (24.0, 25.0, 30.0, 50.0, 60.0, 120.0)  # that the frames of a time code may count
MOST_FRAMES = 100_000
MOST_BYTES = 2**28
MOST_SECONDS = 1e10  # since 1970 or any other moment
MOST_WEIGHT = 5.0  # beyond, a number is no weight
HEAD = ("headYaw", "headPitch", "headRoll")
TIMES = ("time", "timestamp", "seconds")
TIMECODE = re.compile(r"(\d+):(\d+):(\d+)[:;](\d+(?:\.\d+)?)")
# Columns of Live Link Face and others that say nothing about the shapes.
PASSED_OVER = {"timecode", "blendshapecount", "frame", "framenumber", *TIMES} | {
    f"{side}eye{way}" for side in ("left", "right") for way in ("yaw", "pitch", "roll")
}
KNOWN = {name.lower(): name for name in (*ARKIT, *VISEMES, *HEAD)}
PREVIEW_FPS, PREVIEW_SIZE, MOST_PREVIEWED = 20.0, 320, 1200  # pictures
FRAMED = 32  # of them tell how far the head goes
PREVIEWS = (".gif", ".mp4")
VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")  # `registration.landmarks.read_video` reads them


@dataclass(frozen=True, eq=False)
class Performance:
    """`weights` (T, 52) of the shapes, in the order of `ARKIT`, and turns of the `head` (T, 3), yaw, pitch and roll in
    radians, at `times` (T,) in seconds from 0 on."""

    times: Floats
    weights: Floats
    head: Floats

    @property
    def rotations(self) -> Rotation:
        """The turns of the head: yaw about y towards the person's left, pitch about x downwards, roll about z."""
        return Rotation.from_euler("YXZ", self.head)

    def at(self, times: Floats) -> "Performance":
        """The performance at other times, linear in between."""
        columns = [np.interp(times, self.times, column) for column in np.hstack([self.weights, self.head]).T]
        both = np.stack(columns, axis=1)
        return Performance(times, both[:, : len(ARKIT)], both[:, len(ARKIT) :])


def read_performance(path: Path, fps: float | None = None) -> Performance:
    """The performance in a CSV or JSON file; `fps` counts where the file has no times, and no rate.

    Raises `UsageError` for names that are no shapes and `MeshganError` for what is no weight, each with its place.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".json"):
        raise UsageError(
            f"{path}: weights over time are read from .csv and .json files, and from videos (.mp4, .mov, …)."
        )
    if ending == ".csv":
        frames, times = _of_table(path, fps)
    else:
        frames, times, rate = _of_json(path)
        fps = fps or rate
    seen = [row for row, frame in enumerate(frames) if frame]
    if not seen:
        raise MeshganError(f"{path} holds no frame.")
    if len(frames) > MOST_FRAMES:
        raise MeshganError(f"{path} holds {counted(len(frames), 'frame')}; at most {MOST_FRAMES:,} are read.")
    if times is None:
        times = np.array(seen) / (fps or FPS)
    if not np.isfinite(times).all() or np.abs(times).max() > MOST_SECONDS:
        raise MeshganError(f"{path} has times beyond {MOST_SECONDS:g} seconds; give them in seconds.")
    if (np.diff(times) <= 0).any():
        late = seen[int(np.argmax(np.diff(times) <= 0)) + 1] + 1
        raise MeshganError(f"{path}: the time of frame {late} is not after that of the frame before.")
    if len(seen) < len(frames):
        gone = counted(len(frames) - len(seen), "frame")
        warnings.warn(f"{path}: bridged {gone} without a face.", MeshganWarning, stacklevel=2)
    weights, head = np.zeros((len(seen), len(ARKIT))), np.zeros((len(seen), 3))
    for row, place in enumerate(seen):
        for name, value in frames[place].items():
            if name in HEAD:
                head[row, HEAD.index(name)] = value
            else:
                for shape, share in VISEMES.get(name, {name: 1.0}).items():
                    weights[row, ARKIT.index(shape)] += share * value
    return Performance(times - times[0], weights, head)


def _of_table(path: Path, fps: float | None) -> tuple[list[dict[str, float]], Floats | None]:
    """The weights of each frame, none where no face was seen, and when the others were, where the table says it."""
    rows = read_table(path, (), MOST_BYTES)
    if not rows:
        raise MeshganError(f"{path} holds no frame.")
    columns = {column: _name(column, path) for column in rows[0]}
    if not any(name in KNOWN.values() for name in columns.values()):
        raise UsageError(f"{path} has no column with the name of a shape, {ARKIT[0]} for example.")
    count = next((column for column in columns if _key(column) == "blendshapecount"), None)
    frames = [
        {}
        if count is not None and row[count].strip() in ("0", "")
        else {name: _weight(row[column], name, f"{path}: frame {number}") for column, name in columns.items() if name}
        for number, row in enumerate(rows, start=1)
    ]
    return frames, _times([row for row, frame in zip(rows, frames, strict=True) if frame], path, fps)


def _times(rows: Sequence[Mapping[str, str]], path: Path, fps: float | None) -> Floats | None:
    """The times in seconds (T,) that a table has, if it has any.

    How many frames a second has is what a time code of a second or more has counted up to.
    """
    if not rows:
        return None
    for column in rows[0]:
        if _key(column) in TIMES:
            return np.array([_weight(row[column], "", f"{path}: frame {i}") for i, row in enumerate(rows, start=1)])
        if _key(column) == "timecode":
            found = [TIMECODE.fullmatch(row[column].strip()) for row in rows]
            if None in found:
                bad = found.index(None)
                raise MeshganError(
                    f"{path}: frame {bad + 1} has the time code '{shown(rows[bad][column][:40])}', which is none."
                )
            parts = np.array([[float(part) for part in match.groups()] for match in found if match])
            whole = parts[:, :3] @ [3600.0, 60.0, 1.0]
            usual = next((rate for rate in RATES if parts[:, 3].max() < rate), FPS)
            rate = fps or (usual if np.ptp(whole) > 1 else max(FPS, usual))
            return np.asarray(whole + parts[:, 3] / rate)
    return None


def _of_json(path: Path) -> tuple[list[dict[str, float]], Floats | None, float | None]:
    """The weights of each frame, when those with any were, and how many a second there are, where the file says it.

    Shapes that a frame leaves out are at rest there; a frame without any saw no face.
    """
    found = read_json(path, MOST_BYTES)
    rate: Any = None
    if isinstance(found, dict):
        rate = next((found[key] for key in ("fps", "exportFps", "frameRate") if key in found), None)
        if rate is not None and (type(rate) not in (int, float) or not 1 <= rate <= 1000):
            raise MeshganError(f"{path}: a rate is a number of frames a second, not {shown(str(rate)[:40])}.")
        names = next((found[key] for key in ("names", "facsNames") if key in found), None)
        matrix = next((found[key] for key in ("weights", "weightMat") if key in found), None)
        if isinstance(names, list) and isinstance(matrix, list):
            for number, row in enumerate(matrix, start=1):
                if not isinstance(row, list) or len(row) != len(names):
                    raise MeshganError(f"{path}: frame {number} needs a weight for each of the {len(names)} names.")
            found = [dict(zip(map(str, names), row, strict=True)) for row in matrix]
        else:
            found = found.get("frames")
    if not isinstance(found, list) or not all(isinstance(frame, dict) for frame in found):
        raise UsageError(f'{path} holds no list of frames, as in [{{"jawOpen": 0.5}}, …]; see docs/heads.md.')
    frames, times = [], []
    for number, frame in enumerate(found, start=1):
        inner = next((frame[key] for key in ("blendshapes", "blendShapes", "weights") if key in frame), None)
        flat = {**frame, **inner} if isinstance(inner, dict) else frame
        times += [_weight(value, "", f"{path}: frame {number}") for key, value in flat.items() if _key(key) in TIMES]
        named = {_name(key, path): value for key, value in flat.items() if value is not inner}
        frames.append({name: _weight(value, name, f"{path}: frame {number}") for name, value in named.items() if name})
    if times and len(times) != len(frames):
        raise MeshganError(
            f"{path} has times for {len(times)} of {counted(len(frames), 'frame')} only; give each one, or none."
        )
    return frames, np.array([time for time, frame in zip(times, frames, strict=True) if frame]) if times else None, rate


def _key(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def _name(column: str, path: Path) -> str:
    """Apple's name of a column, whatever its capitals, or '' for one that is passed over."""
    key = _key(column)
    plain = {_key(name): name for name in KNOWN.values()}
    if key in plain:
        return plain[key]
    if key in PASSED_OVER:
        return ""
    near = difflib.get_close_matches(key, plain, 1)
    hint = f"; did you mean {plain[near[0]]}?" if near else "; rename the column, or leave it out."
    raise UsageError(f"{path}: '{shown(column[:40])}' is no shape of ARKit and no viseme{hint}")


def _weight(value: Any, name: str, where: str) -> float:
    """A finite number; that of a shape is a weight."""
    what = name or "the time"
    if value is None or value == "":
        raise MeshganError(f"{where} has no number for {what}; fill the gap or leave the frame out.")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise MeshganError(f"{where} has '{shown(str(value)[:20])}' for {what}, which is no number.") from error
    if not np.isfinite(number) or (name and abs(number) > MOST_WEIGHT):
        raise MeshganError(f"{where} has {number:g} for {what}; weights lie between 0 and 1.")
    return number


def pivot(rig: Rig) -> Floats:
    """What the head (3,) turns about, in mm: a point between the joints of the jaw."""
    return rigger_of(len(rig.mesh.vertices)).pivot(rig.mesh.vertices)


def write_driven(path: Path, rig: Rig, played: Performance, picture: bytes = b"") -> None:
    """Write the animated GLB of a rig with the 52 shapes."""
    weights = played.weights[:, [ARKIT.index(name) for name in rig.targets]]
    turning = played.rotations.as_quat() if np.abs(played.head).max(initial=0) > 0 else None
    animation = Animation(played.times, weights, turning, pivot(rig) * METRES)
    write_glb(path, rig.mesh, rig.targets, name=path.stem, layout=rig.layout, picture=picture, animation=animation)


def write_preview(path: Path, rig: Rig, played: Performance) -> None:
    """Write the performance as a GIF or MP4 of at most `MOST_PREVIEWED` pictures."""
    if path.suffix.lower() not in PREVIEWS:
        raise UsageError(f"{path}: previews end in {' or '.join(PREVIEWS)}.")
    count = int(np.clip(round(played.times[-1] * PREVIEW_FPS) + 1, 1, MOST_PREVIEWED))
    shown_at = played.at(np.arange(count) / PREVIEW_FPS)
    targets = np.stack([rig.targets[name] for name in ARKIT]).reshape(len(ARKIT), -1)
    middle, turns = pivot(rig), shown_at.rotations.as_matrix()
    colour = worn(rig.layout)

    def moved(row: int) -> Floats:
        vertices = rig.mesh.vertices + (shown_at.weights[row] @ targets).reshape(-1, 3)
        return np.asarray((vertices - middle) @ turns[row].T + middle)

    some = np.unique(np.linspace(0, count - 1, min(count, FRAMED)).astype(int))
    camera = Camera.framing(np.stack([rig.mesh.vertices, *map(moved, some)]), yaw=12.0, margin=1.1)
    pictures = [
        tiles(moved(row)[None], rig.mesh.triangles, PREVIEW_SIZE, camera=camera, colour=colour)[0]
        for row in track(range(count), "Drawing")
    ]
    with atomic_file(path) as partial:
        (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(partial, pictures)


def _write_gif(path: Path, pictures: Sequence[Bytes]) -> None:
    first, *others = [Image.fromarray(picture).quantize(96, dither=Image.Dither.NONE) for picture in pictures]
    first.save(path, "GIF", save_all=True, append_images=others, duration=round(1000 / PREVIEW_FPS), loop=0)


def _write_mp4(path: Path, pictures: Sequence[Bytes]) -> None:
    try:
        import cv2
    except ImportError as error:
        raise missing_extra("an MP4", "landmarks", "; or end the name in .gif") from error
    with TemporaryDirectory(prefix="meshgan-") as folder:  # OpenCV goes by the ending, and tells nobody of a full disk
        named = Path(folder) / "preview.mp4"
        video = cv2.VideoWriter(str(named), cv2.VideoWriter.fourcc(*"mp4v"), PREVIEW_FPS, (PREVIEW_SIZE, PREVIEW_SIZE))
        try:
            for picture in pictures:
                video.write(picture[..., ::-1])
        finally:
            video.release()
        path.write_bytes(named.read_bytes())
