"""Where labels lie in a model's latent space, and how well its directions move only what they name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Codes, Floats, Integers
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.errors import UsageError
from meshgan.model.directions import (
    Directions,
    estimate_directions,
    fit_reader,
    marginal,
    responses,
    selectivity,
    variance_explained,
)
from meshgan.model.face_model import check_connectivity
from meshgan.model.load import Model

FITTED, READ, MOVED = 1000, 2000, 64  # faces used for directions, for the reader, and as starting points of moves
EVERYTHING: Mapping[str, str] = {}
VALUES = 12  # a text column with more of them is no set of classes


@dataclass(frozen=True)
class Meaning:
    """What is known about one direction; see `describe`."""

    label: str
    readable: float  # R² of reading the label off unseen real faces
    variance: float  # share of the variance of real faces (mm²) that the label explains alone
    moves_mm: float  # mean distance that vertices move for one standard deviation of the label
    response: float  # change of the reading for one standard deviation, which should be 1
    selectivity: float  # share of the change of all readings that is the label's own
    naive_selectivity: float  # the same for the direction of a regression on this label alone


@dataclass(frozen=True, eq=False)
class Semantics:
    """Directions, what each means, and the `response` (L, L) of readings that the numbers come from."""

    directions: Directions
    meanings: tuple[Meaning, ...]
    response: Floats


def describe(model: Model, faces: FaceSet, columns: Sequence[str], only: Mapping[str, str] = EVERYTHING) -> Semantics:
    """Directions for the label `columns` of a FaceSet, and their meaning; from the faces with the labels `only`.

    A column of numbers is one label; a column of words becomes one label for each word, 1 or 0
    (of two words only the first: the second is its opposite). Raises `UsageError`
    for a column that is missing or of neither kind, or a FaceSet of another template.
    """
    check_connectivity(faces.template, model.template, str(faces.path))
    table, groups = label_table(faces, columns)
    train, test = (chosen(faces, part, only) for part in (faces.split.train, faces.split.test))
    rows = some_rows(train, FITTED)
    codes = model.encode(faces.vertices[rows])
    directions = estimate_directions(codes, {name: column[rows] for name, column in table.items()})

    standard = (np.column_stack(list(table.values())) - directions.mean) / directions.deviation
    shown, unseen = some_rows(train, READ), some_rows(test, READ)
    reader = fit_reader(faces.vertices[shown], standard[shown], faces.vertices[unseen], standard[unseen])
    starts = codes[:: max(1, len(codes) // MOVED)]
    response = responses(model.decode, starts, directions.vectors, reader)
    naive = responses(model.decode, starts, marginal(codes - codes.mean(0), standard[rows]), reader)
    moved = [_moved(model, starts, vector) for vector in directions.vectors]
    flat = faces.vertices[shown].reshape(len(shown), -1).astype(np.float64)
    columns_of = (
        directions.names, reader.r_squared, variance_explained(flat, standard[shown]), moved, np.diag(response),
        selectivity(response, groups), selectivity(naive, groups),
    )  # fmt: skip
    meanings = tuple(Meaning(name, *map(float, values)) for name, *values in zip(*columns_of, strict=True))
    return Semantics(directions, meanings, response)


def label_table(faces: FaceSet, columns: Sequence[str]) -> tuple[Mapping[str, Floats], list[int]]:
    """Labels by name, each (N,), and the number of the column that each comes from."""
    table: dict[str, Floats] = {}
    groups: list[int] = []
    for number, name in enumerate(columns):
        if name not in faces.labels:
            raise UsageError(f"{faces.path} has no label '{name}'; it has {', '.join(faces.labels)}.")
        labels = _as_numbers(name, faces)
        table |= labels
        groups += [number] * len(labels)
    return table, groups


def _as_numbers(name: str, faces: FaceSet) -> dict[str, Floats]:
    column = faces.labels[name]
    try:
        values = column.astype(np.float64)
    except ValueError:
        words = np.unique(column)
        if len(words) > VALUES:
            raise UsageError(f"the label '{name}' of {faces.path} has {len(words)} different words.") from None
        named = words[:1] if len(words) == 2 else words  # the other one of two is its opposite
        return {str(word): (column == word).astype(np.float64) for word in named}
    if not np.isfinite(values).all():
        raise UsageError(f"the label '{name}' of {faces.path} is not a number for every face.")
    return {name: values}


def chosen(faces: FaceSet, rows: Integers, only: Mapping[str, str]) -> Integers:
    """Those of `rows` that have the labels `only` (column → word). Raises `UsageError` if there are none."""
    for column, word in only.items():
        if column not in faces.labels:
            raise UsageError(f"{faces.path} has no label '{column}'; it has {', '.join(faces.labels)}.")
        rows = rows[faces.labels[column][rows] == word]
    if not len(rows):
        words = " and ".join(f"{column} {word}" for column, word in only.items())
        raise UsageError(f"{faces.path} has too few faces of {words}.")
    return rows


def _moved(model: Model, codes: Codes, vector: Floats) -> float:
    forth, back = (model.decode((codes + half * vector).astype(np.float32)) for half in (0.5, -0.5))
    return float(np.linalg.norm(forth - back, axis=-1).mean())
