"""`meshgan compose`: random faces with random expressions, as GLB with the expressions on sliders."""

import json
from pathlib import Path
from typing import Annotated

import typer

TARGET = "expressionRandom"  # the morph target that is on when a file is opened


def compose(
    identity: Annotated[
        str, typer.Argument(metavar="ID_MODEL", help="Identity model: a folder, or the name of a model that ships.")
    ],
    expression: Annotated[
        str, typer.Argument(metavar="EXP_MODEL", help="Expression model: a folder, or the name of a model that ships.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.")],
    count: Annotated[int, typer.Option(min=1, help="How many faces.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Put random expressions on random identities (Fig. 3 of the paper).

    Each GLB holds the neutral identity; its morph targets, with weights from 0 to 1, are a random expression (on
    when the file is opened), the six basic expressions, and the expression model's principal axes.

    Example: `meshgan compose identity expression --out faces --count 16`
    """
    from meshgan.model.compose import compose_random, expression_targets
    from meshgan.model.load import load_model
    from meshgan.progress import track
    from meshgan.view.export import write_glb
    from meshgan.view.figures import comparison

    id_model, exp_model = load_model(identity), load_model(expression)
    made = compose_random(id_model, exp_model, count, seed)
    shared = expression_targets(expression, exp_model)
    template, files = id_model.template, []
    for number, size in enumerate(track(made.sizes, "Faces")):
        files.append(out / f"face-{number:03d}.glb")
        targets = {name: size * shift for name, shift in ({TARGET: made.shifts[number]} | shared).items()}
        mesh = template.with_vertices(made.identities[number])
        write_glb(files[-1], mesh, targets, {TARGET: 1.0}, name=files[-1].stem)
    shown = slice(0, min(count, 8))
    rows = {"identity": made.identities[shown], "with expression": made.faces[shown]}
    comparison(rows, template.triangles, out / "sheet.png")
    if as_json:
        result = {"files": [str(file) for file in files], "sheet": str(out / "sheet.png"), "targets": [TARGET, *shared]}
        print(json.dumps(result, indent=2))
        return
    print(f"Wrote {count} GLB files with {len(shared) + 1} morph targets each to {out}; look at {out / 'sheet.png'}.")
