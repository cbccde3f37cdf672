"""Fixed sparse matrices that act on fields of a mesh: Laplacians and barycentric up-sampling."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meshgan.errors import UsageError
from meshgan.nn import paths

MOST_PADDED = 2**25  # numbers of a padded matrix: 400 MB


class SparseOperator(nn.Module):
    """A fixed sparse matrix (R, C) acting on fields (C, N), differentiable any number of times.

    Two forms of the same numbers, each with its transpose for the backward pass: compressed rows for the CPU, and
    padded neighbour gathers, static in shape, for GPUs, `torch.compile` and ONNX. Values take torch's default type.
    Raises `ValueError` if the matrix has entries outside its shape, `UsageError` if one row is so long that padding
    all others to its length would fill the memory.
    """

    row_starts: Tensor
    row_starts_transposed: Tensor
    indices: Tensor
    indices_transposed: Tensor
    values: Tensor
    values_transposed: Tensor
    neighbours: Tensor
    neighbours_transposed: Tensor
    weights: Tensor
    weights_transposed: Tensor

    def __init__(self, matrix: sp.csr_array) -> None:
        super().__init__()
        self.shape: tuple[int, int] = matrix.shape
        self.entries = int(matrix.nnz)
        sp.csr_array(matrix).check_format(full_check=True)
        for one in (matrix, matrix.T):
            longest = int(np.diff(sp.csr_array(one).indptr).max(initial=0))
            if longest * one.shape[0] > MOST_PADDED:
                raise UsageError(f"the mesh has a vertex that depends on {longest} others; is it damaged?")
        for suffix, one in (("", sp.csr_array(matrix)), ("_transposed", sp.csr_array(matrix.T))):
            one.sort_indices()
            for name, array in {**_compressed(one), **_padded(one)}.items():
                self.register_buffer(name + suffix, array, persistent=False)

    @property
    def matrix(self) -> sp.csr_array:
        """The matrix in SciPy's form, with the values as they are used here."""
        arrays = (array.numpy(force=True) for array in (self.values, self.indices, self.row_starts))
        return sp.csr_array(tuple(arrays), shape=self.shape)

    def forward(self, field: Tensor) -> Tensor:
        """Apply to a field (C, N) or (C, B, N): the result has R rows. Raises `ValueError` if the field has not C."""
        if field.ndim < 2 or field.shape[0] != self.shape[1]:
            raise ValueError(f"a matrix {self.shape} cannot be applied to a field {tuple(field.shape)}.")
        flat = field.reshape(field.shape[0], -1)
        product = self._gathered(flat) if paths.gathers(field) else self._compressed(flat)
        return product.reshape(self.shape[0], *field.shape[1:])

    def _gathered(self, field: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and field.requires_grad):
            return _gather(field, self.neighbours, self.weights)
        transposed = (self.neighbours_transposed, self.weights_transposed)
        return _Gather.apply(field, self.neighbours, self.weights, *transposed)  # type: ignore[no-untyped-call]

    def _compressed(self, field: Tensor) -> Tensor:
        forward = (self.row_starts, self.indices, self.values)
        backward = (self.row_starts_transposed, self.indices_transposed, self.values_transposed)
        return _Product.apply(field, self.shape, *forward, *backward)  # type: ignore[no-untyped-call]


class Reordering(nn.Module):
    """An order of vertices in which neighbours lie close in memory: row r inside is row `order[r]` outside.

    Raises `ValueError` if `order` (V,) is no permutation.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, order: NDArray[np.integer[Any]]) -> None:
        super().__init__()
        if order.ndim != 1 or not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError(f"an order of vertices must be a permutation, not {order.shape} of other numbers.")
        self.register_buffer("order", torch.as_tensor(order.astype(np.int32)), persistent=False)
        self.register_buffer("inverse", torch.as_tensor(np.argsort(order).astype(np.int32)), persistent=False)

    def inwards(self, values: Tensor) -> Tensor:
        """Fields (B, V, C) from the order outside."""
        return _Reorder.apply(values, self.order, self.inverse)  # type: ignore[no-untyped-call]

    def outwards(self, values: Tensor) -> Tensor:
        """Fields (B, V, C) back to the order outside."""
        return _Reorder.apply(values, self.inverse, self.order)  # type: ignore[no-untyped-call]


def _compressed(matrix: sp.csr_array) -> dict[str, Tensor]:
    """The three arrays of compressed rows, indices in 32 bits as MKL reads them."""
    return {
        "row_starts": torch.as_tensor(matrix.indptr.astype(np.int32)),
        "indices": torch.as_tensor(matrix.indices.astype(np.int32)),
        "values": torch.as_tensor(matrix.data).to(torch.get_default_dtype()),
    }


def _padded(matrix: sp.csr_array) -> dict[str, Tensor]:
    """Neighbours and weights (R, W) with W the longest row; padding has weight zero."""
    lengths = np.diff(matrix.indptr)
    present = np.arange(max(lengths.max(initial=0), 1)) < lengths[:, None]
    neighbours = np.zeros(present.shape, dtype=np.int64)
    weights = np.zeros(present.shape)
    neighbours[present], weights[present] = matrix.indices, matrix.data
    return {
        "neighbours": torch.as_tensor(neighbours),
        "weights": torch.as_tensor(weights).to(torch.get_default_dtype()),
    }


def _gather(field: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    return (field[neighbours] * weights[:, :, None].to(field.dtype)).sum(dim=1)


def select(field: Tensor, kept: Tensor) -> Tensor:
    """The rows `kept`, all different, of a field (V, B, C)."""
    return _Select.apply(field, kept)  # type: ignore[no-untyped-call]


class _Select(torch.autograd.Function):
    """Rows once each: the gradient is a copy into zeros, without the sum that indexing would do."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.rows = field.shape[0]
        return field.index_select(0, kept)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, *gradient.shape[1:]).index_copy(0, kept, gradient), None


class _Reorder(torch.autograd.Function):
    """A permutation of dimension 1; its gradient is the inverse permutation."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return values.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        order, inverse = ctx.saved_tensors
        return _Reorder.apply(gradient, inverse, order), None, None  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """Gathers forward and gathers backward: the transpose is known, so no atomic scatter is needed."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, *operator: Tensor) -> Tensor:
        ctx.save_for_backward(*operator)
        return _gather(field, *operator[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        neighbours, weights, neighbours_transposed, weights_transposed = ctx.saved_tensors
        operator = (neighbours_transposed, weights_transposed, neighbours, weights)
        return _Gather.apply(gradient, *operator), None, None, None, None  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """Product of compressed rows with a dense field, and with the transpose in the backward pass."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, shape: tuple[int, int], *operator: Tensor) -> Tensor:
        ctx.save_for_backward(*operator)
        ctx.shape = shape
        row_starts, indices, values = operator[:3]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            # PyTorch 2.11 and 2.12 say this of what is told not to check as well.
            warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
            matrix = torch.sparse_csr_tensor(row_starts, indices, values.to(field.dtype), shape, check_invariants=False)
        return matrix @ field

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        operator = ctx.saved_tensors
        product = _Product.apply(gradient, ctx.shape[::-1], *operator[3:], *operator[:3])  # type: ignore[no-untyped-call]
        return product, *(None,) * 7
