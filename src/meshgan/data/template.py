"""From any head mesh to a face template of exactly n vertices: crop, largest part, refine, decimate.

Every step is linear in the vertices of the head, so one sparse matrix carries any head of the same connectivity
onto the template.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from scipy.spatial import KDTree

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.data.corpora.basis import face_template
from meshgan.errors import UsageError
from meshgan.geometry.align import Similarity, similarity
from meshgan.geometry.decimate import decimate
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import ClosestPoints, closest_points
from meshgan.storage import atomic_file

RADIUS_MM = 110.0  # around the tip of the nose: from the hairline to below the chin, up to the ears
NOSE_BELOW_TOP_MM = (60.0, 190.0)  # where the tip of a nose lies under the highest point of a head or face
FEWEST, MOST = 16, 1_000_000  # vertices; fewer make no face, more no template
AXES = ("x", "y", "z", "-x", "-y", "-z")  # that may point up, or where a face looks
SAMPLES, PLACES = 10_000, 120  # points on a mesh, and those of a face that are laid onto them
ROUNDS, LIKELY, WORST = (
    5,
    6,
    0.2,
)  # of laying one onto the other, of the ways worth all rounds, and the share that does not count: beyond a boundary
FITS_MM = 2.2  # faces as they should stand come within 1.1 to 1.9 mm, others not below 2.8
PLAINLY = 0.85  # of the second best turn's distance; on balls and the like, turns are nearly level
SNAP = 0.35  # a vertex nearer to a cut than this share of an edge moves onto it, so that no slivers arise


@dataclass(frozen=True, eq=False)
class Template:
    """A `mesh` (V, 3) made from a head of H vertices, and `carry` (V, H): its rows sum to 1, and
    `carry @ head` gives the template's vertices for any head of the same connectivity."""

    mesh: Mesh
    carry: sp.csr_array

    def locate(self, points: ArrayLike) -> ClosestPoints:
        """Where `points` (L, 3) of the head, landmarks say, lie on the template: triangle and barycentrics."""
        return closest_points(points, self.mesh)

    def save(self, path: Path, landmarks: Mapping[str, ArrayLike]) -> list[Path]:
        """Write the mesh to `path` and named points (3,) of the head, if any, beside it; returns what was written.

        `NAME.landmarks.json` lists for each point its name and the three vertices and weights that make it.
        """
        write_mesh(path, self.mesh)
        if not landmarks:
            return [path]
        found = self.locate([np.asarray(point) for point in landmarks.values()])
        marks = [
            {"name": name, "vertices": corners.tolist(), "weights": weights.round(6).tolist()}
            for name, corners, weights in zip(
                landmarks, self.mesh.triangles[found.triangle], found.barycentric, strict=True
            )
        ]
        beside = path.with_suffix(".landmarks.json")
        lines = ",\n".join(map(json.dumps, marks))
        with atomic_file(beside) as partial:
            partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        return [path, beside]


def landmark_names() -> tuple[str, ...]:
    """The names of the 79 landmarks, in order; the first 68 are iBUG's."""
    marks = json.loads((files("meshgan.data") / "assets" / "face_landmarks.json").read_text(encoding="utf-8"))
    return tuple(mark["name"] for mark in marks)


def make_template(
    mesh: Mesh,
    count: int,
    keep: Booleans | None = None,
    centre: ArrayLike | None = None,
    radius_mm: float = RADIUS_MM,
) -> Template:
    """Turn a head into a template of exactly `count` vertices.

    `keep` (H,) marks the vertices to use. Without it, the face is cut out along a sphere of `radius_mm` around
    `centre`, by default the tip of the nose of a head in millimetres that looks along +z. Only the largest
    connected part is used; it is refined by Loop's rule while it has fewer vertices than asked for. Raises
    `UsageError` if no surface is left, `MeshganError` if the count cannot be reached.
    """
    if not FEWEST <= count <= MOST:
        raise UsageError(f"a template needs at least {FEWEST} and at most {MOST:,} vertices, not {count}.")
    if keep is not None and keep.shape != (len(mesh.vertices),):
        raise UsageError(f"the mesh has {len(mesh.vertices)} vertices, the mask of those to keep {len(keep)}.")
    template = Template(mesh, sp.eye_array(len(mesh.vertices), format="csr"))
    if keep is not None:
        kept = mesh.triangles[keep[mesh.triangles].all(axis=1)]
        template = _combined(template, sp.eye_array(len(mesh.vertices)), kept)
    else:
        middle = nose_tip(mesh) if centre is None else np.asarray(centre, dtype=np.float64)
        template = cut(template, np.linalg.norm(mesh.vertices - middle, axis=1) - radius_mm)
    template = _largest_part(template)
    while len(template.mesh.vertices) < count:
        template = refine(template)
    coarse = decimate(template.mesh, count)
    carry = template.carry[coarse.kept]
    return Template(coarse.mesh.with_vertices(carry @ mesh.vertices), carry)


