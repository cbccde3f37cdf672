"""One page about a training run: curves, samples over time, measurements if there are any, recipe, machine."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation.evaluate import Evaluation
from meshgan.progress import duration
from meshgan.report.curves import curves_svg
from meshgan.report.page import embedded, write_page
from meshgan.report.results import HEADINGS, cells, real_result, results_of
from meshgan.training.checkpoint import RunFolder

MOST_GRIDS = 12
EVALUATION = "evaluation.json"  # in a run folder, written by `meshgan evaluate RUN --out RUN/evaluation.json`


def write_run_page(run: Path, out: Path) -> None:
    """Write the page of a run folder, finished or not. Raises `UsageError` if `run` is none."""
    if not (run / "recipe.toml").is_file():
        raise UsageError(f"{run} is not a run folder (it has no recipe.toml).")
    recipe = (run / "recipe.toml").read_text(encoding="utf-8")
    lines = RunFolder(run).lines()
    table = tomllib.loads(recipe)
    evaluation = _evaluation(run / EVALUATION)
    write_page(
        out,
        "run.html",
        title=f"Training run {run.resolve().name}",
        description=table.get("description", ""),
        facts=_facts(run, table, lines),
        headings=HEADINGS,
        table=_table(evaluation, lines) if evaluation else [],
        data=evaluation.data if evaluation else "",
        curves=curves_svg(lines, RunFolder(run).recipe().objective.curves),
        grids=_grids(run),
        recipe=recipe,
    )


def minutes(lines: list[dict[str, Any]]) -> float | None:
    """How long a run trained."""
    return lines[-1]["seconds"] / 60 if lines else None


def _facts(run: Path, table: dict[str, Any], lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    facts = [("Recipe", str(table.get("name", ""))), ("Objective", str(table["objective"]["kind"]))]
    if lines:
        last = lines[-1]
        facts.append(("Faces seen", f"{last['faces']:,} in {duration(last['seconds'])}"))
        facts.append(("Speed", f"{last['faces'] / max(last['seconds'], 1e-9):,.0f} faces a second"))
    facts.append(("State", "finished" if (run / "model" / "model.json").is_file() else "not finished"))
    machine = run / "machine.txt"
    if machine.is_file():
        facts.append(("Machine", machine.read_text(encoding="utf-8").strip()))
    return facts


def _evaluation(path: Path) -> Evaluation | None:
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Evaluation).validate_json(path.read_bytes())
    except ValidationError as error:
        raise MeshganError(f"{path} is damaged; run meshgan evaluate again, or remove it.") from error


def _table(evaluation: Evaluation, lines: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [cells(row) for row in [*results_of(evaluation, evaluation.model, minutes(lines)), real_result(evaluation)]]


def _grids(run: Path) -> list[dict[str, str]]:
    """At most a dozen grids, evenly spread, the last among them."""
    files = sorted((run / "samples").glob("faces-seen-*.png"))
    chosen = np.unique(np.linspace(0, len(files) - 1, min(MOST_GRIDS, len(files))).round().astype(int))
    return [{"seen": f"{int(files[i].stem.rpartition('-')[2]):,}", "image": embedded(files[i])} for i in chosen]
