"""One way to show progress, a live bar with time left on a terminal and plain lines elsewhere, and to write numbers."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

QUIET_SECONDS = 2.0  # shorter jobs show nothing
LINE_SECONDS = 10.0  # between two plain lines


def track(items: Iterable[Item], title: str, total: int | None = None, step: int = 1) -> Iterator[Item]:
    """Yield `items` while showing progress on standard error.

    `total` counts in units of `step` per item (a block of 256 faces is one item of step 256). Jobs under two
    seconds show nothing; without a terminal, a plain line appears every ten seconds.
    """
    from rich.console import Console  # not by who only counts

    if total is None:
        total = len(items) * step if isinstance(items, Sized) else 0
    console = Console(stderr=True)
    follow = _bar if console.is_terminal else _lines
    yield from follow(items, title, total, step, console)


def _bar(items: Iterable[Item], title: str, total: int, step: int, console: "Console") -> Iterator[Item]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    start = time.monotonic()
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        task, done = progress.add_task(title, total=total or None, visible=False), 0
        for item in items:
            yield item
            done = min(done + step, total or done + step)
            progress.update(task, completed=done, visible=time.monotonic() - start > QUIET_SECONDS)


def _lines(items: Iterable[Item], title: str, total: int, step: int, console: "Console") -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            count = min((done + 1) * step, total or (done + 1) * step)  # the last item may be smaller
            left = f", {duration((now - start) * (total - count) / count)} left" if total else ""
            print(f"{title}: {count}{f' of {total}' if total else ''}{left}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Write a number of seconds as a person would: `8 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, one: str, many: str = "") -> str:
    """A number of things as a person would write it: `1 face`, `12,000 faces`, `3 meshes`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
