"""The face basis that ships with the package: linear shapes of a face, how they combine, and a jaw that turns.

A neutral face is `base` + Σ weight · shape, with the lips closed by turning the jaw. The shapes of a phenotype
(sex × age × muscle × weight, and ancestry × sex × age) are blended multilinearly as MakeHuman does; features are
signed sliders in [-1, 1]. Facial actions are added to the neutral face; then the jaw moves as a rigid body about
its joint, and the skin follows by its weights. Where the arrays come from: DATA.md and tools/build_face_basis.py.
"""

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Floats, Integers, Singles
from meshgan.geometry.align import rotations
from meshgan.geometry.files import read_mesh
from meshgan.geometry.mesh import Layout, Mesh, Part

ASSETS = files("meshgan.data") / "assets"
# Ages between which shapes are interpolated. The baby is one of a year; but faces grow fastest early, and a straight
# line from there would leave a child of five with the face of a toddler.
AGE_YEARS = {"baby": -7.0, "child": 11.0, "young": 25.0, "old": 88.0}
BUILD = ("min", "average", "max")  # muscle and weight 0, 0.5 and 1
ANCESTRIES = ("african", "asian", "caucasian")
# The parts of the head template in their order, each with its colour (linear) and the roughness of its surface.
HEAD_PARTS = {
    "skin": ((0.58, 0.36, 0.27), 0.6), "eyeLeft": ((0.8, 0.8, 0.8), 0.1), "eyeRight": ((0.8, 0.8, 0.8), 0.1),
    "teethUpper": ((0.8, 0.74, 0.62), 0.25), "teethLower": ((0.8, 0.74, 0.62), 0.25),
    "tongue": ((0.5, 0.13, 0.12), 0.4),
}  # fmt: skip
LIP_PAIRS = ((1, 7), (2, 6), (3, 5))  # inner lip landmarks opposite each other, upper and lower
CLOSED_MM = 0.55  # the distance of those on lips that just touch


@dataclass(frozen=True, eq=False)
class Phenotype:
    """What the macro shapes depend on, for B faces: `age` in years (B,), `female`, `muscle` and `weight` in
    [0, 1] (B,), `ancestry` (B, 3), rows sum to 1."""

    age: Floats
    female: Floats
    muscle: Floats
    weight: Floats
    ancestry: Floats


@dataclass(frozen=True, eq=False)
class Neutral:
    """Neutral faces `vertices` (B, V, 3) in mm, each with the joint of its jaw (B, 3)."""

    vertices: Singles
    joints: Singles


