"""Put models into the package.

    python tools/ship_models.py OUT          identity and expression: OUT is of `meshgan reproduce table1` and `table2`
    python tools/ship_models.py RUN SET      head: a run on a set of `meshgan data anny-heads`, and that set

Files are made small: the linear path is stored in 13 or 14 bits a number, patterns of traits in 10, other weights in
half precision, operators of the hierarchy to some four digits. The card says how far all that moves a vertex.
Directions come from the labels of the corpora, unless `meshgan directions` has left some with the run. What shipped
before under the same name gives way when everything is there.

Figures of a head are those of what ships, some test heads against some of training, without pictures.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp

from meshgan.arrays import Floats
from meshgan.data.corpora.heads import heads, sphere
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError
from meshgan.evaluation.evaluate import evaluate
from meshgan.evaluation.semantics import FITTED, describe
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.model.directions import FILE as DIRECTIONS
from meshgan.model.directions import Axes, Directions
from meshgan.model.face_model import FaceModel
from meshgan.model.model_folder import SHIPPED, ModelParts, packed, read_model_folder, write_model_folder
from meshgan.nn.plan import ordered
from meshgan.report.pages import minutes, sound_lines
from meshgan.report.results import Result, Results, measured, real_result, results_of, shown
from meshgan.storage import LIST

LINEAR, MEAN, STD = "generator/linear", "normalisation/mean", "normalisation/std"
PATTERNS, OF_PATTERNS = "generator/patterns.", 10  # names, and bits of a number
# In single precision, for every vertex moves by them: the mean, and the end of the mapping network.
WHOLE = (LINEAR, MEAN, *(f"mapping/{name}" for name in ("matrix", "offset", "layers.6.weight", "layers.6.bias")))
DIGITS, SHARES = 13, 2**15  # bits of a Laplacian's entries, and the steps of up-sampling weights, whose sum stays one
SET_BACK_MM = 0.25  # with 0.2 hardly any triangle of an eye crosses one of a lid, without four do
SAMPLED = 1000  # faces on which the loss is measured
TEST, TRAIN, SAMPLES = 100, 2000, 600  # heads by which one is measured that nobody has evaluated


@dataclass(frozen=True)
class Shipped:
    """What there is to say of a model, and how large (bytes) it may be."""

    about: str
    verb: str
    distance: str  # how far real people are: docs/realism.md
    missing: str
    labels: tuple[str, ...]
    most: int
    bits: int = 14  # of a number of the linear path
    fitted: int = FITTED  # faces that directions come from
    only: Mapping[str, str] = field(default_factory=dict)  # and their labels
    place: tuple[str, str, str] = ("", "", "")  # in the folder of a reproduction: runs, corpus, table


MODELS = {
    "identity": Shipped(
        about="Neutral faces of synthetic people: children to elderly, three ancestries, both sexes.",
        verb="meshgan sample identity --out faces --sheet faces.png",
        distance="""Real people are further away: 64 principal components of its corpus leave
  1.0 to 1.1 mm of two real heads, and 0.6 mm of unseen people of the corpus (docs/realism.md).""",
        missing="The face is a mask without eyeballs, teeth, hair or texture.",
        labels=("age", "sex", "ancestry", "weight"),
        most=4 * 2**20,
        place=("runs", "corpus", "table1"),
    ),
    "expression": Shipped(
        about="What an expression does to a face, on the template: six basic expressions and spontaneous mixtures.",
        verb="meshgan compose identity expression --out faces",
        distance="""Real people are further away: 64 principal components of the
  corpus leave 1.0 to 1.1 mm of two real heads and 0.6 mm of its own unseen people, identity alone (docs/realism.md).
  How far real expressions are is not known: no scans of them that anyone may use were at hand. What is small in them
  (dimples, asymmetries, folds of a person's own) is drawn by chance.""",
        missing="The face is a mask without eyeballs, teeth, hair or texture.",
        labels=("expression",),
        most=4 * 2**20,
        only={"kind": "posed"},
        place=("expressions/runs", "expressions/corpus", "table2"),
    ),
    "head": Shipped(
        about="Whole heads of synthetic people: skin with scalp, ears, neck and the inside of the mouth, eyeballs,\n"
        "both rows of teeth and the tongue, each a node with a material of its own, and the 52 ARKit shapes.",
        verb="meshgan sample head --out heads --sheet heads.png",
        distance="""Its faces are those of the identity model, and as far from real people
  (docs/realism.md); how real the rest of a head is has not been measured.""",
        missing="There is no hair, no brows and lashes, and one texture for all.",
        labels=("age", "sex", "ancestry", "weight"),
        most=6 * 2**20,
        bits=13,
        fitted=256,  # each takes two times as long as a face
    ),
}
CARD = """# {name}

{about}
A MeshGAN: `{verb}`.

* **Data**: {data}, {train_faces:,} training faces: {source}.
  Synthetic: no person was scanned. Licence of the data and of this model: {licence}.
* **Recipe**: `{recipe}`, {faces_seen:,} faces seen in {minutes:.0f} minutes, seed {seed}.
  The whole recipe is in `model.json`. Machine: {machine}.
* **Numbers** on {test_faces:,} faces of unseen subjects ({date}{where}):

| | this model | real faces |
|---|---|---|
{numbers}

* **Limits**: it knows what the corpus knows. {distance}
  Its people are drawn from the head shapes that MakeHuman's artists made, in
  proportions that were chosen, not counted; ancestry is a blend of three such shapes and says nothing about anybody
  real. {missing}
* **Stored** small, in at most 16 bits a number: no vertex of {sampled:,} samples moves by more than {moved:.3f} mm.
"""


