"""The rows of a results table, and the table as Markdown, LaTeX, CSV and JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from meshgan.errors import MeshganError
from meshgan.evaluation.evaluate import Evaluation
from meshgan.evaluation.metrics import Interval
from meshgan.evaluation.yardstick import Row
from meshgan.model.model_folder import Sampler
from meshgan.storage import atomic_file

SAMPLERS = {"uniform": "U(−1, 1)", "standard-normal": "N(0, I)", "fitted-normal": "N(μ, Σ)", "none": "–"}
NAMES = {
    "meshgan": "MeshGAN",
    "meshgan-paper": "MeshGAN (paper)",
    "coma": "CoMA",
    "coma-tuned": "CoMA (tuned)",
    "pca": "PCA",
    "gan": "GAN",
    "wgan": "WGAN (clipping)",
    "wgan-gp": "WGAN (penalty)",
    "began-cs": "BEGAN-CS",
    "real": "real faces",
}


@dataclass(frozen=True)
class Result:
    """One row: a model under one sampler, or real faces; what was not or could not be measured is None."""

    model: str
    sampler: Sampler | Literal["none"]
    generalisation_mm: float | None = None
    generalisation_std_mm: float | None = None
    generalisation_median_mm: float | None = None
    generalisation_max_mm: float | None = None
    generalisation_interval_mm: Interval | None = None
    generalisation_method: str | None = None
    encoded_mm: float | None = None
    specificity_mm: float | None = None
    specificity_std_mm: float | None = None
    specificity_interval_mm: Interval | None = None
    fid: float | None = None
    fid_interval: Interval | None = None
    shape_frechet_mm2: float | None = None
    shape_frechet_interval_mm2: Interval | None = None
    diversity_mm: float | None = None
    diversity_interval_mm: Interval | None = None
    coverage: float | None = None
    coverage_interval: Interval | None = None
    precision: float | None = None
    recall: float | None = None
    samples: int = 0
    faces_seen: int | None = None
    train_minutes: float | None = None
    recipe: str | None = None  # TOML
    seed: int | None = None
    note: str = ""


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
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
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
            generalisation_mm=found.fitted_mm.mean,
            generalisation_std_mm=found.fitted_mm.std,
            generalisation_median_mm=found.fitted_mm.median,
            generalisation_max_mm=found.fitted_mm.maximum,
            generalisation_interval_mm=found.interval_mm,
            generalisation_method=found.method,
            encoded_mm=found.encoded_mm.mean if found.encoded_mm else None,
            faces_seen=evaluation.faces_seen,
            train_minutes=train_minutes,
            recipe=evaluation.recipe,
            seed=evaluation.seed,
            **_scores(row),  # type: ignore[arg-type]
        )
        for row in evaluation.rows
    ]


def real_result(evaluation: Evaluation) -> Result:
    """The row of real faces."""
    return Result(model="real", seed=evaluation.seed, **_scores(evaluation.real))  # type: ignore[arg-type]


def _scores(row: Row) -> dict[str, object]:
    return {
        "sampler": row.sampler,
        "specificity_mm": row.specificity_mm.mean,
        "specificity_std_mm": row.specificity_mm.std,
        "specificity_interval_mm": row.specificity_mm.interval,
        "fid": row.fid.value if row.fid else None,
        "fid_interval": row.fid.interval if row.fid else None,
        "shape_frechet_mm2": row.shape_frechet_mm2.value,
        "shape_frechet_interval_mm2": row.shape_frechet_mm2.interval,
        "diversity_mm": row.diversity_mm.mean,
        "diversity_interval_mm": row.diversity_mm.interval,
        "coverage": row.coverage.value,
        "coverage_interval": row.coverage.interval,
        "precision": row.precision.value,
        "recall": row.recall.value,
        "samples": row.samples,
    }


HEADINGS = (
    "Model",
    "Sampler",
    "Generalisation, mm",
    "Specificity, mm",
    "FID",
    "Shape Fréchet, mm²",
    "Diversity, mm",
    "Coverage",
    "Precision",
    "Recall",
    "Faces seen",
    "Minutes",
)


def cells(row: Result) -> tuple[str, ...]:
    """A row as a reader sees it, under `HEADINGS`."""
    return (
        NAMES.get(row.model, row.model),
        SAMPLERS[row.sampler],
        _number(row.generalisation_mm, 3, row.generalisation_std_mm),
        _number(row.specificity_mm, 3, row.specificity_std_mm),
        _number(row.fid, 2),
        _number(row.shape_frechet_mm2, 2),
        _number(row.diversity_mm, 2),
        _number(row.coverage, 3),
        _number(row.precision, 3),
        _number(row.recall, 3),
        "–" if row.faces_seen is None else f"{row.faces_seen:,}",
        _number(row.train_minutes, 1),
    )


def markdown(rows: Sequence[Result]) -> str:
    """A pipe table, numbers to the right; notes below it."""
    rule = ["---", "---", *["---:"] * (len(HEADINGS) - 2)]
    lines = [HEADINGS, rule, *(cells(row) for row in rows)]
    notes = [f"\n{NAMES.get(row.model, row.model)}: {row.note}" for row in rows if row.note]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + notes) + "\n"


def latex(rows: Sequence[Result]) -> str:
    """A tabular as in the paper."""
    lines = [r"\begin{tabular}{ll" + "r" * (len(HEADINGS) - 2) + "}", r"\hline"]
    lines += [_tex(HEADINGS), r"\hline", *(_tex(cells(row)) for row in rows)]
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


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


def _tex(parts: Sequence[str]) -> str:
    return " & ".join("".join(TEX.get(letter, letter) for letter in part) for part in parts) + r" \\"


def comma_separated(rows: Sequence[Result]) -> str:
    """All fields of all rows; an interval becomes two columns."""
    stream = io.StringIO()
    names = [field.name for field in fields(Result) if field.name != "recipe"]
    records = [_flat({name: getattr(row, name) for name in names}) for row in rows]
    columns = list(dict.fromkeys(name for name in names for name in _columns(name)))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _columns(name: str) -> tuple[str, ...]:
    return (f"{name}_low", f"{name}_high") if "interval" in name else (name,)


def _flat(record: dict[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in record.items():
        parts = value if isinstance(value, tuple) else (value,) * len(_columns(name))
        flat |= dict(zip(_columns(name), parts, strict=True))
    return flat


def _number(value: float | None, digits: int, std: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")
