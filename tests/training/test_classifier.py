import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.training.classifier import Classifier, Schedule, train_classifier

CLASSES = ("anger", "fear", "happiness")


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
    train_classifier(faces, out, Schedule(epochs=6, learning_rate=3e-3))
    return out


def weights(classifier: Classifier) -> torch.Tensor:
    return torch.cat([value.flatten() for value in classifier.network.state_dict().values()])


def test_it_learns_to_tell_unseen_subjects_apart(faces: FaceSet, run: Path) -> None:
    classifier = Classifier.load(run)
    tested = faces.split.test
    predicted = classifier.predict(faces.vertices[tested])
    assert (predicted == faces.labels["expression"][tested]).mean() > 0.9
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert lines[-1]["test_accuracy"] == pytest.approx((predicted == faces.labels["expression"][tested]).mean())


def test_probabilities_do_not_depend_on_the_batch(faces: FaceSet, run: Path) -> None:
    classifier = Classifier.load(run / "model")
    together = classifier.probabilities(faces.vertices[:7], batch=64)
    np.testing.assert_allclose(together, classifier.probabilities(faces.vertices[:7], batch=2), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-6)
    assert classifier.card.classes == CLASSES


def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_never_stopped(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(epochs=3, learning_rate=1e-3)
    whole = train_classifier(faces, tmp_path / "whole", schedule)
    stop_while_writing_the_model(monkeypatch, faces, tmp_path / "stopped", schedule)
    sorted((tmp_path / "stopped").glob("checkpoint-*"))[-1].unlink()  # as if killed during the third epoch
    resumed = train_classifier(faces, tmp_path / "stopped", schedule, resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert (tmp_path / "whole/stats.jsonl").read_text() == (tmp_path / "stopped/stats.jsonl").read_text()


def stop_while_writing_the_model(
    monkeypatch: pytest.MonkeyPatch, faces: FaceSet, out: Path, schedule: Schedule
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Classifier, "save", stop)
        train_classifier(faces, out, schedule)


def test_the_seed_decides(faces: FaceSet, tmp_path: Path) -> None:
    schedule = Schedule(epochs=1, learning_rate=1e-3)
    first, again, other = (
        weights(train_classifier(faces, tmp_path / name, schedule, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_use_is_named(faces: FaceSet, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a classifier already"):
        train_classifier(faces, run)
    with pytest.raises(UsageError, match=r"no model\.json"):
        Classifier.load(tmp_path)
    with pytest.raises(UsageError, match="not of the classifier's template"):
        Classifier.load(run).predict(np.zeros((1, 7, 3), np.float32))


def test_another_schedule_does_not_resume(faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_while_writing_the_model(monkeypatch, faces, tmp_path / "run", Schedule(epochs=1, learning_rate=1e-3))
    with pytest.raises(UsageError, match="other data, schedule or seed"):
        train_classifier(faces, tmp_path / "run", Schedule(epochs=2, learning_rate=1e-3), resume=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_damaged_folder_is_named(run: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(MeshganError, match="is damaged"):
        Classifier.load(folder)
