"""The compiled path: chains of ChebConv in one call, forward and backward (native/chebyshev.cpp).

The library is optional. It is built once per instruction set, chosen here at run time, and called through ctypes. It
has threads of its own, as many as PyTorch is set to use. It trusts its caller: what it is given has been checked by
`Chain` and by the constructors of what a chain is made of. The environment variable MESHGAN_KERNEL overrules the
choice: "avx512", "avx2" or "base", "none" for PyTorch's operations alone, or the path of a library.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from meshgan.errors import UsageError
from meshgan.nn.plan import LANES, Layer
from meshgan.nn.sampling import Reordering

if TYPE_CHECKING:
    from meshgan.nn.chebyshev import ChebConv

VERSION = 5  # of the library's calls, as in native/chebyshev.cpp
KEPT_BYTES = 2**28  # of memory of one size that is kept for the next pass
NARROW = 4  # fields of so few channels enter and leave a chain without padding
FALLBACKS = {"avx512": ("avx512", "avx2", "base"), "avx2": ("avx2", "base")}
CHOICE = "MESHGAN_KERNEL"  # an environment variable
NOT_BUILT = "kernel-not-built.txt"  # what setup.py leaves beside this file where the library could not be built

Plain = Callable[[Sequence[Any], Tensor, Sequence[Tensor]], Tensor]  # layers, values, parameters


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
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return next((name for name in FALLBACKS.get(capability, ("base",)) if load(name)), None)


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
    """How many threads share a batch."""
    return _threads.get() or torch.get_num_threads()


@contextmanager
def pytorch_in_one_thread() -> Iterator[None]:
    """Within the block, PyTorch's own operations take one thread if this one calls them; the library's are as many.

    Beside the convolutions they are small, and whenever another program wants a core, what PyTorch's threads lose by
    waiting for each other is many times what they gain. Other threads and PyTorch's settings are left as they are.
    """
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
    names = (Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}" for suffix in ("so", "dylib"))
    found: list[Callable[[int], int]] = []
    for name in names:
        try:
            torch_cpu = ctypes.CDLL(str(name))
            openmp = torch_cpu.omp_set_num_threads
        except (OSError, AttributeError):
            continue
        openmp.argtypes, openmp.restype = (ctypes.c_int,), None
        found.append(partial(_swap, openmp))
        if hasattr(torch_cpu, "MKL_Set_Num_Threads_Local"):
            mkl = torch_cpu.MKL_Set_Num_Threads_Local
            mkl.argtypes, mkl.restype = (ctypes.c_int,), ctypes.c_int
            found.append(mkl)
    return tuple(found)


def _swap(openmp: Callable[[int], None], number: int) -> int:
    before = torch.get_num_threads()
    openmp(number)
    return before


class Compiled:
    """A chain of layers as the library reads it. Channels are padded to whole rows except at a narrow end."""

    def __init__(self, layers: Sequence["ChebConv"], before: Reordering | None, after: Reordering | None) -> None:
        self.layers, self.before, self.after = layers, before, after
        self.structs = (Layer * len(layers))(*(_struct(layer) for layer in layers))
        first, last = self.structs[0], self.structs[-1]
        self.narrow_in = not first.expands and first.inputs <= NARROW
        self.narrow_out = bool(last.expands) and last.outputs <= NARROW
        self._orders = [None if ends is None else ends.order for ends in (before, after)]  # kept: structs point there
        for struct, narrow, order in zip((first, last), (self.narrow_in, self.narrow_out), self._orders, strict=True):
            if narrow:
                struct.narrow = 1
                struct.order = None if order is None else order.data_ptr()
        self.rows = last.fine if last.expands else last.coarse
        self.outputs = last.outputs if self.narrow_out else padded(last.outputs)
        self.tape_size = _library().meshgan_tape(self.structs, len(layers))
        self.slots_size = _library().meshgan_slots(self.structs, len(layers))

    def enter(self, values: Tensor) -> Tensor:
        """Reorder and pad what the library does not reorder and pad itself."""
        if self.narrow_in:
            return _plain_memory(values)
        values = values if self.before is None else self.before.inwards(values)
        return _plain_memory(_widened(values, padded(values.shape[-1])))

    def leave(self, values: Tensor) -> Tensor:
        """The inverse of `enter` for results."""
        if self.narrow_out:
            return values
        values = values[..., : self.structs[-1].outputs].contiguous()
        return values if self.after is None else self.after.outwards(values)

    def differentiable(self, plain: Plain, values: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """What `forward` computes, by PyTorch."""
        values = values[..., : self.structs[0].inputs]
        if self.narrow_in and self.before is not None:
            values = self.before.inwards(values)
        values = plain(self.layers, values, parameters)
        if self.narrow_out and self.after is not None:
            values = self.after.outwards(values)
        return _widened(values, self.outputs)

    def forward(self, values: Tensor, parameters: Sequence[Tensor], tape: Tensor | None, threads: int) -> Tensor:
        """The result; what the backward pass needs goes to `tape` (B, tape_size)."""
        result = values.new_empty(len(values), self.rows, self.outputs)
        pointers = (_pointers(parameters), len(values), values.data_ptr(), result.data_ptr(), _pointer(tape))
        _check(_library().meshgan_forward(self.structs, len(self.layers), *pointers, threads))
        return result

    def backward(
        self,
        saved: tuple[Tensor, Tensor, Tensor],
        parameters: Sequence[Tensor],
        gradient: Tensor,
        wanted: tuple[bool, bool],
        threads: int,
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Gradients of the input and of the parameters, where `wanted`; `threads` as in `forward`."""
        values, result, tape = saved
        gradient = _plain_memory(gradient)
        input_gradient = torch.empty_like(values) if wanted[0] else None
        gradients = [torch.empty_like(parameter) for parameter in parameters] if wanted[1] else None
        slots = Borrowed(len(values), self.slots_size) if wanted[1] else None
        tensors = (values, result, tape, gradient, input_gradient, slots.tensor if slots else None)
        pointers = (_pointers(parameters), gradients and _pointers(gradients), len(values), *map(_pointer, tensors))
        _check(_library().meshgan_backward(self.structs, len(self.layers), *pointers, threads))
        return input_gradient, gradients or [None] * len(parameters)


