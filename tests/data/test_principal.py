"""Principal components: rounding noise is no component, and every machine finds the same ones."""

import numpy as np
import pytest

from meshgan.data import principal
from meshgan.data.principal import principal_components
from meshgan.errors import UsageError


def people(count, times, vertices=60, seed=0):
    """Faces (count * times, V, 3) of `count` people, each `times` times, in millimetres."""
    rng = np.random.default_rng(seed)
    base = 60.0 * rng.normal(size=(1, vertices, 3))
    faces = base + 3.0 * rng.normal(size=(count, vertices, 3))
    return np.repeat(faces, times, axis=0).astype(np.float32)


@pytest.mark.parametrize("exact", [True, False])
def test_twelve_people_ten_times_each_have_eleven_components(monkeypatch, exact):
    monkeypatch.setattr(principal, "EXACT", 1000 if exact else 0)
    faces = people(12, 10)
    found = principal_components(faces, np.arange(120), 64)
    assert found.axes.shape == (11, 60, 3)
    np.testing.assert_allclose(found.faces(found.codes(faces)), faces, atol=1e-3)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("faces", [people(1, 5), np.zeros((4, 60, 3), np.float32)], ids=["one person", "zeros"])
def test_faces_that_are_all_the_same_have_none(monkeypatch, exact, faces):
    monkeypatch.setattr(principal, "EXACT", 1000 if exact else 0)
    with pytest.raises(UsageError, match="all the same"):
        principal_components(faces, np.arange(len(faces)), 4)


def test_both_ways_and_any_order_of_the_faces_give_the_same_axes(monkeypatch):
    faces = people(40, 1) * np.linspace(1, 2, 60)[:, None].astype(np.float32)
    exact = principal_components(faces, np.arange(40), 5)
    shuffled = principal_components(faces, np.random.default_rng(1).permutation(40), 5)
    np.testing.assert_allclose(shuffled.axes, exact.axes, atol=1e-5)
    monkeypatch.setattr(principal, "EXACT", 0)
    np.testing.assert_allclose(principal_components(faces, np.arange(40), 5, seed=3).axes, exact.axes, atol=2e-3)


@pytest.mark.parametrize("rows", [7, 4097, 13000])
def test_columns_made_orthonormal_in_blocks_span_what_they_did(rows):
    """Also those that nearly depend on each other, as columns do after a product with a covariance."""
    columns = np.random.default_rng(0).normal(size=(rows, 6)) * np.geomspace(1, 1e-9, 6)
    columns[:, 5] = columns[:, 0]
    basis = principal._orthonormal(columns)
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(basis @ (basis.T @ columns), columns, atol=1e-12)
