"""`meshgan train` and `recipes`: a recipe and a set of faces become a model."""

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import typer

from meshgan.cli import MODEL, RECIPE, RECIPES, ModelName, RecipeName, Verbs, shipped_recipes


def train(
    recipe: Annotated[
        RecipeName,
        typer.Argument(
            metavar="RECIPE", help="A TOML file, or one that ships: `meshgan recipes` lists them.", **RECIPE
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="The set of faces to learn.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to write.")],
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What computes.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, codes and the order of the faces.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint; the schedule may be longer now.")
    ] = False,
    init: Annotated[
        ModelName | None,
        typer.Option("--init", metavar="MODEL", help="Begin with a trained model of the same template.", **MODEL),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the whole recipe, and train nothing.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard.")] = False,
) -> None:
    """Train a model and write it to RUN/model.

    `quick` takes a minute, `demo` some minutes, `meshgan` an hour on two cores for each ten epochs of 12,000 faces.
    Ctrl-C keeps a checkpoint; the same command with --resume goes on and ends with the same model, bit by bit.
    Under `torchrun --nproc-per-node N -m meshgan.cli.main train …` several processes share each batch.

    Example: `meshgan train meshgan --data faces --out runs/first --set schedule.epochs=20`
    """
    from meshgan.data.faceset import FaceSet
    from meshgan.training.recipe import load_recipe, recipe_toml

    chosen, faces = load_recipe(recipe, changes or ()), FaceSet.open(data)
    from meshgan.training.loop import outlook  # with PyTorch: what is wrong with the words is said before
    from meshgan.training.loop import train as run

    if dry_run:
        print(
            recipe_toml(chosen) + "".join(f"# {line}\n" for line in outlook(chosen, faces, out, seed, resume, init)),
            end="",
        )
        return
    model = run(chosen, faces, out, device, seed, resume, tensorboard, init)
    if os.environ.get("RANK", "0") == "0":
        use = (
            f"; `meshgan sample {out} --out faces` draws faces from it" if "generator" in chosen.objective.keeps else ""
        )
        print(f"The model lies in {model}{use}.")


recipes = Verbs(help="The recipes that ship.", invoke_without_command=True)


@recipes.callback()
def list_recipes(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the recipes that ship, with what each is for.

    Example: `meshgan recipes`, then `meshgan recipes show meshgan > mine.toml`
    """
    if context.invoked_subcommand is not None:
        return
    found = {}
    for name in shipped_recipes():
        text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
        found[name] = str(tomllib.loads(text)["description"])
    if as_json:
        print(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    print("\n".join(f"{name:<{width}}  {what}" for name, what in found.items()))


@recipes.command()
def show(
    name: Annotated[RecipeName, typer.Argument(help="A recipe that ships, or a TOML file.", **RECIPE)],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value; repeatable.")
    ] = None,
) -> None:
    """Print a whole recipe as TOML, every default spelled out: what a file of one's own may begin with.

    Example: `meshgan recipes show meshgan --set schedule.faces=50000`
    """
    from meshgan.training.recipe import load_recipe, recipe_toml

    print(recipe_toml(load_recipe(name, changes or ())), end="")
