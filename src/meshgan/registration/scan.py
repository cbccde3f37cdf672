"""Raw scans made fit for work: welded, without degenerate triangles, bounded in size, cropped around the face.

How they draw a template; and how they look: orthographic views by ray casting, which say for every pixel which point of
the surface it shows. A view is a rotation R (3, 3), rows = the viewer's right, up and towards-the-viewer axes in the
scan's frame, so that `points @ R.T` has x to the right, y up and z towards the viewer.
"""

from dataclasses import dataclass

import numpy as np
import point_cloud_utils as pcu
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from meshgan.arrays import Booleans, Bytes, Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh, connected
from meshgan.progress import counted

FEWEST_TRIANGLES = 500  # a face needs some
MOST_TRIANGLES = 12_000_000  # beyond it, memory is no longer bounded by what a workstation has
MANY_TRIANGLES = 400_000  # more than this is thinned for the search, and again after the crop
MOST_LAYERS = 12.0  # of a surface as large as the sphere around it; hair has a few
NOISY = 0.16  # of an edge's length: noise beyond it hides which way a surface faces
CALMING = 10  # rounds in which every vertex goes half of the way to its neighbours' mean
NEAR = 20.0  # mm: triangles this close to the model decide which way a scan faces
STRAY = 0.05  # of the largest connected part's area: a smaller part is no part of the face
GRID = 2**20  # cells per side of the box in which vertices count as one

LIGHT = np.array([0.25, 0.45, 1.0]) / np.linalg.norm([0.25, 0.45, 1.0])  # viewer's frame: above, a little right
DARKEST, BRIGHTEST = 40.0, 235.0
AROUND = ((0.0, 0.0), (0.0, -50.0), (0.0, 50.0), (-35.0, 0.0), (35.0, 0.0))  # degrees up and sideways
LIFT = 0.05  # mm: how far above a surface its own rays start


def cleaned(mesh: Mesh) -> Mesh:
    """Weld vertices at one place, drop triangles without area and duplicates, drop vertices without triangles.

    Files with texture seams and all STL files hold a vertex many times; to them every edge is a border. Raises
    `MeshganError` where too little or too much is left to be a scan of a face.
    """
    _require_sensible_size(len(mesh.triangles))
    corners = _welded(mesh.vertices, _box_cell(mesh))[mesh.triangles]
    different = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    solid = corners[different & (mesh.areas > 0)]
    unique = solid[np.unique(_triangle_keys(solid), return_index=True)[1]] if len(solid) else solid
    result = _used(mesh.vertices, unique)
    _require_sensible_size(len(result.triangles))
    if result.areas.sum() > MOST_LAYERS * np.pi * np.linalg.norm(np.ptp(result.vertices, axis=0)) ** 2:
        raise MeshganError("the triangles lie in heaps on each other; this is no surface.")
    return result


def _require_sensible_size(triangles: int) -> None:
    if triangles < FEWEST_TRIANGLES:
        raise MeshganError(
            f"the mesh has {counted(triangles, 'usable triangle')}; a scan of a face needs at least {FEWEST_TRIANGLES}."
        )
    if triangles > MOST_TRIANGLES:
        raise MeshganError(
            f"the mesh has {triangles:,} triangles; reduce it to {MOST_TRIANGLES:,} or fewer, 200,000 are plenty."
        )


def _box_cell(mesh: Mesh) -> float:
    return max(float(np.ptp(mesh.vertices, axis=0).max()) / GRID, np.finfo(float).tiny)


def _welded(vertices: Floats, cell: float) -> Integers:
    """For each vertex the first one (V,) in the same cell of a grid."""
    cells = np.floor((vertices - vertices.min(axis=0)) / cell + 0.5).astype(np.int64)
    keys = (cells[:, 0] * (GRID + 2) + cells[:, 1]) * (GRID + 2) + cells[:, 2]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _triangle_keys(triangles: Integers) -> NDArray[np.void]:
    """One comparable value for each triangle, whatever the order of its corners."""
    ordered = np.ascontiguousarray(np.sort(triangles, axis=1))
    return ordered.view([("", ordered.dtype)] * 3).ravel()


def _used(vertices: Floats, triangles: Integers) -> Mesh:
    kept, renumbered = np.unique(triangles, return_inverse=True)
    return Mesh(vertices[kept], renumbered.reshape(-1, 3))


def calmed(mesh: Mesh) -> Mesh:
    """The mesh with its noise smoothed away, if that is so strong that neighbouring normals disagree.

    How strong: the median distance of a vertex from its neighbours' mean, along the normal, as a share of the edges'
    length. Borders are smoothed along themselves, so that they stay where they are, and cracks do not stay as spikes.
    """
    size = len(mesh.vertices)
    i, j = np.concatenate([mesh.edges, mesh.edges[:, ::-1]]).T
    length = float(np.median(np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1)))
    border = np.zeros(size, dtype=bool)
    border[mesh.boundary_vertices] = True
    if border.all():
        return mesh
    along = np.concatenate([mesh.boundary_edges, mesh.boundary_edges[:, ::-1]])
    i, j = np.concatenate([np.stack([i, j], axis=1)[~border[i]], along]).T
    mean = sp.csr_array((1 / np.bincount(i, minlength=size)[i], (i, j)), shape=(size, size))
    away = np.einsum("vc,vc->v", mean @ mesh.vertices - mesh.vertices, mesh.vertex_normals)[~border]
    if np.median(np.abs(away)) < NOISY * length:
        return mesh
    vertices = mesh.vertices.copy()
    for _ in range(CALMING):
        vertices += 0.5 * (mean @ vertices - vertices)
    return mesh.with_vertices(vertices)


