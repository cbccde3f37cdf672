"""From a quad head mesh to the face template: subdivide, crop, decimate half a face, close its eye, mirror it.

Every step is linear in the head's vertices: each new vertex is a fixed weighted sum of old ones. A `Template` carries
those weights along, so that at the end one sparse matrix takes any head of the same connectivity onto the template.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.spatial import Delaunay

from meshgan.arrays import Floats, Integers
from meshgan.data.template import Template
from meshgan.errors import MeshganError
from meshgan.geometry.decimate import decimate
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import barycentric_matrix, closest_points

EYE_SPACING = 2.2  # mm between the vertices that close an eye
RING_INSET = 0.6  # mm between the lids and the first ring of them
RING_SPACING = 1.5  # least distance between vertices of the ring, as a multiple of that
STEADY_RINGS = 3  # rows of vertices beside a boundary that stay in the head's own rows
RELAXATIONS = 8  # small steps along the surface that make triangles regular
SMOOTH_COSINE = np.cos(np.radians(22))  # vertices whose triangles turn further from their normal stay: creases


def subdivide(head: Mesh, quads: Integers) -> Template:
    """One Catmull-Clark step (Catmull and Clark 1978) on quads (F, 4) of the head (H vertices), then triangles.

    Boundaries get the cubic B-spline rule.
    """
    count, faces = len(head.vertices), len(quads)
    half_edges = np.sort(np.stack([quads, np.roll(quads, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
    edges, edge_of, uses = np.unique(half_edges, axis=0, return_inverse=True, return_counts=True)
    edge_of, inner = edge_of.reshape(-1, 4), uses == 2
    corners = _ones(np.repeat(np.arange(faces), 4), quads.ravel(), (faces, count))
    ends = _ones(np.repeat(np.arange(len(edges)), 2), edges.ravel(), (len(edges), count))
    sides = _ones(edge_of.ravel(), np.repeat(np.arange(faces), 4), (len(edges), faces))

    centres, middles = corners / 4, ends / 2
    edge_points = _diagonal(np.where(inner, 0.5, 1.0)) @ middles + _diagonal(inner / 4) @ sides @ centres
    n = np.maximum(np.bincount(quads.ravel(), minlength=count), 1).astype(float)
    border = np.zeros(count, dtype=bool)
    border[edges[~inner]] = True
    inside = _diagonal(1 / n**2) @ (corners.T @ centres + 2 * ends.T @ middles) + _diagonal((n - 3) / n)
    along = 0.25 * ends.T @ _diagonal(1.0 * ~inner) @ middles + 0.5 * sp.eye_array(count)
    vertex_points = _diagonal(1.0 * ~border) @ inside + _diagonal(1.0 * border) @ along

    middle, centre = count + edge_of, count + len(edges) + np.arange(faces)
    small = [np.stack([quads[:, i], middle[:, i], centre, middle[:, i - 1]], axis=1) for i in range(4)]
    fine = np.concatenate(small)
    triangles = np.concatenate([fine[:, [0, 1, 2]], fine[:, [0, 2, 3]]])
    return _used(sp.csr_array(sp.vstack([vertex_points, edge_points, centres])), triangles, head)


def part(template: Template, triangles: Integers, head: Mesh) -> Template:
    """Only these triangles of the template, and the vertices that they use."""
    return _used(template.carry, triangles, head)


def face_component(template: Template, head: Mesh) -> Template:
    """The connected part with the most vertices: without what lies behind the lids."""
    label, triangles = template.mesh.components, template.mesh.triangles
    return part(template, triangles[label[triangles[:, 0]] == np.bincount(label).argmax()], head)


def left_half(template: Template, head: Mesh) -> Template:
    """The half with x >= 0 of a mirror-symmetric template."""
    centres = template.mesh.vertices[template.mesh.triangles].mean(axis=1)
    return part(template, template.mesh.triangles[centres[:, 0] > 0], head)


def coarsen(template: Template, count: int, head: Mesh) -> Template:
    """Decimate to `count` vertices, then move them along the surface to where their triangles are regular.

    Vertices on creases, on boundaries and beside them keep their places.
    """
    coarse = decimate(template.mesh, count).mesh
    steady = np.zeros(count, dtype=bool)
    steady[coarse.boundary_vertices] = True
    for _ in range(STEADY_RINGS):
        steady[coarse.edges[steady[coarse.edges].any(axis=1)]] = True
    turn = (coarse.vertex_normals[coarse.triangles] * coarse.triangle_normals[:, None]).sum(axis=2)
    steady[coarse.triangles[turn < SMOOTH_COSINE]] = True
    moving = ~steady
    touches = _ones(coarse.triangles.ravel(), np.repeat(np.arange(len(coarse.triangles)), 3), (count, len(turn)))
    for _ in range(RELAXATIONS):
        centres = coarse.vertices[coarse.triangles].mean(axis=1)
        wanted = touches @ (coarse.areas[:, None] * centres) / (touches @ coarse.areas)[:, None]
        step, normals = (wanted - coarse.vertices)[moving], coarse.vertex_normals[moving]
        step -= (step * normals).sum(axis=1, keepdims=True) * normals
        vertices = coarse.vertices.copy()
        vertices[moving] = closest_points(vertices[moving] + 0.6 * step, template.mesh).points
        coarse = coarse.with_vertices(vertices)
    places = barycentric_matrix(closest_points(coarse.vertices, template.mesh), template.mesh)
    return _used(sp.csr_array(places @ template.carry), coarse.triangles, head)


def close_eye(template: Template, eyeball: Integers, centre: Floats, radius: float, head: Mesh) -> Template:
    """Fill the hole in front of an eyeball with a part of its sphere, joined to the lids.

    A narrow ring of vertices follows the lids, so that the crease is sharp; the rest is a regular grid. The new
    vertices are affine combinations of the eyeball's vertices (indices into the head) and move with them.
    """
    mesh = template.mesh
    near = np.linalg.norm(mesh.vertices - centre, axis=1) < radius + 1
    loop = mesh.boundary_vertices[near[mesh.boundary_vertices]]
    loop = loop[_around(mesh, loop)]
    rays = mesh.vertices[loop] - centre
    rim = rays[:, :2] / rays[:, 2:]  # central projection from the eye's centre
    ring = _inset(rim if _area(rim) > 0 else rim[::-1], RING_INSET / radius)
    new = np.concatenate([ring, _grid(ring, EYE_SPACING / radius)])
    flat = np.concatenate([rim, new])
    inner = Delaunay(flat).simplices
    inner = inner[_contains(rim, flat[inner].mean(axis=1))]
    turn = _cross2(flat[inner[:, 1]] - flat[inner[:, 0]], flat[inner[:, 2]] - flat[inner[:, 0]])
    inner[turn < 0] = inner[turn < 0][:, ::-1]

    directions = np.column_stack([new, np.ones(len(new))])
    points = centre + radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    number = np.concatenate([loop, len(mesh.vertices) + np.arange(len(new))])
    triangles = np.concatenate([mesh.triangles, number[inner]])
    weights = _affine(points, eyeball, head.vertices)
    return _used(sp.csr_array(sp.vstack([template.carry, weights])), triangles, head)


def _inset(polygon: Floats, distance: float) -> Floats:
    """Points inside a counter-clockwise polygon (P, 2), beside its corners and sides, none too close to another."""
    along = np.roll(polygon, -1, axis=0) - polygon
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    inwards = np.column_stack([-along[:, 1], along[:, 0]])
    corner = inwards + np.roll(inwards, 1, axis=0)
    corner /= np.linalg.norm(corner, axis=1, keepdims=True)
    middles = (polygon + np.roll(polygon, -1, axis=0)) / 2
    points = np.stack([polygon + distance * corner, middles + distance * inwards], axis=1).reshape(-1, 2)
    points = _inside(points, polygon, 0.85 * distance)
    chosen: list[int] = []
    for i in range(len(points)):
        if not chosen or np.linalg.norm(points[chosen] - points[i], axis=1).min() > RING_SPACING * distance:
            chosen.append(i)
    return points[chosen]


def _grid(polygon: Floats, step: float) -> Floats:
    """A grid of equilateral triangles inside the polygon, at some distance from its sides."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    rows = np.arange(low[1], high[1], step * np.sqrt(0.75))
    points = [(x + step / 2 * (i % 2), y) for i, y in enumerate(rows) for x in np.arange(low[0], high[0], step)]
    return _inside(np.array(points), polygon, 0.6 * step)


