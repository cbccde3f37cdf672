"""Ctrl-C and SIGTERM during training: finish the step, keep a checkpoint, then end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from meshgan.errors import MeshganError
from meshgan.training.team import Team

AGREE_EVERY = 8  # steps after which several processes ask each other whether to stop


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
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
