"""How long a BEGAN training step takes, against the same networks of other layers and against the machine's floor.

A step is D(x), G(z), D(G(z)), all gradients and Adam, at the template's 5,036 vertices, batch 16, float32, on PyTorch's
threads. All three versions start from the same weights and must give the same numbers before they are timed; then they
take turns, and with a matrix product, whose rate makes the floor.

Beside it, what the details of the recipe `meshgan` cost: its whole step with them, and without.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meshgan.bench.hierarchy import hills, peak_mb, slope
from meshgan.bench.twins import CsrConv, PygConv, Twin, conditions, copy_rate, matrix_product, network, training_step
from meshgan.data.corpora.anny import make_identities
from meshgan.data.corpora.basis import face_template
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, install_command
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.machine import today
from meshgan.nn import kernel
from meshgan.nn.generator import noise_size
from meshgan.nn.networks import Autoencoder, Decoder
from meshgan.training.began import reconstruction_loss, set_gradients
from meshgan.training.loop import start
from meshgan.training.recipe import Recipe, load_recipe
from meshgan.training.state import Batch, Batches, State
from meshgan.training.team import Team

TOLERANCE = 1e-4
ROUNDS = 5
TURNS = {"meshgan": 12, "csr": 2, "pyg": 1, "floor": 4}  # in a round, so that all are timed for about as long

Tensors = dict[str, Tensor]
K = torch.tensor(0.3)  # BEGAN's k_t: any number in (0, 1) costs the same
SIDES = (71, 110, 141, 283)  # of sheets of 5,041, 12,100, 19,881 and 80,089 vertices: faces, heads, and larger ones
BATCHES = (1, 4, 16, 64, 128)
BATCH = 16
SECONDS = 3.0  # of steps at each size, and at least three steps
PEOPLE = 160  # whose faces the recipe's step is timed on
BESIDE = {  # the recipe `meshgan` as it might be; steps of each are timed beside its own
    "without traits": ("network.traits=0",),
    "without details": (
        "network.detail=false", "network.traits=0", "objective.spectrum=0", "objective.validity=0",
    ),
}  # fmt: skip
LINEAR = 1.1  # the largest exponent that counts as linear


def run(only_growth: bool = False) -> dict[str, Any]:
    """Check that the versions agree, time them in turns, and print everything that the ratios follow from; or, of all
    that, how a step grows."""
    if only_growth:
        return {"growth": growth(), "path": kernel.describe(), "machine": conditions(), "date": today()}
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
        "recipe": of_recipe(),
        "growth": growth(),
        "path": kernel.describe(),
        "machine": conditions(),
        "date": today(),
    }
    _show(result)
    return result


class Player:
    """Generator and discriminator of one version, with their optimisers."""

    def __init__(self, generator: Any, critic: Any) -> None:
        self.generator, self.critic = generator, critic
        networks: tuple[nn.Module, nn.Module] = (generator, critic)
        self.optimisers = [torch.optim.Adam(network.parameters(), lr=1e-4, fused=True) for network in networks]

    @classmethod
    def of(cls, hierarchy: Hierarchy) -> "Player":
        """Our networks on a hierarchy, always with the same weights."""
        random = torch.Generator().manual_seed(0)
        return cls(Decoder(hierarchy, generator=random), Autoencoder(hierarchy, generator=random))

    def losses(self, faces: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G(z), L(x) and L(G(z))."""
        generated = self.generator(codes)
        return generated, *(reconstruction_loss(self.critic, x) for x in (faces, generated))

    def gradients(self, faces: Tensor, codes: Tensor) -> None:
        """Gradients of both players by one backward pass each through D(x) and D(G(z))."""
        _, real, fake = self.losses(faces, codes)
        set_gradients(real, fake, K, self.critic.parameters(), self.generator.parameters())

    def stepper(self, faces: Tensor) -> Callable[[], None]:
        """One training step on these faces and new codes."""
        random = torch.Generator().manual_seed(2)

        def step() -> None:
            self.gradients(faces, torch.rand(len(faces), 64, generator=random) * 2 - 1)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad()

        return step


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