def _area(polygon: Floats) -> float:
    return float(_cross2(polygon, np.roll(polygon, -1, axis=0)).sum() / 2)


def _around(mesh: Mesh, loop: Integers) -> Integers:
    """Positions in `loop` of its vertices in the order in which the boundary runs through them."""
    place = {int(v): i for i, v in enumerate(loop)}
    neighbours: dict[int, list[int]] = {i: [] for i in range(len(loop))}
    for a, b in mesh.boundary_edges.tolist():
        if a in place and b in place:
            neighbours[place[a]].append(place[b])
            neighbours[place[b]].append(place[a])
    if any(len(pair) != 2 for pair in neighbours.values()):
        raise MeshganError("the lids do not bound one opening; has the head mesh changed?")
    order = [0, neighbours[0][0]]
    while len(order) < len(loop):
        a, b = neighbours[order[-1]]
        order.append(a if a != order[-2] else b)
    return np.array(order)


def _contains(polygon: Floats, points: Floats) -> np.ndarray:
    """Which points (N, 2) lie inside the polygon (P, 2): crossings of a ray are odd."""
    a, b = polygon[None], np.roll(polygon, -1, axis=0)[None]
    x, y = points[:, :1], points[:, 1:]
    spans = (a[..., 1] > y) != (b[..., 1] > y)
    rise = np.where(spans, b[..., 1] - a[..., 1], 1.0)
    left = x < a[..., 0] + (y - a[..., 1]) * (b[..., 0] - a[..., 0]) / rise
    return np.count_nonzero(spans & left, axis=1) % 2 == 1


