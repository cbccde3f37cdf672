"""What a training step is compared with: the same networks made of other layers, and the floor.

The floor of a network is the arithmetic and traffic it cannot do without, counted, and the machine's rates, measured.
Counted is the algorithm that the networks run (docs/speed.md), a multiplication and an addition as two operations:
products with the entries of sparse matrices, and products of channels. Activations and sums of losses are left out,
so the floor is a little too low. Traffic counts every field between two layers once for each time it must be read or
written; sparse matrices and weights stay in a cache.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.machine import processor
from meshgan.nn.chebyshev import ChebConv
from meshgan.nn.networks import Autoencoder, Decoder, Encoder

FLOAT = 4  # bytes
SIZE = 2048  # of the matrices whose product is timed
COPIED = 2**26  # floats, 256 MiB: beyond every cache
ROUNDS = 12


class CsrConv(nn.Module):
    """The straightforward version: all terms by sparse products, concatenated, one matrix product."""

    def __init__(self, layer: ChebConv) -> None:
        super().__init__()
        self.laplacian, self.weight, self.bias = layer.laplacian, layer.weight, layer.bias

    def forward(self, values: Tensor) -> Tensor:
        field = values.transpose(0, 1).contiguous()  # (V, B, C): one sparse product for the whole batch
        terms = [field, self.laplacian(field)]
        while len(terms) < len(self.weight):
            terms.append(2 * self.laplacian(terms[-1]) - terms[-2])
        return (torch.cat(terms, dim=-1) @ self.weight.flatten(0, 1) + self.bias).transpose(0, 1)

    def gradients(self) -> dict[str, Tensor]:
        """As they are."""
        assert self.weight.grad is not None
        assert self.bias.grad is not None
        return {"weight": self.weight.grad, "bias": self.bias.grad}


class PygConv(nn.Module):
    """PyTorch Geometric's ChebConv on the same operator.

    It builds its Laplacian D − A itself, from edge weights. For L̃ = 2L/λ − I with L1 = 0, the weights A = −L̃ off
    the diagonal and λ = 2 give the same L̃; messages flow against the edges, because A⁻¹W is not symmetric.
    """

    edges: Tensor
    edge_weight: Tensor

    @staticmethod
    def available() -> bool:
        """True if the extra `bench` is installed."""
        return find_spec("torch_geometric") is not None

    def __init__(self, layer: ChebConv) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch_geometric.nn import ChebConv as Geometric
        terms, inputs, outputs = layer.weight.shape
        matrix = layer.laplacian.matrix.tocoo()
        off = matrix.row != matrix.col
        self.register_buffer("edges", torch.as_tensor(np.stack([matrix.row[off], matrix.col[off]]).astype(np.int64)))
        self.register_buffer("edge_weight", torch.as_tensor(-matrix.data[off].astype(np.float32)))
        self.layer = Geometric(inputs, outputs, terms, normalization=None, flow="target_to_source")
        with torch.no_grad():
            for line, weight in zip(self.layer.lins, layer.weight, strict=True):
                line.weight.copy_(weight.T)
            self.layer.bias.copy_(layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values, self.edges, self.edge_weight, lambda_max=torch.tensor(2.0))

    def gradients(self) -> dict[str, Tensor]:
        """Stacked as in a ChebConv."""
        weight = torch.stack([line.weight.grad.T for line in self.layer.lins])
        return {"weight": weight, "bias": self.layer.bias.grad}


class Twin(nn.Module):
    """An encoder, decoder or auto-encoder with its convolutions replaced, and everything else done the obvious way."""

    def __init__(self, network: nn.Module, kind: Callable[[ChebConv], Any]) -> None:
        super().__init__()
        parts: list[Any] = [network.encoder, network.decoder] if isinstance(network, Autoencoder) else [network]
        self.parts = nn.ModuleList(_Part(part, kind) for part in parts)

    def forward(self, values: Tensor) -> Tensor:
        for part in self.parts:
            values = part(values)
        return values

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by the names of the original network's parameters."""
        prefixes = ("encoder.", "decoder.") if len(self.parts) == 2 else ("",)
        found: dict[str, Tensor] = {}
        for prefix, part in zip(prefixes, self.parts, strict=True):
            assert isinstance(part, _Part)
            found |= {prefix + name: gradient for name, gradient in part.gradients().items()}
        return found


