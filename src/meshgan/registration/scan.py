"""Raw scans made fit for work: welded, without degenerate triangles, bounded in size, cropped around the face.

And how they draw a template.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from meshgan.arrays import Floats, Integers
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh

FEWEST_TRIANGLES = 500  # a face needs some
MOST_TRIANGLES = 12_000_000  # beyond it, memory is no longer bounded by what a workstation has
MANY_TRIANGLES = 400_000  # more than this is thinned for the search, and again after the crop
MOST_LAYERS = 12.0  # of a surface as large as the sphere around it; hair has a few
NOISY = 0.16  # of an edge's length: noise beyond it hides which way a surface faces
CALMING = 10  # rounds in which every vertex goes half of the way to its neighbours' mean
NEAR = 20.0  # mm: triangles this close to the model decide which way a scan faces
GRID = 2**20  # cells per side of the box in which vertices count as one


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
            f"the mesh has {triangles} usable triangles; a scan of a face needs at least {FEWEST_TRIANGLES}."
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
    length. Borders stay where they are.
    """
    size = len(mesh.vertices)
    i, j = np.concatenate([mesh.edges, mesh.edges[:, ::-1]]).T
    mean = sp.csr_array((1 / np.bincount(i, minlength=size)[i], (i, j)), shape=(size, size))
    length = float(np.median(np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1)))
    free = np.setdiff1d(np.arange(size), mesh.boundary_vertices)
    away = np.einsum("vc,vc->v", mean @ mesh.vertices - mesh.vertices, mesh.vertex_normals)[free]
    if not len(free) or np.median(np.abs(away)) < NOISY * length:
        return mesh
    vertices = mesh.vertices.copy()
    for _ in range(CALMING):
        vertices[free] += 0.5 * (mean @ vertices - vertices)[free]
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
