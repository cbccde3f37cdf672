"""The rows of a results table, the table as Markdown, LaTeX, CSV and JSON, and what MeshGAN is asked to win in it."""

import csv
import io
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, model_serializer, model_validator

from meshgan.errors import MeshganError
from meshgan.evaluation.evaluate import Evaluation
from meshgan.evaluation.metrics import Finite, Score
from meshgan.evaluation.yardstick import BY_KEY, METRICS, Metric, Scored, Source
from meshgan.reading import MOST_TEXT, read_bytes
from meshgan.storage import atomic_file

SAMPLERS = {
    "uniform": "U(−1, 1)",
    "standard-normal": "N(0, I)",
    "fitted-normal": "N(μ, Σ)",
    "mixture": "30 × N(μ, Σ)",
    "bootstrap": "training + noise",
    "flow": "flow",
    "none": "–",
}
NAMES = {
    "meshgan": "MeshGAN",
    "meshgan-conv-off": "MeshGAN, convolutions off",
    "meshgan-pointwise": "MeshGAN, pointwise",
    "meshgan-convolutions": "MeshGAN, convolutions only",
    "meshgan-paper": "MeshGAN (paper)",
    "coma": "CoMA",
    "coma-tuned": "CoMA (tuned)",
    "patches": "Patches, mixed",
    "pca": "PCA",
    "gmm": "PCA, mixture",
    "flow": "PCA, flow matching",
    "bootstrap": "PCA, bootstrap (memoriser)",
    "gan": "GAN",
    "wgan": "WGAN (clipping)",
    "wgan-gp": "WGAN (penalty)",
    "began-cs": "BEGAN-CS",
    "real": "real faces",
}
TEX = {
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "²": "$^2$",
    "μ": r"$\mu$",
    "Σ": r"$\Sigma$",
    "é": r"\'e",
    "&": r"\&",
    "%": r"\%",
}
COMAS = ("coma", "coma-tuned")  # the paper's, and the one that has what helps it of MeshGAN's recipe
# The paper's ratio of FIDs, MeshGAN's to CoMA's, and the largest ratio of generalisation errors that is wanted.
PAPER_RATIOS = {"table1": (0.76, 1.05), "table2": (0.61, 1.0)}


class Result(Scored):
    """One row: a model under one sampler, or real faces; what was not or could not be measured is None.

    In JSON, and to those who make one, a score is a field under its metric's name, with others for its interval, its
    standard deviation and its parts.
    """

    model: str
    sampler: Source
    generalisation_method: str | None = None
    encoded_mm: float | None = None
    samples: int = 0
    faces_seen: int | None = None
    train_minutes: float | None = None
    recipe: str | None = None  # TOML
    seed: int | None = None
    seeds: Mapping[str, tuple[Finite, ...]] = Field(default_factory=dict)  # by metric, the value under each seed
    note: str = ""

    def value(self, key: str) -> float | None:
        """The value under a metric, None where it was not measured."""
        score = self.score(key)
        return None if score is None else score.value

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "scores" in data:
            return data
        scores = {
            key: {"value": data[key]}
            | {part: data[name] for part, name in _parts(metric) if data.get(name) is not None}
            for key, metric in BY_KEY.items()
            if data.get(key) is not None
        }
        return {key: value for key, value in data.items() if key not in FLAT} | {"scores": scores}

    @model_serializer(mode="wrap")
    def _spread(self, serialise: Callable[["Result"], dict[str, Any]]) -> dict[str, Any]:
        plain = serialise(self)
        return (
            {key: plain[key] for key in ("model", "sampler")}
            | self.flat()
            | {key: value for key, value in plain.items() if key not in ("model", "sampler", "scores")}
        )

    def flat(self) -> dict[str, Any]:
        """The scores as fields: value, standard deviation, interval and parts of each metric."""
        fields: dict[str, Any] = {}
        for key, metric in BY_KEY.items():
            score = self.score(key)
            fields[key] = None if score is None else score.value
            fields |= {name: getattr(score, part, None) for part, name in _parts(metric)}
        return fields


def _parts(metric: Metric) -> tuple[tuple[str, str], ...]:
    return tuple((part, metric.key(part)) for part in ("std", "interval", "parts"))


FLAT = {name for metric in METRICS for name in (metric.key(), *(name for _, name in _parts(metric)))}


