"""What the machine can do: the rates that floors are computed from."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZE = 2048  # of the matrices whose product is timed
COPIED = 2**26  # floats, 256 MiB: beyond every cache
ROUNDS = 12


def machine() -> dict[str, Any]:
    """Processor, threads and versions, so that a figure can be read without its author."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def matrix_product() -> tuple[Callable[[], Any], float]:
    """PyTorch's own float32 matrix product on all of its threads, to be timed, and its operations."""
    a, b, out = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE), torch.empty(SIZE, SIZE)
    return lambda: torch.mm(a, b, out=out), 2.0 * SIZE**3


def copy_rate() -> float:
    """The best rate of a large copy, in GB/s, counting what is read and what is written."""
    source, target = torch.rand(COPIED), torch.empty(COPIED)
    return 2 * source.nbytes / _best(lambda: target.copy_(source)) / 1e9


def _best(work: Callable[[], Any]) -> float:
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
