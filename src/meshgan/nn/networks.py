"""The networks of the paper on one hierarchy: encoder, decoder (the generator), auto-encoder (the discriminator)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meshgan.arrays import Singles
from meshgan.errors import UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn import kernel
from meshgan.nn.chebyshev import Chain, ChebConv, glorot
from meshgan.nn.generator import (
    BROAD,
    SLOPE,
    STRENGTH_WIDTH,
    STRENGTHS,
    STRONGEST,
    check_weights,
    noise_size,
)
from meshgan.nn.plan import COORDINATES, NetworkSpec, OrderedLevel, coarsest_size, ordered_levels
from meshgan.nn.sampling import Reordering, SparseOperator

RIDGE = 1e-6  # on the diagonal of a covariance, whose root is taken
GAIN = 0.5  # of the noise, to begin with

Network = TypeVar("Network", bound=nn.Module)
Chance = tuple[Tensor | None, Tensor | None]  # noise (B, V, 1) and fields (B, V, C)


class _Convolutions(nn.Module):
    """Convolutions and selections from the finest level down to the coarsest: (B, V, 3) → (B, V_coarsest · width)."""

    def __init__(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        levels = ordered_levels(hierarchy, spec)
        self.order = Reordering(levels[0].order)
        self.layers = narrowing(levels, COORDINATES, spec, generator)
        self.chain = Chain(list(self.layers), before=self.order)  # type: ignore[arg-type]

    def forward(self, vertices: Tensor) -> Tensor:
        return self.chain(vertices).flatten(1)


class Encoder(nn.Module):
    """Vertices (B, V, 3), normalised, to codes (B, code)."""

    linear: Tensor | None

    def __init__(
        self, hierarchy: Hierarchy, spec: NetworkSpec | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        spec = spec or NetworkSpec()
        self.spec = spec
        self.convolutions = _Convolutions(hierarchy, spec, generator)
        self.dense = dense(coarsest_size(hierarchy, spec), spec.code, generator)
        self.register_buffer("linear", _no_map(hierarchy, spec))

    def forward(self, vertices: Tensor) -> Tensor:
        code = self.dense(self.convolutions(vertices))
        if self.linear is not None:
            code = code + coordinates(vertices, self.linear)
        return torch.relu(code) if self.spec.code_activation == "relu" else code

    def set_linear(self, matrix: Tensor) -> None:
        """Set the linear map to the inverse of a decoder's `matrix` (code, V, 3)."""
        _set_map(self.linear, matrix)


