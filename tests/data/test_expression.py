"""Decoupling: from faces with expressions to pure deformations of the template."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.expression import Smoother, Stretch, decouple, deformations, learn_smoother, pairs
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import MeshganWarning, UsageError
from meshgan.geometry.laplacian import mass
from meshgan.geometry.mesh import Mesh

PLAN = ExpressionPlan(subjects=10, posed=60, spontaneous=60, seed=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("expressions") / "set"
    make_expressions(path, PLAN)
    return FaceSet.open(path)


@pytest.fixture(scope="module")
def truth(corpus):
    rows = pairs(corpus).expressions
    return PLAN.pure(rows) - corpus.template.vertices


@pytest.fixture(scope="module")
def moved(corpus):
    found = pairs(corpus)
    return deformations(corpus.vertices[found.expressions], corpus.vertices[found.neutrals], corpus.template)


def error(displacements, truth):
    """Mean distance in mm of the deformed template's vertices from where they ought to be."""
    return float(np.linalg.norm(displacements - truth, axis=2).mean())


def labelled_set(path, rows, faces=None):
    template = Mesh([[0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 2]], [[0, 1, 2], [2, 1, 3]])
    card = Card(name="x", source="x", licence="x", synthetic=True)
    with create_faceset(path, template, len(rows), card) as writer:
        writer.append(np.stack([template.vertices] * len(rows)) if faces is None else faces, rows)
    return FaceSet.open(path)


def test_the_error_falls_with_every_step(corpus, moved, truth):
    found = pairs(corpus)
    plain = error(corpus.vertices[found.expressions] - corpus.vertices[found.neutrals], truth)
    placed = error(moved, truth)
    smoother = learn_smoother(corpus, found, 1.5)
    smooth = error(smoother(moved), truth)
    assert placed < 0.75 * plain
    assert smooth < 0.96 * placed
    assert smooth > 0.3 * placed  # noise is smooth itself: who removes more has looked at the truth


def test_learned_conduction_beats_the_same_everywhere(corpus, moved, truth):
    same = min(error(Smoother(corpus.template, length)(moved), truth) for length in (0.5, 1.0, 1.5))
    assert error(learn_smoother(corpus, pairs(corpus), 1.5)(moved), truth) < same


def test_the_set_is_written(corpus, truth, tmp_path):
    count = decouple(corpus, tmp_path / "pure")
    pure = FaceSet.open(tmp_path / "pure")
    assert count == len(pure) == 120
    assert "neutral" not in set(pure.labels["expression"])
    assert set(pure.labels) == set(corpus.labels)
    assert pure.card.parameters["decoupled_from"] == corpus.card.parameters
    rows = pure.labels["row"].astype(int)
    assert error(pure.vertices - corpus.template.vertices, PLAN.pure(rows) - corpus.template.vertices) < 0.25
    between = np.linalg.norm(pure.vertices - corpus.template.vertices, axis=2).mean()
    assert between < np.linalg.norm(corpus.vertices - corpus.template.vertices, axis=2).mean() / 2  # identity is gone


def test_heads_may_be_turned(corpus):
    found = pairs(corpus)
    expressions = corpus.vertices[found.expressions[:8]].astype(float)
    neutrals = corpus.vertices[found.neutrals[:8]].astype(float)
    before = deformations(expressions, neutrals, corpus.template)
    turned = expressions @ Rotation.from_euler("yx", [0.8, 0.5], degrees=True).as_matrix().T + [0.4, -0.3, 0.2]
    after = deformations(turned, neutrals, corpus.template)
    assert np.linalg.norm(after - before, axis=2).mean() < 0.1


def test_what_did_not_move_gives_no_deformation(corpus):
    faces = corpus.vertices[:5]
    np.testing.assert_allclose(deformations(faces, faces, corpus.template), 0, atol=1e-4)


def test_small_faces_are_put_on_the_large_template(corpus):
    template = corpus.template
    bump = np.zeros((5036, 3))
    bump[:40, 2] = 2.0
    found = deformations(0.5 * (template.vertices + bump)[None], 0.5 * template.vertices[None], template)[0]
    np.testing.assert_allclose(found, bump, atol=0.02)


def test_smoothing_keeps_constants_and_sums(corpus):
    template = corpus.template
    smoother = Smoother(template, 3.0)
    np.testing.assert_allclose(smoother(np.full((1, 5036, 3), 0.7)), 0.7, atol=1e-9)
    noise = np.random.default_rng(0).standard_normal((2, 5036, 3))
    smooth, areas = smoother(noise), mass(template)
    np.testing.assert_allclose(areas @ smooth, areas @ noise, atol=1e-6)
    assert smooth.std() < 0.6 * noise.std()