@dataclass(frozen=True, eq=False)
class FaceBasis:
    """The arrays of face_basis.npz in millimetres. V template vertices; shapes of neutral faces have V + 1 points,
    the last of which is the joint of the jaw."""

    base: Singles  # (V + 1, 3)
    phenotypes: Singles  # (P, V + 1, 3)
    phenotype_names: tuple[str, ...]
    features: Singles  # (S, V + 1, 3)
    feature_names: tuple[str, ...]
    feature_shapes: Integers  # (F, 2): the shapes of each feature's positive and negative side, -1 for none
    actions: Singles  # (A, V, 3)
    action_names: tuple[str, ...]
    jaw_weights: Singles  # (V,): how far each vertex follows the jaw
    jaw_motions: Floats  # (A, 6): rotation vector and translation (mm) of the jaw in each action
    lips: Integers  # (3, 2, 3): vertices of the upper and lower point of three pairs
    lip_weights: Singles  # (3, 2, 3)

    @classmethod
    def read(cls, folder: Traversable = ASSETS) -> "FaceBasis":
        """The basis in a folder of assets; without one, that of this package."""
        marks = {
            mark["name"]: mark for mark in json.loads((folder / "face_landmarks.json").read_text(encoding="utf-8"))
        }
        with (folder / "face_basis.npz").open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            step = float(arrays["step_mm"])
            pairs = [[marks[f"inner_lips_{i}"] for i in pair] for pair in LIP_PAIRS]
            return cls(
                base=arrays["base"],
                phenotypes=np.multiply(arrays["phenotypes"], step, dtype=np.float32),
                phenotype_names=tuple(arrays["phenotype_names"].tolist()),
                features=np.multiply(arrays["features"], step, dtype=np.float32),
                feature_names=tuple(arrays["feature_names"].tolist()),
                feature_shapes=arrays["feature_shapes"].astype(np.int64),
                actions=np.multiply(arrays["actions"], step, dtype=np.float32),
                action_names=tuple(arrays["action_names"].tolist()),
                jaw_weights=arrays["jaw_weights"],
                jaw_motions=arrays["jaw_motions"],
                lips=np.array([[mark["vertices"] for mark in pair] for pair in pairs]),
                lip_weights=np.array([[mark["weights"] for mark in pair] for pair in pairs], dtype=np.float32),
            )

    @property
    def vertex_count(self) -> int:
        return len(self.jaw_weights)

    def neutral(self, phenotype: Phenotype, features: ArrayLike) -> Neutral:
        """Neutral faces of people with these phenotypes and feature values (B, F)."""
        weights = np.concatenate([self.phenotype_weights(phenotype), self.feature_weights(features)], axis=1)
        points = (weights.astype(np.float32) @ self._shapes).reshape(len(weights), -1, 3)
        points += self.base
        return self.closed(Neutral(points[:, :-1], points[:, -1]))

    @cached_property
    def _shapes(self) -> Singles:
        """All shapes of neutral faces (P + S, (V + 1) · 3)."""
        return np.concatenate([self.phenotypes, self.features]).reshape(len(self.phenotypes) + len(self.features), -1)

    def phenotype_weights(self, phenotype: Phenotype) -> Floats:
        """Weights (B, P) of the macro shapes: products of the shares of what their names are made of."""
        shares = _shares(phenotype)
        return np.stack(
            [np.prod([shares[part] for part in name.split("-")], axis=0) for name in self.phenotype_names]
        ).T

    def feature_weights(self, values: ArrayLike) -> Floats:
        """Weights (B, S) of the feature shapes: a value's positive and negative parts go to opposite shapes."""
        values = np.asarray(values, dtype=np.float64)
        weights = np.zeros((len(values), len(self.features)))
        for side, part in enumerate((np.maximum(values, 0), np.maximum(-values, 0))):
            there = self.feature_shapes[:, side] >= 0
            weights[:, self.feature_shapes[there, side]] = part[:, there]
        return weights

    def closed(self, faces: Neutral) -> Neutral:
        """The same faces with the jaw turned until the lips touch."""
        points = (faces.vertices[:, self.lips] * self.lip_weights[..., None]).sum(axis=-2)  # (B, 3, 2, 3)
        gap = (points[:, :, 0, 1] - points[:, :, 1, 1]).mean(axis=1) - CLOSED_MM
        lever = points[:, :, 1, 2].mean(axis=1) - faces.joints[:, 2]
        turn = np.zeros((len(gap), 3))
        turn[:, 0] = -gap / lever
        return Neutral(self.with_jaw(faces, turn, np.zeros((len(gap), 3))), faces.joints)

    def with_jaw(
        self, faces: Neutral, rotation: Floats, translation: Floats, follows: Singles | None = None
    ) -> Singles:
        """Vertices (B, V, 3) after the jaw has turned by rotation vectors (B, 3) about its joint and moved (B, 3).

        The skin follows by `follows` (V,), else by `jaw_weights`.
        """
        turn = (rotations(rotation) - np.eye(3)).astype(np.float32)
        arms = faces.vertices - faces.joints[:, None]
        moved = arms @ turn.transpose(0, 2, 1) + translation.astype(np.float32)[:, None]
        share: Singles = self.jaw_weights if follows is None else follows
        return np.asarray(faces.vertices + share[:, None] * moved, dtype=np.float32)

    def perform(self, faces: Neutral, actions: ArrayLike, scale: ArrayLike = 1.0) -> Singles:
        """Vertices (B, V, 3) of the faces doing `actions` (B, A) in [0, 1]; lengths are multiplied by `scale` (B,)."""
        actions = np.asarray(actions, dtype=np.float64)
        scale = np.broadcast_to(np.asarray(scale, dtype=np.float64), len(actions))[:, None]
        shapes = self.actions.reshape(len(self.actions), -1)
        offsets = ((actions * scale).astype(np.float32) @ shapes).reshape(len(actions), -1, 3)
        motion = actions @ self.jaw_motions
        moved = Neutral(faces.vertices + offsets, faces.joints)
        return self.with_jaw(moved, motion[:, :3], motion[:, 3:] * scale)