def nose_tip(mesh: Mesh) -> Floats:
    """The tip (3,) of the nose of a head in millimetres that looks along +z with y up.

    It is the foremost point at the height where noses are, so that neither chest nor hair is taken for it.
    """
    points = mesh.vertices[np.unique(mesh.triangles)]
    if not len(points):
        raise UsageError("the mesh has no triangles.")
    region = points[_at_nose(points)]
    if not len(region):
        raise UsageError("no nose was found: is the head upright, and is its unit the right one?")
    return region[region[:, 2].argmax()]


def _at_nose(points: Floats) -> Booleans:
    """Which of the points (N, 3) of a head with y up lie at the height where noses are."""
    below = points[:, 1].max() - points[:, 1]
    return (below >= NOSE_BELOW_TOP_MM[0]) & (below <= NOSE_BELOW_TOP_MM[1])


def turn_upright(mesh: Mesh, name: str, up: str | None = None, front: str | None = None) -> tuple[Floats, str]:
    """The rotation (3, 3) of a face or head in millimetres that looks along the axis `front` with `up` up, and what
    to tell about it.

    `turn @ point` looks along z with y up. Where nothing is said, that is how the mesh stands unless it plainly does
    otherwise: then it is turned, and that is told. Where one axis is said, the other is what is usual with it (-y
    where z is up), and a mesh that plainly stands otherwise is a `UsageError`. Two axes are believed.
    """
    believed, said = up is not None and front is not None, up is not None or front is not None
    up = up or ("z" if front and front[-1] == "y" else "y")
    front = front or _usual_front(up)
    for option, axis in (("up", up), ("front", front)):
        if axis not in AXES:
            raise UsageError(f"`{option}={axis!r}`: choose one of {', '.join(AXES)}.")
    if up[-1] == front[-1]:
        raise UsageError(f"a face cannot look along {front} where {up} is up; choose another `front`.")
    turn = _turn(up, front)
    found = None if believed else _standing(mesh.with_vertices(mesh.vertices @ turn.T))
    if found is None:
        return turn, ""
    true_up, true_front = (_axis(turn.T @ _direction(axis)) for axis in found)
    beside = "" if true_front == _usual_front(true_up) else f" with `front={true_front!r}`"
    told = f"{name} looks along {true_front} with {true_up} up"
    if said:
        raise UsageError(
            f"{told}; `up={true_up!r}`{beside} turns it (`up={up!r}` with `front={front!r}` is believed all the same)."
        )
    return _turn(true_up, true_front), (
        f"{told} and was turned, as `up={true_up!r}`{beside} does; "
        f"`up={up!r}` with `front={front!r}` would leave it as it is."
    )


def _usual_front(up: str) -> str:
    return "-y" if up[-1] == "z" else "z"


def _direction(axis: str) -> Floats:
    return np.eye(3)["xyz".index(axis[-1])] * (-1 if axis[0] == "-" else 1)


def _axis(direction: Floats) -> str:
    return max(AXES, key=lambda axis: float(_direction(axis) @ direction))


def _turn(up: str, front: str) -> Floats:
    return np.stack([np.cross(_direction(up), _direction(front)), _direction(up), _direction(front)])


def _standing(mesh: Mesh) -> tuple[str, str] | None:
    """Which axis is up on a face or head, and along which it looks, where that is plain and not y and z."""
    if not mesh.areas.any():
        return None
    points = _spread(mesh, SAMPLES)
    tree = KDTree(points)
    if _distance(points, tree, "y", "z") < FITS_MM:
        return None
    ways = [(up, front) for up, front in itertools.product(AXES, AXES) if up[-1] != front[-1]]
    likely = sorted(ways, key=lambda way: _distance(points, tree, way[0], way[1], 1))[:LIKELY]
    found = sorted((_distance(points, tree, way[0], way[1]), way) for way in likely)
    plain = found[0][0] < PLAINLY * found[1][0] and found[0][1] != ("y", "z")
    return found[0][1] if plain else None


