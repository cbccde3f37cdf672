"""From facial actions to a moving face: what a sum of shapes is not.

1. *Muscles.* An action moves skin as its shape says, more here and less there, and a little to the side: everybody's
   muscles have their own strength, place and direction (`Manner`), and the way of a motion bends between its beginning
   and its end. Where several actions pull at the same skin, their sum saturates.
2. *The jaw* turns about its joint and glides, and the skin follows by its weights.
   Skin that would be crushed nevertheless passes its motion on to what surrounds it.
3. *Skin keeps its volume*: where its area shrinks, a layer of some millimetres grows thicker and bulges outwards.
4. *Wrinkles* come where skin is squeezed: each fold of a person (`folds.py`) has gauges along its course that measure
   how much the surface shrinks across it, from the neutral face to the deformed one. It deepens from its depth at rest
   towards its capacity, and where skin is stretched it flattens.
5. *Lips* meet and press (`lips.py`), and *lids* roll over the eyeball (`eyes.py`).

All of it is a function of neutral face, actions, manner and folds.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from meshgan.arrays import Floats, Integers, Singles
from meshgan.compiled import compiled
from meshgan.data.corpora.basis import FaceBasis, Neutral, face_basis, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.eyes import Eye
from meshgan.data.corpora.folds import FoldLines, Folds, fold_lines
from meshgan.data.corpora.lips import Lips
from meshgan.data.expression import Smoother
from meshgan.geometry.mesh import Mesh, surround
from meshgan.geometry.surface import far_from

# An action's modes: over which length in mm its strength over the skin loses its correlation in so many of them, and
# over which its direction.
STRONGER, SIDEWAYS = ((24.0, 4), (12.0, 6)), ((24.0, 3),)
SHARES = (0.65, 0.75, 1.0)  # of the deviation: what is long, what is short, directions
FAR_MM = 6.0  # actions that move skin further vary less, so that it is not torn
CORNERS_MM, CORNERS = 13.0, 0.6  # so near the corners of the mouth all vary less, by that share
MODES = sum(count for _, count in STRONGER + SIDEWAYS)
SOFTENED_MM = {"cheekSquint": 5.0, "eyeSquint": 3.0, "browDown": 2.5}  # actions that would fold the skin about the eye
SATURATION_MM = 22.0  # where all actions together would move skin so far, they move it 0.7 times as far
YIELDING = {"cheekSquint": ("mouthSmile", 0.4)}  # an action that has less left to do if another one is made fully
SKIN_MM, THICKEST_MM = 4.0, 2.0  # of skin and fat that keep their volume, and the most that they bulge
LEAST_AREA, MOST_AREA = 0.55, 1.6  # ratios of areas beyond which nothing more happens
CRUSHED = (0.25, 0.6)  # ratios of areas where neighbours share a motion fully, and where they begin to
SPREADING, SHARING = 3, 10  # times that the neighbourhood is widened, and that its motion is averaged
BLURRED = 4  # times that the bulge is averaged over neighbours
RIM_MM = 10.0  # towards the border, skin bulges less
WAVES = 24  # plane waves that a mode's field is a sum of
GAUGES = 5  # along each fold
SLACK, FOLDING = 0.03, 0.13  # squeezed by so much skin does not fold; by so much more, to 63 % of a fold's capacity
FLATTENING, FLATTENED = 0.12, 0.7  # stretched by that, a fold loses 63 % of that share of its depth at rest


@dataclass(frozen=True, eq=False)
class Manner:
    """How people move: `modes` (B, A, MODES) of each action, at its beginning and `bends` (B, A, MODES), what is added
    towards its end."""

    modes: Singles
    bends: Singles

    def of(self, rows: Integers) -> "Manner":
        """The manner of these people."""
        return Manner(self.modes[rows], self.bends[rows])

    def __add__(self, other: "Manner") -> "Manner":
        return Manner(self.modes + other.modes, self.bends + other.bends)


def draw_manner(draws: Draws, names: tuple[str, ...], sizes: tuple[float, float, float]) -> Manner:
    """Draw manners: deviations of strength and direction (radians), and of what changes on the way, for each item.

    Left and right actions agree to some degree.
    """
    plain = [name.removesuffix("Left").removesuffix("Right") for name in names]
    shared, column = np.unique(plain, return_inverse=True)
    counts = [count for _, count in STRONGER + SIDEWAYS]
    deviations = np.array([sizes[0], sizes[0], sizes[1]]) * SHARES / np.sqrt(counts)
    sizes_of = np.repeat(deviations, counts)

    def drawn() -> Floats:
        both = draws.normal(len(shared) * MODES).reshape(-1, len(shared), MODES)[:, column]
        own = draws.normal(len(names) * MODES).reshape(-1, len(names), MODES)
        return np.clip(0.75 * both + 0.66 * own, -2, 2) * sizes_of

    return Manner(drawn().astype(np.float32), (sizes[2] * drawn()).astype(np.float32))


class Contacts:
    """Where faces of the template touch themselves: lips meet, and lids lie on the eyes."""

    def __init__(self, basis: FaceBasis, template: Mesh) -> None:
        self.eyes = [Eye(basis, template, side) for side in ("Left", "Right")]
        self.lips = Lips(template)

    def settled(self, neutral: Neutral) -> Neutral:
        """Neutral faces whose lips do not overlap, and whose lids lie on the eyes."""
        vertices = neutral.vertices.copy()
        self.lips.part(vertices)
        for eye in self.eyes:
            eye.settle(vertices)
        return Neutral(vertices, neutral.joints)


class Motion:
    """Moves faces of the template by the actions of the basis."""

    def __init__(self, basis: FaceBasis, template: Mesh) -> None:
        self.basis, self.template = basis, template
        self.eyes, self.lips = contacts().eyes, contacts().lips
        self.free = self._free()
        self.reach = np.linalg.norm(self.free, axis=2)
        self.skin = self._bulging()
        self.triangles = template.triangles.astype(np.uint32)  # no index counts from the end: that costs time
        self.average = _neighbours(template)
        self.closing = basis.action_names.index("mouthClose")

    @cached_property
    def shapes(self) -> Singles:
        """Each action's shape and its modes, as rows (A * (1 + MODES), V * 3)."""
        return _with_modes(self.free, self.template, self.lips.corners).reshape(-1, self.free.shape[1] * 3)

    def _free(self) -> Singles:
        """The shapes (A, V, 3) of the actions without what lids and lips do by themselves."""
        names = self.basis.action_names
        shapes = self.basis.actions.astype(np.float64)
        for name, length in SOFTENED_MM.items():
            chosen = [i for i, full in enumerate(names) if full.startswith(name)]
            smoother = Smoother(self.template, length)
            shapes[chosen] = smoother(smoother(shapes[chosen]))
        for eye in self.eyes:
            eye.release(names, shapes)
        shapes[names.index("mouthClose")] = 0.0
        return shapes.astype(np.float32)

    def _bulging(self) -> Singles:
        """How far (V,) skin bulges in mm where its area halves: less near the border, not at all on lids and lips."""
        vertices = self.template.vertices
        rim = vertices[self.template.boundary_vertices]
        rim = rim[rim[:, 2] < vertices[self.lips.middle, 2].min()]
        away = far_from(vertices, rim)
        thick = SKIN_MM * np.clip(away / RIM_MM, 0, 1) ** 2
        for eye in self.eyes:
            thick[eye.ball] = 0.0
            thick[eye.lids] *= 1 - eye.clinging
        thick[self.lips.vertices] *= 1 - self.lips.weights.max(axis=0) ** 2
        return thick.astype(np.float32)

    def perform(
        self, neutral: Neutral, actions: Floats, manner: Manner | None, wrinkles: "Wrinkles | None", scale: Floats
    ) -> tuple[Singles, Singles]:
        """Vertices (B, V, 3) of the faces doing `actions` (B, A) in [0, 1]; lengths are multiplied by `scale` (B,).

        And the depths (B, F) in mm of their folds then, where each is deepest. Without a manner everybody moves as the
        actions' shapes say, and without wrinkles no fold deepens (F is 0).
        """
        actions = self._yielding(np.asarray(actions, dtype=np.float64))
        size = scale[:, None].astype(np.float32)
        done = actions.astype(np.float32)
        if manner is None:
            offsets = (done @ self.free.reshape(len(self.free), -1)).reshape(len(done), -1, 3)
        else:
            bent = done[..., None] * (manner.modes + manner.bends * (done[..., None] - 0.5))
            weights = np.concatenate([done[..., None], bent], axis=2).reshape(len(done), -1)
            offsets = (weights @ self.shapes).reshape(len(done), -1, 3)
        pulled = done @ self.reach
        offsets *= (size / np.sqrt(1 + (pulled / np.float32(SATURATION_MM)) ** 2))[..., None]
        motion = actions @ self.basis.jaw_motions
        moved = Neutral(neutral.vertices + offsets, neutral.joints)
        faces = self.basis.with_jaw(moved, motion[:, :3], motion[:, 3:] * scale[:, None])
        rest = vertex_areas(neutral.vertices, self.triangles)
        self._give_way(neutral.vertices, faces, rest)
        self._bulge(faces, rest, scale)
        none = np.empty((len(faces), 0), dtype=np.float32)
        depths = none if wrinkles is None else wrinkles.add(neutral.vertices, faces)
        self.lips.seal(faces, actions[:, self.closing])
        self.lips.part(faces)
        for eye in self.eyes:
            eye.roll(neutral.vertices, faces, eye.strengths(self.basis.action_names, actions))
        return faces, depths

    def _yielding(self, actions: Floats) -> Floats:
        result = actions.copy()
        names = self.basis.action_names
        for name, (other, share) in YIELDING.items():
            for side in ("Left", "Right"):
                result[:, names.index(name + side)] *= 1 - share * np.clip(actions[:, names.index(other + side)], 0, 1)
        return result

    def _give_way(self, neutral: Singles, faces: Singles, rest: Singles) -> None:
        """Where skin of faces would be crushed against the neutral ones, neighbours share the motion, in place."""
        ratio = vertex_areas(faces, self.triangles) / rest
        crushed = np.clip((CRUSHED[1] - ratio) / (CRUSHED[1] - CRUSHED[0]), 0, 1) * (self.skin / np.float32(SKIN_MM))
        rows = np.flatnonzero((crushed > 0).any(axis=1))
        if not len(rows):
            return
        share = crushed[rows].T
        for _ in range(SPREADING):
            share = np.maximum(share, self.average @ (self.average @ share))
        balls = np.concatenate([eye.ball for eye in self.eyes])
        share[balls] = 0.0
        there = np.flatnonzero(share.any(axis=1))
        share, average = np.repeat(share[there], 3, axis=1), self.average[there]
        moved = (faces[rows] - neutral[rows]).transpose(1, 0, 2).reshape(faces.shape[1], -1)
        for _ in range(SHARING):
            own = moved[there]
            moved[there] = own + share * (average @ moved - own)
        faces[rows] = neutral[rows] + moved.reshape(faces.shape[1], len(rows), 3).transpose(1, 0, 2)
        faces[:, balls] = neutral[:, balls]  # to the last bit

    def _bulge(self, faces: Singles, rest: Singles, scale: Floats) -> None:
        """Move the skin of faces along its normals, in place, so that it keeps the volume it had over areas at rest."""
        areas, normals = areas_and_normals(faces, self.triangles)
        bulge = (1 / np.clip(areas / rest, LEAST_AREA, MOST_AREA) - 1).T
        for _ in range(BLURRED):
            bulge = self.average @ bulge
        height = bulge.T * self.skin
        height = THICKEST_MM * np.tanh(height / THICKEST_MM) * scale[:, None].astype(np.float32)
        faces += height[..., None] * normals


