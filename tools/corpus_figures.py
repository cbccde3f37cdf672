"""The pictures and figures of docs/corpus.md.

    python tools/corpus_figures.py [--out docs/images] [--faces 300]

Draws the first people of the default corpus, the mean faces of its groups and the six expressions; measures how far
decoupled faces are from the pure deformations that the corpus knows, before and after each step, and draws where.
Prints the figures as JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

from meshgan.data.corpora.anny import make_identities
from meshgan.data.corpora.basis import ANCESTRIES
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.corpora.population import AGE_GROUPS, BUILDS
from meshgan.data.corpora.recipes import EXPRESSIONS
from meshgan.data.expression import SMOOTHING_MM, Smoother, Stretch, deformations, pairs
from meshgan.data.faceset import FaceSet
from meshgan.view.figures import VIEWS, contact_sheet, heat_maps, page, tiles

matplotlib.use("Agg")
PEOPLE = 3000
LOOKED_AT = ("child", "young", "middle", "elderly")  # age groups of the large sheet
LENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # mm
NOISES = (0.05, 0.1, 0.2)  # mm
SUBJECTS = (10, 40, 41, 44)  # on the sheet of expressions


def identity_sheets(out: Path, folder: Path) -> dict[str, object]:
    """The first people, the mean faces of groups, and how the faces vary."""
    make_identities(folder / "identities", PEOPLE)
    faces = FaceSet.open(folder / "identities")
    triangles, vertices = faces.template.triangles, faces.vertices.astype(np.float64)
    contact_sheet(faces.vertices[:24], triangles, out / "corpus-identities.png")
    grown = np.isin(faces.labels["age_group"], ["young", "middle"])
    groups = [("ancestry", name, grown) for name in ANCESTRIES] + [("sex", name, grown) for name in ("female", "male")]
    groups += [("age_group", name, True) for name in AGE_GROUPS] + [("build", name, grown) for name in BUILDS]
    means = [vertices[(faces.labels[label] == name) & among].mean(axis=0) for label, name, among in groups]
    drawn = tiles(np.array(means), triangles, 170)
    names = [name for _, name, _ in groups]
    page(out / "corpus-groups.png", [drawn[:5], drawn[5:10], drawn[10:]], captions=[names[:5], names[5:10], names[10:]])
    shown = [np.flatnonzero(faces.labels["age_group"] == name)[:2] for name in LOOKED_AT]
    seen = np.concatenate(shown)
    told = [f"{faces.labels['sex'][i]}, {faces.labels['age'][i]}" for i in seen]
    large = [tiles(faces.vertices[seen], triangles, 512, view) for view in VIEWS]
    page(out / "corpus-detail.png", large, column_titles=told)
    centred = (vertices - vertices.mean(axis=0)).reshape(len(vertices), -1)
    variances = np.linalg.eigvalsh(centred @ centred.T)[::-1]
    shares = np.cumsum(variances) / variances.sum()
    distance = np.linalg.norm(centred.reshape(len(vertices), -1, 3), axis=2).mean(axis=1)
    return {
        "faces": len(faces),
        "mean_distance_to_mean_mm": float(distance.mean()),
        "explained_by_pca": {str(count): float(shares[count - 1]) for count in (1, 8, 32, 64)},
    }


def expression_sheet(out: Path) -> None:
    """The template and a few people, each with the six posed expressions."""
    plan = ExpressionPlan()
    people = [plan.neutrals + len(EXPRESSIONS) * who + np.arange(len(EXPRESSIONS)) for who in SUBJECTS]
    rows = np.concatenate(people)
    faces = plan.faces(rows, plan.takes(rows)).reshape(len(SUBJECTS), len(EXPRESSIONS), -1, 3)
    table = np.concatenate([plan.pure(people[0])[None], faces])
    drawn = [tiles(row, plan.template.triangles, 150) for row in table]
    page(out / "corpus-expressions.png", drawn, ["pure", *[f"E{who:04d}" for who in SUBJECTS]], EXPRESSIONS)


def measure(noise_mm: float, count: int, folder: Path) -> tuple[dict[str, object], dict[str, np.ndarray], FaceSet]:
    """Mean distances in mm to the truth after each step, and mean errors (V,) of each vertex."""
    plan = ExpressionPlan(30, count // 2, count - count // 2, noise_mm=noise_mm)
    make_expressions(folder / f"{noise_mm}", plan)
    faces = FaceSet.open(folder / f"{noise_mm}")
    found = pairs(faces)
    truth = plan.pure(found.expressions) - faces.template.vertices
    expressions, neutrals = faces.vertices[found.expressions], faces.vertices[found.neutrals]
    placed = deformations(expressions, neutrals, faces.template)
    stretch = Stretch(faces.template)
    stretch.add(placed)

    def error(displacements: np.ndarray) -> np.ndarray:
        return np.linalg.norm(displacements - truth, axis=2).mean(axis=0)

    learned = {length: error(Smoother(faces.template, length, stretch.conduction)(placed)) for length in LENGTHS}
    plain = {length: error(Smoother(faces.template, length)(placed)) for length in LENGTHS}
    maps = {"difference": error(expressions - neutrals), "placed": error(placed), "smoothed": learned[SMOOTHING_MM]}
    table = {
        "noise_mm": noise_mm,
        "faces": len(truth),
        "moved": float(np.linalg.norm(truth, axis=2).mean()),
        **{name: float(errors.mean()) for name, errors in maps.items()},
        "by_length": {str(length): float(errors.mean()) for length, errors in learned.items()},
        "by_length_uniform": {str(length): float(errors.mean()) for length, errors in plain.items()},
    }
    return table, maps, faces


def main() -> None:
    """Draw and measure."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/corpus.md.")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--faces", type=int, default=300)
    options = parser.parse_args()
    expression_sheet(options.out)
    with tempfile.TemporaryDirectory() as name:
        identities = identity_sheets(options.out, Path(name))
        results = {noise: measure(noise, options.faces, Path(name)) for noise in NOISES}
        _, maps, faces = results[0.1]
        captions = [f"{step}: {errors.mean():.3f} mm" for step, errors in maps.items()]
        shown = np.stack([faces.template.vertices] * len(maps))
        heat_maps(
            shown, np.stack(list(maps.values())), faces.template.triangles, options.out / "decoupling.png",
            limit_mm=0.6, captions=captions,
        )  # fmt: skip
    print(json.dumps({"identities": identities, "decoupling": [table for table, _, _ in results.values()]}, indent=2))


if __name__ == "__main__":
    main()
