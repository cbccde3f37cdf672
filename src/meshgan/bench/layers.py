"""The same networks made of other layers: what a training step is compared with."""

import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.nn.chebyshev import ChebConv
from meshgan.nn.networks import Autoencoder, Decoder, Encoder


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
