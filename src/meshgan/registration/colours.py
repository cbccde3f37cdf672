"""A scan's own colours: its texture or those of its vertices, read once, and pictures of it in them.

The face detector was trained on photographs. In a picture of bare shape it guesses where lids, lips and brows are; in
the scan's own colours it sees them.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Bytes, Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.files import read_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.registration.scan import BRIGHTEST, MANY_TRIANGLES, Frame, Hits, Scene, thinned

STRETCHED = 12.0  # times as long in the picture as the median triangle, against its size: it lies across a seam
LONG = 0.05  # of the picture's side: shorter triangles do not lie across a seam
MOST_PIXELS = 2**28  # of a scan's texture
LOOKED_AT = 2**24  # pixels of a texture that are enough to look at; a larger one is sampled
MOST_AGAIN = 2**28  # bytes of a scan that is read once more for its colours
MOST_FILE = 2**29  # bytes of a texture's file
PLAIN = ("image", "baseColorTexture")  # where materials of the readers keep their picture
MATERIAL, PICTURE = re.compile(rb"^\s*mtllib\s+(.+?)\s*$", re.M), re.compile(rb"^\s*map_Kd\s+(.+?)\s*$", re.M | re.I)
IN_PLY = re.compile(rb"^comment\s+TextureFile\s+(.+?)\s*$", re.M | re.I)
HEAD = 2**16  # bytes in which files name what lies beside them
SHADE = 0.5  # of the light in a picture that comes from the shape: colours without any shading look flat


@dataclass(frozen=True, eq=False)
class Painted:
    """A scan with colours: its `mesh` in mm, and for each corner of its triangles a place (F, 3, 2) in `picture`
    (H, W, 3), of which the first row is at v = 1; or `colours` (V, 3) of its vertices, from 0 to 255."""

    mesh: Mesh
    places: Floats | None = None
    picture: Bytes | None = None
    colours: Bytes | None = None

    @cached_property
    def whole(self) -> Booleans:
        """Triangles (F,) that lie in one piece of the picture: those across its seams are stretched over it."""
        if self.places is None:
            return np.ones(len(self.mesh.triangles), dtype=bool)
        corners = self.mesh.vertices[self.mesh.triangles]
        lengths = [
            np.linalg.norm(part - np.roll(part, 1, axis=1), axis=2).max(axis=1) for part in (self.places, corners)
        ]
        stretch = lengths[0] / np.maximum(lengths[1], 1e-9)
        return np.asarray((stretch < STRETCHED * np.median(stretch)) | (lengths[0] < LONG))

    def at(self, triangle: Integers, shares: Floats) -> Floats:
        """The colours (P, 3) at points on triangles (P,), by their barycentric coordinates (P, 3)."""
        if self.picture is None or self.places is None:
            assert self.colours is not None
            return (self.colours[self.mesh.triangles[triangle]] * shares[..., None]).sum(axis=1)
        u, v = ((self.places[triangle] * shares[..., None]).sum(axis=1) % 1.0).T
        height, width = self.picture.shape[:2]
        return _sampled(self.picture, u * width - 0.5, (1 - v) * height - 0.5)

    def around(self, centre: Floats, radius: float) -> "Painted | None":
        """What lies within `radius` of a place (3,), not more than can be looked at; None if that is nothing."""
        inside = np.linalg.norm(self.mesh.vertices - centre, axis=1) < radius
        kept = inside[self.mesh.triangles].all(axis=1)
        if not kept.any():
            return None
        used, renumbered = np.unique(self.mesh.triangles[kept], return_inverse=True)
        part = Painted(
            Mesh(self.mesh.vertices[used], renumbered.reshape(-1, 3)),
            None if self.places is None else self.places[kept],
            self.picture,
            None if self.colours is None else self.colours[used],
        )
        if len(part.mesh.triangles) <= MANY_TRIANGLES:
            return part
        few = thinned(part.mesh)
        nearest = cKDTree(part.mesh.vertices).query(few.vertices)[1]
        return Painted(few, colours=part.of_vertices()[nearest])

    def of_vertices(self) -> Bytes:
        """The colours (V, 3) of the vertices alone."""
        if self.colours is not None:
            return self.colours
        colours = np.zeros((len(self.mesh.vertices), 3), dtype=np.uint8)
        every = np.arange(len(self.mesh.triangles))
        for corner, shares in enumerate(np.eye(3)):
            colours[self.mesh.triangles[:, corner]] = self.at(every, np.broadcast_to(shares, (len(every), 3)))
        return colours


Colours = Callable[[], Painted | None]  # of a scan, asked for where they are needed


class PaintedScene(Scene):
    """A scan to be looked at in its colours, softly lit, from either side of its surface."""

    def __init__(self, painted: Painted) -> None:
        super().__init__(painted.mesh)
        self._painted = painted

    def photograph(self, frame: Frame, size: int) -> tuple[Bytes, Hits]:
        """A picture in colours (size, size, 3) and what each of its pixels (row by row) shows."""
        grey, hits = super().photograph(frame, size)
        seen = np.flatnonzero(hits.found)
        picture = np.zeros((size * size, 3))
        light = 1 - SHADE + SHADE * grey.ravel()[seen, None] / BRIGHTEST
        picture[seen] = light * self._painted.at(hits.triangle[seen], hits.barycentric[seen])
        return picture.reshape(size, size, 3).astype(np.uint8), hits


class ScanColours:
    """The colours of a scan that was read already, asked for when a face is looked for in it.

    One without any is nothing to tell of; why colours that are there cannot be used is its `trouble`.
    """

    def __init__(self, path: Path, unit: str) -> None:
        self.path, self.unit, self.trouble = path, unit, ""

    def __call__(self) -> Painted | None:
        """The colours, or None."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they were told when the shape was read
                large = self.path.stat().st_size > MOST_AGAIN
                return None if large else _painted(self.path, self.unit, LOOKED_AT)
        except (MeshganError, OSError) as error:
            self.trouble = str(error).removeprefix(f"{self.path}").strip(" :.")
        return None


