"""The generator in arrays: what `networks.Decoder` and `networks.MappingNetwork` compute, without PyTorch.

Importing PyTorch takes longer than decoding thousands of faces. The convolutions are the same compiled library's
(`kernel`), so that both compute one thing; the tests hold them together. Where the library is not there, or a network
has skip connections or none of these convolutions, PyTorch decodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from meshgan.arrays import Codes, Singles
from meshgan.errors import MeshganError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn import kernel
from meshgan.nn.plan import COORDINATES, NetworkSpec, OrderedLevel, Plan, coarsest_size, ordered_levels, plan_of

SLOPE = 0.2  # of the leaky ReLU of perceptrons below zero
MAPPING_LAYERS = 4
STRENGTHS = 8  # numbers that say how strong the details of a face are, together for all its parts
STRENGTH_WIDTH = 64  # of the perceptron that says what coordinates tell of them
STRONGEST = 1.5  # logarithm of what noise is multiplied with, at most
OF_TRAITS = ("strength", "loadings", "patterns")  # weights
BROAD = 400  # vertices of a level whose fields traits have patterns in, at most: they say what is long

Shapes = Mapping[str, tuple[int, ...]]
Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution, as `kernel.Convolution` wants it."""

    plan: Plan
    shape: tuple[int, int, int]
    elu: bool


class _Chain:
    """Layers one after the other, by the compiled library; `order` (V,) is that of the vertices outside, at the end."""

    def __init__(self, layers: Sequence[_Layer], weights: Sequence[Singles], order: NDArray[np.int32] | None) -> None:
        self.layers, self.weights, self.order = layers, weights, order
        self._compiled: kernel.Compiled | None = None

    def __call__(self, values: Singles) -> Singles:
        """Fields (B, V, C) to fields (B, V', C')."""
        chain = self._compiled = self._compiled or kernel.Compiled(self.layers, None, self.order)
        count, rows, channels = values.shape
        entering = np.ascontiguousarray(values, np.float32)
        if not chain.narrow_in and channels != (whole := kernel.padded(channels)):
            entering = np.zeros((count, rows, whole), np.float32)
            entering[..., :channels] = values
        result = np.empty((count, chain.rows, chain.outputs), np.float32)
        addresses = (entering.ctypes.data, result.ctypes.data, None)
        chain.forward([one.ctypes.data for one in self.weights], count, *addresses, threads=kernel.threads())
        if chain.narrow_out:
            return result
        result = result[..., : chain.channels[1]]
        return result if self.order is None else result[:, np.argsort(self.order)]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None}  # pointers are not for copies


