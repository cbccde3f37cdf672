"""Which code computes a mesh convolution. All paths give the same numbers, to rounding.

kernel   compiled C++ (native/): float32 on the CPU, where it has been built
rows     PyTorch, sparse matrices in compressed rows: everything else on the CPU, and CUDA
gather   PyTorch, sparse matrices as padded gathers of neighbours: other devices and export, where no sparse ones are
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Path = Literal["kernel", "rows", "gather"]

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
        return path == "gather"
    return field.device.type not in ("cpu", "cuda")


def compiled() -> bool:
    """True where the compiled kernel may be used, if it is there."""
    return not _compiling() and in_arrays()


def in_arrays() -> bool:
    """True where arrays may be decoded by the compiled kernel, without PyTorch."""
    return _forced.get() in (None, "kernel")


def _compiling() -> bool:
    import torch

    return torch.compiler.is_compiling()
