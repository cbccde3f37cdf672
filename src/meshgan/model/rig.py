"""The 52 ARKit blendshapes and six expressions of any face of the package's template, as linear morph targets.

Apple's names, and what each shape does, are those of *ARFaceAnchor.BlendShapeLocation* (Apple, ARKit). A target is what
this face does at strength 1 under the corpus's non-linear motion (`corpora.motion`), without personal manner and
wrinkles, minus the face at rest: lids roll over its own eyeballs, its lips meet and press, its jaw turns about its
own joint, which is found from its vertices, and lengths grow with its size.

One shape is defined by another: `mouthClose` at 1 closes the mouth that `jawOpen` at 1 opens, the jaw staying down.
The skin between nose and chin then follows the jaw by other weights, the same ones on both lips.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from scipy.sparse.linalg import splu

from meshgan.arrays import Floats, Reals, Singles
from meshgan.data.corpora.basis import ASSETS, Neutral, face_template, layout_of
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.heads import Heads, head_template, heads
from meshgan.data.corpora.lips import Lips
from meshgan.data.corpora.motion import Motion, contacts, motion
from meshgan.data.corpora.performance import NAMES as UNIT_NAMES
from meshgan.data.corpora.performance import SPONTANEOUS, STRENGTHS, UNIT_ACTIONS, draw_actions, draw_style, draw_units
from meshgan.data.corpora.recipes import EXPRESSIONS
from meshgan.data.faceset import OTHER_UNIT
from meshgan.errors import UsageError
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.files import write_glb
from meshgan.geometry.laplacian import cotangent_weights, mass
from meshgan.geometry.mesh import Layout, Mesh
from meshgan.geometry.surface import far_from

Kind = Literal["arkit", "expressions", "both", "none"]
Targets = dict[str, Singles]

# Apple's 52 names, in the order of a Live Link Face file.
ARKIT = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft",
    "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight",
    "eyeSquintRight", "eyeWideRight", "jawForward", "jawRight", "jawLeft", "jawOpen", "mouthClose", "mouthFunnel",
    "mouthPucker", "mouthRight", "mouthLeft", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft",
    "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight",
    "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft",
    "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft",
    "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

_BOTH = {  # sided shapes that visemes use on both sides alike
    name: (f"{name}Left", f"{name}Right")
    for name in ("mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp")
}


def _viseme(**weights: float) -> dict[str, float]:
    return {side: weight for name, weight in weights.items() for side in _BOTH.get(name, (name,))}


# The 15 visemes of Oculus' lip sync (sil, PP, FF, …) as combinations of the shapes above.
VISEMES: Mapping[str, Mapping[str, float]] = {
    "viseme_sil": {},
    "viseme_PP": _viseme(mouthPress=0.45, mouthRollLower=0.3, mouthRollUpper=0.3),
    "viseme_FF": _viseme(jawOpen=0.06, mouthRollLower=0.45, mouthUpperUp=0.3),
    "viseme_TH": _viseme(jawOpen=0.18, mouthLowerDown=0.2, mouthUpperUp=0.15, tongueOut=0.3),
    "viseme_DD": _viseme(jawOpen=0.14, mouthLowerDown=0.25, mouthUpperUp=0.15, mouthStretch=0.1),
    "viseme_kk": _viseme(jawOpen=0.2, mouthLowerDown=0.25, mouthUpperUp=0.2),
    "viseme_CH": _viseme(jawOpen=0.1, mouthFunnel=0.55, mouthLowerDown=0.15, mouthUpperUp=0.15),
    "viseme_SS": _viseme(jawOpen=0.05, mouthStretch=0.35, mouthLowerDown=0.35, mouthUpperUp=0.2),
    "viseme_nn": _viseme(jawOpen=0.12, mouthLowerDown=0.25, mouthUpperUp=0.1),
    "viseme_RR": _viseme(jawOpen=0.12, mouthFunnel=0.35, mouthPucker=0.2, mouthLowerDown=0.1),
    "viseme_aa": _viseme(jawOpen=0.45, mouthLowerDown=0.2, mouthUpperUp=0.1),
    "viseme_E": _viseme(jawOpen=0.22, mouthStretch=0.3, mouthSmile=0.2, mouthLowerDown=0.2),
    "viseme_I": _viseme(jawOpen=0.13, mouthSmile=0.4, mouthStretch=0.25, mouthLowerDown=0.2),
    "viseme_O": _viseme(jawOpen=0.3, mouthFunnel=0.5, mouthPucker=0.25),
    "viseme_U": _viseme(jawOpen=0.12, mouthFunnel=0.25, mouthPucker=0.65),
}

CLOSED_AT = 0.4  # of the lower lip's way down: where lips meet that close over an open jaw
LIP = 0.95  # skin that goes with a lip by so much keeps its form there
ABOVE_MM, BELOW_MM = 15.0, 24.0  # beyond that, above and below, skin goes with the jaw as it always does
TONGUE_OPENS = 0.5  # of jawOpen, with the tongue all the way out
LOOKS = {"In": 30.0, "Out": 30.0, "Up": 16.0, "Down": 22.0}  # degrees by which an eye turns
SHUT = 2.0  # degrees by which lids that blink close further on a head, where the white between them would be seen
STEP = 26  # faces that are moved at a time: what they need fits into a cache


@dataclass(frozen=True, eq=False)
class Rig:
    """A face at rest, `mesh` in mm, and its morph `targets`: names to displacements (V, 3) in mm at weight 1."""

    mesh: Mesh
    targets: Targets
    layout: Layout  # that of its template

    def posed(self, weights: Mapping[str, float]) -> Floats:
        """The vertices (V, 3) with these weights, as any viewer adds them up; visemes count as what they are made of.

        Raises `UsageError` for a name that is neither a target nor a viseme.
        """
        moved = self.mesh.vertices.copy()
        for name, weight in spelled_out(weights).items():
            if name not in self.targets:
                raise UsageError(f"there is no shape '{name[:40]}'; there are {', '.join(list(self.targets)[:3])}, …")
            moved += weight * self.targets[name]
        return moved

    def save(self, path: str | Path, weights: Mapping[str, float] | None = None) -> None:
        """Write a GLB with all targets, `weights` of which are on when it is opened."""
        write_glb(Path(path), self.mesh, self.targets, spelled_out(weights or {}), Path(path).stem, layout=self.layout)


def spelled_out(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights of shapes, in which visemes are replaced by the shapes that they are made of."""
    found: dict[str, float] = {}
    for name, weight in weights.items():
        for shape, share in VISEMES.get(name, {name: 1.0}).items():
            found[shape] = found.get(shape, 0.0) + weight * share
    return found


