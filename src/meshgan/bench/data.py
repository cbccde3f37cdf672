"""How fast the default corpora are made, how much memory that takes, and how far it is from what must be done.

The floor of making identities is the matrix product that combines the shapes, at the rate that this machine
reaches on products of that size, plus writing the bytes, at the rate of a plain copy to the same disk.
"""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from meshgan.bench.hierarchy import peak_mb

COUNT = 12000  # identities
SUBJECTS, POSED, SPONTANEOUS = 60, 1500, 1500  # of the expression corpus
MEMORY_LIMIT_MB, LIMIT_S = 2048, 60.0


def run(count: int = COUNT) -> dict[str, Any]:
    """Faces a second, peak memory and floors of the corpora and of decoupling, in fresh processes; prints them."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
            rows = [fresh.submit(task, folder, count).result() for task in (identities, expressions, decoupling)]
            floor = fresh.submit(floors, folder, count).result()
    result = {
        "rows": rows,
        "floor": floor,
        "times_floor": rows[0]["seconds"] / floor["seconds"],
        "limits": {"seconds_for_12000": LIMIT_S, "memory_mb": MEMORY_LIMIT_MB},
        "within_limits": rows[0]["seconds"] * COUNT / count <= LIMIT_S and rows[0]["memory_mb"] <= MEMORY_LIMIT_MB,
    }
    _show(result)
    return result


def identities(folder: Path, count: int) -> dict[str, Any]:
    """Make `count` identities; to be called in a process that has done nothing yet."""
    start = time.perf_counter()
    from meshgan.data.corpora.anny import make_identities

    make_identities(folder / "identities", count)
    return _row("identities", count, start)


def expressions(folder: Path, count: int) -> dict[str, Any]:
    """Make expressions, in proportion to `count`."""
    start = time.perf_counter()
    from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions

    posed, spontaneous = (max(6, number * count // COUNT) for number in (POSED, SPONTANEOUS))
    plan = ExpressionPlan(max(2, SUBJECTS * count // COUNT), posed, spontaneous)
    make_expressions(folder / "expressions", plan)
    return _row("expressions", len(plan), start)


def decoupling(folder: Path, count: int) -> dict[str, Any]:
    """Decouple those expressions."""
    start = time.perf_counter()
    from meshgan.data.expression import decouple
    from meshgan.data.faceset import FaceSet

    made = decouple(FaceSet.open(folder / "expressions"), folder / "pure")
    return _row("decoupling", made, start)


def floors(folder: Path, count: int) -> dict[str, Any]:
    """The least that `count` identities cost here: the product of weights and shapes, and a copy of the bytes."""
    from meshgan.data.corpora.anny import BLOCK
    from meshgan.data.corpora.basis import FaceBasis

    basis = FaceBasis.read()
    shapes = np.concatenate([basis.phenotypes, basis.features]).reshape(-1, basis.base.size)
    weights = np.random.default_rng(0).random((BLOCK, len(shapes)), dtype=np.float32)
    weights @ shapes
    rounds = max(1, min(8, count // BLOCK))
    start = time.perf_counter()
    for _ in range(rounds):
        block = weights @ shapes
    product_s = (time.perf_counter() - start) / rounds * count / BLOCK
    size = count * basis.vertex_count * 12
    start = time.perf_counter()
    with (folder / "copy").open("wb") as stream:
        for _ in range(-(-size // block.nbytes)):
            stream.write(block.data)
    written = time.perf_counter() - start
    return {
        "product_gflop": 2 * count * shapes.size / 1e9,
        "product_s": product_s,
        "megabytes": size / 1e6,
        "write_s": written,
        "seconds": product_s + written,
    }


def _row(name: str, count: int, start: float) -> dict[str, Any]:
    seconds = time.perf_counter() - start
    return {"name": name, "faces": count, "seconds": seconds, "faces_per_s": count / seconds, "memory_mb": peak_mb()}


def _show(result: dict[str, Any]) -> None:
    print("             faces      time   faces/s   peak memory")
    for row in result["rows"]:
        numbers = f"{row['faces']:7,} {row['seconds']:7.1f} s {row['faces_per_s']:9.0f} {row['memory_mb']:10.0f} MB"
        print(f"{row['name']:<11}{numbers}")
    floor = result["floor"]
    product = f"{floor['product_gflop']:.0f} GFLOP in {floor['product_s']:.1f} s"
    write = f"{floor['megabytes']:.0f} MB written in {floor['write_s']:.1f} s"
    print(f"floor of identities: {product}, {write}; identities take {result['times_floor']:.1f} times as long")
    limits = f"12,000 in {LIMIT_S:.0f} s, {MEMORY_LIMIT_MB} MB"
    print(f"limits ({limits}): {'held' if result['within_limits'] else 'MISSED'}")
