"""Several processes: half a batch each gives the same weights to rounding, and a lost one ends the run in order."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from meshgan.errors import UsageError
from meshgan.training.checkpoint import RunFolder, read_checkpoint
from meshgan.training.loop import train
from meshgan.training.recipe import parse_recipe, recipe_toml
from meshgan.training.team import Team, _choose_device, team

PATIENCE = 600.0  # seconds, on a busy machine

# Imports everything once, then is two processes.
PAIR = """
import os, sys
from pathlib import Path
from meshgan.data.faceset import FaceSet
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe

recipe, faces = load_recipe(sys.argv[1]), FaceSet.open(sys.argv[2])
os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[4])
child = os.fork()
os.environ["RANK"] = str(int(child == 0))
train(recipe, faces, Path(sys.argv[3]), device="cpu")
if child:
    sys.exit(os.waitpid(child, 0)[1])
os._exit(0)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(recipe, faces, out):
    path = out.with_suffix(".toml")
    path.write_text(recipe_toml(recipe))
    return ["-m", "meshgan.cli.main", "train", path, "--data", faces.path, "--out", out, "--device", "cpu", "--resume"]


def start(arguments, size):
    """What `torchrun` does, without its own seconds of start-up."""
    port = str(free_port())
    for rank in range(size):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **own, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        yield subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def plain_recipe(recipe_table):
    """Momentum: Adam divides by the gradient's size and so turns rounding into steps."""
    recipe_table["optimiser"] = {"kind": "momentum", "lr": 0.01}
    return parse_recipe(recipe_table, "x")


@pytest.fixture(params=["began", "began-judge"])
def shared_recipe(request, recipe_table, plain_recipe):
    """Of an objective that only averages gradients, and of one that also gathers what all processes have seen."""
    if request.param == "began":
        return plain_recipe
    recipe_table["network"].update(linear=True, mapping=8)
    recipe_table["objective"] = {"kind": "began-judge", "window": 16}
    return parse_recipe(recipe_table, "x")


def test_two_processes_at_half_a_batch_equal_one_at_a_whole(tmp_path, tiny_faces, shared_recipe):
    train(shared_recipe, tiny_faces, tmp_path / "one", device="cpu")
    (tmp_path / "two.toml").write_text(recipe_toml(shared_recipe))
    arguments = [tmp_path / "two.toml", tiny_faces.path, tmp_path / "two", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PAIR, *arguments], capture_output=True, text=True, timeout=PATIENCE, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ *\d+%  8 of 320 faces ", done.stderr, re.MULTILINE)) == 1, "only the first process talks"
    one, two = (read_checkpoint(RunFolder(tmp_path / name).checkpoints()[-1]) for name in ("one", "two"))
    assert one.step == two.step == 40
    for name, value in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], value, rtol=1e-3, atol=1e-5, msg=name)
    first, second = RunFolder(tmp_path / "one").lines(), RunFolder(tmp_path / "two").lines()
    assert [line["step"] for line in second] == [line["step"] for line in first]
    assert second[-1]["L_real"] == pytest.approx(first[-1]["L_real"], rel=1e-4)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_message_and_a_checkpoint_that_resumes(tmp_path, tiny_faces, recipe_table):
    recipe_table["schedule"].update(faces=40_000, checkpoint_every=80)
    arguments = command(parse_recipe(recipe_table, "x"), tiny_faces, tmp_path / "run")
    first, second = start(arguments, 2)
    run, deadline = RunFolder(tmp_path / "run"), time.monotonic() + PATIENCE
    while len(run.checkpoints()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    said = first.communicate(timeout=PATIENCE)[1]
    second.communicate()
    assert first.returncode == 1
    assert "another process of this run has ended; `--resume` goes on from the last checkpoint." in said
    assert "Traceback" not in said
    kept = read_checkpoint(run.checkpoints()[-1]).step
    again = list(start(arguments, 2))
    while run.latest().step <= kept and time.monotonic() < deadline + PATIENCE:
        time.sleep(0.05)
    for process in again:
        process.send_signal(signal.SIGINT)
    said = [process.communicate(timeout=PATIENCE)[1] for process in again]
    assert [process.returncode for process in again] == [130, 130], said
    assert run.latest().step > kept


@pytest.mark.slow
def test_under_torchrun(tmp_path, tiny_faces, plain_recipe):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    arguments = command(plain_recipe, tiny_faces, tmp_path / "run")
    done = subprocess.run([*torchrun, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model/model.json").is_file()


def test_a_team_of_one_leaves_everything_as_it_is():
    alone, values = Team(), torch.arange(3.0)
    alone.average_([values])
    alone.broadcast_([values])
    alone.wait()
    assert values.tolist() == [0, 1, 2]
    assert (alone.share("x"), alone.largest(3), alone.leads) == ("x", 3, True)


def test_unknown_devices_are_refused():
    with pytest.raises(UsageError, match="choose auto, cpu or cuda"), team("tpu"):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device was found"), team("cuda"):
            pass


def test_the_device_is_the_one_that_is_asked_for_or_the_process_s_own_card(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert [_choose_device(name) for name in ("cpu", "cuda", "auto")] == [
        torch.device(d) for d in ("cpu", "cuda:0", "cuda:0")
    ]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert _choose_device("auto") == torch.device("cuda:3")
    assert _choose_device("cpu") == torch.device("cpu")
    assert chosen == [0, 0, 3]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _choose_device("auto") == _choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="no CUDA device was found"):
        _choose_device("cuda")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        _choose_device("tpu")
