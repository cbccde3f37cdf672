"""ChebConv: convolution by Chebyshev polynomials of the rescaled mesh Laplacian (Eq. 1 of the paper)."""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from meshgan.nn import kernel, paths
from meshgan.nn.plan import Plan, plan_of, projecting_first_is_cheaper
from meshgan.nn.sampling import Reordering, SparseOperator, select

KEPT_BYTES = 2**28  # of memory of one size that is kept for the next pass


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
        entries = (laplacian.entries, up.entries if up else 0)
        self._project_first = projecting_first_is_cheaper(self.shape, *entries, self.rows_in, self.rows_out)
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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Terms, inputs and outputs."""
        return self.terms, self.inputs, self.outputs

    @cached_property
    def plan(self) -> Plan:
        """The operators as the compiled path reads them."""
        up = None if self.up is None else self.up.matrix
        kept = None if self.kept is None else self.kept.numpy(force=True)
        return plan_of(self.shape, self.laplacian.matrix, up, kept)

    def _select(self, field: Tensor) -> Tensor:
        return field if self.kept is None else select(field, self.kept)


class Chain:
    """Layers one after the other, with the vertices reordered before and after; owns no parameters.

    This is where Python hands over to compiled code, which believes what it is told; so both paths begin with the same
    checks. `ValueError` says what was given and what is needed.
    """

    def __init__(
        self, layers: Sequence[ChebConv], before: Reordering | None = None, after: Reordering | None = None
    ) -> None:
        self.layers, self.before, self.after = tuple(layers), before, after
        self._compiled: _Compiled | None = None
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
        if paths.compiled() and supports(self.layers, values):
            self._compiled = self._compiled or _Compiled(self.layers, self.before, self.after)
            return self._compiled(values)
        parameters = [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]
        values = values if self.before is None else self.before.inwards(values)
        values = _plain(self.layers, values, parameters)
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


def supports(layers: Sequence[ChebConv], values: Tensor) -> bool:
    """True where the library is there and can compute this chain: float32 on the CPU."""
    return (
        kernel.library() is not None
        and values.dtype == torch.float32
        and values.device.type == "cpu"
        and values.layout == torch.strided
        and values.numel() > 0
        and all((layer.up is None or layer.kept is None) and layer.plan.fits for layer in layers)
    )


class _Compiled:
    """The compiled library on tensors: a chain with its gradients."""

    def __init__(self, layers: Sequence[ChebConv], before: Reordering | None, after: Reordering | None) -> None:
        self.layers, self.before, self.after = layers, before, after
        orders = (None if ends is None else ends.order.numpy(force=True) for ends in (before, after))
        self.chain = kernel.Compiled(layers, *orders)

    def __call__(self, values: Tensor) -> Tensor:
        """The chain on `values` (B, V, C)."""
        parameters = [_plain_memory(tensor) for layer in self.layers for tensor in (layer.weight, layer.bias)]
        entering = self._enter(values)
        if not torch.is_grad_enabled():
            return self._leave(self.forward(entering, parameters, None, kernel.threads()))
        return self._leave(_Function.apply(self, entering, *parameters))  # type: ignore[no-untyped-call]

    def _enter(self, values: Tensor) -> Tensor:
        """Reorder and pad what the library does not reorder and pad itself."""
        if self.chain.narrow_in:
            return _plain_memory(values)
        values = values if self.before is None else self.before.inwards(values)
        return _plain_memory(_widened(values, kernel.padded(values.shape[-1])))

    def _leave(self, values: Tensor) -> Tensor:
        """The inverse of `_enter` for results."""
        if self.chain.narrow_out:
            return values
        values = values[..., : self.chain.channels[1]].contiguous()
        return values if self.after is None else self.after.outwards(values)

    def differentiable(self, values: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """What `forward` computes, by PyTorch, for derivatives of derivatives."""
        values = values[..., : self.chain.channels[0]]
        if self.chain.narrow_in and self.before is not None:
            values = self.before.inwards(values)
        values = _plain(self.layers, values, parameters)
        if self.chain.narrow_out and self.after is not None:
            values = self.after.outwards(values)
        return _widened(values, self.chain.outputs)

    def forward(self, values: Tensor, parameters: Sequence[Tensor], tape: Tensor | None, threads: int) -> Tensor:
        """The result; what the backward pass needs goes to `tape` (B, tape_size)."""
        result = values.new_empty(len(values), self.chain.rows, self.chain.outputs)
        addresses = (values.data_ptr(), result.data_ptr(), _address(tape))
        self.chain.forward(_addresses(parameters), len(values), *addresses, threads=threads)
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
        slots = Borrowed(len(values), self.chain.slots_size) if wanted[1] else None
        tensors = (values, result, tape, gradient, input_gradient, slots.tensor if slots else None)
        into = None if gradients is None else _addresses(gradients)
        self.chain.backward(_addresses(parameters), into, len(values), *map(_address, tensors), threads=threads)
        return input_gradient, gradients or [None] * len(parameters)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: _Compiled, values: Tensor, *parameters: Tensor) -> Tensor:
        ctx.compiled, ctx.threads = compiled, kernel.threads()
        ctx.tape = Borrowed(len(values), compiled.chain.tape_size) if any(ctx.needs_input_grad) else None
        result = compiled.forward(values, parameters, ctx.tape and ctx.tape.tensor, ctx.threads)
        if ctx.tape:
            ctx.save_for_backward(values, result, *parameters)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        values, result, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            inputs = [tensor for tensor, need in zip([values, *parameters], needed, strict=True) if need]
            again = ctx.compiled.differentiable(values, parameters)
            found = iter(torch.autograd.grad(again, inputs, gradient, create_graph=True))
            return None, *(next(found) if need else None for need in needed)
        saved, wanted = (values, result, ctx.tape.tensor), (needed[0], any(needed[1:]))
        input_gradient, gradients = ctx.compiled.backward(saved, parameters, gradient, wanted, ctx.threads)
        return None, input_gradient, *gradients


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


def _plain_memory(values: Tensor) -> Tensor:
    """The same numbers as they stand in memory: contiguous, and without a pending change of sign."""
    return values.contiguous().resolve_neg()


def _widened(values: Tensor, channels: int) -> Tensor:
    missing = channels - values.shape[-1]
    return nn.functional.pad(values, (0, missing)) if missing else values


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


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


def glorot(weight: Tensor, fan_in: int, fan_out: int, generator: torch.Generator | None) -> None:
    """Fill with uniform numbers of variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=generator)
