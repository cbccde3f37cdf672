"""The networks: the paper's sizes, their options, and that they start alike from a seed."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from operators import hierarchy

from meshgan.errors import UsageError
from meshgan.nn import paths, plan
from meshgan.nn.generator import BROAD, OF_TRAITS, STRENGTHS
from meshgan.nn.networks import (
    Autoencoder,
    Decoder,
    Encoder,
    MappingNetwork,
    ScalarCritic,
    parameter_count,
)
from meshgan.nn.plan import NetworkSpec, quarters

COUNTS = (90, 60, 40, 30, 20)  # what counts for the sizes is the coarsest level
COUNTED = (60, 30, 15, 8, 5)  # vertices of the levels by default
SMALL = NetworkSpec(code=7, widths=(4, 5, 6, 8), terms=3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(count: int = 2, vertices: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, vertices, 3, generator=seeded(seed))


def test_the_paper_s_networks_have_the_published_sizes() -> None:
    levels = hierarchy(COUNTS)
    assert parameter_count(Decoder(levels)) == 54_259
    assert parameter_count(Autoencoder(levels)) == 101_795
    assert parameter_count(Encoder(levels)) == 101_795 - 54_259


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("linear", [False, True])
def test_shapes_and_gradients(skips: bool, linear: bool) -> None:
    network = Autoencoder(hierarchy(), replace(SMALL, skips=skips, linear=linear), seeded())
    x = faces().requires_grad_()
    assert network.encoder(x).shape == (2, 7)
    assert network(x).shape == x.shape
    assert network(x).is_contiguous()
    network(x).square().sum().backward()
    assert x.grad is not None
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_skips_carry_the_first_tensor_to_every_level() -> None:
    network = Decoder(hierarchy(), replace(SMALL, skips=True))
    assert [layer.weight.shape[1] for layer in network.layers] == [8, 8 + 8, 6 + 8, 5 + 8]
    with torch.no_grad():
        for layer in network.layers:
            layer.weight[:, : layer.weight.shape[1] - 8] = 0  # cut everything but the skips
    codes = torch.eye(2, 7)
    assert (network(codes)[0] != network(codes)[1]).any()


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (Autoencoder(hierarchy(), SMALL, seeded(seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.dense.weight"], other["encoder.dense.weight"])
    assert torch.equal(before, torch.get_rng_state())


def test_the_state_holds_parameters_only() -> None:
    network = Autoencoder(hierarchy(), SMALL)
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_the_first_outputs_are_of_the_order_of_the_data() -> None:
    spread = [Decoder(hierarchy(COUNTS), NetworkSpec(), seeded(s))(torch.rand(64, 64) * 2 - 1).std() for s in range(4)]
    assert 0.05 < np.mean([float(value.detach()) for value in spread]) < 5


def test_the_linear_path_adds_a_matrix() -> None:
    plain = Decoder(hierarchy(), SMALL, seeded())
    network = Decoder(hierarchy(), replace(SMALL, linear=True), seeded())
    codes = torch.randn(2, 7, generator=seeded())
    torch.testing.assert_close(network(codes), plain(codes))
    matrix = faces(7)
    network.set_linear(matrix)
    torch.testing.assert_close(network(codes), plain(codes) + torch.einsum("bc,cvd->bvd", codes, matrix))
    with pytest.raises(UsageError):
        plain.set_linear(matrix)


def test_the_encoder_inverts_the_linear_path() -> None:
    plain = Encoder(hierarchy(), SMALL, seeded())
    network = Encoder(hierarchy(), replace(SMALL, linear=True), seeded())
    matrix = torch.linalg.qr(faces(7).flatten(1).T).Q.T.reshape(7, -1, 3) * torch.arange(1.0, 8.0)[:, None, None]
    network.set_linear(matrix)
    codes = torch.randn(2, 7, generator=seeded())
    drawn = torch.einsum("bc,cvd->bvd", codes, matrix)
    torch.testing.assert_close(network(drawn), plain(drawn) + codes)
    with pytest.raises(UsageError):
        plain.set_linear(matrix)


def test_code_activation() -> None:
    linear = Encoder(hierarchy(), SMALL, seeded())(faces())
    rectified = Encoder(hierarchy(), replace(SMALL, code_activation="relu"), seeded())(faces())
    assert (linear < 0).any()
    torch.testing.assert_close(rectified, linear.clamp(min=0))


def test_the_critic_gives_one_number_a_face() -> None:
    critic = ScalarCritic(hierarchy(), SMALL, seeded())
    assert critic(faces(5)).shape == (5,)


def test_a_hierarchy_of_the_wrong_depth_is_refused() -> None:
    with pytest.raises(UsageError, match="levels"):
        Encoder(hierarchy(), NetworkSpec(widths=(16, 32)))
    with pytest.raises(UsageError):
        NetworkSpec(code=0)


def test_the_path_of_other_devices_gives_the_same_numbers() -> None:
    network = Autoencoder(hierarchy((80, 30)), NetworkSpec(code=4, widths=(16,), terms=3), seeded())
    x = faces(3, 80)
    found = {}
    for path in ("rows", "gather"):
        leaf = x.clone().requires_grad_()
        with paths.forced(path):
            loss = network(leaf).square().mean()
            found[path] = [loss.detach(), *torch.autograd.grad(loss, [leaf, *network.parameters()])]
    for one, other in zip(found["gather"], found["rows"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_a_gpu_gives_the_numbers_of_the_cpu() -> None:
    network = Autoencoder(hierarchy((300, 80, 30, 15, 9)), NetworkSpec(code=8), seeded())
    x = faces(3, 300)
    expected = network(x)
    expected.square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    network.cuda()
    for _ in range(2):  # the first call compiles
        network.zero_grad()
        found = network(x.cuda())
        found.square().mean().backward()
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert (parameter.grad.cpu() - gradient).norm() < 1e-4 * gradient.norm() + 1e-7
    with torch.no_grad():
        torch.testing.assert_close(network(x.cuda()).cpu(), expected, rtol=1e-4, atol=1e-5)


DETAILED = replace(SMALL, linear=True, detail=True)


def detailed() -> Decoder:
    network = Decoder(hierarchy(), DETAILED, seeded())
    axes, _ = torch.linalg.qr(torch.randn(180, 7, generator=seeded()))
    network.metric.copy_(torch.rand(60, 3, generator=seeded()) + 0.5)
    network.set_linear(axes.T.reshape(7, 60, 3) / network.metric.sqrt() * torch.arange(1.0, 8)[:, None, None])
    network.deviations.copy_(torch.rand(60, 3, generator=seeded()) + 0.5)
    return network


def test_details_add_what_the_linear_map_cannot_say_and_nothing_else() -> None:
    network, codes = detailed(), torch.randn(3, 7, generator=seeded())
    noise = torch.randn(3, network.noise_size, generator=seeded())
    for faces_made in (network(codes), network(codes, noise)):
        torch.testing.assert_close(network.project(faces_made), codes, rtol=1e-4, atol=1e-4)
        assert (faces_made - (codes @ network.linear).view_as(faces_made)).abs().mean() > 0.01


def test_noise_reaches_a_face_from_every_level_and_zeros_are_none() -> None:
    network, codes = detailed(), torch.randn(2, 7, generator=seeded())
    none = torch.zeros(2, network.noise_size)
    mean = network(codes)
    torch.testing.assert_close(network(codes, none), mean)
    assert network.noise_size == sum(network.rows) == sum(COUNTED)
    for start, rows in zip(np.cumsum((0, *network.rows)), network.rows, strict=False):
        noise = none.clone()
        noise[:, start : start + rows] = torch.randn(2, rows, generator=seeded())
        assert (network(codes, noise) - mean).abs().max() > 1e-3


def with_traits() -> Decoder:
    """`detailed`, with numbers of the whole face that do nothing yet."""
    network = Decoder(hierarchy(), replace(DETAILED, traits=5), seeded())
    missing, unexpected = network.load_state_dict(detailed().state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == set(OF_TRAITS) and not unexpected
    return network


def test_traits_without_loadings_and_patterns_leave_every_bit_as_it_was() -> None:
    plain, network, codes = detailed(), with_traits(), torch.randn(3, 7, generator=seeded())
    noise = torch.randn(3, network.noise_size, generator=seeded())
    assert network.noise_size == plain.noise_size + STRENGTHS + 5
    assert torch.equal(network(codes, noise), plain(codes, noise[:, : plain.noise_size]))
    assert torch.equal(network(codes), plain(codes))


@torch.no_grad()
def test_strength_follows_the_code_and_chance_and_traits_are_of_the_whole_face() -> None:
    network, codes = with_traits(), torch.randn(3, 7, generator=seeded())
    noise = torch.zeros(3, network.noise_size)
    noise[:, : sum(network.rows)] = torch.randn(sum(network.rows), generator=seeded())
    details = [network(codes[:1].expand(3, -1), noise) - network(codes[:1].expand(3, -1))]
    for loadings in network.loadings:
        loadings[0] = 1.0
    network.strength[2].weight.zero_()
    network.strength[2].bias.zero_()
    noise[:, sum(network.rows)] = torch.tensor([-1.0, 0.0, 1.0])
    details.append(network(codes[:1].expand(3, -1), noise) - network(codes[:1].expand(3, -1)))
    weak, same, strong = details[1].square().mean(dim=(1, 2)) / details[0].square().mean(dim=(1, 2))
    assert weak < 0.5 and abs(same - 1) < 1e-5 and strong > 1.5
    network.strength[2].bias[0] = 9.0  # as a code may say: bounded, however large
    assert torch.isfinite(network(codes, noise)).all()

    for patterns in network.patterns:
        patterns.copy_(torch.randn(patterns.shape, generator=seeded()))
    assert len(network.patterns) == sum(rows <= BROAD for rows in network.rows)
    traits = torch.randn(3, 5, generator=seeded())
    assert (network(codes, traits=traits) - network(codes)).abs().mean() > 0.01
    torch.testing.assert_close(network(codes, traits=0 * traits), network(codes))


def test_traits_are_of_details() -> None:
    with pytest.raises(UsageError, match=r"network\.traits are of details"):
        NetworkSpec(linear=True, traits=4)


def test_details_need_a_linear_map() -> None:
    for wrong in ({"detail": True}, {"detail": True, "linear": True, "skips": True}):
        with pytest.raises(UsageError, match=r"network\.detail needs"):
            replace(SMALL, **wrong)


def test_a_mapping_network_adds_a_perceptron_to_the_code() -> None:
    mapping = MappingNetwork(NetworkSpec(code=3, mapping=5), seeded())
    codes = torch.randn(4, 3, generator=seeded(1))
    torch.testing.assert_close(mapping(codes), codes)  # the identity, to begin with
    dense = [layer for layer in mapping.layers if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in dense] == [(3, 5), (5, 5), (5, 5), (5, 3)]
    matrix, offset = torch.randn(3, 3, generator=seeded(2)), torch.randn(3, generator=seeded(3))
    with torch.no_grad():
        dense[-1].weight.normal_(generator=seeded(4))
        mapping.append(matrix, offset)
        values = codes
        for layer in dense[:-1]:
            values = layer(values)
            values = torch.where(values > 0, values, 0.2 * values)
        torch.testing.assert_close(mapping(codes), (codes + dense[-1](values)) @ matrix + offset)


def test_a_network_that_nobody_trains_is_refused_at_its_number_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = replace(SMALL, linear=True)
    convolutions = 3 * (3 * 4 + 4 * 5 + 5 * 6 + 6 * 8)
    for spec, weights in ((SMALL, 7 * 5 * 8 + convolutions), (linear, 7 * 5 * 8 + convolutions + 7 * 60 * 3)):
        monkeypatch.setattr(plan, "LARGEST", weights)
        Encoder(hierarchy(), spec)
        monkeypatch.setattr(plan, "LARGEST", weights - 1)
        with pytest.raises(UsageError, match=f"a network of {weights:,} weights is too large"):
            Encoder(hierarchy(), spec)


def test_levels_are_quarters_unless_told() -> None:
    assert quarters(5036, 4) == [1259, 315, 79, 20]
    assert quarters(3, 3) == [1, 1, 1]
    for widths, said in (
        ((16, 32), "2 widths and 4 coarser levels do not match; set hierarchy.counts = [15, 4]."),
        ((4,), "1 width and 4 coarser levels do not match; "),
        ((4,) * 5, "5 widths and 4 coarser levels do not match; "),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            Decoder(hierarchy(), replace(SMALL, widths=widths))
    for wrong in ({"terms": 0}, {"widths": (4, 0)}, {"widths": ()}, {"code": -1}):
        with pytest.raises(UsageError, match="of at least 1"):
            NetworkSpec(**wrong)


def test_which_path_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [SimpleNamespace(device=torch.device(name)) for name in ("cpu", "cuda", "mps")]
    assert [paths.gathers(field) for field in fields] == [False, False, True]
    assert paths.compiled()
    for path, expected in (("kernel", (False, True)), ("rows", (False, False)), ("gather", (True, False))):
        with paths.forced(path):
            assert all((paths.gathers(field), paths.compiled()) == expected for field in fields)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for path in ("kernel", "rows", "gather"):
        with paths.forced(path):
            assert all((paths.gathers(field), paths.compiled()) == (True, False) for field in fields)
