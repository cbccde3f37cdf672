"""Identity and expression → face (the paper's Fig. 3), and an expression model as morph targets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Codes, Faces, Floats, Singles
from meshgan.errors import UsageError
from meshgan.model.directions import FILE, Directions
from meshgan.model.load import Model, check_same_template
from meshgan.model.model_folder import find_model

COMPARED, SWAPPED = 16, 2.0  # faces whose sizes are compared: those of people differ most

Shifts = dict[str, Singles]


@dataclass(frozen=True, eq=False)
class Composition:
    """Random faces: `identities` (N, V, 3) in mm, their `sizes` (N,), and the `shifts` (N, V, 3) of their
    expressions, which are of the template and have its size; `codes` (N, D) of the identities, unless they are given,
    and of their expressions."""

    identities: Faces
    sizes: Faces
    shifts: Faces
    codes: Codes | None
    expression_codes: Codes

    @property
    def faces(self) -> Faces:
        """Identities with their expressions (N, V, 3) in mm."""
        return self.identities + self.sizes[:, None, None] * self.shifts


def compose(identities: ArrayLike, expressions: ArrayLike, template: ArrayLike) -> NDArray[Any]:
    """Faces (..., V, 3): each identity with the deformation that `expressions` are of `template` (V, 3); all in mm.

    The deformation is enlarged as the identity is: small faces move less. On the corpus, where the true composition
    is known, this is three times as close as the plain sum (docs/expressions.md).
    """
    try:
        people, moved, neutral = (np.asarray(part) for part in (identities, expressions, template))
        shape = np.broadcast_shapes(people.shape, moved.shape)
        finite = all(np.isfinite(part).all() for part in (people, moved, neutral))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"identities and expressions must be arrays of as many faces ({error}).") from error
    if neutral.ndim != 2 or not shape[-2:] == people.shape[-2:] == moved.shape[-2:] == neutral.shape:
        raise UsageError(f"faces of shapes {people.shape} and {moved.shape} are not of a template {neutral.shape}.")
    if not finite:
        raise UsageError("faces have coordinates that are NaN or infinite.")
    return people + sizes(people, neutral)[..., None, None] * (moved - neutral)


def sizes(faces: ArrayLike, template: ArrayLike) -> NDArray[Any]:
    """How large faces (..., V, 3) are: the root mean square distance from their centre, relative to the template's."""
    large, normal = (_spread(np.asarray(part, np.float64)) for part in (faces, template))
    return np.asarray(large / normal).astype(np.asarray(faces).dtype)


def _spread(vertices: Floats) -> Floats:
    """The root mean square distance (...) of vertices (..., V, 3) from their centre.

    By products: NumPy's mean and deviation along V, of three numbers each, take ten times as long.
    """
    count = vertices.shape[-2]
    away = vertices - (np.full(count, 1 / count) @ vertices)[..., None, :]
    return np.asarray(np.sqrt(np.einsum("...vc,...vc->...", away, away) / count))


def compose_random(
    identity: Model, expression: Model, count: int, seed: int = 0, face: ArrayLike | None = None
) -> Composition:
    """`count` random identities, or one `face` (V, 3) as often, each with a random expression.

    Raises `UsageError` for two templates, and for models in the wrong order: expressions do not change how large
    faces are, people do.
    """
    check_same_template(identity, expression)
    neutral = expression.template.vertices.astype(np.float32)
    other_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])  # else both would draw the same codes
    drawn = max(count, COMPARED)  # more faces begin with the same ones
    people, moved = identity.sample(drawn, seed), expression.sample(drawn, other_seed)
    _check_order(identity, expression, people[:COMPARED], moved[:COMPARED])
    codes = None if face is not None else identity.codes(count, seed)
    people = people[:count] if face is None else np.repeat(np.asarray(face, np.float32)[None], count, axis=0)
    shifts = moved[:count] - neutral
    return Composition(people, sizes(people, neutral), shifts, codes, expression.codes(count, other_seed))


def _check_order(identity: Model, expression: Model, people: Faces, moved: Faces) -> None:
    spreads = [float(np.std(sizes(faces, identity.template.vertices))) for faces in (people, moved)]
    if spreads[1] > SWAPPED * spreads[0]:
        first, second = identity.card.name, expression.card.name
        raise UsageError(
            f"the first model ('{first}') draws faces of nearly one size and the second ('{second}') does not, so the "
            "first is one of expressions: give the model of identities first, and then that of expressions."
        )


def expression_targets(where: str | Path, model: Model) -> Shifts:
    """The named expressions of the expression model that was loaded from `where`, as morph targets.

    A model folder without directions (see `meshgan directions`) has none.
    """
    folder = find_model(where)
    return named_expressions(model, Directions.load(folder)) if (folder / FILE).is_file() else {}


def named_expressions(model: Model, directions: Directions) -> Shifts:
    """The mean expression of each label in `directions` (a share: 1 for this expression), as a shift (V, 3) in mm."""
    codes = np.stack([directions.at(name, 1.0) for name in directions.names])
    shifts = model.decode(codes) - model.template.vertices.astype(np.float32)
    return {f"expression{name.capitalize()}": shift for name, shift in zip(directions.names, shifts, strict=True)}