def supports(layers: Sequence["ChebConv"], values: Tensor) -> bool:
    """True where the library is there and can compute this chain: float32 on the CPU."""
    return (
        library() is not None
        and values.dtype == torch.float32
        and values.device.type == "cpu"
        and values.layout == torch.strided
        and values.numel() > 0
        and all((layer.up is None or layer.kept is None) and layer.plan.fits for layer in layers)
    )


def run(compiled: Compiled, values: Tensor, plain: Plain) -> Tensor:
    """The chain on `values` (B, V, C); `plain` computes the same by PyTorch, for derivatives of derivatives."""
    parameters = [_plain_memory(tensor) for layer in compiled.layers for tensor in (layer.weight, layer.bias)]
    entering = compiled.enter(values)
    if not torch.is_grad_enabled():
        return compiled.leave(compiled.forward(entering, parameters, None, threads()))
    return compiled.leave(_Function.apply(compiled, plain, entering, *parameters))  # type: ignore[no-untyped-call]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: Compiled, plain: Plain, values: Tensor, *parameters: Tensor) -> Tensor:
        ctx.compiled, ctx.plain, ctx.threads = compiled, plain, threads()
        ctx.tape = Borrowed(len(values), compiled.tape_size) if any(ctx.needs_input_grad) else None
        result = compiled.forward(values, parameters, ctx.tape and ctx.tape.tensor, ctx.threads)
        if ctx.tape:
            ctx.save_for_backward(values, result, *parameters)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        values, result, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            inputs = [tensor for tensor, need in zip([values, *parameters], needed, strict=True) if need]
            again = ctx.compiled.differentiable(ctx.plain, values, parameters)
            found = iter(torch.autograd.grad(again, inputs, gradient, create_graph=True))
            return None, None, *(next(found) if need else None for need in needed)
        saved, wanted = (values, result, ctx.tape.tensor), (needed[0], any(needed[1:]))
        input_gradient, gradients = ctx.compiled.backward(saved, parameters, gradient, wanted, ctx.threads)
        return None, None, input_gradient, *gradients


class Borrowed:
    """Memory (B, size) for one pass, returned for the next one: fresh memory costs a page fault for each 4 KiB."""

    _free: ClassVar[dict[int, list[Tensor]]] = {}

    def __init__(self, batch: int, size: int) -> None:
        free = self._free.get(batch * size)
        self.tensor = free.pop() if free else torch.empty(batch * size)

    def __del__(self) -> None:
        free = self._free.setdefault(self.tensor.numel(), [])
        if self.tensor.nbytes * (len(free) + 1) <= KEPT_BYTES:
            free.append(self.tensor)


def padded(channels: int) -> int:
    """Channels of a row that holds so many."""
    return -(-channels // LANES) * LANES


def _plain_memory(values: Tensor) -> Tensor:
    """The same numbers as they stand in memory: contiguous, and without a pending change of sign."""
    return values.contiguous().resolve_neg()


def _widened(values: Tensor, channels: int) -> Tensor:
    missing = channels - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing)) if missing else values


def _struct(layer: "ChebConv") -> Layer:
    struct = layer.plan.struct
    struct.elu = layer.elu
    struct.terms, struct.inputs, struct.outputs = layer.weight.shape
    return struct


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _library() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None
    return loaded


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("the convolutions of a batch do not fit in memory")
