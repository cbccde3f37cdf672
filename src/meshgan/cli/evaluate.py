"""`meshgan evaluate`, `reproduce` and `report`: numbers, tables and pages from models."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from meshgan.cli import MODEL, JsonOption, ModelName
from meshgan.errors import UsageError

if TYPE_CHECKING:
    from meshgan.evaluation.evaluate import Evaluation
    from meshgan.report.results import Results

MOST_SAMPLES = 1_000_000

Made = Literal["table1", "table2", "ablation", "figure1", "figure4", "figure5", "figure6", "figure7", "all"]


def evaluate(
    models: Annotated[
        list[ModelName],
        typer.Argument(
            metavar="MODEL...",
            help="Model or run folders, names of models that ship, or pca, gmm, flow, bootstrap, which are fitted now.",
            **MODEL,
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="The set whose test part the models are measured against.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The file to write: JSON, or a page (.html) with its JSON beside it; of one run, RUN/evaluation.json.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=MOST_SAMPLES, help="Faces drawn under each sampler.")] = 10_000,
    fid: Annotated[
        Literal["inception", "off"], typer.Option(help="Fréchet distances of pictures; they need the extra `fid`.")
    ] = "inception",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    part: Annotated[
        Literal["test", "validation"],
        typer.Option(help="Which faces it is measured against: for results, or to choose between models by."),
    ] = "test",
    as_json: JsonOption = False,
) -> None:
    """Measure models: how well they rebuild unseen faces, and how their samples compare with them.

    Of one model, JSON holds everything; several make a table, with real faces scored as if they were samples. A page
    shows the table, its intervals, samples, and where faces are missed. `meshgan report` shows what lies in a run.

    Some minutes a model with 10,000 samples, the FIDs half an hour on two cores. Stopped on the way, the same command
    goes on where it was: finished parts lie in FILE.parts until all is done.

    Example: `meshgan evaluate runs/first pca --data faces --out table.html --fid off`
    """
    if out is None:
        if len(models) > 1:
            raise UsageError("several models make a table; say with --out which file to write, such as table.html.")
        if not (Path(models[0]) / "recipe.toml").is_file():
            raise UsageError(f"{models[0]} is no run folder; say with --out which file to write.")
        out = Path(models[0]) / "evaluation.json"
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a JSON file.")
    if out.suffix.lower() not in (".json", ".html"):
        raise UsageError(f"{out} should end in .json or .html.")
    from meshgan.data.faceset import FaceSet

    faces = FaceSet.open(data)
    from meshgan.evaluation.evaluate import evaluate as measure  # with PyTorch: what is no set is said before
    from meshgan.report.reproduce import compare, named_models
    from meshgan.report.results import markdown
    from meshgan.storage import atomic_file, keep_list, remove_written

    chosen = named_models(models, faces)
    work = out.with_name(f"{out.name}.parts")
    begun = work.exists()
    keep_list(work)
    try:
        if len(chosen) > 1 or out.suffix.lower() == ".html":
            table = compare(chosen, faces, out, work, samples, fid, seed, part)
            text, told = table.json(), f"{markdown(table.rows)}\nEverything, with intervals, lies in {out}."
        else:
            (only,) = chosen.values()
            result = measure(only, faces, samples, fid, seed, work, part=part)
            with atomic_file(out) as partial:
                partial.write_text(result.json(), encoding="utf-8")
            text, told = result.json(), _summary(result, out)
    except UsageError:
        if not begun:
            remove_written(work)  # nothing was measured
        raise
    remove_written(work)
    print(text if as_json else told)


def reproduce(
    what: Annotated[
        Made, typer.Argument(help="A table or a figure of the paper, the ablation of its objective, or all of them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to work in; results are written there.")],
    scale: Annotated[
        Literal["smoke", "desk", "paper"],
        typer.Option(help="A minute that shows that it works, hours on two cores, or the paper's, on a GPU."),
    ] = "desk",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What trains.")] = "auto",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="SET", help="Faces of your own, for a table, instead of open data.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Only this model of a table; repeatable. Rows that lie in OUT stay, others can be made later.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Train networks so many times; by default 3 times, smoke once.")
    ] = None,
    fid: Annotated[
        Literal["inception", "off"] | None,
        typer.Option(help="Distances of pictures, in a table: most of its time without a GPU. Smoke has none."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_SAMPLES, help="Faces drawn under each sampler; at desk 1,200, as the paper 10,000."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a table, or the files of a figure, as JSON.")] = False,
) -> None:
    """Make a table or figure of the paper on open data, with the corpora and models that it needs.

    Table 1 is about identities, table 2 about expressions, the ablation about other objectives; each comes with a page.
    Figure 1 shows reconstructions and their errors, figures 4 and 5 identities and expressions exaggerated, figure 6
    how well those are recognised, figure 7 a grid of both. Stopped on the way, the same command goes on where it was;
    what is done, for whichever table or figure, is not done again.

    Example: `meshgan reproduce table1 --out paper --scale smoke`, or with your own faces
    `meshgan reproduce table1 --data mine --out compared`
    """
    from meshgan.data.faceset import FaceSet
    from meshgan.report.paper_figures import FIGURES
    from meshgan.report.reproduce import TABLES, Asked
    from meshgan.report.reproduce import reproduce as make

    asked = {"--data": data, "--only": only, "--seeds": seeds, "--fid": fid, "--samples": samples}
    for option, value in asked.items():
        if value and what not in TABLES:
            raise UsageError(f"{option} goes with a table ({', '.join(TABLES)}), not with {what}.")
    own = FaceSet.open(data) if data is not None else None

    for name in [*TABLES, *FIGURES] if what == "all" else [what]:
        if name in FIGURES:
            _reproduce_figure(name, out, scale, device, as_json)
        else:
            results = make(name, out, scale, device, own, Asked(only or (), seeds, fid, samples))
            _show_table(results, out, as_json)


def _show_table(results: "Results", out: Path, as_json: bool) -> None:
    from meshgan.report.results import markdown

    if as_json:
        print(results.json())
    else:
        name = results.table
        print(f"{markdown(results.rows)}\nThe table lies in {out} as {name}.json, .md, .tex and .csv, the page is")
        print(out / f"{name}.html")


def _reproduce_figure(name: str, out: Path, scale: str, device: str, as_json: bool) -> None:
    from meshgan.report.paper_figures import reproduce_figure

    files = [str(path) for path in reproduce_figure(name, out, scale, device)]
    print(json.dumps(files) if as_json else "\n".join(files))


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page to write; by default RUN/report.html.")] = None,
) -> None:
    """Write one self-contained HTML page about a training run: curves, samples over time, metrics, recipe, machine.

    Metrics are shown if `meshgan evaluate RUN --data SET` has been run.

    Example: `meshgan report runs/first`
    """
    from meshgan.report.pages import write_run_page

    page = out or run / "report.html"
    if page.suffix.lower() != ".html":
        raise UsageError(f"{page} should end in .html.")
    write_run_page(run, page)
    print(page)


def _summary(result: "Evaluation", out: Path) -> str:
    from meshgan.report.results import SAMPLERS, measured, real_result, results_of, shown

    found = result.generalisation
    lines = [
        f"{result.model} against {result.test_faces} {result.part} faces of {result.data}",
        f"generalisation  {found.fitted_mm.mean:.3f} ± {found.fitted_mm.std:.3f} mm (Eq. 2)",
    ]
    if found.encoded_mm is not None:
        lines.append(f"                {found.encoded_mm.mean:.3f} ± {found.encoded_mm.std:.3f} mm (encoded)")
    rows = [*results_of(result, result.model, None), real_result(result)]
    titles = (SAMPLERS[row.sampler] if row.sampler != "none" else "real faces" for row in rows)
    columns = [("", *titles)]
    columns += [(m.heading, *(shown(row.score(m.key()), m) for row in rows)) for m in measured(rows) if m.measure]
    widths = [max(map(len, column)) for column in columns]
    lines += [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in zip(*columns, strict=True)
    ]
    return "\n".join([*lines, f"Everything, with intervals, lies in {out}."])
