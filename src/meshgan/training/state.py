"""What an objective works on: the networks of a run with their optimisers, and batches of real faces and codes.

Batches follow from the seed and the step alone, so that resuming needs no state.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.arrays import Faces, Integers
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.progress import counted
from meshgan.training.team import Team

SLOTS: Mapping[type, set[str]] = {  # what an optimiser remembers of a parameter
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}

ORDER, CODES, GRID, GUESS, MOMENTS = range(5)  # independent streams of random numbers under one seed
RESIDENT_SHARE = 0.5  # of a card's free memory that the data set may take


@dataclass(frozen=True, eq=False)
class Batch:
    """The input of one step, on the device; every number in it follows from the seed and the step alone."""

    faces: Tensor  # (B, V, 3) real faces in network units
    codes: Tensor  # (B, code) drawn from U(-1, 1)
    mix: Tensor  # (B,) drawn from U(0, 1), for objectives that mix real and generated faces
    phase: int = 0  # step modulo `Objective.phases`
    noise: Tensor | None = None  # (B, N) drawn from N(0, 1), where the generator has chance of its own
    targets: Tensor | None = None  # (B,) numbers of classes, where classes are learned; the faces are in mm then


@dataclass
class State:
    """Networks, optimisers and variables of a run: all that a checkpoint needs to hold."""

    networks: Mapping[str, nn.Module]  # by name: "generator" always, then "critic" or "encoder"
    optimisers: Mapping[str, torch.optim.Optimizer]  # one per network, same names
    variables: Mapping[str, Tensor]  # an objective's own state, for example BEGAN's k; changed in place
    averages: Mapping[str, nn.Module] = field(default_factory=dict)  # running means of the kept networks
    clip: float = 0.0  # largest norm of a network's gradient; 0 leaves it as it is
    team: Team = field(default_factory=Team)

    def update(self, *names: str) -> None:
        """Average the gradients of these networks over all processes, clip them, and take one optimiser step."""
        self.team.average_([p.grad for name in names for p in self.networks[name].parameters() if p.grad is not None])
        for name in names:
            for parameter in self.networks[name].parameters():
                if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                    parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)  # what fused optimisers ask for
            if self.clip > 0:
                nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.clip)
            self.optimisers[name].step()
            self.optimisers[name].zero_grad(set_to_none=True)

    def mean(self, *losses: Tensor) -> tuple[Tensor, ...]:
        """Means of losses of one shape over all processes, detached."""
        values = torch.stack([loss.detach() for loss in losses])
        self.team.average_([values])
        return tuple(values.unbind())

    @torch.no_grad()
    def average(self, keep: float) -> None:
        """Move the averaged weights towards the current ones: average ← keep·average + (1 − keep)·weights."""
        for name, average in self.averages.items():
            torch._foreach_lerp_(list(average.parameters()), list(self.networks[name].parameters()), 1.0 - keep)

    def best(self, name: str) -> nn.Module:
        """The network to sample from: averaged if averaging is on."""
        return self.averages.get(name, self.networks[name])

    def generate(self, codes: Tensor) -> Tensor:
        """Faces (B, V, 3) from codes (B, code) of the prior."""
        return self.best("generator")(self.mapped(codes))

    def mapped(self, codes: Tensor) -> Tensor:
        """Codes of the prior as the generator wants them."""
        return self.best("mapping")(codes) if "mapping" in self.networks else codes

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes during training, by name; the tensors are the live ones, not copies."""
        return dict(self._named_tensors())

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, network in self.networks.items():
            for key, parameter in network.named_parameters():
                yield f"network/{name}/{key}", parameter.detach()
                for slot, value in self.optimisers[name].state.get(parameter, {}).items():
                    yield f"optimiser/{name}/{key}/{slot}", value
        for name, average in self.averages.items():
            for key, parameter in average.named_parameters():
                yield f"average/{name}/{key}", parameter.detach()
        for name, number in self.variables.items():
            yield f"variable/{name}", number

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors()` gave. Raises `KeyError` or `RuntimeError` if names or shapes do not fit."""
        for name, network in self.networks.items():
            for key, parameter in network.named_parameters():
                _put(parameter, tensors[f"network/{name}/{key}"])
                self._load_slots(f"optimiser/{name}/{key}/", name, parameter, tensors)
        for name, average in self.averages.items():
            for key, parameter in average.named_parameters():
                _put(parameter, tensors[f"average/{name}/{key}"])
        for name, number in self.variables.items():
            _put(number, tensors[f"variable/{name}"])

    def _load_slots(self, prefix: str, name: str, parameter: Tensor, tensors: Mapping[str, Tensor]) -> None:
        slots = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
        known = SLOTS[type(self.optimisers[name])]
        if slots and slots.keys() != known:
            raise RuntimeError(f"{prefix} holds {', '.join(slots)}")
        for slot, value in slots.items():
            if value.shape != (torch.Size() if slot == "step" else parameter.shape):
                raise RuntimeError(f"{prefix}{slot} has shape {tuple(value.shape)}")
        on_device = {slot: value.clone().to(parameter.device) for slot, value in slots.items()}
        if on_device:
            self.optimisers[name].state[parameter] = on_device


def _put(target: Tensor, value: Tensor) -> None:
    """Copy a tensor that must be of the same shape and kind: `copy_` alone would spread a single number."""
    if value.shape != target.shape or value.dtype != target.dtype:
        raise RuntimeError(f"{tuple(value.shape)} {value.dtype} in place of {tuple(target.shape)} {target.dtype}")
    target.copy_(value)


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
                f"{faces.path} has {counted(len(rows), 'training face')}, fewer than one batch of {batch}; "
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
