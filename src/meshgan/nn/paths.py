"""Which code computes a mesh convolution. All paths give the same numbers, to rounding.

kernel   compiled C++ (native/): float32 on the CPU, where it has been built
rows     PyTorch, sparse matrices in compressed rows: everything else on the CPU
gather   PyTorch, sparse matrices as padded gathers of neighbours: GPUs, and export, which knows no sparse tensors
fused    the same through torch.compile: training on a GPU
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Path = Literal["kernel", "rows", "gather", "fused"]

_forced: ContextVar[Path | None] = ContextVar("meshgan_forced_path", default=None)


@contextmanager
def forced(path: Path) -> Iterator[None]:
    """Within the block, compute by `path`."""
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


def gathers(field: "Tensor") -> bool:
    """True where sparse products are done by padded gathers."""
    if _compiling():
        return True
    if path := _forced.get():
        return path in ("gather", "fused")
    return field.device.type != "cpu"


def compiled() -> bool:
    """True where the compiled kernel may be used, if it is there."""
    return not _compiling() and in_arrays()


def in_arrays() -> bool:
    """True where arrays may be decoded by the compiled kernel, without PyTorch."""
    return _forced.get() in (None, "kernel")


def fused(values: "Tensor") -> bool:
    """True where PyTorch's compiler fuses the gathers: for training only, because it compiles anew for new shapes."""
    if _compiling():
        return False
    if path := _forced.get():
        return path == "fused"
    import torch

    return values.device.type == "cuda" and torch.is_grad_enabled() and _can_compile()


def _compiling() -> bool:
    import torch

    return torch.compiler.is_compiling()


@cache
def _can_compile() -> bool:
    """Triton needs a C compiler on its first call."""
    return find_spec("triton") is not None and any(shutil.which(name) for name in ("cc", "gcc", "clang"))
