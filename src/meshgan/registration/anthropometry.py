"""Faces in numbers: distances, angles and surface lengths between landmarks, areas and volumes of regions, changes.

The names are those of anthropometry (Farkas 1994) where one of the 79 landmarks is the place, and each measure is named
after its landmarks, as in `ex-en_r`; docs/measure.md says what each is. Lengths are in mm, areas in mm², volumes in
mm³, angles in degrees. Lengths along the surface are of geodesics of the mesh (Sharp and Crane 2020).
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import potpourri3d
import scipy.sparse as sp
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from meshgan.arrays import Faces, Floats, Integers
from meshgan.data.corpora.basis import face_template, face_within
from meshgan.data.corpora.heads import faces_of
from meshgan.data.corpora.naming import natural
from meshgan.data.faceset import FaceSet, blocks
from meshgan.errors import UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.mesh import Mesh, connected
from meshgan.registration.templates import template_of
from meshgan.storage import atomic_file
from meshgan.view.figures import heat_maps

# Points of anthropometry as means of the 79 landmarks.
POINTS: dict[str, tuple[str, ...]] = {
    "g": ("glabella",),
    "n": ("nose_ridge_0",),
    "prn": ("nose_tip",),
    "sn": ("nose_base_2",),
    "sbal_r": ("nose_base_0",),
    "sbal_l": ("nose_base_4",),
    "ex_r": ("right_eye_0",),
    "en_r": ("right_eye_3",),
    "en_l": ("left_eye_0",),
    "ex_l": ("left_eye_3",),
    "ps_r": ("right_eye_1", "right_eye_2"),
    "pi_r": ("right_eye_4", "right_eye_5"),
    "ps_l": ("left_eye_1", "left_eye_2"),
    "pi_l": ("left_eye_4", "left_eye_5"),
    "ch_r": ("outer_lips_0",),
    "ch_l": ("outer_lips_6",),
    "ls": ("outer_lips_3",),
    "li": ("outer_lips_9",),
    "sto": ("inner_lips_2", "inner_lips_6"),
    "pg": ("chin_tip",),
    "gn": ("jaw_8",),
}
# What is measured between them: two points for a length, three for the angle at the middle one.
MEASURES: dict[str, tuple[str, ...]] = {
    "en-en": ("en_r", "en_l"),
    "ex-ex": ("ex_r", "ex_l"),
    "ex-en_r": ("ex_r", "en_r"),
    "ex-en_l": ("ex_l", "en_l"),
    "ps-pi_r": ("ps_r", "pi_r"),
    "ps-pi_l": ("ps_l", "pi_l"),
    "n-gn": ("n", "gn"),
    "n-sto": ("n", "sto"),
    "n-sn": ("n", "sn"),
    "n-prn": ("n", "prn"),
    "sn-prn": ("sn", "prn"),
    "sbal-sbal": ("sbal_r", "sbal_l"),
    "ch-ch": ("ch_r", "ch_l"),
    "sn-ls": ("sn", "ls"),
    "sn-sto": ("sn", "sto"),
    "ls-sto": ("ls", "sto"),
    "sto-li": ("sto", "li"),
    "sn-gn": ("sn", "gn"),
    "sto-gn": ("sto", "gn"),
    "g-n-prn": ("g", "n", "prn"),
    "n-prn-sn": ("n", "prn", "sn"),
    "prn-sn-ls": ("prn", "sn", "ls"),
    "g-sn-pg": ("g", "sn", "pg"),
}
# Regions of the face: where these landmarks are the nearest ones, on the template.
REGIONS: dict[str, tuple[str, ...]] = {
    "forehead": ("forehead", "glabella", "temple", "right_eyebrow", "left_eyebrow"),
    "right_eye": ("right_eye_",),
    "left_eye": ("left_eye_",),
    "nose": ("nose",),
    "right_cheek": ("cheek_right", "cheekbone_right", *(f"jaw_{k}" for k in range(6))),
    "left_cheek": ("cheek_left", "cheekbone_left", *(f"jaw_{k}" for k in range(11, 17))),
    "lips": ("outer_lips", "inner_lips"),
    "chin": ("chin_tip", *(f"jaw_{k}" for k in range(6, 11))),
}
ON_VERTEX = 0.999  # a landmark with so much weight on one vertex is that vertex
MOST_CHANGES = 32  # pictures of changes
LEAST = 1e-3  # weight of a corner of the triangle that a landmark is in: thinner triangles would make no sound mesh

Table = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Ruler:
    """What measures faces of one template: where its landmarks are, and its regions.

    `rows` (79, V) combines vertices to the landmarks `names`; `regions` (F,) numbers the region of each triangle.
    """

    template: Mesh
    names: tuple[str, ...]
    rows: sp.csr_array
    regions: Integers

    @classmethod
    def of(cls, template: Mesh, source: str = "the template") -> "Ruler":
        """The ruler of a template: the package's own landmarks, carried over to any other face that looks along +z.

        Heads of the package are measured by the ruler of their faces (`heads.faces_of`). Raises `UsageError` if the
        template shows no such face in millimetres.
        """
        if face_within(template) is not None:
            template = face_template()
        known = template_of(template, source)
        centres = template.vertices[template.triangles].mean(axis=1)
        _, nearest = cKDTree(known.landmark_rows @ template.vertices).query(centres)
        region = np.array([_region(name) for name in known.landmark_names])
        return cls(template, known.landmark_names, sp.csr_array(known.landmark_rows), region[nearest])

    def combination(self, point: str) -> Floats:
        """The weights (79,) of a point of anthropometry or of one landmark. Raises `UsageError` for another name."""
        parts = POINTS.get(point, (point,))
        if unknown := [part for part in parts if part not in self.names]:
            raise UsageError(
                f"there is no landmark '{unknown[0][:40]}'; choose of {', '.join(POINTS)}, or of the 79: "
                f"{', '.join(self.names[:3])}, …, {self.names[-1]}."
            )
        return np.isin(self.names, parts) / len(parts)

    def lengths_and_angles(self, faces: ArrayLike, measures: Mapping[str, Sequence[str]]) -> dict[str, Floats]:
        """For each measure a column (N,): the length in mm between two points, the angle in degrees at the middle of
        three; for faces (N, V, 3) in mm."""
        marks = np.stack([self.rows @ face for face in np.asarray(faces, np.float64)])
        columns: dict[str, Floats] = {}
        for name, points in measures.items():
            places = [np.einsum("l,nlc->nc", self.combination(point), marks) for point in points]
            if len(places) == 2:
                columns[f"{name}_mm"] = np.linalg.norm(places[0] - places[1], axis=1)
            else:
                columns[f"{name}_deg"] = angles(*places)
        return columns

    def surface_lengths(self, faces: ArrayLike, measures: Mapping[str, Sequence[str]]) -> dict[str, Floats]:
        """For each measure between two single landmarks a column (N,): the length in mm along the surface."""
        wanted = {name: points for name, points in measures.items() if len(points) == 2 and self._on_surface(points)}
        places = {point: int(self.combination(point).argmax()) for points in wanted.values() for point in points}
        marks = sorted(set(places.values()))
        carry, triangles = inserted(self.template, sp.csr_array(self.rows[marks]))
        where = dict(zip(marks, carry.marks, strict=True))
        columns: dict[str, list[float]] = {name: [] for name in wanted}
        for face in np.asarray(faces, np.float64):
            solver = potpourri3d.EdgeFlipGeodesicSolver(carry(face), triangles)
            for name, (first, last) in wanted.items():
                way = solver.find_geodesic_path(where[places[first]], where[places[last]])
                columns[name].append(float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum()))
        return {f"{name}_surface_mm": np.array(values) for name, values in columns.items()}

    def areas_and_volumes(self, faces: ArrayLike) -> dict[str, Floats]:
        """For each region its area in mm², and the volume in mm³ between its surface and its border, as columns (N,).

        The border is closed by a fan from its centre, each of its loops by its own, so that the volume depends on
        the region alone: where a nose stands out it is positive, where an eye lies in a hollow it may be negative.
        """
        columns: dict[str, Floats] = {}
        for number, name in enumerate(REGIONS):
            triangles = self.template.triangles[self.regions == number]
            points = np.asarray(faces, np.float64)
            a, b, c = (points[:, triangles[:, corner]] for corner in range(3))
            columns[f"{name}_mm2"] = np.linalg.norm(np.cross(b - a, c - a), axis=2).sum(axis=1) / 2
            columns[f"{name}_mm3"] = _volumes(points, triangles, len(self.template.vertices))
        return columns

    def _on_surface(self, points: Iterable[str]) -> bool:
        return all(len(POINTS.get(point, (point,))) == 1 for point in points)


@dataclass(frozen=True, eq=False)
class Inserted:
    """A mesh with more vertices: those in `corners` (K, 3) are mixed with `weights` (K, 3) to make the new ones.

    `marks` are the numbers of the vertices that lie at the points that were inserted.
    """

    corners: Integers
    weights: Floats
    marks: list[int]

    def __call__(self, vertices: Floats) -> Floats:
        """The vertices (V + K, 3) of a face (V, 3)."""
        return np.concatenate([vertices, np.einsum("kj,kjc->kc", self.weights, vertices[self.corners])])


def inserted(mesh: Mesh, rows: sp.csr_array) -> tuple[Inserted, Integers]:
    """The mesh with points of its triangles, given by `rows` (L, V) of three vertices each, as vertices.

    Returns how the new vertices follow from the old, and the triangles (F', 3): the surface stays what it was.
    """
    size, triangles = len(mesh.vertices), mesh.triangles.tolist()
    of_corners = {tuple(sorted(corners)): [number] for number, corners in enumerate(triangles)}
    combinations: list[dict[int, float]] = []  # of new vertices, in old ones
    found: list[int] = []
    for row in range(rows.shape[0]):
        part = slice(rows.indptr[row], rows.indptr[row + 1])
        weights = dict(zip(rows.indices[part].tolist(), rows.data[part].tolist(), strict=True))
        vertex = max(weights, key=lambda one: weights[one])
        if weights[vertex] >= ON_VERTEX:
            found.append(vertex)
            continue
        corners = _triangle_with(of_corners, {one for one, weight in weights.items() if weight > 0})
        inside = np.maximum([weights.get(corner, 0.0) for corner in corners], LEAST)
        inside /= inside.sum()
        parts = of_corners[corners]
        number = max(parts, key=lambda one: _weights_in(triangles[one], corners, combinations, size, inside).min())
        combinations.append(dict(zip(corners, inside.tolist(), strict=True)))
        new, (a, b, c) = size + len(combinations) - 1, triangles[number]
        triangles[number] = [a, b, new]
        triangles += [[b, c, new], [c, a, new]]
        parts += [len(triangles) - 2, len(triangles) - 1]
        found.append(new)
    corners_of = np.array([list(one) for one in combinations], dtype=np.int64).reshape(-1, 3)
    weights_of = np.array([list(one.values()) for one in combinations]).reshape(-1, 3)
    return Inserted(corners_of, weights_of, found), np.array(triangles, dtype=np.int32)


def _triangle_with(of_corners: Mapping[tuple[int, ...], object], wanted: set[int]) -> tuple[int, ...]:
    key = tuple(sorted(wanted))
    if key in of_corners:
        return key
    return next(corners for corners in of_corners if wanted <= set(corners))


def _weights_in(
    part: Sequence[int], corners: Sequence[int], combinations: Sequence[Mapping[int, float]], size: int, point: Floats
) -> Floats:
    """The barycentric coordinates (3,) of a point, given by those in a triangle, in a part of that triangle."""
    own = [combinations[one - size] if one >= size else {one: 1.0} for one in part]
    matrix = np.array([[combination.get(corner, 0.0) for combination in own] for corner in corners])
    return np.linalg.solve(matrix, point)


def angles(first: Floats, middle: Floats, last: Floats) -> Floats:
    """The angles (N,) in degrees at `middle` between `first` and `last`, all (N, 3)."""
    a, b = first - middle, last - middle
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.einsum("nc,nc->n", a, b)))


def _volumes(points: Floats, triangles: Integers, size: int) -> Floats:
    """The volumes (N,) between a surface of faces (N, V, 3) and its border, closed by a fan from each loop's centre."""
    sides = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    codes, back = sides @ [size, 1], sides @ [1, size]
    border = sides[~np.isin(codes, back)]
    a, b, c = (points[:, triangles[:, corner]] for corner in range(3))
    total = np.einsum("nfc,nfc->n", a, np.cross(b, c))
    loops = connected(border, size)[border[:, 0]] if len(border) else np.empty(0, np.int64)
    for loop in np.unique(loops):
        start, end = (points[:, border[loops == loop][:, side]] for side in range(2))
        centre = start.mean(axis=1, keepdims=True)
        total += np.einsum("nfc,nfc->n", end, np.cross(start, np.broadcast_to(centre, start.shape)))
    return total / 6


def _region(landmark: str) -> int:
    for number, beginnings in enumerate(REGIONS.values()):
        if any(landmark == start or (not start[-1].isdigit() and landmark.startswith(start)) for start in beginnings):
            return number
    raise ValueError(landmark)


def measure(faces: FaceSet, between: Iterable[Sequence[str]] = (), surface: bool = True) -> Table:
    """Measure every face of a set: a row for each, with its labels and a column for each of `MEASURES` and `REGIONS`.

    `between` are further measures: two points for a length, three for the angle at the middle one, by the names of
    `POINTS` or of the 79 landmarks. Without `surface`, lengths along the surface are left out, which take most of the
    time. Raises `UsageError` for an unknown point, or a template that shows no face.
    """
    ruler = Ruler.of(faces.template, str(faces.path))
    measures = MEASURES | {"-".join(points): tuple(points) for points in between}
    for name, points in measures.items():
        if len(points) not in (2, 3) or len(set(points)) < len(points):
            raise UsageError(f"'{name[:80]}' is no measure: give two or three different points.")
        for point in points:
            ruler.combination(point)
    table: Table = []
    for rows in blocks(len(faces), "Measuring", 16 if surface else 256):
        block = faces_of(faces[rows], faces.template)
        columns = ruler.lengths_and_angles(block, measures)
        columns |= ruler.surface_lengths(block, measures) if surface else {}
        columns |= ruler.areas_and_volumes(block)
        table += [
            {"face": rows.start + row}
            | {name: str(column[rows.start + row]) for name, column in faces.labels.items()}
            | {name: round(float(column[row]), 3) for name, column in columns.items()}
            for row in range(len(block))
        ]
    return table


@dataclass(frozen=True, eq=False)
class Change:
    """What is different between two faces of one person, the later one laid rigidly onto the earlier one.

    `later` (V, 3) lies on the first face then, and `moved_mm` (V,) says how far each vertex has moved outwards.
    """

    subject: str
    rows: tuple[int, int]
    later: Faces
    moved_mm: Floats
    numbers: Mapping[str, float]


def changes(faces: FaceSet) -> Iterator[Change]:
    """For everybody who is there more than once, what has changed since the first time, by the label `session` if the
    set has one, else in the order of the rows.

    Raises `UsageError` if nobody is there twice.
    """
    pairs = list(_pairs(faces))
    if not pairs:
        raise UsageError(f"{faces.path} holds nobody twice; the label subject says which faces are of one person.")
    ruler = Ruler.of(faces.template, str(faces.path))
    for first, second in pairs:
        earlier, later = (faces[row].astype(np.float64) for row in (first, second))
        later = rigid(later, earlier)(later)
        shift = later - earlier
        outwards = np.einsum("vc,vc->v", shift, faces.template.with_vertices(earlier).vertex_normals)
        far = np.linalg.norm(shift, axis=1)
        numbers = {"mean_mm": far.mean(), "p95_mm": np.percentile(far, 95), "max_mm": far.max()}
        both = faces_of(np.stack([earlier, later]), faces.template)
        before, after = (ruler.areas_and_volumes(face[None]) for face in both)
        numbers |= {f"{name}_change": after[name][0] - before[name][0] for name in before}
        rounded = {name: round(float(number), 3) for name, number in numbers.items()}
        yield Change(str(faces.subjects[first]), (first, second), later.astype(np.float32), outwards, rounded)


def _pairs(faces: FaceSet) -> Iterator[tuple[int, int]]:
    sessions = faces.labels.get("session")
    for subject in np.unique(faces.subjects):
        rows = np.flatnonzero(faces.subjects == subject)
        if sessions is not None:
            rows = rows[sorted(range(len(rows)), key=lambda one: natural(str(sessions[rows[one]])))]
        yield from ((int(rows[0]), int(row)) for row in rows[1:])


def write_table(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows of one and the same columns as CSV."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def write_changes(found: Sequence[Change], template: Mesh, path: Path) -> None:
    """Write changes as CSV, and beside it a picture of the first of them: red has moved outwards, blue inwards."""
    rows = [{"subject": one.subject, "from": one.rows[0], "to": one.rows[1], **one.numbers} for one in found]
    write_table(rows, path)
    shown = found[:MOST_CHANGES]
    captions = [f"{one.subject}: {one.rows[0]} to {one.rows[1]}" for one in shown]
    faces, moved = (np.stack(arrays) for arrays in zip(*((one.later, one.moved_mm) for one in shown), strict=True))
    heat_maps(faces, moved, template.triangles, path.with_suffix(".png"), captions=captions, both_ways=True)
