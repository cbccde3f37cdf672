"""How long a BEGAN training step takes, against the same networks of other layers and against the machine's floor.

A step is D(x), G(z), D(G(z)), all gradients and Adam, at the template's 5,036 vertices, batch 16, float32, on PyTorch's
threads. All three versions start from the same weights and must give the same numbers before they are timed; then they
take turns, and with a matrix product, whose rate makes the floor.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from meshgan.bench.growth import growth
from meshgan.bench.layers import CsrConv, PygConv, Twin
from meshgan.bench.machine import copy_rate, machine, matrix_product
from meshgan.bench.player import Player
from meshgan.bench.work import network, training_step
from meshgan.data.corpora.basis import face_template
from meshgan.errors import MeshganError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.machine import today
from meshgan.nn import kernel
from meshgan.nn.networks import Decoder

BATCH = 16
TOLERANCE = 1e-4
ROUNDS = 5
TURNS = {"meshgan": 12, "csr": 2, "pyg": 1, "floor": 4}  # in a round, so that all are timed for about as long

Tensors = dict[str, Tensor]


def run() -> dict[str, Any]:
    """Check that the versions agree, time them in turns, and print everything that the ratios follow from."""
    hierarchy = Hierarchy.cached(face_template())
    players = versions(hierarchy)
    vertices = len(face_template().vertices)
    faces = torch.randn(BATCH, vertices, 3, generator=torch.Generator().manual_seed(1))
    differences = check(players, faces)
    steps = {name: player.stepper(faces) for name, player in players.items()}
    steps["meshgan"] = kernel.pytorch_in_one_thread()(steps["meshgan"])  # as the training loop does
    product, flops = matrix_product()
    seconds = time_in_turns({**steps, "floor": product})
    ours = players["meshgan"]
    work = training_step(ours.generator, ours.critic, BATCH)
    gflops, gbps = flops / statistics.median(seconds.pop("floor")) / 1e9, copy_rate()
    ms = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    ratios = {name: value / ms["meshgan"] for name, value in ms.items() if name != "meshgan"}
    floor = work.flops / gflops / 1e6
    result = {
        "vertices": vertices,
        "batch": BATCH,
        "ms": ms,
        "ratio": ratios | {"floor": ms["meshgan"] / floor},
        "floor_ms": floor,
        "spread_ms": {name: [min(times) * 1e3, max(times) * 1e3] for name, times in seconds.items()},
        "difference": differences,
        "gflop": work.flops / 1e9,
        "gbyte": work.bytes / 1e9,
        "gflops": gflops,
        "copy_gbps": gbps,
        "decode": decode(ours.generator, gflops),
        "growth": growth(),
        "path": kernel.describe(),
        "machine": machine(),
        "date": today(),
    }
    _show(result)
    return result


def versions(hierarchy: Hierarchy) -> dict[str, Player]:
    """The same weights in our layers, in a plain CSR recurrence, and in PyTorch Geometric's layers if it is there."""
    ours = Player.of(hierarchy)
    pair = (ours.generator, ours.critic)
    kinds = {"csr": CsrConv} | ({"pyg": PygConv} if PygConv.available() else {})
    others = {name: Player(*(Twin(copy.deepcopy(network), kind) for network in pair)) for name, kind in kinds.items()}
    return {"meshgan": ours, **others}


def check(players: dict[str, Player], faces: Tensor) -> dict[str, float]:
    """The largest relative difference from our layers, of outputs and of every gradient; raises above `TOLERANCE`."""
    codes = torch.rand(len(faces), 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    found = {name: _numbers(player, faces, codes) for name, player in players.items()}
    ours = found.pop("meshgan")
    differences = {
        name: max(float((theirs[key] - ours[key]).norm() / ours[key].norm()) for key in ours)
        for name, theirs in found.items()
    }
    for name, difference in differences.items():
        if difference > TOLERANCE:
            raise MeshganError(f"the version {name} computes something else: relative difference {difference:.1e}.")
    return differences


def _numbers(player: Player, faces: Tensor, codes: Tensor) -> Tensors:
    generated, real, fake = player.losses(faces, codes)
    player.gradients(faces, codes)
    numbers = {"G(z)": generated.detach(), "L(x)": real.detach(), "L(G(z))": fake.detach()}
    for name, network_ in (("G", player.generator), ("D", player.critic)):
        gradients = network_.gradients() if isinstance(network_, Twin) else _gradients(network_)
        numbers |= {f"{name}.{key}": value for key, value in gradients.items()}
        network_.zero_grad()
    return numbers


def _gradients(module: nn.Module) -> Tensors:
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def time_in_turns(steps: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each version's steps; every round times all versions. A version's first step does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, step in steps.items():
            seconds[name] += [_seconds(step) for _ in range(TURNS[name])]
    return seconds


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def decode(generator: Decoder, gflops: float) -> dict[str, float]:
    """Faces a second through the decoder without gradients, in batches of 64, and its floor."""
    codes = torch.rand(64, 64)
    with torch.no_grad(), kernel.pytorch_in_one_thread():
        generator(codes)
        seconds = min(_seconds(lambda: generator(codes)) for _ in range(10))
    rate, most = len(codes) / seconds, gflops * 1e9 / network(generator).forward.flops
    return {"faces_per_s": rate, "floor_faces_per_s": most, "ratio_floor": most / rate}


def _show(result: dict[str, Any]) -> None:
    about = result["machine"]
    print(f"{about['processor']}, {about['threads']} threads, {about['instructions']}, load {about['load']}")
    print(f"torch {about['torch']}; convolutions by {result['path']}")
    print(f"one BEGAN step, {result['vertices']:,} vertices, batch {result['batch']}, float32; median (least to most):")
    for name, ms in result["ms"].items():
        least, most = result["spread_ms"][name]
        ratio = f"{result['ratio'][name]:7.1f} × meshgan" if name in result["ratio"] else ""
        print(f"  {name:8} {ms:8.1f} ms ({least:.1f} to {most:.1f}) {ratio}")
    if "pyg" not in result["ms"]:
        print("  PyTorch Geometric is not there; install it with: pip install 'meshgan[bench]'")
    print(f"  same numbers to {max(result['difference'].values(), default=0.0):.0e}")
    print(f"counted: {result['gflop']:.2f} GFLOP and {result['gbyte']:.2f} GB a step;", end=" ")
    print(f"measured: {result['gflops']:.0f} GFLOP/s in a matrix product, {result['copy_gbps']:.1f} GB/s in a copy")
    traffic = result["gbyte"] / result["copy_gbps"] * 1e3
    print(f"floor: {result['floor_ms']:.1f} ms of arithmetic (the traffic alone: {traffic:.1f} ms);", end=" ")
    print(f"meshgan takes {result['ratio']['floor']:.1f} times that")
    rates = result["decode"]
    print(f"decoding: {rates['faces_per_s']:,.0f} faces/s, floor {rates['floor_faces_per_s']:,.0f}")
