"""Patches as tokens: where they lie, the maps of each against a loop over vertices, and what they are refused with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from operators import hierarchy

from meshgan.errors import UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.networks import Decoder, Encoder
from meshgan.nn.patches import PatchDecoder, PatchEncoder, decoder_of, encoder_of, patches
from meshgan.nn.plan import NetworkSpec
from meshgan.training.recipe import load_recipe
from shapes import grid

SPEC = NetworkSpec(code=7, widths=(4, 5, 6, 8), mixing=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(count: int = 3, vertices: int = 60) -> torch.Tensor:
    return torch.randn(count, vertices, 3, generator=seeded())


def test_each_vertex_lies_in_the_patch_that_it_is_interpolated_from_the_most() -> None:
    levels = hierarchy((60, 30, 8)).levels
    steps = [level.up.toarray() for level in levels[:-1]]
    expected = [int(np.argmax(steps[1][int(np.argmax(steps[0][vertex]))])) for vertex in range(60)]
    np.testing.assert_array_equal(patches(hierarchy((60, 30, 8))), expected)


def test_patches_of_a_mesh_hold_their_vertex_and_are_connected() -> None:
    mesh = grid(16, 16)
    levels = Hierarchy.build(mesh, (120, 40, 12))
    patch = patches(levels)
    assert sorted(set(patch.tolist())) == list(range(12))
    kept = np.arange(len(mesh.vertices))
    for level in levels.levels[:-1]:
        kept = kept[level.kept]
    np.testing.assert_array_equal(patch[kept], np.arange(12))
    neighbours = levels.levels[0].laplacian.tocoo()
    for number in range(12):
        reached, grown = {int(kept[number])}, True
        inside = (patch[neighbours.row] == number) & (patch[neighbours.col] == number)
        edges = list(zip(neighbours.row[inside].tolist(), neighbours.col[inside].tolist(), strict=True))
        while grown:
            more = reached | {end for start, end in edges if start in reached}
            reached, grown = more, more != reached
        assert len(reached) >= 0.9 * (patch == number).sum()  # interpolation may leave a vertex behind a neighbour


def test_both_halves_are_what_a_loop_over_vertices_gives() -> None:
    levels = hierarchy()
    patch, place = patches(levels), np.argsort(patches(levels), kind="stable").tolist()
    encoder, decoder = PatchEncoder(levels, SPEC, seeded(1)), PatchDecoder(levels, SPEC, seeded(2))
    with torch.no_grad():
        for network in (encoder, decoder):
            network.bias.normal_(generator=seeded(3))
        x = faces()
        tokens = encoder.bias.repeat(3, 1, 1)
        for row, vertex in enumerate(place):
            tokens[:, patch[vertex]] += x[:, vertex] @ encoder.maps[3 * row : 3 * row + 3]
        torch.testing.assert_close(encoder(x), encoder.dense(encoder.blocks(tokens).flatten(1)))
        codes = torch.randn(3, 7, generator=seeded())
        tokens = decoder.blocks(decoder.dense(codes).reshape(3, 5, 8))
        expected = decoder.bias.repeat(3, 1, 1)
        for row, vertex in enumerate(place):
            expected[:, vertex] += tokens[:, patch[vertex]] @ decoder.maps[3 * row : 3 * row + 3].T
        torch.testing.assert_close(decoder(codes), expected)


def test_a_block_lets_every_token_see_every_other_and_its_own_channels() -> None:
    block = PatchEncoder(hierarchy(), SPEC, seeded()).blocks[0]
    x = torch.randn(1, 5, 8, generator=seeded(), requires_grad=True)
    block(x)[0, 2, 3].backward()
    assert x.grad is not None
    assert (x.grad[0] != 0).all()


def test_gradients_reach_every_weight_and_the_state_holds_parameters_only() -> None:
    encoder, decoder = encoder_of(hierarchy(), SPEC, seeded()), decoder_of(hierarchy(), SPEC, seeded())
    x = faces().requires_grad_()
    made = decoder(encoder(x))
    assert made.shape == x.shape
    made.square().sum().backward()
    for network in (encoder, decoder):
        assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_a_seed_decides_the_weights() -> None:
    first, second, other = (PatchDecoder(hierarchy(), SPEC, seeded(seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["maps"], other["maps"])


def test_without_mixing_networks_are_of_convolutions() -> None:
    plain = replace(SPEC, mixing=0)
    assert isinstance(encoder_of(hierarchy(), plain), Encoder)
    assert isinstance(decoder_of(hierarchy(), plain), Decoder)


def test_code_activation() -> None:
    rectified = encoder_of(hierarchy(), replace(SPEC, code_activation="relu"), seeded())
    torch.testing.assert_close(rectified(faces()), encoder_of(hierarchy(), SPEC, seeded())(faces()).clamp(min=0))


def test_what_does_not_go_with_patches_is_refused() -> None:
    for other in ({"linear": True}, {"skips": True}):
        with pytest.raises(UsageError, match=r"network\.mixing"):
            replace(SPEC, **other)
    with pytest.raises(UsageError, match="levels"):
        PatchEncoder(hierarchy(), replace(SPEC, widths=(4, 5)))
    with pytest.raises(UsageError, match="too large"):
        PatchDecoder(hierarchy((60, 30)), NetworkSpec(code=4096, widths=(4096,), mixing=1))
    with pytest.raises(UsageError, match="too large"):
        PatchDecoder(hierarchy((60, 30)), NetworkSpec(code=4, widths=(2048,), mixing=64))
    for recipe in ("paper", "gan", "convolutions"):
        with pytest.raises(UsageError, match=r"network\.mixing is for the objective autoencoder"):
            load_recipe(recipe, ["network.mixing=2"])