def rig(face: ArrayLike | Mesh, which: Kind = "both") -> Rig:
    """The rig of a face or head of a template of the package: (V, 3) in mm, or a mesh; wherever it is, however turned.

    `which` chooses Apple's 52 shapes, the six expressions, or both. Raises `UsageError` for a face of another
    template. It takes about half a second.
    """
    if which not in get_args(Kind):
        raise UsageError(f"there is no rig '{which}'; choose one of {', '.join(get_args(Kind))}.")
    vertices = np.asarray(face.vertices if isinstance(face, Mesh) else face)
    if vertices.ndim != 2 or not np.issubdtype(vertices.dtype, np.number):
        raise UsageError("the face to rig should be a mesh, as `read_mesh` gives it, or an array (V, 3) of numbers.")
    template = next((t for t in (face_template(), head_template()) if t.vertices.shape == vertices.shape), None)
    if template is None or (isinstance(face, Mesh) and not can_be_rigged(face)):
        raise UsageError(
            f"shapes are known for faces and heads of meshgan ({len(face_template().vertices):,} and "
            f"{len(head_template().vertices):,} vertices), and this mesh is none ({len(vertices):,}); register it, or "
            "let `rig_head` carry them over."
        )
    if not np.isfinite(vertices).all():
        raise UsageError("the face to rig has vertices that are no numbers.")
    size, usual = (float(np.ptp(points, axis=0).max()) for points in (vertices, template.vertices))
    if not usual / OTHER_UNIT < size < usual * OTHER_UNIT:
        raise UsageError(
            f"the face to rig measures {size:.3g} mm and its template {usual:.3g} mm; is it in another unit?"
        )
    layout = layout_of(template)
    assert layout is not None
    return Rig(template.with_vertices(vertices), targets_of(vertices, which), layout)


