"""What the corpus of expressions holds for a model to learn: the figures of docs/expressions.md.

    python tools/expression_figures.py [--subjects 180] [--posed 6651] [--spontaneous 7567] [--plain] [--set FOLDER]
        [--people FOLDER] [--steps 6000]

`--set` is such a corpus that has been made already.

Prints as JSON: how far PCA of 8 to 128 components is from the decoupled expressions of subjects that it has not seen
(mean distance in mm), and how far decoupled faces are from the truth, against how far vertices move. With `--people`, a
corpus of identities, something else: on faces with identity and expression, PCA with 8 components against small
auto-encoders (perceptrons with a code of 8, on 128 principal coordinates).
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from meshgan.arrays import Booleans, Floats, Integers, Singles
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.expression import SMOOTHING_MM, decoupled, learn_smoother, pairs
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.data.principal import principal_components
from meshgan.nn.networks import SmallCode, rebuilding

COMPONENTS = (8, 16, 32, 64, 128)
COORDINATES, CODE, WIDTH, RATE, BATCH = 128, 8, 256, 1e-3, 256
PASSES = 4  # over the faces, for their components
MOST = 3000  # faces of either corpus that its components are learned from
CHECKED = 200  # steps after which a network is looked at


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


def small_codes(moods: FaceSet, people: FaceSet, steps: int) -> dict[str, object]:
    """PCA with `CODE` components against auto-encoders with a code as large, on faces with identity and expression.

    A third of the subjects of `moods` is for the test, and a ninth says when training has to stop. The neutral faces
    of `people` are seen as well: as faces, and `composed`, under the motions of those that are trained on.
    """
    subjects = np.unique(moods.subjects)
    test, halt = subjects[::3], subjects[1::9]
    known = np.flatnonzero(~np.isin(moods.subjects, np.concatenate([test, halt])))
    sample = [moods.vertices[known[:: -(-len(known) // MOST)]], people.vertices[:: -(-len(people) // MOST)]]
    found = principal_components(np.concatenate(sample), np.arange(sum(map(len, sample))), COORDINATES, passes=PASSES)
    axes = found.axes.reshape(COORDINATES, -1).T

    def coordinates(faces: FaceSet, rows: Integers) -> Singles:
        blocks = [faces.vertices[part] for part in np.array_split(rows, -(-len(rows) // BATCH))]
        return np.concatenate([(block - found.mean).reshape(len(block), -1) @ axes for block in blocks])

    seen = coordinates(moods, known)
    middle = seen.mean(axis=0)
    turn = np.linalg.svd(seen - middle, full_matrices=False)[2].T  # to the principal axes of `moods` alone
    seen, others = (seen - middle) @ turn, (coordinates(people, np.arange(len(people))) - middle) @ turn
    at_rest = moods.labels["expression"][known] == "neutral"
    motions = seen.copy()
    for subject in np.unique(moods.subjects[known]):
        own = moods.subjects[known] == subject
        motions[own] -= seen[own & at_rest].mean(axis=0)
    size = np.float32(seen.std(axis=0).max())
    told = some_rows(np.flatnonzero(np.isin(moods.subjects, halt)), MOST // 2)
    asked = some_rows(np.flatnonzero(np.isin(moods.subjects, test)), MOST // 2)
    stop = torch.from_numpy((coordinates(moods, told) - middle) @ turn / size)
    rest = (moods.vertices[asked] - found.mean).reshape(len(asked), -1)
    both = rest @ axes
    new = (both - middle) @ turn
    draw = np.random.default_rng(0)

    def faces(composed: bool) -> torch.Tensor:
        """A batch: half of it faces of `moods`, half people, at rest or moving."""
        half = BATCH // 2
        persons = others[draw.integers(len(others), size=half)]
        moving = persons + motions[draw.integers(len(motions), size=half)] if composed else persons
        return torch.from_numpy(np.concatenate([seen[draw.integers(len(seen), size=half)], moving]) / size)

    def trained(from_components: bool, composed: bool, decay: float) -> Singles:
        torch.manual_seed(0)
        network = SmallCode(COORDINATES, CODE, (WIDTH, WIDTH), from_components)
        optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        best, kept = np.inf, {}
        for step in range(steps + 1):
            if step % CHECKED == 0:
                with torch.no_grad():
                    error = float(rebuilding(network, stop))
                if error < best:
                    best, kept = error, {name: value.clone() for name, value in network.state_dict().items()}
            batch = faces(composed)
            optimiser.zero_grad()
            rebuilding(network, batch).backward()
            optimiser.step()
            schedule.step()
        network.load_state_dict(kept)
        with torch.no_grad():
            return (network(torch.from_numpy(new / size)) * size).numpy()

    first = np.arange(COORDINATES) < CODE
    ways = {
        "pca, of the corpus of expressions": new * first,
        "pca, of both corpora": (both * first - middle) @ turn,
        "perceptron": trained(False, False, 0.0),
        "from pca": trained(True, False, 0.01),
        "from pca, composed": trained(True, True, 0.01),
    }
    errors = {name: distance(rest - (made @ turn.T + middle) @ axes.T) for name, made in ways.items()}
    linear = min(error for name, error in errors.items() if name.startswith("pca"))
    ratios = {name: linear / error for name, error in errors.items()}
    return {"test_subjects": len(test), "people": len(people), "mm": errors, "ratio": ratios}


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
    for name, value in (("subjects", 180), ("posed", 6651), ("spontaneous", 7567), ("steps", 6000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--set", type=Path)
    parser.add_argument("--people", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        sizes = {"posed": options.posed, "spontaneous": options.spontaneous, "plain": options.plain}
        plan = ExpressionPlan(subjects=options.subjects, **sizes)
        faces = FaceSet.open(options.set) if options.set else corpus(Path(name) / "faces", plan)
        people = options.people and FaceSet.open(options.people)
        told = small_codes(faces, people, options.steps) if people else pure_figures(faces)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
