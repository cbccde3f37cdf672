import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from meshgan.nn.spline import KERNEL, ExpressionClassifier, SplineConv, pseudo_coordinates, spline_basis, stencil


def hat(knot: int, position: float) -> float:
    """The B-spline of degree 1 of one knot of five, open on both sides: a hat of width one cell either way."""
    return max(0.0, 1.0 - abs(position * (KERNEL - 1) - knot))


def slow_convolution(layer: SplineConv, values: np.ndarray, pseudo: np.ndarray, edges: np.ndarray, centres: np.ndarray):
    """The published formula, one edge and one of the 125 knots at a time; values (V, C), pseudo (E, 3)."""
    weight, root, bias = (p.detach().double().numpy() for p in (layer.weight, layer.root, layer.bias))
    out = np.zeros((len(centres), weight.shape[2]))
    for centre, vertex in enumerate(centres):
        mine = [e for e in range(edges.shape[1]) if edges[1, e] == centre]
        for e in mine:
            for number in range(KERNEL**3):
                a, b, c = number % KERNEL, number // KERNEL % KERNEL, number // KERNEL**2
                product = hat(a, pseudo[e, 0]) * hat(b, pseudo[e, 1]) * hat(c, pseudo[e, 2])
                out[centre] += product * values[edges[0, e]] @ weight[number] / len(mine)
        out[centre] += values[vertex] @ root + bias
    return out


@given(
    seed=st.integers(0, 10**6),
    vertices=st.integers(1, 9),
    edge_count=st.integers(0, 20),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    batch=st.integers(1, 3),
)
@settings(max_examples=25)
def test_layer_equals_the_formula_edge_by_edge(
    seed: int, vertices: int, edge_count: int, inputs: int, outputs: int, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layer = SplineConv(inputs, outputs).double()
    torch.nn.init.normal_(layer.bias)
    centres = rng.permutation(vertices)[: rng.integers(1, vertices + 1)]
    edges = np.stack((rng.integers(0, vertices, edge_count), rng.integers(0, len(centres), edge_count)))
    values = rng.normal(size=(batch, vertices, inputs))
    pseudo = rng.choice([0.0, 0.25, 0.5, 1.0, *rng.random(6)], size=(batch, edge_count, 3))  # knots and borders too
    fast = layer(*(torch.from_numpy(array) for array in (values, pseudo, edges, centres)))
    for sample in range(batch):
        slow = slow_convolution(layer, values[sample], pseudo[sample], edges, centres)
        np.testing.assert_allclose(fast[sample].detach().numpy(), slow, rtol=1e-10, atol=1e-12)


def test_the_reference_notices_a_wrong_knot_order() -> None:
    layer = SplineConv(1, 1).double()
    args = (np.ones((1, 1)), np.array([[0.1, 0.6, 0.8]]), np.array([[0], [0]]), np.array([0]))
    right = slow_convolution(layer, *args)
    wrong = slow_convolution(layer, args[0], args[1][:, ::-1], *args[2:])
    assert abs(right - wrong).max() > 1e-6


def test_basis_has_the_values_of_the_published_layer() -> None:
    """Kernel 5, open, degree 1: the products that the published layer's own tests list; first axis fastest."""
    along_first = [0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0]
    expected = [{0: 1}, {0: 0.5, 1: 0.5}, {1: 1}, {2: 1}, {3: 1}, {3: 0.5, 4: 0.5}, {4: 1}]
    assert [nonzero(u, 0.0, 0.0) for u in along_first] == expected
    assert nonzero(0.125, 0.5, 0.0) == {10: 0.5, 11: 0.5}
    assert nonzero(0.5, 0.5, 0.0) == {12: 1}
    assert nonzero(0.75, 0.125, 0.0) == {3: 0.5, 8: 0.5}
    assert nonzero(0.0, 0.0, 1.0) == {100: 1}


def nonzero(*pseudo: float) -> dict[int, float]:
    values, knots = spline_basis(torch.tensor(pseudo, dtype=torch.float64))
    return {int(knot): float(value) for value, knot in zip(values, knots, strict=True) if value}


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_basis_is_a_partition_of_unity_that_reproduces_its_place(place: list[float]) -> None:
    values, knots = spline_basis(torch.tensor(place, dtype=torch.float64))
    assert values.min() >= 0
    assert values.sum() == pytest.approx(1.0)
    assert knots.min() >= 0
    assert knots.max() < KERNEL**3
    positions = torch.stack((knots % KERNEL, knots // KERNEL % KERNEL, knots // KERNEL**2), dim=1).double() / (
        KERNEL - 1
    )
    np.testing.assert_allclose(values @ positions, place, atol=1e-12)


def test_gradients() -> None:
    torch.manual_seed(0)
    layer = SplineConv(2, 3).double()
    edges, centres = torch.tensor([[0, 1, 2, 3, 1], [0, 0, 1, 1, 1]]), torch.tensor([3, 1])
    values = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    pseudo = torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, p: layer(v, p, edges, centres), (values, pseudo))


def test_pseudo_coordinates_are_scaled_and_held_in_range() -> None:
    centre = torch.tensor([1.0, 2.0, 3.0])
    neighbours = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, -1.0], [11.0, -20.0, 3.0]])
    places = pseudo_coordinates(centre, neighbours, reach=4.0)
    assert places.tolist() == [[0.5, 0.5, 0.5], [0.75, 0.5, 0.0], [1.0, 0.0, 0.5]]


