"""Trials of docs/research.md, minutes each: details beyond principal components, small codes, convolutions only; and
what differs in details from face to face (`amount`), and which part of them pictures miss (`pictures`).

    python benchmarks/research.py details SET --out details.jsonl [--only NAME …] [--faces 5600]
    python benchmarks/research.py codes SET --out codes.jsonl --code 8 [--only NAME …] [--faces 32000]
    python benchmarks/research.py convolutions SET --out convolutions.jsonl [--only NAME …] [--faces 64000]
    python benchmarks/research.py amount SET --out amount.jsonl [--model identity]
    python benchmarks/research.py pictures SET --out pictures.jsonl [--only NAME …] [--model identity]

Of the first three, the faces of SET are reduced to a quarter of their vertices. Models learn from the training part and
are measured on the validation part; the test part is not read. One line of JSON for each trial is appended to the file.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from meshgan.arrays import Faces, Floats, Integers, Singles
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.data.principal import Components, principal_components
from meshgan.evaluation.metrics import Gaussian, covered, detail, frechet_distance, kernel_distance, pair_distances
from meshgan.evaluation.yardstick import BAND_NAMES, COARSE, LARGE, RAKING, THREE_QUARTERS, beyond
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.laplacian import BandFilter
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import FaceModel
from meshgan.nn.chebyshev import ChebConv
from meshgan.nn.details import Spectrum
from meshgan.nn.networks import Autoencoder, Decoder, Encoder, dense, l1, narrowing
from meshgan.nn.plan import NetworkSpec, ordered, ordered_levels
from meshgan.nn.sampling import Reordering, SparseOperator
from meshgan.training.began import next_k
from meshgan.training.began_judge import TINY
from meshgan.view.raster import Camera, render

WIDTHS = (16, 16, 32)
DETAILS: dict[str, dict[str, Any]] = {  # trials: what differs from `DEFAULT`
    "no noise, no critic": {"patches": 0.0, "spectrum": 0.0, "noise": 0.0},
    "energies": {"patches": 0.0},
    "critic": {"spectrum": 0.0},
    "energies and critic": {},
    "energies and critic, ten times the weight": {"patches": 1.0},
    "critic without differential coordinates": {"spectrum": 0.0, "differential": 0.0},
    "energies and critic, pointwise": {"terms": 1},
    "energies and critic, graph Laplacian": {"laplacian": "combinatorial"},
    "energies and critic, no anchor": {"anchor": 0.0},
}
DEFAULT: dict[str, Any] = {
    "patches": 0.1, "spectrum": 1.0, "anchor": 1.0, "noise": 1.0, "differential": 1.0,
    "terms": 6, "laplacian": "cotangent", "rate": 1e-3, "generator_rate": 2e-3, "batch": 8,
}  # fmt: skip
CODES: dict[str, dict[str, Any]] = {
    "CoMA, cotangent": {},
    "CoMA, graph Laplacian": {"laplacian": "combinatorial"},
    "CoMA, loss in network units": {"loss": "units"},
    "wide bottleneck": {"laplacian": "combinatorial", "middle": 256},
    "fields": {"laplacian": "combinatorial", "fields": True},
    "fields and wide bottleneck": {"laplacian": "combinatorial", "middle": 256, "fields": True},
    "fields and wide bottleneck, cotangent": {"middle": 256, "fields": True},
    "64 components and wide bottleneck": {"laplacian": "combinatorial", "middle": 256, "components": 64},
    "fields, 64 components and wide bottleneck": {
        "laplacian": "combinatorial",
        "middle": 256,
        "fields": True,
        "components": 64,
    },
    "perceptron": {"perceptron": 512, "batch": 64, "rate": 1e-3},
}
# Generators without a linear path, coordinates, or a judge of them.
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "CoMA as published, N(mean, covariance)": {"began": 0.0, "anchor": 1.0, "gaussian": True, "momentum": 0.9},
    "CoMA with Adam, N(mean, covariance)": {"began": 0.0, "anchor": 1.0, "gaussian": True},
    "the paper's recipe": {"momentum": 0.9, "average": 0.0},
    "Adam and averaging": {},
    "skips": {"skips": True},
    "noise, critic of patches, energies": {"noise": True, "patches": 0.1, "spectrum": 1.0},
    "encoder, codes drawn from its own": {"anchor": 1.0, "gaussian": True, "own": True},
    "encoder, codes drawn from its own, BEGAN 0.3": {"anchor": 1.0, "gaussian": True, "own": True, "began": 0.3},
    "encoder, codes drawn from its own, BEGAN 0.1": {"anchor": 1.0, "gaussian": True, "own": True, "began": 0.1},
    "encoder, codes drawn from its own, BEGAN 0.1, graph Laplacian": {
        "anchor": 1.0, "gaussian": True, "own": True, "began": 0.1, "laplacian": "combinatorial"
    },
    "encoder, codes drawn from its own, BEGAN 3": {"anchor": 1.0, "gaussian": True, "own": True, "began": 3.0},
    "encoder, codes drawn from its own, balance 1": {"anchor": 1.0, "gaussian": True, "own": True, "gamma": 1.0},
    "encoder, codes drawn from its own, BEGAN 0.3, energies": {
        "anchor": 1.0, "gaussian": True, "own": True, "began": 0.3, "spectrum": 1.0
    },
    "encoder, codes drawn from its own, BEGAN 0.3, energies 0.1": {
        "anchor": 1.0, "gaussian": True, "own": True, "began": 0.3, "spectrum": 0.1
    },
    "encoder, codes drawn from its own, BEGAN 0.3, noise, energies": {
        "anchor": 1.0, "gaussian": True, "own": True, "began": 0.3, "spectrum": 1.0, "noise": True
    },
    "encoder, codes drawn from its own, skips": {"anchor": 1.0, "gaussian": True, "own": True, "skips": True},
    "encoder, codes drawn from its own, skips, graph Laplacian": {
        "anchor": 1.0, "gaussian": True, "own": True, "skips": True, "laplacian": "combinatorial"
    },
    "encoder with codes made uniform": {"anchor": 1.0, "sliced": 1.0},
    "encoder, noise, critic, energies": {"anchor": 1.0, "sliced": 1.0, "noise": True, "patches": 0.1, "spectrum": 1.0},
    "encoder, noise, critic, energies, no BEGAN": {
        "anchor": 1.0, "sliced": 1.0, "noise": True, "patches": 0.1, "spectrum": 1.0, "began": 0.0
    },
}  # fmt: skip
BEGAN: dict[str, Any] = {
    "began": 1.0, "gamma": 0.7, "lambda_k": 0.001, "skips": False, "noise": False, "patches": 0.0, "spectrum": 0.0,
    "anchor": 0.0, "sliced": 0.0, "gaussian": False, "own": False, "momentum": 0.0, "average": 0.999, "rate": 1e-3,
    "batch": 16, "laplacian": "cotangent", "code": 64,
}  # fmt: skip
PICTURED, SEEN, STRONG = 500, 3000, 256  # faces in pictures; in a regression; components of details called long waves
SQUARED, RIDGE = 16, 30.0  # coordinates whose products are looked at, and what keeps their weights small
LAZY, JITTER = 4, 0.1  # steps for each in which a critic's slope is penalised; over so much of the deviation of details
REMEMBERED, DIRECTIONS = 512, 64  # codes, and directions along which they are compared with the prior


class Reduced:
    """A set at a quarter of its vertices: template, faces in network units by part, and what they are measured with."""

    def __init__(self, path: str) -> None:
        whole = FaceSet.open(path)
        fine = Hierarchy.cached(whole.template)
        kept = fine.levels[0].kept
        self.template: Mesh = fine.levels[1].mesh
        self.counts = fine.counts[2:]
        self.mean, self.std = whole.normalisation.mean[kept], whole.normalisation.std[kept]
        read = [np.asarray(whole.vertices[rows][:, kept]) for rows in (whole.split.train, whole.split.validation)]
        self.seen, self.unseen = (torch.from_numpy((faces - self.mean) / self.std) for faces in read)
        self.vertices, self.known = read[0], {}

    def millimetres(self, faces: Tensor) -> np.ndarray[Any, Any]:
        return faces.numpy() * self.std + self.mean

    def components(self, count: int) -> Components:
        if count not in self.known:
            rows = some_rows(np.arange(len(self.vertices)), 1000)  # of so many they are exact, and quick
            self.known[count] = principal_components(self.vertices, rows, count)
        return self.known[count]

    def matrix(self, components: Components) -> Tensor:
        """Axes times deviations in network units; codes of N(0, I)."""
        lengths = np.sqrt(components.variances)[:, None, None].astype(np.float32)
        return torch.from_numpy(components.axes * lengths / self.std)

    def batches(self, count: int, size: int, seed: int = 0) -> Iterator[tuple[float, Tensor, np.random.Generator]]:
        """The share of the learning rate, faces, and a source of chance, for so many faces in all."""
        rng, steps = np.random.default_rng(seed), max(1, count // size)
        for step in range(steps):
            share = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
            yield max(share, 0.02), self.seen[torch.from_numpy(rng.integers(0, len(self.seen), size))], rng


def adam(parameters: Iterable[Tensor], rate: float, beta1: float) -> torch.optim.Adam:
    return torch.optim.Adam(list(parameters), rate, (beta1, 0.99), fused=True)


def advance(optimiser: torch.optim.Adam, rate: float, parameters: list[Tensor]) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    optimiser.zero_grad()


class PatchCritic(nn.Module):
    """Whether patches of faces are real: faces and their details (B, V, 3) to logits (B, P), for all coarser levels.

    It sees a face, its details, and these once more in differential coordinates A⁻¹W v, where what is small is large;
    the last two relative to their deviations in real faces. There is a logit for each vertex of each level that the
    convolutions lead to; it depends on the patch that they have seen so far.
    """

    shares: Tensor  # (P,) what each patch counts, 1 in all: each level as much as another
    deviations: Tensor  # (2, V, 3) of real details, and of their differential coordinates

    def __init__(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator, real: Tensor) -> None:
        super().__init__()
        levels = ordered_levels(hierarchy, spec)
        self.order = Reordering(levels[0].order)
        self.laplacian = SparseOperator(levels[0].laplacian)
        self.layers = narrowing(levels, 9, spec, generator)
        counts = [int(layer.rows_out) for layer in self.layers]  # type: ignore[arg-type]
        shares = torch.cat([torch.full((count,), 1 / (len(counts) * count)) for count in counts])
        self.register_buffer("shares", shares, persistent=False)
        self.heads = nn.ModuleList(dense(width, 1, generator) for width in spec.widths)
        both = [some.square().mean(dim=0).sqrt() for some in (real, self.bent(real))]
        self.register_buffer(
            "deviations", torch.stack([one.clamp_min(1e-3 * one.square().mean().sqrt()) for one in both])
        )

    def forward(self, faces: Tensor, details: Tensor) -> Tensor:
        values = self.order.inwards(torch.cat([faces, *self.seen(details)], dim=-1))
        logits = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            values = layer(values)
            logits.append(head(values).squeeze(-1))
        return torch.cat(logits, dim=1)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values (B, P) of patches; the levels count alike, whatever number of patches they have."""
        return (values @ self.shares).mean()

    def seen(self, details: Tensor) -> tuple[Tensor, Tensor]:
        """Details (B, V, 3) and their differential coordinates, each relative to its deviation in real faces."""
        return details / self.deviations[0], self.bent(details) / self.deviations[1]

    def bent(self, details: Tensor) -> Tensor:
        """Differential coordinates A⁻¹W v of details (B, V, 3), times 2 / λ_n."""
        inside = self.order.inwards(details).transpose(0, 1)
        return self.order.outwards((inside + self.laplacian(inside)).transpose(0, 1))


