"""The triangle mesh, and the quantities that follow from it directly."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from scipy.sparse.csgraph import connected_components

from meshgan.arrays import Floats as Floats
from meshgan.arrays import Integers as Integers
from meshgan.compiled import compiled
from meshgan.errors import MeshganError

CONNECTIVITY = ("edges", "boundary_edges", "boundary_vertices", "components", "_edges_and_uses", "_incidence")
MOST = 10_000_000  # vertices, and triangles, of a mesh that is read: what fits in two gigabytes while it is read


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh: `vertices` (V, 3) in millimetres, `triangles` (F, 3) of vertex indices.

    Both are checked and made read-only on construction: finite coordinates, indices in range. Unreferenced
    vertices, several components, boundaries and degenerate triangles are all legal.
    """

    vertices: Floats
    triangles: Integers

    def __init__(self, vertices: ArrayLike, triangles: ArrayLike) -> None:
        positions = np.array(vertices, dtype=np.float64, order="C")
        corners = np.array(triangles, dtype=np.int64, order="C").reshape(-1, 3)
        if positions.ndim != 2 or positions.shape[1] != 3:
            raise MeshganError(f"a mesh needs vertices of shape (V, 3), not {positions.shape}.")
        if not np.isfinite(positions).all():
            raise MeshganError("the mesh has vertices that are NaN or infinite.")
        if corners.size and (corners.min() < 0 or corners.max() >= len(positions)):
            raise MeshganError("the mesh has triangles that point outside its vertices.")
        positions.flags.writeable = corners.flags.writeable = False
        object.__setattr__(self, "vertices", positions)
        object.__setattr__(self, "triangles", corners)

    def with_vertices(self, vertices: ArrayLike) -> "Mesh":
        """The same connectivity, with all that is known of it, and other vertices (V, 3)."""
        moved = Mesh(vertices, self.triangles)
        if moved.vertices.shape != self.vertices.shape:
            raise MeshganError(f"expected {len(self.vertices)} vertices, got {len(moved.vertices)}.")
        known = self.__dict__
        moved.__dict__.update({name: known[name] for name in CONNECTIVITY if name in known})
        return moved

    @cached_property
    def edges(self) -> Integers:
        """Undirected edges (E, 2), each once, the smaller index first, sorted."""
        return self._edges_and_uses[0]

    @cached_property
    def boundary_edges(self) -> Integers:
        """Edges (B, 2) that belong to exactly one triangle."""
        edges, uses = self._edges_and_uses
        return edges[uses == 1]

    @cached_property
    def boundary_vertices(self) -> Integers:
        """Indices of the vertices on boundary edges, sorted."""
        return np.unique(self.boundary_edges)

    @cached_property
    def _edges_and_uses(self) -> tuple[Integers, Integers]:
        a, b = self.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T
        size = len(self.vertices)  # an edge as one number sorts far quicker than as a pair
        codes, uses = np.unique(np.minimum(a, b) * size + np.maximum(a, b), return_counts=True)
        return np.stack([codes // size, codes % size], axis=1), uses

    @cached_property
    def areas(self) -> Floats:
        """Triangle areas (F,) in mm²."""
        return 0.5 * np.linalg.norm(self._cross, axis=1)

    @property
    def _cross(self) -> Floats:
        a, b, c = (self.vertices.take(self.triangles[:, corner], axis=0) for corner in range(3))
        return np.cross(b - a, c - a)

    @cached_property
    def triangle_normals(self) -> Floats:
        """Unit normals (F, 3), right-handed; zero for triangles without area."""
        return _normalised(self._cross)

    @cached_property
    def vertex_normals(self) -> Floats:
        """Area-weighted unit normals (V, 3); zero where no triangle with area touches the vertex."""
        return _normalised(self._incidence @ self._cross)

    @cached_property
    def _incidence(self) -> sp.csr_array:
        corners = self.triangles.ravel()
        owners = np.repeat(np.arange(len(self.triangles)), 3)
        shape = (len(self.vertices), len(self.triangles))
        return sp.csr_array((np.ones(len(corners)), (corners, owners)), shape=shape)

    @cached_property
    def components(self) -> Integers:
        """Label (V,) of the connected component of each vertex; an unreferenced vertex is its own component."""
        return connected(self.edges, len(self.vertices))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of vertices, rounded to float32 as files hold them, and triangles."""
        digest = hashlib.sha256()
        for array in (self.vertices.astype("<f4"), self.triangles.astype("<i8")):
            digest.update(str(array.shape).encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Part:
    """A part of a mesh with a material of its own: its `name`, how many vertices it has, and how it looks: `colour` is
    linear, from 0 to 1."""

    name: str
    count: int
    colour: tuple[float, float, float]
    roughness: float = 0.6


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the triangles of a mesh lie in a texture: `coordinates` (T, 2) in the unit square, v upwards, of which
    `corners` (F, 3) are those of each triangle.

    Coordinate i < V belongs to vertex i; the T - V others are second ones of vertices on seams, `doubled` (T - V,).
    The `parts` of the mesh, if it has several, follow one another; `picture` is a PNG that it wears by default.
    """

    coordinates: Floats
    corners: Integers
    doubled: Integers
    parts: tuple[Part, ...] = ()
    picture: bytes = b""

    @property
    def owner(self) -> Integers:
        """The vertex (T,) that each coordinate belongs to."""
        return np.concatenate([np.arange(len(self.coordinates) - len(self.doubled)), self.doubled])


def in_one_order(triangles: Integers) -> Integers:
    """Triangles (F, 3) with the smallest corner first, which way they face kept, in lexicographic order.

    Two lists of the same triangles are equal then, in whatever order files hold them.
    """
    first = triangles.argmin(axis=1)[:, None]
    turned = np.take_along_axis(triangles, (first + np.arange(3)) % 3, axis=1)
    return turned[np.lexsort(turned.T[::-1])]


def same_triangles(mesh: Mesh, other: Mesh) -> bool:
    """Whether two meshes are of one connectivity, in whatever order their triangles stand."""
    return len(mesh.vertices) == len(other.vertices) and np.array_equal(
        in_one_order(mesh.triangles), in_one_order(other.triangles)
    )


def surface_of(mesh: Mesh) -> tuple[Integers, Mesh]:
    """Which vertices (K,) make the surface of a mesh, and the mesh of them alone.

    Those that no triangle uses are not among them. Where half or more of the others lie exactly where one before
    them does, the triangles share nothing, and only the first at each place is.
    """
    used = np.unique(mesh.triangles)
    _, first, place = np.unique(mesh.vertices[used], axis=0, return_index=True, return_inverse=True)
    if 2 * len(first) > len(used):
        first, place = np.arange(len(used)), np.arange(len(used))
    order = np.argsort(first)  # as they stand in the file
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    kept = used[first[order]]
    triangles = rank[place.ravel()][np.searchsorted(used, mesh.triangles)]
    return kept, Mesh(mesh.vertices[kept], triangles)


def _normalised(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def connected(edges: Integers, count: int) -> Integers:
    """Label (V,) of the connected part of each of `count` vertices under `edges` (E, 2); one without is its own."""
    graph = sp.coo_array((np.ones(len(edges), dtype=np.int8), tuple(edges.T)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def within_bounds(count: float, what: str, most: int = MOST) -> int:
    """`count` as an integer. Raises `MeshganError` if it is more than is read."""
    if not count <= most:
        raise MeshganError(f"it would have {count:,.0f} {what}; {most:,} are read at most.")
    return int(count)


def fans(corners: Integers, counts: Integers) -> Integers:
    """Triangles (F, 3) of polygons whose `corners` follow one another, `counts` (P,) of them each.

    A polygon (a, b, c, d, ...) becomes (a, b, c), (a, c, d), ...; what has fewer than three corners vanishes.
    """
    if (counts == 3).all():
        return corners.reshape(-1, 3)
    pieces = np.maximum(counts - 2, 0)
    within_bounds(pieces.sum(dtype=np.float64), "triangles")
    starts = np.cumsum(counts) - counts
    first = np.repeat(starts, pieces)
    step = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    triangles = np.empty((len(first), 3), dtype=np.int64)
    for corner, place in enumerate((first, first + step + 1, first + step + 2)):
        triangles[:, corner] = corners[place]
    return triangles


def strips(corners: Integers) -> Integers:
    """Triangles (F, 3) of a strip, in which each corner makes one with the two before; -1 begins another strip.

    Every second triangle is turned, so that all face the same way; those that name a corner twice vanish.
    """
    if len(corners) < 3:
        return np.empty((0, 3), dtype=np.int64)
    triangles = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    breaks = np.where(corners == -1, np.arange(len(corners)), -1)
    odd = (np.arange(len(triangles)) - np.maximum.accumulate(breaks)[:-2] - 1) % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    a, b, c = triangles.T
    return triangles[(triangles >= 0).all(axis=1) & (a != b) & (b != c) & (c != a)]


@compiled(error_model="numpy", forceinline=True)
def surround(vertices, triangles, areas, normals):  # type: ignore[no-untyped-def]
    """Fill `areas` (V or 0,), twice those of the triangles about each of `vertices` (V, 3), and the unit `normals`
    (V or 0, 3), weighted by area; float32. Triangles that are not finite do not count."""
    areas[:] = 0
    normals[:] = 0
    for t in range(len(triangles)):
        p, q, r = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = vertices[q, 0] - vertices[p, 0], vertices[q, 1] - vertices[p, 1], vertices[q, 2] - vertices[p, 2]
        vx, vy, vz = vertices[r, 0] - vertices[p, 0], vertices[r, 1] - vertices[p, 1], vertices[r, 2] - vertices[p, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        if not abs(x) + abs(y) + abs(z) < np.inf:
            continue
        if len(areas):
            area = np.sqrt(x * x + y * y + z * z)
            for v in (p, q, r):
                areas[v] += area
        if len(normals):
            for v in (p, q, r):
                normals[v, 0] += x
                normals[v, 1] += y
                normals[v, 2] += z
    for v in range(len(normals)):
        x, y, z = normals[v]
        scale = np.float32(1) / (np.sqrt(x * x + y * y + z * z) + np.float32(1e-12))
        for k in range(3):
            normals[v, k] *= scale
