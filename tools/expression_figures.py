"""What the corpus of expressions holds for a model to learn: the figures of docs/expressions.md.

    python tools/expression_figures.py [--subjects 180] [--posed 6651] [--spontaneous 7567] [--epochs 400] [--plain]
        [--set FOLDER] [--only pure | identity]

`--set` is such a corpus that has been made already; `--only` measures a part: decoupled expressions, or faces with
identity.

Prints as JSON: how far PCA of 8 to 128 components is from the decoupled expressions of subjects that it has not seen
(mean distance in mm); how far decoupled faces are from the truth, against how far vertices move; and on faces with
identity and expression, of many subjects, PCA with 8 components against a small auto-encoder (a perceptron with a code
of 8, on 128 principal coordinates).
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from meshgan.arrays import Booleans, Floats, Singles
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.expression import SMOOTHING_MM, decoupled, learn_smoother, pairs
from meshgan.data.faceset import FaceSet
from meshgan.data.principal import principal_components

COMPONENTS = (8, 16, 32, 64, 128)
CODE, WIDTH, RATE, BATCH = 8, 512, 1e-3, 256
PASSES = 4  # over the faces, for their components
MANY = 20  # faces for each subject where identity counts: as many subjects as the faces allow


def principal(faces: Singles, unseen: Booleans, count: int) -> tuple[Singles, Singles]:
    """Mean (V3,) and orthonormal axes (V3, count) of the faces that are not `unseen`."""
    found = principal_components(faces, np.flatnonzero(~unseen), count, passes=PASSES)
    return found.mean.ravel(), found.axes.reshape(len(found.axes), -1).T


def distance(difference: Floats | Singles) -> float:
    """Mean length in mm of differences (N, V3)."""
    return float(np.linalg.norm(difference.reshape(len(difference), -1, 3), axis=2).mean())


def pca_errors(faces: Singles, unseen: Booleans) -> dict[str, float]:
    """What PCA of each size leaves of unseen subjects."""
    mean, axes = principal(faces, unseen, max(COMPONENTS))
    rest = faces[unseen].reshape(int(unseen.sum()), -1) - mean
    codes = rest @ axes
    return {str(k): distance(rest - codes[:, :k] @ axes[:, :k].T) for k in COMPONENTS}


def perceptron_error(faces: Singles, unseen: Booleans, epochs: int) -> dict[str, float]:
    """PCA with `CODE` components and an auto-encoder with a code as large, on unseen subjects."""
    torch.manual_seed(0)
    mean, axes = principal(faces, unseen, 128)
    flat = faces.reshape(len(faces), -1) - mean
    codes = torch.from_numpy(flat @ axes)
    size = codes[torch.from_numpy(~unseen)].std(dim=0).max()
    known, new = codes[torch.from_numpy(~unseen)] / size, codes[torch.from_numpy(unseen)] / size

    def half(first: int, last: int) -> list[torch.nn.Module]:
        layers = [torch.nn.Linear(first, WIDTH), torch.nn.ELU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ELU()]
        return [*layers, torch.nn.Linear(WIDTH, last)]

    network = torch.nn.Sequential(*half(128, CODE), *half(CODE, 128))
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    steps = epochs * -(-len(known) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = known[torch.randint(len(known), (BATCH,))]
        optimiser.zero_grad()
        loss = (network(batch) - batch).square().sum(dim=1).add(1e-8).sqrt().mean()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        made = (network(new) * size).numpy()
    rest = flat[unseen]
    linear = distance(rest - (rest @ axes[:, :CODE]) @ axes[:, :CODE].T)
    nonlinear = distance(rest - made @ axes.T)
    return {"pca": linear, "perceptron": nonlinear, "ratio": linear / nonlinear}


def corpus(folder: Path, plan: ExpressionPlan) -> FaceSet:
    make_expressions(folder, plan)
    return FaceSet.open(folder)


def pure_figures(faces: FaceSet) -> dict[str, object]:
    """What components leave of the decoupled expressions of a corpus, and how far these are from the truth."""
    plan, found = ExpressionPlan.of(faces), pairs(faces)
    smoother = learn_smoother(faces, found, SMOOTHING_MM)
    pure = np.concatenate([block.astype(np.float32) for _, block in decoupled(faces, found, smoother)])
    subjects = faces.subjects[found.expressions]
    unseen = np.isin(subjects, np.unique(subjects)[::8])
    some = np.arange(0, len(pure), max(1, len(pure) // 512))
    truth = plan.pure(found.expressions[some]) - faces.template.vertices
    moved, error = distance(truth), distance(pure[some] - faces.template.vertices - truth)
    return {
        "faces": len(pure),
        "pca_on_unseen_subjects_mm": pca_errors(pure, unseen),
        "moved_mm": moved,
        "decoupling_error_mm": error,
        "decoupling_error_share": error / moved,
    }


def main() -> None:
    """Make the corpora and measure."""
    parser = argparse.ArgumentParser(description="Measure the corpus of expressions.")
    for name, value in (("subjects", 180), ("posed", 6651), ("spontaneous", 7567), ("epochs", 400)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--set", type=Path)
    parser.add_argument("--only", choices=("pure", "identity"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"posed": options.posed, "spontaneous": options.spontaneous, "plain": options.plain}
    told: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        if options.only != "identity":
            made = options.set or Path(name) / "faces"
            plan = ExpressionPlan(subjects=options.subjects, **sizes)
            told |= pure_figures(FaceSet.open(made) if options.set else corpus(made, plan))
        if options.only != "pure":
            many = max(8, (options.posed + options.spontaneous) // MANY)
            people = corpus(Path(name) / "people", ExpressionPlan(subjects=many, **sizes))
            unseen = np.isin(people.subjects, np.unique(people.subjects)[::8])
            told["code_of_8_with_identity"] = perceptron_error(np.asarray(people.vertices), unseen, options.epochs)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
