"""The paper's tables on open data, in one call: corpus, models, measurements, table, page.

A table is a list of models, a scale says how much of everything: seconds for a test, hours on a desk, or as much as the
paper. Each step finds what it has done before:

OUT/corpus/        the FaceSet of identities
OUT/runs/MODEL/    run folders (that of PCA holds its model and how long it took)
OUT/evaluations/   one JSON per model, and the parts they are made of
OUT/figures/
OUT/TABLE.json, .md, .tex, .csv and .html

Table 2 is about expressions; its runs, evaluations and figures lie in OUT/expressions, and its FaceSets, made when they
are first asked for:

OUT/expressions/raw/          neutral, posed and spontaneous faces of people of the expression corpus
OUT/expressions/corpus/       their pure expressions: decoupled, on the template
OUT/expressions/classifier/   pure posed expressions of other people, for the classifier

The ablation sees fewer faces; its runs, evaluations and figures lie in OUT/ablation.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from meshgan.data.corpora.anny import make_identities
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.expression import decouple
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation.evaluate import Evaluation, check_measurable, evaluate
from meshgan.evaluation.inception import graph_file
from meshgan.evaluation.yardstick import Fid, Part
from meshgan.machine import machine, today
from meshgan.model.face_model import FaceModel
from meshgan.model.latent import STEPS
from meshgan.model.load import Model, load_model
from meshgan.progress import counted
from meshgan.reading import read_text
from meshgan.remembered import key_of
from meshgan.report.pages import minutes, sound_lines, write_reproduction_page
from meshgan.report.results import Result, Results, real_result, results_of_seeds
from meshgan.storage import atomic_file
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe, recipe_toml
from meshgan.training.team import Stopped

EXPRESSIONS = ExpressionPlan()  # as many as the paper
RECOGNISED = ExpressionPlan(part="classifier", posed=6000, spontaneous=0)
SMOKE = (
    "schedule.epochs=1",
    "schedule.log_every=2",
    "schedule.sample_every=80",
    "sampling.faces=16",
    "sampling.steps=3",
)

OWN = "your own"  # of a table of whatever models and faces
TRAINED = 0.85  # of the corpus, the rest is to validate and test
MARK = "made-from.txt"  # in a run folder: the key of recipe and faces
# The models of a table and their recipes; identities and expressions have the same.
COMPARED = {
    "meshgan": "meshgan",
    "meshgan-conv-off": "meshgan",
    "meshgan-pointwise": "pointwise",
    "meshgan-convolutions": "convolutions",
    "meshgan-paper": "paper",
    "coma": "coma",
    "coma-tuned": "coma-tuned",
    "patches": "patches",
    "pca": "pca",
    "gmm": "gmm",
    "flow": "flow",
    "bootstrap": "bootstrap",
}
TABLES: dict[str, dict[str, str]] = {
    "table1": COMPARED,
    "table2": COMPARED,
    "ablation": {
        "meshgan-paper": "paper",
        "began-cs": "began-cs",
        "gan": "gan",
        "wgan": "wgan",
        "wgan-gp": "wgan-gp",
    },
}
COMPUTED = ("pca", "gmm", "flow", "bootstrap")  # recipes without a network on the mesh: seconds, or a minute or two
CHANGED = {"meshgan-conv-off": "meshgan"}  # the same weights, convolutions switched off
SEEDED = (  # networks that train in minutes
    "meshgan",
    "meshgan-conv-off",
    "meshgan-pointwise",
    "meshgan-convolutions",
    "coma",
    "coma-tuned",
    "patches",
    "flow",
)


@dataclass(frozen=True)
class Scale:
    """How much of everything; but for the schedules, by default as much as the paper has."""

    changes: tuple[str, ...]  # to every recipe
    ablation: tuple[str, ...]  # the same, where five objectives are compared
    identities: int = 12_000
    samples: int = 10_000
    fid: Fid = "inception"
    steps: int = STEPS  # of Eq. 2 for each test face
    seeds: int = 3  # of networks that train in minutes
    expressions: ExpressionPlan = EXPRESSIONS
    recognised: ExpressionPlan = RECOGNISED  # the classifier's faces
    classifier: tuple[str, ...] = ()  # changes to its recipe


SCALES = {
    "smoke": Scale(
        identities=100,
        samples=40,
        fid="off",
        steps=5,
        changes=SMOKE,
        ablation=SMOKE,
        seeds=1,
        expressions=ExpressionPlan(subjects=20, posed=120, spontaneous=80),
        recognised=ExpressionPlan(part="classifier", subjects=20, posed=240, spontaneous=0),
        classifier=("schedule.epochs=8", "optimiser.lr=1e-3"),
    ),
    "desk": Scale(changes=("schedule.faces=144000",), ablation=("schedule.faces=54000",), samples=1200),
    "paper": Scale(changes=("schedule.epochs=300",), ablation=("schedule.epochs=300",)),
}


def identity_corpus(out: Path, size: Scale) -> FaceSet:
    """The default corpus of identities."""
    path = out / "corpus"
    if not (path / "card.json").is_file():
        make_identities(path, size.identities)
    faces = FaceSet.open(path)
    if len(faces) != size.identities:
        raise UsageError(
            f"{path} holds {counted(len(faces), 'face')}, this scale has {size.identities}; choose another `out`."
        )
    return faces


def expression_corpus(out: Path, size: Scale) -> FaceSet:
    """Pure expressions, posed and spontaneous."""
    return _pure(out / "expressions" / "raw", out / "expressions" / "corpus", size.expressions)


def classifier_corpus(out: Path, size: Scale) -> FaceSet:
    """Pure posed expressions of people who are not in the expression corpus."""
    return _pure(out / "expressions" / "classifier-raw", out / "expressions" / "classifier", size.recognised)


def _pure(raw: Path, path: Path, plan: ExpressionPlan) -> FaceSet:
    if not (raw / "card.json").is_file():
        make_expressions(raw, plan)
    faces = FaceSet.open(raw)
    if len(faces) != len(plan):
        raise UsageError(
            f"{raw} holds {counted(len(faces), 'face')}, this scale has {len(plan)}; choose another `out`."
        )
    if not (path / "card.json").is_file():
        decouple(faces, path)
    return FaceSet.open(path)


@dataclass(frozen=True)
class Asked:
    """The part of a table and of a scale that is asked for: `only` some models, networks trained `seeds` times,
    another `fid`, so many `samples` of each model; by default all, as often and as the scale has it."""

    only: Collection[str] = ()
    seeds: int | None = None
    fid: Fid | None = None
    samples: int | None = None

    def of(self, size: Scale) -> Scale:
        """The scale with what is asked instead."""
        return replace(
            size, seeds=self.seeds or size.seeds, fid=self.fid or size.fid, samples=self.samples or size.samples
        )


ALL = Asked()


def reproduce(
    table: str,
    out: Path,
    scale: str = "desk",
    device: str = "auto",
    own: FaceSet | None = None,
    asked: Asked = ALL,
) -> Results:
    """Make one of `TABLES` in the folder `out`. Stopped, the same call goes on where it was.

    With faces of one's `own`, networks see as many as those of the corpus do, however few there are. A model whose
    training fails keeps a row that says why. A part of the models joins the rows that are in `out` already, and a later
    call for more does the rest. Raises `UsageError` if `out` holds another scale, and for models that the table does
    not have.
    """
    if table not in TABLES or scale not in SCALES:
        raise UsageError(f"no {table} at {scale} scale: choose of {', '.join(TABLES)} and of {', '.join(SCALES)}.")
    if unknown := sorted(set(asked.only) - set(TABLES[table])):
        raise UsageError(f"{table} has no model {', '.join(unknown)}: choose of {', '.join(TABLES[table])}.")
    size = asked.of(SCALES[scale])
    if size.fid == "inception":
        graph_file()  # a missing extra is said now, not after hours of training
    home, faces = home_of(table, out), own or corpus_of(table, out, size)
    counts = (len(faces.split.train), len(faces.split.test))
    before = _rows_before(out / f"{table}.json", (scale, faces.card.name, *counts)) if asked.only else []
    real = [row for row in before if row.model == "real"]
    rows: list[Result] = []
    models: dict[str, Model] = {}
    for name, recipe in TABLES[table].items():
        line = _Line(name, recipe, _changes(table, size, own is not None), home, faces)
        if not asked.only or name in asked.only:
            model, found, note = line.measured(device, size)
            rows += [*found, *([Result(model=name, sampler="none", note=note)] if note else [])]
            real = fuller(line.real, real)
        else:
            kept = [row for row in before if row.model == name]
            model = line.model(0) if kept and line.is_made(0) else None
            rows += kept if model else []
        if model:
            models[name] = model
    if not models:
        raise MeshganError(f"none of the models of {table} could be trained: {rows[0].note}")
    results = Results(table, scale, machine(), today(), faces.card.name, *counts, (*rows, *real))
    results.write(out)
    page = out / f"{table}.html"
    write_reproduction_page(results, models, faces, page, home, _parts(home / "evaluations"), size.steps)
    return results


def fuller(new: list[Result], old: list[Result]) -> list[Result]:
    """The newer row of real faces, unless the older says more: measured without pictures, it has no figures of them."""
    return sorted([*new, *old], key=lambda row: len(row.scores), reverse=True)[:1]


def _changes(table: str, size: Scale, own: bool) -> tuple[str, ...]:
    """What a table changes in recipes; of one's own faces, networks see as many as of the corpus."""
    changes = size.ablation if table == "ablation" else size.changes
    epochs = [float(change.partition("=")[2]) for change in changes if change.startswith("schedule.epochs=")]
    faces = (f"schedule.faces={round(TRAINED * size.identities * number)}" for number in epochs)
    return (*changes, *faces) if own else changes


