"""The 52 shapes on a head of one's own: its file gets them as morph targets, and nothing else of it changes.

The head is registered, so that there is a face of the template where its skin is, and that face's shapes are computed
(`model.rig`). They are carried over to the head's own vertices as displacements d, the ones of

    Σ_v m_v t_v |d_v − d̂_v|² + ℓ⁴ ∫|Δd|²

over its skin: d̂_v is what the face does at the point nearest to vertex v, m_v the area about it, and t_v says whether
that is to be trusted, which it is not behind the lips, in the mouth, under hair, and where neighbours would be torn
apart because one of them found the other lip. Beyond the face, skin is at rest from `REST_MM` on, and inside the mouth
it goes with the jaw below the lips. So everything between follows as a thin plate does, as far as the head's triangles
connect it.

Parts of their own: eyeballs turn about their middles, what lies behind the lips and below them (lower teeth, tongue)
goes with the jaw as a rigid body, what lies above them stays, and anything else (brows, lashes, glasses) goes with the
skin beside it.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import trimesh
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from meshgan.arrays import Booleans, Floats, Integers, Reals
from meshgan.data.corpora.motion import contacts
from meshgan.errors import MeshganError, MeshganWarning
from meshgan.geometry.align import rigid
from meshgan.geometry.files import MILLIMETRES, MOST_BYTES, read_mesh
from meshgan.geometry.glb import METRES, Shaped, placed, with_targets
from meshgan.geometry.laplacian import cotangent_weights, mass
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface
from meshgan.model.rig import LOOKS, Kind, targets_of
from meshgan.reading import read_bytes
from meshgan.registration.colours import ScanColours
from meshgan.registration.landmarks import read_landmarks
from meshgan.registration.quality import GAP_MM2, measure
from meshgan.registration.register import Registration, register, unit_of
from meshgan.registration.template import FaceTemplate
from meshgan.registration.templates import default_template

MOST = 200_000  # vertices: a gigabyte of displacements
NEAR_MM, FACING = 5.0, 0.2  # of the face that was laid onto it: skin that is trusted
TORN = 1.0  # times the length of an edge, by which its ends may be moved apart, and
TORN_MM = 1.0
WITHIN_MM = 0.4  # ℓ: ripples of shorter wavelengths than some 6 ℓ are not carried over
REST_MM = 35.0  # from the face's border on, skin is at rest
WEAK, LOOSE = 1e-4, 0.1  # how strongly that is wanted where nothing is known; and what is, far out and in the mouth
FEWEST = 200  # vertices of a part of the skin, else it is something on it
BALL, ROUND = (0.45, 1.3), 0.08  # radius of an eyeball against that of the face's own, and how round it is
OFF_MM = 14.0  # how far its middle may lie from that of the face's own
MOUTH_MM, CHIN_MM = (12.0, 34.0, 110.0), 22.0  # beside the lips, above and below, and behind; and about the chin
LINING_MM, BITE_MM = 12.0, 10.0  # skin in the mouth so far from the face goes with the jaw, below the lips all the way
BESIDE_MM = 12.0  # what is so far from the skin follows it by a third
WAYS = {"Up": (-1, 0), "Down": (1, 0), "In": (0, -1), "Out": (0, 1)}  # that the left eye turns: about x, y


@dataclass(frozen=True, eq=False)
class RiggedHead:
    """A head with its shapes: the `file` (GLB), its vertices (N, 3) and `targets` (N, 3) in mm in the scan's own place,
    and what its connected `parts` were taken for, with how many vertices each kind has."""

    file: bytes
    vertices: Floats
    targets: Mapping[str, Floats]
    parts: Mapping[str, int]


def rig_head(path: Path, unit: str = "mm", which: Kind = "arkit", landmarks: Path | None = None) -> RiggedHead:
    """Register the head in a GLB, OBJ, PLY or STL file, and carry the shapes over to its own vertices.

    Materials, texture coordinates and skins stay; morph targets of its own make room. Raises `UsageError` and
    `MeshganError`, each with a sentence, for what is no head.
    """
    data = as_glb(path, MILLIMETRES.get(unit, 1.0))
    surfaces = placed(data)
    if (count := sum(len(surface.vertices) for surface in surfaces)) > MOST:
        raise MeshganError(f"{path} has {count:,} vertices, and {MOST:,} are rigged at most; reduce it first.")
    starts = np.cumsum([0, *(len(surface.vertices) for surface in surfaces)])
    triangles = np.concatenate([one.triangles + start for one, start in zip(surfaces, starts[:-1], strict=True)])
    whole = Mesh(np.concatenate([surface.vertices for surface in surfaces]), triangles)
    template, glb = default_template(), path.suffix.lower() == ".glb"
    known = "m" if glb else unit
    given = read_landmarks(landmarks, template.landmark_names, MILLIMETRES.get(known, 1.0)) if landmarks else None
    try:
        colours = ScanColours(path, "mm" if unit == "auto" else unit)
        found = register(whole, template, given, unit_of(path.name, unit), colours=colours)
    except MeshganError as error:
        raise type(error)(f"{path}: {error}") from error
    if told := missing_part(found, template):
        warnings.warn(f"{path}: {told}", MeshganWarning, stacklevel=2)
    targets, normals, parts = carried(whole, found, which)
    if unit == "auto" and not glb:  # the file gets the size that was found
        size = float(found.to_scan.scale)
        data = as_glb(path, 1 / size)
        surfaces, targets = placed(data), {name: moves / size for name, moves in targets.items()}
        whole = whole.with_vertices(whole.vertices / size)
    shares = {
        name: [
            Shaped(*some)
            for some in zip(*(np.split(one, starts[1:-1]) for one in (moves, normals[""], normals[name])), strict=True)
        ]
        for name, moves in targets.items()
    }
    try:
        return RiggedHead(with_targets(data, surfaces, shares), whole.vertices, targets, parts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:  # what no reader has looked at
        raise MeshganError(f"{path}: its description is damaged; export it again.") from error


def missing_part(found: Registration, template: FaceTemplate) -> str:
    """A sentence where a head has no skin around mouth, nose or eyes, so that shapes there are guesses; else ''."""
    quality = measure(found, template)
    if quality.gap_mm2 <= GAP_MM2:
        return ""
    size = f"{quality.gap_mm2:,.0f} mm²"
    return f"there is no skin in a patch of {size} at the {quality.gap_at}; shapes there are what a face would do."


def as_glb(path: Path, millimetres: float) -> bytes:
    """A mesh file, whose unit is so long, as a GLB with its materials, as far as they can be read."""
    mesh = read_mesh(path)  # by our own reader first, which knows the limits
    if path.suffix.lower() == ".glb":
        return read_bytes(path, MOST_BYTES)
    try:
        scene: Any
        if path.suffix.lower() == ".stl":  # without materials, and our reader takes some that the other one does not
            scene = trimesh.Scene(trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False))
        else:
            scene = trimesh.load_scene(path, process=False)
        for part in scene.geometry.values():
            part.remove_unreferenced_vertices()  # which have no normal, and glTF wants one
        scene.apply_scale(millimetres * METRES)
        return bytes(scene.export(file_type="glb", include_normals=True))
    except Exception as error:  # damaged files raise whatever its readers, Pillow and NumPy come upon
        raise MeshganError(f"{path}: its material cannot be read; write it as GLB.") from error


def carried(
    head: Mesh, found: Registration, which: Kind = "arkit"
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, int]]:
    """The shapes (N, 3) of a head, in mm where it lies; its normals (N, 3) in each, and at rest under the name ""; and
    what its parts were taken for."""
    shapes = targets_of(found.vertices, which)
    upright = found.to_scan.inverse(head.vertices)
    points, owner = np.unique(upright, axis=0, return_inverse=True)  # one vertex where seams have several
    owner = owner.ravel()
    triangles = owner[head.triangles]
    welded = Mesh(points, triangles[(triangles != np.roll(triangles, 1, axis=1)).all(axis=1)])
    moves = _moved(welded, found.vertices, shapes)
    turn = found.to_scan.rotation.T
    targets, normals = {}, {"": welded.vertex_normals[owner] @ turn}
    for row, name in enumerate(shapes):
        move = moves.displacements[:, 3 * row : 3 * row + 3]
        targets[name] = float(found.to_scan.scale) * move[owner] @ turn
        normals[name] = welded.with_vertices(points + move).vertex_normals[owner] @ turn
    kinds = np.bincount(moves.kinds[owner], minlength=len(KINDS))
    return targets, normals, {kind: int(count) for kind, count in zip(KINDS, kinds, strict=True) if count}


KINDS = ("skin", "eyes", "lower mouth", "upper mouth", "beside the skin")
SKIN, EYES, LOWER, UPPER, BESIDE = range(len(KINDS))


@dataclass(frozen=True, eq=False)
class _Moves:
    displacements: Floats  # (V, 3 K)
    kinds: Integers  # (V,) of `KINDS`


def _moved(head: Mesh, face: Floats, shapes: Mapping[str, Reals]) -> _Moves:
    """How the vertices (V, 3) of a head in the template's place move, which has this face of the template (F, 3)."""
    template = default_template().mesh
    surface = Surface(template.with_vertices(face))
    near = surface.closest(head.vertices)
    corners = template.triangles[near.triangle]
    every = np.concatenate([np.asarray(shape, dtype=np.float64) for shape in shapes.values()], axis=1)
    guess = np.einsum("vk,vkc->vc", near.barycentric, every[corners])
    facing = np.einsum("vc,vc->v", head.vertex_normals, surface.normals(near))
    trusted = (near.distance < NEAR_MM) & (facing > FACING) & ~surface.on_border(near)
    trusted &= ~_torn(head, guess, list(shapes))
    labels = head.components
    kinds = np.full(len(head.vertices), BESIDE)
    result = np.zeros_like(guess)
    balls = [(eye.side, eye.balls(face[None])) for eye in contacts().eyes]
    eyes = [(side, ball.centre[0], float(ball.radius[0])) for side, ball in balls]
    lips = face[contacts().lips.middle]
    sizes = np.bincount(labels)
    trust = np.bincount(labels, weights=trusted)
    for label in np.flatnonzero(sizes > 3):
        rows = np.flatnonzero(labels == label)
        if (side := _eye(head.vertices[rows], eyes)) is not None:
            kinds[rows] = EYES
            result[rows] = _turned(head.vertices[rows], side, list(shapes))
        elif trust[label] >= FEWEST or (trust[label] > 0 and trust[label] == trust.max()):
            kinds[rows] = SKIN
        elif _in_mouth(head.vertices[rows], lips).all():
            lower = np.median(head.vertices[rows, 1]) < lips[:, 1].mean()
            kinds[rows] = LOWER if lower else UPPER
            if lower:
                result[rows] = _with_jaw(head.vertices[rows], face, shapes)
    skin = np.flatnonzero(kinds == SKIN)
    if not len(skin):
        raise MeshganError("hardly any of its surface lies where its face was found; is it a head?")
    known = np.where(trusted, 1.0, np.where(near.distance > REST_MM, LOOSE, WEAK**2))
    guess[~trusted] = 0.0
    lining = np.flatnonzero(~trusted & (near.distance > LINING_MM) & _in_mouth(head.vertices, lips))
    below = np.clip(0.5 + (lips[:, 1].mean() - head.vertices[lining, 1]) / BITE_MM, 0, 1)
    guess[lining] = below[:, None] * _with_jaw(head.vertices[lining], face, shapes)
    known[lining] = LOOSE
    result[skin] = _spread(head, skin, guess, known)
    beside = np.flatnonzero(kinds == BESIDE)
    if len(beside):
        away, at = cKDTree(head.vertices[skin]).query(head.vertices[beside])
        result[beside] = result[skin[at]] * np.exp(-np.square(away / BESIDE_MM))[:, None]
    return _Moves(result, kinds)


