"""Raw scans made fit for work: welded, without degenerate triangles, bounded in size, cropped around the face.

And the surface that a template is drawn onto: many quick closest-point searches on one scan.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.compiled import compiled
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


SPACING = 3.0  # mm: triangles with longer edges get sample points inside, so that the search cannot miss them
ON = 1e-3  # barycentric coordinate below which a point lies on a side
NEAREST = 2  # samples whose triangles are tried


@dataclass(frozen=True, eq=False)
class Matches:
    """For each query its closest surface point (N, 3), the triangle (N,) and the normal (N, 3) there, the distance,
    and whether the point lies on a border."""

    triangle: Integers
    points: Floats
    normals: Floats
    distance: Floats
    on_border: Booleans


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


class Surface:
    """A scan with a search tree over its vertices and, in large triangles, over samples.

    A query takes the triangles that touch its nearest samples and projects onto those exactly. That is the true
    closest point but for rare corners of badly shaped triangles, and some ten times quicker than a tree that is
    built anew for every call.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        samples, self._starts, self._owners = _samples(mesh)
        self._tree = cKDTree(samples, balanced_tree=False, compact_nodes=False)

    @cached_property
    def _border_sides(self) -> Booleans:
        """Whether the side opposite each corner (F, 3) lies on a border."""
        size = len(self.mesh.vertices)
        sides = np.sort(self.mesh.triangles[:, [[1, 2], [2, 0], [0, 1]]], axis=2) @ [size, 1]
        return np.isin(sides, self.mesh.boundary_edges @ [size, 1])

    @cached_property
    def _border_vertices(self) -> Booleans:
        flags = np.zeros(len(self.mesh.vertices), dtype=bool)
        flags[self.mesh.boundary_vertices] = True
        return flags

    def _on_border(self, triangle: Integers, weights: Floats) -> Booleans:
        """Whether points on triangles (N,) at `weights` (N, 3) lie on a border's edge or vertex."""
        on_side = ((weights < ON) & self._border_sides[triangle]).any(axis=1)
        at_vertex = ((weights > 1 - ON) & self._border_vertices[self.mesh.triangles[triangle]]).any(axis=1)
        return np.asarray(on_side | at_vertex)

    def closest(self, points: Floats) -> Matches:
        """Closest surface points of `points` (N, 3)."""
        nearest = self._tree.query(points, k=min(NEAREST, self._tree.n))[1].reshape(len(points), -1)
        triangle, weights = _project(
            points, nearest, self._starts, self._owners, self.mesh.vertices, self.mesh.triangles
        )
        corners = self.mesh.triangles[triangle]
        found = np.einsum("nk,nkc->nc", weights, self.mesh.vertices[corners])
        normals = np.einsum("nk,nkc->nc", weights, self.mesh.vertex_normals[corners])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        distance = np.linalg.norm(points - found, axis=1)
        return Matches(triangle, found, normals, distance, self._on_border(triangle, weights))


