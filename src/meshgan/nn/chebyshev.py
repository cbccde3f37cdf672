"""ChebConv: convolution by Chebyshev polynomials of the rescaled mesh Laplacian (Eq. 1 of the paper)."""

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.nn import kernel, paths
from meshgan.nn.plan import Plan
from meshgan.nn.sampling import Reordering, SparseOperator, select


class ChebConv(nn.Module):
    """y = ELU(S Σₖ Tₖ(L̃) U x Wₖ + b), k = 0 … terms − 1, on fields (B, V, C), channels last.

    `laplacian` is L̃ (V, V), rescaled to eigenvalues in [-1, 1]. `up` (V, V_in) is an optional up-sampling in front;
    `kept` (V_out,) optionally selects the vertices of the next level, and only those are computed. `weight` is
    (terms, inputs, outputs), `bias` (outputs,). Raises `ValueError` if the operators do not fit each other.
    """

    kept: Tensor | None

    def __init__(
        self,
        laplacian: SparseOperator,
        inputs: int,
        outputs: int,
        terms: int = 6,
        *,
        up: SparseOperator | None = None,
        kept: Tensor | None = None,
        elu: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        vertices = laplacian.shape[0]
        if laplacian.shape[1] != vertices or (up is not None and up.shape[0] != vertices):
            raise ValueError(f"a Laplacian {laplacian.shape} and an up-sampling {up and up.shape} do not fit.")
        if kept is not None:
            _check_indices(kept, vertices)
        if min(terms, inputs, outputs) < 1:
            raise ValueError(f"a convolution needs terms, inputs and outputs of at least 1: {terms, inputs, outputs}.")
        self.laplacian, self.up, self.elu = laplacian, up, elu
        self.terms, self.inputs, self.outputs = terms, inputs, outputs
        self.rows_in = vertices if up is None else up.shape[1]
        self.rows_out = vertices if kept is None else len(kept)
        self.register_buffer("kept", kept, persistent=False)
        self.weight = nn.Parameter(torch.empty(terms, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        glorot(self.weight, terms * inputs, terms * outputs, generator)
        self._project_first = self._projecting_first_is_cheaper()
        self._alone = Chain([self])

    def forward(self, values: Tensor) -> Tensor:
        """Convolve `values` (B, V_in, inputs) into (B, V_out, outputs)."""
        return self._alone(values)

    def on_rows(self, field: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The same on a field laid out (V_in, B, inputs), by PyTorch operations: one sparse product per batch."""
        result = (self._projected if self._project_first else self._summed)(field, weight) + bias
        return nn.functional.elu(result) if self.elu else result

    def _summed(self, field: Tensor, weight: Tensor) -> Tensor:
        """Build the terms by the recurrence Tₖ = 2 L̃ Tₖ₋₁ − Tₖ₋₂, select, then sum over the channels."""
        field = self.up(field) if self.up else field
        terms = [field, self.laplacian(field)][: len(weight)]
        while len(terms) < len(weight):
            terms.append(2 * self.laplacian(terms[-1]) - terms[-2])
        stacked = torch.cat([self._select(term) for term in terms], dim=-1)
        return stacked @ weight.flatten(0, 1)

    def _projected(self, field: Tensor, weight: Tensor) -> Tensor:
        """Multiply by the weights first, before up-sampling, then sum over the terms by Clenshaw's recurrence.

        The same polynomial: Wₖ acts on channels, U and L̃ on vertices, so they commute. The products run over the
        outputs' channels, and the channels are multiplied on the coarse level.
        """
        parts = (field @ weight.transpose(0, 1).flatten(1)).split(weight.shape[-1], dim=-1)
        parts = tuple(self.up(part) if self.up else part for part in parts)
        total, following = parts[-1], None
        for k in range(len(parts) - 2, -1, -1):
            step = parts[k] + (2 if k else 1) * self.laplacian(total)
            total, following = step if following is None else step - following, total
        return self._select(total)

    @cached_property
    def plan(self) -> Plan:
        """The operators as the compiled path reads them."""
        up = None if self.up is None else self.up.matrix
        kept = None if self.kept is None else self.kept.numpy(force=True)
        if up is None and kept is None and not self._project_first:
            kept = np.arange(self.laplacian.shape[0])
        return Plan(self.laplacian.matrix, up, kept)

    def _select(self, field: Tensor) -> Tensor:
        return field if self.kept is None else select(field, self.kept)

    def _projecting_first_is_cheaper(self) -> bool:
        """Compare the multiplications of the two orders."""
        terms, inputs, outputs = self.weight.shape
        vertices = self.laplacian.shape[0]
        below = self.up.shape[1] if self.up else vertices
        above = vertices if self.kept is None else len(self.kept)
        ups = self.up.entries if self.up else 0
        products = (terms - 1) * self.laplacian.entries
        summed = (ups + products) * inputs + above * terms * inputs * outputs
        return (terms * ups + products) * outputs + below * terms * inputs * outputs < summed


class Chain:
    """Layers one after the other, with the vertices reordered before and after; owns no parameters.

    This is where Python hands over to compiled code, which believes what it is told; so both paths begin with the same
    checks. `ValueError` says what was given and what is needed.
    """

    def __init__(
        self, layers: Sequence[ChebConv], before: Reordering | None = None, after: Reordering | None = None
    ) -> None:
        self.layers, self.before, self.after = tuple(layers), before, after
        self._compiled: kernel.Compiled | None = None
        first, last = self.layers[0], self.layers[-1]
        for one, other in pairwise(self.layers):
            if (one.rows_out, one.outputs) != (other.rows_in, other.inputs):
                needed, given = (other.rows_in, other.inputs), (one.rows_out, one.outputs)
                raise ValueError(f"a layer that needs fields (B, {needed}) cannot follow one that gives (B, {given}).")
        for ends, rows in ((before, first.rows_in), (after, last.rows_out)):
            if ends is not None and len(ends.order) != rows:
                raise ValueError(f"an order of {len(ends.order)} vertices does not fit a field of {rows}.")

    def __call__(self, values: Tensor) -> Tensor:
        """Convolve `values` (B, V, C). Raises `ValueError` unless shape, type and device are those of the layers."""
        self._check(values)
        if paths.compiled() and kernel.supports(self.layers, values):
            self._compiled = self._compiled or kernel.Compiled(self.layers, self.before, self.after)
            return kernel.run(self._compiled, values, _plain)
        parameters = [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]
        values = values if self.before is None else self.before.inwards(values)
        values = (_fused() if paths.fused(values) else _plain)(self.layers, values, parameters)
        return values if self.after is None else self.after.outwards(values)

    def _check(self, values: Tensor) -> None:
        first = self.layers[0]
        if values.ndim != 3 or values.shape[1:] != (first.rows_in, first.inputs):
            raise ValueError(f"expected a field (B, {first.rows_in}, {first.inputs}), got {tuple(values.shape)}.")
        for layer in self.layers:
            weight, bias = layer.weight, layer.bias
            shapes = (tuple(weight.shape), tuple(bias.shape))
            if shapes != ((layer.terms, layer.inputs, layer.outputs), (layer.outputs,)):
                needed = ((layer.terms, layer.inputs, layer.outputs), (layer.outputs,))
                raise ValueError(f"weight and bias of a convolution must be {needed}, not {shapes}.")
            if not (weight.dtype == bias.dtype == values.dtype and weight.device == bias.device == values.device):
                kinds = [f"{tensor.dtype} on {tensor.device}" for tensor in (values, weight, bias)]
                raise ValueError(f"field, weight and bias must be of one type and device, not {', '.join(kinds)}.")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None}  # pointers are not for copies


def _check_indices(kept: Tensor, vertices: int) -> None:
    """Raise `ValueError` unless `kept` are different vertices of so many."""
    if kept.ndim != 1 or kept.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"kept vertices are numbers (N,), not {kept.dtype} {tuple(kept.shape)}.")
    if len(kept) and (int(kept.min()) < 0 or int(kept.max()) >= vertices or len(kept.unique()) < len(kept)):
        raise ValueError(f"kept vertices must be different ones of {vertices}.")


def _plain(layers: Sequence[ChebConv], values: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    field = values.transpose(0, 1)
    for layer, weight, bias in zip(layers, parameters[::2], parameters[1::2], strict=True):
        field = layer.on_rows(field, weight, bias)
    return field.transpose(0, 1).contiguous()


@cache
def _fused() -> Callable[[Sequence[ChebConv], Tensor, Sequence[Tensor]], Tensor]:
    """`_plain`, compiled: gathers, sums over neighbours and the steps of the recurrences become single kernels."""
    return torch.compile(_plain)


def glorot(weight: Tensor, fan_in: int, fan_out: int, generator: torch.Generator | None) -> None:
    """Fill with uniform numbers of variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=generator)