def kind_of_rig(wanted: str | None, template: Mesh) -> Kind:
    """What a user wants: by default both where faces of the template can be rigged, and else none.

    Raises `UsageError` for another word, or if it cannot be had.
    """
    if wanted is not None and wanted not in get_args(Kind):
        raise UsageError(f"there is no rig '{wanted[:20]}'; choose from {', '.join(get_args(Kind))}.")
    able = can_be_rigged(template)
    if wanted not in (None, "none") and not able:
        raise UsageError(
            "shapes are known for the template of meshgan, and the model is of another one; leave out `rig`."
        )
    return cast(Kind, wanted or ("both" if able else "none"))


def can_be_rigged(template: Mesh) -> bool:
    """Whether faces of this template are faces, or heads, of the package's."""
    return layout_of(template) is not None


def targets_of(face: ArrayLike, which: Kind) -> Targets:
    """The targets alone of a face or head (V, 3) of a template of the package."""
    return {} if which == "none" else rigger_of(np.shape(face)[0]).targets(face, which)


def rigger_of(vertices: int) -> "Rigger":
    """The rigger of that template of the package that has so many vertices."""
    return rigger() if vertices == len(rigger().template.vertices) else head_rigger()


class Rigger:
    """Knows the face template: how it moves, where a face's jaw joint is, and how lips close over an open jaw."""

    def __init__(self, moves: Motion) -> None:
        self.motion, self.template = moves, moves.template
        self.opening, self.closing = (moves.basis.action_names.index(name) for name in ("jawOpen", "mouthClose"))
        self.columns = [moves.basis.action_names.index(name) for name in ARKIT]
        with (ASSETS / "jaw_joint.npz").open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            self.near, self.weights, self.at_rest = (arrays[name] for name in ("vertices", "weights", "at_rest"))

    def joint(self, face: Floats) -> Floats:
        """The joint of the jaw (3,) of a face (V, 3) that lies where the template does: linear in some vertices."""
        away = face[self.near] - self.motion.template.vertices[self.near]
        return np.asarray(self.at_rest + away.ravel() @ self.weights, dtype=np.float64)

    def pivot(self, face: ArrayLike) -> Floats:
        """The joint of the jaw (3,) of a face (V, 3), or head, wherever it lies and however it is turned."""
        placed, still, _ = self.placed(face)
        return np.asarray(placed.inverse(still.joints.astype(np.float64))[0])

    def targets(self, face: ArrayLike, which: Kind = "both") -> Targets:
        """The targets (V, 3) of a face (V, 3), each what it does at strength 1."""
        apple, feelings = which in ("arkit", "both"), which in ("expressions", "both")
        rows = [np.eye(len(ARKIT))] * apple + [CLOSED_JAW_DOWN[None]] * apple + [EXPRESSION_WEIGHTS] * feelings
        if not rows:
            return {}
        moves = list(self.displacements(face, np.concatenate(rows)).astype(np.float32))
        targets: Targets = {}
        if apple:
            shapes, (closed, *moves) = moves[: len(ARKIT)], moves[len(ARKIT) :]
            targets = dict(zip(ARKIT, shapes, strict=True))
            targets["mouthClose"] = closed - targets["jawOpen"]
        return targets | {
            f"expression{name.capitalize()}": move for name, move in zip(EXPRESSIONS, moves, strict=False)
        }

    def performed(self, face: ArrayLike, weights: ArrayLike) -> Floats:
        """Faces (N, V, 3): the given one (V, 3) with weights (N, 52) of the shapes, by the non-linear motion."""
        return np.asarray(face) + self.displacements(face, weights)

    def displacements(self, face: ArrayLike, weights: ArrayLike) -> Floats:
        """How far (N, V, 3) the vertices of a face (V, 3) move for weights (N, 52), in its own place."""
        placed, still, size = self.placed(face)
        return self.upright(still, np.asarray(weights, dtype=np.float64), size) @ placed.rotation

    def placed(self, face: ArrayLike) -> tuple[Similarity, Neutral, float]:
        """The motion that brings a face (V, 3) to the template, the face there at rest, and its size."""
        template = self.motion.template.vertices
        motion = rigid(face, template)
        upright = motion(face)
        still = contacts().settled(
            Neutral(upright[None].astype(np.float32), self.joint(upright)[None].astype(np.float32))
        )
        return motion, still, float(np.linalg.norm(upright.std(axis=0)) / np.linalg.norm(template.std(axis=0)))

    def upright(self, still: Neutral, rows: Floats, size: float) -> Singles:
        """How far (N, V, 3) a settled face moves for the weights (N, 52), in the template's place."""
        moved = [self._moved(still, rows[start : start + STEP], size) for start in range(0, len(rows), STEP)]
        return np.concatenate(moved) - still.vertices

    def _moved(self, still: Neutral, weights: Floats, size: float) -> Singles:
        """Settled faces in the template's place with the weights (N, 52)."""
        count = len(weights)
        neutral = Neutral(np.repeat(still.vertices, count, axis=0), np.repeat(still.joints, count, axis=0))
        actions = np.zeros_like(weights)
        actions[:, self.columns] = weights
        opened, shut = weights[:, ARKIT.index("jawOpen")], weights[:, ARKIT.index("mouthClose")]
        actions[:, self.closing] = 0.0
        faces, _ = self.motion.perform(neutral, actions, None, None, np.full(count, size))
        share = np.clip(np.divide(shut, opened, out=np.zeros(count), where=opened > 0), 0, 1)
        rows = np.flatnonzero(share)
        if len(rows):
            faces[rows] += share[rows, None, None].astype(np.float32) * self._way_shut(still, opened[rows], size)
            closed = faces[rows]
            self.motion.lips.part(closed)
            faces[rows] = closed
        return faces

    def _way_shut(self, still: Neutral, opened: Floats, size: float) -> Singles:
        """How far (N, V, 3) the skin of a face goes to close the mouth that jawOpen, by `opened` (N,), has opened."""
        actions = np.zeros((len(opened), len(ARKIT)))
        actions[:, self.opening] = opened
        neutral = Neutral(np.repeat(still.vertices, len(opened), axis=0), np.repeat(still.joints, len(opened), axis=0))
        ajar, _ = self.motion.perform(neutral, actions, None, None, np.full(len(opened), size))
        jaw = actions @ self.motion.basis.jaw_motions
        alike = np.full(still.vertices.shape[1], CLOSED_AT, np.float32)
        met = self.motion.basis.with_jaw(neutral, jaw[:, :3], jaw[:, 3:] * size, alike)
        return self.gathering.spread((met - ajar)[:, self.gathering.held])

    @cached_property
    def gathering(self) -> "Gathering":
        """The skin that follows when lips close over an open jaw."""
        return Gathering(self.motion.template, self.motion.lips)