def bump(side: int = 14) -> Mesh:
    """A gently curved sheet of `side`² vertices, about 100 mm wide."""
    x, y = np.meshgrid(np.linspace(-50, 50, side), np.linspace(-50, 50, side), indexing="ij")
    height = 30 * np.exp(-(x**2 + y**2) / 2000) + np.random.default_rng(0).normal(size=x.shape)
    number = np.arange(side * side).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    triangles = np.concatenate((np.stack((a, b, c), 1), np.stack((a, c, d), 1)))
    return Mesh(np.stack((x, y, height), -1).reshape(-1, 3), triangles)


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    return Hierarchy.build(bump())


def test_stencil_holds_every_edge_into_a_kept_vertex_once(hierarchy: Hierarchy) -> None:
    level = hierarchy.levels[0]
    part = stencil(level)
    found = {(int(start), int(part.centres[end])) for start, end in part.edges.T}
    both = {tuple(edge) for edge in level.mesh.edges.tolist()} | {tuple(e) for e in level.mesh.edges[:, ::-1].tolist()}
    assert found == {(start, end) for start, end in both if end in set(level.kept.tolist())}
    assert len(found) == part.edges.shape[1]
    starts, ends = level.mesh.vertices[part.edges[0]], level.mesh.vertices[part.centres[part.edges[1]]]
    extent = np.abs(starts - ends).max(axis=1)
    assert (extent < part.reach - 1e-9).mean() <= 0.95 <= (extent <= part.reach + 1e-9).mean()


def test_classifier_equals_the_layers_one_after_another(hierarchy: Hierarchy) -> None:
    torch.manual_seed(1)
    network = ExpressionClassifier(hierarchy).double()
    face = bump().vertices + np.random.default_rng(1).normal(size=(196, 3))
    values, positions = np.ones((196, 1)), face
    for level, layer in zip(hierarchy.levels[:-1], network.convolutions, strict=True):
        part = stencil(level)
        offsets = positions[part.edges[0]] - positions[part.centres][part.edges[1]]
        pseudo = np.clip(0.5 + offsets / (2 * part.reach), 0, 1)
        values = slow_convolution(layer, values, pseudo, part.edges, part.centres)
        values = np.where(values > 0, values, np.expm1(values))
        positions = positions[level.kept]
    logits = network.output.weight.detach().numpy() @ values.ravel() + network.output.bias.detach().numpy()
    expected = np.where(logits > 0, logits, np.expm1(logits))
    np.testing.assert_allclose(network(torch.from_numpy(face)[None])[0].detach().numpy(), expected, rtol=1e-9)


def test_classifier_does_not_see_where_the_face_stands(hierarchy: Hierarchy) -> None:
    torch.manual_seed(2)
    network = ExpressionClassifier(hierarchy).double()
    face = torch.from_numpy(bump().vertices.copy())[None]
    torch.testing.assert_close(network(face + 7.0), network(face))
    assert not torch.allclose(network(face * 1.05), network(face), rtol=1e-4)


def test_widths_must_fit_the_hierarchy(hierarchy: Hierarchy) -> None:
    with pytest.raises(ValueError, match="2 widths for 4 poolings"):
        ExpressionClassifier(hierarchy, widths=(16, 16))


def test_the_classifier_has_the_widths_of_the_paper(hierarchy: Hierarchy) -> None:
    """Four layers of 16, 16, 16 and 32 channels, and six expressions."""
    network = ExpressionClassifier(hierarchy)
    assert [tuple(layer.weight.shape[1:]) for layer in network.convolutions] == [(1, 16), (16, 16), (16, 16), (16, 32)]
    assert tuple(network.output.weight.shape) == (6, 32 * len(hierarchy.levels[-1].mesh.vertices))