class Generator:
    """Codes (B, code) to vertices (B, V, 3), normalised: see `networks.Decoder`, whose weights these are.

    Raises `MeshganError` if the weights are not those of such a network.
    """

    def __init__(self, hierarchy: Hierarchy, spec: NetworkSpec, weights: Weights) -> None:
        levels = ordered_levels(hierarchy, spec)[::-1]
        vertices = len(levels[-1].order)
        operators = [_operators(level) for level in levels]
        for (_, up), (finer, _) in zip(operators[1:], operators, strict=False):
            if up.shape[1] != finer.shape[0]:
                raise ValueError(f"an up-sampling {up.shape} cannot follow a level of {finer.shape[0]} vertices.")
        outputs = spec.widths[::-1]
        channels = [*zip((outputs[0], *outputs[:-1]), outputs, strict=True), (outputs[-1], COORDINATES)]
        names = [*(f"layers.{i}" for i in range(len(levels))), "last"]
        self.rows = (*(up.shape[1] for _, up in operators), vertices)  # that the layers take
        wanted: dict[str, tuple[int, ...]] = {}
        for name, (before, after) in zip(names, channels, strict=True):
            wanted |= {f"{name}.weight": (spec.terms, before, after), f"{name}.bias": (after,)}
        wanted |= _dense("dense", spec.code, coarsest_size(hierarchy, spec))
        if spec.linear:
            wanted["linear"] = (spec.code, vertices * COORDINATES)
        if spec.detail:
            wanted |= {f"gains.{i}": (self.rows[i], before) for i, (before, _) in enumerate(channels)}
            wanted |= dict.fromkeys(("offset", "deviations", "metric"), (vertices, COORDINATES))
        if spec.traits:
            sizes = [(rows, before) for rows, (before, _) in zip(self.rows, channels, strict=True)]
            wanted |= _dense("strength.0", spec.code, STRENGTH_WIDTH)
            wanted |= _dense("strength.2", STRENGTH_WIDTH, STRENGTHS)
            wanted |= {f"loadings.{i}": (STRENGTHS, rows) for i, (rows, _) in enumerate(sizes)}
            wanted |= {f"patterns.{i}": (spec.traits, *size) for i, size in enumerate(sizes) if size[0] <= BROAD}
        self.spec, self.weights = spec, checked(weights, wanted)
        self._layers = [
            _Layer(plan_of((spec.terms, *sizes), laplacian, up), (spec.terms, *sizes), True)
            for (laplacian, up), sizes in zip(operators, channels, strict=False)
        ]
        last = (spec.terms, *channels[-1])
        self._layers.append(_Layer(plan_of(last, operators[-1][0]), last, False))
        self._names, order = names, levels[-1].order.astype(np.int32)
        self._whole = self._chain(slice(None), order)
        self._parts = [self._chain(slice(i, i + 1), order if i == len(levels) else None) for i in range(len(names))]

    def _chain(self, part: slice, order: NDArray[np.int32] | None) -> _Chain:
        weights = [self.weights[f"{name}.{kind}"] for name in self._names[part] for kind in ("weight", "bias")]
        return _Chain(self._layers[part], weights, order)

    @classmethod
    def where_it_can(cls, hierarchy: Hierarchy, spec: NetworkSpec, weights: Weights) -> "Generator | None":
        """The generator, or None where the compiled library is not there, or cannot compute this network."""
        if kernel.library() is None or spec.skips or spec.mixing:
            return None
        made = cls(hierarchy, spec, weights)
        return made if all(layer.plan.fits for layer in made._layers) else None

    @property
    def noise_size(self) -> int:
        """How many numbers of chance a face has: see `noise_size`."""
        return noise_size(self.spec, self.rows)

    def __call__(self, codes: Codes, noise: Singles | None = None) -> Singles:
        """Decode; with `noise` (B, noise_size) from N(0, 1), details of chance are added to the mean ones."""
        if not len(codes):
            return np.zeros((0, self.rows[-1], COORDINATES), np.float32)
        given = self.weights
        values = _affine(codes, given["dense.weight"], given["dense.bias"])
        values = values.reshape(len(codes), self.rows[0], -1)
        if noise is None:
            values = self._whole(values)
        else:
            for i, chain in enumerate(self._parts):
                values = chain(values + self._chance(i, codes, noise))
        vertices = values.reshape(len(codes), -1)
        if self.spec.detail:  # whose part that the linear path can say is taken away
            vertices += given["offset"].ravel()
            vertices *= given["deviations"].ravel()
            codes = codes - vertices @ self._dual
        if self.spec.linear:
            vertices += codes @ given["linear"]
        return vertices.reshape(len(codes), -1, COORDINATES)

    def _chance(self, level: int, codes: Codes, noise: Singles) -> Singles:
        """What chance adds to the fields (B, V, C) of a level: see `networks.Decoder.chance`."""
        given, start, traits = self.weights, sum(self.rows[:level]), self.spec.traits
        part = noise[:, start : start + self.rows[level]]
        if not traits:
            return part[:, :, None] * given[f"gains.{level}"]
        numbers = noise[:, sum(self.rows) :]
        hidden = _affine(codes, given["strength.0.weight"], given["strength.0.bias"])
        hidden = np.maximum(hidden, np.float32(SLOPE) * hidden)
        strengths = _affine(hidden, given["strength.2.weight"], given["strength.2.bias"]) + numbers[:, :STRENGTHS]
        most = np.float32(STRONGEST)
        strength = np.exp(most * np.tanh(strengths @ given[f"loadings.{level}"] / most))
        field: Singles = (part * strength)[:, :, None] * given[f"gains.{level}"]
        if (patterns := given.get(f"patterns.{level}")) is not None:
            common = (numbers[:, STRENGTHS:] @ patterns.reshape(traits, -1)).reshape(field.shape)
            field += strength[:, :, None] * common
        return field

    @cached_property
    def _dual(self) -> Singles:
        """Vertices (B, 3 V) times this (3 V, code) are the codes whose linear part is nearest to them, see
        `networks.coordinates`. Kept, for it is of weights alone and takes longer to make than a face."""
        linear = self.weights["linear"]
        dual = linear * self.weights["metric"].ravel()
        squares = (linear * dual).sum(axis=1)
        return np.asarray(dual.T / np.maximum(squares, np.finfo(np.float32).tiny), np.float32)


