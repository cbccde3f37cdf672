"""Pages of results, each a file that holds everything it shows: of a training run, with its curves as SVG, small
multiples; and of a reproduced table.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError

from meshgan.arrays import Faces
from meshgan.data.corpora.basis import layout_of
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation.evaluate import Evaluation, fitting_errors, suitable_samplers
from meshgan.evaluation.yardstick import Part
from meshgan.model.load import Model
from meshgan.progress import duration
from meshgan.reading import MOST_TEXT, MOST_TOML, parse_toml, read_bytes, read_text
from meshgan.report.results import (
    NAMES,
    SAMPLERS,
    Results,
    beyond_seeds,
    cells,
    contests,
    headings,
    interval_cells,
    real_result,
    results_of,
)
from meshgan.storage import atomic_file
from meshgan.training.checkpoint import RunFolder
from meshgan.training.objective import ALWAYS
from meshgan.view.figures import camera_for, heat_maps, page, tiles, worn
from meshgan.view.raster import Camera

SHOWN = 16  # faces on a sheet
TITLES = {
    "table1": "Identity models: the paper's Table 1",
    "table2": "Expression models: the paper's Table 2",
    "ablation": "Objectives in one architecture: the paper's ablation",
}
MOST_GRIDS = 12
NUMBERED = re.compile(r"faces-seen-[0-9]{1,15}")
EVALUATION = "evaluation.json"  # in a run folder, where `meshgan evaluate RUN` writes
PNG = b"\x89PNG\r\n\x1a\n"
MOST_PICTURE = 2**26  # bytes

Lines = Sequence[Mapping[str, Any]]
Curves = Mapping[str, tuple[list[int], list[float]]]  # label → faces seen, values

TIMES = {"step", "faces", "epoch", "seconds"}  # what a line says of when, not of what
COLOURS = ("#1f6fb4", "#d1605e")
MOST = 1500  # points of a curve
MARGINS = (0.15, 0.2, 0.98, 0.89)  # left, bottom, right, top, of a panel's width and height
LARGEST = 1e300  # beyond it, axes have no ticks


def write_reproduction_page(
    results: Results,
    models: Mapping[str, Model],
    faces: FaceSet,
    path: Path,
    home: Path,
    parts: Path,
    steps: int,
    part: Part = "test",
) -> None:
    """Draw the figures into HOME/figures and write the page. HOME/runs holds the runs, `parts` the measured fits."""
    errors = home / "figures" / f"{results.table}-errors.png"
    write_page(
        path,
        "reproduction.html",
        title=f"{TITLES.get(results.table, 'Models compared')} on {results.data}",
        results=results,
        headings=headings(results.rows),
        rows=[{"cells": cells(row, results.rows), "real": row.model == "real"} for row in results.rows],
        notes=[f"{NAMES.get(row.model, row.model)}: {row.note}" for row in results.rows if row.note]
        + beyond_seeds(results.rows),
        intervals=[(cells(row, results.rows)[:2], interval_cells(row, results.rows)) for row in results.rows],
        part=part,
        contests=contests(results) if results.table in TITLES else [],
        has_pca="pca" in models,
        sheets=draw_sheets(models, faces, home / "figures", part),
        error_maps=draw_error_maps(models, faces, errors, parts, steps, part),
        runs=[_run(name, home / "runs" / name) for name in models if (home / "runs" / name / "recipe.toml").is_file()],
    )


def draw_sheets(models: Mapping[str, Model], faces: FaceSet, folder: Path, part: Part = "test") -> list[dict[str, str]]:
    """A contact sheet of real faces of a part, and one for each model and sampler, all at one scale."""
    rows = faces.split.part(part)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHOWN).astype(int))]  # of few faces none twice
    shown = [(np.asarray(faces.vertices[rows]), folder / "real.png", f"Real {part} faces")]
    for name, model in models.items():
        for sampler in suitable_samplers(model):
            path = folder / f"{name}-{sampler}.png"
            caption = f"{NAMES.get(name, name)}, {SAMPLERS[sampler]}"
            shown.append((model.sample(SHOWN, seed=1, sampler=sampler), path, caption))
    camera = camera_for(np.concatenate([vertices for vertices, *_ in shown]))
    return [_sheet(vertices, faces, path, caption, camera) for vertices, path, caption in shown]


def draw_error_maps(
    models: Mapping[str, Model], faces: FaceSet, path: Path, parts: Path, steps: int, part: Part = "test"
) -> str:
    """The mean error of each vertex over the test faces, on the template, for all models on one scale."""
    errors = np.stack([fitting_errors(model, faces, parts, steps, part).mean(axis=0) for model in models.values()])
    shapes = np.repeat(faces.template.vertices[None].astype(np.float32), len(errors), axis=0)
    captions = [f"{NAMES.get(name, name)}, {error.mean():.2f} mm" for name, error in zip(models, errors, strict=True)]
    heat_maps(shapes, errors, faces.template.triangles, path, captions=captions, columns=min(4, len(errors)))
    return embedded(path)


def _sheet(vertices: Faces, faces: FaceSet, path: Path, caption: str, camera: Camera) -> dict[str, str]:
    colour = worn(layout_of(faces.template))
    drawn = tiles(vertices, faces.template.triangles, size=160, camera=camera, colour=colour)
    page(path, [row for row in (drawn[: SHOWN // 2], drawn[SHOWN // 2 :]) if len(row)])
    return {"image": embedded(path), "caption": caption}


def _run(name: str, path: Path) -> dict[str, object]:
    recipe = read_text(path / "recipe.toml", MOST_TOML)
    curves = curves_svg(sound_lines(path), RunFolder(path).recipe().objective.curves)
    return {"name": NAMES.get(name, name), "curves": curves, "recipe": recipe}


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


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill one of the templates in this folder and write it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    text = environment.get_template(template).render(**values)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def embedded(path: Path) -> str:
    """A PNG file as a data URI. Raises `MeshganError` if it is none."""
    image = picture_or_none(path)
    if image is None:
        raise MeshganError(f"{path} is no PNG picture; remove it and run again.")
    return image


def picture_or_none(path: Path) -> str | None:
    """The same, but None for what is no PNG file that could be read."""
    try:
        data = read_bytes(path, MOST_PICTURE)
    except MeshganError:
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii") if data.startswith(PNG) else None


def curves_svg(lines: Lines, declared: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The statistics of stats.jsonl over faces seen: one SVG element for each panel that has something to show.

    `declared` are the panels of the run's objective (`Objective.curves`): titles, statistics and labels. What every
    run logs follows, and last whatever else was logged, each with a panel of its own.
    """
    thinned = lines[:: max(1, len(lines) // MOST)]
    wanted = {**declared, **ALWAYS}
    known = {key for logged in wanted.values() for key in logged} | TIMES
    keys = dict.fromkeys(key for line in thinned for key, value in line.items() if is_number(value))
    wanted |= {key: {key: key} for key in keys if key not in known}
    panels = [(title, curves) for title, logged in wanted.items() if (curves := _curves(thinned, logged))]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "meshgan"}):
        return [_panel(title, curves) for title, curves in panels]