class _Part(nn.Module):
    def __init__(self, network: Encoder | Decoder, kind: Callable[[ChebConv], Any]) -> None:
        super().__init__()
        self.encodes = isinstance(network, Encoder)
        body = network.convolutions if isinstance(network, Encoder) else network
        self.order, self.dense = body.order, network.dense
        self.names = [name for name, module in network.named_modules() if isinstance(module, ChebConv)]
        originals: list[Any] = [network.get_submodule(name) for name in self.names]
        self.options = [(layer.up, layer.kept, layer.elu) for layer in originals]
        self.width = originals[0].weight.shape[1]
        self.convolutions = nn.ModuleList(kind(layer) for layer in originals)

    def forward(self, values: Tensor) -> Tensor:
        field = self.order.inwards(values) if self.encodes else self.dense(values).unflatten(1, (-1, self.width))
        for convolution, (up, kept, elu) in zip(self.convolutions, self.options, strict=True):
            field = field if up is None else up(field.transpose(0, 1)).transpose(0, 1)
            field = convolution(field)
            field = field if kept is None else field[:, kept]
            field = nn.functional.elu(field) if elu else field
        return self.dense(field.flatten(1)) if self.encodes else self.order.outwards(field)

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by the names of the original network's parameters."""
        found: dict[str, Any] = {f"dense.{name}": parameter.grad for name, parameter in self.dense.named_parameters()}
        convolutions: Iterable[Any] = self.convolutions
        for name, convolution in zip(self.names, convolutions, strict=True):
            found |= {f"{name}.{key}": gradient for key, gradient in convolution.gradients().items()}
        return found


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and bytes read or written."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Passes:
    """The work for one sample: forward, gradients of the weights, gradients of the input."""

    forward: Work
    weights: Work
    inputs: Work

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.weights + other.weights, self.inputs + other.inputs)


NOTHING = Passes(Work(), Work(), Work())


def convolution(layer: ChebConv) -> Passes:
    """One ChebConv. With up-sampling, channels are multiplied on the coarse level; with a selection, where it keeps."""
    terms, inputs, outputs = layer.weight.shape
    vertices, entries = layer.laplacian.shape[0], layer.laplacian.entries
    rows_in = layer.up.shape[1] if layer.up else vertices
    rows_out = vertices if layer.kept is None else len(layer.kept)
    dense = 2.0 * min(rows_in, rows_out) * terms * inputs * outputs
    if layer.plan.sizes["expands"]:
        spread = terms * (layer.up.entries if layer.up else 0)
        sparse = 2.0 * outputs * ((terms - 1) * entries + spread)
        forward, weights, backward = dense + sparse, dense + sparse, dense
    else:
        wanted = entries if layer.kept is None else _entries_of(layer, layer.kept)
        forward = dense + 2.0 * inputs * ((terms - 2) * entries + wanted)
        weights, backward = dense, dense + 2.0 * inputs * (terms - 1) * entries
    field_in, field_out = FLOAT * rows_in * inputs, FLOAT * rows_out * outputs
    return Passes(
        Work(forward, field_in + field_out), Work(weights, field_in + 2 * field_out), Work(backward, field_in)
    )


def dense(layer: nn.Linear) -> Passes:
    """One linear layer: three products of the same size."""
    each = Work(2.0 * layer.in_features * layer.out_features, FLOAT * (layer.in_features + layer.out_features))
    return Passes(each, each, each)


def network(module: nn.Module) -> Passes:
    """All layers of a network."""
    convolutions = [convolution(m) for m in module.modules() if isinstance(m, ChebConv)]
    linears = [dense(m) for m in module.modules() if isinstance(m, nn.Linear)]
    return sum(convolutions + linears, start=NOTHING)


def training_step(generator: Decoder, critic: Autoencoder, batch: int) -> Work:
    """D(x), G(z), D(G(z)) and all gradients of BEGAN; the gradients of x and z are not needed."""
    first, wired = critic.encoder.convolutions.layers[0], generator.dense
    assert isinstance(first, ChebConv)
    g, d = network(generator), network(critic)
    of_real = d.forward + d.weights + d.inputs + convolution(first).inputs * -1
    of_fake = d.forward + d.weights + d.inputs
    of_generator = g.forward + g.weights + g.inputs + dense(wired).inputs * -1
    return (of_real + of_fake + of_generator) * batch


def _entries_of(layer: ChebConv, rows: torch.Tensor) -> int:
    starts = layer.laplacian.row_starts
    return int((starts[rows + 1] - starts[rows]).sum())


def conditions() -> dict[str, Any]:
    """Processor, threads and versions, so that a figure can be read without its author."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def matrix_product() -> tuple[Callable[[], Any], float]:
    """PyTorch's own float32 matrix product on all of its threads, to be timed, and its operations."""
    a, b, out = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE), torch.empty(SIZE, SIZE)
    return lambda: torch.mm(a, b, out=out), 2.0 * SIZE**3


def copy_rate() -> float:
    """The best rate of a large copy, in GB/s, counting what is read and what is written."""
    source, target = torch.rand(COPIED), torch.empty(COPIED)
    return 2 * source.nbytes / _best(lambda: target.copy_(source)) / 1e9


def _best(work: Callable[[], Any]) -> float:
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
