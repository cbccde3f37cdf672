"""Fake scans: faces whose correspondence is known, made to look like what a scanner delivers."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import trimesh
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from meshgan.arrays import Booleans, Floats, Singles
from meshgan.data.corpora.anny import BLOCK, identities
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.expressions import ExpressionPlan
from meshgan.data.corpora.population import draw_people
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.model.rig import ARKIT, rigger
from meshgan.progress import counted, track
from meshgan.registration.scan import clustered
from meshgan.storage import atomic_folder

ACTIVE = 0.05  # of 52 facial actions: two or three at a time
NOISE_MM = 0.2
SPACING_MM = (1.2, 2.5)  # of the new vertices; the template's are some 3 mm apart
HOLES, HOLE_MM = 5, (3.0, 8.0)
CROPPED = 0.08  # share of the vertices beyond a random plane
METRE = 1000.0  # mm
STRAYS, HAIRY, SHELL_MM = 4, 0.5, 9.0  # most stray pieces, share of scans with hair, distance of the head's shell
PERFORMED = (  # shapes, their strength, and when in a sequence, for how long
    (("mouthSmileLeft", "mouthSmileRight"), 0.7, 0.3, 0.12),
    (("eyeBlinkLeft", "eyeBlinkRight"), 0.9, 0.5, 0.06),
    (("jawOpen",), 0.6, 0.7, 0.12),
    (("browInnerUp",), 0.6, 0.9, 0.1),
)
SWING_DEGREES, SWING_MM, TREMBLE = 8.0, 10.0, 0.5  # of the head; degrees and mm
STRANGE_MM, STRANGE_WIDTH, BUMPS = 2.0, 25.0, 60  # root mean square and width of what no model knows


@dataclass(frozen=True, eq=False)
class FakeScan:
    """A scan and the pose in which it holds the face it was made of."""

    mesh: Mesh
    pose: Similarity


def fake_scan(face: Mesh, rng: np.random.Generator, pose: Similarity | None = None) -> FakeScan:
    """The face with other triangles, noise, holes, a border cut off, in a pose, turned and shifted at random if none
    is given."""
    mesh = _upright(face, rng)
    pose = _somewhere(rng) if pose is None else pose
    return FakeScan(mesh.with_vertices(pose(mesh.vertices)), pose)


def _upright(face: Mesh, rng: np.random.Generator) -> Mesh:
    """The scan where the face is."""
    fine = subdivided(subdivided(face))
    shift = rng.uniform(0, 5, 3)  # where the grid lies is chance
    mesh = clustered(fine.with_vertices(fine.vertices + shift), rng.uniform(*SPACING_MM))
    vertices = mesh.vertices - shift + rng.normal(scale=NOISE_MM, size=mesh.vertices.shape)
    return _with_holes(_cropped(Mesh(vertices, mesh.triangles), rng), rng)


def _somewhere(rng: np.random.Generator) -> Similarity:
    return Similarity(1.0, Rotation.random(random_state=rng).as_matrix(), rng.uniform(-300, 300, 3))


def subdivided(mesh: Mesh) -> Mesh:
    """Four triangles for each, through the middles of the edges."""
    size = len(mesh.vertices)
    half_edges = np.sort(mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, which = np.unique(half_edges, axis=0, return_inverse=True)
    ab, bc, ca = size + which.reshape(-1, 3).T
    a, b, c = mesh.triangles.T
    parts = [np.stack(part, axis=1) for part in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return Mesh(np.concatenate([mesh.vertices, mesh.vertices[edges].mean(axis=1)]), np.concatenate(parts))


def _cropped(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    direction = rng.normal(size=3)
    direction[2] = -abs(direction[2]) / 2  # scanners stand before the face: what is missing lies at the rim
    along = mesh.vertices @ direction
    return _kept(mesh, along < np.quantile(along, 1 - CROPPED))


def _with_holes(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    keep = np.ones(len(mesh.vertices), dtype=bool)
    for centre in mesh.vertices[rng.choice(len(mesh.vertices), HOLES)]:
        keep &= np.linalg.norm(mesh.vertices - centre, axis=1) > rng.uniform(*HOLE_MM)
    return _kept(mesh, keep)


def _kept(mesh: Mesh, keep: Booleans) -> Mesh:
    triangles = mesh.triangles[keep[mesh.triangles].all(axis=1)]
    used, renumbered = np.unique(triangles, return_inverse=True)
    return Mesh(mesh.vertices[used], renumbered.reshape(-1, 3))


def plain_people(count: int, stream: str, active: float = ACTIVE) -> Singles:
    """Faces (N, V, 3) of the plain corpora's population. Every other one moves a share `active` of its actions."""
    basis, template = FaceBasis.read(), face_template()
    draws = Draws(0, stream, np.arange(count))
    people = draw_people(basis, draws, plain=True)
    expressive = np.arange(count)[:, None] % 2
    neutral = basis.neutral(people.phenotype, people.features)
    faces = basis.perform(neutral, expressive * draws.sparse(len(basis.action_names), active))
    return rigid(faces, template.vertices)(faces).astype(np.float32)