class Decoder(nn.Module):
    """Codes (B, code) to vertices (B, V, 3), normalised; MeshGAN's generator, and the back of its discriminator."""

    linear: Tensor | None
    # Where `detail` is asked for:
    deviations: Tensor  # (V, 3) of what the linear map leaves of real faces
    metric: Tensor  # (V, 3) squares of mm per network unit: under it the rows of the linear map are orthogonal

    def __init__(
        self, hierarchy: Hierarchy, spec: NetworkSpec | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        spec = spec or NetworkSpec()
        self.spec = spec
        levels = ordered_levels(hierarchy, spec)[::-1]
        self.dense = dense(spec.code, coarsest_size(hierarchy, spec), generator)
        self.order = Reordering(levels[-1].order)
        outputs = spec.widths[::-1]
        inputs = (outputs[0], *outputs[:-1])
        laplacians = [SparseOperator(level.laplacian) for level in levels]
        self.layers = nn.ModuleList(
            ChebConv(
                laplacians[i],
                inputs[i] + (spec.widths[-1] if spec.skips and i else 0),
                outputs[i],
                spec.terms,
                up=SparseOperator(levels[i].up),
                generator=generator,
            )
            for i in range(len(levels))
        )
        self.last = ChebConv(laplacians[-1], outputs[-1], COORDINATES, spec.terms, elu=False, generator=generator)
        # With skips or noise, what lies between the layers is not one chain: only the last one reorders.
        self.end = Chain([self.last], after=self.order)
        self.chain = self.end if spec.skips else Chain([*self.layers, self.last], after=self.order)
        self.register_buffer("linear", _no_map(hierarchy, spec))
        self.rows = tuple(layer.rows_in for layer in (*self.layers, self.last))
        if spec.detail:
            sizes = [(layer.rows_in, layer.inputs) for layer in (*self.layers, self.last)]
            self.gains = nn.ParameterList(torch.full(size, GAIN) for size in sizes)
            self.offset = nn.Parameter(torch.zeros(self.last.rows_out, COORDINATES))
            self.register_buffer("deviations", torch.ones(self.last.rows_out, COORDINATES))
            self.register_buffer("metric", torch.ones(self.last.rows_out, COORDINATES))
        if spec.traits:
            self.strength = perceptron((spec.code, STRENGTH_WIDTH, STRENGTHS), generator)
            self.loadings = nn.ParameterList(torch.zeros(STRENGTHS, rows) for rows, _ in sizes)
            broad = [size for size in sizes if size[0] <= BROAD]
            self.patterns = nn.ParameterList(torch.zeros(spec.traits, *size) for size in broad)

    def forward(self, code: Tensor, noise: Tensor | None = None, traits: Tensor | None = None) -> Tensor:
        """Decode; with `noise` (B, noise_size) from N(0, 1), details of chance are added to the mean ones.

        With `traits` (B, traits) instead, those alone that a whole face has, at their mean strength.
        """
        if code.ndim != 2 or code.shape[1] != self.spec.code:
            raise ValueError(f"expected codes (B, {self.spec.code}), got {tuple(code.shape)}.")
        first = self.dense(code).unflatten(1, (-1, self.spec.widths[-1]))
        vertices = (
            self._with_skips(first) if self.spec.skips else self._through(first, self.chance(code, noise, traits))
        )
        if self.spec.detail:
            vertices = self.beyond((vertices + self.offset) * self.deviations)
        if self.linear is not None:
            vertices = vertices + (code @ self.linear).view_as(vertices)
        return vertices

    @property
    def noise_size(self) -> int:
        """How many numbers of chance a face has: see `generator.noise_size`."""
        return noise_size(self.spec, self.rows)

    def beyond(self, vertices: Tensor) -> Tensor:
        """What the linear map cannot say of `vertices` (B, V, 3)."""
        assert self.linear is not None
        return vertices - (self.project(vertices) @ self.linear).view_as(vertices)

    def chance(self, code: Tensor, noise: Tensor | None, traits: Tensor | None = None) -> list[Chance] | None:
        """What is added to the fields of each level, as factors: numbers of vertices (B, V, 1) times gains (V, C), and
        patterns (B, V, C) of the traits, both times how strong the details of the face are there.

        That is the exponential of STRENGTHS numbers of the whole face with loadings of each vertex: what coordinates
        tell of it, for the old are more lined than the young, and chance, for coordinates tell only some of it.
        """
        if noise is None and traits is None:
            return None
        parts: list[Tensor] = []
        strengths: list[Tensor] = []
        if noise is not None:
            *parts, own = noise.split((*self.rows, noise.shape[1] - sum(self.rows)), dim=1)
            if self.spec.traits:
                numbers, traits = own.split((STRENGTHS, self.spec.traits), dim=1)
                said = self.strength(code) + numbers
                strengths = [
                    (STRONGEST * torch.tanh(said @ one / STRONGEST)).exp()[:, :, None] for one in self.loadings
                ]
        chances: list[Chance] = []
        for i in range(len(self.rows)):
            part, common = parts[i][:, :, None] if parts else None, None
            if traits is not None and i < len(self.patterns):
                common = (traits @ self.patterns[i].flatten(1)).unflatten(1, self.patterns[i].shape[1:])
            if strengths:
                part, common = (None if one is None else one * strengths[i] for one in (part, common))
            chances.append((part, common))
        return chances

    def _through(self, values: Tensor, chance: list[Chance] | None) -> Tensor:
        if chance is None:
            return self.chain(values)
        for layer, (part, common), gain in zip((*self.layers, self.end), chance, self.gains, strict=True):
            values = values if part is None else torch.addcmul(values, part, gain)
            values = layer(values if common is None else values + common)
        return values

    def _with_skips(self, first: Tensor) -> Tensor:
        """Concatenate the first tensor, up-sampled, with the input of each convolution but the first and the last."""
        values = carried = first
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, ChebConv)
            if i:
                below = self.layers[i - 1].up
                assert isinstance(below, SparseOperator)
                carried = below(carried.transpose(0, 1)).transpose(0, 1)
                values = torch.cat([values, carried], dim=-1)
            values = layer(values)
        return self.chain(values)

    def project(self, vertices: Tensor) -> Tensor:
        """Codes (B, code) whose linear part is nearest to `vertices` (B, V, 3): principal coordinates."""
        assert self.linear is not None
        return coordinates(vertices, self.linear, self.metric if self.spec.detail else None)

    def set_linear(self, matrix: Tensor) -> None:
        """Set the linear map to `matrix` (code, V, 3), for example principal components times their deviations."""
        _set_map(self.linear, matrix)


