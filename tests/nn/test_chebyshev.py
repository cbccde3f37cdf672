"""ChebConv against the eigen-decomposition that it avoids, and its gradients."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from operators import laplacian, upsampling

from meshgan.nn import paths
from meshgan.nn.chebyshev import ChebConv
from meshgan.nn.sampling import SparseOperator

VERTICES, BELOW = 40, 12


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def convolution(inputs: int = 3, outputs: int = 5, terms: int = 6, up: bool = False, kept: bool = False) -> ChebConv:
    rng = np.random.default_rng(0)
    layer = ChebConv(
        SparseOperator(laplacian(VERTICES, rng)),
        inputs,
        outputs,
        terms,
        up=SparseOperator(upsampling(VERTICES, BELOW, rng)) if up else None,
        kept=torch.as_tensor(np.sort(rng.choice(VERTICES, BELOW, replace=False))) if kept else None,
        generator=torch.Generator().manual_seed(0),
    )
    torch.nn.init.uniform_(layer.bias, generator=torch.Generator().manual_seed(1))
    return layer


def values(layer: ChebConv, seed: int = 0) -> torch.Tensor:
    vertices = BELOW if layer.up else VERTICES
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(2, vertices, layer.weight.shape[1])))


def dense(operator: SparseOperator) -> np.ndarray:
    return operator(torch.eye(operator.shape[1])).numpy()


def spectral(layer: ChebConv, x: torch.Tensor) -> np.ndarray:
    """The convolution by its definition: filters cos(k arccos λ) in the eigenbasis of the Laplacian."""
    eigenvalues, basis = np.linalg.eig(dense(layer.laplacian))
    angles = np.arccos(np.clip(eigenvalues.real, -1, 1))
    fields = x.numpy() if layer.up is None else np.einsum("vu,buc->bvc", dense(layer.up), x.numpy())
    total = layer.bias.detach().numpy()
    for k, weight in enumerate(layer.weight.detach().numpy()):
        filtered = (basis * np.cos(k * angles)) @ np.linalg.inv(basis)
        total = total + np.einsum("vu,buc->bvc", filtered.real, fields) @ weight
    total = total if layer.kept is None else total[:, layer.kept.numpy()]
    return np.where(total > 0, total, np.expm1(np.minimum(total, 0))) if layer.elu else total


@pytest.mark.parametrize("path", ["rows", "gather"])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "terms"), [(3, 16, 6), (16, 3, 6), (2, 2, 1), (4, 1, 2), (1, 4, 3)])
def test_equals_the_eigen_decomposition(
    path: paths.Path, up: bool, kept: bool, inputs: int, outputs: int, terms: int
) -> None:
    layer = convolution(inputs, outputs, terms, up, kept)
    x = values(layer)
    with paths.forced(path):
        np.testing.assert_allclose(layer(x).detach(), spectral(layer, x), rtol=0, atol=1e-9)
        single = layer.float()(x.float())
    np.testing.assert_allclose(single.detach(), spectral(layer.double(), x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("inputs", [2, 9])
def test_both_orders_of_multiplication_agree(inputs: int) -> None:
    layer = convolution(inputs, 5, up=True)
    field = values(layer).transpose(0, 1)
    torch.testing.assert_close(
        *(order(field, layer.weight) for order in (layer._summed, layer._projected)), rtol=0, atol=1e-12
    )


def test_the_cheaper_order_is_chosen() -> None:
    assert convolution(16, 3)._project_first
    assert convolution(16, 16, up=True)._project_first
    assert not convolution(3, 16)._project_first
    assert not convolution(16, 16, kept=True)._project_first


@pytest.mark.parametrize("path", ["rows", "gather"])
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 3), (3, 2)])
def test_first_and_second_derivatives(path: paths.Path, inputs: int, outputs: int) -> None:
    layer = convolution(inputs, outputs, 4, up=True, kept=True)
    x = values(layer).requires_grad_()

    def function(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    with paths.forced(path):
        assert torch.autograd.gradcheck(function, (x, layer.weight, layer.bias))
        assert torch.autograd.gradgradcheck(function, (x, layer.weight, layer.bias))


def test_follows_a_permutation_of_the_vertices() -> None:
    rng = np.random.default_rng(3)
    matrix, order = laplacian(VERTICES, rng), rng.permutation(VERTICES)
    layer = convolution()
    renamed = ChebConv(SparseOperator(matrix[order][:, order]), 3, 5)
    plain = ChebConv(SparseOperator(matrix), 3, 5)
    for other in (renamed, plain):
        other.load_state_dict(layer.state_dict())
    x = values(layer)
    torch.testing.assert_close(renamed(x[:, order]), plain(x)[:, order])


def test_sees_as_many_rings_as_its_degree() -> None:
    layer = convolution(terms=3)
    x = values(layer)
    moved = x.clone()
    moved[:, 0] += 1
    changed = (layer(moved) != layer(x)).any(dim=-1)[0].numpy()
    adjacency = dense(layer.laplacian) != 0
    reached = np.linalg.matrix_power(adjacency.astype(int), 2)[:, 0] > 0
    assert 1 < changed.sum() < VERTICES
    np.testing.assert_array_equal(changed, reached)