def white(noise: Tensor) -> Tensor:
    """Numbers (B, V, 3) from N(0, 1) of as many for each face as it has vertices (B, V): each serves three vertices."""
    return torch.stack([noise.roll(part * noise.shape[1] // 3, 1) for part in range(3)], dim=-1)


def try_details(data: Reduced, changes: Mapping[str, Any], faces: int) -> dict[str, Any]:
    """Train generator and critic of patches on the coordinates of real faces; measure the details they make."""
    o = DEFAULT | dict(changes)
    hierarchy = Hierarchy.cached(data.template, data.counts, o["laplacian"])
    random = torch.Generator().manual_seed(0)
    spec = NetworkSpec(widths=WIDTHS, terms=o["terms"], linear=True, detail=True)
    components = data.components(spec.code)
    generator = Decoder(hierarchy, spec, random)
    generator.metric.copy_(torch.from_numpy(data.std).square())
    generator.set_linear(data.matrix(components))
    nn.init.zeros_(generator.last.weight)
    spectrum = Spectrum(data.template, data.std)
    with torch.no_grad():
        beyond_linear = torch.cat([generator.beyond(part) for part in data.seen[:1000].split(64)])
        spectrum.measure(beyond_linear)
        critic = PatchCritic(hierarchy, spec, random, beyond_linear)
    generator.deviations.copy_(critic.deviations[0])
    if not o["differential"]:
        critic.bent = torch.zeros_like  # type: ignore[method-assign,assignment]
    of_generator, of_critic = adam(generator.parameters(), 0.0, 0.0), adam(critic.parameters(), 0.0, 0.0)
    began = time.process_time()
    for step, (share, real, rng) in enumerate(data.batches(faces, o["batch"])):
        noise = torch.from_numpy(rng.standard_normal((len(real), generator.noise_size), np.float32))
        codes = generator.project(real)
        linear = (codes @ generator.linear).view_as(real)
        made = generator(codes, noise if o["noise"] else None)
        rebuilt = generator(codes)
        energies = spectrum(made - rebuilt).mean(dim=0)  # of chance alone
        loss = o["anchor"] * l1(real, rebuilt)
        loss = loss + o["spectrum"] * (spectrum.shares * ((energies + TINY).sqrt() - 1).square()).sum()
        if o["patches"]:
            ours, theirs = critic(made.detach(), made.detach() - linear), critic(real, real - linear)
            total = critic.mean(softplus(ours)) + critic.mean(softplus(-theirs))
            if step % LAZY == 0:
                jitter = JITTER * critic.deviations[0] * white(noise[:, -real.shape[1] :])
                steep = (critic(real + jitter, real + jitter - linear) - theirs) / JITTER
                total = total + LAZY * 0.15 * critic.mean(steep.square())
            total.backward()
            advance(of_critic, o["rate"] * share, list(critic.parameters()))
            loss = loss + o["patches"] * critic.mean(softplus(-critic(made, made - linear)))
        loss.backward(inputs=list(generator.parameters()))
        advance(of_generator, o["generator_rate"] * share, list(generator.parameters()))
    seconds = time.process_time() - began
    with torch.no_grad():
        codes = generator.project(data.unseen)
        noise = torch.randn(len(codes), generator.noise_size, generator=random)
        made = torch.cat([generator(*part) for part in zip(codes.split(50), noise.split(50), strict=True)])
        mean = torch.cat([generator(part) for part in codes.split(50)])
    bands = BandFilter.of(data.template)

    def beyond(values: Tensor) -> np.ndarray[Any, Any]:
        millimetres = data.millimetres(values)
        return millimetres - components.faces(components.codes(millimetres))

    real_energies = bands.energies(beyond(data.unseen))
    scores = {name: detail(bands.energies(beyond(values)), real_energies, BAND_NAMES, resamples=2)
              for name, values in (("made", made), ("mean", mean))}  # fmt: skip
    real, ours = (np.square(beyond(values)).sum(axis=2).mean(axis=0) for values in (data.unseen, made))
    return {
        "detail": round(scores["made"].value, 3),
        "ratios": [round(ratio, 2) for ratio in scores["made"].parts.values()],
        "mean_detail_ratios": [round(ratio, 2) for ratio in scores["mean"].parts.values()],
        "rms_mm": [round(float(np.sqrt(values.mean())), 3) for values in (ours, real)],
        "log_ratio_over_face": round(float(np.log(ours / real).std()), 2),
        "seconds": round(seconds),
    }


class Field(nn.Module):
    """A scale and a shift of every channel at every vertex, learned: what a convolution cannot know, where it is."""

    def __init__(self, vertices: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(1 + 0.1 * torch.randn(vertices, channels))
        self.shift = nn.Parameter(0.1 * torch.randn(vertices, channels))

    def forward(self, values: Tensor) -> Tensor:
        return torch.addcmul(self.shift, values, self.scale)


def perceptron(*widths: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ELU())]
    return nn.Sequential(*layers[:-1])


class Small(nn.Module):
    """CoMA's auto-encoder with options: faces (B, V, 3) to faces through a small code."""

    def __init__(self, data: Reduced, o: Mapping[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        random, vertices = torch.Generator().manual_seed(0), len(data.template.vertices)
        self.plain = None
        if width := o["perceptron"]:
            self.plain = nn.Sequential(
                perceptron(3 * vertices, width, width, o["code"]), perceptron(o["code"], width, width, 3 * vertices)
            )
            return
        hierarchy = Hierarchy.cached(data.template, data.counts, o["laplacian"])
        levels, middle = ordered(hierarchy), [o["middle"]] if o["middle"] else []
        operators = [SparseOperator(level.laplacian) for level in levels]
        inwards, outwards = (3, *WIDTHS), (WIDTHS[-1], *WIDTHS[::-1])
        self.shape = (hierarchy.counts[-1], WIDTHS[-1])
        flat = math.prod(self.shape)
        self.order = Reordering(levels[0].order)
        self.down = nn.ModuleList(
            ChebConv(operator, a, b, kept=torch.as_tensor(level.kept), generator=random)
            for operator, level, (a, b) in zip(operators, levels, pairwise(inwards), strict=True)
        )
        self.encode = perceptron(flat, *middle, o["code"])
        self.decode = perceptron(o["code"], *middle, *middle, flat)
        self.up = nn.ModuleList(
            ChebConv(operator, a, b, up=SparseOperator(level.up), generator=random)
            for operator, level, (a, b) in zip(operators[::-1], levels[::-1], pairwise(outwards), strict=True)
        )
        self.last = ChebConv(operators[0], WIDTHS[0], 3, elu=False, generator=random)
        sizes = hierarchy.counts
        self.fields_down = self.fields_up = [nn.Identity() for _ in levels]
        if o["fields"]:
            self.fields_down = nn.ModuleList(map(Field, sizes[1:], WIDTHS))
            self.fields_up = nn.ModuleList(map(Field, sizes[-2::-1], outwards[1:]))
        self.axes: Tensor | None
        self.register_buffer("axes", None)
        if o["components"]:
            matrix = data.matrix(data.components(o["components"])).flatten(1)
            self.axes = matrix
            self.register_buffer("dual", matrix / matrix.square().sum(dim=1, keepdim=True))
            self.to_code = perceptron(len(matrix), 128, o["code"])
            self.from_code = perceptron(o["code"], 128, 128, len(matrix))
            nn.init.zeros_(self.last.weight)

    def forward(self, faces: Tensor) -> Tensor:
        if self.plain is not None:
            return self.plain(faces.flatten(1)).view_as(faces)
        values = self.order.inwards(faces)
        for layer, field in zip(self.down, self.fields_down, strict=True):
            values = field(layer(values))
        code = self.encode(values.flatten(1))
        if self.axes is not None:
            code = code + self.to_code(faces.flatten(1) @ self.dual.T)
        values = self.decode(code).unflatten(1, self.shape)
        for layer, field in zip(self.up, self.fields_up, strict=True):
            values = field(layer(values))
        rebuilt = self.order.outwards(self.last(values))
        return rebuilt if self.axes is None else rebuilt + (self.from_code(code) @ self.axes).view_as(faces)


def try_code(data: Reduced, changes: Mapping[str, Any], faces: int, code: int) -> dict[str, Any]:
    """Train an auto-encoder; the mean distance of unseen faces to what it makes of them, and PCA's."""
    o = {"laplacian": "cotangent", "middle": 0, "fields": False, "components": 0, "perceptron": 0, "loss": "mm",
         "batch": 32, "rate": 2e-3, "code": code} | dict(changes)  # fmt: skip
    network, scale = Small(data, o), torch.from_numpy(data.std)
    optimiser, began = adam(network.parameters(), 0.0, 0.9), time.process_time()

    def distance(some: Tensor) -> Tensor:
        return (((network(some) - some) * scale).square().sum(dim=2) + 1e-8).sqrt().mean()

    for share, some, _ in data.batches(faces, o["batch"]):
        (distance(some) if o["loss"] == "mm" else (network(some) - some).abs().mean()).backward()
        advance(optimiser, o["rate"] * share, list(network.parameters()))
    with torch.no_grad():
        error = float(torch.stack([distance(part) * len(part) for part in data.unseen.split(50)]).sum())
    components, unseen = data.components(code), data.millimetres(data.unseen)
    linear = np.linalg.norm(unseen - components.faces(components.codes(unseen)), axis=2).mean()
    return {
        "code": code,
        "mm": round(error / len(data.unseen), 4),
        "pca_mm": round(float(linear), 4),
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": round(time.process_time() - began),
    }


class Free(nn.Module):
    """The paper's generator, with noise on the vertices of every level if asked for."""

    def __init__(self, hierarchy: Hierarchy, spec: NetworkSpec, random: torch.Generator, noise: bool) -> None:
        super().__init__()
        self.decoder = Decoder(hierarchy, spec, random)
        self.stages = [*self.decoder.layers, self.decoder.end]
        inputs = [layer.inputs for layer in (*self.decoder.layers, self.decoder.last)]
        self.gains = nn.ParameterList(torch.full((width,), 0.1) for width in inputs if noise)

    def forward(self, codes: Tensor, random: torch.Generator | None = None) -> Tensor:
        if not len(self.gains) or random is None:
            return self.decoder(codes)
        values = self.decoder.dense(codes).unflatten(1, (-1, self.decoder.spec.widths[-1]))
        for stage, gain in zip(self.stages, self.gains, strict=True):
            noise = torch.randn(*values.shape[:2], 1, generator=random)
            values = stage(torch.addcmul(values, noise, gain))
        return values


def sliced(codes: Tensor, prior: Tensor, random: torch.Generator) -> Tensor:
    """The sliced Wasserstein distance of codes and of as many from the prior, (N, code) both."""
    directions = torch.nn.functional.normalize(torch.randn(codes.shape[1], DIRECTIONS, generator=random), dim=0)
    return ((codes @ directions).sort(dim=0)[0] - (prior @ directions).sort(dim=0)[0]).square().mean()


def try_convolutions(data: Reduced, changes: Mapping[str, Any], faces: int) -> dict[str, Any]:
    """Train a generator that is convolutions alone, and an auto-encoding discriminator like it; measure its samples."""
    o = BEGAN | dict(changes)
    hierarchy = Hierarchy.cached(data.template, data.counts, o["laplacian"])
    random = torch.Generator().manual_seed(0)
    spec = NetworkSpec(o["code"], WIDTHS, skips=o["skips"])
    generator, encoder = Free(hierarchy, spec, random, o["noise"]), Encoder(hierarchy, spec, random)
    critic, patches = Autoencoder(hierarchy, spec, random), PatchCritic(hierarchy, spec, random, data.seen[:1000])
    spectrum = Spectrum(data.template, data.std)
    spectrum.measure(data.seen[:1000])
    of_generator = [*generator.parameters(), *encoder.parameters()]
    players = [of_generator, list(critic.parameters()), list(patches.parameters())]
    if o["momentum"]:  # as published: 0.008, falling by a hundredth each epoch
        optimisers: list[torch.optim.Optimizer] = [torch.optim.SGD(some, 0.0, o["momentum"]) for some in players]
        rate = 0.008
    else:
        optimisers, rate = (
            [adam(some, 0.0, beta) for some, beta in zip(players, (0.5, 0.5, 0.0), strict=True)],
            o["rate"],
        )
    averaged = [parameter.detach().clone() for parameter in of_generator]
    k, remembered, began = torch.zeros(()), torch.empty(0, o["code"]), time.process_time()
    for step, (share, real, _) in enumerate(data.batches(faces, o["batch"])):
        codes = 2 * torch.rand(len(real), o["code"], generator=random) - 1
        if o["own"] and len(remembered) == REMEMBERED:  # of the mean and covariance of the encoder's last codes
            mean = remembered.mean(dim=0)
            codes = mean + torch.randn(len(real), REMEMBERED, generator=random) @ (remembered - mean) / REMEMBERED**0.5
        made, loss = generator(codes, random), torch.zeros(())
        if o["began"]:
            of_real, of_fake = l1(real, critic(real)), l1(made, critic(made))
            of_critic = torch.autograd.grad(of_real - k * of_fake, players[1], retain_graph=True)
            for parameter, gradient in zip(players[1], of_critic, strict=True):
                parameter.grad = gradient
            loss = loss + o["began"] * of_fake
            k = next_k(k, of_real.detach(), of_fake.detach(), o["gamma"], o["lambda_k"])
        if o["anchor"]:
            own = encoder(real)
            loss = loss + o["anchor"] * l1(real, generator(own))
            if o["sliced"]:
                both = torch.cat([own, remembered])
                prior = 2 * torch.rand(both.shape, generator=random) - 1
                loss = loss + o["sliced"] * sliced(both, prior, random)
            remembered = torch.cat([own.detach(), remembered])[:REMEMBERED]
        if o["spectrum"]:
            loss = (
                loss
                + o["spectrum"] * (spectrum.shares * ((spectrum(made).mean(dim=0) + TINY).sqrt() - 1).square()).sum()
            )
        if o["patches"]:
            fake = made.detach()
            theirs, ours = patches(real, real), patches(fake, fake)
            total = patches.mean(softplus(ours)) + patches.mean(softplus(-theirs))
            if step % LAZY == 0:
                jitter = JITTER * torch.randn(real.shape, generator=random)
                steep = (patches(real + jitter, real + jitter) - theirs) / JITTER
                total = total + LAZY * 0.15 * patches.mean(steep.square())
            total.backward(inputs=players[2])
            loss = loss + o["patches"] * patches.mean(softplus(-patches(made, made)))
        if loss.requires_grad:
            theta = of_generator if o["anchor"] else list(generator.parameters())
            loss.backward(inputs=theta)
        for optimiser, some in zip(optimisers, players, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share if not o["momentum"] else rate * 0.99 ** (step * o["batch"] / len(data.seen))
            if not o["momentum"]:
                nn.utils.clip_grad_norm_(some, 1.0)
            optimiser.step()
            optimiser.zero_grad()
        keep = min(o["average"], step / (step + 10))
        torch._foreach_lerp_(averaged, [parameter.detach() for parameter in of_generator], 1 - keep)
    for parameter, value in zip(of_generator, averaged, strict=True):
        parameter.data.copy_(value)
    seconds = time.process_time() - began
    return (
        {"balance": round(float(k), 3)} | samples_of(data, generator, encoder, o, random) | {"seconds": round(seconds)}
    )


@torch.no_grad()
def samples_of(
    data: Reduced, generator: Free, encoder: Encoder, o: Mapping[str, Any], random: torch.Generator
) -> dict[str, Any]:
    """Samples, and training faces as if they were samples, against validation faces; distances are roots of means."""
    count = len(data.unseen)
    codes = 2 * torch.rand(count, o["code"], generator=random) - 1
    if o["gaussian"]:
        known = torch.cat([encoder(part) for part in data.seen.split(50)]).double()
        factor = torch.linalg.cholesky(known.T.cov() + 1e-9 * torch.eye(known.shape[1]))
        codes = (known.mean(dim=0) + torch.randn(codes.shape, generator=random, dtype=torch.float64) @ factor.T).float()
    made = torch.cat([generator(part, random) for part in codes.split(50)])
    components, bands = data.components(64), BandFilter.of(data.template)
    found: dict[str, Any] = {}
    unseen = data.millimetres(data.unseen)
    flat = torch.from_numpy(unseen).flatten(1)
    energies = bands.energies(unseen - components.faces(components.codes(unseen)))
    truth = Gaussian.of_features(components.codes(unseen) / np.sqrt(components.variances))
    picked = data.seen[torch.randperm(len(data.seen), generator=random)[:count]]
    for name, values in (("", made), ("real_", picked)):
        drawn = data.millimetres(values)
        coordinates = components.codes(drawn)
        beyond = bands.energies(drawn - components.faces(coordinates))
        score = detail(beyond, energies, BAND_NAMES, resamples=2)
        distances = torch.cdist(torch.from_numpy(drawn).flatten(1), flat).numpy() / np.sqrt(drawn.shape[1])
        found |= {
            f"{name}detail": round(score.value, 3) if score else None,
            f"{name}ratios": [round(ratio, 2) for ratio in score.parts.values()] if score else None,
            f"{name}frechet": round(
                frechet_distance(Gaussian.of_features(coordinates / np.sqrt(components.variances)), truth), 2
            ),
            f"{name}specificity": round(float(distances.min(axis=1).mean()), 3),
            f"{name}diversity": round(float(pair_distances(drawn).mean()), 2),
            f"{name}coverage": round(float(covered(distances.argmin(axis=1), count).mean()), 3),
        }
    if o["anchor"]:
        rebuilt = torch.cat([generator(encoder(part)) for part in data.unseen.split(50)])
        found["generalisation"] = round(float(np.linalg.norm(data.millimetres(rebuilt) - unseen, axis=2).mean()), 3)
    return found


class Whole:
    """A set as it is, a model of it, and 64 principal components, beyond which there is detail (N, V, 3), in mm."""

    def __init__(self, path: str, model: str) -> None:
        self.faces, self.model = FaceSet.open(path), FaceModel.load(model)
        self.space = principal_components(self.faces.vertices, self.faces.split.train, COARSE)
        self.bands = BandFilter.of(self.faces.template)

    def read(self, rows: Integers) -> tuple[Faces, Faces]:
        """Principal coordinates of faces, and their details."""
        faces = np.asarray(self.faces.vertices[rows])
        return self.space.codes(faces), beyond(self.space, faces)

    def codes(self, coordinates: Faces) -> Faces:
        """What the model decodes to faces of these coordinates."""
        normalisation = self.model.normalisation
        faces = torch.from_numpy(normalisation.apply(self.space.faces(coordinates)))
        return self.model.decoder.project(faces).numpy()


def measure_amount(whole: Whole) -> dict[str, Any]:
    """How much energies of details differ from face to face, and how much of that coordinates tell, band by band."""
    split = whole.faces.split
    seen, unseen = (whole.read(rows) for rows in (some_rows(split.train, SEEN), split.validation))
    energies, real = (np.log(whole.bands.energies(details)) for _, details in (seen, unseen))
    drawn = whole.model.sample(len(real), 0)
    ours = np.log(whole.bands.energies(beyond(whole.space, drawn)))
    deviations = np.sqrt(whole.space.variances)
    i, j = np.triu_indices(SQUARED)

    def features(coordinates: Faces) -> Floats:
        """Coordinates, and products of the first ones with each other."""
        c = coordinates / deviations
        return np.column_stack([np.ones(len(c)), c, c[:, i] * c[:, j], c[:, SQUARED:] ** 2])

    known, wanted = features(seen[0]), features(unseen[0])
    mean = energies.mean(axis=0)
    weights = np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ (energies - mean))
    left = real - mean - wanted @ weights
    return {
        "bands": BAND_NAMES,
        "deviation_real": [round(float(x), 2) for x in real.std(axis=0)],
        "deviation_samples": [round(float(x), 2) for x in ours.std(axis=0)],
        "explained": [round(float(x), 2) for x in 1 - np.square(left).mean(axis=0) / real.var(axis=0)],
        "correlation_of_bands": np.corrcoef(real.T).round(2).tolist(),
        "correlation_of_rest": round(float(np.linalg.eigvalsh(np.corrcoef(left.T))[-1] / left.shape[1]), 2),
    }


def lengths(details: Faces) -> Floats:
    """Root mean squares of details (N, V, 3), for products with them."""
    return np.sqrt(np.square(details).sum(axis=2).mean(axis=1))[:, None, None]


def mixtures(whole: Whole) -> dict[str, Callable[[], Faces]]:
    """Faces (N, V, 3) whose coordinates and details come from here and there."""
    rng, rows = np.random.default_rng(0), whole.faces.split.train
    chosen = rng.permutation(rows)[:PICTURED]
    coordinates, real = whole.read(chosen)
    base, other = whole.space.faces(coordinates), np.random.default_rng(1).permutation(PICTURED)
    made = whole.model.decode(whole.codes(coordinates), numbers=np.arange(PICTURED))
    ours, mean = beyond(whole.space, made), np.sqrt(np.square(lengths(real)).mean())
    known = np.setdiff1d(rows, chosen)[:4000]
    details = np.concatenate([whole.read(part)[1] for part in np.array_split(known, 40)]).reshape(len(known), -1)
    sums = rng.standard_normal((PICTURED, len(known)), np.float32) / np.sqrt(len(known), dtype=np.float32)
    gaussian = (sums @ details).reshape(real.shape)
    axes = principal_components(details.reshape(len(known), *real.shape[1:]), np.arange(len(known)), STRONG).axes
    flat = axes.reshape(len(axes), -1)

    def strong(some: Faces) -> Faces:
        return ((some.reshape(len(some), -1) @ flat.T) @ flat).reshape(some.shape)

    drawn = whole.model.sample(PICTURED, 0)
    at = whole.space.codes(drawn)
    places = whole.space.codes(np.asarray(whole.faces.vertices[known]))
    nearest = known[[int(np.square(places - one).sum(axis=1).argmin()) for one in at]]
    even = real / lengths(real) * mean
    return {
        "real faces": lambda: base + real,
        "real coordinates alone": lambda: base,
        "details of the model": lambda: base + ours,
        "details of the model, as strong as the face's own": lambda: base + ours / lengths(ours) * lengths(real),
        "details of other faces": lambda: base + real[other],
        "the face's own details, all as strong": lambda: base + even,
        "details of other faces, all as strong": lambda: base + even[other],
        "Gaussian details of the same covariance": lambda: base + gaussian,
        "these, as strong as the face's own": lambda: base + gaussian / lengths(gaussian) * lengths(real),
        "long waves of other faces, rest of the model": lambda: base + strong(real[other]) + ours - strong(ours),
        "long waves of the model, rest of other faces": lambda: base + strong(ours) + (real - strong(real))[other],
        "long waves of other faces, no rest": lambda: base + strong(real[other]),
        "samples": lambda: drawn,
        "samples without details": lambda: whole.space.faces(at),
        "samples with details of the nearest face": lambda: whole.space.faces(at) + whole.read(nearest)[1],
    }


def look_at(whole: Whole, only: list[str] | None) -> Iterator[dict[str, Any]]:
    """FID-256 and KID of each mixture against the validation part."""
    from meshgan.evaluation.inception import inception_features

    mesh = whole.faces.template
    front = Camera.frontal(mesh.vertices)
    aside = Camera(front.width_mm, front.centre, yaw=THREE_QUARTERS)

    def features(faces: Faces) -> Singles:
        return inception_features(
            render(np.asarray(faces, np.float32), mesh.triangles, LARGE, camera=aside, light=RAKING)
        )

    real = features(np.asarray(whole.faces.vertices[whole.faces.split.validation]))
    truth = Gaussian.of_features(real)
    for name, faces in mixtures(whole).items():
        if not only or name in only:
            found = features(faces())
            distance = kernel_distance(found, real)
            yield {
                "trial": name,
                "fid256": round(frechet_distance(Gaussian.of_features(found), truth), 2),
                "kid": round(distance.value, 4) if distance else None,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("details", "codes", "convolutions", "amount", "pictures"))
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of trials")
    parser.add_argument("--faces", type=int, help="seen in training")
    parser.add_argument("--code", type=int, default=8)
    parser.add_argument("--model", default="identity", help="whose details are looked at")
    given = parser.parse_args()
    if given.what in ("amount", "pictures"):
        whole = Whole(given.data, given.model)
        results = [measure_amount(whole)] if given.what == "amount" else look_at(whole, given.only)
        for found in results:
            with given.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"set": Path(given.data).name, "model": given.model} | found) + "\n")
        return
    trials = {"details": DETAILS, "codes": CODES, "convolutions": CONVOLUTIONS}[given.what]
    data = Reduced(given.data)
    for name in given.only or trials:
        if given.what == "details":
            found = try_details(data, trials[name], given.faces or 5600)
        elif given.what == "convolutions":
            found = try_convolutions(data, trials[name], given.faces or 64_000)
        else:
            found = try_code(data, trials[name], given.faces or 32_000, given.code)
        with given.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"trial": name, "set": Path(given.data).name} | found) + "\n")


if __name__ == "__main__":
    main()