class _Beside(trimesh.resolvers.FilePathResolver):
    """Gives files beside a scan, or below there: no others, no devices, nothing huge."""

    def get(self, name: str) -> bytes:
        """The content of a file that a scan names."""
        for candidate in (name.strip(), name.strip().replace("\\", "/"), re.split(r"[\\/]", name.strip())[-1]):
            path = _within(Path(self.parent), candidate)
            if path is not None:
                return path.read_bytes()
        raise FileNotFoundError(name)


def _within(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, or None if there is none, or it is elsewhere, no plain file or huge."""
    try:
        path = (folder / name).resolve()
        plain = path.is_relative_to(folder.resolve()) and path.is_file() and path.stat().st_size <= MOST_FILE
    except (OSError, ValueError, RuntimeError):
        return None
    return path if plain else None


def colour_files(path: Path) -> list[Path]:
    """The files beside a scan that hold its colours: materials of an OBJ and their pictures, the picture of a PLY."""
    found, folder = [], path.absolute().parent
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
        if path.suffix.lower() == ".ply":
            return [file for name in IN_PLY.findall(head) if (file := _within(folder, name.decode(errors="replace")))]
        for name in MATERIAL.findall(head) if path.suffix.lower() == ".obj" else []:
            if (material := _within(folder, name.decode(errors="replace"))) is not None:
                found.append(material)
                with material.open("rb") as stream:
                    pictures = PICTURE.findall(stream.read(HEAD))
                found += [file for one in pictures if (file := _within(folder, one.decode(errors="replace")))]
    except OSError:
        pass
    return found


def read_painted(path: Path, unit: str) -> Painted | None:
    """A scan with its texture or its vertices' colours; None if it has neither.

    The texture is looked for where the file says, beside it or below. Raises `MeshganError` for a texture that cannot
    be read.
    """
    read_mesh(path, unit)  # by our own reader first, which knows the limits
    return _painted(path, unit, MOST_PIXELS)


def _painted(path: Path, unit: str, enough: int) -> Painted | None:
    """The same of a file that our own reader can read, its texture sampled if it has more than `enough` pixels."""
    if path.suffix.lower() == ".stl":
        return None
    try:
        parts: list[Any] = trimesh.load_scene(path, resolver=_Beside(str(path)), process=False).dump()
        part = max(parts, key=lambda one: len(getattr(one, "faces", ())))
    except Exception as error:
        raise MeshganError(f"{path}: its colours cannot be read; is its material damaged?") from error
    scale = {"mm": 1.0, "cm": 10.0, "m": 1000.0}["m" if path.suffix.lower() == ".glb" else unit]
    mesh = Mesh(np.asarray(part.vertices) * scale, part.faces)
    visual: Any = part.visual
    if visual.kind == "texture" and visual.uv is not None and len(visual.uv) == len(mesh.vertices):
        image = next((found for name in PLAIN if (found := getattr(visual.material, name, None)) is not None), None)
        if image is None:
            return None
        places = np.asarray(visual.uv, dtype=np.float64)[mesh.triangles]
        return Painted(mesh, np.nan_to_num(places, posinf=0.0, neginf=0.0), _picture(path, image, enough))
    if visual.kind == "vertex":
        return Painted(mesh, colours=np.asarray(visual.vertex_colors)[:, :3])
    return None


def _picture(path: Path, image: Any, enough: int) -> Bytes:
    """The pixels (H, W, 3) of a texture, or every second, third, … one where they are more than `enough`."""
    try:
        if image.width * image.height > MOST_PIXELS:
            raise MeshganError(f"{path}: its texture of {image.width} by {image.height} pixels is too large.")
        step = int(np.ceil(np.sqrt(image.width * image.height / enough)))
        if step > 1:
            image.draft("RGB", (image.width // step, image.height // step))  # a JPEG is not unpacked whole
            step = int(np.ceil(np.sqrt(image.width * image.height / enough)))
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[::step, ::step])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MeshganError(f"{path}: its texture cannot be read; is the picture damaged?") from error


def _sampled(picture: Bytes, x: Floats, y: Floats) -> Floats:
    """Colours (P, 3) at places in pixels, interpolated between the four around."""
    height, width = picture.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.minimum(x.astype(np.int64), width - 2), np.minimum(y.astype(np.int64), height - 2)
    if width < 2 or height < 2:
        return picture[np.round(y).astype(int), np.round(x).astype(int)].astype(np.float64)
    right, down = (x - left)[:, None], (y - top)[:, None]
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)
