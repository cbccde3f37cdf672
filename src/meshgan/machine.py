"""What computer this is: results are worth little without it."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

CPUS = Path("/proc/cpuinfo")


def machine() -> str:
    """Processor, cores, system, and the versions that matter, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    return f"{_processor()}, {cores} cores, {platform.system()} {platform.machine()}, {versions}"


def today() -> str:
    """The date in UTC: 2026-01-31."""
    return datetime.now(UTC).date().isoformat()


def _processor() -> str:
    """The processor's own name where the system tells it."""
    if CPUS.is_file():
        names = [line for line in CPUS.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or "unknown processor"
