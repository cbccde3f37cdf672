"""Batches of real faces and codes that follow from the seed and the step alone, so that resuming needs no state."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from meshgan.arrays import Faces, Integers
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.training.state import Batch
from meshgan.training.team import Team

ORDER, CODES, GRID, GUESS, MOMENTS = range(5)  # independent streams of random numbers under one seed
RESIDENT_SHARE = 0.5  # of a card's free memory that the data set may take


class Batches:
    """`batches(step)` is the batch of that step on the device, this process's share of it.

    Each epoch goes once through the training faces in an order of its own; what does not fill a batch waits for
    the next epoch. With `targets`, a class for each face of the set (N,), faces are in mm. With `noise`, each face has
    so many numbers of chance. On a CPU faces are read from the memory-mapped file as they are needed; on a GPU they
    are kept on the card if they fit.
    """

    def __init__(
        self,
        faces: FaceSet,
        code: int,
        batch: int,
        seed: int,
        team: Team,
        targets: Integers | None = None,
        noise: int = 0,
    ) -> None:
        rows = faces.split.train
        if batch % team.size:
            raise UsageError(f"a batch of {batch} cannot be shared by {team.size} processes; change schedule.batch.")
        if len(rows) < batch:
            raise UsageError(
                f"{faces.path} has {len(rows)} training faces, fewer than one batch of {batch}; "
                f"set schedule.batch = {len(rows)}."
            )
        self.rows, self.code, self.batch, self.seed, self.team = rows, code, batch, seed, team
        self.steps_per_epoch = len(rows) // batch
        self._mean, self._std = (
            torch.from_numpy(values).to(team.device) for values in (faces.normalisation.mean, faces.normalisation.std)
        )
        self._read = _reader(faces.vertices, team.device)
        self._targets, self._noise = targets, noise
        self._epoch, self._order = -1, rows

    def __call__(self, step: int, phases: int = 1) -> Batch:
        """The batch of step `step`, counted from 0."""
        mine = slice(self.team.rank, None, self.team.size)
        rng = np.random.default_rng((self.seed, CODES, step))
        codes = rng.uniform(-1.0, 1.0, (self.batch, self.code)).astype(np.float32)[mine]
        mix = rng.uniform(0.0, 1.0, self.batch).astype(np.float32)[mine]
        chance = rng.standard_normal((self.batch, self._noise), np.float32)[mine] if self._noise else None
        rows, device = self.rows_of(step)[mine], self.team.device
        faces, targets = self._read(rows), None
        if self._targets is None:
            faces = (faces - self._mean).div_(self._std)
        else:
            targets = torch.from_numpy(self._targets[rows]).to(device)
        drawn, mixed = (torch.from_numpy(values).to(device) for values in (codes, mix))
        noise = None if chance is None else torch.from_numpy(chance).to(device)
        return Batch(faces, drawn, mixed, step % phases, noise, targets)

    def rows_of(self, step: int) -> Integers:
        """The rows of the FaceSet (B,) that step `step` reads, over all processes."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, ORDER, epoch)).permutation(self.rows)
        return self._order[index * self.batch : (index + 1) * self.batch]


def fixed_codes(count: int, code: int, prior: str, seed: int, stream: int = GRID) -> Tensor:
    """Codes (count, code) drawn from the prior; those of the stream GRID are drawn again and again as faces."""
    rng = np.random.default_rng((seed, stream))
    shape = (count, code)
    codes = rng.uniform(-1.0, 1.0, shape) if prior == "uniform" else rng.standard_normal(shape)
    return torch.from_numpy(codes.astype(np.float32))


def _reader(vertices: Faces, device: torch.device) -> Callable[[Integers], Tensor]:
    if device.type == "cpu":
        return lambda rows: torch.from_numpy(vertices[rows])
    if vertices.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        resident = torch.from_numpy(np.array(vertices)).to(device)
        return lambda rows: resident[torch.from_numpy(rows).to(device)]
    return lambda rows: torch.from_numpy(vertices[rows]).pin_memory().to(device, non_blocking=True)