def _rows_before(path: Path, of: tuple[str, str, int, int]) -> list[Result]:
    """The rows of the table at `path`, if there is one of this scale, data, and numbers of faces."""
    try:
        table = Results.read(path)
    except MeshganError:
        return []
    return list(table.rows) if (table.scale, table.data, table.train_faces, table.test_faces) == of else []


class _Line:
    """One model of a table, with all its seeds: its runs, evaluations and rows."""

    def __init__(self, name: str, recipe: str, changes: tuple[str, ...], home: Path, faces: FaceSet) -> None:
        self.name, self.recipe, self.changes, self.home, self.faces = name, recipe, changes, home, faces
        self.real: list[Result] = []  # the row of real faces, once the model is measured

    def _run(self, seed: int) -> Path:
        return self.home / "runs" / f"{CHANGED.get(self.name, self.name)}{_again(seed)}"

    def is_made(self, seed: int) -> bool:
        """Whether its run is done, from the same recipe and faces."""
        return is_made(self._run(seed), self.recipe, self.faces, self.changes, seed)

    def model(self, seed: int) -> Model | None:
        """The model of its run, None if nothing is left of it without convolutions."""
        model = load_model(self._run(seed))
        if self.name not in CHANGED:
            return model
        if not isinstance(model, FaceModel) or not model.has_linear_path:
            return None
        return model.without_convolutions()

    def measured(self, device: str, size: Scale) -> tuple[Model | None, list[Result], str]:
        """Train and measure what is not done. Returns the first model, its rows, and why a training failed, or ''."""
        models: list[Model] = []
        found: list[Evaluation] = []
        note = ""
        for seed in range(size.seeds if self.name in SEEDED else 1):
            try:
                make_model(self._run(seed), self.recipe, self.faces, self.changes, device, seed)
                model = self.model(seed)
            except (Stopped, UsageError):
                raise
            except MeshganError as error:
                note = str(error)
                break
            if model is None:
                break
            models.append(model)
            path = self.home / "evaluations" / f"{self.name}{_again(seed)}.json"
            found.append(measure(model, self.faces, path, size))
        if not found:
            return None, [], note
        self.real = [real_result(found[0])]
        took = minutes(sound_lines(self._run(0)))
        return models[0], results_of_seeds(found, self.name, took), note


