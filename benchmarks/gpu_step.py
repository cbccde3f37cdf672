"""Faces a second of the training step on a GPU, captured as one graph: `python benchmarks/gpu_step.py SET`.

The step is the training loop's own (`meshgan.training.loop.stepper`), by recipe; the paper's recipe at larger batches,
too.
"""

import sys
import time

import torch

from meshgan.data.faceset import FaceSet
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.generator import noise_size
from meshgan.training.loop import WARM_UP, start, stepper
from meshgan.training.recipe import load_recipe
from meshgan.training.state import Batches
from meshgan.training.team import team

CASES = [("coma", 16), ("paper", 16), ("paper", 64), ("paper", 240), ("convolutions", 16), ("meshgan", 16)]
STEPS = 100


def faces_per_second(faces: FaceSet, name: str, batch: int) -> float:
    """The rate over `STEPS` steps, once each phase has been captured."""
    recipe = load_recipe(name, [f"schedule.batch={batch}"])
    with team("cuda") as crew:
        hierarchy = Hierarchy.cached(faces.template)
        advance = stepper(recipe.objective, start(recipe, faces, hierarchy, 0, crew))
        noise = noise_size(recipe.network, hierarchy.counts)
        batches, phases = Batches(faces, recipe.network.code, batch, 0, crew, noise=noise), recipe.objective.phases
        first = (WARM_UP + 2) * phases
        for step in range(first):
            advance(batches(step, phases))
        torch.cuda.synchronize()
        began = time.perf_counter()
        for step in range(first, first + STEPS):
            advance(batches(step, phases))
        torch.cuda.synchronize()
        return STEPS * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    print(torch.cuda.get_device_name())
    for name, batch in CASES:
        rate = faces_per_second(FaceSet.open(sys.argv[1]), name, batch)
        print(f"{name:12} batch {batch:4}: {rate:8,.0f} faces/s", flush=True)
    print(f"peak memory on the card: {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")