class HeadRigger(Rigger):
    """Knows the head template: its face moves as faces do, and the rest of the head follows."""

    def __init__(self, moves: Motion, whole: Heads) -> None:
        super().__init__(moves)
        self.heads, self.template = whole, whole.template

    def pivot(self, face: ArrayLike) -> Floats:
        """The joint of the jaw (3,) of a head (H, 3)."""
        return super().pivot(self.heads.face_of(np.asarray(face)))

    def upright(self, still: Neutral, rows: Floats, size: float) -> Singles:
        """How far (N, V, 3) the settled face of a head moves; its lids close all the way."""
        moved = super().upright(still, rows, size)
        for eye, _, _ in self.heads.eyes:
            balls = eye.balls(still.vertices)
            lids = (still.vertices + moved)[:, eye.lids].astype(np.float64)
            along, away, about = balls.polar(lids)
            about -= np.radians(SHUT) * rows[:, [ARKIT.index(f"eyeBlink{eye.side}")]] * eye.follows_upper
            shut = balls.centre[:, None] + balls.arms(along, away, about)
            moved[:, eye.lids] = (shut - still.vertices[:, eye.lids]).astype(np.float32)
        return moved

    def displacements(self, face: ArrayLike, weights: ArrayLike) -> Floats:
        """How far (N, H, 3) the vertices of a head (H, 3) move for weights (N, 52), in its own place.

        The tongue opens the mouth by which it comes out.
        """
        head, rows = np.asarray(face, dtype=np.float64), np.array(weights, dtype=np.float64)
        out, opened = rows[:, ARKIT.index("tongueOut")], ARKIT.index("jawOpen")
        rows[:, opened] = np.maximum(rows[:, opened], TONGUE_OPENS * out)
        placed, still, size = self.placed(self.heads.face_of(head))
        actions = np.zeros_like(rows)
        actions[:, self.columns] = rows
        jaw = actions @ self.motion.basis.jaw_motions * np.repeat([1.0, size], 3)
        moved = self.heads.followed(
            placed(head), self.upright(still, rows, size), still.joints[0], jaw, _gaze(rows), out * size
        )
        return moved @ placed.rotation


