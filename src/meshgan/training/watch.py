"""Watching a run: a live line, lines of statistics, grids of samples from fixed codes, and the signs of failure."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
from rich.table import Column
from torch import Tensor

from meshgan.arrays import Faces
from meshgan.data.corpora.basis import layout_of
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.errors import MeshganError, missing_extra
from meshgan.nn import kernel
from meshgan.progress import LINE_SECONDS, counted, duration
from meshgan.storage import atomic_file
from meshgan.training.checkpoint import RunFolder
from meshgan.training.recipe import Recipe
from meshgan.training.state import State, fixed_codes
from meshgan.view.figures import contact_sheet, worn

GRID = 16  # faces in a grid of samples
TILE = 128  # pixels of each
RISEN = 3.0  # a diversity this many times the limit has been there to lose
ADVICE = "start a new run with a lower optimiser.lr, or with optimiser.clip = 1"
BAR = 20  # characters
LIVE_SECONDS = 0.2  # between two changes of the line on a terminal
SYMBOLS = {"L_real": "L(x)", "L_fake": "L(G(z))"}


class Watch:
    """Writes what a run shows of itself (in the process that leads) and stops it when it has failed (in all)."""

    def __init__(
        self, recipe: Recipe, faces: FaceSet, run: RunFolder, state: State, seed: int, step: int, tensorboard: bool
    ) -> None:
        self.recipe, self.faces, self.run, self.state = recipe, faces, run, state
        self.generates = "generator" in state.networks
        codes = fixed_codes(GRID, recipe.network.code, recipe.objective.prior, seed)
        self.codes = codes.to(state.team.device)
        self.real = diversity(faces.vertices[some_rows(faces.split.train, 2 * GRID)])
        if state.team.leads:
            run.keep_lines(step)
        state.team.wait()
        lines = run.lines()
        self.peak = max((line.get("diversity_mm", 0.0) for line in lines), default=0.0)
        self.clock = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
        self.board = _board(run.path / "tensorboard") if tensorboard and state.team.leads else None

    def line(self, step: int, seen: int, epoch: int, rate: float, stats: Mapping[str, float]) -> dict[str, float]:
        """Append a line to stats.jsonl, and return it. Raises `MeshganError` if it says that training has failed."""
        spread = {"diversity_mm": diversity(self.samples())} if self.generates else {}
        line = {"step": step, "faces": seen, "epoch": epoch, **stats, **spread, "lr": rate}
        self._stop_if(self.recipe.objective.trouble(stats) or self._trouble(line), seen)
        self.peak = max(self.peak, *spread.values(), 0.0)
        timed = {**line, "seconds": round(time.monotonic() - self.clock, 2)}
        if self.state.team.leads:
            self.run.append_line(timed)
        if self.board is not None:
            for name, value in line.items():
                self.board.add_scalar(name, value, seen)
        return timed

    def draw(self, seen: int) -> None:
        """Write the grid of samples."""
        if self.state.team.leads and self.generates:
            with atomic_file(self.run.path / "samples" / f"faces-seen-{seen:08d}.png") as partial:
                template = self.faces.template
                colour = worn(layout_of(template))
                contact_sheet(self.samples(), template.triangles, partial, columns=4, size=TILE, colour=colour)

    def check_weights(self, seen: int) -> None:
        """Raise `MeshganError` if a weight is not finite: such a state is not worth keeping."""
        finite = all(torch.isfinite(tensor).all() for tensor in self.state.tensors().values())
        self._stop_if(None if finite else "a weight is not a number", seen)

    @torch.no_grad()
    def samples(self) -> Faces:
        """The faces (GRID, V, 3) of the fixed codes in mm."""
        values = self.state.generate(self.codes).cpu().numpy()
        return self.faces.normalisation.undo(values)

    def _trouble(self, line: Mapping[str, Any]) -> str | None:
        if not all(math.isfinite(value) for value in line.values()):
            return "a loss is not a number"
        if not self.generates:
            return None
        share, limit = line["diversity_mm"] / self.real, self.recipe.schedule.collapse
        if share < limit and self.peak / self.real > RISEN * limit:
            return f"the samples have collapsed to {share:.1%} of the real faces' diversity"
        return None

    def _stop_if(self, trouble: str | None, seen: int) -> None:
        if trouble is None:
            return
        kept = self.run.checkpoints()
        where = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise MeshganError(f"training stopped after {seen:,} faces: {trouble}; {where}; {ADVICE}.")


def diversity(faces: Faces) -> float:
    """Mean over pairs of faces (N, V, 3) of the mean distance between their vertices."""
    pairs = [np.linalg.norm(faces[i + 1 :] - faces[i], axis=-1).mean(axis=-1) for i in range(len(faces) - 1)]
    return float(np.concatenate(pairs).mean())


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing_extra("`tensorboard=True`", "tensorboard") from error
    return SummaryWriter(folder)


@dataclass
class LiveLine:
    """Shows a bar with per cent, time left and losses on a terminal, and a plain line every ten seconds elsewhere."""

    total: int  # faces seen at the end
    start: int  # faces seen at the start of this process
    bar: Progress | None
    silent: bool = False  # another process talks
    last: dict[str, Tensor] = field(default_factory=dict)  # values of each statistic: not every step has all
    _began: float = field(default_factory=lambda: time.monotonic())
    _last: float = -LINE_SECONDS

    def show(self, seen: int, stats: Mapping[str, Tensor]) -> None:
        """Show the state after `seen` faces, if it is time to or the last one."""
        self.last |= stats
        now = time.monotonic()
        early = now - self._last < (LINE_SECONDS if self.bar is None else LIVE_SECONDS)
        if self.silent or (early and seen < self.total):
            return
        self._last = now
        rate = (seen - self.start) / max(now - self._began, 1e-9)
        left = duration((self.total - seen) / max(rate, 1e-9)) if seen > self.start else "?"
        values = losses({name: value.item() for name, value in self.last.items()})
        with suppress(OSError):  # a terminal that was closed: the run goes on, or ends by its signal
            if self.bar is None:
                share = f"{seen / self.total:4.0%}  {seen:,} of {counted(self.total, 'face')}"
                print(f"{share}  {values}  {rate:,.0f} faces/s  {left} left", file=sys.stderr, flush=True)
            else:
                self.bar.update(self.bar.task_ids[0], completed=seen, left=f"{left} left", losses=values)


def losses(stats: Mapping[str, float]) -> str:
    """The statistics of a step in short: `L(x) 0.558  L(G(z)) 0.574  k 0 (generator ahead)  M 0.74`.

    While BEGAN's k is 0, the generator's faces are rebuilt so well that the discriminator need not see them.
    """
    told = (f"{SYMBOLS.get(name, name)} {value:.3g}" for name, value in stats.items())
    return "  ".join(f"{text} (generator ahead)" if text == "k 0" else text for text in told)


def announce(device: torch.device) -> None:
    """Say once what computes the convolutions."""
    on_cpu = f"{kernel.describe()}, threads: {kernel.threads()}"
    print(f"convolutions by {on_cpu if device.type == 'cpu' else f'PyTorch on {device}'}", file=sys.stderr, flush=True)


def live_columns() -> tuple[ProgressColumn, ...]:
    """Bar, per cent and time, which a narrow terminal shows whole; the losses have what is left, and are cut."""
    losses = Column(ratio=1, overflow="ellipsis", no_wrap=True)
    return (
        BarColumn(BAR, table_column=Column(min_width=BAR)),
        TaskProgressColumn(table_column=Column(min_width=4, no_wrap=True)),
        TextColumn("{task.fields[left]}", table_column=Column(min_width=13, no_wrap=True)),
        TextColumn("{task.fields[losses]}", table_column=losses),
    )


@contextmanager
def live_line(total: int, start: int, shown: bool) -> Iterator[LiveLine]:
    """The live line on standard error; silent where another process shows it."""
    console = Console(stderr=True)
    if shown and console.is_terminal:
        with Progress(*live_columns(), console=console, expand=True) as bar:
            bar.add_task("training", total=total, completed=start, left="starting", losses="")
            yield LiveLine(total, start, bar)
    else:
        yield LiveLine(total, start, None, silent=not shown)
