"""`meshgan train`: a recipe and a set of faces become a model."""

import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A TOML file, or demo, meshgan, paper, …, which ship."),
    ],
    data: Annotated[Path, typer.Option("--data", help="The set of faces to learn.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, codes and the order of the faces.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard.")] = False,
) -> None:
    """Train a model and write it to RUN/model.

    Ctrl-C keeps a checkpoint; the same command with --resume goes on and ends with the same model, bit by bit.
    Under `torchrun --nproc-per-node N -m meshgan.cli.main train …` several processes share each batch.

    Example: `meshgan train meshgan --data faces --out runs/first --set schedule.epochs=20`
    """
    from meshgan.data.faceset import FaceSet
    from meshgan.training.loop import train as run
    from meshgan.training.recipe import load_recipe

    chosen = load_recipe(recipe, changes or ())
    model = run(chosen, FaceSet.open(data), out, device, seed, resume, tensorboard)
    if os.environ.get("RANK", "0") == "0":
        use = (
            f"; `meshgan sample {out} --out faces` draws faces from it" if "generator" in chosen.objective.keeps else ""
        )
        print(f"The model lies in {model}{use}.")