@dataclass(frozen=True)
class Results:
    """A table with everything that is needed to judge and to repeat it."""

    table: str
    scale: str
    machine: str
    date: str
    data: str
    train_faces: int
    test_faces: int
    rows: tuple[Result, ...]

    def json(self) -> str:
        """As JSON, indented."""
        return TypeAdapter(Results).dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what `json` wrote. Raises `MeshganError` if the file is damaged."""
        try:
            return TypeAdapter(cls).validate_json(read_bytes(path, MOST_TEXT))
        except (MeshganError, ValidationError) as error:
            raise MeshganError(f"{path} is missing or no table of results; run meshgan reproduce again.") from error

    def find(self, model: str, sampler: str) -> Result | None:
        """The row of a model under a sampler."""
        return next((row for row in self.rows if row.model == model and row.sampler == sampler), None)

    def write(self, folder: Path) -> None:
        """Write TABLE.json, .md, .tex and .csv into a folder."""
        texts = {
            "json": self.json(),
            "md": markdown(self.rows),
            "tex": latex(self.rows),
            "csv": comma_separated(self.rows),
        }
        for ending, text in texts.items():
            with atomic_file(folder / f"{self.table}.{ending}") as partial:
                partial.write_text(text, encoding="utf-8")


def results_of(evaluation: Evaluation, model: str, train_minutes: float | None) -> list[Result]:
    """One row for each sampler of an evaluated model; the model's own errors stand in each."""
    found = evaluation.generalisation
    return [
        Result(
            model=model,
            sampler=row.sampler,
            scores=row.scores,
            generalisation_method=found.method,
            encoded_mm=found.encoded_mm.mean if found.encoded_mm else None,
            samples=row.samples,
            faces_seen=evaluation.faces_seen,
            train_minutes=train_minutes,
            recipe=evaluation.recipe,
            seed=evaluation.seed,
        )
        for row in evaluation.rows
    ]


def results_of_seeds(evaluations: Sequence[Evaluation], model: str, train_minutes: float | None) -> list[Result]:
    """The rows of a model trained with several seeds: those of the first, with the values of all."""
    every = [results_of(evaluation, model, train_minutes) for evaluation in evaluations]
    if len(every) == 1:
        return every[0]
    return [
        rows[0].model_copy(
            update={
                "seeds": {
                    key: tuple(value for row in rows if (value := row.value(key)) is not None)
                    for key, score in rows[0].scores.items()
                    if score is not None
                }
            }
        )
        for rows in zip(*every, strict=True)
    ]


def beyond_seeds(rows: Sequence[Result], model: str = "meshgan") -> list[str]:
    """Which differences between a model that was trained with several seeds and others are larger than seeds' are.

    That is: the ranges over seeds do not overlap. A model of one seed has a range of one point. One sentence, which
    names the metrics that this does not hold for; none if no model has several seeds.
    """
    mine = next((row for row in rows if row.model == model and row.seeds), None)
    others = [row for row in rows if row.model not in (model, "real") and row.scores]
    if mine is None or not others:
        return []
    name, exceptions = NAMES.get(model, model), []
    for other in others:
        within: list[str] = []
        for metric in measured(rows):
            ours, theirs = (values_of(row, metric) for row in (mine, other))
            if ours and theirs and min(ours) <= max(theirs) and max(ours) >= min(theirs):
                within.append(metric.heading.partition(",")[0])
        if within:
            exceptions.append(f"{NAMES.get(other.model, other.model)}, {SAMPLERS[other.sampler]}: {', '.join(within)}")
    but = f", but for {'; '.join(exceptions)}" if exceptions else ""
    return [f"Between {name} and other rows all differences are larger than seeds' (no range overlaps){but}."]


def values_of(row: Result, metric: Metric) -> tuple[float, ...]:
    """The value under a metric for each seed."""
    value = row.value(metric.key())
    return row.seeds.get(metric.key()) or (() if value is None else (value,))


def real_result(evaluation: Evaluation) -> Result:
    """The row of real faces."""
    row = evaluation.real
    return Result(model="real", sampler="none", scores=row.scores, samples=row.samples, seed=evaluation.seed)


def measured(rows: Sequence[Result]) -> tuple[Metric, ...]:
    """The metrics that any of the rows has, in the order of columns."""
    return tuple(metric for metric in METRICS if any(row.value(metric.key()) is not None for row in rows))


def headings(rows: Sequence[Result]) -> tuple[str, ...]:
    """Of the columns that these rows need."""
    told = ("Faces seen", *(("Minutes",) if _timed(rows) else ()))
    return ("Model", "Sampler", *(metric.heading for metric in measured(rows)), *told)


def cells(row: Result, rows: Sequence[Result]) -> tuple[str, ...]:
    """A row as a reader sees it, under the `headings` of all rows."""
    minutes = "–" if row.train_minutes is None else f"{row.train_minutes:.1f}"
    return (
        NAMES.get(row.model, row.model),
        SAMPLERS[row.sampler],
        *(_cell(row, metric) for metric in measured(rows)),
        "–" if row.faces_seen is None else f"{row.faces_seen:,}",
        *((minutes,) if _timed(rows) else ()),
    )


def _timed(rows: Sequence[Result]) -> bool:
    """Whether it is known how long any of the rows was trained."""
    return any(row.train_minutes is not None for row in rows)


def interval_cells(row: Result, rows: Sequence[Result]) -> tuple[str, ...]:
    """The intervals of a row's scores, under the headings of what was measured; a dash where there is none."""
    return tuple(_interval(row.score(metric.key()), metric) for metric in measured(rows))


def _interval(score: Score | None, metric: Metric) -> str:
    if score is None or score.interval is None:
        return "–"
    low, high = (shown(Score(end), metric) for end in score.interval)
    return f"{low} to {high}"


