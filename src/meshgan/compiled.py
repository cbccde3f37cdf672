"""Machine code from Python, by numba: one way to compile, and one to keep what was compiled.

A few functions, which pictures and lips need, stand in C++ as well (native/kernels.cpp), bit by bit the same. Where
that library was built, a verb that calls no other function does without Numba: importing it, with its types, takes a
second of processor time, and compiling a quarter of a minute after an installation. Neither can go: where no compiler
was found there is no library, and the same in NumPy, triangle by triangle, would take hours where Numba takes minutes.
"""

import ctypes
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, update_wrapper
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from meshgan.remembered import cache_folder

Function = Callable[..., Any]

CHOICE = "MESHGAN_KERNEL"  # an environment variable: "none" for neither this library nor that of nn/kernel.py
VERSION = 2  # of the library's calls, as in native/kernels.cpp

SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # an option `fastmath`: so sums of numbers vectorise

_one_at_a_time = Lock()


def compiled(native: str = "", **options: Any) -> Callable[[Function], Any]:
    """Compile a function on its first call, without Python's lock, and keep the machine code for later processes.

    Numba is imported then, which takes as long as numpy and scipy together. It keeps the code beside the source; where
    the installation is read-only, in the program's cache folder; where there is none either, in a folder of the user's
    own among the temporary files; and else in memory alone.

    `native` says that native/kernels.cpp has the function too, and for what: its name there, and for each argument the
    type and the dimensions of an array ("f4:2"), or "n" for a whole number; tuples are spelt out. It returns nothing.
    Whatever else it is given, Numba compiles it for that.
    """

    def decorate(function: Function) -> Any:
        made = _Compiled(function, {"nogil": True} | options)
        return _Native(made, *native.split()) if native else made

    return decorate


class _Native:
    """A function of the library, for arguments of the types that it takes; for others the compiled one."""

    def __init__(self, compiled: "_Compiled", name: str, *types: str) -> None:
        update_wrapper(self, compiled)
        self.compiled, self.name = compiled, name
        self._arrays = [None if word == "n" else (np.dtype(word[:2]), int(word[3:])) for word in types]

    def __call__(self, *given: Any) -> Any:
        library = None if os.environ.get(CHOICE) == "none" else _library()
        words = None if library is None else self._words(list(_flat(given)))
        if words is None:
            return self.compiled(*given)
        if getattr(library, self.name)(*words):
            raise MemoryError(f"there is no memory for what '{self.name}' needs.")
        return None

    def _words(self, given: list[Any]) -> list[Any] | None:
        """The arguments as the library takes them, or None if they are of other types."""
        words: list[Any] = []
        for value, wanted in zip(given, self._arrays, strict=True):
            if wanted is None:
                words.append(ctypes.c_long(value))
                continue
            if value.dtype != wanted[0] or value.ndim != wanted[1] or not value.flags.c_contiguous:
                return None
            words += [ctypes.c_void_p(value.ctypes.data), *map(ctypes.c_long, value.shape)]
        return words

    @property
    def _numba_type_(self) -> Any:
        """What numba takes this for where a compiled function calls it."""
        return self.compiled._numba_type_


def _flat(given: tuple[Any, ...]) -> Iterator[Any]:
    for one in given:
        if isinstance(one, tuple):
            yield from _flat(one)
        else:
            yield one


@cache
def _library() -> ctypes.CDLL | None:
    """The library, or None where it has not been built, or is another version's."""
    for file in Path(__file__).parent.glob("_kernels.*"):
        try:
            loaded = ctypes.CDLL(str(file))
            version = loaded.meshgan_kernels_version()
        except (OSError, AttributeError):
            continue
        if version == VERSION:
            return loaded
    return None


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
