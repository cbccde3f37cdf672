"""Recipe: one TOML file for one run. Strict: an unknown key is an error that names the nearest known one."""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from meshgan.errors import MeshganError, UsageError
from meshgan.nn.plan import NetworkSpec, quarters
from meshgan.reading import parse_toml, read_toml
from meshgan.training.autoencoder import Autoencoding, Components
from meshgan.training.began import Began, BeganCs
from meshgan.training.began_encoder import BeganEncoder
from meshgan.training.began_judge import BeganJudge
from meshgan.training.classification import Classification
from meshgan.training.gan import Gan, Wgan

SHIPPED = Path(__file__).parents[1] / "recipes"
KINDS = ("objective.kind", "optimiser.kind")  # they say which other keys a section has
LENGTHS = ("epochs", "faces")  # two ways to say how long; one is given
STRICT = ConfigDict(allow_inf_nan=False)

Objective = Annotated[
    Began | BeganCs | BeganEncoder | BeganJudge | Gan | Wgan | Autoencoding | Components | Classification,
    Field(discriminator="kind"),
]

MOST_PARTS = 8  # of a key
SHOWN = 60  # letters of a key or value in an error
TOLD = 200  # of a message that quotes what was given

Positive = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Many = Annotated[int, Field(ge=0, le=10**12)]


@dataclass(frozen=True, config=STRICT)
class HierarchySpec:
    """How the template is coarsened."""

    laplacian: Literal["cotangent", "combinatorial"] = "cotangent"
    # vertices of the coarser levels, one for each of network.widths; None: four levels of a quarter each
    counts: Annotated[tuple[Count, ...], Field(max_length=16)] | None = None


@dataclass(frozen=True, config=STRICT)
class Adam:
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"
    lr: Positive = 3e-4
    beta1: Share = 0.5
    beta2: Share = 0.999
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # factor on the learning rate after each epoch
    final: Annotated[float, Field(gt=0, le=1)] = 1.0  # factor on it over the whole run, whatever its length
    generator_factor: Positive = 1.0  # learning rate of the generator relative to the others'
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest norm of a network's gradient; 0: no limit


@dataclass(frozen=True, config=STRICT)
class Momentum:
    """Gradient descent with momentum, the paper's choice."""

    kind: Literal["momentum"] = "momentum"
    lr: Positive = 0.008
    momentum: Share = 0.9
    decay: Annotated[float, Field(gt=0, le=1)] = 0.99  # factor on the learning rate after each epoch
    final: Annotated[float, Field(gt=0, le=1)] = 1.0  # factor on it over the whole run, whatever its length
    generator_factor: Positive = 1.0  # learning rate of the generator relative to the others'
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest norm of a network's gradient; 0: no limit