def _cell(row: Result, metric: Metric) -> str:
    """A score, or the mean over seeds and their range."""
    values = values_of(row, metric)
    if len(values) < 2:
        return shown(row.score(metric.key()), metric)
    mean, low, high = (f"{value:z.{metric.digits}f}" for value in (sum(values) / len(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def shown(score: Score | None, metric: Metric) -> str:
    """A score as a reader sees it."""
    if score is None:
        return "–"
    spread = f" ± {score.std:.{metric.digits}f}" if metric.spread and score.std is not None else ""
    return f"{score.value:z.{metric.digits}f}{spread}"


def markdown(rows: Sequence[Result]) -> str:
    """A pipe table, numbers to the right; notes below it."""
    heads = headings(rows)
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)], *(cells(row, rows) for row in rows)]
    notes = [f"\n{NAMES.get(row.model, row.model)}: {row.note}" for row in rows if row.note]
    notes += [f"\n{line}" for line in beyond_seeds(rows)]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + notes) + "\n"


def latex(rows: Sequence[Result]) -> str:
    """A tabular as in the paper."""
    heads = headings(rows)
    lines = [r"\begin{tabular}{ll" + "r" * (len(heads) - 2) + "}", r"\hline"]
    lines += [_tex(heads), r"\hline", *(_tex(cells(row, rows)) for row in rows)]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _tex(parts: Sequence[str]) -> str:
    return " & ".join("".join(TEX.get(letter, letter) for letter in part) for part in parts) + r" \\"


def comma_separated(rows: Sequence[Result]) -> str:
    """All fields of all rows but the recipe; an interval becomes two columns, and so does each of several parts."""
    records = [_columns(row.model_dump(exclude={"recipe"})) for row in rows]
    columns = list(dict.fromkeys(name for record in records for name in record))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _columns(record: Mapping[str, Any]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, value in record.items():
        if "interval" in name:
            columns |= dict(zip((f"{name}_low", f"{name}_high"), value or ("", ""), strict=True))
        elif name == "seeds":
            columns |= {
                f"{key}, seed {k}": number for key, numbers in value.items() for k, number in enumerate(numbers)
            }
        elif name.endswith("_parts"):
            columns |= {f"{name}: {part}": number for part, number in (value or {}).items()}
        elif name != "recipe":
            columns[name] = value
    return columns


@dataclass(frozen=True)
class Contest:
    """A ratio of two measurements and its limit."""

    text: str
    ratio: float
    limit: float
    at_least: bool = False

    @property
    def held(self) -> bool:
        """Whether the ratio is on the right side of its limit."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    @property
    def value(self) -> str:
        """The ratio as a reader sees it."""
        return f"{self.ratio:.2f}"

    @property
    def wanted(self) -> str:
        """The limit as a reader sees it."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


def contests(results: Results) -> list[Contest]:
    """The comparisons of MeshGAN, under its own sampler, with CoMA and with real faces; none without these rows."""
    mine = next((row for row in results.rows if row.model == "meshgan" and row.sampler == _own_sampler(row)), None)
    real = results.find("real", "none")
    if mine is None or real is None:
        return []
    with_coma = [contest for name in COMAS for contest in _with_coma(results, mine, name)]
    with_real = [
        _contest("Diversity, MeshGAN : real faces", "diversity_mm", mine, real, 0.9, at_least=True),
        _contest("Coverage, MeshGAN : real faces", "coverage", mine, real, 0.9, at_least=True),
        _contest("Specificity, MeshGAN : real faces", "specificity_mm", mine, real, 1.05),
    ]
    return [contest for contest in (*with_coma, *with_real) if contest is not None] if any(with_coma) else []


def _with_coma(results: Results, mine: Result, name: str) -> list[Contest | None]:
    """The comparisons with one of `COMAS`; none without its rows."""
    normal, fitted = results.find(name, "standard-normal"), results.find(name, "fitted-normal")
    if normal is None or fitted is None:
        return []
    paper, general = PAPER_RATIOS.get(results.table, PAPER_RATIOS["table1"])
    pair = f"MeshGAN : {NAMES[name]}"
    return [
        _contest(f"FID, {pair} from N(0, I); the paper has {paper:g}", "fid", mine, normal, paper),
        _contest(f"FID, {pair} from N(μ, Σ)", "fid", mine, fitted, 1.0),
        _contest(f"Shape Fréchet, {pair} from N(0, I)", "shape_frechet_mm2", mine, normal, paper),
        _contest(f"Shape Fréchet, {pair} from N(μ, Σ)", "shape_frechet_mm2", mine, fitted, 1.0),
        _contest(f"Specificity, {pair} from N(μ, Σ)", "specificity_mm", mine, fitted, 1.0),
        _contest(f"Generalisation, {pair}", "generalisation_mm", mine, fitted, general),
    ]


def _contest(
    text: str, number: str, mine: Result, other: Result, limit: float, at_least: bool = False
) -> Contest | None:
    """The ratio of a number of two rows; None where one of them was not measured."""
    value, beside = mine.value(number), other.value(number)
    return Contest(text, value / beside, limit, at_least) if value is not None and beside else None


def _own_sampler(row: Result) -> str:
    return str(tomllib.loads(row.recipe or "").get("sampling", {}).get("kind"))