def test_smoothing_solves_its_equation(corpus):
    """Against a dense solution on a small mesh."""
    mesh = Mesh([[0, 0, 0], [4, 0, 0], [0, 3, 0], [4, 3, 1], [2, 5, 0]], [[0, 1, 2], [2, 1, 3], [2, 3, 4]])
    conduction = np.linspace(0.5, 2, len(mesh.edges))
    stiffness = np.zeros((5, 5))
    for (i, j), c in zip(mesh.edges, conduction, strict=True):
        weight = 0.0
        for triangle in mesh.triangles:
            if i in triangle and j in triangle:
                (k,) = set(triangle.tolist()) - {i, j}
                u, v = mesh.vertices[i] - mesh.vertices[k], mesh.vertices[j] - mesh.vertices[k]
                weight += (u @ v) / np.linalg.norm(np.cross(u, v)) / 2
        stiffness[i, j] = stiffness[j, i] = -max(weight, 0) * c
    stiffness -= np.diag(stiffness.sum(axis=1))
    areas = np.diag(mass(mesh))
    values = np.random.default_rng(1).standard_normal((3, 5, 3))
    expected = np.linalg.solve(areas + 4 * stiffness, areas) @ values
    np.testing.assert_allclose(Smoother(mesh, 2.0, conduction)(values), expected, atol=1e-9)


def test_conduction_is_low_where_expressions_stretch():
    mesh = Mesh([[0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 0]], [[0, 1, 2], [2, 1, 3]])
    stretch = Stretch(mesh)
    moved = np.zeros((6, 4, 3))
    moved[:, 3] = np.random.default_rng(0).standard_normal((6, 3))
    moved[:, :3] = 0.3 * np.random.default_rng(1).standard_normal((6, 3, 3))
    stretch.add(moved)
    at_three = (mesh.edges == 3).any(axis=1)
    assert stretch.conduction[at_three].max() < stretch.conduction[~at_three].min()


def test_no_smoothing_is_possible(corpus, moved, tmp_path):
    decouple(corpus, tmp_path / "rough", 0.0)
    rough = FaceSet.open(tmp_path / "rough")
    np.testing.assert_allclose(rough.vertices - corpus.template.vertices, moved, atol=1e-4)


def test_pairs_are_found_by_subject_and_session(tmp_path):
    rows = [
        {"subject": "a", "session": 2, "expression": "joy"},
        {"subject": "a", "session": 1, "expression": "neutral"},
        {"subject": "a", "session": 2, "expression": "neutral"},
        {"subject": "b", "session": 1, "expression": "neutral"},
        {"subject": "b", "session": 1, "expression": "fear"},
    ]
    found = pairs(labelled_set(tmp_path / "set", rows))
    assert found.expressions.tolist() == [0, 4]
    assert found.neutrals.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"subject": "a"}], "no label 'expression'"),
        ([{"subject": "a", "expression": "joy"}], "subject, session a, .* has no pair"),
        ([{"subject": "a", "expression": "neutral"}], "it has no pair"),
    ],
)
def test_sets_that_cannot_be_decoupled(rows, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        decouple(labelled_set(tmp_path / "set", rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_negative_length_is_refused(corpus, tmp_path):
    with pytest.raises(UsageError, match="negative"):
        decouple(corpus, tmp_path / "out", -1.0)


def test_the_command_line(corpus, tmp_path):
    made = CliRunner().invoke(
        app, ["data", "decouple", str(corpus.path), str(tmp_path / "pure"), "--smoothing-mm", "1"]
    )
    assert made.exit_code == 0, made.output
    assert FaceSet.open(tmp_path / "pure").card.parameters["smoothing_mm"] == 1.0


def test_of_two_neutral_faces_of_a_sitting_the_first_counts_and_that_is_said(tmp_path):
    rows = [
        {"subject": "a", "session": 1, "expression": "Neutral"},
        {"subject": "a", "session": 1, "expression": "joy"},
        {"subject": "a", "session": 1, "expression": "neutral "},
        {"subject": "b", "session": 1, "expression": "neutral"},
    ]
    faces = labelled_set(tmp_path / "set", rows)
    with pytest.warns(MeshganWarning, match=r"a sitting has more than one neutral face \(subject a, session 1\)"):
        found = pairs(faces)
    assert found.expressions.tolist() == [1]
    assert found.neutrals.tolist() == [0]


def test_a_decoupled_set_is_split_as_the_set_that_it_is_of(tmp_path):
    rows = [{"subject": f"s{k // 2}", "expression": ("neutral", "joy")[k % 2]} for k in range(20)]
    faces = labelled_set(tmp_path / "set", rows)
    card = faces.card.model_copy(update={"split_seed": 3, "test_share": 0.3, "validation_share": 0.2})
    decouple(FaceSet(faces.path, card, faces.template, faces.vertices, faces.labels), tmp_path / "pure", 0)
    kept = FaceSet.open(tmp_path / "pure").card
    assert (kept.split_seed, kept.test_share, kept.validation_share) == (3, 0.3, 0.2)
