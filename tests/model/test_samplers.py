"""The three samplers draw what their names say."""

import numpy as np
import pytest

from meshgan.errors import MeshganError, UsageError
from meshgan.model.samplers import Mixture, Samplers

COVARIANCE = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 0.0]])
MEAN = np.array([1.0, -2.0, 0.5])


class Card:
    code, sampler, name, network = 3, "fitted-normal", "x", None


@pytest.fixture
def samplers():
    tensors = {"sampler/mean": MEAN, "sampler/covariance": COVARIANCE}
    return Samplers.of(Card, tensors)


def test_each_sampler_has_its_moments(samplers):
    for name, mean, covariance in (
        ("uniform", np.zeros(3), np.eye(3) / 3),
        ("standard-normal", np.zeros(3), np.eye(3)),
        ("fitted-normal", MEAN, COVARIANCE),
    ):
        codes = samplers.draw(40_000, 0, name)
        np.testing.assert_allclose(codes.mean(axis=0), mean, atol=0.03)
        np.testing.assert_allclose(np.cov(codes.T), covariance, atol=0.04)
        assert codes.dtype == np.float32


def test_uniform_codes_stay_in_range(samplers):
    assert np.abs(samplers.draw(1000, 0, "uniform")).max() <= 1
    assert np.abs(samplers.draw(1000, 0, "standard-normal")).max() > 1


def test_the_models_own_sampler_is_the_default(samplers):
    assert (samplers.draw(5, 3) == samplers.draw(5, 3, "fitted-normal")).all()
    assert (samplers.draw(5, 3)[:, :2] != samplers.draw(5, 4)[:, :2]).all()


def test_a_mixture_stands_beside_the_normal_ones_and_is_the_default():
    class Mixed(Card):
        sampler = "mixture"

    mixture = Mixture(np.array([0.25, 0.75]), np.array([MEAN, -MEAN]), np.stack([np.eye(3), 0.1 * np.eye(3)]))
    tensors = {"sampler/mean": MEAN, "sampler/covariance": COVARIANCE, **mixture.tensors}
    samplers = Samplers.of(Mixed, tensors)
    assert samplers.names == ("uniform", "standard-normal", "fitted-normal", "mixture")
    np.testing.assert_allclose(samplers.draw(7, 2), mixture.draw(7, 2), atol=1e-6)
    normal = Samplers.of(Card, tensors)
    assert normal.names == ("uniform", "standard-normal", "fitted-normal")
    np.testing.assert_array_equal(samplers.draw(7, 2, "fitted-normal"), normal.draw(7, 2))
    with pytest.raises(MeshganError, match="'mixture'"):
        Samplers.of(Mixed, tensors | {"mixture/weights": np.ones(2)})


def test_a_sampler_that_was_not_fitted_is_refused():
    plain = Samplers(3, "uniform")
    assert plain.names == ("uniform", "standard-normal")
    with pytest.raises(UsageError, match="no sampler 'fitted-normal'; choose one of uniform, standard-normal"):
        plain.draw(1, 0, "fitted-normal")
    with pytest.raises(MeshganError, match="lacks the sampler"):
        Samplers.of(Card, {})
