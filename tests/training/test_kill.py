"""`kill -9` at random moments, again and again: the run still ends with the bits of an undisturbed one."""

import json
import os
import subprocess
import sys

import pytest

from meshgan.training.checkpoint import RunFolder
from meshgan.training.recipe import recipe_toml

# Imports everything once, then runs each attempt in a child of its own, which it kills after a random time.
KILLER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from meshgan.data.faceset import FaceSet
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe

recipe, faces, out, kills = load_recipe(sys.argv[1]), FaceSet.open(sys.argv[2]), sys.argv[3], int(sys.argv[4])
random.seed(int(sys.argv[5]))
killed = 0
while True:
    child = os.fork()
    if child == 0:
        train(recipe, faces, out, device="cpu", resume=True)
        os._exit(0)
    if killed < kills:
        time.sleep(random.uniform(0.0, float(sys.argv[6])))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        print(killed)
        sys.exit(os.WEXITSTATUS(status))
    killed += 1
"""


def attempt(recipe, faces, out, kills, seed, longest):
    path = out.with_suffix(".toml")
    path.write_text(recipe_toml(recipe))
    arguments = [path, faces.path, out, str(kills), str(seed), str(longest)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def assert_like(found, expected):
    for name in ("model/weights.safetensors", "checkpoint-0000000320.safetensors", "model/model.json"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert [path.name for path in RunFolder(found).checkpoints()] == [
        path.name for path in RunFolder(expected).checkpoints()
    ]
    lines, wanted = RunFolder(found).lines(), RunFolder(expected).lines()
    assert len(lines) == len((found / "stats.jsonl").read_text().splitlines())
    for line in (*lines, *wanted):
        del line["seconds"]
    assert json.dumps(lines) == json.dumps(wanted)
    assert [path.name for path in found.rglob(".*")] == [".written"]  # the model's list; nothing half-written


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path, tiny_run, tiny_faces, tiny_recipe):
    killed = attempt(tiny_recipe, tiny_faces, tmp_path / "run", kills=5, seed=0, longest=0.8)
    assert killed >= 2, "the run finished before it was killed often enough to mean something"
    assert_like(tmp_path / "run", tiny_run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_whenever_it_is_killed(tmp_path, tiny_run, tiny_faces, tiny_recipe, seed):
    attempt(tiny_recipe, tiny_faces, tmp_path / "run", kills=30, seed=seed, longest=0.6)
    assert_like(tmp_path / "run", tiny_run)