def _gaze(weights: Floats) -> Floats:
    """How far (N, 2, 2) the left and the right eye turn to the person's left, and up, in radians."""
    of = dict(zip(ARKIT, weights.T, strict=True))
    turns = [
        [
            LOOKS["Out"] * sign * of[f"eyeLookOut{side}"] - LOOKS["In"] * sign * of[f"eyeLookIn{side}"],
            LOOKS["Up"] * of[f"eyeLookUp{side}"] - LOOKS["Down"] * of[f"eyeLookDown{side}"],
        ]
        for side, sign in (("Left", 1), ("Right", -1))
    ]
    return np.radians(turns).transpose(2, 0, 1)


class Gathering:
    """Skin between nose, cheeks and chin that goes along when the lips are moved: as a thin plate, with the least
    ∫|Δd|² of all displacements d that are those of the lips on them, and none further away."""

    def __init__(self, template: Mesh, lips: Lips) -> None:
        self.held = lips.vertices[lips.weights.max(axis=0) > LIP]
        lip = np.zeros(len(template.vertices), dtype=bool)
        lip[self.held] = True
        away = far_from(template.vertices, template.vertices[lip])
        below = template.vertices[:, 1] < lips.corners[:, 1].mean()
        self.free = np.flatnonzero(~lip & (away < np.where(below, BELOW_MM, ABOVE_MM)))
        weights = cotangent_weights(template)
        plate = sp.csr_array(weights @ sp.diags_array(1 / np.maximum(mass(template), 1e-9)) @ weights)[self.free]
        self.to_held, self.factors = plate[:, self.held], splu(sp.csc_array(plate[:, self.free]))
        self.count = len(template.vertices)

    def spread(self, moved: Reals) -> Singles:
        """The displacements (N, V, 3) that go with those (N, H, 3) of the lips."""
        size = len(moved)
        columns = moved.transpose(1, 0, 2).reshape(len(self.held), -1).astype(np.float64)
        result = np.zeros((self.count, columns.shape[1]))
        result[self.held] = columns
        result[self.free] = self.factors.solve(-(self.to_held @ columns))
        return result.reshape(self.count, size, 3).transpose(1, 0, 2).astype(np.float32)


@cache
def rigger() -> Rigger:
    """The rigger of the face template of the package."""
    return Rigger(motion())


@cache
def head_rigger() -> HeadRigger:
    """The rigger of the head template of the package."""
    return HeadRigger(motion(), heads())


def _expression_weights() -> Floats:
    """Weights (6, 52) of the shapes in what most people do for each of the six expressions."""
    weights = np.zeros((len(EXPRESSIONS), len(ARKIT)))
    for row, strengths in enumerate(STRENGTHS[:, 0] @ UNIT_ACTIONS):
        for name, strength in zip(UNIT_NAMES, strengths, strict=True):
            for shape in (name,) if name in ARKIT else (f"{name}Left", f"{name}Right"):
                if strength:
                    weights[row, ARKIT.index(shape)] = strength
    return weights


def random_weights(count: int, seed: int = 0) -> Floats:
    """Weights (count, 52) of the shapes in what random people do, as those of the corpus of expressions do it."""
    draws, who = Draws(seed, "rig", np.arange(count)), np.arange(count)
    style, feeling = draw_style(draws), draws.choice([1.0] * len(EXPRESSIONS))
    units, _ = draw_units(draws, style, who, feeling, np.full(count, SPONTANEOUS))
    weights = np.clip(draw_actions(draws, style, who, units, ARKIT), 0, 1)
    weights[:, ARKIT.index("mouthClose")] *= weights[:, ARKIT.index("jawOpen")]  # there, a share of what is open
    return weights


EXPRESSION_WEIGHTS = _expression_weights()
CLOSED_JAW_DOWN = np.isin(ARKIT, ("jawOpen", "mouthClose")).astype(np.float64)
