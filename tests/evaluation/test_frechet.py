"""The Fréchet distance against closed forms, an independent computation, and in the cases where others lose digits."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import UsageError
from meshgan.evaluation.metrics import Gaussian, frechet_distance, frechet_interval


def textbook(a, b):
    """The formula as it is printed, with scipy's matrix square root."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first + second - 2 * root)


def distance(a, b):
    return frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))


def of_moments(mean, covariance):
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    return Gaussian(np.asarray(mean, dtype=np.float64), np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), dimensions=st.integers(2, 12), shift=st.floats(0.0, 5.0))
def test_equals_the_printed_formula(seed, dimensions, shift):
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(dimensions, dimensions))
    a, b = generator.normal(size=(60, dimensions)), shift + generator.normal(size=(80, dimensions)) @ mix
    assert distance(a, b) == pytest.approx(textbook(a, b), rel=1e-7, abs=1e-7)


def test_one_dimension_in_closed_form():
    a, b = of_moments([1.0], [[4.0]]), of_moments([4.0], [[25.0]])
    assert frechet_distance(a, b) == pytest.approx(3.0**2 + (5.0 - 2.0) ** 2)


def test_commuting_covariances_in_closed_form():
    """With common axes it is the sum over axes of (m - m')² + (s - s')²."""
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(9, 9)))[0]
    s, t, m = generator.uniform(0.1, 3, 9), generator.uniform(0.1, 3, 9), generator.normal(size=9)
    a = of_moments(np.zeros(9), (axes * s**2) @ axes.T)
    b = of_moments(m, (axes * t**2) @ axes.T)
    assert frechet_distance(a, b) == pytest.approx(np.square(m).sum() + np.square(s - t).sum())


def test_singular_covariances_lose_no_digits():
    """Two rank-one Gaussians at right angles share nothing: the distance is the sum of their variances, exactly."""
    a = of_moments(np.zeros(200), np.diag(np.eye(200)[0] * 9.0))
    b = of_moments(np.zeros(200), np.diag(np.eye(200)[1] * 16.0))
    assert frechet_distance(a, b) == pytest.approx(25.0, abs=1e-12)
    features = np.random.default_rng(0).normal(size=(30, 400))  # far fewer faces than features
    assert distance(features, features) == pytest.approx(0.0, abs=1e-9)


def test_features_and_their_moments_agree():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(50, 6)) @ generator.normal(size=(6, 6)), generator.normal(size=(90, 6))
    moments = [of_moments(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    assert frechet_distance(*moments) == pytest.approx(distance(a, b), rel=1e-9)


def test_it_is_symmetric_and_ignores_rotations():
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(40, 7)), generator.normal(size=(50, 7)) * 2 + 1
    turn = np.linalg.qr(generator.normal(size=(7, 7)))[0]
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)
    assert distance(a @ turn, b @ turn) == pytest.approx(distance(a, b), rel=1e-9)


def test_samples_approach_the_distance_of_their_distributions_from_above():
    """A known distance: N(0, I) and N(1, 4 I) in four dimensions are 4 + 4 = 8 apart."""
    generator = np.random.default_rng(3)
    few, many = (
        np.mean([distance(generator.normal(size=(n, 4)), 1 + 2 * generator.normal(size=(n, 4))) for _ in range(30)])
        for n in (20, 1000)
    )
    assert many == pytest.approx(8.0, rel=0.03)
    assert few > many


def test_collapse_and_noise_raise_it():
    generator = np.random.default_rng(4)
    real, fresh = generator.normal(size=(2, 400, 10))
    floor = distance(real, fresh)
    assert floor < 0.3
    assert distance(real, np.repeat(real[:1] * 0, 400, axis=0)) == pytest.approx(10.0, rel=0.1)  # the lost variance
    assert distance(real, np.repeat(fresh[:5], 80, axis=0)) > 10 * floor
    assert distance(real, fresh + generator.normal(size=fresh.shape)) > 4 * floor


def test_interval_holds_the_estimate_and_shrinks_with_more_features():
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(1600, 5)), 1.0 + generator.normal(size=(1600, 5))
    low, high = frechet_interval(a, b, resamples=60)
    few_low, few_high = frechet_interval(a[:100], b[:100], resamples=60)
    assert low < distance(a, b) < high
    assert 2 < (few_high - few_low) / (high - low) < 8  # 4 by theory
    assert low < 5.0 < high


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="two or more"):
        Gaussian.of_features(np.zeros((1, 4)))
    with pytest.raises(UsageError, match="4 and 5 dimensions"):
        distance(np.zeros((3, 4)), np.zeros((3, 5)))
