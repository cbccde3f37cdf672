"""Lambertian images of many meshes of one connectivity: a z-buffer on the CPU, orthographic, anti-aliased.

Radiance of a surface point with unit normal n: albedo · (ambient + Σ strength · max(0, n · direction)), summed
over directional lights that are fixed to the camera. Normals are area-weighted vertex normals, interpolated over
each triangle and normalised again. Samples of a pixel are averaged as linear light, then encoded.

Camera space: x to the viewer's right, y up, z towards the viewer; millimetres. Pixel (0, 0) is at the top left.
Triangles seen from behind (the inside of an open face) hide what lies behind them and receive ambient light only.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Bytes, Floats, Singles
from meshgan.compiled import compiled
from meshgan.geometry.mesh import surround

Colour = tuple[float, float, float]

Indices = NDArray[np.int32]
Lamps = tuple[Singles, Singles, Singles, Singles]  # directions (L, 3), strengths (L, C), ambient (C,), background (C,)

SUBPIXEL = 256.0  # positions are snapped to 1/256 of a sample, which makes the edge functions exact
FARTHEST = 2.0**20  # samples from the image's corner; a triangle reaching farther is not drawn
LEVELS = 4096  # entries of the table from linear light to bytes


@dataclass(frozen=True)
class Camera:
    """An orthographic camera. The image is square and `width_mm` wide: `width_mm / size` millimetres a pixel.

    `centre` (mm) is the point of the scene in the middle of the image. `yaw` and `pitch` (degrees) turn the scene
    about it: a positive yaw makes the face look to the viewer's right, a positive pitch up.
    """

    width_mm: float = 240.0
    centre: Colour = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    pitch: float = 0.0

    @classmethod
    def frontal(cls, template: ArrayLike) -> "Camera":
        """The camera of all measurements on images of faces of a template (V, 3): before the middle of its box.

        240 mm wide, 3.75 mm a pixel at 64×64; wider only where the template takes more than five sixths of that.
        """
        vertices = np.asarray(template, dtype=np.float64)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        x, y, z = (low + high) / 2
        return cls(max(cls.width_mm, 1.2 * float((high - low)[:2].max())), (float(x), float(y), float(z)))

    @classmethod
    def framing(cls, vertices: ArrayLike, yaw: float = 0.0, pitch: float = 0.0, margin: float = 1.08) -> "Camera":
        """The camera turned by `yaw` and `pitch` that shows faces (V, 3) or (N, V, 3) with some air around them.

        All of every face is in the picture, but for strays far outside the median face's bounding box.
        """
        faces = np.asarray(vertices, dtype=np.float64)
        turned = faces.reshape(-1, *faces.shape[-2:]) @ cls(yaw=yaw, pitch=pitch).rotation.T
        turned = turned[np.isfinite(turned).all(axis=(1, 2))]
        if not turned.size:
            return cls(yaw=yaw, pitch=pitch)
        low, high = _common_box(turned)
        width = float((high - low)[:2].max()) * margin
        x, y, z = cls(yaw=yaw, pitch=pitch).rotation.T @ ((low + high) / 2)
        return cls(width if width > 0 else cls.width_mm, (float(x), float(y), float(z)), yaw, pitch)

    @property
    def rotation(self) -> Floats:
        """Rotation (3, 3) from the scene to camera space: yaw about y, then pitch about x."""
        (cy, cp), (sy, sp) = (f(np.radians([self.yaw, self.pitch])) for f in (np.cos, np.sin))
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        return about_x @ about_y

    def projection(self, samples: int) -> tuple[Singles, Singles]:
        """Matrix (3, 3) and offset (3,) from the scene (mm) to columns, rows and depth, in samples; near is large."""
        scale = samples / self.width_mm
        matrix = np.diag([scale, -scale, scale]) @ self.rotation
        offset = np.array([samples / 2, samples / 2, 0.0]) - matrix @ np.array(self.centre)
        return matrix.astype(np.float32), offset.astype(np.float32)


@dataclass(frozen=True)
class Light:
    """Directional lights fixed to the camera, ambient light, the surface's albedo and the background.

    `directions` point towards each light; `strengths`, `ambient`, `albedo` and `background` are linear and have
    one value (grey images) or three (RGB images). `srgb` encodes the result for display; without it, linear
    light in [0, 1] is stored as it is.
    """

    directions: tuple[Colour, ...]
    strengths: tuple[tuple[float, ...], ...]
    ambient: tuple[float, ...]
    albedo: tuple[float, ...]
    background: tuple[float, ...]
    srgb: bool

    def lamps(self, camera: Camera, channels: int) -> Lamps:
        """Unit directions (L, 3) in the scene, strengths (L, C), ambient (C,) and background (C,), for the kernels."""
        towards = np.array(self.directions) @ camera.rotation
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        strengths = np.broadcast_to(np.array(self.strengths), (len(towards), channels))
        ambient, background = (np.broadcast_to(np.array(c), channels) for c in (self.ambient, self.background))
        return _single(towards), _single(strengths), _single(ambient), _single(background)

    def table(self) -> Bytes:
        """Bytes for the linear levels 0 … 1."""
        linear = np.linspace(0, 1, LEVELS)
        return np.round(255 * (encoded(linear) if self.srgb else linear)).astype(np.uint8)


# The fixed view of everything that is measured on images (see `Camera.frontal`): one light beside the viewer's right
# shoulder, no ambient light, black behind, stored as linear light.
FRONTAL = Camera()
LAMBERT = Light(
    directions=((0.3, 0.4, 1.0),), strengths=((1.0,),), ambient=(0.0,), albedo=(1.0,), background=(0.0,), srgb=False
)

# Stills: warm key light from the upper left, cool fill from the right, a rim from above, on clay before white.
CLAY = Light(
    directions=((-0.55, 0.65, 0.85), (0.9, 0.1, 0.6), (0.0, 1.0, -0.25), (0.0, -1.0, 0.35)),
    strengths=((0.86, 0.83, 0.79), (0.22, 0.25, 0.29), (0.26, 0.26, 0.27), (0.06, 0.05, 0.05)),
    ambient=(0.09, 0.095, 0.105),
    albedo=(0.66, 0.62, 0.59),
    background=(1.0, 1.0, 1.0),
    srgb=True,
)


def render(
    vertices: ArrayLike,
    triangles: ArrayLike,
    size: int = 64,
    supersample: int = 2,
    camera: Camera = FRONTAL,
    light: Light = LAMBERT,
    colours: ArrayLike | None = None,
    threads: int | None = None,
) -> Bytes:
    """Draw meshes (B, V, 3) in millimetres that share `triangles` (F, 3), each as one square image.

    Every pixel averages `supersample`² samples. `colours` (V, 3) or (B, V, 3), sRGB in [0, 1], replace the light's
    albedo. Returns (B, size, size) for grey light without colours, else (B, size, size, 3). Vertices that are NaN,
    infinite or absurdly far away take their triangles with them. The batch is shared among `threads` (default: one
    for each core); the result does not depend on their number.
    """
    faces, corners = _checked(vertices, triangles)
    channels = 3 if colours is not None else len(light.albedo)
    albedo = _albedo(light, channels, colours, faces.shape[:2])
    projection = camera.projection(size * supersample)
    lamps, table = light.lamps(camera, channels), light.table()
    images = np.empty((len(faces), size, size, channels), dtype=np.uint8)

    def draw_rows(rows: slice) -> None:
        surface = albedo[rows] if len(albedo) == len(faces) else albedo
        draw(faces[rows], corners, surface, supersample, projection, lamps, table, images[rows])

    _share(draw_rows, len(faces), threads)
    return images[..., 0] if channels == 1 else images


def _common_box(faces: Floats) -> tuple[Floats, Floats]:
    """Corners (3,) of the box that holds all faces (N, V, 3), but at most 0.3 of the median box more on each side."""
    lows, highs = faces.min(axis=1), faces.max(axis=1)
    low, high = np.median(lows, axis=0), np.median(highs, axis=0)
    room = 0.3 * (high - low)
    return np.maximum(lows.min(axis=0), low - room), np.minimum(highs.max(axis=0), high + room)


def _single(values: NDArray[Any]) -> Singles:
    return np.array(values, dtype=np.float32, order="C")


def encoded(linear: ArrayLike) -> Floats:
    """sRGB in [0, 1] of linear light in [0, 1] (IEC 61966-2-1)."""
    light = np.asarray(linear, dtype=np.float64)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def decoded(shown: ArrayLike) -> Floats:
    """Linear light in [0, 1] of sRGB in [0, 1]."""
    srgb = np.asarray(shown, dtype=np.float64)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _checked(vertices: ArrayLike, triangles: ArrayLike) -> tuple[Singles, Indices]:
    faces = np.ascontiguousarray(vertices, dtype=np.float32).view()
    faces.flags.writeable = False  # as a memory-mapped FaceSet's are: one type, compiled once
    corners = np.ascontiguousarray(triangles, dtype=np.int32).reshape(-1, 3)
    if faces.ndim != 3 or faces.shape[2] != 3:
        raise ValueError(f"render needs vertices of shape (B, V, 3), not {faces.shape}")
    if corners.size and (corners.min() < 0 or corners.max() >= faces.shape[1]):
        raise ValueError("triangles point outside the vertices")
    return faces, corners


def _albedo(light: Light, channels: int, colours: ArrayLike | None, shape: tuple[int, ...]) -> Singles:
    """Linear albedo (1, 1, C), (1, V, 3) or (B, V, 3); a length of one stands for every mesh or vertex."""
    if colours is None:
        return np.array(light.albedo, dtype=np.float32).reshape(1, 1, channels)
    linear = _single(decoded(np.clip(colours, 0, 1)))
    linear = linear.reshape(-1, *linear.shape[-2:])
    if linear.shape[0] not in (1, shape[0]) or linear.shape[1:] != (shape[1], 3):
        raise ValueError(f"colours of shape {np.shape(colours)} do not fit {shape[0]} meshes of {shape[1]} vertices")
    return linear


def _share(draw: Callable[[slice], None], count: int, threads: int | None) -> None:
    """Call `draw` on slices that cover `count` meshes, in parallel."""
    workers = min(threads or os.cpu_count() or 1, count)
    if workers <= 1:
        draw(slice(0, count))
        return
    bounds = np.linspace(0, count, workers + 1).astype(int)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(draw, map(slice, bounds[:-1], bounds[1:])))


@compiled(native="draw f4:3 i4:2 f4:3 n f4:2 f4:1 f4:2 f4:2 f4:1 f4:1 u1:1 u1:4", error_model="numpy", forceinline=True)
def draw(
    faces: Singles,
    triangles: Indices,
    albedo: Singles,
    supersample: int,
    projection: tuple[Singles, Singles],
    lamps: Lamps,
    table: Bytes,
    images: Bytes,
) -> None:
    """Fill `images` (B, S, S, C) with one image of each of `faces` (B, V, 3)."""
    samples = images.shape[1] * supersample
    points = np.empty((faces.shape[1], 3), np.float64)
    normals, no_areas = np.empty((faces.shape[1], 3), np.float32), np.empty(0, np.float32)
    depth = np.empty((samples, samples), np.float32)
    owner = np.empty((samples, samples), np.int32)
    for b in range(len(faces)):
        _project(faces[b], projection, points)
        surround(faces[b], triangles, no_areas, normals)
        depth[:] = -np.inf
        owner[:] = -1
        _cover(points, triangles, depth, owner)
        surface = albedo[b if len(albedo) > 1 else 0]
        _shade(points, normals, triangles, owner, surface, supersample, lamps, table, images[b])


@compiled(error_model="numpy", forceinline=True)
def _project(vertices: Singles, projection: tuple[Singles, Singles], points: Floats) -> None:
    """Columns and rows (snapped to the sub-pixel grid) and depth; a vertex out of range becomes NaN."""
    matrix, offset = projection
    for v in range(len(vertices)):
        for c in range(3):
            value = offset[c]
            for d in range(3):
                value += matrix[c, d] * vertices[v, d]
            if abs(value) < FARTHEST:
                points[v, c] = np.rint(value * SUBPIXEL) / SUBPIXEL if c < 2 else value
            else:
                points[v, c] = np.nan


@compiled(error_model="numpy", forceinline=True)
def _cover(points: Floats, triangles: Indices, depth: Singles, owner: Indices) -> None:
    """The z-buffer: for each sample (at half-integer columns and rows) the nearest triangle, or -1."""
    last = len(owner) - 1
    for t in range(len(triangles)):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        xi, yi, xj, yj, xk, yk = points[i, 0], points[i, 1], points[j, 0], points[j, 1], points[k, 0], points[k, 1]
        area = (xj - xi) * (yk - yi) - (xk - xi) * (yj - yi)
        zi, zj, zk = points[i, 2], points[j, 2], points[k, 2]
        if not abs(area) > 0 or np.isnan(zi + zj + zk):  # without area on the screen, or NaN
            continue
        left, right = max(0, int(np.ceil(min(xi, xj, xk) - 0.5))), min(last, int(np.floor(max(xi, xj, xk) - 0.5)))
        top, bottom = max(0, int(np.ceil(min(yi, yj, yk) - 0.5))), min(last, int(np.floor(max(yi, yj, yk) - 0.5)))
        # Edge functions: twice the area of the part opposite each corner, positive inside. Snapping makes them
        # exact, so that two triangles never leave a gap between them.
        sign = 1.0 if area > 0 else -1.0
        across_i, down_i = sign * (yj - yk), sign * (xk - xj)
        across_j, down_j = sign * (yk - yi), sign * (xi - xk)
        across_k, down_k = sign * (yi - yj), sign * (xj - xi)
        slope_j, slope_k = (zj - zi) / abs(area), (zk - zi) / abs(area)
        for row in range(top, bottom + 1):
            x, y = left + 0.5, row + 0.5
            wi = across_i * (x - xj) + down_i * (y - yj)
            wj = across_j * (x - xk) + down_j * (y - yk)
            wk = across_k * (x - xi) + down_k * (y - yi)
            for column in range(left, right + 1):
                if wi >= 0 and wj >= 0 and wk >= 0:
                    z = np.float32(zi + wj * slope_j + wk * slope_k)
                    if z > depth[row, column]:
                        depth[row, column] = z
                        owner[row, column] = t
                wi += across_i
                wj += across_j
                wk += across_k


@compiled(error_model="numpy", forceinline=True)
def _shade(
    points: Floats,
    normals: Singles,
    triangles: Indices,
    owner: Indices,
    albedo: Singles,
    supersample: int,
    lamps: Lamps,
    table: Bytes,
    image: Bytes,
) -> None:
    """Light the visible samples, average them over each pixel, encode.

    Successive samples of a pixel that see the same triangle are lit once, in their middle: coverage has the full
    resolution, and large stills take a fraction of the time.
    """
    channels, background = image.shape[2], lamps[3]
    pixel, sample = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            top, left = row * supersample, column * supersample
            bottom, right = top + supersample - 1, left + supersample - 1
            pixel[:] = 0
            alike, across, down = 0, 0, 0
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    t = owner[y, x]
                    alike, across, down = alike + 1, across + x, down + y
                    if (x < right and owner[y, x + 1] == t) or (x == right and y < bottom and owner[y + 1, left] == t):
                        continue
                    weight = np.float32(alike)
                    if t < 0:
                        for c in range(channels):
                            pixel[c] += weight * background[c]
                    else:
                        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                        middle = (across / weight + 0.5, down / weight + 0.5)
                        _light(middle, i, j, k, points, normals, albedo, lamps, sample)
                        for c in range(channels):
                            pixel[c] += weight * sample[c]
                    alike, across, down = 0, 0, 0
            for c in range(channels):
                linear = min(pixel[c] / (supersample * supersample), 1.0)
                image[row, column, c] = table[int(linear * (LEVELS - 1) + 0.5)]


@compiled(error_model="numpy", forceinline=True)
def _light(
    at: tuple[np.floating[Any], np.floating[Any]],
    i: int,
    j: int,
    k: int,
    points: Floats,
    normals: Singles,
    albedo: Singles,
    lamps: Lamps,
    radiance: Singles,
) -> None:
    """Write the radiance (C,) of the point at (column, row), which lies in triangle (i, j, k)."""
    directions, strengths, ambient, _ = lamps
    px, py = at[0] - points[i, 0], at[1] - points[i, 1]
    ax, ay = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1]
    bx, by = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1]
    area = ax * by - bx * ay
    wj, wk = np.float32((px * by - bx * py) / area), np.float32((ax * py - px * ay) / area)
    wi = np.float32(1) - wj - wk
    nx = wi * normals[i, 0] + wj * normals[j, 0] + wk * normals[k, 0]
    ny = wi * normals[i, 1] + wj * normals[j, 1] + wk * normals[k, 1]
    nz = wi * normals[i, 2] + wj * normals[j, 2] + wk * normals[k, 2]
    square = nx * nx + ny * ny + nz * nz
    for c in range(len(radiance)):
        radiance[c] = ambient[c]
    if area < 0 and square > 0:  # counter-clockwise seen from the front; rows grow downwards
        scale = np.float32(1) / np.sqrt(square)
        for lamp in range(len(directions)):
            cosine = scale * (nx * directions[lamp, 0] + ny * directions[lamp, 1] + nz * directions[lamp, 2])
            if cosine > 0:
                for c in range(len(radiance)):
                    radiance[c] += cosine * strengths[lamp, c]
    for c in range(len(radiance)):
        if len(albedo) == 1:
            radiance[c] *= albedo[0, c]
        else:
            radiance[c] *= wi * albedo[i, c] + wj * albedo[j, c] + wk * albedo[k, c]
