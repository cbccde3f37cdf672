"""Undo and redo."""

import time
from collections import deque
from collections.abc import Callable

from meshgan.studio.state import State

MOST = 200  # faces that are remembered
PAUSE = 0.7  # seconds: a slider that stands still for longer has been let go


class History:
    """The faces that a visitor has had, and where among them they are now."""

    def __init__(self, first: State, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._past: deque[State] = deque(maxlen=MOST)
        self._future: list[State] = []
        self.current = first
        self._control, self._last = "", clock()

    def push(self, state: State, control: str = "") -> None:
        """Go on with `state`. The changes of one slider, in one movement, are one step."""
        now = self._clock()
        if not control or control != self._control or now - self._last > PAUSE:
            self._past.append(self.current)
        self._future.clear()
        self.current, self._control, self._last = state, control, now

    def undo(self) -> bool:
        """One step back, if there is one."""
        if not self._past:
            return False
        self._future.append(self.current)
        self.current, self._control = self._past.pop(), ""
        return True

    def redo(self) -> bool:
        """One step forward, if one was taken back."""
        if not self._future:
            return False
        self._past.append(self.current)
        self.current, self._control = self._future.pop(), ""
        return True
