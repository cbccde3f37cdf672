"""Faces a second of the training step on a GPU, captured as one graph: `python benchmarks/gpu_step.py SET`.

The step is the training loop's own (`meshgan.training.loop.stepper`), with the paper's recipe, at several batch sizes.
"""

import sys
import time

import torch

from meshgan.data.faceset import FaceSet
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.training.loop import WARM_UP, start, stepper
from meshgan.training.recipe import load_recipe
from meshgan.training.state import Batches
from meshgan.training.team import team

BATCHES = (16, 64, 256)
STEPS = 200


def faces_per_second(faces: FaceSet, batch: int) -> float:
    """The rate over `STEPS` steps, after compilation and capture."""
    recipe = load_recipe("paper", [f"schedule.batch={batch}"])
    with team("cuda") as crew:
        hierarchy = Hierarchy.cached(faces.template)
        advance = stepper(recipe.objective, start(recipe, faces, hierarchy, 0, crew))
        batches = Batches(faces, recipe.network.code, batch, 0, crew)
        for step in range(WARM_UP + 2):
            advance(batches(step))
        torch.cuda.synchronize()
        began = time.perf_counter()
        for step in range(STEPS):
            advance(batches(step))
        torch.cuda.synchronize()
        return STEPS * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    print(torch.cuda.get_device_name())
    for size in BATCHES:
        print(f"batch {size:4}: {faces_per_second(FaceSet.open(sys.argv[1]), size):10,.0f} faces/s")
    print(f"peak memory on the card: {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")
