"""How much of everything a reproduction makes: seconds for a test, hours on a desk, or as much as the paper."""

from dataclasses import dataclass

from meshgan.data.corpora.expressions import ExpressionPlan
from meshgan.evaluation.yardstick import Fid
from meshgan.model.latent import STEPS

EXPRESSIONS = ExpressionPlan()  # as many as the paper
RECOGNISED = ExpressionPlan(part="classifier", posed=6000, spontaneous=0)


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


SMOKE = (
    "schedule.epochs=1",
    "schedule.log_every=2",
    "schedule.sample_every=80",
    "sampling.faces=16",
    "sampling.steps=3",
)
SCALES = {
    "smoke": Scale(
        identities=200,
        samples=60,
        fid="off",
        steps=5,
        changes=SMOKE,
        ablation=SMOKE,
        seeds=2,
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
