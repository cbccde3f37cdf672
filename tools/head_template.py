"""The whole head around the face template: scalp, ears and neck, the inside of the mouth, teeth and tongue.

The skin of the head has the face template's own vertices and triangles, but for its closed eyes; what is around them is
decimated by itself and joined by a strip of triangles. Every point is a fixed weighted sum of the source head's
vertices, `carry` (R, H), as the face template's are.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.polynomial import Polynomial
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

import face_template as face
from meshgan.arrays import Booleans, Floats, Integers
from meshgan.data.template import Template, cut
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh

HALF = {"outer": 1750, "mouth": 240}  # vertices of the left half
BAND = 4.0  # mm between the face and what is around it, for the strip that joins them
# mm: the height at which the neck ends, how it falls towards the front, and rises sidewards
NECK = (566.0, 0.16, 0.005)
HEM, NEAR = 12.0, 3.0  # mm: borders so near where the neck ends are its hem; so near the middle, it may be jagged
TONGUE, NARROWER = 190, 0.06  # vertices of the tongue's left half; so much of its other side is mixed in
TEETH = (4.3, 3.5, 3.9, 3.6, 3.6, 5.0, 4.8)  # mm: half the width of each tooth, from the middle to the back
COLUMNS = (-1.0, -0.72, 0.0, 0.72)  # places of columns of vertices across a tooth, of which the first is the gap


@dataclass(frozen=True, eq=False)
class Arch:
    """One row of teeth in the source's frame: the half-axes of the ellipse of their front, its front, the height of
    the biting edge of incisors, and which way crowns grow (-1 down). As wide and deep as the source's blocks are."""

    side: float
    depth: float
    front: float
    edge: float
    grows: float


UPPER = Arch(29.0, 42.0, 136.3, 666.3, -1.0)
LOWER = Arch(27.3, 40.5, 133.6, 665.3, 1.0)
FLOOR = 650.0, 0.4  # mm: the mouth's floor below that height is so much as deep as the source's
BITE = 663.0, 673.0  # mm: the inside of the mouth below goes with the jaw, above it does not
# The tongue is smaller than the source's and lies lower: its tip, the height that stays, shares of its height and
# length, and mm down.
TIP, LEVEL, FLAT, SHORT, DOWN = 127.5, 660.0, 0.7, 0.85, 4.5
# The way of a tongue that is out, height and depth of its middle in mm, the jaw standing still; its thickness and width
# along that way, of those at rest; and how much more it lengthens towards its tip.
OUT = ((657.0, 69.0), (662.0, 90.0), (666.0, 108.0), (668.6, 128.0), (668.2, 140.0), (666.0, 150.5), (662.4, 158.0),
       (656.5, 163.0), (649.0, 165.5))  # fmt: skip
THICK, WIDE, LONGER = (1.0, 0.9, 0.75, 0.6, 0.55), (1.0, 0.95, 0.85, 0.77, 0.74), 1.15
ROOT, CUPPED = 0.15, 1.2  # so much of the tongue stays; and mm by which its sides are higher at the tip
# A row's section: how far in from the front (mm) and how far from the edge towards the gum (mm), front to back.
SECTION = (
    (0.6, 14.0), (-0.2, 11.3), (0.0, 9.3), (0.25, 8.6), (-0.1, 5.0), (0.45, 1.0), (1.2, 0.0), (2.3, 0.3), (3.0, 1.8),
    (4.6, 8.0), (6.0, 12.5),
)  # fmt: skip
CAP = 0.011  # of a row's length in the texture: how deep the cap at its end is
GUM = 3  # rows of the section that are gum, at its front; and the last two at its back


def below_neck(points: Floats) -> Floats:
    """How far (N,) points lie below the surface where the neck ends, in mm."""
    x, y, z = points.T
    return np.asarray(NECK[0] - NECK[1] * z + NECK[2] * x**2 - y)


