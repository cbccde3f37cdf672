"""Where codes come from: the distributions that a model can be sampled with.

Uniform, normal and fitted normal ones are every model's. Others are of principal coordinates, and generate faces
without any network on the mesh. A sceptic asks what convolutions add to them, so each is a sampler of a linear model
(`PcaModel`), under the same verbs; a mixture is also one of auto-encoders, whose codes are not normal either (Ghosh et
al. 2020):

mixture    a Gaussian mixture with full covariances (Dempster, Laird and Rubin 1977)
bootstrap  coordinates of a random training face plus a little noise (Efron 1979): a memoriser, to test metrics with
flow       a small network that carries N(0, I) to the coordinates, along straight lines on the average (Lipman et al.
           2023, flow matching)

All draw by sample: the same seed gives the same codes, and more of them begin with the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Codes, Faces, Floats, Singles
from meshgan.errors import MeshganError, UsageError
from meshgan.model.model_folder import ModelCard, Sampler, Tensors
from meshgan.nn.generator import CodeMapping, weights_of

NOISE = 0.1  # of a smooth bootstrap, in deviations of each coordinate
COMPONENTS = 30  # of a mixture
RIDGES = (1e-3, 1e-2, 3e-2, 1e-1)  # added to variances of a mixture, which are about 1; the validation part chooses
NARROWEST = 1e-3  # of the largest deviation of a code's numbers: smaller ones count as that
ROUNDS, ENOUGH = 200, 1e-4  # of expectation and maximisation; gain of the log-likelihood at which they end

NUMBERS = 2**62  # a face's number is below
CHANCE = 1  # the stream of random numbers beside that of codes
BLOCK = 32  # rows at a time; always the same, so that the bits do not depend on the count
LARGEST = 1e9  # mean or covariance of a code
ROUNDING = 1e-6  # a covariance whose eigenvalues fall below zero by more, relative to the largest, is none


@dataclass(frozen=True, eq=False)
class Mixture:
    """`weights` (K,), `means` (K, D) and square roots (K, D, D) of covariances: Σ = rootᵀ root."""

    weights: Floats
    means: Floats
    roots: Floats

    def draw(self, count: int, seed: int) -> Codes:
        """Codes (count, D)."""
        chosen = np.searchsorted(np.cumsum(self.weights)[:-1], np.random.default_rng([seed, 1]).random(count))
        normal = np.random.default_rng(seed).standard_normal((count, self.means.shape[1]))
        return (self.means[chosen] + np.einsum("nd,nde->ne", normal, self.roots[chosen])).astype(np.float32)

    def placed(self, mean: Floats, scale: Floats) -> "Mixture":
        """The same of codes that are `mean` + `scale` times its own, each (D,)."""
        return Mixture(self.weights, mean + scale * self.means, scale * self.roots)

    def log_likelihood(self, codes: Codes | Floats) -> float:
        """The mean log-density of codes (N, D)."""
        return float(_log_sum(_log_densities(codes, self.weights, self.means, self.roots)).mean())

    @property
    def tensors(self) -> Tensors:
        """As a model folder holds it."""
        values = {"weights": self.weights, "means": self.means, "roots": self.roots}
        return {f"mixture/{name}": value.astype(np.float32) for name, value in values.items()}


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Codes (N, D) of faces, and the deviation of the noise that is added to them."""

    points: Codes
    noise: float = NOISE

    def draw(self, count: int, seed: int) -> Codes:
        """Codes (count, D)."""
        chosen = np.floor(np.random.default_rng([seed, 1]).random(count) * len(self.points)).astype(int)
        normal = np.random.default_rng(seed).standard_normal((count, self.points.shape[1]))
        return (self.points[chosen] + self.noise * normal).astype(np.float32)

    @property
    def tensors(self) -> Tensors:
        """As a model folder holds it."""
        return {"bootstrap/points": self.points, "bootstrap/noise": np.array([self.noise], np.float32)}


class Distribution(Protocol):
    """A distribution of codes that a model folder can hold: a mixture, a bootstrap or a flow."""

    def draw(self, count: int, seed: int) -> Codes:
        """Codes (count, D)."""
        ...

    @property
    def tensors(self) -> Tensors:
        """As a model folder holds it."""
        ...


DISTRIBUTIONS = ("mixture", "bootstrap", "flow")


def read_distribution(kind: str, size: int, tensors: Tensors) -> Distribution:
    """The distribution that a model folder holds. Raises `MeshganError` if it is not whole, or makes no codes."""
    mine = weights_of(kind, tensors)
    if any(not np.isfinite(value).all() or np.abs(value).max() > 1e6 for value in mine.values() if value.size):
        raise MeshganError(f"the sampler '{kind}' has numbers that no code has.")
    if kind == "flow":
        from meshgan.model.flow import Flow  # with PyTorch

        return Flow.of(size, mine)
    shapes = {name: value.shape for name, value in mine.items()}
    if kind == "mixture":
        count = shapes.get("weights", (0,))[0] if len(shapes.get("weights", ())) == 1 else 0
        wanted: dict[str, tuple[int, ...]] = {"weights": (count,), "means": (count, size), "roots": (count, size, size)}
        if not count or shapes != wanted or mine["weights"].min() < 0 or abs(float(mine["weights"].sum()) - 1) > 1e-3:
            raise MeshganError("the sampler 'mixture' is none.")
        return Mixture(*(mine[name].astype(np.float64) for name in wanted))
    points = shapes.get("points", ())
    if len(points) != 2 or not points[0] or shapes != {"points": (points[0], size), "noise": (1,)}:
        raise MeshganError("the sampler 'bootstrap' is none.")
    return Bootstrap(mine["points"].astype(np.float32), abs(float(mine["noise"][0])))