class Wrinkles:
    """The wrinkles of some people: `profiles` (B, P) of their `folds`, and gauges along these."""

    def __init__(self, gauges: "Gauges", folds: Folds, profiles: Singles | None = None) -> None:
        self.gauges, self.folds = gauges, folds
        self.profiles = folds.profiles() if profiles is None else profiles

    def of(self, rows: Integers) -> "Wrinkles":
        """The wrinkles of these people."""
        return Wrinkles(self.gauges, self.folds.of(rows), self.profiles[rows])

    def add(self, neutral: Singles, faces: Singles) -> Singles:
        """Fold the skin of faces (B, V, 3), in place, where it is squeezed against the neutral ones.

        Returns the depths (B, F) in mm of the folds then, where each is deepest.
        """
        stretch = self.gauges.stretch(neutral, faces)
        lines = self.gauges.lines
        squeezed = 1 - np.exp(-np.maximum(1 - SLACK - stretch, 0) / FOLDING)
        flat = FLATTENED * (1 - np.exp(-np.maximum(stretch - 1 - SLACK, 0) / FLATTENING))
        at = self.gauges.pairs
        squeezed, flat = squeezed.astype(np.float32), flat.astype(np.float32)
        capacity, rest = self.folds.capacity.astype(np.float32), self.folds.depth.astype(np.float32)
        depth = capacity[:, lines.fold] * (at @ squeezed).T - rest[:, lines.fold] * (at @ flat).T
        height = (lines.onto @ (self.profiles * depth).T).T
        faces += height[..., None] * self.gauges.normals
        deepest, flattest = (part.reshape(-1, GAUGES, len(faces)).max(axis=1).T for part in (squeezed, flat))
        return np.where(deepest > 0, rest + capacity * deepest, rest * (1 - flattest))


