"""The live line of a training run: losses, balance, speed and time left."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.status import Status
from torch import Tensor

from meshgan.nn import kernel
from meshgan.progress import LINE_SECONDS, duration

LIVE_SECONDS = 0.2  # between two changes of the line on a terminal
SYMBOLS = {"L_real": "L(x)", "L_fake": "L(G(z))"}


@dataclass
class LiveLine:
    """Shows one line that changes on a terminal, and a plain line every ten seconds elsewhere."""

    total: int  # faces seen at the end
    start: int  # faces seen at the start of this process
    status: Status | None
    silent: bool = False  # another process talks
    _began: float = field(default_factory=lambda: time.monotonic())
    _last: float = -LINE_SECONDS

    def show(self, seen: int, stats: Mapping[str, Tensor]) -> None:
        """Show the state after `seen` faces, if it is time to or the last one."""
        now = time.monotonic()
        early = now - self._last < (LINE_SECONDS if self.status is None else LIVE_SECONDS)
        if self.silent or (early and seen < self.total):
            return
        self._last = now
        if self.status is None:
            print(self._text(seen, stats, now), file=sys.stderr, flush=True)
        else:
            self.status.update(self._text(seen, stats, now))

    def _text(self, seen: int, stats: Mapping[str, Tensor], now: float) -> str:
        rate = (seen - self.start) / max(now - self._began, 1e-9)
        left = duration((self.total - seen) / max(rate, 1e-9))
        values = "  ".join(f"{SYMBOLS.get(name, name)} {value.item():.4f}" for name, value in stats.items())
        return f"{seen:,} of {self.total:,} faces seen  {values}  {rate:,.0f} faces/s  {left} left"


def announce(device: torch.device) -> None:
    """Say once what computes the convolutions."""
    on_cpu = f"{kernel.describe()}, threads: {kernel.threads()}"
    print(f"convolutions by {on_cpu if device.type == 'cpu' else f'PyTorch on {device}'}", file=sys.stderr, flush=True)


@contextmanager
def live_line(total: int, start: int, shown: bool) -> Iterator[LiveLine]:
    """The live line on standard error; silent where another process shows it."""
    console = Console(stderr=True)
    if shown and console.is_terminal:
        with console.status("starting") as status:
            yield LiveLine(total, start, status)
    else:
        yield LiveLine(total, start, None, silent=not shown)
