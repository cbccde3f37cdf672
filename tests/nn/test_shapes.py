"""What compiled code is given is checked where Python hands over, on all paths alike."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from fuzz_shapes import fuzz
from operators import hierarchy, laplacian, upsampling

from meshgan.errors import UsageError
from meshgan.nn import kernel, paths
from meshgan.nn.chebyshev import Chain, ChebConv, supports
from meshgan.nn.networks import Decoder, Encoder, ScalarCritic
from meshgan.nn.plan import NetworkSpec
from meshgan.nn.sampling import Reordering, SparseOperator

PATHS: list[paths.Path] = ["kernel", "rows", "gather"]


def conv(inputs: int = 3, outputs: int = 16) -> ChebConv:
    return ChebConv(SparseOperator(laplacian(60, np.random.default_rng(0))), inputs, outputs, 3)


def test_random_shapes_from_several_threads() -> None:
    before = torch.get_num_threads()
    fitted = fuzz(60)
    torch.set_num_threads(before)
    assert 15 < fitted < 45  # both kinds occur


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("shape", [(4, 10, 3), (4, 61, 3), (4, 60, 4), (4, 60, 2), (60, 3), (1, 4, 60, 3), (4, 3, 60)])
def test_fields_of_other_shapes_are_refused(path: paths.Path, gradients: bool, shape: tuple[int, ...]) -> None:
    spec = NetworkSpec(code=4)
    for network in (Encoder(hierarchy(), spec), ScalarCritic(hierarchy(), spec)):
        field = torch.randn(shape, requires_grad=gradients)
        with paths.forced(path), pytest.raises(ValueError) as caught:
            network(field)
        assert "60, 3" in str(caught.value) and str(shape) in str(caught.value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(4, 5), (4,), (4, 1, 4)])
def test_codes_of_other_shapes_are_refused(path: paths.Path, shape: tuple[int, ...]) -> None:
    with paths.forced(path), pytest.raises(ValueError, match="4") as caught:
        Decoder(hierarchy(), NetworkSpec(code=4))(torch.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_refused(path: paths.Path, dtype: torch.dtype) -> None:
    with paths.forced(path), pytest.raises(ValueError, match="float32"):
        conv()(torch.zeros(2, 60, 3, dtype=dtype))


def test_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="meta"):
        conv()(torch.zeros(2, 60, 3, device="meta"))


@pytest.mark.parametrize("path", PATHS)
def test_parameters_that_were_changed_are_looked_at_again(path: paths.Path) -> None:
    """After the chain was compiled: another shape or type in their place would be read beyond its end."""
    for name, other in (
        ("weight", torch.zeros(3, 3, 8)), ("weight", torch.zeros(2, 3, 16)), ("bias", torch.zeros(8)),
        ("bias", torch.zeros(16, dtype=torch.float64)), ("weight", torch.zeros(3, 3, 16, dtype=torch.float64)),
    ):  # fmt: skip
        layer = conv()
        with paths.forced(path):
            layer(torch.zeros(2, 60, 3))
            getattr(layer, name).data = other
            with pytest.raises(ValueError):
                layer(torch.zeros(2, 60, 3))


def test_layers_that_do_not_follow_each_other_are_refused() -> None:
    rng = np.random.default_rng(0)
    for second in (conv(15, 3), ChebConv(SparseOperator(laplacian(59, rng)), 16, 3, 2)):
        with pytest.raises(ValueError, match="cannot follow"):
            Chain([conv(), second])
    for order in (np.arange(59), np.arange(61)):
        with pytest.raises(ValueError, match="order"):
            Chain([conv()], before=Reordering(order))
        with pytest.raises(ValueError, match="order"):
            Chain([conv()], after=Reordering(order))


@pytest.mark.parametrize("order", [np.array([0, 0, 1]), np.array([1, 2, 3]), np.array([[0, 1]]), np.array([-1, 0, 1])])
def test_orders_are_permutations(order: np.ndarray) -> None:
    with pytest.raises(ValueError, match="permutation"):
        Reordering(order)


@pytest.mark.parametrize(
    "kept", [torch.tensor([0, 60]), torch.tensor([-1]), torch.tensor([3, 3]), torch.zeros(60, dtype=torch.bool),
             torch.tensor([[1, 2]]), torch.tensor([1.0])]
)  # fmt: skip
def test_kept_vertices_are_different_ones_of_the_level(kept: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="kept vertices"):
        ChebConv(SparseOperator(laplacian(60, np.random.default_rng(0))), 3, 4, 2, kept=kept)


def test_matrices_stay_inside_their_shapes() -> None:
    rng = np.random.default_rng(0)
    outside = sp.csr_array((np.ones(2), np.array([0, 7]), np.array([0, 1, 2])), shape=(2, 7))
    with pytest.raises(ValueError):
        SparseOperator(outside)
    with pytest.raises(ValueError, match="do not fit"):
        ChebConv(SparseOperator(laplacian(60, rng)), 3, 4, 2, up=SparseOperator(upsampling(50, 9, rng)))
    with pytest.raises(ValueError, match="do not fit"):
        ChebConv(SparseOperator(upsampling(50, 9, rng)), 3, 4, 2)
    for path in ("rows", "gather"):
        with paths.forced(path), pytest.raises(ValueError, match=r"\(50, 9\).*\(10, 2\)"):
            SparseOperator(upsampling(50, 9, rng))(torch.zeros(10, 2))


def test_a_vertex_with_more_neighbours_than_a_run_can_count() -> None:
    """Two coarse vertices that 70,000 fine ones follow: more than 16 bits count, so the plain path computes it."""
    fine = 70_000
    rows = np.arange(fine)
    up = SparseOperator(sp.csr_array((np.ones(fine), (rows, rows % 2)), shape=(fine, 2)))
    layer = ChebConv(SparseOperator(sp.eye_array(fine, format="csr")), 3, 4, 3, up=up)
    assert not supports([layer], torch.zeros(1, 2, 3))
    values = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(values)[:, :2], layer(values)[:, -2:])


def test_a_vertex_that_would_fill_the_memory_is_refused() -> None:
    """A fan of 10,000 triangles: padded to its middle's row, all rows would take a gigabyte."""
    spokes = 10_000
    rim = np.arange(1, spokes + 1)
    hub = sp.coo_array((np.ones(spokes), (np.zeros(spokes, int), rim)), shape=(spokes + 1, spokes + 1))
    for matrix in (hub, hub.T):
        with pytest.raises(UsageError, match="10000 others"):
            SparseOperator(sp.csr_array(matrix))


@pytest.mark.parametrize("choice", ["base", "none"])
def test_the_path_can_be_chosen_from_outside(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "from meshgan.nn import kernel; print(kernel.instructions())"
    monkeypatch.setenv("MESHGAN_KERNEL", choice)
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    built = kernel.load("base") is not None
    expected = "None" if choice == "none" else "base" if built else ""
    assert said.stdout.strip() == expected, said.stderr


def test_a_kernel_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESHGAN_KERNEL", str(tmp_path / "none.so"))
    command = "from meshgan.nn import kernel; kernel.instructions()"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert "UsageError" in said.stderr and "none.so" in said.stderr


def test_why_there_is_no_kernel_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel, "instructions", lambda: None)
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel.py"))
    assert "a C++ compiler was missing" in kernel.describe()
    (tmp_path / kernel.NOT_BUILT).write_text("command 'g++' failed with exit code 1\n")
    assert "g++' failed with exit code 1" in kernel.describe()
