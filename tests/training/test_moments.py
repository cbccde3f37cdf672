import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.networks import MappingNetwork
from meshgan.nn.plan import NetworkSpec
from meshgan.training.finish import FLOOR, match_moments, transport
from meshgan.training.loop import start
from meshgan.training.recipe import parse_recipe
from meshgan.training.team import Team


def gaussian(seed, count, size):
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((size, size)))[0] * rng.uniform(0.3, 3.0, size)
    return rng.standard_normal((count, size)) @ turned.T @ turned + rng.standard_normal(size)


def lengths_of(seed, size):
    return np.random.default_rng(seed).uniform(0.05, 2.0, size)


@given(st.integers(0, 1000), st.integers(2, 8))
def test_what_is_transported_has_the_mean_and_the_covariance_of_the_target(seed, size):
    source, target = gaussian(seed, 200, size), gaussian(seed + 1, 300, size)
    matrix, offset = transport(source, target, lengths_of(seed, size))
    np.testing.assert_allclose((source @ matrix + offset).mean(axis=0), target.mean(axis=0), atol=1e-9)
    floor = FLOOR * np.eye(size)
    covariance = matrix.T @ (np.cov(source.T) + floor) @ matrix
    np.testing.assert_allclose(covariance, np.cov(target.T) + floor, atol=1e-10)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_it_is_the_map_that_moves_faces_least(seed, size):
    """Any other root of the covariance moves points farther, as far as `lengths` measure."""
    source, target, lengths = gaussian(seed, 200, size), gaussian(seed + 1, 300, size), lengths_of(seed, size)
    matrix, _ = transport(source, target, lengths)
    other = np.linalg.inv(np.linalg.cholesky(np.cov(source.T))).T @ np.linalg.cholesky(np.cov(target.T)).T
    centred = source - source.mean(axis=0)
    np.testing.assert_allclose(np.cov((centred @ other).T), np.cov(target.T), atol=1e-6)  # as good a map
    plain, _ = transport(source, target, np.ones(size))
    least, *more = (np.square((centred @ one - centred) * lengths).sum() for one in (matrix, other, plain))
    assert least <= min(more) * (1 + 1e-3)


def test_equal_moments_stay_as_they_are_and_what_never_varies_is_not_stretched():
    values = gaussian(3, 500, 4)
    values[:, 2] = 1.5
    matrix, offset = transport(values, values, np.array([1.0, 0.5, 0.2, 0.0]))
    np.testing.assert_allclose(matrix, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(offset, 0, atol=1e-3)


def test_affine_maps_follow_one_another():
    mapping, codes = MappingNetwork(NetworkSpec(code=3, mapping=5)), torch.randn(4, 3)
    first, second = ((torch.randn(3, 3), torch.randn(3)) for _ in range(2))
    for matrix, offset in (first, second):
        mapping.append(matrix, offset)
    with torch.no_grad():
        expected = (codes @ first[0] + first[1]) @ second[0] + second[1]
        torch.testing.assert_close(mapping(codes), expected)


@pytest.mark.parametrize("half_life", [0, 1000])
def test_codes_get_the_moments_of_the_training_faces(recipe_table, tiny_faces, half_life):
    recipe_table["network"].update(linear=True, mapping=8)
    recipe_table["averaging"] = {"half_life": half_life}
    recipe_table["objective"] = {"kind": "began-judge"}
    recipe = parse_recipe(recipe_table, "here")
    state = start(recipe, tiny_faces, Hierarchy.cached(tiny_faces.template, recipe.hierarchy.counts), 0, Team())
    with torch.no_grad():  # a mapping that has gone astray
        state.best("mapping").layers[-1].weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
        state.best("mapping").layers[-1].bias.fill_(0.3)
        real = (
            state.best("generator")
            .project(torch.from_numpy(tiny_faces.normalisation.apply(tiny_faces.vertices[tiny_faces.split.train])))
            .numpy()
        )

    def gap():
        with torch.no_grad():
            made = state.mapped(torch.rand(50_000, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1).numpy()
        return np.abs(made.mean(axis=0) - real.mean(axis=0)).max(), np.abs(np.cov(made.T) - np.cov(real.T)).max()

    before = gap()
    match_moments(state, tiny_faces, seed=0)
    after = gap()
    assert after[0] < 0.01 < 0.1 < before[0]
    assert after[1] < 0.01 < 0.05 < before[1]
