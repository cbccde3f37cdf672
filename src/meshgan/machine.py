"""This computer: what it is, processes on it that end with the one that started them, and what signals do to a verb."""

import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType

CPUS = Path("/proc/cpuinfo")
ENDING = [signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])


def machine() -> str:
    """Processor, cores, system, and the versions that matter, in one line."""
    from importlib import metadata

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    return f"{processor()}, {cores} cores, {platform.system()} {platform.machine()}, {versions}"


def today() -> str:
    """The date in UTC: 2026-01-31."""
    return datetime.now(UTC).date().isoformat()


def processor() -> str:
    """The processor's own name where the system tells it."""
    if CPUS.is_file():
        names = [line for line in CPUS.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def end_in_order() -> None:
    """Let signals end this process like an error does: what is half done is cleared away, once, without being cut."""
    for number in (*ENDING, signal.SIGINT):
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    for other in (*ENDING, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)  # the end is near; nothing may cut it short
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


@contextmanager
def process_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """`count` processes that compute with one thread each.

    They end with this block: after their work if it ends well, at once if it does not; and they end by themselves
    when this process is killed. Ctrl-C is for this process to handle.
    """
    before = set(active_children())
    with _one_thread_each():
        pool = ProcessPoolExecutor(count, get_context("spawn"), _begin)
        try:
            yield pool
        except BaseException:
            with _undisturbed():
                for child in set(active_children()) - before:
                    child.kill()
                pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()


def _begin() -> None:
    """In a process of the pool: do not hear Ctrl-C, end on SIGTERM, and end when the parent is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A short block that no Ctrl-C and no request to end cuts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (*ENDING, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile compute with one thread, unless the user has said otherwise."""
    added = [name for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name not in os.environ]
    os.environ |= dict.fromkeys(added, "1")
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
