"""The compiled path: chains of ChebConv in one call, forward and backward (native/chebyshev.cpp).

The library is optional. It is built once per instruction set, chosen here at run time, and called through ctypes, on
the memory of arrays (`generator`) and of tensors (`chebyshev`) alike; nothing here imports PyTorch before it is
asked for. The library has threads of its own, as many as PyTorch is set to use. It trusts its caller: what it is given
has been checked by `Chain` and by the constructors of what a chain is made of. The environment variable MESHGAN_KERNEL
overrules the choice: "avx512", "avx2" or "base", "none" for PyTorch's operations alone, or the path of a library.
"""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meshgan.compiled import CHOICE
from meshgan.errors import UsageError
from meshgan.nn.plan import LANES, Layer, Plan

VERSION = 5  # of the library's calls, as in native/chebyshev.cpp
NARROW = 4  # fields of so few channels enter and leave a chain without padding
FALLBACKS = {"avx512": ("avx512", "avx2", "base"), "avx2": ("avx2", "base")}
NEEDS = {  # flags of a processor, as Linux names them
    "avx512": {"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "fma", "bmi2"},
}
CPUS = Path("/proc/cpuinfo")
NOT_BUILT = "kernel-not-built.txt"  # what setup.py leaves beside this file where the library could not be built


def library() -> ctypes.CDLL | None:
    """The library for this processor, or None where it has not been built."""
    name = instructions()
    return None if name is None else load(name)


@cache
def instructions() -> str | None:
    """The best instruction set of this processor that the library has been built for, or what MESHGAN_KERNEL says.

    Raises `UsageError` if that is not there.
    """
    if chosen := os.environ.get(CHOICE):
        if chosen != "none" and not load(chosen):
            raise UsageError(f"{CHOICE} asks for '{chosen}': there is no such library for this version of meshgan.")
        return None if chosen == "none" else chosen
    return next((name for name in FALLBACKS.get(capability(), ("base",)) if load(name)), None)


@cache
def capability() -> str:
    """The instructions of this processor that its system lets programs use: "avx512", "avx2" or something else."""
    if not CPUS.is_file():
        import torch  # which knows other systems

        return torch.backends.cpu.get_cpu_capability().lower()
    line = re.search(r"^flags\s*:(.*)$", CPUS.read_text(encoding="utf-8"), re.MULTILINE)
    flags = set(line[1].split()) if line else set()
    return next((name for name, needed in NEEDS.items() if needed <= flags), "default")


def describe() -> str:
    """Which path convolutions take on this machine's CPU, for a line at the start of a run."""
    if name := instructions():
        return f"the compiled kernel ({name})"
    note = Path(__file__).with_name(NOT_BUILT)
    why = note.read_text("utf-8").strip() if note.is_file() else "a C++ compiler was missing on installation"
    return f"PyTorch, some six times slower than the compiled kernel, which is not there ({why})"


@cache
def load(name: str) -> ctypes.CDLL | None:
    """The library built for "avx512", "avx2" or "base", or the one at a path; None if it is not there."""
    files = [Path(name)] if os.sep in name else Path(__file__).parent.glob(f"_chebyshev_{name}.*")
    for file in files:
        try:
            loaded = ctypes.CDLL(str(file))
            _declare(loaded)
        except (OSError, AttributeError):
            continue
        if loaded.meshgan_version() == VERSION * 10_000 + ctypes.sizeof(Layer):
            return loaded
    return None


def _declare(loaded: ctypes.CDLL) -> None:
    pointer, number, chain = ctypes.c_void_p, ctypes.c_long, (ctypes.c_void_p, ctypes.c_int)
    for function in (loaded.meshgan_version, loaded.meshgan_tape, loaded.meshgan_slots):
        function.restype = number
    loaded.meshgan_version.argtypes = ()
    loaded.meshgan_tape.argtypes = loaded.meshgan_slots.argtypes = chain
    loaded.meshgan_forward.argtypes = (*chain, pointer, number, *(pointer,) * 3, ctypes.c_int)
    loaded.meshgan_backward.argtypes = (*chain, pointer, pointer, number, *(pointer,) * 6, ctypes.c_int)


_threads: ContextVar[int | None] = ContextVar("meshgan_threads", default=None)


def threads() -> int:
    """How many threads share a batch: as many as PyTorch is set to use, or would use if it were here."""
    if set_here := _threads.get():
        return set_here
    if of_pytorch := getattr(sys.modules.get("torch"), "get_num_threads", None):
        return int(of_pytorch())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(asked) if asked.isdecimal() and int(asked) else cores or 1


@contextmanager
def pytorch_in_one_thread() -> Iterator[None]:
    """Within the block, PyTorch's own operations take one thread if this one calls them; the library's are as many.

    Beside the convolutions they are small, and whenever another program wants a core, what PyTorch's threads lose by
    waiting for each other is many times what they gain. Other threads and PyTorch's settings are left as they are.
    """
    import torch

    before = torch.get_num_threads()  # of this thread; asking also makes PyTorch give a new thread its number
    if library() is None or _threads.get():
        yield
        return
    token = _threads.set(before)
    limits = _thread_limits()
    earlier = [limit(1) for limit in limits]
    try:
        yield
    finally:
        for limit, number in zip(limits, earlier, strict=True):
            limit(number)
        _threads.reset(token)


@cache
def _thread_limits() -> tuple[Callable[[int], int], ...]:
    """What limits the calling thread alone, in the libraries that PyTorch computes with; each returns the last limit.

    `torch.set_num_threads` will not do: it also sets what new threads begin with. OpenMP's own setting belongs to a
    thread, and so does MKL's "local" one (where 0 stands for no limit of its own).
    """
    import torch

    names = (Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}" for suffix in ("so", "dylib"))
    found: list[Callable[[int], int]] = []
    for name in names:
        try:
            torch_cpu = ctypes.CDLL(str(name))
            openmp = torch_cpu.omp_set_num_threads
        except (OSError, AttributeError):
            continue
        openmp.argtypes, openmp.restype = (ctypes.c_int,), None
        found.append(partial(_swap, openmp, torch.get_num_threads))
        if hasattr(torch_cpu, "MKL_Set_Num_Threads_Local"):
            mkl = torch_cpu.MKL_Set_Num_Threads_Local
            mkl.argtypes, mkl.restype = (ctypes.c_int,), ctypes.c_int
            found.append(mkl)
    return tuple(found)


def _swap(openmp: Callable[[int], None], current: Callable[[], int], number: int) -> int:
    before = current()
    openmp(number)
    return before


class Convolution(Protocol):
    """What a layer of a chain is to the library. The shape of its weights is (terms, inputs, outputs)."""

    @property
    def plan(self) -> Plan: ...
    @property
    def elu(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...


class Compiled:
    """A chain of layers as the library reads it. Channels are padded to whole rows except at a narrow end.

    Where vertices have another order (V,) outside of the chain, `before` or `after` it, row r inside is row `order[r]`
    outside; the library reorders at narrow ends alone. `rows` and `outputs` are those of a result (B, rows, outputs).
    """

    def __init__(
        self,
        layers: Sequence[Convolution],
        before: NDArray[np.int32] | None = None,
        after: NDArray[np.int32] | None = None,
    ) -> None:
        self._structs = (Layer * len(layers))(*(_struct(layer) for layer in layers))
        first, last = self._structs[0], self._structs[-1]
        self.narrow_in = not first.expands and first.inputs <= NARROW
        self.narrow_out = bool(last.expands) and last.outputs <= NARROW
        self._kept = (before, after)  # structs point there
        for struct, narrow, order in zip((first, last), (self.narrow_in, self.narrow_out), self._kept, strict=True):
            if narrow:
                struct.narrow = 1
                struct.order = None if order is None else order.ctypes.data
        self.channels = (first.inputs, last.outputs)
        self.rows = last.fine if last.expands else last.coarse
        self.outputs = last.outputs if self.narrow_out else padded(last.outputs)
        self.tape_size = _library().meshgan_tape(self._structs, len(layers))
        self.slots_size = _library().meshgan_slots(self._structs, len(layers))

    def forward(self, parameters: Sequence[int], batch: int, *addresses: int | None, threads: int) -> None:
        """Of `values` (B, V, C) to a result (B, rows, outputs); what the backward pass needs goes to a tape.

        All are addresses of float32: of weights and biases in turn, and of values, result and tape (B, tape_size).
        Raises `MemoryError`.
        """
        chain = (self._structs, len(self._structs), pointers(parameters), batch)
        _check(_library().meshgan_forward(*chain, *addresses, threads))

    def backward(
        self,
        parameters: Sequence[int],
        gradients: Sequence[int] | None,
        batch: int,
        *addresses: int | None,
        threads: int,
    ) -> None:
        """Gradients of the parameters and of the input; the order of addresses is that of native/chebyshev.cpp."""
        chain = (self._structs, len(self._structs), pointers(parameters), gradients and pointers(gradients), batch)
        _check(_library().meshgan_backward(*chain, *addresses, threads))


def padded(channels: int) -> int:
    """Channels of a row that holds so many."""
    return -(-channels // LANES) * LANES


def pointers(addresses: Sequence[int]) -> Any:
    """Addresses as the library reads several of them."""
    return (ctypes.c_void_p * len(addresses))(*addresses)


def _struct(layer: Convolution) -> Layer:
    struct = layer.plan.struct
    struct.elu = layer.elu
    struct.terms, struct.inputs, struct.outputs = layer.shape
    return struct


def _library() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None
    return loaded


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("the convolutions of a batch do not fit in memory")