def path(mesh: Mesh, ours: Booleans) -> Integers:
    """The boundary vertices `ours` (V,) of the left half of a mesh, in order: from the plane of symmetry to it again,
    beginning at the higher end."""
    edges = mesh.boundary_edges
    middle = np.abs(mesh.vertices[:, 0]) < 1e-6
    edges = edges[ours[edges].all(axis=1) & ~middle[edges].all(axis=1)]
    beside: dict[int, list[int]] = {}
    for a, b in edges.tolist():
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    ends = [v for v, found in beside.items() if len(found) == 1]
    if len(ends) != 2 or not middle[ends].all():
        raise MeshganError("the border between face and head is not one line; has the head mesh changed?")
    order = [max(ends, key=lambda v: float(mesh.vertices[v, 1]))]
    while len(order) < len(beside):
        order += [v for v in beside[order[-1]] if v not in order[-2:]]
    return np.array(order)


def joined(points: Floats, one: Integers, other: Integers) -> Integers:
    """Triangles (F, 3) between two lines of vertices that run beside each other, each edge the shorter of two."""
    triangles, i, j = [], 0, 0
    while i < len(one) - 1 or j < len(other) - 1:
        ahead = [
            np.linalg.norm(points[one[i + 1]] - points[other[j]]) if i < len(one) - 1 else np.inf,
            np.linalg.norm(points[one[i]] - points[other[j + 1]]) if j < len(other) - 1 else np.inf,
        ]
        if ahead[0] <= ahead[1]:
            triangles.append((one[i], one[i + 1], other[j]))
            i += 1
        else:
            triangles.append((one[i], other[j + 1], other[j]))
            j += 1
    return np.array(triangles)


def skin(
    template: Template, balls: Integers, fine: Template, crop: Floats, mouth: Template, mirror: Integers, rest: Mesh
) -> tuple[Template, Booleans]:
    """The head's skin, whose first vertices are those of the face template, eyeballs among them, and which of its
    vertices (V,) lie inside the mouth.

    `fine` (V) is the finely divided left half of the source's skin, `crop` (V,) its signed distance from the face, and
    `mouth` that of what lies behind the lips of the face template.
    """
    size = len(template.mesh.vertices)
    outer = cut(fine, BAND - crop)
    outer = cut(outer, below_neck(outer.mesh.vertices))
    outer = face.coarsen(face.face_component(outer, rest), HALF["outer"], rest)
    outer = _whole_hem(outer, mirror, rest)
    inner = face.coarsen(face.face_component(mouth, rest), HALF["mouth"], rest)
    left = template.mesh.vertices[:, 0] > -1e-6
    near_lips = cKDTree(inner.mesh.vertices).query(template.mesh.vertices)[0] < 12
    rim = path(template.mesh, left & ~(near_lips & (template.mesh.vertices[:, 2] > 100)))
    lips = path(template.mesh, left & near_lips)
    own_rim = path(outer.mesh, below_neck(outer.mesh.vertices) < -HEM)
    own_lips = path(inner.mesh, np.ones(len(inner.mesh.vertices), bool))
    carry = sp.csr_array(sp.vstack([template.carry, outer.carry, inner.carry]))
    points = carry @ rest.vertices
    at = (size, size + len(outer.mesh.vertices))
    strips = [joined(points, rim, own_rim + at[0]), joined(points, lips, own_lips + at[1])]
    starts = {tuple(pair) for pair in template.mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist()}
    strips = [
        strip[:, ::-1] if tuple(edge) in starts else strip
        for strip, edge in zip(strips, (rim[:2], lips[:2]), strict=True)
    ]
    half = np.concatenate([strips[0], outer.mesh.triangles + at[0], strips[1], inner.mesh.triangles + at[1]])
    own = size + np.flatnonzero(np.abs(points[size:, 0]) >= 1e-6)
    opposite = np.arange(len(points))
    opposite[:size] = cKDTree(points[:size]).query(points[:size] * [-1, 1, 1])[1]
    opposite[own] = len(points) + np.arange(len(own))
    carry = sp.csr_array(sp.vstack([carry, carry[own][:, mirror]]))
    open_eyes = template.mesh.triangles[~np.isin(template.mesh.triangles, balls).any(axis=1)]
    triangles = np.concatenate([open_eyes, half, opposite[half][:, ::-1]])
    inside = np.zeros(at[1] + len(inner.mesh.vertices), dtype=bool)
    inside[at[1] :] = True
    return Template(Mesh(carry @ rest.vertices, triangles), carry), np.concatenate([inside, inside[own]])


