"""Watching a run: lines of statistics, grids of samples from fixed codes, and the signs of failure."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meshgan.arrays import Faces
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.errors import MeshganError
from meshgan.storage import atomic_file
from meshgan.training.batches import fixed_codes
from meshgan.training.checkpoint import RunFolder
from meshgan.training.recipe import Recipe
from meshgan.training.state import State
from meshgan.view.figures import contact_sheet

GRID = 16  # faces in a grid of samples
TILE = 128  # pixels of each
RISEN = 3.0  # a diversity this many times the limit has been there to lose
ADVICE = "start a new run with a lower optimiser.lr, or with optimiser.clip = 1"


class Watch:
    """Writes what a run shows of itself (in the process that leads) and stops it when it has failed (in all)."""

    def __init__(
        self, recipe: Recipe, faces: FaceSet, run: RunFolder, state: State, seed: int, step: int, tensorboard: bool
    ) -> None:
        self.recipe, self.faces, self.run, self.state = recipe, faces, run, state
        codes = fixed_codes(GRID, recipe.network.code, recipe.objective.prior, seed)
        self.codes = codes.to(state.team.device)
        self.real = diversity(faces.vertices[some_rows(faces.split.train, 2 * GRID)])
        if state.team.leads:
            run.keep_lines(step)
        state.team.wait()
        lines = run.lines()
        self.peak = max((line["diversity_mm"] for line in lines), default=0.0)
        self.clock = time.monotonic() - (lines[-1]["seconds"] if lines else 0.0)
        self.board = _board(run.path / "tensorboard") if tensorboard and state.team.leads else None

    def line(self, step: int, seen: int, epoch: int, rate: float, stats: Mapping[str, float]) -> None:
        """Append a line to stats.jsonl. Raises `MeshganError` if it says that training has failed."""
        spread_mm = diversity(self.samples())
        line = {"step": step, "faces": seen, "epoch": epoch, **stats, "diversity_mm": spread_mm, "lr": rate}
        self._stop_if(self.recipe.objective.trouble(stats) or self._trouble(line), seen)
        self.peak = max(self.peak, spread_mm)
        if self.state.team.leads:
            self.run.append_line({**line, "seconds": round(time.monotonic() - self.clock, 2)})
        if self.board is not None:
            for name, value in line.items():
                self.board.add_scalar(name, value, seen)

    def draw(self, seen: int) -> None:
        """Write the grid of samples."""
        if self.state.team.leads:
            with atomic_file(self.run.path / "samples" / f"faces-seen-{seen:08d}.png") as partial:
                contact_sheet(self.samples(), self.faces.template.triangles, partial, columns=4, size=TILE)

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
        raise MeshganError("--tensorboard needs a package: pip install 'meshgan[tensorboard]'.") from error
    return SummaryWriter(folder)
