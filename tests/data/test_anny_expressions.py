"""The default corpus of expressions, and its ground truth."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.corpora.draws import Draws, RegistrationNoise
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.corpora.folds import LABELS
from meshgan.data.corpora.performance import NUMBERS, STRENGTHS, UNIT_ACTIONS
from meshgan.data.corpora.recipes import EXPRESSIONS, RECIPES, UNITS
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError

PLAN = ExpressionPlan(subjects=8, posed=48, spontaneous=40, seed=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("expressions") / "set"
    make_expressions(path, PLAN)
    return FaceSet.open(path)


@pytest.fixture(scope="module")
def everything():
    """All takes of a plan of the usual size; no faces."""
    plan = ExpressionPlan()
    return plan, plan.takes(np.arange(len(plan)))


def test_the_default_plan_has_the_papers_numbers(everything):
    plan, takes = everything
    assert np.bincount(takes.kind).tolist() == [plan.neutrals, 6651, 7567]
    assert 2 * 180 <= plan.neutrals <= 4 * 180
    posed = np.bincount(takes.label[takes.kind == 1])
    assert posed.min() >= 1108
    assert set(takes.who) == set(range(180))


def test_rows_are_labelled(corpus):
    assert len(corpus) == PLAN.neutrals + 48 + 40
    told = {"subject", "session", "expression", "intensity", "kind", "row"}
    assert set(corpus.labels) == told | {f"{name}_mm" for name in LABELS} | {"moles", "asymmetry_mm"}
    kinds = corpus.labels["kind"]
    assert set(corpus.labels["expression"][kinds == "neutral"]) == {"neutral"}
    assert set(corpus.labels["expression"][kinds != "neutral"]) <= set(EXPRESSIONS)
    np.testing.assert_array_equal(corpus.labels["row"].astype(int), np.arange(len(corpus)))
    sittings = set(zip(corpus.subjects[kinds == "neutral"], corpus.labels["session"][kinds == "neutral"], strict=True))
    assert len(sittings) == PLAN.neutrals
    assert set(zip(corpus.subjects, corpus.labels["session"], strict=True)) == sittings


def test_posed_faces_are_at_their_apex_and_spontaneous_ones_of_every_intensity(everything):
    _, takes = everything
    posed, spontaneous = (takes.intensity[takes.kind == kind] for kind in (1, 2))
    assert posed.min() >= 0.65
    assert spontaneous.min() < 0.15
    assert spontaneous.max() > 0.95
    assert np.median(spontaneous) < 0.6
    assert (takes.actions[takes.kind == 0] == 0).all()


def test_actions_are_sparse_and_one_sided(everything):
    plan, takes = everything
    assert (takes.actions >= 0).all()
    assert np.mean(takes.actions[takes.kind == 2] > 0.02) < 0.4
    smiles = [plan.basis.action_names.index(f"mouthSmile{side}") for side in ("Left", "Right")]
    happy = takes.actions[(takes.label == EXPRESSIONS.index("happiness")) & (takes.kind == 1)][:, smiles]
    balance = happy.min(axis=1) / np.maximum(happy.max(axis=1), 1e-9)
    assert np.median(balance) > 0.85
    assert np.mean(balance < 0.7) > 0.02  # some people smile on one side


def test_people_have_their_own_style(everything):
    _, takes = everything
    chosen = (takes.kind == 1) & (takes.label == EXPRESSIONS.index("anger"))
    actions, who = takes.actions[chosen] / takes.intensity[chosen, None], takes.who[chosen]
    within = np.mean([actions[who == s].std(axis=0).mean() for s in range(180)])
    assert within < 0.8 * actions.std(axis=0).mean()


def test_the_six_expressions_are_told_apart_by_their_actions(everything):
    _, takes = everything
    chosen = np.flatnonzero(takes.kind == 1)
    known, new = chosen[takes.who[chosen] < 150], chosen[takes.who[chosen] >= 150]
    distance = np.linalg.norm(takes.actions[new, None] - takes.actions[known][None, ::7], axis=2)
    guess = takes.label[known][::7][distance.argmin(axis=1)]
    assert np.mean(guess == takes.label[new]) > 0.93


def test_labels_of_spontaneous_faces_are_weak(everything):
    plan, takes = everything
    names = list(plan.basis.action_names)
    smile = takes.actions[:, names.index("mouthSmileLeft")]
    happy = (takes.label == EXPRESSIONS.index("happiness")) & (takes.intensity > 0.4)
    assert np.mean(smile[happy & (takes.kind == 1)] > 0.1) > 0.85
    assert 0.4 < np.mean(smile[happy & (takes.kind == 2)] > 0.1) < 0.9


def test_a_row_is_made_again_from_the_card_alone(corpus):
    plan = ExpressionPlan.of(corpus)
    assert plan == PLAN
    rows = np.array([PLAN.neutrals + 3, PLAN.neutrals + 60, 2])
    again = plan.faces(rows, plan.takes(rows))
    np.testing.assert_allclose(again, corpus.vertices[rows], atol=1e-3)
    pure = plan.pure(rows)
    np.testing.assert_allclose(pure[2], plan.template.vertices, atol=1e-3)
    assert np.linalg.norm(pure[0] - plan.template.vertices, axis=1).max() > 3


def test_faces_are_those_of_every_other_processor(corpus):
    """Four vertices of two rows as they were first made, in mm: the corpus is frozen."""
    first = [
        [[0.081, 11.453, 26.822], [35.550, 45.392, 20.710], [36.137, 22.272, 12.613], [-20.926, 22.939, 12.425]],
        [[0.215, 9.633, 30.741], [35.022, 45.436, 20.309], [35.870, 20.729, 11.736], [-21.310, 22.545, 10.618]],
    ]
    rows = [PLAN.neutrals + 3, PLAN.neutrals + 60]
    np.testing.assert_allclose(corpus.vertices[rows][:, [0, 1000, 2500, 5000]], first, atol=1.5e-3)


def test_labels_tell_how_deep_folds_are_in_this_face():
    """At rest as deep as the subject's; deeper with the brows raised, and only there."""
    plan = ExpressionPlan()
    rows = np.arange(plan.neutrals, plan.neutrals + 24)
    takes = plan.takes(rows)
    rest, raised = (replace(takes, actions=np.zeros_like(takes.actions)) for _ in range(2))
    raised.actions[:, [name.startswith("brow") and "Up" in name for name in plan.basis.action_names]] = 1.0
    told = [plan._faces(rows, done)[1].labels() for done in (rest, raised)]
    own = plan.traits.folds.of(takes.who).labels()
    for name, depth in own.items():
        np.testing.assert_allclose(told[0][name], depth, atol=1e-3)
    assert (told[1]["forehead_lines_mm"] > own["forehead_lines_mm"] + 0.05).mean() > 0.7
    np.testing.assert_allclose(told[1]["marionette_lines_mm"], own["marionette_lines_mm"], atol=0.1)


