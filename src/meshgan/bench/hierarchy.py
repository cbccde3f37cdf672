"""How long a hierarchy takes to build, how much memory it needs, and how both grow with the template."""

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

SIDES = (71, 100, 141, 224)  # 5,041 to 50,176 vertices; the template has 5,036
LIMITS_S = {71: 5.0, 224: 90.0}  # the first build in a fresh process, what it imports included
ROUNDS = 3


def run() -> dict[str, Any]:
    """Seconds of a first and of a repeated build, and megabytes, at four sizes, each in a fresh process; prints them.

    The growth exponents are slopes in log-log: 1 is linear.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        rows = list(fresh.map(measure, SIDES))
    vertices = [row["vertices"] for row in rows]
    result = {
        "rows": rows,
        "growth_exponent_s": slope(vertices, [row["build_s"] for row in rows]),
        "growth_exponent_mb": slope(vertices, [row["memory_mb"] for row in rows]),
        "limits_s": {str(side**2): limit for side, limit in LIMITS_S.items()},
        "within_limits": all(rows[SIDES.index(side)]["first_s"] <= limit for side, limit in LIMITS_S.items()),
    }
    _show(result)
    return result


def measure(side: int) -> dict[str, Any]:
    """Build the hierarchy of a sheet of `side`² vertices; to be called in a process that has done nothing yet."""
    start = time.perf_counter()
    from meshgan.geometry.hierarchy import Hierarchy

    mesh = hills(side)
    before = peak_mb()
    hierarchy = Hierarchy.build(mesh)
    first, memory, seconds = time.perf_counter() - start, peak_mb() - before, []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        Hierarchy.build(mesh)
        seconds.append(time.perf_counter() - start)
    return {
        "vertices": side**2,
        "counts": list(hierarchy.counts),
        "first_s": first,
        "build_s": min(seconds),
        "memory_mb": max(memory, 0.1),  # small meshes fit into what the process holds anyway
    }


def hills(side: int) -> Any:
    """An irregular sheet with a nose and hills, about as large and as curved as a face: a `Mesh` of side² vertices."""
    from meshgan.geometry.mesh import Mesh

    u, v = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    u, v = (axis + np.random.default_rng(seed).uniform(-0.5, 0.5, axis.shape) / side for seed, axis in ((0, u), (1, v)))
    depth = 25 * np.exp(-((u / 0.15) ** 2) - (v / 0.3) ** 2) - 40 * u**2 - 20 * v**2 + 3 * np.sin(9 * u) * np.cos(7 * v)
    cells = np.arange(side**2).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (cells[:-1, :-1], cells[:-1, 1:], cells[1:, 1:], cells[1:, :-1]))
    triangles = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return Mesh(np.stack([75 * u, 100 * v, depth], axis=-1).reshape(-1, 3), triangles)


def slope(x: Any, y: Any) -> float:
    """The exponent of y in x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _show(result: dict[str, Any]) -> None:
    print("vertices   first build   again   memory   levels")
    for row in result["rows"]:
        levels = " → ".join(f"{count:,}" for count in row["counts"])
        times = f"{row['first_s']:9.2f} s {row['build_s']:6.2f} s {row['memory_mb']:6.0f} MB"
        print(f"{row['vertices']:8,} {times}   {levels}")
    print(f"growth: time ~ V^{result['growth_exponent_s']:.2f}, memory ~ V^{result['growth_exponent_mb']:.2f}")
    limits = ", ".join(f"{int(count):,} in {limit:.0f} s" for count, limit in result["limits_s"].items())
    print(f"limits ({limits}): {'held' if result['within_limits'] else 'MISSED'}")


def peak_mb(reset: bool = False) -> float:
    """The most memory in MiB that this process has held: on Linux since it began or since the last `reset`.

    `getrusage`, which is asked elsewhere, tells more than the truth on Linux: a program begins with the peak of the one
    that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10
