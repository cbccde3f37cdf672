"""What labels mean to a model: where they lie in its latent space, how well directions move only what they name, and
whether exaggerated expressions keep their meaning (the paper's Fig. 6)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Booleans, Codes, Faces, Floats, Integers
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
from meshgan.model.latent import interpolate
from meshgan.model.load import Model
from meshgan.progress import track

FITTED, READ, MOVED = 1000, 2000, 64  # faces used for directions, for the reader, and as starting points of moves
EVERYTHING: Mapping[str, str] = {}
VALUES = 12  # a text column with more of them is no set of classes
BLOCK = 64  # faces decoded and classified at a time
FACTORS = tuple(np.linspace(1.0, 3.0, 9).tolist())


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


def describe(
    model: Model,
    faces: FaceSet,
    columns: Sequence[str],
    only: Mapping[str, str] = EVERYTHING,
    fitted: int = FITTED,
) -> Semantics:
    """Directions for the label `columns` of a FaceSet, and their meaning; from `fitted` faces with the labels `only`.

    A column of numbers is one label; a column of words becomes one label for each word, 1 or 0
    (of two words only the first: the second is its opposite). Raises `UsageError`
    for a column that is missing or of neither kind, or a FaceSet of another template.
    """
    check_connectivity(faces.template, model.template, str(faces.path))
    table, groups = label_table(faces, columns)
    train, test = (chosen(faces, part, only) for part in (faces.split.train, faces.split.test))
    rows = some_rows(train, fitted)
    codes = model.encode(faces[rows])
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
    if not columns:
        raise UsageError(f"no label is named; {faces.path} has {', '.join(faces.labels)}.")
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
        raise UsageError(f"{faces.path} has too few faces{f' of {words}' if words else ''} to learn and to test.")
    return rows


def _moved(model: Model, codes: Codes, vector: Floats) -> float:
    forth, back = (model.decode((codes + half * vector).astype(np.float32)) for half in (0.5, -0.5))
    return float(np.linalg.norm(forth - back, axis=-1).mean())


@dataclass(frozen=True, eq=False)
class Curve:
    """Recognition `rate` (K,) at each factor, with a 95 % band `low` to `high` (K,)."""

    rate: Floats
    low: Floats
    high: Floats


def confusion(truth: NDArray[np.str_], predicted: NDArray[np.str_], classes: Sequence[str]) -> Integers:
    """Counts (C, C): row `classes[i]` truly, column `classes[j]` predicted."""
    number = {name: i for i, name in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(table, ([number[name] for name in truth], [number[name] for name in predicted]), 1)
    return table


def recognition_curve(hits: Booleans, subjects: NDArray[np.str_], resamples: int = 2000, seed: int = 0) -> Curve:
    """The share of `hits` (K, N) at each of K factors, with a bootstrap over `subjects` (N,).

    Whole subjects are drawn, since one person's faces are alike and count for less than as many people's.
    """
    _, owner = np.unique(subjects, return_inverse=True)
    people = owner.max() + 1
    right = np.stack([np.bincount(owner, weights=row, minlength=people) for row in hits])  # (K, people)
    drawn = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=resamples)
    rates = drawn @ right.T / (drawn @ np.bincount(owner))[:, None]
    low, high = np.percentile(rates, [2.5, 97.5], axis=0)
    return Curve(hits.mean(1), low, high)


def extrapolation_hits(
    model: Model,
    faces: Faces,
    labels: NDArray[np.str_],
    predict: Callable[[Faces], NDArray[np.str_]],
    factors: Sequence[float] = FACTORS,
) -> Booleans:
    """Whether each face (N, V, 3) is recognised as its label (N,) when exaggerated by each factor: (K, N).

    As in the paper: codes of the neutral template and of the faces by Eq. 2, extrapolated by Eq. 3, decoded, and
    shown to the classifier's `predict`.
    """
    neutral = model.fit(model.template.vertices[None]).codes[0]
    codes = model.fit(faces).codes
    exaggerated = np.stack([interpolate(neutral, code, factors) for code in codes], axis=1)
    hits = np.zeros((len(factors), len(faces)), bool)
    for row, codes_of_factor in enumerate(track(exaggerated, "Exaggerated faces")):
        for start in range(0, len(faces), BLOCK):
            part = slice(start, start + BLOCK)
            hits[row, part] = predict(model.decode(codes_of_factor[part])) == labels[part]
    return hits
