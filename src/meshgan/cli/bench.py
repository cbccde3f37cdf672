"""`meshgan bench NAME`: the measurements behind every figure about speed."""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from meshgan.cli import MODEL, ModelName, Verbs
from meshgan.errors import UsageError
from meshgan.storage import atomic_file

app = Verbs(help="Measure how fast things are on this machine.", no_args_is_help=True)

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")]


@app.command("train-step")
def train_step(
    growth: Annotated[bool, typer.Option("--growth", help="Only how a step grows with size and batch.")] = False,
    json_file: Json = None,
) -> None:
    """A BEGAN step against PyTorch Geometric, plain CSR and the machine's floor; decoding; growth with size and batch.

    Growth is that of sheets of 5,041, 12,100, 19,881 and 80,089 vertices, each against what the first one's time
    predicts in proportion.

    Example: `meshgan bench train-step --json step.json`
    """
    _run("train_step", json_file, only_growth=growth)


@app.command()
def data(json_file: Json = None) -> None:
    """Making the corpora, decoupling, and measuring the detail of a set of nearly 30,000 vertices.

    Example: `meshgan bench data`
    """
    _run("data", json_file)


@app.command()
def hierarchy(json_file: Json = None) -> None:
    """Building the levels of a template.

    Example: `meshgan bench hierarchy`
    """
    _run("hierarchy", json_file)


@app.command()
def metrics(json_file: Json = None) -> None:
    """Evaluating a model.

    Example: `meshgan bench metrics`
    """
    _run("metrics", json_file)


@app.command()
def raster(json_file: Json = None) -> None:
    """Drawing pictures.

    Example: `meshgan bench raster`
    """
    _run("raster", json_file)


@app.command()
def register(
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", help="A set of faces that share their own triangles: how well places on them are met, instead."
        ),
    ] = None,
    chain: Annotated[
        Path | None,
        typer.Option("--chain", help="A set of faces of the template: what they lose on the way through raw scans."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the scans and sets of --chain are kept.")] = None,
    sequence: Annotated[
        int | None,
        typer.Option("--sequence", min=8, help="So many frames of one person: followed, beside each by itself."),
    ] = None,
    kinds: Annotated[
        int | None,
        typer.Option("--kinds", min=1, help="So many scans of each easily misread kind, and their verdicts."),
    ] = None,
    colours: Annotated[
        int | None,
        typer.Option("--colours", min=2, help="So many fake scans in painted colours: by bare shape, and in colours."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the people of --kinds and --colours, and what is done to them.")
    ] = 0,
    faces: Annotated[int | None, typer.Option(min=2, help="How many faces: 50, 12 of --truth, 300 of --chain.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Let a face model of plain people guide the fit, as in version 0.1.")
    ] = False,
    model: Annotated[
        ModelName | None,
        typer.Option(metavar="MODEL", help="Let a trained model guide the fit, as register --model does.", **MODEL),
    ] = None,
    scans: Annotated[
        list[Path] | None, typer.Option("--scan", help="A real scan besides, in mm or in no unit; may be repeated.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Registering scans: fake ones of the corpus, or faces of anybody's whose correspondence is known.

    With --chain, faces become raw scans and faces again; energies by wavelength before and after, and how well a PCA
    of either describes others.

    Example: `meshgan bench register --truth tracked --json foreign.json`
    """
    given = sum(what is not None for what in (truth, chain, sequence, kinds, colours))
    if given > 1:
        raise UsageError("--truth, --chain, --sequence, --kinds and --colours are measurements; give one of them.")
    if (plain or model or scans) and given:
        raise UsageError(
            "--plain, --model and --scan go with fake scans, with none of --truth, --chain, --sequence, --kinds and "
            "--colours."
        )
    if plain and model:
        raise UsageError("--plain and --model are two face models to guide the fit; give one of them.")
    if (chain is None) != (out is None):
        raise UsageError("--chain needs --out, a folder for its scans and sets, and nothing else does.")
    from threadpoolctl import threadpool_limits

    from meshgan.data.faceset import FaceSet

    _require_place(json_file)
    bench = importlib.import_module("meshgan.bench.register")
    with threadpool_limits(1, user_api="blas"):
        if truth is not None:
            figures = bench.foreign(FaceSet.open(truth), faces or 12)
        elif chain is not None:
            figures = bench.chain(FaceSet.open(chain), out, faces or 300)
        elif sequence is not None:
            figures = bench.sequence(sequence)
        elif kinds is not None:
            figures = bench.kinds(kinds, seed)
        elif colours is not None:
            figures = bench.colours(colours, seed)
        else:
            figures = bench.run(faces or 50, plain=plain, scans=scans or (), model=model)
        _finish(figures, json_file)


@app.command()
def studio(json_file: Json = None) -> None:
    """What the studio's server needs for a slider's movement: faces with an expression model, and heads with their rig.

    Example: `meshgan bench studio`
    """
    _run("studio", json_file)


def _run(name: str, json_file: Path | None, **asked: bool) -> None:
    """Call `run()` of the benchmark's module, and write what it returns."""
    _require_place(json_file)
    _finish(importlib.import_module(f"meshgan.bench.{name}").run(**asked), json_file)


def _require_place(json_file: Path | None) -> None:
    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"the folder of {json_file} does not exist; make it first.")


def _finish(result: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        with atomic_file(json_file) as partial:
            partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
