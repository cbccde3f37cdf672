"""Texture coordinates of a template, carried over from those of the head that it was made of, without overlaps.

A triangle of the template belongs to the part of the head's texture (skin, inside of the mouth, eyeball) that it lies
nearest to, and its corners take the coordinates of the nearest points of that part. Where a projection folds (in
nostrils, on the edges of lips), neighbours are averaged until no triangle is turned over. Each part then gets a
place of its own in the square, turned so that up is up.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.data.template import Template
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points

ROUNDS, SWEEPS = 400, 10  # of mending folds, and of averaging in each
LEAST = 0.002  # of the median area of a part's triangles: smaller ones count as folded
SAME = 1e-4  # texture coordinates nearer than that are one


@dataclass(frozen=True, eq=False)
class Place:
    """Where a part lies in the square: its `middle`, and its `width` there, after a turn by `turn` degrees."""

    middle: tuple[float, float]
    width: float
    turn: float = 0.0


SKIN, MOUTH = Place((0.5, 0.56), 0.94, -90.0), Place((0.5, 0.07), 0.46)
STEPS = 65535  # of a stored coordinate


def parts_of(texture_triangles: Integers, count: int) -> Integers:
    """For each triangle (F, 3) of texture coordinates the number of the connected part that it is in."""
    ends = texture_triangles[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = sp.coo_array((np.ones(len(ends)), tuple(ends.T)), shape=(count, count))
    return connected_components(graph, directed=False)[1][texture_triangles[:, 0]].astype(np.int64)


def carried(
    template: Mesh, head: Mesh, texture: Floats, corners: Integers, group: Integers, head_group: Integers
) -> tuple[Floats, Integers, Integers]:
    """Texture coordinates (T, 2), for each triangle of the template its three of them (F, 3), and its part (F,).

    `corners` (G, 3) index `texture` (U, 2) for each triangle of the head. Triangles lie in the parts of their own
    `group` (F,) of the head's triangles, `head_group` (G,). A part that is cut along the plane of symmetry is carried
    over half by half.
    """
    part = parts_of(corners, len(texture))
    middles = template.vertices[template.triangles].mean(axis=1)
    belongs = np.empty(len(group), dtype=np.int64)
    for number in np.unique(group):
        source = np.flatnonzero(head_group == number)
        found = closest_points(middles[group == number], Mesh(head.vertices, head.triangles[source]))
        belongs[group == number] = part[source[found.triangle]]
    left = middles[:, 0] > 0
    head_left = head.vertices[head.triangles].mean(axis=1)[:, 0] > 0
    wanted = np.full((*template.triangles.shape, 2), np.nan)
    for number in np.unique(belongs):
        for side in (True, False):
            own = (belongs == number) & (left == side)
            source = np.flatnonzero((part == number) & (head_left == side))
            if not own.any():
                continue
            vertices, place = np.unique(template.triangles[own], return_inverse=True)
            found = closest_points(template.vertices[vertices], Mesh(head.vertices, head.triangles[source]))
            at = (texture[corners[source[found.triangle]]] * found.barycentric[..., None]).sum(axis=1)
            wanted[own] = at[place.reshape(-1, 3)]
    return *_joined(template.triangles, belongs, wanted), belongs


def _joined(triangles: Integers, belongs: Integers, wanted: Floats) -> tuple[Floats, Integers]:
    """One texture coordinate for the corners of a vertex in a part that are at the same place."""
    flat = wanted.reshape(-1, 2)
    owner = triangles.ravel() + np.repeat(belongs, 3) * (triangles.max() + 1)
    order = np.lexsort((flat[:, 1], flat[:, 0], owner))
    apart = np.abs(np.diff(flat[order], axis=0)).max(axis=1) > SAME
    new = np.r_[True, (np.diff(owner[order]) != 0) | apart]
    number = np.empty(len(flat), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    count = np.bincount(number)
    coordinates = np.stack([np.bincount(number, flat[:, axis]) / count for axis in range(2)], axis=1)
    return coordinates, number.reshape(-1, 3)


def smoothed(template: Mesh, coordinates: Floats, corners: Integers, own: Booleans) -> Floats:
    """The coordinates, those of the triangles `own` (F,), which face the viewer, as cubic polynomials of x and y."""
    rows, first = np.unique(corners[own], return_index=True)
    points = template.vertices[template.triangles[own].ravel()[first], :2]
    x, y = ((points - points.mean(axis=0)) / np.abs(points - points.mean(axis=0)).max(axis=0)).T
    terms = np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], axis=1)
    result = coordinates.copy()
    result[rows] = terms @ np.linalg.lstsq(terms, coordinates[rows])[0]
    return result


def areas(coordinates: Floats, corners: Integers) -> Floats:
    """Signed areas (F,) of triangles of texture coordinates."""
    a, b, c = (coordinates[corners[:, i]] for i in range(3))
    return ((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])) / 2


def unfolded(coordinates: Floats, corners: Integers, part: Integers) -> Floats:
    """The coordinates, moved where triangles are folded over, or thinner than the rest of their part by far.

    Raises `MeshganError` if folds remain.
    """
    result, size = coordinates.copy(), len(coordinates)
    sign = np.ones(part.max() + 1)
    least = np.zeros(part.max() + 1)
    for number in np.unique(part):
        found = areas(result, corners[part == number])
        sign[number] = np.sign(np.median(found))
        least[number] = LEAST * abs(np.median(found))
    i, j = np.unique(np.sort(corners[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0).T
    graph = sp.coo_array((np.ones(len(i)), (i, j)), shape=(size, size)).tocsr()
    graph = sp.csr_array(graph + graph.T)
    mean = sp.csr_array(sp.diags_array(1 / np.maximum(graph.sum(axis=1), 1)) @ graph)
    rim = _rim(corners, size)
    for turn in range(ROUNDS):
        folded = areas(result, corners) * sign[part] < least[part]
        if not folded.any():
            return result
        moving = np.zeros(size, dtype=bool)
        moving[corners[folded]] = True
        for _ in range(min(turn // 20, 3)):
            moving = (graph @ moving.astype(float)) > 0
        if turn < ROUNDS // 2:
            moving &= ~rim
        for _ in range(SWEEPS):
            result[moving] += 0.7 * (mean @ result - result)[moving]
    raise MeshganError(f"{int(folded.sum())} triangles of the layout stay folded.")


def _rim(corners: Integers, size: int) -> Booleans:
    """Which of the coordinates lie on the border of a part."""
    edges, uses = np.unique(np.sort(corners[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0, return_counts=True)
    rim = np.zeros(size, dtype=bool)
    rim[edges[uses == 1]] = True
    return rim


def placed(coordinates: Floats, corners: Integers, part: Integers, places: dict[int, Place]) -> Floats:
    """The coordinates with each part turned, scaled and moved to its place."""
    result = np.empty_like(coordinates)
    for number, place in places.items():
        own = np.unique(corners[part == number])
        angle = np.radians(place.turn)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned = coordinates[own] @ turn.T
        low, high = turned.min(axis=0), turned.max(axis=0)
        result[own] = (turned - (low + high) / 2) * place.width / (high - low)[0] + place.middle
    return result


def layout(template: Template, head: Mesh, texture: Floats, corners: Integers, eyes: list[Integers]) -> dict[str, Any]:
    """The arrays of face_layout.npz: texture coordinates in the square, v upwards, and those of each triangle.

    `eyes` holds the head's vertices of each eyeball. Coordinate i < V belongs to vertex i; the others are second ones
    of vertices on seams, `doubled`.
    """
    mesh = template.mesh
    on_ball = [np.abs(template.carry[:, eye]).sum(axis=1) > 0 for eye in eyes]
    group, head_group = np.zeros(len(mesh.triangles), np.int64), np.zeros(len(head.triangles), np.int64)
    for number, (eye, ball) in enumerate(zip(eyes, on_ball, strict=True), start=1):
        group[ball[mesh.triangles].any(axis=1)] = number
        head_group[np.isin(head.triangles, eye).all(axis=1)] = number
    coordinates, index, part = carried(mesh, head, texture, corners, group, head_group)
    places: dict[int, Place] = {}
    for number in np.unique(part):
        own = part == number
        which = int(group[own][0])
        if which:
            coordinates = smoothed(mesh, coordinates, index, own)
            side = np.sign(mesh.vertices[mesh.triangles[own]].mean(axis=(0, 1))[0])
            places[int(number)] = Place((0.5 + 0.38 * side, 0.065), 0.17, -48.0 * side)
        else:
            places[int(number)] = SKIN if own.sum() > len(own) / 2 else MOUTH
    coordinates = placed(unfolded(coordinates, index, part), index, part, places)
    owner = np.empty(len(coordinates), dtype=np.int64)
    owner[index] = mesh.triangles
    first = np.unique(owner, return_index=True)[1]
    order = np.concatenate([first, np.setdiff1d(np.arange(len(owner)), first)])
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    steps = np.round(coordinates[order] * STEPS)
    if not (areas(steps, number[index]) != 0).all() or steps.min() < 0 or steps.max() > STEPS:
        raise MeshganError("the layout does not fit into its square.")
    return {
        "coordinates": steps.astype(np.uint16),
        "corners": number[index].astype(np.uint16),
        "doubled": owner[order][len(first) :].astype(np.uint16),
    }