@dataclass(frozen=True)
class Measured:
    """The figures of a model: its row, that of real faces, and what stands beside them in a table or an evaluation."""

    row: Result
    real: Result
    about: Mapping[str, Any]
    where: str


def of_table(out: Path, name: str) -> Measured:
    """The figures in the table of a reproduction."""
    table = MODELS[name].place[2]
    results = Results.read(out / f"{table}.json")
    row, real = results.find("meshgan", "uniform"), results.find("real", "none")
    if row is None or real is None:
        raise MeshganError(f"{out / table}.json has no row of meshgan; reproduce the table again.")
    about = {key: getattr(results, key) for key in ("machine", "date", "train_faces", "test_faces")}
    return Measured(row, real, about, f"; docs/results/{table}-desk.json")


def of_run(run: Path, faces: FaceSet, model: FaceModel) -> Measured:
    """The figures of a model, by some heads."""
    found, known = evaluate(model, faces.narrowed(TRAIN, TEST), SAMPLES, "off"), len(faces.split.train)
    (row,) = results_of(found, "meshgan", minutes(sound_lines(run)))
    about = {key: getattr(found, key) for key in ("machine", "date", "test_faces")}
    where = "" if found.train_faces == known else f"; by {found.train_faces:,} of the training faces"
    return Measured(row, real_result(found), about | {"train_faces": known}, where)


def stiffened(parts: ModelParts) -> ModelParts:
    """The same model of heads whose eyeballs, teeth and tongue move, turn and grow, and do nothing else, as those of
    the corpus: components shear them a little besides, so that edges of teeth count as folded. Eyeballs become smaller,
    for how far they and their lids lie from each other, 64 components say to some tenths of a millimetre."""
    whole, tensors = heads(), dict(parts.tensors)
    mean, linear = tensors[MEAN].copy(), tensors[LINEAR].reshape(-1, *tensors[MEAN].shape) * tensors[STD]
    for name, part in whole.parts.items():
        if name == "skin":
            continue
        arms = mean[part] - mean[part].mean(axis=0)
        ways = [*np.eye(3)[:, None] + 0 * arms, *np.cross(np.eye(3)[:, None], arms), arms]
        basis = np.linalg.qr(np.reshape(ways, (7, -1)).T)[0]
        rows = linear[:, part]
        linear[:, part] = (rows.reshape(len(rows), -1) @ basis @ basis.T).reshape(rows.shape)
    for _, part, _ in whole.eyes:
        centre, radius = sphere(mean[part])
        mean[part] = centre + (1 - SET_BACK_MM / radius) * (mean[part] - centre)
    linear = (linear / tensors[STD]).reshape(len(linear), -1).astype(np.float32)
    return replace(parts, tensors=tensors | {MEAN: mean, LINEAR: linear})


def light(parts: ModelParts) -> ModelParts:
    """The same model in fewer bits, its linear path aside.

    Gains and patterns lie in the order that follows from the operators: raises `MeshganError` if rounding changes it.
    """
    tensors = {
        name: value.astype(np.float32 if name in WHOLE or name.startswith("sampler/") else np.float16)
        for name, value in parts.tensors.items()
    }
    assert parts.hierarchy is not None
    levels = tuple(
        replace(
            level,
            laplacian=_with(level.laplacian, _rounded(level.laplacian.data)),
            up=None if level.up is None else _with(level.up, _shares(level.up)),
        )
        for level in parts.hierarchy.levels
    )
    rounded = Hierarchy(levels, parts.hierarchy.kind)
    for before, after in zip(ordered(parts.hierarchy), ordered(rounded), strict=True):
        if (before.order != after.order).any():  # gains and patterns would be those of other vertices
            raise MeshganError("operators so rounded change the order that weights lie in: more SHARES are needed.")
    return replace(parts, tensors=tensors, hierarchy=rounded)


