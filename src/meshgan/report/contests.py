"""What MeshGAN is asked to win: ratios of rows of a table, each with the value wanted."""

import tomllib
from dataclasses import dataclass

from meshgan.report.results import NAMES, Result, Results

COMAS = ("coma", "coma-tuned")  # the paper's, and the one that has what helps it of MeshGAN's recipe

# The paper's ratio of FIDs, MeshGAN's to CoMA's, and the largest ratio of generalisation errors that is wanted.
PAPER_RATIOS = {"table1": (0.76, 1.05), "table2": (0.61, 1.0)}


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