def _whole_hem(half: Template, mirror: Integers, rest: Mesh) -> Template:
    """The half with the ends of the neck's hem, in the plane of symmetry, as low as the vertices beside them."""
    rows, hem = sp.lil_array(half.carry), path(half.mesh, below_neck(half.mesh.vertices) > -HEM)
    for end, beside in zip(hem[[0, -1]], hem[[1, -2]], strict=True):
        if abs(half.mesh.vertices[beside, 0]) < NEAR:
            own = half.carry[[beside]]
            rows[[end]] = (own + own[:, mirror]) / 2
    carry = sp.csr_array(rows)
    return Template(Mesh(carry @ rest.vertices, half.mesh.triangles), carry)


def roomy(points: Floats) -> Floats:
    """Points (N, 3) inside the source's mouth, moved so that its floor and the corners above the upper teeth keep away
    from the skin of chin and cheeks."""
    x, y, z = points.T
    corner = _step(np.abs(x), 8, 18) * _step(y, 669, 677) * _step(z, 118, 132)
    moved = np.column_stack([np.zeros(len(x)), (1 - FLOOR[1]) * np.maximum(FLOOR[0] - y, 0) - 3 * corner, -7 * corner])
    return np.asarray(points + moved)


def _step(values: Floats, low: float, high: float) -> Floats:
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def with_jaw(points: Floats) -> Floats:
    """How far (N,) points inside the mouth go with the jaw: below the bite fully, above it not."""
    return 1 - _step(points[:, 1], *BITE)


def tongue(quads: Integers, rest: Mesh, mirror: Integers) -> Mesh:
    """The tongue, a little narrower and flatter than the source's, so that it lies between the teeth."""
    half = face.left_half(face.subdivide(rest, quads), rest)
    whole = face._mirrored(face.coarsen(half, TONGUE, rest), mirror, rest)
    other = cKDTree(whole.mesh.vertices).query(whole.mesh.vertices * [-1, 1, 1])[1]
    points = (1 - NARROWER) * whole.mesh.vertices + NARROWER * whole.mesh.vertices[other]
    points[:, 1] = LEVEL + FLAT * (points[:, 1] - LEVEL) - DOWN
    points[:, 2] = TIP + SHORT * (points[:, 2] - points[:, 2].max())
    return Mesh(points, whole.mesh.triangles)


def tongue_out(points: Floats) -> Floats:
    """Where the vertices (T, 3) of the tongue are when it is out, the jaw standing still: it lengthens towards its tip,
    thins, goes over the lower teeth and lip, and bends down."""
    x, y, z = points.T
    way = np.clip((z - z.min()) / np.ptp(z), 0, 1)
    over = y - Polynomial.fit(z, y, 3)(z)
    line = np.array(OUT)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    curve, at = CubicSpline(along, line), along[-1] * way**LONGER
    (height, depth), (up, ahead) = curve(at).T, curve(at, 1).T
    thick, wide = (np.interp(way, np.linspace(0, 1, len(shares)), shares) for shares in (THICK, WIDE))
    over = (over * thick + CUPPED * way * (x / np.abs(x).max()) ** 2) / np.hypot(up, ahead)
    out = np.column_stack([x * wide, height + over * ahead, depth - over * up])
    return np.asarray(points + np.minimum(way / ROOT, 1)[:, None] * (out - points))


