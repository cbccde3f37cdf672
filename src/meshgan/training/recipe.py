"""Recipe: one TOML file for one run. Strict: an unknown key is an error that names the nearest known one."""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from meshgan.errors import UsageError
from meshgan.nn.networks import NetworkSpec
from meshgan.training.autoencoder import Autoencoding
from meshgan.training.began import Began
from meshgan.training.began_cs import BeganCs
from meshgan.training.began_judge import BeganJudge
from meshgan.training.gan import Gan
from meshgan.training.wgan import Wgan

SHIPPED = Path(__file__).parents[1] / "recipes"
KINDS = ("objective.kind", "optimiser.kind")  # they say which other keys a section has
LENGTHS = ("epochs", "faces")  # two ways to say how long; one is given
STRICT = ConfigDict(allow_inf_nan=False)

Objective = Annotated[Began | BeganCs | BeganJudge | Gan | Wgan | Autoencoding, Field(discriminator="kind")]

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class HierarchySpec:
    """How the template is coarsened."""

    laplacian: Literal["cotangent", "combinatorial"] = "cotangent"
    counts: tuple[Count, ...] | None = None  # vertices of the coarser levels; None: four levels of a quarter each


@dataclass(frozen=True, config=STRICT)
class Adam:
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"
    lr: Positive = 3e-4
    beta1: Share = 0.5
    beta2: Share = 0.999
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # factor on the learning rate after each epoch
    generator_factor: Positive = 1.0  # learning rate of the generator relative to the others'
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest norm of a network's gradient; 0: no limit


@dataclass(frozen=True, config=STRICT)
class Momentum:
    """Gradient descent with momentum, the paper's choice."""

    kind: Literal["momentum"] = "momentum"
    lr: Positive = 0.008
    momentum: Share = 0.9
    decay: Annotated[float, Field(gt=0, le=1)] = 0.99  # factor on the learning rate after each epoch
    generator_factor: Positive = 1.0  # learning rate of the generator relative to the others'
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest norm of a network's gradient; 0: no limit


@dataclass(frozen=True, config=STRICT)
class Schedule:
    """How long to train, and how often to write; give either `epochs` or `faces`."""

    batch: Count = 16  # faces per step, over all processes together
    epochs: Positive | None = None
    faces: Count | None = None  # faces seen by the end
    log_every: Count = 50  # steps between two lines of stats.jsonl
    sample_every: Count = 20_000  # faces seen between two grids of samples
    checkpoint_every: Count = 20_000  # faces seen between two checkpoints
    collapse: Share = 0.05  # stop when the samples' diversity falls below this share of the real faces'; 0: never

    @model_validator(mode="after")
    def _one_length(self) -> "Schedule":
        if (self.epochs is None) == (self.faces is None):
            raise ValueError("give either epochs or faces")
        return self


@dataclass(frozen=True, config=STRICT)
class Averaging:
    """A running mean of the generator's weights, which is what the model keeps."""

    half_life: Annotated[int, Field(ge=0)] = 0  # in faces seen; 0 keeps the last weights instead


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """How the finished model draws codes unless told otherwise."""

    kind: Literal["uniform", "standard-normal", "fitted-normal"] = "uniform"
    faces: Annotated[int, Field(ge=0)] = 500  # training faces whose codes "fitted-normal" is fitted to; 0: none
    steps: Count = 40  # of Eq. 2 for each of them, where the objective has no encoder


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that defines a run, apart from data and seed."""

    name: str
    schedule: Schedule
    description: str = ""
    network: NetworkSpec = NetworkSpec()
    hierarchy: HierarchySpec = HierarchySpec()
    objective: Objective = Began()
    optimiser: Annotated[Adam | Momentum, Field(discriminator="kind")] = Adam()
    averaging: Averaging = Averaging()
    sampling: Sampling = Sampling()


def load_recipe(name: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe from a TOML file or by the name of one that ships, with `key=value` changes applied.

    Raises `UsageError` that names the file, the key and the remedy.
    """
    path = find_recipe(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file ({error}).") from error
    for change in sorted(changes, key=lambda change: not change.startswith(KINDS)):
        _apply(table, change)
    return parse_recipe(table, str(path))


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one in the package."""
    path, shipped = Path(name), SHIPPED / f"{name}.toml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.toml")))
    raise UsageError(f"{name} is neither a file nor a recipe that ships; those are {names}.")


def parse_recipe(table: Mapping[str, Any], source: str) -> Recipe:
    """Check a table of keys and build the recipe; `source` names it in errors."""
    known = list(_known_keys(Recipe, table))
    for key in _keys(table):
        if key not in known:
            raise UsageError(f"{source}: unknown key '{key}'{_suggestion(key, known)}")
    try:
        return TypeAdapter(Recipe).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        raise UsageError(f"{source}: {_first_problem(error)}") from error


def _apply(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {change}: write it as key=value, for example objective.gamma=0.5.")
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {change}: '{parent}' is not a section.")
    value = _toml_value(text.strip())
    if key.strip() in KINDS and table.get("kind") != value:
        table.clear()  # the numbers of another kind mean nothing here
    if parents == ["schedule"] and last in LENGTHS:
        for other in LENGTHS:
            table.pop(other, None)
    table[last] = value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a word without quotes


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.") if value else [f"{prefix}{name}"]
        else:
            yield f"{prefix}{name}"


def _known_keys(part: Any, table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, annotation in get_type_hints(part).items():
        if name not in part.__dataclass_fields__:
            continue
        value = table.get(name)
        choices = [choice for choice in (annotation, *get_args(annotation)) if dataclasses.is_dataclass(choice)]
        yield f"{prefix}{name}"
        if choices and isinstance(value, Mapping):
            chosen = [choice for choice in choices if getattr(choice, "kind", None) == value.get("kind")]
            yield from _known_keys((chosen or choices)[0], value, f"{prefix}{name}.")


def _suggestion(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"; did you mean '{near[0]}'?" if near else "."


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}." if place else f"{message}."


def recipe_toml(recipe: Recipe) -> str:
    """The whole recipe with every default spelled out, as TOML that `load_recipe` reads back to the same recipe."""
    table = TypeAdapter(Recipe).dump_python(recipe, mode="json", exclude_none=True)
    sections = {name: value for name, value in table.items() if isinstance(value, dict)}
    lines = [_line(name, value) for name, value in table.items() if name not in sections]
    for name, section in sections.items():
        lines += ["", f"[{name}]", *(_line(key, value) for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any) -> str:
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"  # JSON scalars and lists are TOML


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The keys whose values differ, each as `key (old there, new here)`."""
    before, after = (dict(_flat(TypeAdapter(Recipe).dump_python(recipe))) for recipe in (old, new))
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key} ({before.get(key)} there, {after.get(key)} here)" for key in keys if before.get(key) != after.get(key)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
