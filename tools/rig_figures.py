"""How far linear targets are from the motion that they stand for: the table of docs/heads.md.

    python tools/rig_figures.py [--people 8] [--combinations 200]
    python tools/rig_figures.py --picture docs/images/heads-arkit.png

For each ARKit shape, on random people of the corpus: how far it moves vertices at strength 1, and how far weight times
target is from the non-linear motion at half its strength; over the vertices that move by more than 0.1 mm. Then the
same for random faces of the corpus of expressions (several shapes at once), and how far lips that `jawOpen` parts
are apart when `mouthClose` has closed them. Or, as a picture, the shapes at strength 1 on one face that the shipped
model draws; `mouthClose` with the open jaw that it closes.
"""

import argparse
from pathlib import Path

import numpy as np

from meshgan.arrays import Floats
from meshgan.data.corpora.basis import FaceBasis
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.expressions import ExpressionPlan
from meshgan.data.corpora.population import draw_people
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points
from meshgan.model.load import load_model
from meshgan.model.rig import ARKIT, rig, rigger
from meshgan.view.figures import contact_sheet

MOVED_MM = 0.1
MEETING_MM = 1.0


def errors(shown: Floats, truth: Floats, rest: Floats) -> tuple[float, float, float]:
    """Mean displacement, mean error, and largest error, in mm, of (V, 3) over the vertices that move."""
    moved = np.linalg.norm(truth - rest, axis=1)
    wrong = np.linalg.norm(shown - truth, axis=1)
    there = moved > MOVED_MM
    if not there.any():
        return 0.0, 0.0, float(wrong.max())
    return float(moved[there].mean()), float(wrong[there].mean()), float(wrong.max())


def combinations(count: int) -> Floats:
    """Weights (count, 52) of what random people of the corpus do, neutral faces aside."""
    plan = ExpressionPlan(subjects=60, posed=count // 2, spontaneous=count - count // 2, seed=11)
    rows = plan.neutrals + np.arange(count)
    actions = plan.takes(rows).actions
    names = plan.basis.action_names
    weights = np.clip(actions[:, [names.index(name) for name in ARKIT]], 0, 1)
    opened, shut = (weights[:, ARKIT.index(name)] for name in ("jawOpen", "mouthClose"))
    weights[:, ARKIT.index("mouthClose")] = opened * shut  # the corpus means a share of what is open
    return weights


def picture(path: Path) -> None:
    """Draw each shape on one face, with its name."""
    model = load_model("identity")
    made = rig(model.sample(1, seed=4)[0], "arkit")
    weights = [{name: 1.0} | ({"jawOpen": 1.0} if name == "mouthClose" else {}) for name in ARKIT]
    captions = [" + ".join(reversed(row)) for row in weights]
    contact_sheet(
        np.stack([made.posed(row) for row in weights]), model.template.triangles, path, captions=captions, size=208
    )


def main() -> None:
    """Print the tables, or draw the picture."""
    parser = argparse.ArgumentParser(description="Errors of linear ARKit targets against the non-linear motion.")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--combinations", type=int, default=200)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if asked.picture:
        picture(asked.picture)
        return
    basis = FaceBasis.read()
    drawn = draw_people(basis, Draws(7, "rig-figures", np.arange(asked.people)))
    faces = basis.neutral(drawn.phenotype, drawn.features).vertices.astype(np.float64)
    rigs = [rig(face, "arkit") for face in faces]

    table, half = [], 0.5 * np.eye(len(ARKIT))
    half[ARKIT.index("mouthClose"), ARKIT.index("jawOpen")] = 0.5
    for face, made in zip(faces, rigs, strict=True):
        truth = rigger().performed(face, half)
        shown = [made.posed(dict(zip(ARKIT, row, strict=True))) for row in half]
        table.append([errors(*pair, face) for pair in zip(shown, truth, strict=True)])
    print("| shape | moves, mm | error at 0.5, mm | largest | ratio |\n|---|---|---|---|---|")
    for name, rows in zip(ARKIT, np.array(table).transpose(1, 0, 2), strict=True):
        moved, wrong, largest = rows[:, 0].mean(), rows[:, 1].mean(), rows[:, 2].max()
        share = f"{wrong / moved:.0%}" if moved else "–"
        print(f"| `{name}` | {2 * moved:.2f} | {wrong:.3f} | {largest:.2f} | {share} |")

    weights = combinations(asked.combinations)
    found = []
    for number, row in enumerate(weights):
        face, made = faces[number % len(faces)], rigs[number % len(faces)]
        truth = rigger().performed(face, row[None])[0]
        found.append(errors(made.posed(dict(zip(ARKIT, row, strict=True))), truth, face))
    moved, wrong, largest = np.array(found).T
    print(
        f"\n{len(weights)} combinations: vertices move by {moved.mean():.2f} mm, the sum of targets is off by", end=" "
    )
    print(
        f"{wrong.mean():.2f} mm ({wrong.mean() / moved.mean():.0%}); by face, median {np.median(wrong):.2f},", end=" "
    )
    print(f"95 % {np.quantile(wrong, 0.95):.2f} mm; largest of all vertices {largest.max():.1f} mm")

    lips, apart = rigger().motion.lips, []
    upper = np.unique(lips.surfaces[0])
    for made in rigs:
        gaps = [
            closest_points(vertices[upper], Mesh(vertices, lips.surfaces[1])).distance
            for vertices in (made.mesh.vertices, made.posed({"jawOpen": 1.0, "mouthClose": 1.0}))
        ]
        meeting = gaps[0] < gaps[0].min() + MEETING_MM
        apart.append(np.abs(gaps[1] - gaps[0])[meeting].max())
    print(f"Lips closed over an open jaw lie as they do at rest to {max(apart):.2f} mm.")


if __name__ == "__main__":
    main()
