"""One page about a training run: curves, samples over time, measurements if there are any, recipe, machine."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation.evaluate import Evaluation
from meshgan.progress import duration
from meshgan.reading import MOST_TEXT, MOST_TOML, parse_toml, read_bytes, read_text
from meshgan.report.curves import curves_svg, is_number
from meshgan.report.page import picture_or_none, write_page
from meshgan.report.results import cells, headings, real_result, results_of
from meshgan.training.checkpoint import RunFolder

MOST_GRIDS = 12
NUMBERED = re.compile(r"faces-seen-[0-9]{1,15}")
EVALUATION = "evaluation.json"  # in a run folder, written by `meshgan evaluate RUN --out RUN/evaluation.json`


def write_run_page(run: Path, out: Path) -> None:
    """Write the page of a run folder, finished or not. Raises `UsageError` if `run` is none."""
    if not (run / "recipe.toml").is_file():
        raise UsageError(f"{run} is not a run folder (it has no recipe.toml).")
    recipe = read_text(run / "recipe.toml", MOST_TOML)
    table = parse_toml(recipe, str(run / "recipe.toml"))
    lines = sound_lines(run)
    evaluation = _evaluation(run / EVALUATION)
    measured = (
        [*results_of(evaluation, evaluation.model, minutes(lines)), real_result(evaluation)] if evaluation else []
    )
    write_page(
        out,
        "run.html",
        title=f"Training run {run.resolve().name}",
        description=str(table.get("description", "")),
        facts=_facts(run, table, lines),
        headings=headings(measured),
        table=[cells(row, measured) for row in measured],
        data=evaluation.data if evaluation else "",
        curves=curves_svg(lines, RunFolder(run).recipe().objective.curves),
        grids=_grids(run),
        recipe=recipe,
    )


def sound_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's stats.jsonl that say, in numbers, how far and how long it had trained."""
    return [line for line in RunFolder(run).lines() if all(is_number(line.get(key)) for key in ("faces", "seconds"))]


def minutes(lines: list[dict[str, Any]]) -> float | None:
    """How long a run trained."""
    return lines[-1]["seconds"] / 60 if lines else None


def _facts(run: Path, table: dict[str, Any], lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    facts = [("Recipe", str(table.get("name", ""))), ("Objective", str(_kind(table)))]
    if lines:
        last = lines[-1]
        facts.append(("Faces seen", f"{last['faces']:,} in {duration(last['seconds'])}"))
        facts.append(("Speed", f"{last['faces'] / max(last['seconds'], 1e-9):,.0f} faces a second"))
    facts.append(("State", "finished" if (run / "model" / "model.json").is_file() else "not finished"))
    machine = run / "machine.txt"
    if machine.is_file():
        facts.append(("Machine", read_text(machine, MOST_TOML).strip()))
    return facts


def _kind(table: dict[str, Any]) -> object:
    objective = table.get("objective")
    return objective.get("kind", "") if isinstance(objective, dict) else ""


def _evaluation(path: Path) -> Evaluation | None:
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Evaluation).validate_json(read_bytes(path, MOST_TEXT))
    except (MeshganError, ValidationError) as error:
        raise MeshganError(f"{path} is damaged; run meshgan evaluate again, or remove it.") from error


def _grids(run: Path) -> list[dict[str, str]]:
    """At most a dozen grids, evenly spread, the last among them; what is no picture is left out."""
    files = sorted(path for path in (run / "samples").glob("faces-seen-*.png") if NUMBERED.fullmatch(path.stem))
    chosen = np.unique(np.linspace(0, len(files) - 1, min(MOST_GRIDS, len(files))).round().astype(int))
    pictures = ((files[i].stem.rpartition("-")[2], picture_or_none(files[i])) for i in chosen)
    return [{"seen": f"{int(seen):,}", "image": image} for seen, image in pictures if image is not None]
