import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.geometry.decomposition import ALIKE, canonical, eigen, principal_axes

SPECTRA = st.lists(st.sampled_from([0.0, 1e-3, 0.5, 1.0, 1.0 + 1e-9, 2.0, 7.0]), min_size=1, max_size=9)


def orthonormal(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


@settings(max_examples=60)
@given(SPECTRA, st.integers(0, 1000), st.sampled_from([1, -1]))
def test_turned_signs_swapped_orders_and_turned_clusters_change_nothing(spectrum, seed, sign):
    """Whatever a library may return for the same matrix: any order, any sign, any basis of equal eigenvalues."""
    rng, values, vectors = np.random.default_rng(seed), sign * np.array(spectrum), orthonormal(len(spectrum), seed)
    other = vectors * rng.choice([-1, 1], len(values))[:, None]
    for value in set(np.round(values, 6)):
        alike = np.flatnonzero(np.abs(values - value) < 1e-6)
        other[alike] = orthonormal(len(alike), seed + 1) @ other[alike]
    order = rng.permutation(len(values))
    expected, axes = canonical(values, vectors)
    found, again = canonical(values[order], other[order])
    np.testing.assert_allclose(again, axes, atol=1e-7)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (np.diff(found) <= 0).all()
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(values)), atol=1e-12)


@settings(max_examples=40)
@given(SPECTRA, st.integers(0, 1000))
def test_what_was_decomposed_is_what_comes_back(spectrum, seed):
    vectors = orthonormal(len(spectrum), seed)
    matrix = (vectors.T * spectrum) @ vectors
    values, axes = eigen(matrix)
    np.testing.assert_allclose((axes.T * values) @ axes, matrix, atol=1e-7)
    np.testing.assert_allclose(values, np.sort(spectrum)[::-1], atol=1e-7)


def test_eigenvalues_that_differ_keep_their_own_vectors():
    """Ten times what makes two deviations alike is no cluster: the axes are not mixed."""
    deviations = np.array([1.0, 0.5 + 10 * ALIKE, 0.5])
    _, axes = canonical(deviations**2, np.eye(3))
    np.testing.assert_allclose(np.abs(axes), np.eye(3), atol=1e-12)
    _, axes = canonical(np.array([1.0, 0.5 + ALIKE / 10, 0.5]) ** 2, np.eye(3))
    assert np.abs(axes - np.abs(np.round(axes))).max() > 0.01


def test_rounding_noise_turns_nothing_over():
    """Rows of a mirror-symmetric population, in another order of summation and with noise of their last bits."""
    rng = np.random.default_rng(3)
    half = rng.standard_normal((40, 30)) * np.linspace(3, 0.1, 30)
    rows = np.concatenate([half, -half], axis=1).astype(np.float32)  # left and right are equally large
    rows -= rows.mean(axis=0)
    variances, axes = principal_axes(rows, 12)
    noisy = rows * (1 + 1e-7 * rng.standard_normal(rows.shape))
    again, others = principal_axes(noisy, 12)
    np.testing.assert_allclose(np.sqrt(again[:, None]) * others, np.sqrt(variances[:, None]) * axes, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (12, 12), (1, 5), (2, 5)])
def test_principal_axes_are_those_of_the_covariance(shape):
    rows = np.random.default_rng(1).standard_normal(shape)
    rows -= rows.mean(axis=0)
    variances, axes = principal_axes(rows, 100)
    assert len(axes) == min(shape[0] - 1, shape[1])
    covariance = rows.T @ rows / max(len(rows) - 1, 1)
    np.testing.assert_allclose((axes.T * variances) @ axes, covariance, atol=1e-9)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-9)


def test_axes_that_are_rounding_noise_are_left_out():
    """Twelve people, ten times each, are eleven axes, in float32 too."""
    people = np.random.default_rng(2).standard_normal((12, 300)).astype(np.float32) * 30
    rows = np.repeat(people, 10, axis=0)
    assert len(principal_axes(rows - rows.mean(axis=0), 64)[0]) == 11
    assert principal_axes(np.zeros((5, 3)), 2)[1].shape == (0, 3)


def test_a_cut_through_a_cluster_is_the_same_everywhere():
    """Of four equal variances the first two axes are asked for: the rest of the cluster helps to decide which."""
    corners = np.eye(4)[[0, 0, 1, 1, 2, 2, 3, 3]] * np.array([1, -1] * 4)[:, None]
    _, axes = principal_axes(corners, 2)
    turn = orthonormal(8, 5)  # other rows, the same covariance
    _, again = principal_axes(turn @ corners, 2)
    np.testing.assert_allclose(again, axes, atol=1e-9)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_what_is_alike_and_what_is_noise_follows_the_size(size):
    """Axes at either side of the limit, whatever the unit."""
    base = np.eye(5)[[0, 0, 1, 1, 2, 2, 3, 3]] * np.array([1, -1] * 4)[:, None]
    deviations = np.array([1.0, 0.5, 2 * ALIKE, 0.5 * ALIKE, 0.0])
    variances, axes = principal_axes(size * base * deviations, 5)
    np.testing.assert_allclose(np.sqrt(variances * 7 / 2) / size, deviations[:3], rtol=1e-5)
    np.testing.assert_allclose(np.abs(axes), np.eye(5)[:3], atol=1e-6)
    for gap, mixed in ((2.0, False), (0.5, True)):
        near = size * np.array([1.0, 0.5 + gap * ALIKE, 0.5])
        values, vectors = canonical(near**2, np.eye(3))
        assert (values[1] == values[2]) == mixed
        assert (np.abs(vectors[1]).max() < 0.999) == mixed
