import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model.classifier import Classifier
from meshgan.model.load import load_model
from meshgan.training.checkpoint import RunFolder
from meshgan.training.loop import train
from meshgan.training.recipe import Recipe, load_recipe

CLASSES = ("anger", "fear", "happiness")


def recipe(epochs: int, rate: float, *more: str) -> Recipe:
    changes = (f"schedule.epochs={epochs}", f"optimiser.lr={rate}", f"objective.classes={list(CLASSES)}")
    return load_recipe("classifier", (*changes, "schedule.log_every=10", *more))


def trained(faces: FaceSet, out: Path, how: Recipe, seed: int = 0, resume: bool = False) -> Classifier:
    return Classifier.load(train(how, faces, out, seed=seed, resume=resume))


def sheet(side: int = 12) -> Mesh:
    x, y = np.meshgrid(np.linspace(-50, 50, side), np.linspace(-50, 50, side), indexing="ij")
    height = 30 * np.exp(-(x**2 + y**2) / 2000)
    number = np.arange(side * side).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    triangles = np.concatenate((np.stack((a, b, c), 1), np.stack((a, c, d), 1)))
    return Mesh(np.stack((x, y, height), -1).reshape(-1, 3), triangles)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Three kinds of bumps in three places, of random height, on 40 subjects."""
    template, rng = sheet(), np.random.default_rng(0)
    places = np.array([[-30, 0], [25, 25], [25, -25]])
    count = 240
    kinds = rng.integers(0, 3, count)
    distance = ((template.vertices[None, :, :2] - places[kinds][:, None]) ** 2).sum(-1)
    vertices = template.vertices + rng.normal(scale=0.2, size=(count, 144, 3))
    vertices[..., 2] += rng.uniform(5, 15, (count, 1)) * np.exp(-distance / 300)
    rows = [{"subject": f"s{i % 40}", "expression": CLASSES[kind]} for i, kind in enumerate(kinds)]
    path = tmp_path_factory.mktemp("classifier") / "set"
    card = Card(name="bumps", source="made for a test", licence="CC0-1.0", synthetic=True, test_share=0.25)
    with create_faceset(path, template, count, card) as writer:
        writer.append(vertices, rows)
    return FaceSet.open(path)


@pytest.fixture(scope="module")
def run(faces: FaceSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classifier") / "run"
    train(recipe(6, 3e-3), faces, out)
    return out


def weights(classifier: Classifier) -> torch.Tensor:
    return torch.cat([value.flatten() for value in classifier.network.state_dict().values()])


def test_it_learns_to_tell_unseen_subjects_apart(faces: FaceSet, run: Path) -> None:
    classifier = Classifier.load(run)
    tested = faces.split.test
    predicted = classifier.predict(faces.vertices[tested])
    assert (predicted == faces.labels["expression"][tested]).mean() > 0.9
    lines = RunFolder(run).lines()
    assert [line["step"] for line in lines] == [10 * number for number in range(1, 7)]  # once an epoch
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert lines[-1]["accuracy"] > 0.9
    assert not (run / "samples").exists()  # there is nothing to draw


def test_probabilities_do_not_depend_on_the_batch(faces: FaceSet, run: Path) -> None:
    classifier = Classifier.load(run / "model")
    together = classifier.probabilities(faces.vertices[:7], batch=64)
    np.testing.assert_allclose(together, classifier.probabilities(faces.vertices[:7], batch=2), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-6)
    assert classifier.card.classes == CLASSES


def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_never_stopped(faces: FaceSet, tmp_path: Path) -> None:
    how = recipe(3, 1e-3, "schedule.checkpoint_every=160")
    whole = trained(faces, tmp_path / "whole", how)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "model")
    RunFolder(tmp_path / "stopped").checkpoints()[-1].unlink()  # as if killed during the third epoch
    resumed = trained(faces, tmp_path / "stopped", how, resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    found, expected = RunFolder(tmp_path / "stopped").lines(), RunFolder(tmp_path / "whole").lines()
    for line in (*found, *expected):
        del line["seconds"]
    assert found == expected


def test_the_seed_decides_and_the_callers_random_numbers_go_on(faces: FaceSet, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        weights(trained(faces, tmp_path / name, recipe(1, 1e-3), seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_use_is_named(faces: FaceSet, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`resume=True` goes on"):
        train(recipe(6, 3e-3), faces, run)
    with pytest.raises(UsageError, match="was started with another recipe"):
        train(recipe(6, 1e-3), faces, run, resume=True)
    with pytest.raises(UsageError, match=r"no model\.json"):
        Classifier.load(tmp_path)
    with pytest.raises(UsageError, match="not of the classifier's template"):
        Classifier.load(run).predict(np.zeros((1, 7, 3), np.float32))
    with pytest.raises(UsageError, match="no label column 'mood'"):
        train(recipe(1, 1e-3, "objective.label=mood"), faces, tmp_path / "mood")
    with pytest.raises(UsageError, match=r"faces of 'happiness', which objective\.classes does not name"):
        train(recipe(1, 1e-3, 'objective.classes=["anger", "fear"]'), faces, tmp_path / "two")
    with pytest.raises(UsageError, match="a network of its own"):
        recipe(1, 1e-3, "network.code=8")


def test_it_is_no_model_of_faces(run: Path) -> None:
    with pytest.raises(UsageError, match="it makes no faces"):
        load_model(run)


def test_a_finished_run_without_its_model_makes_it_again(faces: FaceSet, run: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(run, tmp_path / "run"))
    (again / "model" / "hierarchy.npz").unlink()
    assert torch.equal(weights(trained(faces, again, recipe(6, 3e-3), resume=True)), weights(Classifier.load(run)))


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_damaged_folder_is_named(run: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(MeshganError, match="is damaged"):
        Classifier.load(folder)
