"""The most memory that a process has held."""

import resource
import sys
from pathlib import Path


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
