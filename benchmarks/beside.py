"""A BEGAN step of this checkout beside that of another one, in turns: what a change of the code costs.

    python benchmarks/beside.py OTHER [--turns 40]

OTHER is a checkout whose kernel is built (`python setup.py build_ext --inplace`). Each has a process of its own, which
waits while the other works. Prints the medians of both in ms, their ratio, and its spread over the turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

STEPS = 5  # in each turn
WORKER = f"""
import statistics, sys, time, torch
import meshgan
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn import kernel
from meshgan.training.began import reconstruction_loss, set_gradients
from meshgan.nn.networks import Autoencoder, Decoder
template = meshgan.load_model("identity").template
hierarchy, random = Hierarchy.cached(template), torch.Generator().manual_seed(0)
generator, critic = Decoder(hierarchy, generator=random), Autoencoder(hierarchy, generator=random)
optimisers = [torch.optim.Adam(network.parameters(), lr=1e-4, fused=True) for network in (generator, critic)]
faces = torch.randn(16, len(template.vertices), 3, generator=random)
def step():
    generated = generator(torch.rand(16, 64, generator=random) * 2 - 1)
    losses = reconstruction_loss(critic, faces), reconstruction_loss(critic, generated)
    set_gradients(*losses, torch.tensor(0.3), critic.parameters(), generator.parameters())
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
step = getattr(kernel, "pytorch_in_one_thread", getattr(kernel, "alone", None))()(step)  # as the training loop does
for _ in range(10):
    step()
for line in sys.stdin:
    times = []
    for _ in range({STEPS}):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    print(statistics.median(times) * 1e3, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--turns", type=int, default=40)
    given = parser.parse_args()
    trees = [Path(__file__).parents[1], given.other.resolve()]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree / "src")}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for tree in trees
    ]  # fmt: skip
    times: list[list[float]] = [[], []]
    for turn in range(given.turns):
        for number in (0, 1) if turn % 2 else (1, 0):
            worker = workers[number]
            assert worker.stdin and worker.stdout
            worker.stdin.write("\n")
            worker.stdin.flush()
            times[number].append(float(worker.stdout.readline()))
    for worker in workers:
        worker.communicate()
    ours, theirs = map(statistics.median, times)
    low, middle, high = statistics.quantiles([a / b for a, b in zip(*times, strict=True)], n=4)
    print(
        f"this {ours:.1f} ms, other {theirs:.1f} ms; ratio {middle:.3f}, quarters of the turns {low:.3f} to {high:.3f}"
    )


if __name__ == "__main__":
    main()