def fit_mixture(codes: Codes | Floats, unseen: Codes | Floats, components: int = COMPONENTS, seed: int = 0) -> Mixture:
    """The mixture of training codes (N, D) with the ridge, of `RIDGES`, under which `unseen` ones are likeliest."""
    components = max(1, min(components, len(codes) // 4))
    fits = [_expectation_maximisation(codes.astype(np.float64), components, ridge, seed) for ridge in RIDGES]
    return max(fits, key=lambda fit: fit.log_likelihood(unseen if len(unseen) else codes))


def fit_mixture_to(codes: Codes, unseen: Codes, seed: int = 0) -> Mixture:
    """The same of codes of any scale, as an encoder's are: it is fitted to them in deviations from their mean."""
    mean, scale = codes.mean(axis=0, dtype=np.float64), codes.std(axis=0, dtype=np.float64)
    scale = np.maximum(scale, max(NARROWEST * float(scale.max()), float(np.finfo(np.float32).tiny)))
    white, others = ((part - mean) / scale for part in (codes, unseen))
    return fit_mixture(white, others, seed=seed).placed(mean, scale)


def _expectation_maximisation(codes: Floats, components: int, ridge: float, seed: int) -> Mixture:
    size = codes.shape[1]
    means = codes[_far_apart(codes, components, np.random.default_rng(seed))]
    nearest = np.stack([np.square(codes - mean).sum(axis=1) for mean in means], axis=1).argmin(axis=1)
    shares, before = np.eye(components)[nearest], -np.inf
    for _ in range(ROUNDS):
        totals = shares.sum(axis=0) + 1e-9
        weights, means = totals / totals.sum(), shares.T @ codes / totals[:, None]
        roots = np.empty((components, size, size))
        for k in range(components):
            apart = codes - means[k]
            covariance = (shares[:, k, None] * apart).T @ apart / totals[k] + ridge * np.eye(size)
            roots[k] = np.linalg.cholesky(covariance).T
        fit = Mixture(weights, means, roots)
        densities = _log_densities(codes, weights, means, roots)
        sums = _log_sum(densities)
        now = float(sums.mean())
        if now - before < ENOUGH:
            break
        shares, before = np.exp(densities - sums[:, None]), now
    return fit


def _far_apart(codes: Floats, count: int, generator: np.random.Generator) -> list[int]:
    """Rows to begin with: each drawn in proportion to its squared distance to those before (k-means++)."""
    rows = [int(generator.integers(len(codes)))]
    distances = np.square(codes - codes[rows[0]]).sum(axis=1)
    while len(rows) < count:
        chance = distances / distances.sum() if distances.sum() > 0 else np.full(len(codes), 1 / len(codes))
        rows.append(int(generator.choice(len(codes), p=chance)))
        distances = np.minimum(distances, np.square(codes - codes[rows[-1]]).sum(axis=1))
    return rows


def _log_densities(codes: Codes | Floats, weights: Floats, means: Floats, roots: Floats) -> Floats:
    """The log of each component's weight times its density at each code: (N, K)."""
    size = codes.shape[1]
    columns = []
    for weight, mean, root in zip(weights, means, roots, strict=True):
        white = (codes - mean) @ np.linalg.inv(root)  # solving for all codes takes twice as long
        volume = np.log(np.abs(np.diag(root))).sum()
        exponent = np.einsum("nd,nd->n", white, white) + size * np.log(2 * np.pi)
        columns.append(np.log(max(weight, 1e-300)) - volume - 0.5 * exponent)
    return np.stack(columns, axis=1)


def _log_sum(values: Floats) -> Floats:
    highest = values.max(axis=1)
    return highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Samplers:
    """The samplers of one model: "uniform" on [-1, 1], "standard-normal", and "fitted-normal" where one was fitted.

    The fitted one is a normal distribution with `mean` (D,) and `root` (D, D), a square root of its covariance. Where
    the model has a `mapping` network, uniform codes go through it, and standard normal ones mean nothing. A model whose
    default is one of `DISTRIBUTIONS` has that `other` one, beside these where a normal distribution was fitted, and
    else alone.
    """

    size: int
    default: Sampler
    mean: Floats | None = None
    root: Floats | None = None
    mapping: CodeMapping | None = None
    other: Distribution | None = None  # the default, where it is none of the three

    @classmethod
    def of(cls, card: ModelCard, tensors: Tensors) -> "Samplers":
        """The samplers that a model folder holds. Raises `MeshganError` if they contradict its card."""
        mapping, other = None, None
        if card.sampler in DISTRIBUTIONS:
            other = read_distribution(card.sampler, card.code, tensors)
        if card.network is not None and card.network.mapping:
            mapping = CodeMapping(card.network, weights_of("mapping", tensors))
        if "sampler/mean" not in tensors or "sampler/covariance" not in tensors:
            if card.sampler == "fitted-normal":
                raise MeshganError(f"the model '{card.name}' lacks the sampler that its model.json names.")
            return cls(card.code, card.sampler, mapping=mapping, other=other)
        mean, covariance = (tensors[f"sampler/{part}"].astype(np.float64) for part in ("mean", "covariance"))
        if mean.shape != (card.code,) or covariance.shape != (card.code, card.code):
            raise MeshganError(f"the model '{card.name}' has a sampler of the wrong size.")
        if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
            raise MeshganError(f"the model '{card.name}' has a sampler with numbers that are not finite.")
        if max(np.abs(mean).max(), np.abs(covariance).max()) > LARGEST:
            raise MeshganError(f"the model '{card.name}' has a sampler with numbers that no code has.")
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        if values.min() < -ROUNDING * values.max():
            raise MeshganError(f"the model '{card.name}' has a sampler that is no normal distribution.")
        root = (np.sqrt(np.maximum(values, 0.0)) * vectors) @ vectors.T  # whatever signs the vectors have
        return cls(card.code, card.sampler, mean, root, mapping, other)

    @property
    def names(self) -> tuple[Sampler, ...]:
        """What `draw` accepts."""
        others: tuple[Sampler, ...] = () if self.other is None else (self.default,)
        if self.mean is None and others:
            return others
        known: tuple[Sampler, ...] = ("uniform",) if self.mapping else ("uniform", "standard-normal")
        return known if self.mean is None else (*known, "fitted-normal", *others)

    def draw(self, count: int, seed: int, sampler: Sampler | None = None) -> Codes:
        """Codes (count, D). The same seed gives the same codes, and more of them begin with the same ones."""
        chosen = sampler or self.default
        if chosen not in self.names:
            raise UsageError(f"this model has no sampler '{chosen}'; choose one of {', '.join(self.names)}.")
        if seed < 0 or count < 0:
            raise UsageError(f"a seed and a count cannot be negative ({seed}, {count}).")
        if self.other is not None and chosen == self.default:
            return self.other.draw(count, seed)
        rng = np.random.default_rng(seed)
        if chosen == "uniform":
            codes = rng.uniform(-1.0, 1.0, (count, self.size)).astype(np.float32)
            return codes if self.mapping is None else in_blocks(self.mapping, codes)
        normal = rng.standard_normal((count, self.size))
        if chosen == "fitted-normal" and self.mean is not None and self.root is not None:
            normal = self.mean + np.einsum("nd,de->ne", normal, self.root)  # einsum: the same bits for any count
        return normal.astype(np.float32)


class Sampled(Protocol):
    """What a model of any kind does with its samplers."""

    card: ModelCard
    samplers: Samplers

    @property
    def code_size(self) -> int:
        """D, the length of a code."""
        return self.card.code

    def codes(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Codes:
        """Draw codes (count, D); `sampler` is one of `samplers.names`, else the model's own."""
        return self.samplers.draw(count, seed, sampler)

    def sample(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Faces:
        """Draw faces (count, V, 3) in mm. The same seed gives the same faces, bit by bit on one machine."""
        return self.decode(self.codes(count, seed, sampler), numbers=face_numbers(count, seed))

    def decode(self, codes: ArrayLike, same_bits: bool = True, numbers: ArrayLike | None = None) -> Faces:
        """The faces (B, V, 3) in mm of codes (B, D)."""
        ...


def in_blocks(function: Callable[..., Singles], *values: Codes | Faces) -> Singles:
    """Apply a function of arrays in blocks of one size (the last is padded), so that the bits never vary."""
    count = len(values[0])
    padding = -count % BLOCK
    padded = [np.concatenate([one, np.zeros((padding, *one.shape[1:]), np.float32)]) for one in values]
    starts = range(0, max(count, 1), BLOCK)
    return np.concatenate([function(*(one[start : start + BLOCK] for one in padded)) for start in starts])[:count]


def face_numbers(count: int, seed: int) -> NDArray[np.int64]:
    """Numbers (count,), one for each face, that its details of chance follow from. More begin with the same ones."""
    return np.random.default_rng((seed, CHANCE)).integers(NUMBERS, size=count)


def known_number(value: object) -> int | None:
    """A face's number as a file has it, None where there is none, or what nobody has written."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUMBERS else None


def chance(numbers: NDArray[np.integer[Any]], size: int) -> Singles:
    """N(0, 1) numbers (B, size) for faces of these `numbers` (B,)."""
    drawn = [np.random.default_rng((int(number), CHANCE)).standard_normal(size, np.float32) for number in numbers]
    return np.stack(drawn) if drawn else np.zeros((0, size), np.float32)
