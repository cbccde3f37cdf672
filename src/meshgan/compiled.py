"""Machine code from Python, by numba: one way to compile, and one to keep what was compiled."""

import os
import stat
import tempfile
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from threading import Lock
from typing import Any

from meshgan.remembered import cache_folder

Function = Callable[..., Any]

SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # an option `fastmath`: so sums of numbers vectorise

_one_at_a_time = Lock()


def compiled(**options: Any) -> Callable[[Function], Any]:
    """Compile a function on its first call, without Python's lock, and keep the machine code for later processes.

    Numba is imported then, which takes as long as numpy and scipy together. It keeps the code beside the source; where
    the installation is read-only, in the program's cache folder; where there is none either, in a folder of the user's
    own among the temporary files; and else in memory alone.
    """

    def decorate(function: Function) -> Any:
        return _Compiled(function, {"nogil": True} | options)

    return decorate


class _Compiled:
    """A function that is compiled when it is first called, by Python or by another compiled function."""

    def __init__(self, function: Function, options: dict[str, Any]) -> None:
        update_wrapper(self, function)
        self._function, self._options, self._first = function, options, Lock()
        self._machine: Any = None

    def __call__(self, *given: Any) -> Any:
        return (self._machine or self._made())(*given)

    @property
    def _numba_type_(self) -> Any:
        """What numba takes this for where a compiled function calls it."""
        return (self._machine or self._made())._numba_type_

    def _made(self) -> Any:
        with self._first:
            if self._machine is None:
                self._machine = _kept(self._function, self._options)
        return self._machine


def _kept(function: Function, options: dict[str, Any]) -> Any:
    import numba

    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no place that it knows of: it looks for one now, and compiles later
        pass
    settings: Any = numba.config
    for folder in _elsewhere():
        with _one_at_a_time:
            usual, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
            try:
                return numba.njit(cache=True, **options)(function)
            except (RuntimeError, OSError):
                continue
            finally:
                settings.CACHE_DIR = usual
    return numba.njit(**options)(function)


def _elsewhere() -> list[Path]:
    """Folders that can be written and that nobody else can write to: what lies there will be executed."""
    folders = []
    for folder in (cache_folder() / "numba", Path(tempfile.gettempdir()) / f"meshgan-{_user()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        ours = _user() in ("user", found.st_uid) and not found.st_mode & 0o022
        if ours and stat.S_ISDIR(found.st_mode) and os.access(folder, os.W_OK):
            folders.append(folder)
    return folders


def _user() -> int | str:
    return os.getuid() if hasattr(os, "getuid") else "user"
