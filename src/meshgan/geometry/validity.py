"""Is a triangle mesh a surface that could exist: no triangle folded over a neighbour, none through another.

Folds are seen at edges: two triangles meet more sharply than at a right angle, and do not in a reference, because one
of them turned over. Intersections are found exactly, up to the rounding of float64: the ends of an edge lie strictly
on either side of a triangle, and the edge meets it. Surfaces in each other's plane, or touched by a corner, do not
intersect.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.compiled import compiled
from meshgan.geometry.mesh import Mesh

SIDE = 1e-14  # of the product of lengths: how near to a plane a point is in it, for all that float64 can tell


def folded(faces: NDArray[np.floating], reference: Mesh) -> Booleans:
    """For each mesh of vertices (N, V, 3) and each triangle (N, F): is it folded against a neighbour?

    The normals of two triangles with a common edge point into opposite half-spaces, and do not in the `reference`. Of
    the two the one that also turned away from its reference is meant; both if neither or both did.
    """
    pairs = _neighbours(reference)
    before = _unit_normals(reference.vertices[None], reference.triangles)
    smooth = pairs[(before[0, pairs[:, 0]] * before[0, pairs[:, 1]]).sum(axis=1) > 0]
    found = np.zeros((len(faces), len(reference.triangles)), dtype=bool)
    for number, vertices in enumerate(faces):
        after = _unit_normals(vertices[None], reference.triangles)
        sharp = smooth[(after[0, smooth[:, 0]] * after[0, smooth[:, 1]]).sum(axis=1) < 0]
        turned = (after[0] * before[0]).sum(axis=1) < 0
        blamed = turned[sharp] | (turned[sharp].all(axis=1) | ~turned[sharp].any(axis=1))[:, None]
        found[number, sharp[blamed]] = True
    return found


def intersecting(faces: NDArray[np.floating], triangles: Integers) -> Booleans:
    """For each mesh of vertices (N, V, 3) and each triangle (N, F): does it pass through another one? On all cores."""
    corners = np.ascontiguousarray(triangles, dtype=np.int64)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def of(vertices: NDArray[np.floating]) -> Booleans:
        points: Floats = np.ascontiguousarray(vertices, dtype=np.float64)
        return _intersecting(points, corners, *_cells(points, corners))

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(of, faces))
    return np.stack(found) if found else np.zeros((0, len(corners)), dtype=bool)


def _neighbours(mesh: Mesh) -> Integers:
    """Pairs (P, 2) of triangles that share an edge."""
    ends = np.sort(mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    owner = np.repeat(np.arange(len(mesh.triangles)), 3)
    order = np.lexsort((owner, ends[:, 1], ends[:, 0]))
    same = (ends[order[1:]] == ends[order[:-1]]).all(axis=1)
    return np.stack([owner[order[:-1]][same], owner[order[1:]][same]], axis=1)


def _unit_normals(faces: NDArray[np.floating], triangles: Integers) -> Floats:
    a, b, c = (np.asarray(faces, np.float64)[:, triangles[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=2, keepdims=True)
    return np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)


def _cells(points: Floats, triangles: Integers) -> tuple[Floats, Floats, Integers, Integers, Integers]:
    """Boxes (F, 3) low and high of triangles, and a grid: cells in order, and the triangles in each of them.

    A cell is as wide as the triangles are on the average; those that reach over many cells stand in each.
    """
    corners = points[triangles]
    low, high = corners.min(axis=1), corners.max(axis=1)
    width = max(1.5 * float((high - low).max(axis=1, initial=0.0).mean()) if len(low) else 1.0, 1e-12)
    width = max(width, float(np.ptp(points, axis=0).max()) / 512)  # at most 512 cells along a side
    first = np.floor((low - points.min(axis=0)) / width).astype(np.int64)
    counts = np.floor((high - points.min(axis=0)) / width).astype(np.int64) - first + 1
    owner = np.repeat(np.arange(len(triangles)), counts.prod(axis=1))
    number = np.arange(len(owner)) - np.repeat(
        np.cumsum(counts.prod(axis=1)) - counts.prod(axis=1), counts.prod(axis=1)
    )
    wide = counts[owner]
    place = first[owner] + np.stack(
        [number // (wide[:, 1] * wide[:, 2]), number // wide[:, 2] % wide[:, 1], number % wide[:, 2]], axis=1
    )
    code = (place[:, 0] * 1024 + place[:, 1]) * 1024 + place[:, 2]
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1, append=-1))
    return low, high, owner[order], code[order], starts.astype(np.int64)


@compiled()
def _intersecting(points: Any, triangles: Any, low: Any, high: Any, owner: Any, code: Any, starts: Any) -> Any:
    """Mark both triangles of each pair that intersects; pairs are met in every cell that both stand in."""
    hit = np.zeros(len(triangles), np.bool_)
    for cell in range(len(starts) - 1):
        for p in range(starts[cell], starts[cell + 1]):
            i = owner[p]
            for q in range(p + 1, starts[cell + 1]):
                j = owner[q]
                if hit[i] and hit[j]:
                    continue
                apart = False
                for axis in range(3):
                    apart |= low[i, axis] > high[j, axis] or low[j, axis] > high[i, axis]
                if not apart and (
                    _pierces(points, triangles[i], triangles[j]) or _pierces(points, triangles[j], triangles[i])
                ):
                    hit[i] = hit[j] = True
    return hit


@compiled()
def _pierces(points: Any, edges: Any, face: Any) -> Any:
    """Whether an edge of one triangle passes through another; edges that share a corner with it do not."""
    a, b, c = points[face[0]], points[face[1]], points[face[2]]
    for k in range(3):
        start, end = edges[k], edges[(k + 1) % 3]
        touches = False
        for corner in range(3):
            touches |= start == face[corner] or end == face[corner]
        if touches:
            continue
        p, q = points[start], points[end]
        above = _side(a, b, c, p)
        if above == 0 or above * _side(a, b, c, q) >= 0:
            continue
        first, second, third = _side(p, q, a, b), _side(p, q, b, c), _side(p, q, c, a)
        lowest, highest = min(first, second, third), max(first, second, third)
        if (lowest * highest >= 0 and lowest != highest) or lowest == highest != 0:
            return True
    return False


@compiled()
def _side(a: Any, b: Any, c: Any, d: Any) -> Any:
    """On which side of the plane through a, b, c the point d lies: 1, -1, or 0 where rounding could decide."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    wx, wy, wz = d[0] - a[0], d[1] - a[1], d[2] - a[2]
    volume = ux * (vy * wz - vz * wy) - uy * (vx * wz - vz * wx) + uz * (vx * wy - vy * wx)
    size = (abs(ux) + abs(uy) + abs(uz)) * (abs(vx) + abs(vy) + abs(vz)) * (abs(wx) + abs(wy) + abs(wz))
    if abs(volume) <= SIDE * size:
        return 0
    return 1 if volume > 0 else -1