def coordinates(vertices: Tensor, linear: Tensor, metric: Tensor | None = None) -> Tensor:
    """Codes (B, code) with `codes @ linear` nearest to `vertices` (B, V, 3), by squares weighted with `metric` (V, 3).

    The rows of the linear map (code, 3 V) must be orthogonal under it, as principal components are; one of zeros has
    the code 0.
    """
    dual = linear if metric is None else linear * metric.flatten()
    squares = (linear * dual).sum(dim=1)
    return vertices.flatten(1) @ dual.T / squares.clamp_min(torch.finfo(squares.dtype).tiny)


class MappingNetwork(nn.Module):
    """Codes (B, code) drawn from U(−1, 1) to codes (B, code) of a decoder: z + MLP(z), to begin with the identity.

    After the mapping network of Karras et al. 2019 (StyleGAN). It ends in an affine map, which is not trained: the
    identity, until a finished run appends one (`training.finish.match_moments`).
    """

    matrix: Tensor  # (code, code)
    offset: Tensor  # (code,)

    def __init__(self, spec: NetworkSpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layers = perceptron((spec.code, spec.mapping, spec.mapping, spec.mapping, spec.code), generator)
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        self.register_buffer("matrix", torch.eye(spec.code))
        self.register_buffer("offset", torch.zeros(spec.code))

    def forward(self, code: Tensor) -> Tensor:
        return (code + self.layers(code)) @ self.matrix + self.offset

    def append(self, matrix: Tensor, offset: Tensor) -> None:
        """Let an affine map follow, codes @ `matrix` (code, code) + `offset` (code,)."""
        matrix, offset = matrix.to(self.matrix), offset.to(self.offset)
        self.offset.copy_(self.offset @ matrix + offset)
        self.matrix.copy_(self.matrix @ matrix)


class Likeness(nn.Module):
    """Codes (B, code) drawn from U(−1, 1) to codes with the mean and the covariance of `known` ones (N, code).

    It has no weights. To begin with, known are codes of deviation 1.
    """

    known: Tensor  # (N, code)

    def __init__(self, count: int, code: int) -> None:
        super().__init__()
        self.register_buffer("known", torch.randn(count, code, generator=torch.Generator().manual_seed(0)))

    def forward(self, code: Tensor) -> Tensor:
        mean = self.known.mean(dim=0)
        away = self.known - mean
        covariance = away.T @ away / len(away)
        ridge = RIDGE * torch.eye(len(mean), device=mean.device) * (covariance.diagonal().mean() + RIDGE)
        root = torch.linalg.cholesky_ex(covariance + ridge)[0]
        return mean + 3**0.5 * code @ root.T  # numbers from U(−1, 1) have a variance of 1/3


class Autoencoder(nn.Module):
    """Encoder and decoder: CoMA's network and BEGAN's discriminator, (B, V, 3) → (B, V, 3)."""

    def __init__(
        self, hierarchy: Hierarchy, spec: NetworkSpec | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.encoder = Encoder(hierarchy, spec, generator)
        self.decoder = Decoder(hierarchy, spec, generator)

    def forward(self, vertices: Tensor) -> Tensor:
        return self.decoder(self.encoder(vertices))


class ScalarCritic(nn.Module):
    """The encoder's convolutions and one linear unit: (B, V, 3) → (B,), for GAN and WGAN."""

    def __init__(
        self, hierarchy: Hierarchy, spec: NetworkSpec | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        spec = spec or NetworkSpec()
        self.convolutions = _Convolutions(hierarchy, spec, generator)
        self.dense = dense(coarsest_size(hierarchy, spec), 1, generator)

    def forward(self, vertices: Tensor) -> Tensor:
        return self.dense(self.convolutions(vertices)).squeeze(1)


class InMillimetres(nn.Module):
    """A decoder whose results are faces (B, V, 3) in mm, of normalised ones with `mean` and `std` (V, 3)."""

    mean: Tensor
    std: Tensor

    def __init__(self, decoder: nn.Module, mean: Singles, std: Singles) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("mean", torch.from_numpy(mean.copy()))
        self.register_buffer("std", torch.from_numpy(std.copy()))

    def forward(self, code: Tensor) -> Tensor:
        return self.mean + self.std * self.decoder(code)


def filled(network: Network, weights: Mapping[str, NDArray[Any]]) -> Network:
    """Put weights into a network and freeze it. Raises `MeshganError` for other names and shapes than it has."""
    wanted = network.state_dict()
    check_weights(weights, {name: tuple(value.shape) for name, value in wanted.items()})
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(torch.tensor(weights[name]))
    return network.requires_grad_(False)


def on_arrays(network: nn.Module) -> Callable[..., Singles]:
    """A network as a function of arrays, wherever it is, without gradients."""

    def applied(*values: Singles) -> Singles:
        place = next(network.parameters()).device
        with kernel.pytorch_in_one_thread(), torch.inference_mode():
            return np.asarray(network(*(torch.from_numpy(one).to(place) for one in values)).cpu().numpy())

    return applied


def parameter_count(network: nn.Module) -> int:
    """The number of trainable scalars."""
    return sum(parameter.numel() for parameter in network.parameters())


def narrowing(
    levels: Sequence[OrderedLevel], inputs: int, spec: NetworkSpec, generator: torch.Generator | None
) -> nn.ModuleList:
    """Convolutions from `inputs` channels through the widths of `spec`, each with the selection of the next level."""
    channels = pairwise((inputs, *spec.widths))
    return nn.ModuleList(
        ChebConv(
            SparseOperator(level.laplacian),
            before,
            after,
            spec.terms,
            kept=torch.as_tensor(level.kept),
            generator=generator,
        )
        for level, (before, after) in zip(levels, channels, strict=True)
    )


def _no_map(hierarchy: Hierarchy, spec: NetworkSpec) -> Tensor | None:
    """A linear map (code, 3 V) of zeros, if the networks have one."""
    return torch.zeros(spec.code, hierarchy.levels[0].laplacian.shape[0] * COORDINATES) if spec.linear else None


def _set_map(linear: Tensor | None, matrix: Tensor) -> None:
    if linear is None:
        raise UsageError("this network has no linear map: set linear = true in its NetworkSpec.")
    with torch.no_grad():
        linear.copy_(matrix.flatten(1))


class SmallCode(nn.Module):
    """Principal coordinates (B, N) through a code of few numbers and back, by perceptrons with `hidden` layers (ELU).

    One that starts `from_components` is the linear map onto the first coordinates and back, to which the perceptrons
    add what they learn. It measures what a set of faces has to teach beyond that map; nothing that ships is of it.
    """

    def __init__(self, coordinates: int, code: int, hidden: Sequence[int], from_components: bool) -> None:
        super().__init__()
        self.linear = from_components
        self.encoder, self.decoder = (
            self._half((first, *hidden, last)) for first, last in ((coordinates, code), (code, coordinates))
        )

    def _half(self, widths: Sequence[int]) -> nn.Sequential:
        *inner, last = (nn.Linear(a, b) for a, b in pairwise(widths))
        if self.linear:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return nn.Sequential(*(layer for one in inner for layer in (one, nn.ELU())), last)

    def forward(self, coordinates: Tensor) -> Tensor:
        """The coordinates (B, N) that are left."""
        code = self.encoder(coordinates)
        if not self.linear:
            return self.decoder(code)
        code = code + coordinates[:, : code.shape[1]]
        return self.decoder(code) + nn.functional.pad(code, (0, coordinates.shape[1] - code.shape[1]))


def rebuilding(network: nn.Module, coordinates: Tensor) -> Tensor:
    """The mean distance of rows (B, N) to what a network makes of them; its gradient is finite at zero."""
    return (network(coordinates) - coordinates).square().sum(dim=1).add(1e-8).sqrt().mean()


def perceptron(widths: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    """Dense layers of these widths with leaky ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [dense(inputs, outputs, generator), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])


def dense(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):  # its own random weights are not kept, and nobody's numbers are drawn
        layer = nn.Linear(inputs, outputs)
    glorot(layer.weight, inputs, outputs, generator)
    nn.init.zeros_(layer.bias)
    return layer


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
