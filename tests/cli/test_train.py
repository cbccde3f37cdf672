"""`meshgan train` from the command line: what it prints, and how it ends."""

import os
import signal

import pytest

from meshgan.training.checkpoint import RunFolder
from meshgan.training.recipe import recipe_toml


@pytest.fixture
def recipe(tmp_path, tiny_recipe):
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_toml(tiny_recipe))
    return path


def test_training_says_where_the_model_lies(tmp_path, recipe, tiny_faces, meshgan):
    arguments = ["train", recipe, "--data", tiny_faces.path, "--out", tmp_path / "run", "--set", "schedule.faces=80"]
    status, out, err = meshgan(*arguments, "--device", "cpu")
    assert status == 0, err
    assert f"The model lies in {tmp_path / 'run' / 'model'}" in out
    assert "80 of 80 faces seen  L(x)" in err
    again, _, err = meshgan(*arguments)
    assert again == 2
    assert "use --resume" in err
    assert meshgan(*arguments, "--resume")[0] == 0


def test_a_shipped_recipe_trains_on_any_template(tmp_path, tiny_faces, meshgan):
    changes = ["--set", "schedule.faces=32", "--set", "hierarchy.counts=[80, 40, 20, 10]", "--set", "sampling.faces=4"]
    status, _, err = meshgan("train", "smoke", "--data", tiny_faces.path, "--out", tmp_path / "run", *changes)
    assert status == 0, err


def test_ctrl_c_keeps_a_checkpoint_and_ends_with_130(tmp_path, recipe, tiny_faces, meshgan, monkeypatch):
    append = RunFolder.append_line
    monkeypatch.setattr(
        RunFolder, "append_line", lambda self, line: (append(self, line), os.kill(os.getpid(), signal.SIGINT))
    )
    status, _, err = meshgan("train", recipe, "--data", tiny_faces.path, "--out", tmp_path / "run")
    assert status == 130
    assert "stopped after 40 faces; start again with --resume to go on" in err
    assert [path.name for path in RunFolder(tmp_path / "run").checkpoints()] == ["checkpoint-0000000040.safetensors"]


def test_tensorboard_is_written_on_request(tmp_path, recipe, tiny_faces, meshgan):
    pytest.importorskip("tensorboard")
    arguments = ["--data", tiny_faces.path, "--out", tmp_path / "run", "--set", "schedule.faces=40", "--tensorboard"]
    assert meshgan("train", recipe, *arguments)[0] == 0
    assert list((tmp_path / "run/tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--data", "DATA", "--out", "OUT"], "nowhere is neither a file nor a recipe that ships"),
        (["RECIPE", "--data", "nowhere", "--out", "OUT"], "nowhere is not a FaceSet"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--set", "objective.gama=1"], "did you mean 'objective.gamma'"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--set", "objective.gamma=2"], "gamma"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--device", "tpu"], "unknown device 'tpu'"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--set", "schedule.batch=500"], "fewer than one batch of 500"),
        (["RECIPE", "--data", "DATA", "--out", "DATA"], "is not a run folder"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--seed", "-1"], "seed"),
        (["RECIPE", "--data", "DATA"], "--out"),
    ],
)
def test_wrong_use_is_one_sentence_and_writes_nothing(tmp_path, recipe, tiny_faces, meshgan, arguments, message):
    places = {"RECIPE": recipe, "DATA": tiny_faces.path, "OUT": tmp_path / "run"}
    before = sorted(path.name for path in tiny_faces.path.iterdir())
    status, out, err = meshgan("train", *(places.get(argument, argument) for argument in arguments))
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "run").exists()
    assert sorted(path.name for path in tiny_faces.path.iterdir()) == before
