"""What MeshGAN is asked to win: ratios of rows of a table, each with the value wanted."""

import tomllib
from dataclasses import dataclass

from meshgan.report.results import Result, Results

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
    normal, fitted = results.find("coma", "standard-normal"), results.find("coma", "fitted-normal")
    real = results.find("real", "none")
    if mine is None or normal is None or fitted is None or real is None:
        return []
    paper, general = PAPER_RATIOS.get(results.table, PAPER_RATIOS["table1"])
    asked = [
        (f"FID, MeshGAN : CoMA from N(0, I); the paper has {paper:g}", "fid", normal, paper, False),
        ("FID, MeshGAN : CoMA from N(μ, Σ)", "fid", fitted, 1.0, False),
        ("Shape Fréchet, MeshGAN : CoMA from N(0, I)", "shape_frechet_mm2", normal, paper, False),
        ("Shape Fréchet, MeshGAN : CoMA from N(μ, Σ)", "shape_frechet_mm2", fitted, 1.0, False),
        ("Diversity, MeshGAN : real faces", "diversity_mm", real, 0.9, True),
        ("Coverage, MeshGAN : real faces", "coverage", real, 0.9, True),
        ("Specificity, MeshGAN : CoMA from N(μ, Σ)", "specificity_mm", fitted, 1.0, False),
        ("Specificity, MeshGAN : real faces", "specificity_mm", real, 1.05, False),
        ("Generalisation, MeshGAN : CoMA", "generalisation_mm", fitted, general, False),
    ]
    found = [
        (text, getattr(mine, name), getattr(other, name), limit, least) for text, name, other, limit, least in asked
    ]
    return [Contest(text, a / b, limit, least) for text, a, b, limit, least in found if a is not None and b]


def _own_sampler(row: Result) -> str:
    return str(tomllib.loads(row.recipe or "").get("sampling", {}).get("kind"))
