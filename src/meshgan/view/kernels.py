"""The compiled part of the rasteriser: projection, normals, z-buffer, shading. See `raster` for what they compute."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Bytes, Floats, Singles
from meshgan.compiled import compiled

Indices = NDArray[np.int32]
Lamps = tuple[Singles, Singles, Singles, Singles]  # directions (L, 3), strengths (L, C), ambient (C,), background (C,)

SUBPIXEL = 256.0  # positions are snapped to 1/256 of a sample, which makes the edge functions exact
FARTHEST = 2.0**20  # samples from the image's corner; a triangle reaching farther is not drawn
LEVELS = 4096  # entries of the table from linear light to bytes


@compiled(error_model="numpy", forceinline=True)
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
    normals = np.empty((faces.shape[1], 3), np.float32)
    depth = np.empty((samples, samples), np.float32)
    owner = np.empty((samples, samples), np.int32)
    for b in range(len(faces)):
        _project(faces[b], projection, points)
        _normals(faces[b], triangles, normals)
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
def _normals(vertices: Singles, triangles: Indices, normals: Singles) -> None:
    """Area-weighted unit normals (V, 3); triangles that are not finite do not count."""
    normals[:] = 0
    for t in range(len(triangles)):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        ax, ay, az = vertices[j, 0] - x, vertices[j, 1] - y, vertices[j, 2] - z
        bx, by, bz = vertices[k, 0] - x, vertices[k, 1] - y, vertices[k, 2] - z
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        if abs(nx) + abs(ny) + abs(nz) < np.inf:
            for v in (i, j, k):
                normals[v, 0] += nx
                normals[v, 1] += ny
                normals[v, 2] += nz
    for v in range(len(normals)):
        length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2)
        if length > 0:
            for c in range(3):
                normals[v, c] /= length


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