def _samples(mesh: Mesh) -> tuple[Floats, Integers, Integers]:
    """Sample points (S, 3) and, as CSR `starts`, `owners`, the triangles to try for each."""
    corners = mesh.triangles.ravel()
    by_vertex = np.argsort(corners, kind="stable")
    counts = np.bincount(corners, minlength=len(mesh.vertices))
    used = np.flatnonzero(counts)
    inside, owner = _inside_large(mesh)
    samples = np.concatenate([mesh.vertices[used], inside])
    sizes = np.concatenate([counts[used], np.ones(len(inside), dtype=np.int64)])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return samples, starts, np.concatenate([by_vertex // 3, owner])


def _inside_large(mesh: Mesh) -> tuple[Floats, Integers]:
    """Points spread over the triangles with an edge beyond `SPACING`, and the triangle of each."""
    tips = mesh.vertices[mesh.triangles]
    longest = np.linalg.norm(tips - np.roll(tips, 1, axis=1), axis=2).max(axis=1)
    points, owners = [np.empty((0, 3))], [np.empty(0, dtype=np.int64)]
    steps = np.minimum(np.ceil(longest / SPACING).astype(np.int64), 32)
    for step in np.unique(steps[steps > 1]):
        chosen = np.flatnonzero(steps == step)
        grid = np.array([(i, j, step - i - j) for i in range(step + 1) for j in range(step + 1 - i)]) / step
        grid = grid[(grid > 0).sum(axis=1) > 1]  # the corners are there already
        points.append(np.einsum("gk,tkc->tgc", grid, tips[chosen]).reshape(-1, 3))
        owners.append(np.repeat(chosen, len(grid)))
    return np.concatenate(points), np.concatenate(owners)


@compiled()
def _project(
    points: Floats,
    nearest: Integers,
    starts: Integers,
    owners: Integers,
    vertices: Floats,
    triangles: Integers,
) -> tuple[Integers, Floats]:
    """For each point the closest of the candidate triangles (N,) and the barycentrics (N, 3) there."""
    best_triangle = np.zeros(len(points), dtype=np.int64)
    best_weights = np.zeros((len(points), 3))
    for n in range(len(points)):
        best = np.inf
        px, py, pz = points[n]
        for sample in nearest[n]:
            for slot in range(starts[sample], starts[sample + 1]):
                a, b, c = triangles[owners[slot]]
                # the corners as seen from the point: what is sought is the point nearest to the origin
                ax, ay, az = vertices[a, 0] - px, vertices[a, 1] - py, vertices[a, 2] - pz
                bx, by, bz = vertices[b, 0] - px, vertices[b, 1] - py, vertices[b, 2] - pz
                cx, cy, cz = vertices[c, 0] - px, vertices[c, 1] - py, vertices[c, 2] - pz
                u, v, w = _nearest_to_origin(ax, ay, az, bx, by, bz, cx, cy, cz)
                x, y, z = u * ax + v * bx + w * cx, u * ay + v * by + w * cy, u * az + v * bz + w * cz
                away = x * x + y * y + z * z
                if away < best:
                    best = away
                    best_triangle[n] = owners[slot]
                    best_weights[n, 0], best_weights[n, 1], best_weights[n, 2] = u, v, w
    return best_triangle, best_weights


@compiled()
def _nearest_to_origin(
    ax: float, ay: float, az: float, bx: float, by: float, bz: float, cx: float, cy: float, cz: float
) -> tuple[float, float, float]:
    """Barycentrics of the point of triangle abc nearest to the origin: Ericson, Real-Time Collision Detection, 5.1.5.

    Scalars throughout: arrays of three would be allocated millions of times.
    """
    abx, aby, abz = bx - ax, by - ay, bz - az
    acx, acy, acz = cx - ax, cy - ay, cz - az
    d1, d2 = -(abx * ax + aby * ay + abz * az), -(acx * ax + acy * ay + acz * az)
    if d1 <= 0 and d2 <= 0:
        return 1.0, 0.0, 0.0
    d3, d4 = -(abx * bx + aby * by + abz * bz), -(acx * bx + acy * by + acz * bz)
    if d3 >= 0 and d4 <= d3:
        return 0.0, 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0 and d1 >= 0 and d3 <= 0:
        along = d1 / (d1 - d3) if d1 > d3 else 0.0
        return 1.0 - along, along, 0.0
    d5, d6 = -(abx * cx + aby * cy + abz * cz), -(acx * cx + acy * cy + acz * cz)
    if d6 >= 0 and d5 <= d6:
        return 0.0, 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0 and d2 >= 0 and d6 <= 0:
        along = d2 / (d2 - d6) if d2 > d6 else 0.0
        return 1.0 - along, 0.0, along
    va = d3 * d6 - d5 * d4
    if va <= 0 and d4 >= d3 and d5 >= d6:
        span = (d4 - d3) + (d5 - d6)
        along = (d4 - d3) / span if span > 0 else 0.0
        return 0.0, 1.0 - along, along
    total = va + vb + vc
    if total <= 0:  # a triangle without area: one of its corners is as good as any other
        return 1.0, 0.0, 0.0
    return va / total, vb / total, vc / total