def thinned(mesh: Mesh, most: int = MANY_TRIANGLES) -> Mesh:
    """A mesh of at most about `most` triangles: vertices in one cell of a grid become their mean.

    Meshes that are small enough come back unchanged. The grid is as fine as the count allows.
    """
    if len(mesh.triangles) <= most:
        return mesh
    cell = np.sqrt(2 * mesh.areas.sum() / most)  # as if cells were hit evenly by a smooth surface
    while len((coarse := clustered(mesh, cell)).triangles) > most:
        cell *= 1.2
    return coarse


def clustered(mesh: Mesh, cell: float) -> Mesh:
    """The mesh with all vertices in one cell of a grid (its cells `cell` wide, from the lowest corner) made one."""
    cell = max(cell, _box_cell(mesh))
    place = _welded(mesh.vertices, cell)
    labels = np.unique(place, return_inverse=True)[1]
    counts = np.bincount(labels)
    means = np.stack([np.bincount(labels, mesh.vertices[:, axis]) / counts for axis in range(3)], axis=1)
    corners = labels[mesh.triangles]
    solid = corners[(corners != np.roll(corners, 1, axis=1)).all(axis=1)]
    unique = solid[np.unique(_triangle_keys(solid), return_index=True)[1]]
    return _used(means, unique)


def around(mesh: Mesh, centre: Floats, radius: float) -> Mesh:
    """The triangles with all corners within `radius` of `centre`; raises `MeshganError` if hardly any are."""
    inside = np.linalg.norm(mesh.vertices - centre, axis=1) < radius
    kept = mesh.triangles[inside[mesh.triangles].all(axis=1)]
    if len(kept) < FEWEST_TRIANGLES // 2:
        raise MeshganError("hardly any surface lies where the face should be; are the landmarks and the unit right?")
    return _used(mesh.vertices, kept)


def facing_like(mesh: Mesh, model: Mesh) -> Mesh:
    """The mesh with its triangles turned to face as the `model`, which lies roughly on it, does.

    A scan that is inside out is turned as a whole; one without any order is turned triangle by triangle.
    """
    middles = mesh.vertices[mesh.triangles].mean(axis=1)
    distance, nearest = cKDTree(model.vertices).query(middles)
    agreement = np.einsum("fc,fc->f", mesh.triangle_normals, model.vertex_normals[nearest])
    near = (distance < NEAR) & (np.abs(agreement) > 0.5)
    wrong = float(mesh.areas[near & (agreement < 0)].sum() / max(mesh.areas[near].sum(), np.finfo(float).tiny))
    if wrong < 0.25:
        return mesh
    turned = agreement < 0 if wrong < 0.75 else np.ones(len(middles), dtype=bool)
    return Mesh(mesh.vertices, np.where(turned[:, None], mesh.triangles[:, ::-1], mesh.triangles))


def bulk(mesh: Mesh) -> Mesh:
    """The mesh without stray pieces: connected parts of less than `STRAY` of the largest one's area.

    A scan that is torn to pieces, so that those would be half of it, comes back unchanged.
    """
    part = connected(mesh.edges, len(mesh.vertices))[mesh.triangles[:, 0]]
    areas = np.bincount(part, mesh.areas)
    large = areas >= STRAY * areas.max()
    if large[areas > 0].all() or areas[large].sum() < 0.5 * areas.sum():
        return mesh
    return _used(mesh.vertices, mesh.triangles[large[part]])


def extent(mesh: Mesh) -> tuple[Floats, float]:
    """Centre (3,) and radius of the bulk of the surface: stray specks of a scan do not count."""
    middles = mesh.vertices[mesh.triangles].mean(axis=1)
    low, high = (_quantile(middles, mesh.areas, share) for share in (0.005, 0.995))
    return (low + high) / 2, float(np.linalg.norm(high - low)) / 2


def _quantile(points: Floats, weights: Floats, share: float) -> Floats:
    """The weighted quantile (3,) of each coordinate of `points` (N, 3)."""
    result = np.empty(3)
    for axis in range(3):
        order = np.argsort(points[:, axis])
        running = np.cumsum(weights[order])
        result[axis] = points[order[np.searchsorted(running, share * running[-1])], axis]
    return result


@dataclass(frozen=True, eq=False)
class Pull:
    """Where the surface draws the vertices of a template: closest points (V, 3) with normals (V, 3), the distance
    (V,), and the cosine (V,) between the two normals, -1 where the surface must have no say."""

    points: Floats
    normals: Floats
    distance: Floats
    cosine: Floats

    def weights(self, far: float, least_cosine: float) -> Floats:
        """Weights (V,): zero where a test fails, else falling with the distance (Geman and McClure, at half of far)."""
        believed = (self.distance < far) & (self.cosine > least_cosine)
        return np.where(believed, (1 + (2 * self.distance / far) ** 2) ** -2, 0.0)


@dataclass(frozen=True, eq=False)
class Met:
    """What a surface meets of a template: `vertices` (M,) of it, each the nearest one to a point (M, 3) of the surface
    with its normal (M, 3), and how far from there that is (M,)."""

    vertices: Integers
    points: Floats
    normals: Floats
    distance: Floats


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
