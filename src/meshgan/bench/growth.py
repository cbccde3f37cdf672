"""How the time and the memory of a training step grow with the mesh and with the batch."""

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from meshgan.bench.memory import peak_mb

SIDES = (71, 141, 283)  # of sheets of 5,041, 19,881 and 80,089 vertices
BATCHES = (1, 4, 16, 64, 128)
BATCH = 16
SECONDS = 3.0  # of steps at each size, and at least three steps
LINEAR = 1.1  # the largest exponent that counts as linear


def growth() -> dict[str, Any]:
    """Milliseconds and megabytes of a step at three sizes and five batches, each in a fresh process; prints them.

    The exponents are slopes in log-log over the sizes: 1 is linear.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        sizes = list(fresh.map(measure, SIDES, [BATCH] * len(SIDES)))
        batches = list(fresh.map(measure, [SIDES[0]] * len(BATCHES), BATCHES))
    vertices = [row["vertices"] for row in sizes]
    result: dict[str, Any] = {
        "sizes": sizes,
        "batches": batches,
        "exponent_ms": slope(vertices, [row["ms"] for row in sizes]),
        "exponent_mb": slope(vertices, [row["mb"] for row in sizes]),
        "exponent_ms_of_batch": slope(BATCHES, [row["ms"] for row in batches]),
    }
    result["linear"] = max(result["exponent_ms"], result["exponent_mb"]) <= LINEAR
    _show(result)
    return result


def measure(side: int, batch: int) -> dict[str, Any]:
    """The median step on a sheet of `side`² vertices, and the memory that networks and steps added at most."""
    import torch

    from meshgan.bench.hierarchy import hills
    from meshgan.bench.player import Player
    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import kernel

    hierarchy = Hierarchy.cached(hills(side))
    before = peak_mb(reset=True)
    step = kernel.pytorch_in_one_thread()(Player.of(hierarchy).stepper(torch.randn(batch, side**2, 3)))
    step()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < SECONDS:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    ms = statistics.median(seconds) * 1e3
    return {"vertices": side**2, "batch": batch, "ms": ms, "mb": peak_mb() - before}


def slope(x: Any, y: Any) -> float:
    """The exponent of y in x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _show(result: dict[str, Any]) -> None:
    for row in result["sizes"] + result["batches"]:
        each = f"{row['ms'] / row['batch']:6.2f} ms a face, {row['mb']:6.0f} MB"
        print(f"{row['vertices']:8,} vertices, batch {row['batch']:3}: {row['ms']:8.1f} ms, {each}")
    print(f"growth: time ~ V^{result['exponent_ms']:.2f}, memory ~ V^{result['exponent_mb']:.2f},", end=" ")
    print(f"time ~ batch^{result['exponent_ms_of_batch']:.2f}")