def _torn(head: Mesh, guess: Floats, names: Sequence[str]) -> Booleans:
    """The vertices (V,) at edges whose ends a shape of the jaw or the lids would move too far apart."""
    torn = np.zeros(len(head.vertices), dtype=bool)
    a, b = head.edges.T
    allowed = TORN * np.linalg.norm(head.vertices[a] - head.vertices[b], axis=1) + TORN_MM
    for row, name in enumerate(names):
        if name.startswith(("jawOpen", "eyeBlink", "mouthLowerDown", "mouthUpperUp")):
            shift = guess[:, 3 * row : 3 * row + 3]
            apart = np.linalg.norm(shift[a] - shift[b], axis=1) > allowed
            torn[a[apart]] = torn[b[apart]] = True
    return torn


def _spread(head: Mesh, skin: Integers, guess: Floats, known: Floats) -> Floats:
    """The displacements (S, C) of the skin's vertices; see the module's equation."""
    number = np.full(len(head.vertices), -1)
    number[skin] = np.arange(len(skin))
    inside = (number[head.triangles] >= 0).all(axis=1)
    part = Mesh(head.vertices[skin], number[head.triangles[inside]])
    areas = np.maximum(mass(part), 1e-6 * max(float(mass(part).mean()), 1e-9))
    weights = cotangent_weights(part)
    plate = weights @ sp.diags_array(1 / areas) @ weights
    system = sp.csc_array(WITHIN_MM**4 * plate + sp.diags_array(areas * known[skin]))
    return np.asarray(splu(system).solve((areas * known[skin])[:, None] * guess[skin]))


