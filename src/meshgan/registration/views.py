"""Looking at a scan: orthographic views by ray casting, which say for every pixel which point of the surface it shows.

A view is a rotation R (3, 3), rows = the viewer's right, up and towards-the-viewer axes in the scan's frame, so
that `points @ R.T` has x to the right, y up and z towards the viewer.
"""

from dataclasses import dataclass

import numpy as np
import point_cloud_utils as pcu
from scipy.spatial.transform import Rotation

from meshgan.arrays import Booleans, Bytes, Floats, Integers
from meshgan.geometry.mesh import Mesh

LIGHT = np.array([0.25, 0.45, 1.0]) / np.linalg.norm([0.25, 0.45, 1.0])  # viewer's frame: above, a little right
DARKEST, BRIGHTEST = 40.0, 235.0
AROUND = ((0.0, 0.0), (0.0, -50.0), (0.0, 50.0), (-35.0, 0.0), (35.0, 0.0))  # degrees up and sideways
LIFT = 0.05  # mm: how far above a surface its own rays start


@dataclass(frozen=True)
class Frame:
    """Where a view looks: rotation (3, 3), the point in its middle (3,), and half its width in millimetres."""

    rotation: Floats
    centre: Floats
    half_width: float

    def rays(self, columns: Floats, rows: Floats, size: int, distance: float) -> tuple[Floats, Floats]:
        """Origins (N, 3) and directions (N, 3) of the rays through pixel coordinates, `distance` before the centre."""
        pixel = 2 * self.half_width / size
        x = (columns + 0.5) * pixel - self.half_width
        y = self.half_width - (rows + 0.5) * pixel
        origins = np.stack([x, y, np.full_like(x, distance)], axis=1) @ self.rotation + self.centre
        return origins, np.broadcast_to(-self.rotation[2], origins.shape).copy()


@dataclass(frozen=True, eq=False)
class Hits:
    """What rays met: triangle (N,), -1 for nothing; barycentric (N, 3); depth (N,) along the ray."""

    triangle: Integers
    barycentric: Floats
    depth: Floats

    @property
    def found(self) -> Booleans:
        return self.triangle >= 0


def pixels(size: int) -> tuple[Floats, Floats]:
    """Column and row of every pixel of a square image, row by row: each (size * size,)."""
    rows, columns = (axis.ravel().astype(np.float64) for axis in np.mgrid[:size, :size])
    return columns, rows


class Scene:
    """One mesh, ready to be looked at from anywhere: the search tree is built once.

    `outward` says which side of a surface is lit: 1 where its normals point, -1 the other one, 0 both. A mask seen
    from behind and lit from both sides looks like a face, too.
    """

    def __init__(self, mesh: Mesh, outward: int = 0) -> None:
        self.mesh, self.outward = mesh, outward
        self._caster = pcu.RayMeshIntersector(
            np.ascontiguousarray(mesh.vertices), np.ascontiguousarray(mesh.triangles.astype(np.int32))
        )
        self._reach = 2 * float(np.linalg.norm(np.ptp(mesh.vertices, axis=0))) + 1.0

    def cast(self, frame: Frame, columns: Floats, rows: Floats, size: int) -> Hits:
        """The first surface points behind pixel coordinates (N,) of a view of `size` pixels a side."""
        # The centre may lie outside the mesh; rays start far enough away to see all of it.
        offset = float(np.linalg.norm(frame.centre - self.mesh.vertices.mean(axis=0)))
        origins, directions = frame.rays(columns, rows, size, self._reach + offset)
        triangle, barycentric, depth = self._caster.intersect_rays(origins, directions)
        triangle = np.atleast_1d(triangle).astype(np.int64)  # a single ray comes back as scalars
        return Hits(triangle, barycentric.reshape(-1, 3), np.where(triangle >= 0, depth, np.inf))

    def open_along(self, points: Floats, direction: Floats) -> Booleans:
        """Whether nothing lies between points (N, 3) and a viewer far away in a unit `direction` (3,)."""
        directions = np.broadcast_to(direction, points.shape).copy()
        triangle, *_ = self._caster.intersect_rays(np.ascontiguousarray(points), directions)
        return np.atleast_1d(triangle) < 0

    def points(self, hits: Hits) -> Floats:
        """Positions (N, 3) of the hits; NaN where nothing was met."""
        corners = self.mesh.vertices[self.mesh.triangles[np.maximum(hits.triangle, 0)]]
        positions = np.einsum("nk,nkc->nc", hits.barycentric, corners)
        return np.where(hits.found[:, None], positions, np.nan)

    def normals(self, hits: Hits) -> Floats:
        """Interpolated vertex normals (N, 3); zero where nothing was met."""
        corners = self.mesh.vertex_normals[self.mesh.triangles[np.maximum(hits.triangle, 0)]]
        normals = np.einsum("nk,nkc->nc", hits.barycentric, corners)
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        return np.where(hits.found[:, None], normals / np.maximum(lengths, 1e-12), 0.0)

    def photograph(self, frame: Frame, size: int) -> tuple[Bytes, Hits]:
        """A shaded grey image (size, size) and what each of its pixels (row by row) shows."""
        hits = self.cast(frame, *pixels(size), size)
        normals = self.normals(hits) @ frame.rotation.T
        side = np.where(normals[:, 2:] < 0, -1.0, 1.0) if self.outward == 0 else self.outward
        normals *= side
        light = np.clip(normals @ LIGHT, 0.0, 1.0)
        shown = hits.found & (normals[:, 2] > 0)  # the wrong side is black: holes in a grey one look like eyes
        image = np.where(shown, DARKEST + (BRIGHTEST - DARKEST) * light, 0.0)
        return image.reshape(size, size).astype(np.uint8), hits


def seen_from_before(mesh: Mesh, chosen: Integers) -> Booleans:
    """Whether each of the `chosen` vertices (N,) of a face that looks along +z is in plain sight of a viewer in front.

    The walls of nostrils and of the mouth are not.
    """
    scene, points = Scene(mesh), mesh.vertices[chosen] + LIFT * mesh.vertex_normals[chosen]
    directions = Rotation.from_euler("xy", AROUND, degrees=True).apply([0.0, 0.0, 1.0])
    return np.asarray(np.any([scene.open_along(points, direction) for direction in directions], axis=0))