class Gauges:
    """Measures how much the surface shrinks across the folds: `GAUGES` along each, by the edges beside its course."""

    def __init__(self, lines: FoldLines, template: Mesh) -> None:
        self.lines, self.normals = lines, template.vertex_normals.astype(np.float32)
        count = len(lines.names)
        starts, ends = template.edges.T
        whole = sp.coo_array(
            (np.ones(2 * len(starts)), (np.r_[starts, ends], np.tile(np.arange(len(starts)), 2))),
            shape=(len(template.vertices), len(starts)),
        ).tocsr()
        along = np.asarray(lines.along, dtype=np.float64) * (GAUGES - 1)
        first = np.minimum(along.astype(np.int64), GAUGES - 2)
        share = along - first
        rows = np.arange(len(lines.fold))
        column = lines.fold * GAUGES + first
        self.pairs = sp.coo_array(
            (np.r_[1 - share, share].astype(np.float32), (np.r_[rows, rows], np.r_[column, column + 1])),
            shape=(len(rows), count * GAUGES),
        ).tocsr()
        near = np.exp(-((lines.away / (2 * lines.widths[lines.fold])) ** 2) - lines.beyond**2 / 9.0)
        directions = template.vertices[ends] - template.vertices[starts]
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        at_pair = whole[lines.vertex].tocoo()  # (P, E)
        cosine = (directions[at_pair.col] * lines.across[at_pair.row]).sum(axis=1)
        across = sp.coo_array((cosine**4 * near[at_pair.row], (at_pair.row, at_pair.col)), shape=at_pair.shape).tocsr()
        weights = sp.csr_array(self.pairs.T.astype(np.float64) @ across)
        total = weights.sum(axis=1)
        weights = sp.csr_array(sp.diags_array(1 / np.maximum(total, 1e-9)) @ weights)
        used = np.unique(weights.indices)
        self.weights = sp.csr_array(weights[:, used], dtype=np.float32)
        self.starts, self.ends = starts[used], ends[used]
        self.measured = total > 1e-6

    def stretch(self, neutral: Singles, faces: Singles) -> Singles:
        """(G, B): the length across the folds against that of the neutral faces."""
        before, after = np.empty((2, len(faces), len(self.starts)), dtype=np.float32)
        _lengths(neutral, self.starts, self.ends, before)
        _lengths(faces, self.starts, self.ends, after)
        found = self.weights @ (after / before).T
        found[~self.measured] = 1.0
        return np.asarray(found)