def _inside(points: Floats, polygon: Floats, margin: float) -> Floats:
    """Those points inside the polygon that keep a distance of `margin` from its sides."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    along = b - a
    t = ((points[:, None] - a) * along).sum(axis=2) / (along**2).sum(axis=1)
    nearest = a + np.clip(t, 0, 1)[..., None] * along
    distance = np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1)
    return points[_contains(polygon, points) & (distance > margin)]


def _cross2(a: Floats, b: Floats) -> Floats:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _affine(points: Floats, among: Integers, head: Floats) -> sp.csr_array:
    """The smallest weights (N, H) over `among` that sum to 1 and give `points` (N, 3) of the head at rest."""
    origin = head[among].mean(axis=0)
    system = np.column_stack([head[among] - origin, np.ones(len(among))])
    targets = np.column_stack([points - origin, np.ones(len(points))])
    dense = targets @ np.linalg.pinv(system)
    rows = np.repeat(np.arange(len(points)), len(among))
    return sp.csr_array((dense.ravel(), (rows, np.tile(among, len(points)))), shape=(len(points), len(head)))


def symmetric(
    half: Template, count: int, mirror: Integers, close: Callable[[Template], Template], head: Mesh
) -> Template:
    """Coarsen half a face, `close` its eye and mirror it, so that the whole has `count` vertices.

    `mirror` (H,) is the head vertex opposite each head vertex. Vertices of the mirror plane stay in it.
    """
    size, tried = count // 2, set[int]()
    while size not in tried:
        tried.add(size)
        whole = _mirrored(close(coarsen(half, size, head)), mirror, head)
        surplus = len(whole.mesh.vertices) - count
        if surplus == 0:
            return whole
        size -= surplus // 2 or 1
    raise MeshganError(f"no symmetric template of {count} vertices was found; choose another count.")


def _mirrored(half: Template, mirror: Integers, head: Mesh) -> Template:
    points = half.mesh.vertices
    own = np.flatnonzero(np.abs(points[:, 0]) >= 1e-9)
    opposite = np.arange(len(points))
    opposite[own] = len(points) + np.arange(len(own))
    carry = sp.csr_array(sp.vstack([half.carry, half.carry[own][:, mirror]]))  # mirror is its own inverse
    return _used(carry, np.concatenate([half.mesh.triangles, opposite[half.mesh.triangles][:, ::-1]]), head)


def _used(carry: sp.csr_array, triangles: Integers, head: Mesh) -> Template:
    """The template of the rows of `carry` that a triangle uses."""
    rows, renumbered = np.unique(triangles, return_inverse=True)
    carry = sp.csr_array(carry[rows])
    carry.eliminate_zeros()
    return Template(Mesh(carry @ head.vertices, renumbered.reshape(-1, 3)), carry)


def _ones(rows: Integers, columns: Integers, shape: tuple[int, int]) -> sp.csr_array:
    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _diagonal(values: Floats) -> sp.csr_array:
    return sp.diags_array(values, format="csr")
