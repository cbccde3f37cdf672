"""Figures from corpus to picture, on corpora and with recipes of a second."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.corpora.expressions import ExpressionPlan
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.model.face_model import FaceModel
from meshgan.report import paper_figures, reproduce
from meshgan.report.reproduce import SCALES, classifier_corpus, expression_corpus
from meshgan.training.recipe import load_recipe, parse_recipe

RECIPE = {
    "schedule": {"faces": 32, "batch": 8, "log_every": 2, "sample_every": 32, "checkpoint_every": 32},
    "network": {"code": 4, "widths": [4, 4], "terms": 2},
    "hierarchy": {"counts": [40, 10]},
    "sampling": {"faces": 16, "steps": 3},
}
EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")


def labelled(faces: FaceSet) -> FaceSet:
    """The tiny faces with the labels of both corpora."""
    row = np.arange(len(faces))
    words = {
        "ancestry": ("african", "asian", "caucasian", "mixed"),
        "age_group": ("child", "young", "elderly"),
        "sex": ("female", "male"),
        "expression": EXPRESSIONS,
    }
    columns = {name: np.array(some)[row % 40 % len(some)] for name, some in words.items()}
    subjects = np.array([f"s{i % 10}" for i in row // 8])  # everybody shows everything
    return replace(faces, labels={**faces.labels, **columns, "kind": np.full(len(row), "posed"), "subject": subjects})


@pytest.fixture(scope="module")
def tiny(tiny_faces: FaceSet) -> Iterator[list[str]]:
    """Tiny corpora, recipes, fits and pictures; gives the recipes that are trained, in order."""
    faces, trained = labelled(tiny_faces), []

    def recipe(name, changes):
        real = load_recipe(name)
        if real.objective.kind == "pca":
            return real
        network = RECIPE["network"] | {"linear": real.network.linear, "mapping": min(8, real.network.mapping)}
        return parse_recipe(
            RECIPE | {"name": name, "network": network, "objective": {"kind": real.objective.kind}}, name
        )

    train = reproduce.train

    def counted(recipe, *arguments, **options):
        trained.append(recipe.name)
        return train(recipe, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "load_recipe", recipe)
        patch.setattr(reproduce, "train", counted)
        for module, name in ((reproduce, "identity"), (reproduce, "expression"), (paper_figures, "classifier")):
            patch.setattr(module, f"{name}_corpus", lambda out, size: faces)
        for name in ("reconstructions", "near", "exaggerations", "expression_grid"):
            patch.setattr(paper_figures, name, partial(getattr(paper_figures, name), size=32))
        patch.setattr(FaceModel, "fit", partialmethod(FaceModel.fit, steps=3))
        patch.setitem(SCALES, "smoke", replace(SCALES["smoke"], classifier=("schedule.epochs=1", "optimiser.lr=1e-3")))
        yield trained


@pytest.fixture(scope="module")
def made(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The files of every figure, in one folder."""
    out = tmp_path_factory.mktemp("figures")
    return {name: paper_figures.reproduce_figure(name, out, "smoke") for name in paper_figures.FIGURES}


def wide(path: Path) -> float:
    with Image.open(path) as image:
        return image.width / image.height


def test_every_figure_is_made_of_the_same_runs(tiny: list[str], made: dict[str, list[Path]]) -> None:
    assert tiny == ["coma", "meshgan", "convolutions", "pca", "coma", "meshgan", "pca"]  # identities, then expressions
    assert {name: [path.name for path in paths] for name, paths in made.items()} == {
        "figure1": ["figure1.png", "figure1-faces.png", "figure1-spectra.png"],
        "figure4": ["figure4.png"],
        "figure5": ["figure5.png"],
        "figure6": ["figure6.png", "figure6.json"],
        "figure7": ["figure7-coma.png", "figure7-meshgan.png"],
    }
    assert all(path.is_file() for paths in made.values() for path in paths)
    assert wide(made["figure4"][0]) > 1.2  # 11 columns, 7 rows
    assert made["figure4"][0].read_bytes() != made["figure5"][0].read_bytes()


def test_figure_6_writes_its_numbers(tiny: list[str], made: dict[str, list[Path]]) -> None:
    table = made["figure6"][1]
    numbers = json.loads(table.read_text())
    assert numbers["factors"][0] == 1.0
    assert numbers["factors"][-1] == 3.0
    for name in ("meshgan", "coma", "pca"):
        low, high = numbers[f"{name}_band"]
        assert len(numbers[name]) == len(low) == len(numbers["factors"])
        assert all(a <= rate <= b for a, rate, b in zip(low, numbers[name], high, strict=True))
    assert numbers["classes"] == list(EXPRESSIONS)
    counts = np.array(numbers["confusion"])
    assert np.trace(counts) / counts.sum() == pytest.approx(numbers["real_accuracy"])


def test_a_classifier_of_another_recipe_is_refused(tiny: list[str], made: dict[str, list[Path]]) -> None:
    out = made["figure6"][1].parent
    with pytest.raises(UsageError, match="another recipe"):
        paper_figures.make_classifier(
            out, replace(SCALES["smoke"], classifier=("schedule.epochs=1", "optimiser.lr=2e-3"))
        )


def test_the_verb_finds_what_is_done(tiny: list[str], made: dict[str, list[Path]]) -> None:
    out, trained = made["figure7"][0].parents[1], len(tiny)
    result = CliRunner().invoke(app, ["reproduce", "figure7", "--out", str(out), "--scale", "smoke", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [str(path) for path in made["figure7"]]
    assert len(tiny) == trained


def test_unknown_figures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no figure2 at smoke scale"):
        paper_figures.reproduce_figure("figure2", tmp_path, "smoke")
    assert CliRunner().invoke(app, ["reproduce", "figure2", "--out", str(tmp_path)]).exit_code != 0


def test_expression_corpora_are_pure_and_share_no_subject(tmp_path: Path) -> None:
    size = replace(
        SCALES["smoke"],
        expressions=ExpressionPlan(subjects=3, posed=6, spontaneous=4),
        recognised=ExpressionPlan(part="classifier", subjects=3, posed=6, spontaneous=0),
    )
    faces, unseen = expression_corpus(tmp_path, size), classifier_corpus(tmp_path, size)
    assert (len(faces), len(unseen)) == (10, 6)
    assert "neutral" not in faces.labels["expression"]
    assert not set(faces.subjects) & set(unseen.subjects)
    moved = np.linalg.norm(faces.vertices - faces.template.vertices, axis=2).mean()
    assert moved < 4.0  # mm: an expression, not an identity
    again = expression_corpus(tmp_path, size)
    np.testing.assert_array_equal(again.vertices, faces.vertices)
    with pytest.raises(UsageError, match=r"this scale has .*; choose another `out`"):
        expression_corpus(tmp_path, replace(size, expressions=ExpressionPlan(subjects=4, posed=6, spontaneous=4)))
