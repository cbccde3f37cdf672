"""`meshgan train` from the command line: what it prints, and how it ends."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from meshgan.cli import main
from meshgan.model.load import load_model
from meshgan.model.pca import fit_pca
from meshgan.training.checkpoint import RunFolder
from meshgan.training.recipe import load_recipe, recipe_names, recipe_toml


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
    assert "100%  80 of 80 faces  L(x)" in err
    again, _, err = meshgan(*arguments)
    assert again == 2
    assert "`--resume` goes on with it" in err
    assert meshgan(*arguments, "--resume")[0] == 0


def test_a_shipped_recipe_trains_on_any_template(tmp_path, tiny_faces, meshgan):
    changes = ["--set", "schedule.faces=32", "--set", "hierarchy.counts=[80, 40, 20, 10]", "--set", "sampling.faces=4"]
    status, _, err = meshgan("train", "quick", "--data", tiny_faces.path, "--out", tmp_path / "run", *changes)
    assert status == 0, err


def test_ctrl_c_keeps_a_checkpoint_and_ends_with_130(tmp_path, recipe, tiny_faces, meshgan, monkeypatch):
    append = RunFolder.append_line
    monkeypatch.setattr(
        RunFolder, "append_line", lambda self, line: (append(self, line), os.kill(os.getpid(), signal.SIGINT))
    )
    status, _, err = meshgan("train", recipe, "--data", tiny_faces.path, "--out", tmp_path / "run")
    assert status == 130
    assert "stopped after 40 faces; `--resume` goes on" in err
    assert [path.name for path in RunFolder(tmp_path / "run").checkpoints()] == ["checkpoint-0000000040.safetensors"]


def test_tensorboard_is_written_on_request(tmp_path, recipe, tiny_faces, meshgan):
    pytest.importorskip("tensorboard")
    arguments = ["--data", tiny_faces.path, "--out", tmp_path / "run", "--set", "schedule.faces=40", "--tensorboard"]
    assert meshgan("train", recipe, *arguments)[0] == 0
    assert list((tmp_path / "run/tensorboard").glob("events*"))


def test_a_folder_may_be_called_like_the_recipe_or_the_table(tmp_path, monkeypatch, tiny_faces, tiny_run, meshgan):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "quick")
    status, _, error = meshgan("train", "quick", "--data", tiny_faces.path, "--out", "quick")
    assert "would take the place" not in error  # it is a run already, which is another sentence
    assert status == 2
    for name in ("table1", "desk", "off"):
        (tmp_path / name).mkdir()
        words = ("table1", "--scale", "desk", "--fid", "off", "--only", name, "--out", name)
        assert "table1 has no model" in meshgan("reproduce", *words)[2]
    shutil.copytree(tiny_run, tmp_path / "identity")
    status, _, error = meshgan("sample", "identity", "--out", "identity")  # the folder is what is read here
    assert (status, "`--out` would take the place of `model`" in error) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--data", "DATA", "--out", "OUT"], "nowhere is neither a file nor a recipe that ships"),
        (["RECIPE", "--data", "nowhere", "--out", "OUT"], "nowhere is not a FaceSet"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--set", "objective.gama=1"], "did you mean 'objective.gamma'"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--set", "objective.gamma=2"], "gamma"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--device", "tpu"], "'tpu' is not one of"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--set", "schedule.batch=500"], "fewer than one batch of 500"),
        (["RECIPE", "--data", "DATA", "--out", "DATA"], "would take the place of `--data`"),
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


def test_the_recipes_are_listed_and_shown(meshgan, tmp_path):
    status, out, _ = meshgan("recipes")
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()} == set(recipe_names())
    assert json.loads(meshgan("recipes", "--json")[1])["pca"].startswith("Principal components")
    for name in recipe_names():
        status, out, _ = meshgan("recipes", "show", name)
        path = tmp_path / "shown.toml"
        path.write_text(out)
        assert load_recipe(path) == load_recipe(name)
    assert "faces = 99" in meshgan("recipes", "show", "quick", "--set", "schedule.faces=99")[1]
    status, _, err = meshgan("recipes", "show", "smok")
    assert status == 2
    assert "quick" in err


def test_a_dry_run_prints_the_recipe_and_leaves_nothing(tmp_path, recipe, tiny_faces, meshgan):
    arguments = ["train", recipe, "--data", tiny_faces.path, "--out", tmp_path / "run", "--dry-run"]
    status, out, _ = meshgan(*arguments)
    assert status == 0
    (tmp_path / "told.toml").write_text(out)
    assert load_recipe(tmp_path / "told.toml") == load_recipe(recipe)
    assert "# 320 faces seen, 40 steps" in out
    assert "hierarchy.counts = [40, 10]" in out
    assert not (tmp_path / "run").exists()
    status, _, err = meshgan(*arguments, "--set", "network.widths=[4, 4, 4]", "--set", "hierarchy.counts=[40, 10, 4]")
    assert status == 0
    status, _, err = meshgan("train", "quick", *arguments[2:], "--set", "network.widths=[4, 4]")
    assert status == 2
    assert "hierarchy.counts = [40, 10]" in err  # what would fit
    assert meshgan(*arguments, "--set", "schedule.batch=1000")[0] == 2


def test_principal_components_train_by_name(tmp_path, tiny_faces, meshgan):
    run = ("train", "pca", "--data", tiny_faces.path, "--out", tmp_path / "run", "--set", "network.code=4")
    status, out, err = meshgan(*run)
    assert status == 0, err
    assert "draws faces" in out
    model = load_model(tmp_path / "run")
    expected = fit_pca(tiny_faces, 4)
    np.testing.assert_array_equal(model.sample(3), expected.sample(3))
    assert model.code_size == 4
    before = (tmp_path / "run/model/weights.safetensors").stat().st_mtime_ns
    assert meshgan(*run)[0] == 2
    assert meshgan(*run, "--resume")[0] == 0
    assert (tmp_path / "run/model/weights.safetensors").stat().st_mtime_ns == before
    status, _, err = meshgan(*run, "--resume", "--seed", 1)
    assert status == 2
    assert "`--seed 0`" in err
    assert meshgan("report", tmp_path / "run")[0] == 0
    status, _, err = meshgan(*run[:-1], "network.mapping=8")
    assert (status, err.count("\n")) == (2, 1)


def test_the_librarys_parameters_are_told_as_the_verbs_options():
    assert main.in_options("`resume=True`, `seed=3` and `out`", ["train", "x"]) == "`--resume`, `--seed 3` and `--out`"
    assert main.in_options("`fid='off'` or `nothing`", ["evaluate"]) == "`--fid off` or `nothing`"
    assert main.in_options("`unit='cm'`", ["data", "import", "x"]) == "`--unit cm`"
    assert main.in_options("`resume=True`", ["sample"]) == "`resume=True`"


@pytest.mark.parametrize(("recipe", "sampler"), [("gmm", "mixture"), ("flow", "flow"), ("bootstrap", "bootstrap")])
def test_distributions_of_coordinates_are_trained_like_any_recipe(recipe, sampler, meshgan, tiny_faces, tmp_path):
    changes = ("--set", "network.code=4", "--set", "schedule.faces=500")
    status, _, err = meshgan("train", recipe, "--data", tiny_faces.path, "--out", tmp_path / "run", *changes)
    assert status == 0, err
    model = load_model(tmp_path / "run")
    assert (model.card.name, model.card.sampler) == (recipe, sampler)
    assert model.sample(2).shape == (2, *tiny_faces.template.vertices.shape)