@cache
def contacts() -> Contacts:
    """Where the face template of the package touches itself."""
    return Contacts(face_basis(), face_template())


@cache
def motion() -> Motion:
    """The motion of the face template of the package."""
    return Motion(face_basis(), face_template())


@cache
def gauges() -> Gauges:
    """The gauges of the folds of that template."""
    return Gauges(fold_lines(), face_template())


def _with_modes(shapes: Singles, template: Mesh, corners: Floats) -> Singles:
    """Each action's shape (A, V, 3) and its modes (A, 1 + MODES, V, 3): times smooth fields, and turned in the skin."""
    draws = Draws(0, "motion-modes", np.arange(len(shapes)))
    points, normals = template.vertices, template.vertex_normals.astype(np.float32)
    modes = np.zeros((len(shapes), 1 + MODES, *shapes.shape[1:]), dtype=np.float32)
    modes[:, 0] = shapes
    moved = [np.flatnonzero(shape.any(axis=1)) for shape in shapes]
    reach = np.linalg.norm(shapes, axis=2).max(axis=1)
    calm = 1 - CORNERS * np.exp(-((np.linalg.norm(points - corners[:, None], axis=2).min(axis=0) / CORNERS_MM) ** 2))
    varied = shapes * np.minimum(1, FAR_MM / np.maximum(reach, 1e-9))[:, None, None] * calm[:, None].astype(np.float32)
    across = np.cross(normals, varied)
    place = 1
    for base, lengths in ((varied, STRONGER), (across, SIDEWAYS)):
        for length, count in lengths:
            for _ in range(count):
                frequency = draws.normal(3 * WAVES).reshape(len(shapes), WAVES, 3) / length
                phase = 2 * np.pi * draws.uniform(WAVES)
                for action in range(len(shapes)):
                    there = moved[action]
                    waves = np.cos(points[there] @ frequency[action].T + phase[action])
                    field = waves.sum(axis=1) * np.sqrt(2 / WAVES)
                    modes[action, place, there] = field[:, None] * base[action, there]
                place += 1
    return modes


