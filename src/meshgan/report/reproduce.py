"""The paper's tables on open data, in one call: corpus, models, measurements, table, page.

A table is a list of models, a scale says how much of everything. Each step finds what it has done before:

OUT/corpus/        the FaceSet (see `report.corpora`)
OUT/runs/MODEL/    run folders (that of PCA holds its model and how long it took)
OUT/evaluations/   one JSON per model, and the parts they are made of
OUT/figures/
OUT/TABLE.json, .md, .tex, .csv and .html

Table 2 is about expressions; its corpora, runs, evaluations and figures lie in OUT/expressions. The ablation sees fewer
faces; its runs, evaluations and figures lie in OUT/ablation.
"""

import json
import time
from pathlib import Path

from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation.evaluate import Evaluation, evaluate
from meshgan.evaluation.inception import graph_file
from meshgan.machine import machine, today
from meshgan.model.load import Model, load_model
from meshgan.model.pca import fit_pca
from meshgan.reading import read_text
from meshgan.remembered import key_of
from meshgan.report.corpora import expression_corpus, identity_corpus
from meshgan.report.reproduction import write_reproduction_page
from meshgan.report.results import Result, Results, real_result, results_of
from meshgan.report.run import minutes, sound_lines
from meshgan.report.scales import SCALES, Scale
from meshgan.storage import atomic_file
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe, recipe_toml
from meshgan.training.team import Stopped

MARK = "made-from.txt"  # in a run folder: the key of recipe and faces
# The models of each table and their recipes; PCA has none.
TABLES: dict[str, dict[str, str | None]] = {
    "table1": {"meshgan": "meshgan", "meshgan-paper": "paper", "coma": "coma", "coma-tuned": "coma-tuned", "pca": None},
    "table2": {"meshgan": "meshgan", "coma": "coma", "coma-tuned": "coma-tuned", "pca": None},
    "ablation": {
        "meshgan-paper": "paper",
        "began-cs": "began-cs",
        "gan": "gan",
        "wgan": "wgan",
        "wgan-gp": "wgan-gp",
    },
}


def reproduce(table: str, out: Path, scale: str = "desk", device: str = "auto") -> Results:
    """Make one of `TABLES` in the folder `out`. Stopped, the same call goes on where it was.

    A model whose training fails keeps a row that says why. Raises `UsageError` if `out` holds another scale.
    """
    if table not in TABLES or scale not in SCALES:
        raise UsageError(f"no {table} at {scale} scale: choose of {', '.join(TABLES)} and of {', '.join(SCALES)}.")
    size = SCALES[scale]
    changes = size.ablation if table == "ablation" else size.changes
    if size.fid == "inception":
        graph_file()  # a missing extra is said now, not after hours of training
    home, faces = home_of(table, out), corpus_of(table, out, size)
    rows: list[Result] = []
    models: dict[str, Model] = {}
    for name, recipe in TABLES[table].items():
        run = home / "runs" / name
        try:
            make_model(run, recipe, faces, changes, device)
        except (Stopped, UsageError):
            raise
        except MeshganError as error:
            rows.append(Result(model=name, sampler="none", note=str(error)))
            continue
        models[name] = load_model(run)
        evaluation = measure(models[name], faces, home / "evaluations" / f"{name}.json", size)
        rows += results_of(evaluation, name, minutes(sound_lines(run)))
    if not models:
        raise MeshganError(f"none of the models of {table} could be trained: {rows[0].note}")
    train_faces, test_faces = len(faces.split.train), len(faces.split.test)
    all_rows = (*rows, real_result(evaluation))
    results = Results(table, scale, machine(), today(), faces.card.name, train_faces, test_faces, all_rows)
    results.write(out)
    page = out / f"{table}.html"
    write_reproduction_page(results, models, faces, page, home, _parts(home / "evaluations"), size.steps)
    return results


def home_of(table: str, out: Path) -> Path:
    """Where the runs, evaluations and figures of a table lie."""
    return {"table1": out, "table2": out / "expressions", "ablation": out / "ablation"}[table]


def corpus_of(table: str, out: Path, size: Scale) -> FaceSet:
    """The faces that a table is about."""
    return expression_corpus(out, size) if table == "table2" else identity_corpus(out, size)


def make_model(run: Path, recipe: str | None, faces: FaceSet, changes: tuple[str, ...], device: str) -> None:
    """Train a recipe into its run folder, or fit PCA, unless that is done, from the same recipe and faces."""
    wanted = None if recipe is None else load_recipe(recipe, changes)
    key = key_of(recipe=None if wanted is None else recipe_toml(wanted), data=faces.fingerprint)
    if (run / "model" / "model.json").is_file() and _mark(run) == key:
        return
    if wanted is None:
        _fit_pca(run, faces)
    else:
        train(wanted, faces, run, device, resume=True)
    with atomic_file(run / MARK) as partial:
        partial.write_text(key, encoding="utf-8")


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


def _fit_pca(run: Path, faces: FaceSet) -> None:
    start = time.monotonic()
    model = fit_pca(faces)
    line = {"step": 1, "faces": model.card.origin.faces_seen, "seconds": round(time.monotonic() - start, 2)}
    with atomic_file(run / "stats.jsonl") as partial:
        partial.write_text(json.dumps(line) + "\n", encoding="utf-8")
    model.save(run / "model", replace=True)
