"""From faces with expressions to pure deformations of the template: neutral + displacement, without the identity.

The paper (Sec. 4.1.1) subtracts the neutral face of the same subject and session from each expression, adds the
difference to the template and smooths it, keeping the surface. Here:

1. the expression is moved rigidly onto its neutral face, robustly: by what did not move;
2. the difference is scaled by the template's size over the neutral face's, as deformation transfer (Sumner and
   Popović 2004), which copies gradients and not lengths, would;
3. the *displacement* is smoothed, not the face, so the template's own detail stays as it is: an implicit step of
   heat diffusion on the template (Desbrun et al. 1999) whose conduction is low across edges that expressions
   stretch, such as those between lids and eyes, and high where faces move as one (Perona and Malik 1990). The
   conduction is the same for all faces of a set, so one factorisation serves them all.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from meshgan.arrays import Floats, Integers, Reals
from meshgan.data.faceset import BLOCK, Card, FaceSet, blocks, create_faceset
from meshgan.errors import MeshganWarning, UsageError
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.laplacian import cotangent_weights, mass
from meshgan.geometry.mesh import Mesh

SMOOTHING_MM = 1.5  # how far a displacement spreads where expressions stretch the surface as much as at most places
MOST_CONDUCTION = 50.0  # where they do not stretch it at all, against that
STILL_MM = 0.3  # differences beyond this hardly count in the alignment of a face to its neutral face
ROUNDS = 6  # of that alignment
ALIGNED_BY = 8  # every how many vertices take part in it
STUDIED = 1500  # faces from which the conduction is learned


@dataclass(frozen=True)
class Pairs:
    """Rows of the faces with an expression, and for each the row of the neutral face of its subject and session."""

    expressions: Integers
    neutrals: Integers


def pairs(faces: FaceSet) -> Pairs:
    """Find the neutral face of each expression by the labels subject, expression and, if there is one, session.

    Of several neutral faces of one sitting the first counts, and a `MeshganWarning` says so. Raises `UsageError` if a
    label is missing, or somebody has no neutral face.
    """
    if "expression" not in faces.labels:
        raise UsageError(f"{faces.path} has no label 'expression', so there is nothing to decouple.")
    session = faces.labels.get("session", np.zeros(len(faces), dtype=str))
    sittings = np.char.add(np.char.add(faces.subjects.astype(str), "\t"), session.astype(str))
    neutral = np.char.lower(np.char.strip(faces.labels["expression"])) == "neutral"
    of: dict[str, int] = {}
    several: dict[str, None] = {}
    for name, row in zip(sittings[neutral].tolist(), np.flatnonzero(neutral).tolist(), strict=True):
        if of.setdefault(name, row) != row:
            several[name] = None
    if several:
        example = next(iter(several)).replace("\t", ", session ").removesuffix(", session ")
        some = "a sitting has" if len(several) == 1 else f"{len(several)} sittings have"
        warnings.warn(
            f"{faces.path}: {some} more than one neutral face (subject {example}); the first counts. A "
            "column `session` tells sittings apart.",
            MeshganWarning,
            stacklevel=2,
        )
    expressions = np.flatnonzero(~neutral)
    missing = next((name for name in sittings[expressions].tolist() if name not in of), None)
    if missing is not None or not len(expressions):
        who = f"subject, session {missing.replace(chr(9), ', ')}" if missing else "it"
        raise UsageError(f"{faces.path}: {who} has no pair of a neutral face and an expression; check its labels.")
    return Pairs(expressions, np.array([of[name] for name in sittings[expressions].tolist()]))


def deformations(expressions: Reals, neutrals: Reals, template: Mesh) -> Floats:
    """Displacements (B, V, 3) in mm, at the template's size, that turn the neutral faces into the expressions."""
    moved, still = expressions.astype(np.float64), neutrals.astype(np.float64)
    motion = _onto(moved[:, ::ALIGNED_BY], still[:, ::ALIGNED_BY])
    size = _size(still) / _size(template.vertices[None])
    return (motion(moved) - still) / size[:, None, None]


def _onto(faces: Floats, still: Floats) -> Similarity:
    """Rigid motions that bring faces (B, N, 3) onto others, where these did not change.

    Iteratively reweighted: vertices that differ much count little (Geman-McClure).
    """
    motion = Similarity.none(len(faces))
    for _ in range(ROUNDS):
        squares = ((motion(faces) - still) ** 2).sum(axis=2)
        motion = rigid(faces, still, 1 / (1 + squares / STILL_MM**2) ** 2)
    return motion