def vertex_areas(faces: Singles, triangles: NDArray[np.uint32]) -> Singles:
    """Twice the areas (B, V) of the triangles about each vertex."""
    areas = np.empty(faces.shape[:2], dtype=np.float32)
    _areas(faces, triangles, areas, np.empty((len(faces), 0, 3), dtype=np.float32))
    return areas


def areas_and_normals(faces: Singles, triangles: NDArray[np.uint32]) -> tuple[Singles, Singles]:
    """Twice the areas (B, V) of the triangles about each vertex, and the unit normals (B, V, 3)."""
    areas, normals = np.empty(faces.shape[:2], dtype=np.float32), np.empty_like(faces)
    _areas(faces, triangles, areas, normals)
    return areas, normals


def _neighbours(mesh: Mesh) -> sp.csr_array:
    """(V, V): the mean of a vertex and its neighbours, these together as much as itself."""
    i, j = mesh.edges.T
    graph = sp.coo_array((np.ones(len(i)), (i, j)), shape=(len(mesh.vertices),) * 2).tocsr()
    graph = graph + graph.T
    share = sp.diags_array(0.5 / graph.sum(axis=1))
    return sp.csr_array(share @ graph + 0.5 * sp.eye_array(len(mesh.vertices)), dtype=np.float32)


@compiled(native="areas f4:3 u4:2 f4:2 f4:3")
def _areas(faces, triangles, areas, normals):  # type: ignore[no-untyped-def]
    """Fill the `areas` (B, V) of the triangles about each vertex, doubled, and the unit `normals` (B, V or 0, 3)."""
    for b in range(len(faces)):
        surround(faces[b], triangles, areas[b], normals[b])


@compiled()
def _lengths(faces, starts, ends, lengths):  # type: ignore[no-untyped-def]
    """Fill the `lengths` (B, E) of edges in faces (B, V, 3)."""
    for b in range(len(faces)):
        for e in range(len(starts)):
            i, j = starts[e], ends[e]
            x, y, z = faces[b, j, 0] - faces[b, i, 0], faces[b, j, 1] - faces[b, i, 1], faces[b, j, 2] - faces[b, i, 2]
            lengths[b, e] = np.sqrt(x * x + y * y + z * z)
