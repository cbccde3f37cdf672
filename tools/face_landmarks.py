"""79 named landmarks on the face template: the 68 points of iBUG in their order, and 11 more.

Each is given where it is seen on the average adult, in millimetres of the source head: `front` points by (x, y) on a
view along -z, `side` points by (y, z) on a view along -x from the subject's left. x is the subject's left.
"""

import numpy as np

from meshgan.arrays import Floats
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh

FRONT, SIDE = (0, 1, 2), (1, 2, 0)  # the two axes of a view, and the one along it

# Ear to chin, closer together towards the chin, as people set these points on photographs.
JAW = (
    (730, 73.2),
    (708.5, 74.6),
    (686.5, 76.5),
    (667.5, 78.6),
    (650.5, 88.7),
    (639.3, 104),
    (632.8, 117.4),
    (630, 127),
)
# The outer border of the lips lies where a detector trained on photographs sees it, on average over faces; the brows
# halfway between where it sees them and the mean of annotated photographs, since ours have no hair.
BROW = ((11.7, 749.1), (24.5, 752), (36.5, 753.5), (47.1, 751.6), (54.8, 746.4))  # inner to outer
RIDGE = ((0, 737), (0, 725), (0, 712.5), (0, 700))
NOSE_BASE = ((0, 688), (7, 689.5), (14.5, 691))  # middle to outer
EYE = (
    (16.3, 732.4),
    (24.5, 738.1),
    (35, 737.9),
    (41.8, 734.6),
    (35, 730.2),
    (24.5, 730.9),
)  # inner, upper, outer, lower
OUTER_LIPS = ((23.5, 667.6), (13.8, 674.8), (6, 676.7), (0, 675.3))  # corner to middle, upper
OUTER_LOWER = ((17, 663.3), (7.5, 660.2), (0, 659.9))
INNER_LIPS = ((21.2, 668.6), (8, 669.9), (0, 669.3))
INNER_LOWER = ((8, 667.5), (0, 667.3))
MORE = (
    ("forehead_right", FRONT, (-32, 782)),
    ("forehead", FRONT, (0, 788)),
    ("forehead_left", FRONT, (32, 782)),
    ("glabella", FRONT, (0, 751)),
    ("temple_right", SIDE, (760, 92)),
    ("temple_left", SIDE, (760, 92)),
    ("cheekbone_right", FRONT, (-42, 717)),
    ("cheekbone_left", FRONT, (42, 717)),
    ("cheek_right", FRONT, (-34, 690)),
    ("cheek_left", FRONT, (34, 690)),
    ("chin_tip", FRONT, (0, 641)),
)

Place = tuple[str, tuple[int, int, int], tuple[float, float], bool]


def scheme() -> list[Place]:
    """Name, view, position, and whether the point is the mirror image of that position, for all 79 in order."""
    places: list[Place] = [(f"jaw_{i}", SIDE, p, True) for i, p in enumerate(JAW)]
    places.append(("jaw_8", FRONT, (0, 628.2), False))
    places += [(f"jaw_{i}", SIDE, p, False) for i, p in zip(range(9, 17), JAW[::-1], strict=True)]
    places += [(f"right_eyebrow_{i}", FRONT, p, True) for i, p in enumerate(BROW[::-1])]
    places += [(f"left_eyebrow_{i}", FRONT, p, False) for i, p in enumerate(BROW)]
    places += [(f"nose_ridge_{i}", FRONT, p, False) for i, p in enumerate(RIDGE[:3])]
    places.append(("nose_tip", FRONT, RIDGE[3], False))
    places += _across("nose_base", NOSE_BASE[::-1])
    inner, upper, above, outer, lower, below = EYE
    right = (outer, above, upper, inner, below, lower)
    places += [(f"right_eye_{i}", FRONT, p, True) for i, p in enumerate(right)]
    places += [(f"left_eye_{i}", FRONT, p, False) for i, p in enumerate(EYE)]
    places += _loop("outer_lips", OUTER_LIPS, OUTER_LOWER)
    places += _loop("inner_lips", INNER_LIPS, INNER_LOWER)
    for name, view, (u, v) in MORE:
        mirrored = name.endswith("_right")
        places.append((name, view, (abs(u) if view is FRONT else u, v), mirrored))
    return places


def _across(name: str, points: tuple[tuple[float, float], ...]) -> list[Place]:
    """From the subject's right to the left, through the last point, which is in the middle."""
    whole = [(p, True) for p in points[:-1]] + [(points[-1], False)] + [(p, False) for p in points[-2::-1]]
    return [(f"{name}_{i}", FRONT, p, mirrored) for i, (p, mirrored) in enumerate(whole)]


def _loop(name: str, upper: tuple[tuple[float, float], ...], lower: tuple[tuple[float, float], ...]) -> list[Place]:
    """Right corner, along the upper lip to the left corner, and back along the lower lip."""
    first = _across(name, upper)
    back = [(p, False) for p in lower] + [(p, True) for p in lower[-2::-1]]
    return first + [(f"{name}_{len(first) + i}", FRONT, p, mirrored) for i, (p, mirrored) in enumerate(back)]


def landmarks(template: Mesh) -> list[dict[str, object]]:
    """Each landmark's name, the vertices of its triangle and their weights; the template is in source millimetres."""
    found = []
    mirror = {tuple(np.round(v * [-1, 1, 1], 6)): i for i, v in enumerate(template.vertices)}
    for name, view, place, mirrored in scheme():
        corners, weights = _seen(template, view, place)
        if mirrored:
            corners = [mirror[tuple(np.round(template.vertices[c], 6))] for c in corners]
        found.append({"name": name, "vertices": corners, "weights": [round(w, 6) for w in weights]})
    return found


def _seen(mesh: Mesh, view: tuple[int, int, int], place: tuple[float, float]) -> tuple[list[int], list[float]]:
    """The vertices and weights of the point seen first at `place`."""
    u, v, depth = view
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    point = np.array(place)
    pairs = ((b, c), (c, a), (a, b))
    areas = np.stack([_area(p[:, [u, v]] - point, q[:, [u, v]] - point) for p, q in pairs], axis=1)
    total = areas.sum(axis=1)
    weights = areas / np.where(total == 0, 1, total)[:, None]
    hit = np.flatnonzero((weights.min(axis=1) >= -1e-9) & (total != 0))
    if not len(hit):
        raise MeshganError(f"no part of the template is seen at {place}.")
    depths = (weights[hit] * np.stack([a, b, c], axis=1)[hit, :, depth]).sum(axis=1)
    best = hit[depths.argmax()]
    return mesh.triangles[best].tolist(), np.clip(weights[best], 0, 1).tolist()


def _area(p: Floats, q: Floats) -> Floats:
    return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
