"""Identity and expression → face (the paper's Fig. 3), and an expression model as morph targets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Faces, Singles
from meshgan.model.axes import Axes
from meshgan.model.directions import FILE, Directions
from meshgan.model.load import Model, check_same_template
from meshgan.model.model_folder import find_model

LEAST_MM = 0.3  # a slider that moves no vertex further is left out

Shifts = dict[str, Singles]


@dataclass(frozen=True, eq=False)
class Composition:
    """Random faces: `identities` (N, V, 3) in mm, their `sizes` (N,), and the `shifts` (N, V, 3) of their
    expressions, which are of the template and have its size."""

    identities: Faces
    sizes: Faces
    shifts: Faces

    @property
    def faces(self) -> Faces:
        """Identities with their expressions (N, V, 3) in mm."""
        return self.identities + self.sizes[:, None, None] * self.shifts


def compose(identities: ArrayLike, expressions: ArrayLike, template: ArrayLike) -> NDArray[Any]:
    """Faces (..., V, 3): each identity with the deformation that `expressions` are of `template` (V, 3); all in mm.

    The deformation is enlarged as the identity is: small faces move less. On the corpus, where the true composition
    is known, this is three times as close as the plain sum (docs/expressions.md).
    """
    people, neutral = np.asarray(identities), np.asarray(template)
    return people + sizes(people, neutral)[..., None, None] * (np.asarray(expressions) - neutral)


def sizes(faces: ArrayLike, template: ArrayLike) -> NDArray[Any]:
    """How large faces (..., V, 3) are: the root mean square distance from their centre, relative to the template's."""
    spreads = [np.std(part, axis=-2, dtype=np.float64) for part in (np.asarray(faces), np.asarray(template))]
    large, normal = (np.linalg.norm(spread, axis=-1) for spread in spreads)
    return (large / normal).astype(np.asarray(faces).dtype)


def compose_random(identity: Model, expression: Model, count: int, seed: int = 0) -> Composition:
    """`count` random identities, each with a random expression. Raises `UsageError` for two templates."""
    check_same_template(identity, expression)
    neutral = expression.template.vertices.astype(np.float32)
    other_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])  # else both would draw the same codes
    people = identity.sample(count, seed)
    return Composition(people, sizes(people, neutral), expression.sample(count, other_seed) - neutral)


def expression_targets(where: str | Path, model: Model) -> Shifts:
    """All morph targets of the expression model that was loaded from `where`: its named expressions and its axes.

    A model folder without directions (see `meshgan directions`) has axes only.
    """
    folder = find_model(where)
    named = named_expressions(model, Directions.load(folder)) if (folder / FILE).is_file() else {}
    return named | expression_axes(Axes.find(model, where))


def named_expressions(model: Model, directions: Directions) -> Shifts:
    """The mean expression of each label in `directions` (a share: 1 for this expression), as a shift (V, 3) in mm."""
    codes = np.stack([directions.at(name, 1.0) for name in directions.names])
    shifts = model.decode(codes) - model.template.vertices.astype(np.float32)
    return {f"expression{name.capitalize()}": shift for name, shift in zip(directions.names, shifts, strict=True)}


def expression_axes(axes: Axes) -> Shifts:
    """The strongest axes of a model's expressions, each with a target for its plus and its minus side (V, 3) in mm.

    Game engines' sliders run from 0 to 1, and expressions are one-sided: the neutral face need not lie in the
    middle. So 0 is the neutral face, and 1 the percentile 99 (or 1) of the axis over random expressions. Sides on
    which the neutral face is already extreme are left out.
    """
    targets: Shifts = {}
    for number, axis in enumerate(axes.shapes, start=1):
        for side, reach in (("Plus", max(axes.high[number - 1], 0.0)), ("Minus", min(axes.low[number - 1], 0.0))):
            shift = (reach * axis).astype(np.float32)
            if np.linalg.norm(shift, axis=1).max() >= LEAST_MM:
                targets[f"expressionAxis{number:02d}{side}"] = shift
    return targets