def _distance(points: Floats, tree: KDTree, up: str, front: str, rounds: int = ROUNDS) -> float:
    """The mean distance (mm) of the face template from `points`, laid onto them by a similarity that is near `up` and
    `front`; infinite if none is."""
    face, nose = _places()
    turn = _turn(up, front).T  # of the template onto the points
    stood = points @ turn
    starts = [points.mean(axis=0) - turn @ face.mean(axis=0)]
    region = stood[_at_nose(stood)]
    if len(region):  # of a head, the middle is not the face's
        starts.append(turn @ (region[region[:, 2].argmax()] - nose))
    counted = round(len(face) * (1 - WORST))
    best = np.inf
    for start in starts:
        motion = Similarity(1.0, turn, start)
        for _ in range(rounds):
            distance, nearest = tree.query(motion(face))
            near = np.argsort(distance)[:counted]
            motion = similarity(face[near], points[nearest[near]])
        turned = (np.trace(turn.T @ motion.rotation) - 1) / 2
        if 0.7 < motion.scale < 1.4 and turned > np.cos(np.radians(46)):
            best = min(best, float(np.sort(tree.query(motion(face))[0])[:counted].mean()))
    return best


@cache
def _places() -> tuple[Floats, Floats]:
    """Points (P, 3) on the package's face, and the tip (3,) of its nose."""
    face = face_template()
    return _spread(face, PLACES), nose_tip(face)


def _spread(mesh: Mesh, count: int) -> Floats:
    """Points (count, 3) that are spread over a surface evenly, the same at each call."""
    total = np.cumsum(mesh.areas)
    where = np.searchsorted(total, (np.arange(count) + 0.5) / count * total[-1])
    far, along = np.random.default_rng(0).random((2, count))
    weights = np.stack([1 - np.sqrt(far), np.sqrt(far) * (1 - along), np.sqrt(far) * along], axis=1)
    return np.einsum("nk,nkc->nc", weights, mesh.vertices[mesh.triangles[where.clip(max=len(total) - 1)]])


def cut(template: Template, level: Floats) -> Template:
    """The part where `level` (V,) is negative, with a clean edge along its zero line."""
    template, level = _snap(template, level)
    triangles, size = template.mesh.triangles, len(level)
    signs = np.sign(level[triangles])
    negative, positive = (signs < 0).sum(axis=1), (signs > 0).sum(axis=1)
    whole = triangles[(negative > 0) & (positive == 0)]
    one = _turned(triangles, signs < 0, (negative == 1) & (positive > 0))  # the negative corner first
    two = _turned(triangles, signs > 0, (negative == 2) & (positive == 1))  # the positive corner first
    sides = np.concatenate([one[:, [0, 1]], one[:, [0, 2]], two[:, [0, 1]], two[:, [0, 2]]])
    crossed = np.unique(np.sort(sides[level[sides].prod(axis=1) < 0], axis=1), axis=0)
    codes = crossed @ [size, 1]

    def end(start: Integers, stop: Integers) -> Integers:
        """The new vertex on the edge, or `stop` if the zero line runs through that."""
        between = np.searchsorted(codes, np.minimum(start, stop) * size + np.maximum(start, stop))
        return np.where(level[stop] == 0, stop, size + between)

    a, b, c = one.T
    p, q, r = two.T
    pieces = [(a, end(a, b), end(a, c)), (end(p, q), q, r), (end(p, q), r, end(p, r))]
    kept = np.concatenate([whole, *(np.stack(piece, axis=1) for piece in pieces)])
    return _combined(template, sp.vstack([sp.eye_array(size), _crossings(crossed, level)]), kept)


def refine(template: Template) -> Template:
    """One step of Loop's subdivision (Loop 1987): four triangles for each, smooth inside and along boundaries.

    Edges of other than two triangles follow the cubic B-spline of the boundary rule, as do vertices where two of
    them meet; where one meets, or more than two, the vertex stays in place.
    """
    triangles, size = template.mesh.triangles, len(template.mesh.vertices)
    half_edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, edge_of, uses = np.unique(half_edges, axis=0, return_inverse=True, return_counts=True)
    edge_of, sharp = edge_of.reshape(-1, 3), uses != 2
    ends = _ones(np.repeat(np.arange(len(edges)), 2), edges.ravel(), (len(edges), size))
    opposite = _ones(edge_of.ravel(), triangles[:, [2, 0, 1]].ravel(), (len(edges), size))
    edge_rule = _diagonal(np.where(sharp, 1 / 2, 3 / 8)) @ ends + _diagonal(np.where(sharp, 0, 1 / 8)) @ opposite
    (a, b, c), (ab, bc, ca) = triangles.T, size + edge_of.T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    finer = np.concatenate([np.stack(part, axis=1) for part in parts])
    return _combined(template, sp.vstack([_vertex_rule(edges, sharp, size), edge_rule]), finer)


