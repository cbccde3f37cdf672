"""Everything that is measured about one model, as one dataclass that becomes JSON."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import TypeAdapter

from meshgan.arrays import Faces, Integers
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.evaluation.metrics import Errors, Interval, Score, bootstrap_interval, generalisation, vertex_errors
from meshgan.evaluation.yardstick import BY_KEY, Fid, Part, Row, Yardstick
from meshgan.machine import machine, today
from meshgan.model.face_model import check_connectivity
from meshgan.model.latent import STEPS
from meshgan.model.load import Model
from meshgan.model.model_folder import Sampler
from meshgan.model.samplers import face_numbers
from meshgan.progress import counted, track
from meshgan.remembered import code_of, key_of, remember, remember_array

BLOCK = 256  # samples in memory at a time
FITTED = 300  # faces fitted between two saves
FEWEST = 5  # test faces, and samples
GENERALISATION = BY_KEY["generalisation_mm"].key()
# What measurements depend on.
CODE = ("arrays.py", "data/faceset.py", "data/principal.py", "evaluation", "geometry", "model", "nn", "view")


@dataclass(frozen=True)
class Generalisation:
    """Errors on the test faces by Eq. 2 and, where there is an encoder, by encoding and decoding."""

    method: str  # how Eq. 2 was solved, and its budget
    fitted_mm: Errors
    interval_mm: Interval  # of the mean of `fitted_mm`
    encoded_mm: Errors | None

    @property
    def score(self) -> Score:
        """As a row of a table has it."""
        errors = self.fitted_mm
        parts = {"median": errors.median, "max": errors.maximum, "vertex_std": errors.vertex_std}
        return Score(errors.mean, errors.std, self.interval_mm, parts)


@dataclass(frozen=True)
class Evaluation:
    """Everything measured about one model.

    `real` is training faces scored as if they were samples: what a perfect model of the population would get.
    """

    model: str
    recipe: str  # TOML
    faces_seen: int
    data: str
    train_faces: int
    test_faces: int
    part: Part
    seed: int
    machine: str
    date: str
    generalisation: Generalisation
    rows: tuple[Row, ...]  # one for each sampler
    real: Row

    def json(self) -> str:
        """As JSON, indented."""
        return TypeAdapter(Evaluation).dump_json(self, indent=2).decode() + "\n"


def evaluate(
    model: Model,
    faces: FaceSet,
    samples: int = 10_000,
    fid: Fid = "inception",
    seed: int = 0,
    work: Path | None = None,
    steps: int = STEPS,
    part: Part = "test",
) -> Evaluation:
    """Measure `model` against the test part of `faces`, under each of the samplers that suit it.

    The test part is for tables; choices between models are made with `part` "validation".

    `steps` is the budget of Eq. 2: steps of Adam for each test face. What is finished is kept in the folder `work`,
    if given: the same call, after a stop, goes on from there. Raises `UsageError` if the model is of another
    template, the set too small, or the extra for the FID missing.
    """
    check_measurable(model, faces, samples, fid, part)
    if work is None:
        with TemporaryDirectory() as folder:
            return evaluate(model, faces, samples, fid, seed, Path(folder), steps, part)

    def drawn(sampler: Sampler) -> Row:
        return yardstick(faces, fid, part).measure(_samples(model, samples, seed, sampler), sampler, seed)

    def real() -> Row:
        return yardstick(faces, fid, part).measure(_training_faces(faces, samples, seed), "none", seed)

    asked = {"data": faces.fingerprint, "part": part, "samples": samples, "fid": fid, "seed": seed}
    asked["code"] = code_of(*CODE)
    content = _content_of(model)
    found, samplers = generalise(model, faces, work, steps, part), suitable_samplers(model)
    rows = [
        remember(work, sampler, key_of(**asked, model=content, sampler=sampler), Row, partial(drawn, sampler))
        for sampler in samplers
    ]
    return Evaluation(
        model=model.card.name,
        recipe=model.card.origin.recipe,
        faces_seen=model.card.origin.faces_seen,
        data=faces.card.name,
        train_faces=len(faces.split.train),
        test_faces=len(faces.split.part(part)),
        part=part,
        seed=seed,
        machine=machine(),
        date=today(),
        generalisation=found,
        rows=tuple(row.model_copy(update={"scores": {GENERALISATION: found.score} | row.scores}) for row in rows),
        real=remember(work, "real", key_of(**asked), Row, real),
    )


@lru_cache(maxsize=1)
def yardstick(faces: FaceSet, fid: Fid, part: Part) -> Yardstick:
    """The test faces, prepared when something is left to measure, and once for several models."""
    return Yardstick.of(faces, fid, part)


def suitable_samplers(model: Model) -> tuple[Sampler, ...]:
    """As in the paper: the model's own; for auto-encoders, N(0, I), the normal distribution fitted to codes, and a
    mixture where that is the model's own.

    A GAN may have an encoder too. With BEGAN-CS codes are drawn from U(−1, 1) in training, as without one; where they
    are drawn as the encoder's lie, those of the mixture stand beside the normal ones.
    """
    asked: tuple[Sampler, ...] = ("fitted-normal", "mixture") if model.card.sampler == "mixture" else ()
    if model.card.prior == "standard-normal":
        asked = ("standard-normal", "fitted-normal", "mixture")
    return tuple(sampler for sampler in asked if sampler in model.samplers.names) or (model.card.sampler,)


def generalise(model: Model, faces: FaceSet, work: Path, steps: int = STEPS, part: Part = "test") -> Generalisation:
    """Reconstruct all test faces by Eq. 2, and by encoding where that is possible."""
    errors, encoded = fitting_errors(model, faces, work, steps, part), None
    if model.encodes:
        blocks = [np.asarray(faces.vertices[rows]) for rows in _blocks(faces.split.part(part), FITTED)]
        encoded = generalisation(np.concatenate([vertex_errors(model.decode(model.encode(b)), b) for b in blocks]))
    return Generalisation(
        model.fitting(steps), generalisation(errors), bootstrap_interval(errors.mean(axis=1), np.mean), encoded
    )


def fitting_errors(model: Model, faces: FaceSet, work: Path, steps: int = STEPS, part: Part = "test") -> Faces:
    """Distances (M, V) in mm from the test faces to what Eq. 2 finds for them; faces found in `work` are not fitted."""
    key = key_of(data=faces.fingerprint, model=_content_of(model), steps=steps, part=part, code=code_of(*CODE))
    parts = []
    for number, rows in enumerate(_blocks(faces.split.part(part), FITTED)):

        def fitted(rows: Integers = rows) -> Faces:
            target = faces.vertices[rows]
            return model.fit(target, steps=steps).error_mm

        shape = (len(rows), len(faces.template.vertices))
        parts.append(remember_array(work, f"fit-{number:03d}", key, shape, fitted))
    return np.concatenate(parts)


def check_measurable(model: Model, faces: FaceSet, samples: int, fid: Fid, part: Part = "test") -> None:
    """Raise `UsageError` where `evaluate` would: for another template, too few faces or samples, a missing extra."""
    if not isinstance(faces, FaceSet) or not hasattr(model, "template"):
        raise UsageError("`evaluate` takes a model, as `load_model` gives it, and a FaceSet, as `FaceSet.open` does.")
    check_connectivity(faces.template, model.template, str(faces.path))
    if (count := len(faces.split.part(part))) < FEWEST:
        raise UsageError(f"{faces.path} has {counted(count, f'{part} face')}; an evaluation needs {FEWEST} or more.")
    if samples < FEWEST:
        raise UsageError(f"an evaluation needs {FEWEST} samples or more, not {samples}.")
    if fid == "inception":
        from meshgan.evaluation.inception import graph_file  # with PyTorch

        graph_file()


def _samples(model: Model, count: int, seed: int, sampler: Sampler) -> Iterator[Faces]:
    codes, numbers = model.codes(count, seed, sampler), face_numbers(count, seed)
    for rows in track(_blocks(np.arange(count), BLOCK), f"Samples, {sampler}", total=count, step=BLOCK):
        yield model.decode(codes[rows], numbers=numbers[rows])


def _training_faces(faces: FaceSet, count: int, seed: int) -> Iterator[Faces]:
    order = np.random.default_rng(seed).permutation(faces.split.train)[:count]
    for rows in track(_blocks(order, BLOCK), "Real faces", total=len(order), step=BLOCK):
        yield np.asarray(faces.vertices[rows])


def _blocks(rows: Integers, size: int) -> list[Integers]:
    """Nearly equal parts of at most `size`."""
    return np.array_split(rows, -(-len(rows) // size))


def _content_of(model: Model) -> str:
    """A hash of the content of the model's files, or of what it decodes if it was never saved."""
    content = b"" if model.card.files else model.decode(model.codes(4, 0)).tobytes()
    return hashlib.sha256(content + model.card.model_dump_json().encode()).hexdigest()
