"""Fake scans: faces whose correspondence is known, made to look like what a scanner delivers."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from meshgan.arrays import Booleans, Floats, Singles
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.detail import detail
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.population import draw_people
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.mesh import Mesh
from meshgan.registration.scan import clustered

ACTIVE = 0.05  # of 52 facial actions: two or three at a time
NOISE_MM = 0.2
SPACING_MM = (1.2, 2.5)  # of the new vertices; the template's are some 3 mm apart
HOLES, HOLE_MM = 5, (3.0, 8.0)
CROPPED = 0.08  # share of the vertices beyond a random plane
STRANGE_MM, STRANGE_WIDTH, BUMPS = 2.0, 25.0, 60  # root mean square and width of what no model knows


@dataclass(frozen=True, eq=False)
class FakeScan:
    """A scan and the pose in which it holds the face it was made of."""

    mesh: Mesh
    pose: Similarity


def fake_scan(face: Mesh, rng: np.random.Generator) -> FakeScan:
    """The face with other triangles, noise, holes, a border cut off, turned and shifted at random."""
    fine = _subdivided(_subdivided(face))
    shift = rng.uniform(0, 5, 3)  # where the grid lies is chance
    mesh = clustered(fine.with_vertices(fine.vertices + shift), rng.uniform(*SPACING_MM))
    vertices = mesh.vertices - shift + rng.normal(scale=NOISE_MM, size=mesh.vertices.shape)
    mesh = Mesh(vertices, mesh.triangles)
    mesh = _with_holes(_cropped(mesh, rng), rng)
    pose = Similarity(1.0, Rotation.random(random_state=rng).as_matrix(), rng.uniform(-300, 300, 3))
    return FakeScan(mesh.with_vertices(pose(mesh.vertices)), pose)


def _subdivided(mesh: Mesh) -> Mesh:
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


def corpus_people(count: int, stream: str, active: float = ACTIVE, plain: bool = True) -> Singles:
    """Faces (N, V, 3) of the plain corpus's population, or of the rich one's.

    Every other one moves a share `active` of its facial actions.
    """
    basis, template = FaceBasis.read(), face_template()
    draws = Draws(0, stream, np.arange(count))
    people = draw_people(basis, draws, plain=plain)
    expressive = np.arange(count)[:, None] % 2
    neutral = basis.neutral(people.phenotype, people.features)
    if not plain:
        neutral = detail().applied(neutral, detail().draw(people, Draws(0, f"{stream} detail", np.arange(count))))
    faces = basis.perform(neutral, expressive * draws.sparse(len(basis.action_names), active))
    return rigid(faces, template.vertices)(faces).astype(np.float32)


def estranged(face: Mesh, rng: np.random.Generator) -> Floats:
    """The face's vertices (V, 3) with smooth random bumps and dents, which lie in no population of faces.

    What slides along the surface would leave no trace in a scan without texture; so each pushes along the normal.
    """
    centres = rng.choice(len(face.vertices), BUMPS)
    apart = ((face.vertices[:, None] - face.vertices[centres]) ** 2).sum(axis=2)
    field = np.exp(-0.5 * apart / STRANGE_WIDTH**2) @ (rng.normal(size=(BUMPS, 1)) * face.vertex_normals[centres])
    return np.asarray(face.vertices + field * STRANGE_MM / np.sqrt((field**2).sum(axis=1).mean()))