def _vertex_rule(edges: Integers, sharp: Booleans, size: int) -> sp.csr_array:
    """How old vertices move (V, V): Loop's weights inside, the B-spline's along sharp edges."""
    neighbours, along = _adjacency(edges, size), _adjacency(edges[sharp], size)
    degree, creases = neighbours.sum(axis=1), along.sum(axis=1)
    n = np.maximum(degree, 1)
    loop = (5 / 8 - (3 / 8 + np.cos(2 * np.pi / n) / 4) ** 2) / n
    inside, border = np.where(creases == 0, loop, 0.0), np.where(creases == 2, 1 / 8, 0.0)
    own = 1 - degree * inside - creases * border
    return _diagonal(own) + _diagonal(inside) @ neighbours + _diagonal(border) @ along


def _snap(template: Template, level: Floats) -> tuple[Template, Floats]:
    """Move vertices that lie close to the zero line onto it, along the edge on which they are closest."""
    edges = template.mesh.edges[level[template.mesh.edges].prod(axis=1) < 0]
    both = np.concatenate([edges, edges[:, ::-1]])
    share = level[both[:, 0]] / (level[both[:, 0]] - level[both[:, 1]])
    order = np.argsort(share, kind="stable")
    order = order[share[order] < SNAP]
    chosen = both[order[np.unique(both[order, 0], return_index=True)[1]]]
    moved = chosen[:, 0]
    row = np.arange(len(level))
    row[moved] = len(level) + np.arange(len(moved))
    matrix = sp.vstack([sp.eye_array(len(level)), _crossings(chosen, level)]).tocsr()[row]
    vertices = matrix @ template.mesh.vertices
    level = level.copy()
    level[moved] = 0.0
    return Template(template.mesh.with_vertices(vertices), matrix @ template.carry), level


def _crossings(edges: Integers, level: Floats) -> sp.csr_array:
    """(E, V): the points of the edges (E, 2) where `level`, linear on each, is zero."""
    first, last = level[edges].T
    share = first / (first - last)
    rows = np.repeat(np.arange(len(edges)), 2)
    weights = np.stack([1 - share, share], axis=1)
    return sp.csr_array((weights.ravel(), (rows, edges.ravel())), shape=(len(edges), len(level)))


def _turned(triangles: Integers, marked: Booleans, chosen: Booleans) -> Integers:
    """The `chosen` triangles, turned so that their one marked corner comes first."""
    first = marked[chosen].argmax(axis=1)
    return np.take_along_axis(triangles[chosen], (first[:, None] + np.arange(3)) % 3, axis=1)


def _largest_part(template: Template) -> Template:
    """The connected part with the largest area."""
    triangles = template.mesh.triangles
    if not template.mesh.areas.sum() > 0:
        raise UsageError("no surface is left after the crop; check the unit, the centre and the radius or mask.")
    part = template.mesh.components[triangles[:, 0]]
    largest = np.bincount(part, weights=template.mesh.areas).argmax()
    return _combined(template, sp.eye_array(len(template.mesh.vertices)), triangles[part == largest])


def _combined(template: Template, matrix: sp.csr_array, triangles: Integers) -> Template:
    """New vertices `matrix` (V', V) times the old ones, less those that no triangle uses."""
    used, renumbered = np.unique(triangles, return_inverse=True)
    matrix = matrix.tocsr()[used]
    return Template(Mesh(matrix @ template.mesh.vertices, renumbered.reshape(-1, 3)), (matrix @ template.carry).tocsr())


def _adjacency(edges: Integers, size: int) -> sp.csr_array:
    i, j = np.concatenate([edges, edges[:, ::-1]]).T
    return _ones(i, j, (size, size))


def _ones(rows: Integers, columns: Integers, shape: tuple[int, int]) -> sp.csr_array:
    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _diagonal(values: Floats) -> sp.csr_array:
    return sp.diags_array(values, format="csr")
