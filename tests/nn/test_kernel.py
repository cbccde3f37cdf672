"""The compiled kernel against the plain path in float64, over all instruction sets of this processor."""

import copy
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import hierarchy, laplacian, upsampling

from meshgan.nn import kernel, paths
from meshgan.nn.chebyshev import Chain, ChebConv, supports
from meshgan.nn.networks import Autoencoder, Decoder, ScalarCritic
from meshgan.nn.plan import BLOCK, NetworkSpec, Plan
from meshgan.nn.sampling import Reordering, SparseOperator

CAPABILITY = torch.backends.cpu.get_cpu_capability().lower()
INSTRUCTIONS = [name for name in kernel.FALLBACKS.get(CAPABILITY, ("base",)) if kernel.load(name)]
pytestmark = pytest.mark.skipif(not INSTRUCTIONS, reason="the kernel has not been built")


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(kernel, "library", lambda: kernel.load(request.param))
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def random_layer(rng: np.random.Generator, kind: str, vertices: int, inputs: int, outputs: int, terms: int) -> ChebConv:
    other = max(3, vertices // 4)
    layer = ChebConv(
        SparseOperator(laplacian(vertices, rng)),
        inputs,
        outputs,
        terms,
        up=SparseOperator(upsampling(vertices, other, rng)) if kind == "up" else None,
        kept=torch.as_tensor(rng.permutation(vertices)[:other]) if kind == "kept" else None,
        elu=bool(rng.integers(2)),
        generator=torch.Generator().manual_seed(0),
    )
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(1))
    return layer


def shape_of(layer: ChebConv) -> tuple[int, int]:
    vertices = layer.laplacian.shape[0]
    below = layer.up.shape[1] if layer.up else vertices
    return below, vertices if layer.kept is None else len(layer.kept)


def results(
    path: paths.Path,
    layers: list[ChebConv],
    x: torch.Tensor,
    orders: tuple[Reordering | None, Reordering | None] = (None, None),
) -> list[torch.Tensor]:
    """The output and all gradients, of input and parameters, for a fixed gradient of the output."""
    x = x.clone().requires_grad_()
    parameters = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    with paths.forced(path):
        y = Chain(layers, *orders)(x)
        direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
        return [y.detach(), *torch.autograd.grad(y, [x, *parameters], direction)]


def assert_as_in_double(layers: list[ChebConv], x: torch.Tensor, *orders: Reordering) -> None:
    assert supports(layers, x)
    found = results("kernel", layers, x, (*orders, None, None)[:2])
    doubled = [copy.deepcopy(layer).double() for layer in layers]
    expected = results("rows", doubled, x.double(), (*orders, None, None)[:2])
    units = [1e-12, 1e-12] + [1.0] * (len(expected) - 2)  # parameters' gradients are sums of terms of unit size that
    for one, other, unit in zip(found, expected, units, strict=True):  # may cancel: rounding is relative to the terms
        scale = max(float(other.abs().max()), unit)
        assert ((one - other).abs().max() / scale) < 2e-5


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["up", "kept", "neither"]),
    vertices=st.integers(4, 400),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    terms=st.integers(1, 8),
    batch=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_one_layer(kind: str, vertices: int, inputs: int, outputs: int, terms: int, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, kind, vertices, inputs, outputs, terms)
    below, above = shape_of(layer)
    x = torch.as_tensor(rng.normal(size=(batch, below, inputs)), dtype=torch.float32)
    assert_as_in_double([layer], x, Reordering(rng.permutation(below)), Reordering(rng.permutation(above)))


@pytest.mark.parametrize("kind", ["up", "kept", "neither"])
@pytest.mark.parametrize("channels", [(3, 16), (16, 3), (16, 16), (32, 16), (5, 33), (1, 1)])
def test_each_instruction_set(instructions: str, kind: str, channels: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, kind, 5 * BLOCK + 7, *channels, 6)
    x = torch.as_tensor(rng.normal(size=(5, shape_of(layer)[0], channels[0])), dtype=torch.float32)
    assert_as_in_double([layer], x)


