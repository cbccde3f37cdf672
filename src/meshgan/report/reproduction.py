"""The page of a reproduced table: the table, comparisons, samples, errors on the face, curves, recipes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from meshgan.arrays import Faces
from meshgan.data.faceset import FaceSet
from meshgan.evaluation.evaluate import fitting_errors, suitable_samplers
from meshgan.model.load import Model
from meshgan.reading import MOST_TOML, read_text
from meshgan.report.contests import contests
from meshgan.report.curves import curves_svg
from meshgan.report.page import embedded, write_page
from meshgan.report.results import NAMES, SAMPLERS, Results, beyond_seeds, cells, headings
from meshgan.report.run import sound_lines
from meshgan.training.checkpoint import RunFolder
from meshgan.view.figures import camera_for, heat_maps, page, tiles
from meshgan.view.raster import Camera

SHOWN = 16  # faces on a sheet
TITLES = {
    "table1": "Identity models: the paper's Table 1 on open data",
    "table2": "Expression models: the paper's Table 2 on open data",
    "ablation": "Objectives in one architecture: the paper's ablation on open data",
}


def write_reproduction_page(
    results: Results, models: Mapping[str, Model], faces: FaceSet, path: Path, home: Path, parts: Path, steps: int
) -> None:
    """Draw the figures into HOME/figures and write the page. HOME/runs holds the runs, `parts` the measured fits."""
    write_page(
        path,
        "reproduction.html",
        title=TITLES.get(results.table, results.table),
        results=results,
        headings=headings(results.rows),
        rows=[{"cells": cells(row, results.rows), "real": row.model == "real"} for row in results.rows],
        notes=[f"{NAMES.get(row.model, row.model)}: {row.note}" for row in results.rows if row.note]
        + beyond_seeds(results.rows),
        contests=contests(results),
        has_pca="pca" in models,
        sheets=draw_sheets(models, faces, home / "figures"),
        error_maps=draw_error_maps(models, faces, home / "figures" / f"{results.table}-errors.png", parts, steps),
        runs=[_run(name, home / "runs" / name) for name in models if (home / "runs" / name / "recipe.toml").is_file()],
    )


def draw_sheets(models: Mapping[str, Model], faces: FaceSet, folder: Path) -> list[dict[str, str]]:
    """A contact sheet of real test faces, and one for each model and sampler, all at one scale."""
    rows = faces.split.test[np.linspace(0, len(faces.split.test) - 1, SHOWN).astype(int)]
    real = np.asarray(faces.vertices[rows])
    camera = camera_for(real)
    sheets = [_sheet(real, faces, folder / "real.png", "Real test faces", camera)]
    for name, model in models.items():
        for sampler in suitable_samplers(model):
            path = folder / f"{name}-{sampler}.png"
            caption = f"{NAMES.get(name, name)}, {SAMPLERS[sampler]}"
            sheets.append(_sheet(model.sample(SHOWN, seed=1, sampler=sampler), faces, path, caption, camera))
    return sheets


def draw_error_maps(models: Mapping[str, Model], faces: FaceSet, path: Path, parts: Path, steps: int) -> str:
    """The mean error of each vertex over the test faces, on the template, for all models on one scale."""
    errors = np.stack([fitting_errors(model, faces, parts, steps).mean(axis=0) for model in models.values()])
    shapes = np.repeat(faces.template.vertices[None].astype(np.float32), len(errors), axis=0)
    captions = [f"{NAMES.get(name, name)}, {error.mean():.2f} mm" for name, error in zip(models, errors, strict=True)]
    heat_maps(shapes, errors, faces.template.triangles, path, captions=captions, columns=min(4, len(errors)))
    return embedded(path)


def _sheet(vertices: Faces, faces: FaceSet, path: Path, caption: str, camera: Camera) -> dict[str, str]:
    drawn = tiles(vertices, faces.template.triangles, size=160, camera=camera)
    page(path, [drawn[: SHOWN // 2], drawn[SHOWN // 2 :]])
    return {"image": embedded(path), "caption": caption}


def _run(name: str, path: Path) -> dict[str, object]:
    recipe = read_text(path / "recipe.toml", MOST_TOML)
    curves = curves_svg(sound_lines(path), RunFolder(path).recipe().objective.curves)
    return {"name": NAMES.get(name, name), "curves": curves, "recipe": recipe}