def of_recipe() -> dict[str, float]:
    """Milliseconds of a step of the recipe `meshgan`, and of those of `BESIDE`; means over a cycle of steps, as what is
    done in each differs, medians over cycles."""
    cycles: dict[str, Callable[[], None]] = {}
    with tempfile.TemporaryDirectory() as name:
        make_identities(Path(name) / "faces", PEOPLE)
        faces = FaceSet.open(Path(name) / "faces")
        hierarchy = Hierarchy.cached(faces.template)
        for key, changes in {"meshgan": (), **BESIDE}.items():
            recipe = load_recipe("meshgan", changes)
            state, noise = start(recipe, faces, hierarchy, 0, Team()), noise_size(recipe.network, hierarchy.counts)
            batches = Batches(faces, recipe.network.code, BATCH, 0, Team(), None, noise)
            given = [batches(i, recipe.objective.phases) for i in range(recipe.objective.phases)]

            def cycle(recipe: Recipe = recipe, state: State = state, given: list[Batch] = given) -> None:
                for batch in given:
                    recipe.objective.step(state, batch)

            cycles[key] = kernel.pytorch_in_one_thread()(cycle)
        seconds: dict[str, list[float]] = {key: [] for key in cycles}
        for work in cycles.values():
            work()
        for _ in range(ROUNDS):
            for key, work in cycles.items():
                seconds[key].append(_seconds(work) / len(given))
    ms = {key: statistics.median(times) * 1e3 for key, times in seconds.items()}
    return ms | {"ratio": ms["meshgan"] / ms["without details"], "of_traits": ms["meshgan"] / ms["without traits"]}


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
        print(f"  PyTorch Geometric is not there; install it with: {install_command('bench')}")
    print(f"  same numbers to {max(result['difference'].values(), default=0.0):.0e}")
    print(f"counted: {result['gflop']:.2f} GFLOP and {result['gbyte']:.2f} GB a step;", end=" ")
    print(f"measured: {result['gflops']:.0f} GFLOP/s in a matrix product, {result['copy_gbps']:.1f} GB/s in a copy")
    traffic = result["gbyte"] / result["copy_gbps"] * 1e3
    print(f"floor: {result['floor_ms']:.1f} ms of arithmetic (the traffic alone: {traffic:.1f} ms);", end=" ")
    print(f"meshgan takes {result['ratio']['floor']:.1f} times that")
    rates = result["decode"]
    print(f"decoding: {rates['faces_per_s']:,.0f} faces/s, floor {rates['floor_faces_per_s']:,.0f}")
    recipe = result["recipe"]
    print(f"a step of the recipe meshgan: {recipe['meshgan']:.1f} ms", end=", ")
    print(f"{recipe['of_traits']:.2f} times that without traits ({recipe['without traits']:.1f})", end=" and ")
    print(f"{recipe['ratio']:.2f} times that without details ({recipe['without details']:.1f})")


def growth() -> dict[str, Any]:
    """Milliseconds and megabytes of a step at four sizes and five batches, each in a fresh process; prints them.

    `proportion` is a step's time against what the smallest sheet's predicts, vertex by vertex. The exponents are slopes
    in log-log over the sizes: 1 is linear.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        sizes = list(fresh.map(measure, SIDES, [BATCH] * len(SIDES)))
        batches = list(fresh.map(measure, [SIDES[0]] * len(BATCHES), BATCHES))
    vertices = [row["vertices"] for row in sizes]
    for row in sizes:
        row["proportion"] = row["ms"] / sizes[0]["ms"] / (row["vertices"] / sizes[0]["vertices"])
    result: dict[str, Any] = {
        "sizes": sizes,
        "batches": batches,
        "exponent_ms": slope(vertices, [row["ms"] for row in sizes]),
        "exponent_mb": slope(vertices, [row["mb"] for row in sizes]),
        "exponent_ms_of_batch": slope(BATCHES, [row["ms"] for row in batches]),
    }
    result["linear"] = max(result["exponent_ms"], result["exponent_mb"]) <= LINEAR
    _show_growth(result)
    return result


def measure(side: int, batch: int) -> dict[str, Any]:
    """The median step on a sheet of `side`² vertices, and the memory that networks and steps added at most."""
    import torch

    from meshgan.bench.train_step import Player
    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.nn import kernel

    hierarchy = Hierarchy.cached(hills(side))
    before = peak_mb(reset=True)
    step = kernel.pytorch_in_one_thread()(Player.of(hierarchy).stepper(torch.randn(batch, side**2, 3)))
    step()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < SECONDS:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    ms = statistics.median(seconds) * 1e3
    return {"vertices": side**2, "batch": batch, "ms": ms, "mb": peak_mb() - before}


def _show_growth(result: dict[str, Any]) -> None:
    for row in result["sizes"] + result["batches"]:
        each = f"{row['ms'] / row['batch']:6.2f} ms a face, {row['mb']:6.0f} MB"
        each += f", {row['proportion']:.2f} times proportion" if "proportion" in row else ""
        print(f"{row['vertices']:8,} vertices, batch {row['batch']:3}: {row['ms']:8.1f} ms, {each}")
    print(f"growth: time ~ V^{result['exponent_ms']:.2f}, memory ~ V^{result['exponent_mb']:.2f},", end=" ")
    print(f"time ~ batch^{result['exponent_ms_of_batch']:.2f}")
