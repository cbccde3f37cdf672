"""Which code computes a mesh convolution. All paths give the same numbers, to rounding."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

Path = Literal["kernel", "rows", "gather"]

_forced: ContextVar[Path | None] = ContextVar("meshgan_forced_path", default=None)


@contextmanager
def forced(path: Path) -> Iterator[None]:
    """Within the block, compute by `path`: the compiled kernel, compressed rows, or padded gathers (for export)."""
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


def gathers(field: Tensor) -> bool:
    """True where sparse products are done by padded gathers: off the CPU, when compiling, when exporting."""
    if path := _forced.get():
        return path == "gather"
    return field.device.type != "cpu" or torch.compiler.is_compiling()


def compiled() -> bool:
    """True where the compiled kernel may be used, if it is there."""
    return _forced.get() in (None, "kernel") and not torch.compiler.is_compiling()