def _again(seed: int) -> str:
    return f"-seed{seed}" if seed else ""


def named_models(names: Sequence[str], faces: FaceSet) -> dict[str, Model]:
    """Models by the names of rows: folders, models that ship, or recipes of `COMPUTED`, fitted to `faces`.

    Raises `UsageError` for what is neither, and for what is named twice.
    """
    if len(set(names)) < len(names):
        raise UsageError("a model is named twice.")
    models: dict[str, Model] = {}
    for name in names:
        try:
            model: Model = load_model(name)
        except UsageError:
            if name not in COMPUTED:
                raise
            with TemporaryDirectory() as run:
                model = load_model(train(name, faces, Path(run) / name))
        short = Path(name).name or name
        while short in models:
            short += "+"
        models[short] = model
    return models


def compare(
    models: Mapping[str, Model],
    faces: FaceSet,
    out: Path,
    work: Path,
    samples: int = 10_000,
    fid: Fid = "inception",
    seed: int = 0,
    part: Part = "test",
) -> Results:
    """Measure models on faces of any set and write the table as JSON, or as a page with its JSON beside it.

    What is finished is kept in the folder `work`. All models are checked before the first is measured.
    """
    for model in models.values():
        check_measurable(model, faces, samples, fid, part)
    found = {name: evaluate(model, faces, samples, fid, seed, work, part=part) for name, model in models.items()}
    rows = [row for name, evaluation in found.items() for row in results_of_seeds([evaluation], name, None)]
    last = list(found.values())[-1]
    results = Results(
        "comparison",  # whatever the file is called: it is none of the paper's tables
        OWN,
        machine(),
        today(),
        faces.card.name,
        last.train_faces,
        last.test_faces,
        (*rows, real_result(last)),
    )
    with atomic_file(out.with_suffix(".json")) as partial:
        partial.write_text(results.json(), encoding="utf-8")
    if out.suffix.lower() == ".html":
        with TemporaryDirectory() as home:
            write_reproduction_page(results, models, faces, out, Path(home), work, STEPS, part)
    return results