def corpus_people(neutral: int, expressive: int, seed: int) -> Singles:
    """Faces (N, V, 3) as the two corpora hold them, of people of their own: neutral ones, then expressions."""
    basis, template = FaceBasis.read(), face_template()
    people = [identities(basis, template, seed, start)[0] for start in range(0, neutral, BLOCK)]
    plan = ExpressionPlan(max(expressive // 6, 1), 0, expressive, seed, noise_mm=0.0)
    rows = np.array_split(plan.neutrals + np.arange(expressive), -(-expressive // BLOCK))
    moved = [plan.faces(some, plan.takes(some)) for some in rows]
    faces = np.concatenate([np.concatenate(people)[:neutral], *moved])
    return rigid(faces, template.vertices)(faces).astype(np.float32)


def estranged(face: Mesh, rng: np.random.Generator) -> Floats:
    """The face's vertices (V, 3) with smooth random bumps and dents, which lie in no population of faces.

    What slides along the surface would leave no trace in a scan without texture; so each pushes along the normal.
    """
    centres = rng.choice(len(face.vertices), BUMPS)
    apart = ((face.vertices[:, None] - face.vertices[centres]) ** 2).sum(axis=2)
    field = np.exp(-0.5 * apart / STRANGE_WIDTH**2) @ (rng.normal(size=(BUMPS, 1)) * face.vertex_normals[centres])
    return np.asarray(face.vertices + field * STRANGE_MM / np.sqrt((field**2).sum(axis=1).mean()))


def fake_sequence(
    still: Floats | Singles, count: int, moving: bool, seed: int = 0
) -> tuple[list[FakeScan], Floats, Floats]:
    """Scans of a person with this face at rest (V, 3) in the order of time, the true faces (N, V, 3), and the weights
    (N, 52) of Apple's shapes.

    The head turns and shifts a little all the time, and trembles; with `moving`, the face smiles, opens its mouth,
    blinks and raises its brows, as the corpora's faces do, else it is at rest. Every frame has triangles, noise, holes
    and a border of its own.
    """
    template, rng = face_template(), np.random.default_rng(seed)
    phase = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    weights = np.zeros((count, len(ARKIT)))
    for names, strength, when, width in PERFORMED if moving else ():
        for name in names:
            weights[:, ARKIT.index(name)] = strength * np.exp(-(((phase - when) / width) ** 2))
    faces = rigger().performed(still, weights)
    base = Rotation.random(random_state=rng)
    swing = np.sin(2 * np.pi * (phase[:, None] + rng.uniform(size=6)))
    turns = np.radians(SWING_DEGREES * swing[:, :3] + TREMBLE * rng.normal(size=(count, 3)))
    shifts = SWING_MM * swing[:, 3:] + TREMBLE * rng.normal(size=(count, 3))
    scans = [
        fake_scan(
            template.with_vertices(face),
            np.random.default_rng([seed, frame]),
            Similarity(1.0, (base * Rotation.from_rotvec(turn)).as_matrix(), shift),
        )
        for frame, (face, turn, shift) in enumerate(zip(faces, turns, shifts, strict=True))
    ]
    return scans, faces, weights


def raw_scan(face: Mesh, rng: np.random.Generator) -> FakeScan:
    """A fake scan in metres with what else a scanner sees: the head around the face, hair, and stray pieces.

    The pose is that of the face in metres: its scale is a thousandth.
    """
    scan = fake_scan(face, rng)
    around = [_shell(face, rng), *(_stray(rng) for _ in range(rng.integers(1, STRAYS + 1)))]
    if rng.uniform() < HAIRY:
        around.append(_hair(face, rng))
    parts = [scan.mesh] + [part.with_vertices(scan.pose(part.vertices)) for part in around]
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    triangles = np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=True)])
    whole = Mesh(np.concatenate([part.vertices for part in parts]) / METRE, triangles)
    pose = scan.pose
    return FakeScan(whole, Similarity(pose.scale / METRE, pose.rotation, pose.translation / METRE))


def make_scans(faces: FaceSet, out: Path, count: int, seed: int = 0) -> None:
    """Write `count` raw scans of faces of a set into a new folder, and the truth about them.

    `scan-NNNN.ply` in metres, and `truth.csv`: for each its row in the set, its subject, and the pose: twelve numbers
    of a matrix (3, 4), row by row, that carries the set's face (mm) into the scan (m). Scan i depends on the set, the
    seed and i alone. Raises `MeshganError` if the folder holds something, and `UsageError` if the set has fewer faces.
    """
    if not 1 <= count <= len(faces):
        raise UsageError(
            f"{faces.path} holds {counted(len(faces), 'face')}, so `count` must be from 1 to {len(faces)}."
        )
    rows = np.sort(np.argsort(Draws(seed, "scanned", np.arange(len(faces))).uniform(1)[:, 0], kind="stable")[:count])
    lines = [["file", "row", "subject", *(f"m{i}{j}" for i in range(3) for j in range(4))]]
    with atomic_folder(out) as partial:
        for row in track(rows, "Scanning", total=count):
            face = Mesh(faces[row], faces.template.triangles)
            scan = raw_scan(face, np.random.default_rng([seed, int(row)]))
            name = f"scan-{row:05d}.ply"
            write_mesh(partial / name, scan.mesh)
            matrix = np.column_stack([scan.pose.scale * scan.pose.rotation, scan.pose.translation])
            subject = str(faces.subjects[row])
            lines.append([name, str(row), subject, *(f"{value:.9g}" for value in matrix.ravel())])
        with (partial / "truth.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(lines)


def _shell(face: Mesh, rng: np.random.Generator) -> Mesh:
    """The rest of the head: a smooth ellipsoid behind the face, open in front of it."""
    low, high = face.vertices.min(axis=0), face.vertices.max(axis=0)
    sphere = trimesh.creation.icosphere(subdivisions=4)
    size = (high - low) / 2 * rng.uniform(0.98, 1.06, 3) * np.array([1.02, 1.05, 1.25])
    middle = np.array([(low + high)[0] / 2, (low + high)[1] / 2 + 12, low[2] - 0.25 * size[2]])
    points = np.asarray(sphere.vertices) * size + middle
    hidden = cKDTree(face.vertices).query(points)[0] < SHELL_MM
    hidden |= points[:, 2] > low[2] + 0.25 * (high - low)[2]
    shell = Mesh(points + rng.normal(scale=NOISE_MM, size=points.shape), np.asarray(sphere.faces))
    return _kept(shell, ~hidden)


def _stray(rng: np.random.Generator) -> Mesh:
    """A small piece of something that floats about the head."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    points = np.asarray(ball.vertices) * rng.uniform(2, 10, 3) + rng.normal(scale=0.5, size=ball.vertices.shape)
    direction = rng.normal(size=3)
    return Mesh(points + direction / np.linalg.norm(direction) * rng.uniform(150, 220), np.asarray(ball.faces))


def _hair(face: Mesh, rng: np.random.Generator) -> Mesh:
    """A fringe or strands before the upper part of the face: a rough sheet some millimetres off the skin."""
    low, high = face.vertices.min(axis=0), face.vertices.max(axis=0)
    line = high[1] - rng.uniform(0.08, 0.25) * (high - low)[1]
    side = rng.uniform(-0.3, 0.3)
    above = face.vertices[:, 1] + side * face.vertices[:, 0] > line
    lifted = face.vertices + face.vertex_normals * (3 + 2 * np.abs(rng.normal(size=(len(face.vertices), 1))))
    return _kept(Mesh(lifted, face.triangles), above)


ROUGH_MM, LOOSE_MM, SMOOTHED = 1.0, 4.0, 6  # noise; spacing and rounds of smoothing of a depth camera
FOREHEAD = 0.18  # of the way from chin to nose bridge: what a cut-off forehead leaves above that
TUBE_MM, TUBE_LENGTH, BEFORE_MM = (10.0, 18.0), 110.0, (0.0, 12.0)  # radius, length, distance from the lips
TUBE_STEP_MM = 2.0
FINGERS, FINGER_MM = 4, (7.0, 9.0)
ODD_SCALE = 0.0371  # of numbers in no unit

Change = Callable[[Mesh, Floats, np.random.Generator], Mesh]


def _inside_out(scan: Mesh, marks: Floats, rng: np.random.Generator) -> Mesh:
    return Mesh(scan.vertices, scan.triangles[:, ::-1])


def _rough(scan: Mesh, marks: Floats, rng: np.random.Generator) -> Mesh:
    return scan.with_vertices(scan.vertices + rng.normal(scale=ROUGH_MM, size=scan.vertices.shape))


def _blurred(scan: Mesh, marks: Floats, rng: np.random.Generator) -> Mesh:
    """What a depth camera sees: loose, without small shapes, lips and lids spanned by one surface."""
    loose = clustered(scan, LOOSE_MM)
    i, j = np.concatenate([loose.edges, loose.edges[:, ::-1]]).T
    size = len(loose.vertices)
    mean = sp.csr_array((1 / np.bincount(i, minlength=size)[i], (i, j)), shape=(size, size))
    vertices = loose.vertices
    for _ in range(SMOOTHED):
        vertices = 0.5 * vertices + 0.5 * (mean @ vertices)
    return loose.with_vertices(vertices)


def _without_forehead(scan: Mesh, marks: Floats, rng: np.random.Generator) -> Mesh:
    up = marks[27] - marks[8]
    return _kept(scan, (scan.vertices - marks[27]) @ up < FOREHEAD * (up @ up))


def _on_a_body(scan: Mesh, marks: Floats, rng: np.random.Generator) -> Mesh:
    body = trimesh.creation.capsule(height=1000, radius=150).subdivide()
    points = (body.vertices - body.vertices.mean(axis=0))[:, [0, 2, 1]] * [1.0, 1.0, -1.0]
    return _together(scan, Mesh(points + scan.vertices.mean(axis=0) - [0, 800, 0], body.faces))


def _behind_a_tube(scan: Mesh, marks: Floats, rng: np.random.Generator) -> Mesh:
    """A tube across the mouth: nothing is seen of what lies behind it."""
    radius, mouth = rng.uniform(*TUBE_MM), marks[48:68]
    ahead = mouth[:, 2].max() + radius + rng.uniform(*BEFORE_MM)
    return _hidden(scan, _tube(radius, [*mouth.mean(axis=0)[:2], ahead]))


def _behind_a_hand(scan: Mesh, marks: Floats, rng: np.random.Generator) -> Mesh:
    """Fingers side by side, which lie on mouth and chin."""
    mouth, width = marks[48:68], rng.uniform(*FINGER_MM)
    turn = Rotation.from_euler("z", rng.uniform(-0.3, 0.3)).as_matrix()
    ahead = mouth[:, 2].max() + width + rng.uniform(0.0, 4.0)
    hand, tube = None, _tube(width, np.zeros(3))
    for finger in range(FINGERS):
        beside = [0.0, 2 * width * (finger - (FINGERS - 1) / 2), 0.0]
        part = tube.with_vertices((tube.vertices + beside) @ turn.T + [*mouth.mean(axis=0)[:2], ahead])
        hand = part if hand is None else _together(hand, part)
    assert hand is not None
    return _hidden(scan, hand)


def _tube(radius: float, middle: ArrayLike) -> Mesh:
    """A tube along x about a point, open at its ends, its triangles facing out."""
    rings, around = int(TUBE_LENGTH / TUBE_STEP_MM) + 1, int(2 * np.pi * radius / TUBE_STEP_MM)
    x, angle = np.linspace(-TUBE_LENGTH / 2, TUBE_LENGTH / 2, rings), 2 * np.pi * np.arange(around) / around
    circle = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([np.repeat(x, around)[:, None], np.tile(circle, (rings, 1))], axis=1)
    a = np.arange((rings - 1) * around)
    b = a - a % around + (a + 1) % around
    quads = np.concatenate([np.stack([a, b, a + around], axis=1), np.stack([b, b + around, a + around], axis=1)])
    return Mesh(points + middle, quads)


def _hidden(scan: Mesh, thing: Mesh) -> Mesh:
    """The scan with something before it (along z), without what that hides."""
    near = cKDTree(thing.vertices[:, :2]).query(scan.vertices[:, :2])[0] < TUBE_STEP_MM
    return _together(_kept(scan, ~near), thing)


def _together(one: Mesh, two: Mesh) -> Mesh:
    triangles = np.concatenate([one.triangles, two.triangles + len(one.vertices)])
    return Mesh(np.concatenate([one.vertices, two.vertices]), triangles)


def _bumpy(face: Mesh, rng: np.random.Generator) -> Floats:
    return estranged(face, rng)


def _performing(**strengths: float) -> Callable[[Mesh, np.random.Generator], Floats]:
    """What Apple's shapes make of a face at rest."""

    def perform(face: Mesh, rng: np.random.Generator) -> Floats:
        weights = np.zeros((1, len(ARKIT)))
        for name, strength in strengths.items():
            weights[0, ARKIT.index(name)] = strength
        return np.asarray(rigger().performed(face.vertices, weights)[0], dtype=np.float64)

    return perform


@dataclass(frozen=True)
class Kind:
    """What is done to a face at rest, what to its scan (upright, with the landmarks of the face), and its numbers."""

    face: Callable[[Mesh, np.random.Generator], Floats] | None = None
    scan: Change | None = None
    scale: float = 1.0
    unit: str = "mm"

    @property
    def performs(self) -> bool:
        """Whether the kind is an expression."""
        return self.face is not None and self.face is not _bumpy


MISREAD = {
    "at rest": Kind(),
    "bumps": Kind(_bumpy),
    "closed eyes": Kind(_performing(eyeBlinkLeft=1.0, eyeBlinkRight=1.0)),
    "open mouth": Kind(_performing(jawOpen=0.9)),
    "grimace": Kind(_performing(mouthPucker=0.8, browDownLeft=0.9, browDownRight=0.9, noseSneerLeft=0.7, jawLeft=0.6)),
    "inside out": Kind(scan=_inside_out),
    "noise": Kind(scan=_rough),
    "depth camera": Kind(scan=_blurred),
    "no forehead": Kind(scan=_without_forehead),
    "body": Kind(scan=_on_a_body),
    "tube": Kind(scan=_behind_a_tube),
    "hand": Kind(scan=_behind_a_hand),
    "no unit": Kind(scale=ODD_SCALE, unit="auto"),
}


def scan_of_kind(
    name: str, face: Mesh, landmark_rows: sp.csr_array, rng: np.random.Generator
) -> tuple[FakeScan, Floats]:
    """A fake scan of one of `MISREAD` of a face, and the true vertices (V, 3) in it."""
    kind = MISREAD[name]
    if kind.face is not None:
        face = face.with_vertices(kind.face(face, rng))
    mesh = _upright(face, rng)
    if kind.scan is not None:
        mesh = kind.scan(mesh, landmark_rows @ face.vertices, rng)
    away = _somewhere(rng)
    pose = Similarity(kind.scale, away.rotation, kind.scale * away.translation)
    return FakeScan(mesh.with_vertices(pose(mesh.vertices)), pose), pose(face.vertices)
