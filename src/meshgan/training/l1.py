"""The mean absolute error: the loss of every reconstruction in the paper."""

from typing import Any

import torch
from torch import Tensor


def l1(faces: Tensor, rebuilt: Tensor) -> Tensor:
    """Mean |faces − rebuilt|, a scalar, of two tensors of one shape; differentiable once."""
    error: Tensor = _L1.apply(faces, rebuilt)  # type: ignore[no-untyped-call]
    return error


class _L1(torch.autograd.Function):
    """Fewer passes over the vertices than automatic differentiation makes; at zero the slope is zero."""

    @staticmethod
    def forward(ctx: Any, faces: Tensor, rebuilt: Tensor) -> Tensor:
        difference = rebuilt - faces
        ctx.save_for_backward(difference)
        return difference.abs().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (difference,) = ctx.saved_tensors
        slope = difference.sign().mul_(gradient / difference.numel())
        wants_faces, wants_rebuilt = ctx.needs_input_grad
        return -slope if wants_faces else None, slope if wants_rebuilt else None