class CodeMapping:
    """Codes (B, code) as they are drawn to codes as they are decoded: see `networks.MappingNetwork`.

    Raises `MeshganError` if the weights are not those of such a network.
    """

    def __init__(self, spec: NetworkSpec, weights: Weights) -> None:
        widths = (spec.code, *(spec.mapping,) * (MAPPING_LAYERS - 1), spec.code)
        wanted: dict[str, tuple[int, ...]] = {"matrix": (spec.code, spec.code), "offset": (spec.code,)}
        for i in range(MAPPING_LAYERS):
            wanted |= _dense(f"layers.{2 * i}", widths[i], widths[i + 1])  # between them are activations
        self.weights = checked(weights, wanted)

    def __call__(self, codes: Codes) -> Codes:
        values = codes
        for i in range(MAPPING_LAYERS):
            name = f"layers.{2 * i}"
            values = values if not i else np.maximum(values, np.float32(SLOPE) * values)
            values = _affine(values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        return np.asarray((codes + values) @ self.weights["matrix"] + self.weights["offset"], np.float32)


def noise_size(spec: NetworkSpec, rows: Sequence[int]) -> int:
    """How many numbers of chance a face has: one for each vertex of each level, of so many `rows`, and those of the
    whole face, which say how strong its details are and what they have in common."""
    return (sum(rows) if spec.detail else 0) + (STRENGTHS + spec.traits if spec.traits else 0)


def weights_of(name: str, tensors: Weights) -> Weights:
    """The weights `name/…` of one of the networks in a model folder, by their names in it."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def check_weights(weights: Weights, wanted: Shapes) -> None:
    """Raise `MeshganError` for other names or shapes than those of a network."""
    if weights.keys() != wanted.keys() or any(weights[name].shape != wanted[name] for name in wanted):
        raise MeshganError("weights.safetensors does not fit model.json; get the model again.")


def checked(weights: Weights, wanted: Shapes) -> dict[str, Singles]:
    """Weights of these shapes as the library reads them."""
    check_weights(weights, wanted)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


def _dense(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _affine(values: Singles, weight: Singles, bias: Singles) -> Singles:
    return np.asarray(values @ weight.T + bias, np.float32)


def _operators(level: OrderedLevel) -> tuple[sp.csr_array, sp.csr_array]:
    """Laplacian and up-sampling of a level, each row in the order of its columns. Raises `ValueError` for entries
    outside of their shapes: the library believes them."""
    laplacian, up = sp.csr_array(level.laplacian, copy=True), sp.csr_array(level.up, copy=True)
    for matrix in (laplacian, up):
        matrix.check_format(full_check=True)
        matrix.sort_indices()
    if not laplacian.shape[0] == laplacian.shape[1] == up.shape[0] == len(level.order):
        raise ValueError(f"a Laplacian {laplacian.shape} and an up-sampling {up.shape} do not fit.")
    return laplacian, up