def _eye(points: Floats, eyes: Sequence[tuple[str, Floats, float]]) -> str | None:
    """The side of the eye that a part (N, 3) is the ball of, or what lies on it; None for anything else."""
    if len(points) < 8:
        return None
    middle = points.mean(axis=0)
    arms = np.column_stack([2 * (points - middle), np.ones(len(points))])
    solution = np.linalg.lstsq(arms, np.square(points - middle).sum(axis=1), rcond=None)[0]
    centre, square = middle + solution[:3], float(solution[3] + solution[:3] @ solution[:3])
    radius = np.sqrt(max(square, 0.0))
    rough = np.linalg.norm(points - centre, axis=1).std()
    side, ball, own = min(eyes, key=lambda eye: float(np.linalg.norm(centre - eye[1])))
    off = np.linalg.norm(centre - ball)
    return side if BALL[0] < radius / own < BALL[1] and rough < ROUND * radius and off < OFF_MM else None


def _turned(points: Floats, side: str, names: Sequence[str]) -> Floats:
    """The displacements (N, 3 K) of an eyeball: it turns about its middle as the eye looks."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    result = np.zeros((len(points), 3 * len(names)))
    for way, (pitch, yaw) in WAYS.items():
        if (name := f"eyeLook{way}{side}") in names:
            angles = LOOKS[way] * np.array([yaw if side == "Left" else -yaw, pitch])
            turn = Rotation.from_euler("YX", angles, degrees=True)
            row = names.index(name)
            result[:, 3 * row : 3 * row + 3] = turn.apply(points - middle) - (points - middle)
    return result


def _in_mouth(points: Floats, lips: Floats) -> Booleans:
    """Which of points (N, 3) lie in the mouth of these lips (L, 3)."""
    beside, above, behind = MOUTH_MM
    off = np.abs(points - lips.mean(axis=0))
    front = lips[:, 2].max()
    deep = (points[:, 2] < front) & (points[:, 2] > front - behind)
    return np.asarray((off[:, 0] < np.ptp(lips[:, 0]) / 2 + beside) & (off[:, 1] < above) & deep)


def _with_jaw(points: Floats, face: Floats, shapes: Mapping[str, Reals]) -> Floats:
    """The displacements (N, 3 K) of what is fixed to the jaw: its motion is that of the chin, which hardly deforms."""
    template = default_template()
    chin = template.landmark_rows[[template.landmark_names.index("chin_tip")]] @ face
    about = np.linalg.norm(face - chin, axis=1) < CHIN_MM
    moved = []
    for name, shape in shapes.items():
        motion = rigid(face[about], face[about] + shape[about])
        moved.append(motion(points) - points if name.startswith("jaw") else np.zeros_like(points))
    return np.concatenate(moved, axis=1)