def teeth(arch: Arch) -> tuple[Mesh, Floats]:
    """A row of fourteen teeth in its gum, one surface, and texture coordinates (V, 2) in a unit square: along the row,
    and from the gum in front over the edge to the gum behind."""
    places, bounds = [], np.concatenate([[0.0], np.cumsum(2 * np.array(TEETH))])
    for number, half in enumerate(TEETH):
        places += [(bounds[number] + half * (1 + column), column, number) for column in COLUMNS]
    places.append((bounds[-1], -1.0, len(TEETH) - 1))
    angle = np.linspace(0, np.pi / 2, 4000)
    curve = np.column_stack([arch.side * np.sin(angle), arch.front - arch.depth + arch.depth * np.cos(angle)])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    sections = []
    for at, column, number in places:
        x, z = (np.interp(at, along, curve[:, i]) for i in range(2))
        if at > along[-1]:
            z -= at - along[-1]
        back, out = np.interp(at, along, angle), None
        out = np.array([np.sin(back) / arch.side, np.cos(back) / arch.depth])
        out /= np.linalg.norm(out)
        gap, molar = max(abs(column) - 0.72, 0) / 0.28, number >= 3
        rows = []
        for place, (inwards, up) in enumerate(SECTION):
            gum = place < GUM or place >= len(SECTION) - 2
            inwards = inwards * (1.35 if molar and place > 6 else 1.0)
            if not gum:
                inwards += gap * (0.9 if place < 6 else -0.5 if place > 7 else 0.3)
                up = up + gap * (1.3 if 4 < place < 9 else 0.0)
            if place in (GUM - 1, GUM):
                up -= 1.6 * abs(column) ** 3  # papillae
            if number == 2 and 4 < place < 8:
                up -= 0.4 * (1 - abs(column))  # canines are pointed
            if molar and place == 6:
                up += 0.5
            sink = 0.06 * number if arch.grows < 0 else -0.05 * number
            height = arch.edge - arch.grows * (up * (1 - 0.035 * number)) + sink
            rows.append((x - inwards * out[0], height, z - inwards * out[1]))
        sections.append(rows)
    half = np.array(sections)  # (C, P, 3)
    whole = np.concatenate([half[:0:-1] * [-1, 1, 1], half])
    columns, count = whole.shape[:2]
    index = np.arange(columns * count).reshape(columns, count)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    if arch.grows < 0:
        triangles = triangles[:, ::-1]
    caps = [(index[0], True), (index[-1], False)]
    for line, first in caps:
        pieces, low, high = [], 0, count - 1
        while high - low > 1:
            pieces.append((line[low], line[low + 1], line[high]))
            low += 1
            if high - low > 1:
                pieces.append((line[low], line[high - 1], line[high]))
                high -= 1
        turned = np.array(pieces)
        triangles = np.concatenate([triangles, turned[:, ::-1] if first == (arch.grows > 0) else turned])
    points = whole.reshape(-1, 3)
    steps = np.linalg.norm(np.diff(whole.mean(axis=0), axis=0), axis=1)
    v = np.concatenate([[0], np.cumsum(steps)]) / steps.sum()
    u = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(whole[:, 5], axis=0), axis=1))])
    strip = np.stack(np.broadcast_arrays(u[:, None] / u[-1], v[None]), axis=-1)
    for end, sign in ((0, 1), (-1, -1)):  # hollow, so that the caps lie there
        strip[end, :, 0] += sign * CAP * 4 * v * (1 - v)
    strip = strip.reshape(-1, 2)
    return Mesh(points, triangles), strip


def eyeball(rings: Floats, around_it: int) -> Mesh:
    """A unit sphere that looks along z, open behind: a pole and `rings` (R,) of vertices, angles in degrees."""
    turn = 2 * np.pi * np.arange(around_it) / around_it
    points, triangles = [(0.0, 0.0, 1.0)], []
    for number, angle in enumerate(np.radians(rings)):
        shift = np.pi / around_it * (number % 2)
        points += [(np.sin(angle) * np.cos(t + shift), np.sin(angle) * np.sin(t + shift), np.cos(angle)) for t in turn]
    ring = 1 + np.arange(len(rings) * around_it).reshape(len(rings), around_it)
    after = np.roll(ring, -1, axis=1)
    triangles = [(0, a, b) for a, b in zip(ring[0], after[0], strict=True)]
    for number in range(len(rings) - 1):
        inner, outer = (ring[number], after[number]), (ring[number + 1], after[number + 1])
        for a, b, c, d in zip(*inner, *outer, strict=True):
            triangles += [(a, c, b), (b, c, d)] if number % 2 == 0 else [(a, c, d), (a, d, b)]
    return Mesh(np.array(points), np.array(triangles))