@cache
def face_basis() -> FaceBasis:
    """The basis of the package."""
    return FaceBasis.read()


@cache
def face_template() -> Mesh:
    """The face template of the package: 5,036 vertices, the average adult, origin at the centroid of the surface."""
    with as_file(ASSETS / "face_template.ply") as path:
        return read_mesh(path)


@cache
def face_layout() -> Layout:
    """Where the triangles of the face template lie in a texture: skin, inside of the lips, eyes; none overlap."""
    return _layout("face_layout.npz")


@cache
def head_layout() -> Layout:
    """The same for the head template, with its parts, and the picture that they wear."""
    layout = _layout("head_layout.npz")
    with (ASSETS / "head_basis.npz").open("rb") as stream:
        counts = np.load(stream, allow_pickle=False)["parts"].tolist()
    parts = tuple(Part(name, count, *look) for (name, look), count in zip(HEAD_PARTS.items(), counts, strict=True))
    return replace(layout, parts=parts, picture=(ASSETS / "head_picture.png").read_bytes())


def _layout(name: str) -> Layout:
    with (ASSETS / name).open("rb") as stream:
        arrays = np.load(stream, allow_pickle=False)
        coordinates = arrays["coordinates"].astype(np.float64) / 0xFFFF
        return Layout(coordinates, arrays["corners"].astype(np.int64), arrays["doubled"].astype(np.int64))


def layout_of(template: Mesh) -> Layout | None:
    """The layout of the package's face or head template, if `template` has its triangles."""
    for layout in (face_layout(), head_layout()):
        if np.array_equal(layout.owner[layout.corners], template.triangles):
            return layout
    return None


@cache
def head_face() -> Integers:
    """The vertices (K,) of the face template that the first K of the head template are: all but its eyeballs."""
    with (ASSETS / "head_basis.npz").open("rb") as stream:
        balls = np.load(stream, allow_pickle=False)["balls"].astype(np.int64)
    return np.setdiff1d(np.arange(len(face_template().vertices)), balls)


def face_within(template: Mesh) -> Integers | None:
    """The vertices (K,) of the face template that the first K of a template of the package are; None for others."""
    layout = layout_of(template)
    if layout is None:
        return None
    return head_face() if layout.parts else np.arange(len(template.vertices))


def average_adult() -> Phenotype:
    """Between the sexes and ancestries, 25 years old, of average build: the template."""
    half = np.full(1, 0.5)
    return Phenotype(np.full(1, 25.0), half, half, half, np.full((1, 3), 1 / 3))


def _shares(phenotype: Phenotype) -> dict[str, Floats]:
    """For each part of a macro shape's name its share (B,) in each face."""
    shares = _hats(phenotype.age, AGE_YEARS)
    shares |= {"male": 1 - phenotype.female, "female": phenotype.female}
    for name, value in (("muscle", phenotype.muscle), ("weight", phenotype.weight)):
        shares |= _hats(value, {f"{level}{name}": i / 2 for i, level in enumerate(BUILD)})
    return shares | dict(zip(ANCESTRIES, phenotype.ancestry.T, strict=True))


def _hats(values: Floats, anchors: dict[str, float]) -> dict[str, Floats]:
    """Linear interpolation between anchors: the share of each; values beyond the ends count as the ends."""
    places = list(anchors.values())
    rows = np.eye(len(places))
    return {name: np.interp(values, places, row) for name, row in zip(anchors, rows, strict=True)}
