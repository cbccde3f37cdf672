"""What registration knows of a template: its mesh, its named landmarks, the detector's points, and a face model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh, connected
from meshgan.geometry.surface import Surface
from meshgan.registration.landmarks import Landmarks
from meshgan.registration.nricp import Nodes
from meshgan.registration.prior import Prior
from meshgan.registration.scan import Met, Pull, seen_from_before

AROUND = 6.0  # mm: width of the neighbourhood from which a named landmark takes its place
EYE_DEPTH = 15.0  # mm before and behind the lids
MIDDLE = 50.0  # mm around a point between nose and mouth
FACING_VIEWER = 0.3  # cosine
ENOUGH = 1000  # vertices for a face model
WIDTH = 0.4  # deviation of how far a wide open mouth is open, as a share of that
NOSE_BASE, RIM = 33, 8.0  # landmark; mm from the outer border, where a surface goes on
MET_FACING = 0.5  # least cosine between the normals of a point and of the vertex that it meets
MARGIN = 12.0  # mm from the outer border: there the crop decides what is seen, so it does not count as face


@dataclass(frozen=True, eq=False)
class Drawn:
    """A mesh (`triangles`) of the `vertices` (N,) of a template, and how a scan draws them: the `eyeballs` not at all,
    for scanners see gleam and lids there, and the face model knows better."""

    vertices: Integers
    triangles: Integers
    eyeballs: Booleans  # (N,)
    corners: sp.csr_array  # (N, F): which triangles a vertex is part of

    @classmethod
    def of(cls, mesh: Mesh, vertices: Integers, eyeballs: Booleans) -> "Drawn":
        """A mesh of those vertices."""
        corners = mesh.triangles.ravel()
        shape = (len(vertices), len(mesh.triangles))
        incidence = sp.csr_array((np.ones(len(corners)), (corners, np.repeat(np.arange(shape[1]), 3))), shape=shape)
        return cls(vertices, mesh.triangles, eyeballs, incidence)

    def normals(self, points: Floats) -> Floats:
        """Unit normals (N, 3) of the mesh deformed to `points` (N, 3)."""
        a, b, c = (points[self.triangles[:, corner]] for corner in range(3))
        normals = self.corners @ np.cross(b - a, c - a)
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def pull(self, points: Floats, surface: Surface) -> Pull:
        """Where a scan draws the vertices that lie at `points` (N, 3); its borders draw nothing."""
        matches = surface.closest(points)
        normals = surface.normals(matches)
        cosine = np.einsum("vc,vc->v", self.normals(points), normals)
        free = surface.on_border(matches) | self.eyeballs
        return Pull(matches.points, normals, matches.distance, np.where(free, -1.0, cosine))

    def met(self, points: Floats, surface: Surface, seen: Integers, able: Booleans) -> Met:
        """What vertices of a scan, those `seen` (M,), meet where the vertices lie at `points` (N, 3): the nearest one
        each, if that is `able` (N,) and faces alike."""
        distance, nearest = cKDTree(points).query(surface.mesh.vertices[seen])
        normals = surface.mesh.vertex_normals[seen]
        alike = np.einsum("mc,mc->m", self.normals(points)[nearest], normals) > MET_FACING
        kept = alike & able[nearest]
        return Met(nearest[kept], surface.mesh.vertices[seen[kept]], normals[kept], distance[kept])


@dataclass(frozen=True, eq=False)
class DetectorPoints:
    """Where the detector sees its points: `rows` (478, V) combine vertices to their places, `sigma` (478,) is how they
    scatter in mm, inf for points not to use, and `together` (478,) how many times that may count as at most, since
    points err together."""

    rows: sp.csr_array
    sigma: Floats
    together: Floats


@dataclass(frozen=True, eq=False)
class FaceTemplate:
    """A template of V vertices that looks along +z, ready to be laid onto scans.

    `landmark_rows` (79, V) combine vertices to the named landmarks. `bare` are the detector's points in pictures of
    bare shape, and `coloured` those in pictures in colours, which show what a shape does not.
    `opening` says what the mean face does when its mouth opens wide, (V, 3); it is asked when a scan wants it.
    `parted` moves lips of a face (V, 3) that pass through each other apart, where the template's are known.
    """

    mesh: Mesh
    landmark_names: tuple[str, ...]
    landmark_rows: sp.csr_array
    bare: DetectorPoints
    coloured: DetectorPoints
    prior: Prior
    opening: Callable[[], Floats]
    parted: Callable[[Floats], Floats]

    @cached_property
    def wide(self) -> Prior:
        """The face model about a wide open mouth, which few of the faces that it was learned from have."""
        move = self.opening()
        first = np.ascontiguousarray((WIDTH * move).T[:, None], dtype=np.float32)
        return Prior(self.prior.mean + move, np.concatenate([first, self.prior.basis], axis=1))

    @cached_property
    def nodes(self) -> tuple[Nodes, ...]:
        """Node graphs for non-rigid ICP, coarse first: some 300 and some 1,300 of a template of 5,000 vertices."""
        levels = Hierarchy.cached(self.mesh).levels
        assert levels[0].up is not None
        assert levels[1].up is not None
        one, two = levels[0].up, levels[0].up @ levels[1].up
        return Nodes(levels[2].mesh.edges, sp.csr_array(two)), Nodes(levels[1].mesh.edges, sp.csr_array(one))

    @cached_property
    def drawn(self) -> "Drawn":
        """All vertices, as a scan draws them."""
        return Drawn.of(self.mesh, np.arange(len(self.mesh.vertices)), self.eyeballs)

    @cached_property
    def sparse(self) -> "Drawn":
        """Vertices enough to fit a face model to: those of the next coarser level, if they are `ENOUGH`."""
        fine, coarse, *_ = Hierarchy.cached(self.mesh).levels
        if fine.kept is None or len(fine.kept) < ENOUGH:
            return self.drawn
        return Drawn.of(coarse.mesh, fine.kept, self.eyeballs[fine.kept])

    @cached_property
    def eyeballs(self) -> Booleans:
        """The vertices (V,) between the lids, seen from the front."""
        vertices, marks = self.mesh.vertices, self.landmark_rows @ self.mesh.vertices
        found = np.zeros(len(vertices), dtype=bool)
        for lids in (marks[36:42], marks[42:48]):
            near = np.abs(vertices[:, 2] - lids[:, 2].mean()) < EYE_DEPTH
            found |= near & inside_polygon(vertices[:, :2], lids[:, :2])
        return found

    @cached_property
    def middle(self) -> Booleans:
        """The vertices (V,) around nose and mouth that face the viewer: what every scan of a face should show."""
        marks = self.landmark_rows[[30, 62]] @ self.mesh.vertices  # tip of the nose, middle of the upper lip
        near = np.linalg.norm(self.mesh.vertices[:, :2] - marks.mean(axis=0)[:2], axis=1) < MIDDLE
        return near & self.inside & (self.mesh.vertex_normals[:, 2] > FACING_VIEWER)

    @cached_property
    def lower(self) -> Booleans:
        """The vertices (V,) below the nose, at least `RIM` from the outer border: those that a jaw may move."""
        below = self.mesh.vertices[:, 1] < (self.landmark_rows[[NOSE_BASE]] @ self.mesh.vertices)[0, 1]
        border = self.mesh.vertices[_outer_border(self.mesh)]
        away = cKDTree(border).query(self.mesh.vertices)[0] > RIM if len(border) else np.ones(len(below), dtype=bool)
        return below & away & ~self.eyeballs

    @cached_property
    def inside(self) -> Booleans:
        """The vertices (V,) that make the face: in sight, no eyeballs, at least `MARGIN` from the outer border."""
        found = seen_from_before(self.mesh, np.arange(len(self.mesh.vertices))) & ~self.eyeballs
        border = self.mesh.vertices[_outer_border(self.mesh)]
        return found & (cKDTree(border).query(self.mesh.vertices)[0] > MARGIN) if len(border) else found

    def interocular(self, vertices: Floats) -> float:
        """The distance between the middles of the eyes of a face (V, 3): of the six points around each."""
        points = self.landmark_rows[36:48] @ vertices
        return float(np.linalg.norm(points[:6].mean(axis=0) - points[6:].mean(axis=0)))

    def named(self, points: Floats, used: Integers, looked: DetectorPoints) -> Landmarks:
        """The named landmarks that follow from the detector's points (478, 3), of which those `used` are good.

        Where on the template they are, `looked` says. Each landmark is the combination of the points around it that is
        exact for affine deformations; those away from all are left out.
        """
        places = looked.rows[used] @ self.mesh.vertices
        index, found = [], []
        for number, place in enumerate(self.landmark_rows @ self.mesh.vertices):
            nearness = np.exp(-0.5 * ((places - place) ** 2).sum(axis=1) / AROUND**2)
            if nearness.max(initial=0.0) < np.exp(-2.0):
                continue
            moments = np.concatenate([np.ones((len(places), 1)), (places - place) / AROUND], axis=1)
            gram = (moments * nearness[:, None]).T @ moments + 1e-3 * np.eye(4)
            weights = nearness * (moments @ np.linalg.solve(gram, [1.0, 0.0, 0.0, 0.0]))
            index.append(number)
            found.append(weights @ points[used] / weights.sum())
        return Landmarks(np.array(index, dtype=np.int64), np.array(found).reshape(-1, 3))


def inside_polygon(points: Floats, corners: Floats) -> Booleans:
    """Whether points (N, 2) lie inside a polygon (M, 2): a ray to the right crosses an odd number of sides."""
    (x, y), ends = points.T, np.roll(corners, -1, axis=0)
    crossings = np.zeros(len(points), dtype=np.int64)
    for (x0, y0), (x1, y1) in zip(corners, ends, strict=True):
        if y0 != y1:
            crossings += ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return crossings % 2 == 1


def _outer_border(mesh: Mesh) -> Integers:
    """Vertices of the longest boundary loop; eye and mouth openings are shorter."""
    edges = mesh.boundary_edges
    if not len(edges):
        return np.empty(0, dtype=np.int64)
    labels = connected(edges, len(mesh.vertices))
    lengths = np.bincount(labels[edges[:, 0]], np.linalg.norm(np.diff(mesh.vertices[edges], axis=1)[:, 0], axis=1))
    return np.unique(edges[labels[edges[:, 0]] == lengths.argmax()])