def home_of(table: str, out: Path) -> Path:
    """Where the runs, evaluations and figures of a table lie."""
    return {"table1": out, "table2": out / "expressions", "ablation": out / "ablation"}[table]


def corpus_of(table: str, out: Path, size: Scale) -> FaceSet:
    """The faces that a table is about."""
    return expression_corpus(out, size) if table == "table2" else identity_corpus(out, size)


def make_model(run: Path, recipe: str, faces: FaceSet, changes: tuple[str, ...], device: str, seed: int = 0) -> None:
    """Train a recipe into its run folder, unless that is done, from the same recipe and faces."""
    if is_made(run, recipe, faces, changes, seed):
        return
    train(load_recipe(recipe, changes), faces, run, device, seed=seed, resume=True)
    with atomic_file(run / MARK) as partial:
        partial.write_text(_key(recipe, faces, changes, seed), encoding="utf-8")


def is_made(run: Path, recipe: str, faces: FaceSet, changes: tuple[str, ...], seed: int = 0) -> bool:
    """Whether a run folder has the model of this recipe and these faces."""
    return (run / "model" / "model.json").is_file() and _mark(run) == _key(recipe, faces, changes, seed)


def _key(recipe: str, faces: FaceSet, changes: tuple[str, ...], seed: int) -> str:
    return key_of(recipe=recipe_toml(load_recipe(recipe, changes)), data=faces.fingerprint, seed=seed)


def _mark(run: Path) -> str | None:
    """What the model in a run folder was made of; None if nobody knows."""
    try:
        return read_text(run / MARK, 1000)
    except MeshganError:
        return None


def measure(model: Model, faces: FaceSet, path: Path, size: Scale) -> Evaluation:
    """Evaluate a model, with what is finished in the folder of parts, and write the JSON."""
    evaluation = evaluate(model, faces, size.samples, size.fid, work=_parts(path.parent), steps=size.steps)
    with atomic_file(path) as partial:
        partial.write_text(evaluation.json(), encoding="utf-8")
    return evaluation


def _parts(folder: Path) -> Path:
    return folder / "parts"