def is_number(value: object) -> bool:
    """Whether a value of a line can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _curves(lines: Lines, logged: Mapping[str, str]) -> Curves:
    """Those of these statistics that the run has logged, where they are numbers."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for key, label in logged.items():
        points = [
            (line["faces"], line[key]) for line in lines if is_number(line.get("faces")) and is_number(line.get(key))
        ]
        if points:
            seen, values = zip(*points, strict=True)
            curves[label] = (list(seen), list(values))
    return curves


def _panel(title: str, curves: Curves) -> str:
    figure = Figure(figsize=(4.2, 2.4))
    figure.subplots_adjust(*MARGINS)  # the same for all panels; to fit them would take as long as the rest
    axis = figure.add_subplot()
    for (label, (seen, values)), colour in zip(curves.items(), COLOURS, strict=False):
        axis.plot(seen, values, color=colour, linewidth=1.3, label=label)
    every = [value for _, values in curves.values() for value in values]
    if min(every) >= 0:
        top = max(every) or 1.0
        axis.set_ylim(-0.03 * top, 1.08 * top)  # from zero, so that heights can be compared
    axis.locator_params(nbins=5)
    axis.set_title(title, fontsize=9.5, loc="left")
    axis.tick_params(labelsize=8.5, colors="#555555")
    axis.grid(color="#e4e4e4", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_formatter(lambda seen, _: _count(seen))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.6g}")  # no power of ten where the title stands
    axis.set_xlabel("faces seen", fontsize=8.5, color="#555555")
    if len(curves) > 1:
        axis.legend(fontsize=8.5, frameon=False)
    return _svg(figure)


def _count(number: float) -> str:
    """12,000 as 12k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def _svg(figure: Figure) -> str:
    """The figure as an element for a page: without the file's header, as wide as its place."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue().decode()
    element = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r'\1role="img"', element, count=1)
