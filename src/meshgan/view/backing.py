"""What one sees through the holes of a face in a picture: a dark hollow in place of the paper behind it.

A face is open at its rim and, often, between the lips. The rim is the longest boundary of each connected part;
every other boundary is a hole, and a dark cone is drawn behind it. Pictures only: no mesh is changed.
"""

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Integers, Singles
from meshgan.geometry.mesh import connected

DARK = (0.20, 0.15, 0.14)  # sRGB
DEPTH = 0.35  # of a hole's width: how far its cone goes back along -z


def with_backing(faces: ArrayLike, triangles: ArrayLike, colours: ArrayLike) -> tuple[Singles, Integers, Singles]:
    """Add a cone behind each hole.

    Takes faces (N, V, 3) in mm, triangles (F, 3) and sRGB colours (V, 3) or (N, V, 3); returns the same with the
    cones' vertices and triangles at the end.
    """
    vertices, corners = np.asarray(faces, dtype=np.float32), np.asarray(triangles, dtype=np.int64)
    shades = np.asarray(colours, dtype=np.float32)
    for edges in holes(corners, vertices.shape[1]):
        loop = vertices[:, edges[:, 0]]
        first = vertices.shape[1]
        fan = np.column_stack(
            [first + np.arange(len(edges)), first + _next(edges), np.full(len(edges), first + len(edges))]
        )
        vertices = np.concatenate([vertices, loop, _tip(loop)], axis=1)
        corners = np.concatenate([corners, fan])
        dark = np.broadcast_to(np.array(DARK, np.float32), (*shades.shape[:-2], len(edges) + 1, 3))
        shades = np.concatenate([shades, dark], axis=-2)
    return vertices, corners, shades


def holes(triangles: Integers, count: int) -> list[Integers]:
    """Directed edges (E, 2) of every hole of a mesh of `count` vertices, so that its filling faces outwards.

    A boundary counts as a hole unless it has the most edges of all in its connected part.
    """
    half = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    forth, back = half @ [count, 1], half @ [1, count]
    boundary = half[~np.isin(forth, back)][:, ::-1]
    if not len(boundary):
        return []
    loop_of, part_of = connected(boundary, count)[boundary[:, 0]], connected(half, count)[boundary[:, 0]]
    loops, first, sizes = np.unique(loop_of, return_index=True, return_counts=True)
    parts = part_of[first]
    rims = {part: loops[parts == part][sizes[parts == part].argmax()] for part in np.unique(parts)}
    return [boundary[loop_of == loop] for loop in loops if loop not in rims.values()]


def _next(edges: Integers) -> Integers:
    """For each edge, the row of the edge that starts where it ends."""
    order = edges[:, 0].argsort(kind="stable")
    return order[np.searchsorted(edges[order, 0], edges[:, 1]).clip(max=len(edges) - 1)]


def _tip(loop: Singles) -> Singles:
    """The cone's tip (N, 1, 3): behind the middle of a loop (N, E, 3)."""
    with np.errstate(invalid="ignore"):  # faces that are not finite are drawn blank
        tip = loop.mean(axis=1, keepdims=True)
        tip[:, :, 2] -= DEPTH * np.ptp(loop, axis=1).max(axis=1, keepdims=True)
    return tip
