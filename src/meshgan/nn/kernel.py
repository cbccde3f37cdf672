"""The compiled path: chains of ChebConv in one call, forward and backward (chebyshev.cpp).

The library is optional. It is built once per instruction set, chosen here at run time, and called through ctypes; it
shares PyTorch's threads by calling the OpenMP runtime that PyTorch has loaded.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meshgan.nn.plan import LANES, Layer
from meshgan.nn.sampling import Reordering

if TYPE_CHECKING:
    from meshgan.nn.chebyshev import ChebConv

VERSION = 2  # of the library's calls, as in chebyshev.cpp
NARROW = 4  # fields of so few channels enter and leave a chain without padding
FALLBACKS = {"avx512": ("avx512", "avx2", "base"), "avx2": ("avx2", "base")}

Plain = Callable[[Sequence[Any], Tensor, Sequence[Tensor]], Tensor]  # layers, values, parameters


@cache
def library() -> ctypes.CDLL | None:
    """The library for this processor, or None where it has not been built."""
    capability = torch.backends.cpu.get_cpu_capability().lower()
    names = FALLBACKS.get(capability, ("base",))
    return next((loaded for name in names if (loaded := load(name))), None)


@cache
def load(instructions: str) -> ctypes.CDLL | None:
    """The library built for "avx512", "avx2" or "base", or None."""
    for file in Path(__file__).parent.glob(f"_chebyshev_{instructions}.*"):
        try:
            loaded = ctypes.CDLL(str(file))
            for function in (loaded.meshgan_version, loaded.meshgan_tape, loaded.meshgan_slots):
                function.restype = ctypes.c_long
        except (OSError, AttributeError):
            continue
        if loaded.meshgan_version() == VERSION * 10_000 + ctypes.sizeof(Layer):
            return loaded
    return None


@cache
def _parallel() -> ctypes.c_void_p:
    """GOMP_parallel of the OpenMP runtime that PyTorch uses, or null: then the library starts threads of its own."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError):
        return ctypes.c_void_p(None)


def supports(layers: Sequence["ChebConv"], values: Tensor) -> bool:
    """True where the library is there and can compute this chain: float32 on the CPU."""
    tensors = (values, *(layer.weight for layer in layers))
    return (
        library() is not None
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and all(layer.up is None or layer.kept is None for layer in layers)
        and values.numel() > 0
    )


class Chain:
    """Layers as the library reads them. Channels are padded to whole rows except at a narrow end."""

    def __init__(self, layers: Sequence["ChebConv"], before: Reordering | None, after: Reordering | None) -> None:
        self.layers, self.before, self.after = layers, before, after
        self.threads = torch.get_num_threads()
        self.structs = (Layer * len(layers))(*(_struct(layer) for layer in layers))
        first, last = self.structs[0], self.structs[-1]
        self.narrow_in = not first.expands and first.inputs <= NARROW
        self.narrow_out = bool(last.expands) and last.outputs <= NARROW
        for struct, narrow, order in ((first, self.narrow_in, before), (last, self.narrow_out, after)):
            if narrow:
                struct.narrow = 1
                struct.order = None if order is None else order.order.data_ptr()
        self.rows = last.fine if last.expands else last.coarse
        self.outputs = last.outputs if self.narrow_out else padded(last.outputs)

    def enter(self, values: Tensor) -> Tensor:
        """Reorder and pad what the library does not reorder and pad itself."""
        if self.narrow_in:
            return values.contiguous()
        values = values if self.before is None else self.before.inwards(values)
        return _widened(values, padded(values.shape[-1])).contiguous()

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

    def forward(self, values: Tensor, parameters: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
        """The result, and what the backward pass needs if `keep`."""
        batch = len(values)
        self._point(parameters, ("weight", "bias"))
        result = values.new_empty(batch, self.rows, self.outputs)
        tape = values.new_empty(batch, _library().meshgan_tape(self.structs, len(self.layers))) if keep else None
        self._call("forward", batch, values, result, tape)
        return result, tape

    def backward(
        self,
        saved: Sequence[Tensor],
        parameters: Sequence[Tensor],
        gradient: Tensor,
        for_input: bool,
        for_weights: bool,
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Gradients of the input and of the parameters, where wanted."""
        values, result, tape = saved
        self._point(parameters, ("weight", "bias"))
        gradients: list[Tensor | None] = [None] * len(parameters)
        slots = input_gradient = None
        if for_weights:
            gradients = [torch.empty_like(parameter) for parameter in parameters]
            self._point(gradients, ("weight_gradient", "bias_gradient"))
            slots = values.new_empty(len(values), _library().meshgan_slots(self.structs, len(self.layers)))
        if for_input:
            input_gradient = torch.empty_like(values)
        self._call("backward", len(values), values, result, tape, gradient.contiguous(), input_gradient, slots)
        return input_gradient, gradients

    def _point(self, tensors: Sequence[Any], names: tuple[str, str]) -> None:
        for i, struct in enumerate(self.structs):
            for name, tensor in zip(names, tensors[2 * i : 2 * i + 2], strict=True):
                setattr(struct, name, tensor.data_ptr())

    def _call(self, name: str, batch: int, *tensors: Tensor | None) -> None:
        pointers = (ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)
        function = getattr(_library(), f"meshgan_{name}")
        structs = (self.structs, len(self.layers), ctypes.c_long(batch))
        if function(*structs, *pointers, self.threads, _parallel()):
            raise MemoryError("the convolutions of a batch do not fit in memory")


def run(
    layers: Sequence["ChebConv"], values: Tensor, before: Reordering | None, after: Reordering | None, plain: Plain
) -> Tensor:
    """The chain on `values` (B, V, C); `plain` computes the same by PyTorch, for derivatives of derivatives."""
    chain = Chain(layers, before, after)
    parameters = [tensor.contiguous() for layer in layers for tensor in (layer.weight, layer.bias)]
    entering = chain.enter(values)
    if not torch.is_grad_enabled():
        return chain.leave(chain.forward(entering, parameters, keep=False)[0])
    return chain.leave(_Function.apply(chain, plain, entering, *parameters))  # type: ignore[no-untyped-call]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: Chain, plain: Plain, values: Tensor, *parameters: Tensor) -> Tensor:
        result, tape = chain.forward(values, parameters, keep=any(ctx.needs_input_grad))
        if tape is not None:
            ctx.save_for_backward(values, result, tape, *parameters)
            ctx.chain, ctx.plain = chain, plain
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        values, result, tape, *parameters = ctx.saved_tensors
        for_input, *for_parameters = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            wanted = [t for t, need in zip([values, *parameters], ctx.needs_input_grad[2:], strict=True) if need]
            again = ctx.chain.differentiable(ctx.plain, values, parameters)
            found = iter(torch.autograd.grad(again, wanted, gradient, create_graph=True))
            return None, None, *(next(found) if need else None for need in ctx.needs_input_grad[2:])
        saved = (values, result, tape)
        input_gradient, gradients = ctx.chain.backward(saved, parameters, gradient, for_input, any(for_parameters))
        return None, None, input_gradient, *gradients


def padded(channels: int) -> int:
    """Channels of a row that holds so many."""
    return -(-channels // LANES) * LANES


def _widened(values: Tensor, channels: int) -> Tensor:
    missing = channels - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing)) if missing else values


def _struct(layer: "ChebConv") -> Layer:
    struct = layer.plan.struct
    struct.elu = layer.elu
    struct.terms, struct.inputs, struct.outputs = layer.weight.shape
    return struct


def _library() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None
    return loaded
