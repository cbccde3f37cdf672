"""Chains of random layers on fields of random shapes, most of them wrong: `python fuzz_shapes.py COUNT [SEED]`.

A field that fits gives the plain path's numbers, one that does not is answered by `ValueError`, on both paths alike.
`make sanitize` runs it on builds of the kernel that watch their memory and their threads.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from operators import laplacian, upsampling

from meshgan.nn import kernel, paths
from meshgan.nn.chebyshev import Chain, ChebConv
from meshgan.nn.sampling import Reordering, SparseOperator


def random_chain(rng: np.random.Generator) -> Chain:
    """One to three layers, down or up, of any widths, with and without orders at their ends."""
    kinds = {"down": ["kept"] * 3, "up": ["up"] * 2 + ["neither"], "one": [str(rng.choice(["kept", "up", "neither"]))]}
    chosen = kinds[str(rng.choice(list(kinds)))]
    rows, channels, layers = int(rng.integers(3, 700)), int(rng.integers(1, 40)), []
    for kind in chosen:
        fine = int(rng.integers(rows + 1, 3 * rows + 4)) if kind == "up" else max(rows, 4)
        outputs = int(rng.choice([1, 3, 4, 16, 17, int(rng.integers(1, 40))]))
        layers.append(
            ChebConv(
                SparseOperator(laplacian(max(fine, 4), rng)),
                channels,
                outputs,
                int(rng.integers(1, 9)),
                up=SparseOperator(upsampling(max(fine, 4), rows, rng)) if kind == "up" else None,
                kept=torch.as_tensor(rng.permutation(fine)[: max(1, fine // 4)]) if kind == "kept" else None,
                elu=bool(rng.integers(2)),
                generator=torch.Generator().manual_seed(0),
            )
        )
        rows, channels = layers[-1].rows_out, outputs
    ends = [Reordering(rng.permutation(layers[i].rows_in if i == 0 else rows)) for i in (0, -1)]
    before, after = (end if rng.integers(2) else None for end in ends)
    return Chain(layers, before, after)


def random_field(rng: np.random.Generator, chain: Chain) -> torch.Tensor:
    """A field for the chain, often with something wrong, and laid out in memory in odd ways."""
    first = chain.layers[0]
    right = [int(rng.integers(0, 10)), first.rows_in, first.inputs]
    shape = list(right)
    for axis in (1, 2):
        if rng.random() < 0.25:
            shape[axis] = int(rng.choice([0, 1, shape[axis] + 1, max(shape[axis] - 1, 0), 16, 5036]))
    field = torch.as_tensor(rng.standard_normal(shape), dtype=torch.float32)
    if rng.random() < 0.1:
        field = field[0] if len(field) else field[None]
    if rng.random() < 0.1:
        field = field.to(rng.choice([torch.float64, torch.float16, torch.int64]))
    if rng.random() < 0.2 and field.ndim == 3:
        field = field.transpose(0, 2).contiguous().transpose(0, 2)  # right shape, not contiguous
    if rng.random() < 0.1 and field.is_floating_point():
        field = torch._neg_view(-field)  # a change of sign that is not yet in memory
    return field


def fits(chain: Chain, field: torch.Tensor) -> bool:
    first = chain.layers[0]
    return field.ndim == 3 and field.shape[1:] == (first.rows_in, first.inputs) and field.dtype == torch.float32


def attempt(chain: Chain, field: torch.Tensor, path: paths.Path, gradients: bool) -> list[torch.Tensor] | None:
    """The output, with `gradients` those of the input and the parameters too; None if it was refused."""
    chain = Chain(chain.layers, chain.before, chain.after)
    try:
        with paths.forced(path), torch.set_grad_enabled(gradients):
            wanted = field.detach()
            if gradients and field.is_floating_point():
                wanted.requires_grad_()
            found = chain(wanted)
            if not gradients or not found.numel():
                return [found.detach()]
            parameters = [tensor for layer in chain.layers for tensor in (layer.weight, layer.bias)]
            return [found.detach(), *torch.autograd.grad(found.square().sum(), [wanted, *parameters])]
    except ValueError as error:
        assert str(error).count("(") > 1 or str(error).count("torch.") > 1  # both shapes, or all types
        return None


def one(seed: int) -> bool:
    """Try one chain; True if its field fitted."""
    rng = np.random.default_rng(seed)
    chain = random_chain(rng)
    field = random_field(rng, chain)
    gradients = bool(rng.integers(2))
    found, plain = (attempt(chain, field, path, gradients) for path in ("kernel", "rows"))
    assert (found is not None) == (plain is not None) == fits(chain, field), (seed, field.shape, field.dtype)
    if found is None or plain is None:
        return False
    for ours, theirs in zip(found, plain, strict=True):
        scale = max(float(theirs.abs().max()), 1.0) if theirs.numel() else 1.0
        assert torch.allclose(ours, theirs, rtol=0, atol=2e-4 * scale), seed
    return True


def fuzz(count: int, seed: int = 0, threads: int = 3) -> int:
    """Try so many chains, from `threads` threads at once, each sharing its batch with another; how many fitted."""

    def work(seeds: range) -> int:
        torch.set_num_threads(2)
        return sum(one(number) for number in seeds)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, [range(seed + i, seed + count, threads) for i in range(threads)]))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    print(f"{fuzz(*numbers)} of {numbers[0]} fields fitted; {kernel.describe()}")
