"""The command line: what all verbs have in common."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from meshgan.errors import UsageError

WRITTEN = ("out", "sheet", "spectrum", "change", "json_file")  # parameters that name what a verb writes
PICTURES = ("sheet", "spectrum")
MARKS = ("card.json", "model.json", "recipe.toml")  # a folder that holds one is a set, a model or a run
KEPT = (*MARKS, "labels.csv", "template.ply", "machine.json")  # files of theirs whose endings others have too
LARGEST = 2**63 - 1  # whole number

SHIPPED = Path(__file__).parents[1] / "model" / "shipped"  # `model_folder.SHIPPED`, without importing NumPy
RECIPES = Path(__file__).parents[1] / "recipes"

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class ModelName(str):
    """A word that names a model: a model folder, a run folder, one that ships; of some verbs, a mesh."""


class RecipeName(str):
    """A word that names a recipe: a TOML file, or one that ships."""


def shipped_models(incomplete: str) -> list[str]:
    """Names of models that ship, for completion."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"{incomplete}*/model.json"))


def shipped_recipes(incomplete: str = "") -> list[str]:
    """Names of recipes that ship, for completion."""
    return sorted(file.stem for file in RECIPES.glob(f"{incomplete}*.toml"))


MODEL: Any = {"parser": ModelName, "autocompletion": shipped_models}  # of an argument or an option
RECIPE: Any = {"parser": RecipeName, "autocompletion": shipped_recipes}


class Verbs(typer.Typer):
    """A group of verbs, none of which writes over what it reads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": _Group} | options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """See `typer.Typer.command`."""
        return super().command(name, **{"cls": _Verb} | options)


class _Verb(TyperCommand):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and parameter.metavar is None:
                parameter.metavar = str(parameter.name).upper()

    def get_params(self, ctx: Any) -> list[Any]:
        """See `TyperCommand.get_params`."""
        return _flags_alone(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperCommand.parse_args`; what is wrong with a word is said without the name of Python's exception."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise

    def invoke(self, ctx: Any) -> Any:
        """Call the verb, unless two of its files are one, or a number is none."""
        check_numbers(ctx.params)
        check_places(ctx.params)
        return super().invoke(ctx)


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        """See `TyperGroup.get_params`."""
        return _flags_alone(super().get_params(ctx))


def _flags_alone(parameters: Iterable[Any]) -> list[Any]:
    """The parameters; help shows no type for those that take no value."""
    found = list(parameters)
    for parameter in found:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return found


def check_numbers(given: Mapping[str, Any]) -> None:
    """Raise `UsageError` for NaN and infinity, which pass every bound, and for what no whole number of 64 bits is."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"`{name}={value}` is not a finite number.")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UsageError(f"`{name}` is too large; give a number of at most 18 digits.")


def check_places(given: Mapping[str, Any]) -> None:
    """Raise `UsageError` where what a verb writes would take the place of what it reads, of something else that it
    writes, or of a file of a set, model or run; and for pictures that do not end in .png."""
    places = [(name, path) for name, value in given.items() for path in _paths(name, value)]
    for name, path in places:
        if name in PICTURES and path.suffix.lower() != ".png":
            raise UsageError(f"{path} should end in .png.")
        inside = any((path.parent / mark).is_file() for mark in MARKS)
        if name in WRITTEN and inside and path.name.lower() in KEPT and path.is_file():
            raise UsageError(f"{path} belongs to the set, model or run in its folder; choose another name.")
    for name, path in places:
        for other, taken in places:
            if name in WRITTEN and name != other and path.resolve() == taken.resolve():
                raise UsageError(f"`{name}` would take the place of `{other}`, {path}; give it a place of its own.")


def _paths(name: str, value: Any) -> Iterator[Path]:
    """The paths that a parameter names: what is written, what is there, and of names only files and models' folders.

    Other words (of tables, kinds of rigs, columns) are none, whatever file or folder is called the same.
    """
    for word in value if isinstance(value, list | tuple) else (value,):
        if isinstance(word, Path | ModelName | RecipeName) and str(word):
            path = Path(word)
            try:
                if name in WRITTEN or path.is_file() or (path.exists() and isinstance(word, Path)) or _model(word):
                    yield path
            except (OSError, ValueError):  # no name that a file could have
                continue


def _model(word: Any) -> bool:
    """Whether a word means the model in a folder of that name, as `find_model` reads it."""
    return isinstance(word, ModelName) and any(
        (place / "model.json").is_file() for place in (Path(word), Path(word) / "model")
    )
