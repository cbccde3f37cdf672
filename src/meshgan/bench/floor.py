"""The floor of a network: the arithmetic and traffic it cannot do without, counted, and the machine's rates, measured.

Counted is the algorithm that the networks run (docs/speed.md), a multiplication and an addition as two operations:
products with the entries of sparse matrices, and products of channels. Activations and sums of losses are left out,
so the floor is a little too low. Traffic counts every field between two layers once for each time it must be read or
written; sparse matrices and weights stay in a cache.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meshgan.machine import processor
from meshgan.nn.chebyshev import ChebConv
from meshgan.nn.networks import Autoencoder, Decoder

FLOAT = 4  # bytes
SIZE = 2048  # of the matrices whose product is timed
COPIED = 2**26  # floats, 256 MiB: beyond every cache
ROUNDS = 12


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