@pytest.mark.parametrize("widths", [(16, 16, 16, 32), (4, 5, 6, 8), (16, 32, 48, 64), (3, 3, 3, 3)])
def test_whole_networks(instructions: str, widths: tuple[int, ...]) -> None:
    network = Autoencoder(hierarchy((300, 80, 30, 15, 9)), NetworkSpec(code=8, widths=widths), torch.Generator())
    doubled = copy.deepcopy(network).double()
    x = torch.randn(6, 300, 3, generator=torch.Generator().manual_seed(0))
    losses = {"kernel": network(x).square().mean()}
    with paths.forced("rows"):
        losses["rows"] = doubled(x.double()).square().mean()
    for loss in losses.values():
        loss.backward()
    for (name, one), other in zip(network.named_parameters(), doubled.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-9, name


def test_the_elu_is_exact_to_rounding(instructions: str) -> None:
    layer = ChebConv(SparseOperator(-upsampling(1, 1, np.random.default_rng(0))), 3, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
        x = torch.cat([torch.linspace(-100, 5, 4001), -torch.logspace(-20, 0, 500)])[:, None, None].expand(-1, 1, 3)
        with paths.forced("kernel"):
            found = layer(x)
        expected = torch.nn.functional.elu(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=3e-7, atol=1e-37)


def test_not_a_number_stays_one(instructions: str) -> None:
    layer = random_layer(np.random.default_rng(0), "neither", 30, 3, 16, 3)
    layer.elu = True
    x = torch.zeros(1, 30, 3)
    x[0, 4, 1] = torch.nan
    with paths.forced("kernel"):
        assert layer(x)[0, 4].isnan().all()


def test_results_do_not_depend_on_the_number_of_threads(threads: None) -> None:
    network = Autoencoder(hierarchy((300, 80, 30, 15, 9)), generator=torch.Generator().manual_seed(0))
    layers = [*network.encoder.convolutions.layers]
    more = [*network.decoder.layers, network.decoder.last]
    x, z = torch.randn(13, 300, 3), torch.randn(13, 9, 32)
    found = {}
    for count in (1, 2, 3, 5, 16):
        torch.set_num_threads(count)
        found[count] = [
            *results("kernel", layers, x, (network.encoder.convolutions.order, None)),
            *results("kernel", more, z, (None, network.decoder.order)),
        ]
    for count in found:
        for one, other in zip(found[1], found[count], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_callers_at_the_same_time_do_not_mix(threads: None) -> None:
    torch.set_num_threads(2)
    layer = random_layer(np.random.default_rng(0), "up", 200, 16, 16, 6)
    fields = [torch.randn(9, 50, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    expected = [results("kernel", [layer], field)[0] for field in fields]

    def again(number: int) -> bool:
        torch.set_num_threads(2)  # a setting of each thread
        with paths.forced("kernel"), torch.no_grad():
            return all(torch.equal(layer(fields[number]), expected[number]) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(again, range(8)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # it is what is tested
def test_a_forked_process_has_threads_of_its_own(threads: None) -> None:
    torch.set_num_threads(2)
    layer = random_layer(np.random.default_rng(0), "up", 200, 16, 16, 6)
    field = torch.randn(9, 50, 16)
    with paths.forced("kernel"), torch.no_grad():
        expected = layer(field)
        child = os.fork()
        if not child:
            os._exit(0 if torch.equal(layer(field), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_within_the_block_this_thread_of_pytorch_is_alone(threads: None) -> None:
    torch.set_num_threads(3)
    seen: dict[str, tuple[int, int]] = {}

    def look(name: str) -> None:
        seen[name] = (kernel.threads(), torch.get_num_threads())

    with kernel.pytorch_in_one_thread(), kernel.pytorch_in_one_thread():
        look("here")
        other = threading.Thread(target=look, args=["another thread"])
        other.start()
        other.join()
    look("after")
    assert seen == {"here": (3, 1), "another thread": (3, 3), "after": (3, 3)}


@pytest.mark.parametrize("rounds", range(3))
def test_overlapping_decodes_give_the_same_faces_and_leave_all_settings(threads: None, rounds: int) -> None:
    """Two blocks that overlap, so that the first to enter is the first to leave; a new thread then has them all."""
    torch.set_num_threads(3)
    decoder = Decoder(hierarchy(), NetworkSpec(code=4), torch.Generator().manual_seed(0))
    codes = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = [decoder(code) for code in codes]
    meet = threading.Barrier(2, timeout=600)

    def decode(number: int) -> tuple[bool, int]:
        torch.get_num_threads()
        with kernel.pytorch_in_one_thread(), torch.inference_mode():
            meet.wait()
            same = all(torch.equal(decoder(codes[number]), expected[number]) for _ in range(30))
            if number:
                meet.wait()
        if not number:
            meet.wait()
        return same, torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(decode, range(2))) == [(True, 3), (True, 3)]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3


def test_an_error_within_the_block_gives_the_threads_back(threads: None) -> None:
    torch.set_num_threads(2)
    with pytest.raises(KeyError), kernel.pytorch_in_one_thread():
        raise KeyError
    assert (kernel.threads(), torch.get_num_threads()) == (2, 2)


def test_the_same_twice() -> None:
    layer = random_layer(np.random.default_rng(0), "kept", 300, 3, 16, 6)
    x = torch.randn(16, 300, 3)
    for one, other in zip(results("kernel", [layer], x), results("kernel", [layer], x), strict=True):
        assert torch.equal(one, other)


def test_derivatives_of_derivatives_are_those_of_the_plain_path() -> None:
    critic = ScalarCritic(hierarchy(), NetworkSpec(widths=(4, 5, 6, 16)), torch.Generator().manual_seed(0))
    x = torch.randn(3, 60, 3, generator=torch.Generator().manual_seed(0))
    penalties = {}
    for path in ("kernel", "rows"):
        with paths.forced(path):
            leaf = x.clone().requires_grad_()
            slope = torch.autograd.grad(critic(leaf).sum(), leaf, create_graph=True)[0]
            penalty = (slope.norm(dim=(1, 2)) - 1).square().mean()
            penalties[path] = torch.autograd.grad(penalty, [p for p in critic.parameters() if p.ndim > 1])
    for one, other in zip(penalties["kernel"], penalties["rows"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_only_the_gradients_that_are_wanted(frozen: bool) -> None:
    decoder = Decoder(hierarchy(), NetworkSpec(code=4), torch.Generator().manual_seed(0)).requires_grad_(not frozen)
    code = torch.randn(2, 4, requires_grad=frozen)
    decoder(code).square().sum().backward()
    assert (code.grad is not None) == frozen
    assert all((parameter.grad is None) == frozen for parameter in decoder.parameters())
    with torch.no_grad():
        torch.testing.assert_close(decoder(code), decoder(code.detach()), rtol=0, atol=0)
    assert not decoder(code.detach()).requires_grad or not frozen


def test_other_types_and_empty_batches_take_the_plain_path() -> None:
    layer = random_layer(np.random.default_rng(0), "up", 40, 16, 16, 3)
    assert not supports([layer], torch.zeros(2, 10, 16, dtype=torch.float64))
    assert not supports([layer], torch.zeros(0, 10, 16))
    assert not supports([layer], torch.zeros(2, 10, 16, device="meta"))
    assert layer(torch.zeros(0, 10, 16)).shape == (0, 40, 16)


def test_copies_work_alone() -> None:
    network = Decoder(hierarchy(), NetworkSpec(code=4), torch.Generator().manual_seed(0))
    code = torch.randn(2, 4)
    expected = network(code)
    twin, pickled = copy.deepcopy(network), pickle.loads(pickle.dumps(network))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    del network
    torch.testing.assert_close(twin(code), expected, rtol=0, atol=0)
    torch.testing.assert_close(pickled(code), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["up", "kept"])
@pytest.mark.parametrize("seed", range(5))
def test_the_schedule_never_waits_too_short(kind: str, seed: int) -> None:
    """Replays the waves: nothing is read before it is written, or after the in-place recurrence wrote over it."""
    rng = np.random.default_rng(seed)
    vertices, terms = 6 * BLOCK, 6
    matrix = laplacian(vertices, rng)
    order = np.argsort(rng.random(vertices) * 0.5 + np.arange(vertices) / vertices)
    matrix = matrix[order][:, order]
    transfer = upsampling(vertices, 90, rng)
    kept = rng.permutation(vertices)[:90]
    plan = Plan(matrix, transfer) if kind == "up" else Plan(matrix, None, kept)
    blocks, lag = plan.sizes["blocks"], plan.sizes["collect_lag"]
    block_of = np.arange(vertices) // BLOCK
    neighbours = [np.unique(block_of[matrix[block * BLOCK : (block + 1) * BLOCK].indices]) for block in range(blocks)]
    ready, sources = plan.arrays["ready"], transfer.T.tocsr() if kind == "up" else None
    held = np.full((2, blocks), -1)  # the term that each half of the memory holds
    for time in range(blocks + (terms - 1) * lag):
        for k in range(terms):
            block = time - k * lag
            if not 0 <= block < blocks:
                continue
            if k:
                assert (held[(k - 1) % 2, neighbours[block]] == k - 1).all()
                assert k < 2 or held[k % 2, block] == k - 2
            held[k % 2, block] = k
            for row in range(ready[block - 1] if block else 0, ready[block]):
                places = sources[[row]].indices if sources is not None else kept[[row]]
                assert (held[k % 2, block_of[places]] == k).all()
    assert ready[-1] == 90
