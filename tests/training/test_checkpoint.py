"""The run folder: what is damaged is seen, what is whole comes back bit by bit, what is not ours stays untouched."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshgan import storage
from meshgan.errors import DiskError, MeshganError, UsageError
from meshgan.training.checkpoint import (
    Checkpoint,
    Identity,
    RunFolder,
    _Header,
    check_same_run,
    read_checkpoint,
)
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe, recipe_toml

IDENTITY = Identity(recipe=recipe_toml(load_recipe("quick")), data="abc", seed=1)
TENSORS = {"weights": torch.arange(6.0).reshape(2, 3), "variable/k": torch.tensor(0.5), "steps": torch.tensor(3)}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.ready():
        folder.write_recipe(load_recipe("quick"))
    return folder


def save(run, step):
    return run.save(Checkpoint(IDENTITY, step, {**TENSORS, "step": torch.tensor(step)}), step * 16)


def test_a_checkpoint_comes_back_as_it_was(run):
    found = read_checkpoint(save(run, 7))
    assert (found.run, found.step) == (IDENTITY, 7)
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert found.tensors["weights"].dtype == torch.float32


def test_only_the_last_two_stay(run):
    paths = [save(run, step) for step in (1, 2, 3)]
    assert run.checkpoints() == paths[1:]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(run, place, bit):
    path = save(run, 1)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(MeshganError, match="is damaged"):
        read_checkpoint(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=20)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_off_is_noticed(run, share):
    path = save(run, 1)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(MeshganError, match="is damaged"):
        read_checkpoint(path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, capsys):
    older, newer = save(run, 1), save(run, 2)
    newer.write_bytes(newer.read_bytes()[:-1])
    assert run.newest() == older
    said = capsys.readouterr().err
    assert newer.name in said
    assert "Falling back" in said
    assert run.newest() == older  # once is enough
    assert capsys.readouterr().err == ""


def test_without_a_whole_checkpoint_there_is_none(run):
    assert run.latest() is None
    save(run, 1).write_bytes(b"")
    assert run.latest() is None


def test_lines_of_steps_that_will_come_again_are_dropped(run):
    for step in (5, 10, 15):
        run.append_line({"step": step, "faces": 16 * step, "seconds": 0.5})
    with (run.path / "stats.jsonl").open("a") as stream:
        stream.write('{"step": 20, "L_re')  # killed while writing
    run.keep_lines(10)
    assert [line["step"] for line in run.lines()] == [5, 10]
    run.append_line({"step": 15, "faces": 240, "seconds": 0.5})
    text = (run.path / "stats.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [5, 10, 15]


def test_a_folder_that_holds_a_run_needs_resume(run):
    with pytest.raises(UsageError, match="`resume=True` goes on with it"):
        run.check(resume=False)
    run.check(resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-ann.txt").write_text("Dear Ann")
    with pytest.raises(UsageError, match="is not a run folder"):
        RunFolder(tmp_path / "letters").check(resume=True)
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["to-ann.txt"]
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(tmp_path / "letters" / "to-ann.txt").check(resume=False)


def test_leftovers_of_a_killed_run_go(run):
    (run.path / storage._sealed("checkpoint-1.safetensors", storage.PARTIAL)).write_bytes(b"half")
    (folder := run.path / storage._sealed("model", storage.PARTIAL)).mkdir()
    (folder / "model.json").write_text("{")
    (run.path / "samples").mkdir()
    (run.path / "samples" / storage._sealed("faces-seen-1.png", storage.PARTIAL)).write_bytes(b"half")
    (run.path / ".mine.ab.partial").write_text("not ours")
    with run.ready(resume=True):
        pass
    assert sorted(path.name for path in run.path.iterdir()) == [".mine.ab.partial", "recipe.toml", "samples"]
    assert not list((run.path / "samples").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "was started with `seed=2`, not 1"),
        ({"data": "xyz"}, "other data"),
        (
            {"recipe": recipe_toml(load_recipe("quick", ["objective.gamma=0.5"]))},
            r"objective.gamma \(0.5 there, 0.7 here\)",
        ),
    ],
)
def test_another_run_is_not_continued(tmp_path, change, message):
    check_same_run(tmp_path, IDENTITY, IDENTITY)
    with pytest.raises(UsageError, match=message):
        check_same_run(tmp_path, IDENTITY.model_copy(update=change), IDENTITY)


def test_a_set_that_was_split_otherwise_or_changed_by_one_float_is_not_resumed(tiny_run, tiny_faces, tiny_recipe):
    """Else the next steps would train on faces that the first ones were tested on."""
    moved = tiny_faces.vertices.copy()
    moved[37, 100, 1] += 0.001
    others = [
        replace(tiny_faces, card=tiny_faces.card.model_copy(update=change))
        for change in ({"split_seed": 1}, {"test_share": 0.2}, {"validation_share": 0.2})
    ]
    for other in (*others, replace(tiny_faces, vertices=moved)):
        with pytest.raises(UsageError, match="started with other data"):
            train(tiny_recipe, other, tiny_run, resume=True)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_checkpoint_that_holds_no_numbers_is_set_aside(run, number):
    run.save(Checkpoint(IDENTITY, 1, TENSORS), 16)
    run.save(Checkpoint(IDENTITY, 2, {**TENSORS, "variable/k": torch.tensor(number)}), 32)
    assert run.latest().step == 1
    assert [path.suffix for path in sorted(run.path.glob("checkpoint-*32*"))] == [".damaged"]


def test_a_checkpoint_on_a_full_disk_takes_the_room_of_the_older_one(run, monkeypatch):
    for step in (1, 2):
        run.save(Checkpoint(IDENTITY, step, TENSORS), 16 * step)
    save, full = RunFolder._save, [DiskError("the disk is full")]

    def save_once_there_is_room(self, checkpoint, faces_seen):
        if len(self.checkpoints()) == 2:
            raise full[0]
        return save(self, checkpoint, faces_seen)

    monkeypatch.setattr(RunFolder, "_save", save_once_there_is_room)
    run.save(Checkpoint(IDENTITY, 3, TENSORS), 48)
    assert [read_checkpoint(path).step for path in run.checkpoints()] == [2, 3]


def test_the_second_run_in_one_folder_is_told(run):
    with run.ready(resume=True), pytest.raises(UsageError, match="another run is at work in"), run.ready(resume=True):
        pass
    with run.ready(resume=True):
        pass  # the lock ended with the first


@pytest.mark.parametrize(
    "line",
    [
        "[" * 5000,
        "9" * 5000,
        '{"step": ' + "9" * 5000 + "}",
        '{"step": 1, "faces": 16, "seconds": NaN}',
        '{"step": 1, "faces": 16, "seconds": 1e999}',
        '{"step": 1, "faces": 16, "seconds": "soon"}',
        '{"step": 1.5, "faces": 16, "seconds": 1}',
        '{"step": 1, "seconds": 1}',
        '{"step": 1, "faces": 16, "seconds": 1, "L": [1]}',
        "null",
        "\x00",
    ],
)
def test_a_log_is_read_up_to_the_line_that_is_none(run, line):
    good = '{"step": 1, "faces": 16, "seconds": 0.5}'
    (run.path / "stats.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    assert [found["step"] for found in run.lines()] == [1]


def test_recipe_toml_says_what_the_run_does_whatever_was_edited(run):
    (run.path / "recipe.toml").write_text("name = 'another'")
    run.write_recipe(load_recipe("quick"))
    assert load_recipe(run.path / "recipe.toml") == load_recipe("quick")


@pytest.mark.parametrize(
    ("part", "key", "taken", "refused"),
    [
        ("run", "seed", [0, 2**63 - 1], [-1, 2**63]),
        ("run", "data", ["x" * 200], ["x" * 201]),
        ("run", "init", ["", "x" * 200], ["x" * 201]),
        ("run", "recipe", ["x" * 100_000], ["x" * 100_001]),
        (None, "step", [0, 10**15], [-1, 10**15 + 1, 1.5, "1"]),
    ],
)
def test_what_a_checkpoint_says_of_its_run_is_within_bounds(part, key, taken, refused):
    for value in taken + refused:
        header = {"run": IDENTITY.model_dump(), "step": 1, "digest": ""}
        (header[part] if part else header)[key] = value
        if value in taken:
            _Header.model_validate_json(json.dumps(header), strict=True)
        else:
            with pytest.raises(ValueError, match=key):
                _Header.model_validate_json(json.dumps(header), strict=True)


def test_tensors_of_other_kinds_are_no_checkpoint(run):
    for dtype in (torch.float32, torch.float64, torch.int64):
        read_checkpoint(run.save(Checkpoint(IDENTITY, 1, {"a": torch.zeros(2, dtype=dtype)}), 16))
    for dtype in (torch.float16, torch.int32, torch.bool):
        with pytest.raises(MeshganError, match="is damaged"):
            read_checkpoint(run.save(Checkpoint(IDENTITY, 1, {"a": torch.zeros(2, dtype=dtype)}), 16))


def test_names_of_checkpoints_sort_by_faces_seen(run):
    assert save(run, 7).name == "checkpoint-0000000112.safetensors"


@pytest.mark.parametrize("init", ["", "abc"])
def test_a_run_goes_on_only_with_the_model_that_it_began_with(tmp_path, init):
    began = IDENTITY.model_copy(update={"init": init})
    check_same_run(tmp_path, began, began)
    with pytest.raises(UsageError, match="from a model" if init else "without a model to begin with"):
        check_same_run(tmp_path, began, IDENTITY.model_copy(update={"init": "other"}))
