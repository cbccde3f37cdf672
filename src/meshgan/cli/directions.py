"""`meshgan directions`: find what labels mean in a model's latent space, and keep it with the model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from meshgan.errors import UsageError


def directions(
    model: Annotated[str, typer.Argument(help="A model folder or a run folder.")],
    data: Annotated[Path, typer.Option("--data", help="The FaceSet with the labels.")],
    labels: Annotated[str, typer.Option(help="Columns of its label table, with commas between.")],
    only: Annotated[str, typer.Option(help="Use only faces with a label, as in kind=posed; commas between.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find semantic directions (age, weight, expression, …) in a model's latent space and keep them with it.

    Prints how much of the faces' variance each label explains, how far its direction moves a face for one standard
    deviation of the label, and how well it moves only what it names. `compose` and the studio use the result.

    Example: `meshgan directions runs/first --data corpus --labels age,weight --only sex=female`
    """
    from meshgan.data.faceset import FaceSet
    from meshgan.evaluation.semantics import describe
    from meshgan.model.load import load_model
    from meshgan.model.model_folder import find_model

    pairs = [part.partition("=") for part in only.split(",") if part.strip()]
    if not all(equals and word.strip() for _, equals, word in pairs):
        raise UsageError(f"--only {only}: write column=word, with commas between.")
    columns = [name.strip() for name in labels.split(",") if name.strip()]
    found = describe(load_model(model), FaceSet.open(data), columns, {c.strip(): w.strip() for c, _, w in pairs})
    found.directions.save(find_model(model))
    if as_json:
        print(json.dumps([asdict(meaning) for meaning in found.meanings], indent=2))
        return
    print("label             readable  variance  moves mm  response  selectivity  (naive)")
    for m in found.meanings:
        print(
            f"{m.label:16s}  {m.readable:8.2f}  {m.variance:8.1%}  {m.moves_mm:8.2f}  {m.response:8.2f}"
            f"  {m.selectivity:11.2f}  {m.naive_selectivity:7.2f}"
        )