def _with(matrix: sp.csr_array, data: Floats) -> sp.csr_array:
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _rounded(values: Floats) -> Floats:
    """Numbers with `DIGITS` bits."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(fraction * 2**DIGITS) / 2**DIGITS, exponent)


def _shares(matrix: sp.csr_array) -> Floats:
    """The weights of a way up as multiples of 1 / `SHARES`; the largest of a row takes what the others leave."""
    data = np.rint(matrix.data * SHARES) / SHARES
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((data, row))
    largest = order[matrix.indptr[1:] - 1]
    data[largest] += 1 - np.bincount(row, weights=data)
    return data


def write(folder: Path, name: str, run: Path, parts: ModelParts, faces: FaceSet, found: Measured) -> None:
    """Write a model folder: small, with directions, axes and its card."""
    kind = MODELS[name]
    if found.row.faces_seen != parts.card.origin.faces_seen:
        raise MeshganError(f"the figures of '{name}' are not about the model that was given; measure it again.")
    small = light(parts)
    tensors = {key: value for key, value in small.tensors.items() if key != LINEAR and not key.startswith(PATTERNS)}
    lost = parts.tensors[STD].astype(np.float64) / small.tensors[STD].astype(np.float64)  # in half precision
    tensors |= packed(LINEAR, parts.tensors[LINEAR] * lost.ravel().astype(np.float32), kind.bits)
    for key in (key for key in parts.tensors if key.startswith(PATTERNS)):
        tensors |= packed(key, parts.tensors[key], OF_PATTERNS)
    card = parts.card.model_copy(update={"name": name})
    write_model_folder(folder, replace(small, card=card, tensors=tensors))
    check_size(folder, kind)  # before what takes long
    model = FaceModel.load(folder)
    known = run / "model" / DIRECTIONS
    directions = (
        Directions.load(known.parent)
        if known.is_file()
        else describe(model, faces, kind.labels, kind.only, kind.fitted).directions
    )
    directions.save(folder)
    Axes.of(model).save(folder)
    moved = np.linalg.norm(FaceModel(parts).sample(SAMPLED) - model.sample(SAMPLED), axis=2).max()
    (folder / "README.md").write_text(written_card(name, parts, found, float(moved)), encoding="utf-8")
    size = check_size(folder, kind)
    print(f"{name}: {size / 2**20:.2f} MiB; no vertex of {SAMPLED:,} samples moves by more than {moved:.3f} mm")


def check_size(folder: Path, kind: Shipped) -> int:
    """The bytes of a model folder. Raises `MeshganError` if they are too many."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name != LIST)
    if size > kind.most:
        raise MeshganError(f"the model '{folder.name}' weighs {size:,} bytes, {kind.most:,} are allowed.")
    return size


def written_card(name: str, parts: ModelParts, found: Measured, moved: float) -> str:
    """The model card as Markdown."""
    kind, origin = MODELS[name], parts.card.origin
    lines = [
        f"| {metric.heading} | {shown(found.row.score(metric.key()), metric)} | "
        f"{shown(found.real.score(metric.key()), metric)} |"
        for metric in measured([found.row])
    ]
    return CARD.format(
        name=name.capitalize(),
        about=kind.about,
        distance=kind.distance,
        missing=kind.missing,
        verb=kind.verb,
        recipe=parts.card.name,
        **{key: getattr(origin, key) for key in ("data", "source", "licence", "faces_seen", "seed")},
        **found.about,
        where=found.where,
        minutes=found.row.train_minutes or 0.0,
        numbers="\n".join(lines),
        sampled=SAMPLED,
        moved=moved,
    )


def ship(name: str, run: Path, faces: FaceSet, found: Measured | None) -> None:
    """Write one model into the package, in the place of what shipped under its name; measured now where it was not."""
    parts = read_model_folder(run / "model")
    parts = stiffened(parts) if name == "head" else parts
    with TemporaryDirectory() as folder:
        made = Path(folder) / name
        write(made, name, run, parts, faces, found or of_run(run, faces, FaceModel(parts)))
        rmtree(SHIPPED / name, ignore_errors=True)
        copytree(made, SHIPPED / name, ignore=ignore_patterns(LIST))  # nobody writes there again


def main() -> None:
    """Ship what was named."""
    match [Path(word) for word in sys.argv[1:]]:
        case [out]:
            for name in ("identity", "expression"):
                runs, corpus, _ = MODELS[name].place
                ship(name, out / runs / "meshgan", FaceSet.open(out / corpus), of_table(out, name))
        case [run, faces]:
            ship("head", run, FaceSet.open(faces), None)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
