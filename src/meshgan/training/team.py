"""The processes that train together under `torchrun` (a team of one everywhere else), and how they are stopped.

Ctrl-C, SIGTERM and a terminal that closes let them finish the step and keep a checkpoint.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from meshgan.errors import MeshganError, UsageError

Value = TypeVar("Value")

CPU = torch.device("cpu")
PATIENCE = timedelta(hours=1)  # the others wait while rank 0 writes the model
HANGUP = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))  # `nohup` ignores it
SIGNALS = (signal.SIGINT, signal.SIGTERM, *HANGUP)
AGREE_EVERY = 8  # steps after which several processes ask each other whether to stop


@dataclass(frozen=True)
class Team:
    """`size` processes, of which this is number `rank`; every method does nothing in a team of one."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes; afterwards all hold the same bits."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _lost_process():
            dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes (B, …), in the order in which a single process would have them."""
        if self.size == 1:
            return rows
        everyone = rows.new_zeros(self.size * len(rows), *rows.shape[1:])
        everyone[self.rank :: self.size] = rows
        with _lost_process():
            dist.all_reduce(everyone)
        return everyone

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""
        if self.size > 1:
            with _lost_process():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), src=0)

    def largest(self, value: int) -> int:
        """The largest value of any process."""
        if self.size == 1:
            return value
        values = torch.tensor([value], device=self.device)
        with _lost_process():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values.item())

    def share(self, value: Value) -> Value:
        """What rank 0 passed in, in every process (small Python values)."""
        if self.size == 1:
            return value
        values = [value]
        with _lost_process():
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            with _lost_process():
                dist.barrier()


@contextmanager
def _lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise MeshganError(
            "another process of this run has ended; `resume=True` goes on from the last checkpoint."
        ) from error


@contextmanager
def team(device: str) -> Iterator[Team]:
    """Join the processes that `torchrun` started (gloo on CPUs, NCCL on GPUs), or be a team of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = _choose_device(device)
    if size == 1:
        yield Team(device=place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()


def _choose_device(device: str) -> torch.device:
    available = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device '{device}': choose auto, cpu or cuda.")
    if device == "cuda" and not available:
        raise UsageError("no CUDA device was found; choose `device='cpu'`, or auto.")
    if device == "cpu" or not available:
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda", torch.cuda.current_device())


class Stopped(MeshganError):  # noqa: N818 (not an error of the run)
    """The user stopped a run; a checkpoint was kept."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


@contextmanager
def stop_requests(team: Team) -> Iterator[Callable[[int], int]]:
    """Catch the signals; the function that is yielded gives the one to stop for after a step, or 0.

    All processes of a team stop after the same step. A second Ctrl-C in a team of one ends at once.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT and team.size == 1:
            raise KeyboardInterrupt
        caught.append(number)

    def stop(step: int) -> int:
        if team.size > 1 and step % AGREE_EVERY:
            return 0
        return team.largest(caught[0] if caught else 0)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard = [number for number in SIGNALS if not (number in HANGUP and signal.getsignal(number) is signal.SIG_IGN)]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
