"""The loop as a whole, in one process: what it writes, how it stops, how it goes on, and when it gives up."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from meshgan.data.faceset import FaceSet
from meshgan.data.principal import principal_matrix
from meshgan.errors import DiskError, MeshganError, UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import FaceModel
from meshgan.model.load import load_model
from meshgan.model.model_folder import read_model_folder
from meshgan.nn import kernel
from meshgan.nn.networks import parameter_count
from meshgan.training import watch
from meshgan.training.began import Began
from meshgan.training.checkpoint import RunFolder, read_checkpoint
from meshgan.training.loop import (
    RAMP,
    add,
    check_faces_and_seed,
    crossed,
    faces_to_see,
    means,
    outlook,
    share_kept,
    start,
    summed,
    total_steps,
    train,
)
from meshgan.training.recipe import load_recipe, parse_recipe
from meshgan.training.state import fixed_codes
from meshgan.training.team import Stopped, Team
from meshgan.training.watch import diversity

STEPS, LOG = 40, 5  # of the tiny recipe


def final_tensors(path):
    return read_checkpoint(RunFolder(path).checkpoints()[-1]).tensors


def assert_same_bits(first, second):
    one, two = final_tensors(first), final_tensors(second)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def steps_of(path):
    return [line["step"] for line in RunFolder(path).lines()]


def test_a_run_leaves_lines_grids_two_checkpoints_and_a_model(tiny_run):
    assert steps_of(tiny_run) == list(range(LOG, STEPS + 1, LOG))
    assert [path.name for path in RunFolder(tiny_run).checkpoints()] == [
        "checkpoint-0000000240.safetensors",
        "checkpoint-0000000320.safetensors",
    ]
    (grid,) = (tiny_run / "samples").iterdir()
    assert grid.name == "faces-seen-00000320.png"
    with Image.open(grid) as picture:
        assert np.asarray(picture).std() > 1
        width, height = picture.size
    assert 0.8 < width / height < 1.25  # sixteen faces, four in a row
    assert 400 < width < 600
    line = RunFolder(tiny_run).lines()[-1]
    assert line["faces"] == 320
    assert {"L_real", "L_fake", "k", "M", "diversity_mm", "lr", "seconds", "epoch"} <= line.keys()
    assert not list(tiny_run.glob(".*"))


def test_the_model_holds_the_averaged_weights(tiny_run):
    weights, kept = final_tensors(tiny_run), read_model_folder(tiny_run / "model").tensors
    averaged = {name.removeprefix("average/") for name in weights if name.startswith("average/")}
    assert averaged
    for name in averaged:
        np.testing.assert_array_equal(kept[name], weights[f"average/{name}"])
        assert not np.array_equal(kept[name], weights[f"network/{name}"])


def test_the_seed_decides_every_bit(tmp_path, tiny_run, tiny_faces, tiny_recipe, recipe_table):
    train(tiny_recipe, tiny_faces, tmp_path / "again")
    assert_same_bits(tmp_path / "again", tiny_run)
    assert (tmp_path / "again/model/weights.safetensors").read_bytes() == (
        tiny_run / "model/weights.safetensors"
    ).read_bytes()
    short = parse_recipe({**recipe_table, "schedule": {"faces": 8, "batch": 8}}, "x")
    name = "network/generator/dense.weight"
    for seed in (0, 1):
        train(short, tiny_faces, tmp_path / f"seed-{seed}", seed=seed)
    assert not torch.equal(final_tensors(tmp_path / "seed-0")[name], final_tensors(tmp_path / "seed-1")[name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, tiny_run, tiny_faces, tiny_recipe, number, monkeypatch):
    lines, before = [], signal.getsignal(number)
    append = RunFolder.append_line

    def append_then_stop(self, line):
        append(self, line)
        lines.append(line)
        if line["step"] == 2 * LOG:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunFolder, "append_line", append_then_stop)
    with pytest.raises(Stopped, match="`resume=True`") as stop:
        train(tiny_recipe, tiny_faces, tmp_path / "run")
    assert signal.getsignal(number) is before
    assert stop.value.exit_status == 128 + number
    assert steps_of(tmp_path / "run") == [LOG, 2 * LOG]
    monkeypatch.undo()
    train(tiny_recipe, tiny_faces, tmp_path / "run", resume=True)
    assert_same_bits(tmp_path / "run", tiny_run)
    assert steps_of(tmp_path / "run") == steps_of(tiny_run)
    assert signal.getsignal(number) is before


def test_a_stop_between_two_lines_does_not_show(tmp_path, tiny_run, tiny_faces, tiny_recipe, monkeypatch):
    """Sums since the last line travel in the checkpoint."""
    from meshgan.training import loop

    monkeypatch.setattr(loop, "stop_requests", lambda crew: stop_after(7))
    with pytest.raises(Stopped):
        train(tiny_recipe, tiny_faces, tmp_path / "run")
    monkeypatch.undo()
    train(tiny_recipe, tiny_faces, tmp_path / "run", resume=True)
    assert_same_bits(tmp_path / "run", tiny_run)
    found, expected = RunFolder(tmp_path / "run").lines(), RunFolder(tiny_run).lines()
    for line in (*found, *expected):
        del line["seconds"]
    assert found == expected


def stop_after(last):
    import contextlib

    return contextlib.nullcontext(lambda step: signal.SIGTERM if step == last else 0)


def test_resuming_a_finished_run_changes_nothing(tiny_run, tiny_faces, tiny_recipe):
    before = {path: path.stat().st_mtime_ns for path in sorted(tiny_run.rglob("*")) if path.is_file()}
    assert train(tiny_recipe, tiny_faces, tiny_run, resume=True) == tiny_run / "model"
    after = {path: path.stat().st_mtime_ns for path in sorted(tiny_run.rglob("*")) if path.is_file()}
    before.pop(tiny_run / "stats.jsonl"), after.pop(tiny_run / "stats.jsonl")
    assert before == after


def test_a_run_that_lost_its_model_gets_it_back(tmp_path, tiny_faces, tiny_recipe):
    model = train(tiny_recipe, tiny_faces, tmp_path / "run")
    expected = (model / "weights.safetensors").read_bytes()
    for path in model.iterdir():
        path.unlink()
    train(tiny_recipe, tiny_faces, tmp_path / "run", resume=True)
    assert (model / "weights.safetensors").read_bytes() == expected


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "template.ply", "hierarchy.npz"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_finished_run_whose_model_is_not_whole_makes_it_again(
    tmp_path, tiny_run, tiny_faces, tiny_recipe, name, damage
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "model" / name).unlink() if damage == "missing" else (run / "model" / name).write_bytes(b"{}")
    train(tiny_recipe, tiny_faces, run, resume=True)
    for path in (tiny_run / "model").iterdir():
        assert (run / "model" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (run / "model.damaged").exists() == (damage == "changed")  # what is not ours as we wrote it is kept


def test_a_full_disk_under_the_log_keeps_a_checkpoint(tmp_path, tiny_run, tiny_faces, tiny_recipe, monkeypatch):
    append = RunFolder.append_line

    def append_until_full(self, line):
        if line["step"] == 2 * LOG:
            raise DiskError("stats.jsonl: the disk is full; free some space or choose another place.")
        append(self, line)

    monkeypatch.setattr(RunFolder, "append_line", append_until_full)
    with pytest.raises(DiskError, match="the disk is full"):
        train(tiny_recipe, tiny_faces, tmp_path / "run")
    assert RunFolder(tmp_path / "run").latest().step == 2 * LOG
    monkeypatch.undo()
    train(tiny_recipe, tiny_faces, tmp_path / "run", resume=True)
    assert_same_bits(tmp_path / "run", tiny_run)


def test_another_run_in_the_folder_is_told(tmp_path, tiny_faces, tiny_recipe):
    with RunFolder(tmp_path / "run").ready(), pytest.raises(UsageError, match="another run is at work"):
        train(tiny_recipe, tiny_faces, tmp_path / "run")


def altered(faces, vertices):
    """The FaceSet with other vertices."""
    return FaceSet(faces.path, faces.card, faces.template, vertices.astype(np.float32), faces.labels)


def test_faces_that_nothing_can_be_learned_from_are_refused(tmp_path, tiny_faces, tiny_recipe):
    vertices = np.array(tiny_faces.vertices)
    far, broken = vertices.copy(), vertices.copy()
    far[tiny_faces.split.train[0], 3, 1], broken[tiny_faces.split.train[0], 3, 1] = 1e20, np.nan
    same = np.broadcast_to(vertices[:1], vertices.shape)
    for number, (wrong, words) in enumerate(
        [(far, "right unit"), (broken, "no numbers"), (same, "no two training faces")]
    ):
        with pytest.raises(MeshganError, match=words):
            train(tiny_recipe, altered(tiny_faces, wrong), tmp_path / str(number))
    for seed in (-1, 2**63):
        with pytest.raises(UsageError, match="a seed is"):
            train(tiny_recipe, tiny_faces, tmp_path / "seed", seed=seed)


def test_people_who_come_ten_times_make_a_model_of_sound_samples(tmp_path, tiny_faces, recipe_table):
    """Faces of low rank: axes whose variance is rounding would send samples metres away."""
    people = np.array(tiny_faces.vertices[:8]) + np.float32([12.3, -45.6, 7.8])
    faces = altered(tiny_faces, people[np.arange(len(tiny_faces)) % 8])
    recipe_table["network"].update(linear=True, mapping=8, code=16)
    recipe_table["objective"] = {"kind": "began-judge", "window": 8, "memory": 64}
    recipe_table["optimiser"] = {"kind": "adam", "lr": 1e-3, "beta1": 0.0, "beta2": 0.99, "clip": 1.0}
    recipe_table["sampling"] = {"kind": "uniform", "faces": 20, "steps": 3}
    model = FaceModel.load(train(parse_recipe(recipe_table, "x"), faces, tmp_path / "run"))
    real = diversity(people)
    assert 0.2 * real < diversity(model.sample(100)) < 3 * real
    assert diversity(model.sample(100, sampler="fitted-normal")) < 3 * real
    linear = model.decoder.linear.norm(dim=1)
    assert (linear > 0).sum() <= 7


def test_a_model_whose_samples_are_no_faces_is_not_called_finished(tmp_path, tiny_faces, tiny_recipe, monkeypatch):
    from meshgan.training import finish

    build = finish.build_model

    def exploded(*arguments):
        parts = build(*arguments)._parts
        heavy = {"generator/dense.weight": 1e6 * parts.tensors["generator/dense.weight"]}
        return FaceModel(replace(parts, tensors={**parts.tensors, **heavy}))

    monkeypatch.setattr(finish, "build_model", exploded)
    with pytest.raises(MeshganError, match="no model was made of it"):
        train(tiny_recipe, tiny_faces, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert RunFolder(tmp_path / "run").latest() is not None


def test_another_recipe_data_or_seed_is_refused(tiny_run, tiny_faces, tiny_recipe, recipe_table):
    recipe_table["objective"] = {"kind": "began", "gamma": 0.5}
    with pytest.raises(UsageError, match=r"objective\.gamma"):
        train(parse_recipe(recipe_table, "x"), tiny_faces, tiny_run, resume=True)
    with pytest.raises(UsageError, match="`seed=0`"):
        train(tiny_recipe, tiny_faces, tiny_run, seed=5, resume=True)
    with pytest.raises(UsageError, match="`resume=True` goes on"):
        train(tiny_recipe, tiny_faces, tiny_run)


def test_a_failing_run_stops_and_keeps_its_last_good_checkpoint(tmp_path, tiny_faces, tiny_recipe, monkeypatch):
    seen = []
    monkeypatch.setattr(Began, "trouble", lambda self, stats: seen.append(stats) or ("bad" if len(seen) == 5 else None))
    with pytest.raises(
        MeshganError, match=r"after 200 faces: bad; the last good .*checkpoint-0000000160.*optimiser.lr"
    ):
        train(tiny_recipe, tiny_faces, tmp_path / "run")
    assert steps_of(tmp_path / "run") == [5, 10, 15, 20]


def test_too_high_a_learning_rate_is_noticed(tmp_path, tiny_faces, recipe_table):
    recipe_table["optimiser"] = {"kind": "momentum", "lr": 1e6}
    recipe_table["schedule"]["checkpoint_every"] = 8
    with pytest.raises(MeshganError, match=r"training stopped after \d+ faces"):
        train(parse_recipe(recipe_table, "x"), tiny_faces, tmp_path / "run")
    for path in RunFolder(tmp_path / "run").checkpoints():
        assert all(torch.isfinite(tensor).all() for tensor in read_checkpoint(path).tensors.values())


def test_samples_that_become_alike_are_a_collapse(tmp_path, tiny_faces, tiny_recipe, monkeypatch):
    spreads = iter([40.0, 20.0, 20.0, 3.0, 1.0])  # of the real faces, then of the samples
    monkeypatch.setattr(watch, "diversity", lambda faces: next(spreads))
    with pytest.raises(MeshganError, match=r"after 160 faces: the samples have collapsed to 2.5% of the real"):
        train(tiny_recipe, tiny_faces, tmp_path / "run")


@pytest.mark.parametrize(
    ("spreads", "limit", "collapsed"),
    [
        ([20.0, 10.1], 0.25, False),  # of real faces' 40: not below the limit
        ([20.0, 9.9], 0.25, True),
        ([9.9, 9.9], 0.25, False),  # a young run has not fallen: it never rose
        ([20.0, 9.9, 30.0], 0.25, True),
        ([20.0, 0.0], 0.0, False),  # 0 asks for nothing
    ],
)
def test_the_collapse_rule(tmp_path, tiny_faces, recipe_table, monkeypatch, spreads, limit, collapsed):
    recipe_table["schedule"].update(collapse=limit, faces=8 * LOG * len(spreads))
    left = iter([40.0, *spreads])
    monkeypatch.setattr(watch, "diversity", lambda faces: next(left, 40.0))
    monkeypatch.setattr(watch, "RISEN", 1.5)
    recipe = parse_recipe(recipe_table, "x")
    if collapsed:
        with pytest.raises(MeshganError, match=r"have collapsed to 24\.8% of the real"):
            train(recipe, tiny_faces, tmp_path / "run")
    else:
        train(recipe, tiny_faces, tmp_path / "run")


def test_every_objective_trains(tmp_path, tiny_faces, recipe_table):
    recipe_table["schedule"].update(faces=80, checkpoint_every=80, sample_every=80)
    plain = (
        {"kind": "autoencoder"},
        {"kind": "gan"},
        {"kind": "wgan", "penalty": 10.0},
        {"kind": "began-cs"},
        {"kind": "began-encoder"},
    )
    for table in (*plain, {"kind": "began-judge"}):
        if table["kind"] == "began-judge":
            recipe_table["network"].update(linear=True, mapping=8)
        recipe = parse_recipe({**recipe_table, "objective": table}, "x")
        model = train(recipe, tiny_faces, tmp_path / table["kind"])
        assert read_model_folder(model).card.name == "tiny"


def test_a_linear_map_starts_with_the_spread_of_the_faces_and_stays(tmp_path, tiny_faces, recipe_table):
    recipe_table["network"]["linear"] = True
    recipe_table["schedule"].update(faces=8, log_every=1)
    train(parse_recipe(recipe_table, "x"), tiny_faces, tmp_path / "run")
    (line,) = RunFolder(tmp_path / "run").lines()
    real = diversity(tiny_faces.vertices[tiny_faces.split.train])
    assert 0.7 * real < line["diversity_mm"] < 1.3 * real
    assert not any("linear" in name for name in final_tensors(tmp_path / "run"))
    kept = read_model_folder(tmp_path / "run/model").tensors["generator/linear"]
    np.testing.assert_array_equal(kept.reshape(4, 162, 3), principal_matrix(tiny_faces, 4))


def test_an_auto_encoder_with_a_linear_path_starts_as_pca(tiny_faces, recipe_table):
    recipe_table["network"]["linear"] = True
    recipe = parse_recipe({**recipe_table, "objective": {"kind": "autoencoder"}}, "x")
    hierarchy = Hierarchy.cached(tiny_faces.template, recipe.hierarchy.counts)
    networks = start(recipe, tiny_faces, hierarchy, 0, Team()).networks
    faces = torch.from_numpy(tiny_faces.normalisation.apply(tiny_faces.vertices[tiny_faces.split.train]))
    codes = networks["encoder"](faces)
    torch.testing.assert_close(codes.square().mean(dim=0), torch.ones(4), rtol=1e-3, atol=0)  # as N(0, I) has it
    values = faces.flatten(1)
    axes = torch.linalg.svd(values, full_matrices=False).Vh[:4]
    torch.testing.assert_close(networks["generator"](codes).flatten(1), values @ axes.T @ axes, rtol=0, atol=1e-4)


def test_the_linear_path_of_began_cs_is_the_generators_alone(tmp_path, tiny_faces, recipe_table):
    recipe_table["network"]["linear"] = True
    recipe_table["schedule"].update(faces=8)
    train(parse_recipe({**recipe_table, "objective": {"kind": "began-cs"}}, "x"), tiny_faces, tmp_path / "run")
    model = FaceModel.load(tmp_path / "run")
    assert model.encode(model.sample(3)).shape == (3, 4)


@pytest.mark.parametrize("prior", ["uniform", "standard-normal"])
def test_principal_axes_have_the_covariance_of_the_faces(tiny_faces, prior):
    rows = tiny_faces.split.train
    values = tiny_faces.normalisation.apply(tiny_faces.vertices[rows]).reshape(len(rows), -1)
    codes = fixed_codes(20_000, 8, prior, seed=0).numpy()
    drawn = (codes @ principal_matrix(tiny_faces, 8, prior).reshape(8, -1)).astype(np.float64)
    expected, found = (np.linalg.svd(x / np.sqrt(len(x)), compute_uv=False)[:5] for x in (values, drawn))
    np.testing.assert_allclose(found, expected, rtol=0.03)  # five ways to bend, so five axes are all there is
    assert not principal_matrix(tiny_faces, 100)[5:].any()  # what is rounding is no axis


def test_the_generator_may_learn_more_slowly(tmp_path, tiny_faces, recipe_table):
    recipe_table["optimiser"] = {"kind": "momentum", "lr": 0.01, "generator_factor": 1e-9}
    train(parse_recipe(recipe_table, "x"), tiny_faces, tmp_path / "run")
    before = final_tensors(tmp_path / "run")
    (slow,) = (before[f"network/generator/{name}"] for name in ("dense.bias",))
    assert slow.abs().max() < 1e-6 < before["network/critic/decoder.dense.bias"].abs().max()


def test_lengths_are_counted_in_epochs_or_faces(recipe_table):
    assert total_steps(load_recipe("paper"), steps_per_epoch=675) == 300 * 675
    recipe_table["schedule"].update(faces=81, batch=8)
    assert total_steps(parse_recipe(recipe_table, "x"), 1) == 11


def test_the_learning_rate_falls_after_each_epoch(tmp_path, tiny_faces, recipe_table):
    recipe_table["optimiser"] = {"kind": "momentum", "lr": 0.01, "decay": 0.5}
    epoch = len(tiny_faces.split.train) // 8
    recipe_table["schedule"].update(faces=2 * epoch * 8, log_every=epoch)
    train(parse_recipe(recipe_table, "x"), tiny_faces, tmp_path / "run")
    assert [line["lr"] for line in RunFolder(tmp_path / "run").lines()] == [0.01, 0.005]


def test_averaging_looks_back_over_its_half_life(tiny_recipe):
    late = 10**9
    assert share_kept(tiny_recipe, late) ** (100 / 8) == pytest.approx(0.5)
    assert share_kept(tiny_recipe, 8) < 1e-3  # at first the average is the weights


def test_crossing_counts_multiples():
    assert [crossed(before, before + 16, 20) for before in (0, 16, 32, 48)] == [False, True, True, True]
    assert not crossed(20, 36, 20)


def test_a_finished_run_is_lengthened_as_if_it_had_been_long(tmp_path, tiny_faces, tiny_recipe):
    short, long = (tiny_recipe.changed(schedule={"faces": faces}) for faces in (160, 320))
    train(short, tiny_faces, tmp_path / "run")
    seen = FaceModel.load(tmp_path / "run").card.origin.faces_seen
    train(long, tiny_faces, tmp_path / "run", resume=True)
    train(long, tiny_faces, tmp_path / "whole")
    lengthened, whole = (FaceModel.load(tmp_path / name) for name in ("run", "whole"))
    assert (seen, lengthened.card.origin.faces_seen) == (160, 320)
    np.testing.assert_array_equal(lengthened.sample(4), whole.sample(4))
    assert RunFolder(tmp_path / "run").recipe() == long
    with pytest.raises(UsageError, match="longer, and not shorter"):
        train(short, tiny_faces, tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match=r"another recipe: optimiser\.lr"):
        train(long.changed(optimiser={"lr": 0.1}), tiny_faces, tmp_path / "run", resume=True)


def test_a_run_may_begin_with_a_model_of_other_faces(tmp_path, tiny_faces, tiny_recipe, tiny_run, recipe_table):
    others = FaceSet.create(1.1 * tiny_faces.vertices[:40], tiny_faces.template, {"subject": tiny_faces.subjects[:40]})
    still = tiny_recipe.changed(schedule={"faces": 8}, optimiser={"lr": 1e-12}, averaging={"half_life": 0})
    train(still, others, tmp_path / "run", init=tiny_run)
    begun, first = FaceModel.load(tmp_path / "run"), FaceModel.load(tiny_run)
    codes = first.codes(3)
    np.testing.assert_allclose(begun.decode(codes), first.decode(codes), atol=1e-4)
    with pytest.raises(UsageError, match="give the same `init`"):
        train(still, others, tmp_path / "run", resume=True)
    train(still, others, tmp_path / "run", resume=True, init=tiny_run)
    with pytest.raises(UsageError, match="other networks"):
        train(still.changed(network={"code": 5}), others, tmp_path / "b", init=tiny_run)
    other = FaceSet.create(others.vertices, Mesh(others.template.vertices, others.template.triangles[:-1]))
    with pytest.raises(UsageError, match="template"):
        train(still, other, tmp_path / "c", init=tiny_run)
    assert not (tmp_path / "b").exists()


def test_callbacks_get_every_line_and_may_end_a_run(tmp_path, tiny_faces, tiny_recipe):
    lines = []
    train(tiny_recipe, tiny_faces, tmp_path / "run", callbacks=[lines.append])
    assert lines == RunFolder(tmp_path / "run").lines()

    def enough(line):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train(tiny_recipe, tiny_faces, tmp_path / "other", callbacks=[enough])
    for wrong in (enough, [3]):
        with pytest.raises(UsageError, match="list of functions"):
            train(tiny_recipe, tiny_faces, tmp_path / "none", callbacks=wrong)
    assert not (tmp_path / "none").exists()


def test_the_rate_falls_over_the_whole_run_whatever_its_length(tmp_path, tiny_faces, tiny_recipe):
    for faces in (80, 160):
        recipe = tiny_recipe.changed(schedule={"faces": faces, "log_every": 1}, optimiser={"final": 0.1})
        train(recipe, tiny_faces, tmp_path / f"{faces}")
        rates = [line["lr"] for line in RunFolder(tmp_path / f"{faces}").lines()]
        steps = faces // 8
        np.testing.assert_allclose(rates, recipe.optimiser.lr * 0.1 ** (np.arange(steps) / steps))


def test_what_training_would_do_is_told_before_it_begins(tmp_path, tiny_faces, tiny_recipe, recipe_table):
    lines = outlook(tiny_recipe, tiny_faces, tmp_path / "run")
    assert lines[:3] == [
        "68 training faces of 162 vertices",
        "320 faces seen, 40 steps, 5.0 epochs",
        "levels of 162, 40, 10 vertices: hierarchy.counts = [40, 10]",
    ]
    assert lines[3] == "a line every 5 steps, a grid every 320 and a checkpoint every 80 faces seen"
    first = start(tiny_recipe, tiny_faces, Hierarchy.cached(tiny_faces.template, (40, 10)), 0, Team()).networks
    assert lines[4:] == [f"{name}: {parameter_count(network):,} weights" for name, network in first.items()]
    assert not (tmp_path / "run").exists()
    components = parse_recipe({"name": "x", "schedule": {"epochs": 1}, "objective": {"kind": "pca"}}, "x")
    assert outlook(components, tiny_faces, tmp_path / "run") == lines[:1]
    classes = {"name": "x", "schedule": {"epochs": 1}, "objective": {"kind": "classification"}}
    for recipe, seed, reason in (
        (tiny_recipe, -1, "a seed is"),
        (tiny_recipe.changed(schedule={"batch": 100}), 0, "fewer than one batch"),
        (parse_recipe(classes, "x"), 0, "no label column 'expression'"),
    ):
        with pytest.raises(UsageError, match=reason):
            outlook(recipe, tiny_faces, tmp_path / "run", seed)
    (tmp_path / "letter").write_text("Dear Ann")
    with pytest.raises(UsageError, match="is a file"):
        outlook(tiny_recipe, tiny_faces, tmp_path / "letter")


def test_principal_components_are_a_run_like_any_other(tmp_path, tiny_faces, tiny_run):
    table = {"name": "x", "schedule": {"epochs": 2}, "network": {"code": 3}, "objective": {"kind": "pca"}}
    recipe, run = parse_recipe(table, "x"), RunFolder(tmp_path / "run")
    train(recipe, tiny_faces, run.path)
    (line,) = run.lines()
    assert (line["step"], line["faces"]) == (1, 68)
    assert (run.latest().step, run.latest().tensors, run.recipe()) == (1, {}, recipe)
    assert load_model(run.path).codes(1).shape == (1, 3)
    weights = run.path / "model" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    train(recipe, tiny_faces, run.path, resume=True)
    assert weights.stat().st_mtime_ns == before
    weights.unlink()
    train(recipe, tiny_faces, run.path, resume=True)
    assert weights.exists()
    with pytest.raises(UsageError, match="leave out `init`"):
        train(recipe, tiny_faces, tmp_path / "other", init=tiny_run)
    with pytest.raises(UsageError, match="with `seed=0`, not 1"):
        train(recipe, tiny_faces, run.path, seed=1, resume=True)
    with pytest.raises(UsageError, match="exists already"):
        train(recipe, tiny_faces, run.path)
    assert not (tmp_path / "other").exists()


def test_a_flow_on_components_sees_as_many_faces_as_the_schedule_asks_for():
    def seen(**schedule):
        return faces_to_see(parse_recipe({"name": "x", "schedule": schedule}, "x"), 68)

    assert [seen(epochs=1), seen(epochs=2.5), seen(epochs=0.001), seen(faces=7)] == [68, 170, 1, 7]


def test_statistics_are_means_since_the_last_line():
    sums = {}
    for value in (1.0, 2.0, 6.0):
        add(sums, {"a": torch.tensor(value)} | ({"b": torch.tensor(-value)} if value != 2.0 else {}))
    assert means(sums) == {"a": 3.0, "b": -3.5}  # of the steps that have it
    assert {name: value.tolist() for name, value in summed(sums).items()} == {"sum/a": [9, 3], "sum/b": [-7, 2]}


def test_what_computes_is_said_once(capsys):
    watch.announce(torch.device("cpu"))
    watch.announce(torch.device("meta"))
    on_cpu, on_other = capsys.readouterr().err.splitlines()
    assert on_cpu == f"convolutions by {kernel.describe()}, threads: {kernel.threads()}"
    assert on_other == "convolutions by PyTorch on meta"


def test_the_spread_of_faces_is_the_mean_distance_of_all_pairs():
    faces = np.random.default_rng(0).normal(size=(5, 7, 3))
    pairs = [np.linalg.norm(faces[i] - faces[j], axis=1).mean() for i in range(5) for j in range(i)]
    assert diversity(faces) == pytest.approx(np.mean(pairs))


def test_two_training_faces_that_differ_are_enough(tiny_faces):
    few = FaceSet.create(tiny_faces.vertices[:4], tiny_faces.template)
    assert len(few.split.train) == 2
    check_faces_and_seed(few, 2**63 - 1)
    with pytest.raises(UsageError, match="no two training faces"):
        check_faces_and_seed(FaceSet.create(tiny_faces.vertices[:3], tiny_faces.template), 0)


def test_the_clock_of_a_run_goes_on_where_it_was(tmp_path, tiny_run, tiny_faces, tiny_recipe):
    run = RunFolder(shutil.copytree(tiny_run, tmp_path / "run"))
    lines = [{**line, "seconds": 1000.0 * number} for number, line in enumerate(run.lines())]
    (run.path / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train(tiny_recipe.changed(schedule={"faces": 360}), tiny_faces, run.path, resume=True)
    assert [line["seconds"] for line in run.lines()[:8]] == [1000.0 * number for number in range(8)]
    assert 7000 <= run.lines()[8]["seconds"] < 8000


def test_no_share_of_the_weights_stays_where_none_are_averaged(tiny_recipe):
    last = tiny_recipe.changed(averaging={"half_life": 0})
    assert share_kept(last, 10**9) == 0
    ramp = [share_kept(tiny_recipe.changed(averaging={"half_life": 10**6}), seen) for seen in (100, 1000)]
    assert ramp == [0.5 ** (8 / (RAMP * 100)), 0.5 ** (8 / (RAMP * 1000))]
    assert 0.01 < RAMP < 0.5
