"""How fast the default corpora are made, how much memory that takes, and how far it is from what must be done; and how
long `meshgan data info --spectrum` takes on a set of nearly as many vertices as it may have.

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
SIDE, DETAILED = 172, 1500  # of a sheet of 29,584 vertices, and how many faces of it
MEMORY_LIMIT_MB, LIMIT_S, SPECTRUM_LIMIT_S = 2048, 60.0, 60.0


def run(count: int = COUNT) -> dict[str, Any]:
    """Faces a second and peak memory of the corpora, of decoupling and of a spectrum, in fresh processes, and the floor
    of identities; prints them."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
            rows = [
                fresh.submit(task, folder, count).result() for task in (identities, expressions, decoupling, spectrum)
            ]
            floor = fresh.submit(floors, folder, count).result()
    made, measured = rows[0], rows[-1]
    result = {
        "rows": rows,
        "floor": floor,
        "times_floor": made["seconds"] / floor["seconds"],
        "limits": {"seconds_for_12000": LIMIT_S, "memory_mb": MEMORY_LIMIT_MB, "spectrum_s": SPECTRUM_LIMIT_S},
        "within_limits": made["seconds"] * COUNT / count <= LIMIT_S
        and made["memory_mb"] <= MEMORY_LIMIT_MB
        and measured["seconds"] <= SPECTRUM_LIMIT_S,
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


def spectrum(folder: Path, count: int) -> dict[str, Any]:
    """Measure the detail of faces of a fine sheet, in proportion to `count`, which are made before."""
    from meshgan.bench.hierarchy import hills
    from meshgan.data.faceset import BLOCK, Card, FaceSet, create_faceset

    share = min(1.0, count / COUNT)
    sheet, faces = hills(max(20, round(SIDE * share**0.5))), max(20, round(DETAILED * share))
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(3, 200)) * np.geomspace(0.02, 0.8, 200)  # of ever shorter lengths, ever lower
    fields = np.cos(sheet.vertices @ waves + 2 * np.pi * rng.random(200)) * np.geomspace(3, 0.05, 200)
    card = Card(name="spectrum", source="sums of waves", licence="CC0-1.0", synthetic=True)
    with create_faceset(folder / "sheets", sheet, faces, card) as writer:
        for start in range(0, faces, BLOCK):
            rows = range(start, min(start + BLOCK, faces))
            moved = np.tensordot(rng.normal(size=(len(rows), 3, 200)), fields, axes=(2, 1)).transpose(0, 2, 1)
            writer.append(sheet.vertices + moved, [{"subject": str(row)} for row in rows])
    start_s = time.perf_counter()
    from meshgan.data.summary import measure_detail

    measure_detail(FaceSet.open(folder / "sheets"))
    return _row("spectrum", faces, start_s) | {"vertices": len(sheet.vertices)}


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
    print(f"the spectrum is of faces of {result['rows'][-1]['vertices']:,} vertices")
    limits = f"12,000 in {LIMIT_S:.0f} s, {MEMORY_LIMIT_MB} MB; a spectrum in {SPECTRUM_LIMIT_S:.0f} s"
    print(f"limits ({limits}): {'held' if result['within_limits'] else 'MISSED'}")
