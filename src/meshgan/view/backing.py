"""What one sees through the holes of a face in a picture: a dark hollow in place of the paper behind it.

A face is open at its rim and, often, between the lips. The rim is the longest boundary of each connected part;
every other boundary is a hole, and a dark cone is drawn behind it. Pictures only: no mesh is changed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Faces, Integers, Singles
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
    behind, fans = cones(vertices, holes(corners, vertices.shape[1]))
    dark = np.broadcast_to(np.array(DARK, np.float32), (*shades.shape[:-2], behind.shape[1], 3))
    return (
        np.concatenate([vertices, behind], axis=1),
        np.concatenate([corners, vertices.shape[1] + fans]),
        np.concatenate([shades, dark], axis=-2),
    )


def cones(faces: Faces, edges_of_holes: Sequence[Integers]) -> tuple[Singles, Integers]:
    """Vertices (N, K, 3) and triangles (F, 3) of a cone behind each hole of faces (N, V, 3); see `holes`."""
    vertices, fans, count = [faces[:, :0]], [np.empty((0, 3), np.int64)], 0
    for edges in edges_of_holes:
        loop, size = faces[:, edges[:, 0]], len(edges)
        fans.append(count + np.column_stack([np.arange(size), _next(edges), np.full(size, size)]))
        vertices += [loop, _tip(loop)]
        count += size + 1
    return np.concatenate(vertices, axis=1).astype(np.float32), np.concatenate(fans)


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