def test_the_same_plan_gives_the_same_bytes(corpus, tmp_path):
    make_expressions(tmp_path / "again", PLAN)
    for name in ("vertices.npy", "labels.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (corpus.path / name).read_bytes()


def test_noise_does_not_change_who_does_what(corpus):
    noisy = ExpressionPlan(subjects=8, posed=48, spontaneous=40, noise_mm=0.5)
    rows = np.arange(len(PLAN))[::9]
    np.testing.assert_array_equal(noisy.takes(rows).actions, PLAN.takes(rows).actions)
    difference = noisy.faces(rows, noisy.takes(rows)) - corpus.vertices[rows]
    assert np.sqrt((difference**2).sum(axis=2).mean()) == pytest.approx(0.4, rel=0.1)


def test_noise_has_its_size_and_is_smooth():
    template = PLAN.template
    noise = RegistrationNoise(template.vertices, 0).draw(Draws(0, "n", np.arange(200)), 0.3)
    assert np.sqrt((noise**2).sum(axis=2).mean()) == pytest.approx(0.3, rel=0.05)
    i, j = template.edges.T
    between = ((noise[:, i] - noise[:, j]) ** 2).sum(axis=2).mean()
    assert between < 0.75 * 2 * 0.3**2  # of independent neighbours it would be 2 · 0.3²
    white = RegistrationNoise(template.vertices, 0)
    assert 0 < white.white < 0.5


def test_sessions_differ_a_little():
    who = np.array([0, 0])
    one, two = PLAN.neutral(who, np.array([0, 1])).vertices
    difference = np.linalg.norm(one - two - (one - two).mean(axis=0), axis=1).mean()
    assert 0.01 < difference < 0.6


def test_parts_have_no_subject_in_common():
    other = ExpressionPlan(subjects=8, posed=48, spontaneous=0, part="classifier")
    rows = np.arange(len(other))
    labels = other.labels(rows, other.takes(rows))
    assert all(str(row["subject"]).startswith("C") for row in labels)
    faces = [plan.neutral(np.arange(8), np.zeros(8, int)).vertices for plan in (PLAN, other)]
    distance = np.linalg.norm(faces[0][:, None] - faces[1][None], axis=3).mean(axis=2)
    assert distance.min() > 1


def test_recipes_use_known_units_and_actions():
    assert set(RECIPES) == set(EXPRESSIONS)
    assert {unit for variants in RECIPES.values() for units in variants for unit in units} <= set(UNITS)
    assert STRENGTHS.shape == (6, 3, len(NUMBERS))
    assert (UNIT_ACTIONS.max(axis=1) > 0).all()
    names = set(PLAN.basis.action_names)
    for unit in UNITS.values():
        for name in unit:
            assert name in names or f"{name}Left" in names or name == "jawSide"


@pytest.mark.parametrize(
    ("change", "words"),
    [({"subjects": 0}, "at least one subject"), ({"noise_mm": -1.0}, "below zero"), ({"part": "x"}, "no part")],
)
def test_impossible_plans_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        ExpressionPlan(**change)


def test_other_sets_have_no_plan(tmp_path):
    from meshgan.data.corpora.anny import make_identities

    make_identities(tmp_path / "ids", 3)
    with pytest.raises(UsageError, match="not made by"):
        ExpressionPlan.of(FaceSet.open(tmp_path / "ids"))


def test_the_command_line(tmp_path):
    options = ["--subjects", "2", "--posed", "6", "--spontaneous", "4", "--noise-mm", "0.2"]
    made = CliRunner().invoke(app, ["data", "anny-expressions", str(tmp_path / "set"), *options])
    assert made.exit_code == 0, made.output
    faces = FaceSet.open(tmp_path / "set")
    assert faces.card.parameters["noise_mm"] == 0.2
    assert (faces.labels["kind"] == "posed").sum() == 6