def _size(faces: Floats) -> Floats:
    """Root mean square distance (B,) of a face's vertices from their mean."""
    return np.sqrt(((faces - faces.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=1))


class Stretch:
    """How much expressions stretch each edge of the template: the mean square of relative displacements."""

    def __init__(self, template: Mesh) -> None:
        self.edges = template.edges
        self.squares = ((template.vertices[self.edges[:, 0]] - template.vertices[self.edges[:, 1]]) ** 2).sum(axis=1)
        self.total, self.count = np.zeros(len(self.edges)), 0

    def add(self, displacements: Floats) -> None:
        i, j = self.edges.T
        self.total += ((displacements[:, i] - displacements[:, j]) ** 2).sum(axis=(0, 2))
        self.count += len(displacements)

    @property
    def conduction(self) -> Floats:
        """(E,): 1 on an edge that is stretched as the median is, less on others that are stretched more."""
        stretch = self.total / max(self.count, 1) / np.maximum(self.squares, 1e-12)
        usual = max(float(np.median(stretch)), 1e-12)
        return usual / (stretch + usual / MOST_CONDUCTION)


class Smoother:
    """(A + l² W)⁻¹ A: one implicit step of diffusion over the length l on the template, the conduction given."""

    def __init__(self, template: Mesh, length_mm: float, conduction: Floats | float = 1.0) -> None:
        i, j = template.edges.T
        weights = np.maximum(-np.asarray(cotangent_weights(template)[i, j]).ravel(), 0.0) * conduction
        graph = sp.coo_array((weights, (i, j)), shape=(len(template.vertices),) * 2).tocsr()
        graph = graph + graph.T
        self.areas = np.maximum(mass(template), 1e-9)
        stiffness = sp.diags_array(graph.sum(axis=1)) - graph
        self._factors = splu(sp.csc_array(sp.diags_array(self.areas) + length_mm**2 * stiffness))

    def __call__(self, displacements: Floats) -> Floats:
        """Smooth displacements (B, V, 3)."""
        count, size, _ = displacements.shape
        columns = (displacements * self.areas[:, None]).transpose(0, 2, 1).reshape(-1, size)
        return self._factors.solve(columns.T).T.reshape(count, 3, size).transpose(0, 2, 1)


def learn_smoother(faces: FaceSet, found: Pairs, length_mm: float) -> Smoother | None:
    """The smoother whose conduction follows from (a part of) the set; None for a length of 0."""
    if length_mm == 0:
        return None
    stretch = Stretch(faces.template)
    chosen = np.unique(np.linspace(0, len(found.expressions) - 1, min(STUDIED, len(found.expressions))).astype(int))
    for rows in np.array_split(chosen, -(-len(chosen) // BLOCK)):
        expressions, neutrals = faces[found.expressions[rows]], faces[found.neutrals[rows]]
        stretch.add(deformations(expressions, neutrals, faces.template))
    return Smoother(faces.template, length_mm, stretch.conduction)


def decoupled(faces: FaceSet, found: Pairs, smoother: Smoother | None) -> Iterator[tuple[Integers, Floats]]:
    """Blocks of rows of the set with the template (B, V, 3) doing what the faces of those rows do."""
    for block in blocks(len(found.expressions), "Decoupling"):
        rows, neutral = found.expressions[block], found.neutrals[block]
        displacements = deformations(faces[rows], faces[neutral], faces.template)
        yield rows, faces.template.vertices + (smoother(displacements) if smoother else displacements)


def decouple(faces: FaceSet, out: Path, length_mm: float = SMOOTHING_MM) -> int:
    """Write the set `out`: the expressions of `faces` on the template. Returns how many; neutral faces are left out."""
    if length_mm < 0:
        raise UsageError("the smoothing length cannot be negative.")
    found = pairs(faces)
    card = Card(
        name=f"{faces.card.name}-decoupled",
        source=f"expressions on the template, decoupled from: {faces.card.source}",
        licence=faces.card.licence,
        synthetic=faces.card.synthetic,
        split_seed=faces.card.split_seed,
        test_share=faces.card.test_share,
        validation_share=faces.card.validation_share,
        parameters={"decoupled_from": faces.card.parameters, "smoothing_mm": length_mm},
    )
    smoother = learn_smoother(faces, found, length_mm)
    with create_faceset(out, faces.template, len(found.expressions), card) as writer:
        for rows, vertices in decoupled(faces, found, smoother):
            labels = [{name: column[row] for name, column in faces.labels.items()} for row in rows]
            writer.append(vertices.astype(np.float32), labels)
    return len(found.expressions)
