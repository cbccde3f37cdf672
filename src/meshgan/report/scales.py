"""How much of everything a reproduction makes, and the FaceSets it is made from, when they are first asked for.

A scale is seconds for a test, hours on a desk, or as much as the paper. The FaceSets:

OUT/corpus/                   identities
OUT/expressions/raw/          neutral, posed and spontaneous faces of people of the expression corpus
OUT/expressions/corpus/       their pure expressions: decoupled, on the template
OUT/expressions/classifier/   pure posed expressions of other people, for the classifier
"""

from dataclasses import dataclass
from pathlib import Path

from meshgan.data.corpora.anny import make_identities
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.expression import decouple
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.evaluation.yardstick import Fid
from meshgan.model.latent import STEPS

EXPRESSIONS = ExpressionPlan()  # as many as the paper
RECOGNISED = ExpressionPlan(part="classifier", posed=6000, spontaneous=0)
SMOKE = (
    "schedule.epochs=1",
    "schedule.log_every=2",
    "schedule.sample_every=80",
    "sampling.faces=16",
    "sampling.steps=3",
)


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    identities: int
    samples: int
    fid: Fid
    steps: int  # of Eq. 2 for each test face
    changes: tuple[str, ...]  # to every recipe
    ablation: tuple[str, ...]  # the same, where five objectives are compared
    seeds: int = 3  # of networks that train in minutes
    expressions: ExpressionPlan = EXPRESSIONS
    recognised: ExpressionPlan = RECOGNISED  # the classifier's faces
    classifier: tuple[str, ...] = ()  # changes to its recipe


SCALES = {
    "smoke": Scale(
        identities=100,
        samples=40,
        fid="off",
        steps=5,
        changes=SMOKE,
        ablation=SMOKE,
        seeds=1,
        expressions=ExpressionPlan(subjects=20, posed=120, spontaneous=80),
        recognised=ExpressionPlan(part="classifier", subjects=20, posed=240, spontaneous=0),
        classifier=("schedule.epochs=8", "optimiser.lr=1e-3"),
    ),
    "desk": Scale(
        identities=12_000,
        samples=10_000,
        fid="inception",
        steps=STEPS,
        changes=("schedule.epochs=20",),
        ablation=("schedule.epochs=5",),
    ),
    "paper": Scale(
        identities=12_000,
        samples=10_000,
        fid="inception",
        steps=STEPS,
        changes=("schedule.epochs=300",),
        ablation=("schedule.epochs=300",),
    ),
}


def identity_corpus(out: Path, size: Scale) -> FaceSet:
    """The default corpus of identities."""
    path = out / "corpus"
    if not (path / "card.json").is_file():
        make_identities(path, size.identities)
    faces = FaceSet.open(path)
    if len(faces) != size.identities:
        raise UsageError(f"{path} holds {len(faces)} faces, this scale has {size.identities}; choose another `out`.")
    return faces


def expression_corpus(out: Path, size: Scale) -> FaceSet:
    """Pure expressions, posed and spontaneous."""
    return _pure(out / "expressions" / "raw", out / "expressions" / "corpus", size.expressions)


def classifier_corpus(out: Path, size: Scale) -> FaceSet:
    """Pure posed expressions of people who are not in the expression corpus."""
    return _pure(out / "expressions" / "classifier-raw", out / "expressions" / "classifier", size.recognised)


def _pure(raw: Path, path: Path, plan: ExpressionPlan) -> FaceSet:
    if not (raw / "card.json").is_file():
        make_expressions(raw, plan)
    faces = FaceSet.open(raw)
    if len(faces) != len(plan):
        raise UsageError(f"{raw} holds {len(faces)} faces, this scale has {len(plan)}; choose another `out`.")
    if not (path / "card.json").is_file():
        decouple(faces, path)
    return FaceSet.open(path)