@dataclass(frozen=True, config=STRICT)
class Schedule:
    """How long to train, and how often to write; give either `epochs` or `faces`.

    What is not said of how often follows the length: `intervals`.
    """

    batch: Annotated[int, Field(ge=1, le=2**20)] = 16  # faces per step, over all processes together
    epochs: Positive | None = None
    faces: Count | None = None  # faces seen by the end
    log_every: Count | None = None  # steps between two lines of stats.jsonl
    sample_every: Count | None = None  # faces seen between two grids of samples
    checkpoint_every: Count | None = None  # faces seen between two checkpoints
    collapse: Share = 0.05  # stop when the samples' diversity falls below this share of the real faces'; 0: never

    @model_validator(mode="after")
    def _one_length(self) -> "Schedule":
        if (self.epochs is None) == (self.faces is None):
            raise ValueError("give either epochs or faces")
        return self

    def intervals(self, steps: int) -> tuple[int, int, int]:
        """Steps between two lines, faces between two grids, and between two checkpoints, of a run of so many steps.

        A short run has a hundred lines too, ten grids and ten checkpoints.
        """
        tenth = max(self.batch, min(20_000, steps * self.batch // 10))
        lines = self.log_every or max(1, min(50, steps // 100))
        return lines, self.sample_every or tenth, self.checkpoint_every or tenth


@dataclass(frozen=True, config=STRICT)
class Averaging:
    """A running mean of the generator's weights, which is what the model keeps."""

    half_life: Many = 0  # in faces seen; 0 keeps the last weights instead


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """How the finished model draws codes unless told otherwise."""

    kind: Literal["uniform", "standard-normal", "fitted-normal", "mixture"] = "uniform"
    faces: Many = 500  # training faces whose codes "fitted-normal" and "mixture" are fitted to; 0: none
    steps: Annotated[int, Field(ge=1, le=10**6)] = 40  # of Eq. 2 for each of them, where the objective has no encoder


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that defines a run, apart from data and seed; its parts fit each other."""

    name: Annotated[str, Field(max_length=200)]
    schedule: Schedule
    description: Annotated[str, Field(max_length=2000)] = ""
    network: NetworkSpec = NetworkSpec()
    hierarchy: HierarchySpec = HierarchySpec()
    objective: Objective = Began()
    optimiser: Annotated[Adam | Momentum, Field(discriminator="kind")] = Adam()
    averaging: Averaging = Averaging()
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        """A model that training makes and nobody can sample is refused before the first step."""
        self.objective.check(self.network)
        if self.network.mixing and self.objective.kind != "autoencoder":
            raise ValueError("network.mixing is for the objective autoencoder; set network.mixing = 0")
        counts, widths = self.hierarchy.counts, self.network.widths
        if counts is not None and len(counts) != len(widths):
            raise ValueError(
                f"hierarchy.counts needs as many numbers as network.widths, {len(widths)}; for 5,000 vertices say "
                f"{quarters(5000, len(widths))}"
            )
        if self.sampling.faces == 1:
            raise ValueError("sampling.faces = 1 is too few for a normal distribution; give 2 or more, or 0 for none")
        if self.sampling.kind in ("fitted-normal", "mixture") and not self.sampling.faces:
            raise ValueError(f'sampling.kind = "{self.sampling.kind}" needs sampling.faces to fit it to, say 500')
        if self.sampling.kind == "mixture" and "encoder" not in self.objective.keeps:
            raise ValueError('sampling.kind = "mixture" is of an encoder\'s codes, and this objective has none to keep')
        if self.sampling.kind == "standard-normal" and self.network.mapping:
            raise ValueError('network.mapping takes uniform codes; choose sampling.kind = "uniform" or "fitted-normal"')
        return self

    def changed(self, **sections: Any) -> "Recipe":
        """The recipe with some values changed, as in `recipe.changed(schedule={"faces": 5000}, name="mine")`.

        Another `kind` of objective or optimiser starts that section anew. Raises `UsageError` as `load_recipe` does.
        """
        table = TypeAdapter(Recipe).dump_python(self, mode="json", exclude_none=True)
        _merge(table, sections)
        return parse_recipe(table, self.name)


def load_recipe(name: str | Path, /, changes: Iterable[str] = (), **sections: Any) -> Recipe:
    """Read a recipe from a TOML file or by the name of one that ships, with changes applied.

    They are given as texts, `"schedule.faces=5000"`, or by section, `schedule={"faces": 5000}`. Raises `UsageError`
    that names the file, or that it was changed, the key and the remedy.
    """
    path = find_recipe(name)
    try:
        table = read_toml(path)
    except UsageError:
        raise
    except MeshganError as error:
        raise UsageError(f"{path} is no TOML file: {error}") from error
    changes = list(changes)
    for change in sorted(changes, key=lambda change: not change.startswith(KINDS)):
        _apply(table, change)
    _merge(table, sections)
    return parse_recipe(table, f"{name}, as changed" if changes or sections else str(path))


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one in the package."""
    path, shipped = Path(name), SHIPPED / f"{name}.toml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    near = difflib.get_close_matches(str(name), recipe_names(), n=1)
    meant = f"; did you mean '{near[0]}'? There are" if near else "; those are"
    raise UsageError(f"{name} is neither a file nor a recipe that ships{meant} {', '.join(recipe_names())}.")


def parse_recipe(table: Mapping[str, Any], source: str) -> Recipe:
    """Check a table of keys and build the recipe; `source` names it in errors."""
    known = list(_known_keys(Recipe, table))
    for key, value in _keys(table):
        if key not in known:
            raise UsageError(f"{source}: unknown key '{_clipped(key)}'{_suggestion(key, known)}")
        if not _is_plain(value):
            raise UsageError(
                f"{source}: {key} holds what is neither a word nor a number of 64 bits nor a list of them."
            )
    try:
        return TypeAdapter(Recipe).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        raise UsageError(f"{source}: {_first_problem(error)}") from error
    except UsageError as error:  # of the network
        raise UsageError(f"{source}: {error}") from error


def _merge(table: dict[str, Any], sections: Mapping[str, Any]) -> None:
    """Change values of a recipe's table: one of its own, or those of a section that are given."""
    for name, given in sections.items():
        values = given if isinstance(given, Mapping) else {None: given}
        for key, value in sorted(values.items(), key=lambda pair: pair[0] != "kind"):
            value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy
            _set(table, name if key is None else f"{name}.{key}", list(value) if isinstance(value, tuple) else value)


def _apply(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"`changes` {_clipped(change)}: write it as key=value, for example objective.gamma=0.5.")
    _set(table, key, _toml_value(text.strip()))


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.strip().split(".")
    if len(parents) >= MOST_PARTS:
        raise UsageError(f"{_clipped(key)}: no key has so many parts.")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"{_clipped(key)}: '{_clipped(parent)}' is not a section.")
    if key.strip() in KINDS and table.get("kind") != value:
        table.clear()  # the numbers of another kind mean nothing here
    if parents == ["schedule"] and last in LENGTHS:
        for other in LENGTHS:
            table.pop(other, None)
    table[last] = value


def _toml_value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}", "a change")["value"]
    except UsageError:
        return text  # a word without quotes


def _keys(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, `section.key`; what lies deeper is a value of its section."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{name}.{inner}", of_inner) for inner, of_inner in value.items())
        else:
            yield name, value


def _is_plain(value: Any) -> bool:
    """Whether a value is one that recipes have: no date, no table within a section, no number beyond 64 bits."""
    if isinstance(value, list):
        return all(not isinstance(one, list) and _is_plain(one) for one in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**63
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool) or value == {}


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
    near = difflib.get_close_matches(_clipped(key), known, n=1, cutoff=0.0)
    return f"; did you mean '{near[0]}'?" if near else "."


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = _clipped(problem["msg"].removeprefix("Value error, "), TOLD)
    return f"{_clipped(place)}: {message}." if place else f"{message}."


def _clipped(text: str, most: int = SHOWN) -> str:
    """Words from outside, at a length that a sentence can hold, printable."""
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(sign if sign.isprintable() else "?" for sign in short)


def recipe_names() -> list[str]:
    """The names of the recipes that ship."""
    return sorted(file.stem for file in SHIPPED.glob("*.toml"))


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
