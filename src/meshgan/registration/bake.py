"""A scan's texture, or the colours of its vertices, on the layout of the face template: a picture for each face.

Each pixel of the layout is a point of the registered face; its colour is that of the scan's surface nearest to it.
Where no scan is near (holes, the inside of a mouth) colours come from around, and every part is widened by some
pixels, so that no seam shows when a viewer makes the picture smaller.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from meshgan.arrays import Booleans, Bytes, Floats, Integers
from meshgan.compiled import compiled
from meshgan.errors import MeshganError, MeshganWarning, UsageError
from meshgan.geometry.mesh import Layout, Mesh
from meshgan.geometry.surface import closest_points
from meshgan.registration.colours import Painted

SMALLEST, LARGEST = 64, 8192  # pixels on a side
NEAR_MM = 6.0  # the scan's surface, or there is none
TURNED = 0.2  # the cosine between the normals of face and scan below which the scan shows its other side
BLOCK = 2**18  # pixels at a time
GREY = 180


def bake(face: Mesh, layout: Layout, scan: Painted, size: int, near: float = NEAR_MM) -> Bytes:
    """The picture (size, size, 3) of a face that lies in its scan, with the colours of the scan where it is `near`.

    Raises `MeshganError` if it is nowhere.
    """
    owner, shares = covered(layout, size)
    rows = np.flatnonzero(owner.ravel() >= 0)
    picture = np.full((size * size, 3), GREY, dtype=np.float32)
    known = np.zeros(size * size, dtype=bool)
    normals, scanned = face.vertex_normals, scan.mesh.triangle_normals
    flat_owner, flat_shares = owner.ravel(), shares.reshape(-1, 3)
    for start in range(0, len(rows), BLOCK):
        own = rows[start : start + BLOCK]
        corners, weight = face.triangles[flat_owner[own]], flat_shares[own].astype(np.float64)
        points = (face.vertices[corners] * weight[..., None]).sum(axis=1)
        found = closest_points(points, scan.mesh)
        picture[own] = scan.at(found.triangle, found.barycentric)
        facing = ((normals[corners] * weight[..., None]).sum(axis=1) * scanned[found.triangle]).sum(axis=1)
        known[own] = (found.distance < near) & (np.abs(facing) > TURNED) & scan.whole[found.triangle]
    if not known.any():
        raise MeshganError("no point of the face lies near its scan's surface.")
    return filled(picture.reshape(size, size, 3), known.reshape(size, size))


def covered(layout: Layout, size: int) -> tuple[Integers, NDArray[np.float32]]:
    """For each pixel of a picture the triangle (size, size) that its middle lies in, or -1, and the barycentric
    coordinates (size, size, 3) there. The first row is at v = 1."""
    owner = np.full((size, size), -1, dtype=np.int64)
    shares = np.zeros((size, size, 3), dtype=np.float32)
    corners = layout.coordinates[layout.corners] * [size, -size] + [0, size]
    _cover(corners, owner, shares)
    return owner, shares


def filled(picture: NDArray[np.float32], known: Booleans) -> Bytes:
    """The picture with all pixels that are not `known` coloured from around: from ever coarser means of those."""
    levels = [(picture * known[..., None], known.astype(np.float32))]
    while levels[-1][1].size > 1:
        levels.append(tuple(_halved(part) for part in levels[-1]))  # type: ignore[arg-type]
    total, weight = levels[-1]
    below = total / np.maximum(weight, 1e-9)[..., None]
    for total, weight in reversed(levels[:-1]):
        height, width = weight.shape
        below = uniform_filter(below.repeat(2, axis=0).repeat(2, axis=1), (3, 3, 0), mode="nearest")[:height, :width]
        share = np.minimum(weight, 1)[..., None]
        below = share * (total / np.maximum(weight, 1e-9)[..., None]) + (1 - share) * below
    return np.clip(np.round(below), 0, 255).astype(np.uint8)


def as_png(picture: Bytes) -> bytes:
    """A picture (H, W, 3) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def check_size(size: int, layouts: Sequence[Layout | None]) -> None:
    """Raises `UsageError` unless pictures of this size can be baked for faces with these layouts."""
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(f"`bake={size}`: textures have between {SMALLEST} and {LARGEST} pixels on a side.")
    if None in layouts:
        raise UsageError("`bake` needs texture coordinates, which the template of meshgan alone has; leave it out.")


def no_colours(path: Path) -> MeshganWarning:
    """What is told of a scan without colours."""
    return MeshganWarning(f"{path} has neither a texture nor colours of its vertices; nothing was baked.")


def _halved(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over blocks of two by two pixels."""
    height, width = (-(-side // 2) * 2 for side in part.shape[:2])
    wide = np.zeros((height, width, *part.shape[2:]), dtype=np.float32)
    wide[: part.shape[0], : part.shape[1]] = part
    return np.asarray(wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2])


@compiled()
def _cover(corners: Floats, owner: Integers, shares: NDArray[np.float32]) -> None:
    """Fill `owner` and `shares` with the triangles (F, 3, 2), in pixels, that the pixels' middles lie in."""
    size = owner.shape[0]
    for f in range(len(corners)):
        ax, ay, bx, by, cx, cy = (
            corners[f, 0, 0], corners[f, 0, 1], corners[f, 1, 0], corners[f, 1, 1], corners[f, 2, 0], corners[f, 2, 1],
        )  # fmt: skip
        twice = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if twice == 0:
            continue
        for row in range(max(int(min(ay, by, cy)), 0), min(int(max(ay, by, cy)) + 1, size)):
            for column in range(max(int(min(ax, bx, cx)), 0), min(int(max(ax, bx, cx)) + 1, size)):
                x, y = column + 0.5, row + 0.5
                s = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / twice
                t = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / twice
                if s >= 0 and t >= 0 and s + t <= 1:
                    owner[row, column] = f
                    shares[row, column, 0] = 1 - s - t
                    shares[row, column, 1] = s
                    shares[row, column, 2] = t
