import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.faceset import Card, FaceSet, create_faceset, some_rows
from meshgan.errors import UsageError
from meshgan.evaluation.semantics import describe, label_table
from meshgan.geometry.mesh import Mesh
from meshgan.model.directions import FILE, Directions
from meshgan.model.model_folder import SHIPPED
from meshgan.model.pca import PcaModel, fit_pca


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Balls that age stretches in height and kind in depth; the old are mostly wide, which no label names."""
    sphere = trimesh.creation.icosphere(2, radius=80.0)
    template, rng, count = Mesh(sphere.vertices, sphere.faces), np.random.default_rng(0), 240
    age, wide = rng.uniform(20, 80, count), rng.normal(size=count)
    kind = rng.integers(0, 3, count)
    weight = 0.7 * (age - 50) / 17.3 + 0.7 * rng.normal(size=count)
    scales = np.stack((0.04 * weight, 0.002 * (age - 50), 0.05 * (kind - 1)), axis=1)
    vertices = (
        template.vertices * (1 + scales[:, None]) + 0.5 * wide[:, None, None] * template.vertices[:, [1, 0, 2]] / 80
    )
    words = ("calm", "glad", "sad")
    rows = [
        {"subject": f"s{i % 60:02d}", "age": f"{age[i]:.2f}", "weight": f"{weight[i]:.4f}", "mood": words[kind[i]]}
        for i in range(count)
    ]
    path = tmp_path_factory.mktemp("semantics") / "balls"
    card = Card(name="balls", source="made by a test", licence="CC0-1.0", synthetic=True)
    with create_faceset(path, template, count, card) as writer:
        writer.append(vertices, rows)
    return FaceSet.open(path)


@pytest.fixture(scope="module")
def model(faces: FaceSet) -> PcaModel:
    return fit_pca(faces, 5)


def test_directions_move_what_they_name_and_naive_ones_more(model: PcaModel, faces: FaceSet) -> None:
    found = describe(model, faces, ["age", "weight"])
    for meaning in found.meanings:
        assert meaning.readable > 0.99
        assert meaning.response == pytest.approx(1.0, abs=0.02)
        assert meaning.selectivity > 0.97
        assert meaning.naive_selectivity < 0.7  # age and weight come together here
    age = found.directions.vectors[0] / found.directions.deviation[0]
    moved = model.decode(np.stack((found.directions.origin, found.directions.origin + 10 * age)))
    np.testing.assert_allclose(np.ptp(moved[1], axis=0) / np.ptp(moved[0], axis=0), [1, 1.02, 1], atol=2e-3)


def test_words_become_one_label_each_and_lead_to_the_mean_face_of_the_word(model: PcaModel, faces: FaceSet) -> None:
    found = describe(model, faces, ["age", "mood"])
    assert found.directions.names == ("age", "calm", "glad", "sad")
    rows = some_rows(faces.split.train, 1000)
    for word in ("calm", "sad"):
        face = model.decode(found.directions.at(word, 1.0)[None])[0]
        mean = faces.vertices[rows][faces.labels["mood"][rows] == word].mean(0)
        assert np.ptp(face[:, 2]) == pytest.approx(np.ptp(mean[:, 2]), rel=2e-3)
    sad = found.meanings[3]
    assert sad.selectivity > 0.9  # the other moods, which it must change, do not count


def test_variance_and_distance_are_those_of_the_faces(model: PcaModel, faces: FaceSet) -> None:
    found = describe(model, faces, ["age"])
    rows = faces.split.train
    flat = faces.vertices[rows].reshape(len(rows), -1)
    age = faces.labels["age"][rows].astype(float)
    design = np.column_stack((age, np.ones(len(age))))
    residual = flat - design @ np.linalg.lstsq(design, flat, rcond=None)[0]
    assert found.meanings[0].variance == pytest.approx(1 - residual.var(0).sum() / flat.var(0).sum(), abs=0.01)
    assert 1.0 < found.meanings[0].moves_mm < 5.0


def test_labels_that_cannot_be_used_are_named(faces: FaceSet) -> None:
    with pytest.raises(UsageError, match="has no label 'height'; it has subject, age, weight, mood"):
        label_table(faces, ["height"])
    with pytest.raises(UsageError, match="has 60 different words"):
        label_table(faces, ["subject"])
    with pytest.raises(UsageError, match=r"no label is named; .* has subject, age"):
        label_table(faces, [])


def test_some_faces_alone_can_be_described(model: PcaModel, faces: FaceSet) -> None:
    everybody, calm = describe(model, faces, ["age"]), describe(model, faces, ["age"], {"mood": "calm"})
    rows = [row for row in faces.split.train if faces.labels["mood"][row] == "calm"]
    ages = faces.labels["age"][rows].astype(float)
    assert calm.directions.mean[0] == pytest.approx(ages.mean())
    assert calm.directions.deviation[0] == pytest.approx(ages.std())
    assert calm.directions.mean[0] != everybody.directions.mean[0]
    with pytest.raises(UsageError, match="too few faces of mood angry"):
        describe(model, faces, ["age"], {"mood": "angry"})
    with pytest.raises(UsageError, match="has no label 'colour'"):
        describe(model, faces, ["age"], {"colour": "red"})


def test_the_command_keeps_the_directions_with_the_model(model: PcaModel, faces: FaceSet, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model.save(folder)
    arguments = ["directions", str(folder), "--data", str(faces.path), "--labels", "age,mood"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in json.loads(result.stdout)] == ["age", "calm", "glad", "sad"]
    assert Directions.load(folder).names == ("age", "calm", "glad", "sad")
    PcaModel.load(folder)  # still a whole model
    assert "selectivity" in CliRunner().invoke(app, [*arguments]).stdout
    some = [*arguments[:-1], "age", "--only", "mood = calm", "--json"]
    assert [row["label"] for row in json.loads(CliRunner().invoke(app, some).stdout)] == ["age"]
    assert isinstance(CliRunner().invoke(app, [*arguments, "--only", "calm"]).exception, UsageError)


def test_what_ships_keeps_its_directions(faces: FaceSet) -> None:
    """They would change for everybody who uses the installation."""
    before = (SHIPPED / "identity" / FILE).read_bytes()
    done = CliRunner().invoke(app, ["directions", "identity", "--data", str(faces.path), "--labels", "age"])
    assert "ships with meshgan" in str(done.exception)
    assert (SHIPPED / "identity" / FILE).read_bytes() == before
