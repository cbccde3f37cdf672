"""PCA against the exact decomposition, and its verbs."""

import numpy as np
import pytest

from meshgan.errors import UsageError
from meshgan.model.pca import principal_components


def population(count, vertices=120, seed=0, directions=40):
    """Faces with a quickly falling spectrum and a little noise in every coordinate."""
    shape = np.random.default_rng(99)
    axes = np.linalg.qr(shape.normal(size=(3 * vertices, directions)))[0].T
    base = 50.0 * shape.normal(size=3 * vertices)
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(count, directions)) * 30.0 * 0.85 ** np.arange(directions)
    flat = base + weights @ axes + 0.01 * generator.normal(size=(count, 3 * vertices))
    return flat.reshape(count, vertices, 3).astype(np.float32)


def exact(faces, count):
    """Mean, axes and variances by the singular value decomposition in float64."""
    flat = faces.reshape(len(faces), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    _, singular, right = np.linalg.svd(flat - mean, full_matrices=False)
    return mean, right[:count], np.square(singular[:count]) / (len(faces) - 1)


def test_components_equal_the_exact_ones():
    faces = population(700)
    rows = np.flatnonzero(np.arange(700) % 7)  # several blocks, and rows that must not be read
    found = principal_components(faces, rows, 20)
    mean, axes, variances = exact(faces[rows], 20)
    np.testing.assert_allclose(found.mean.ravel(), mean, atol=1e-4)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-4)
    alignment = np.abs(np.sum(found.axes.reshape(20, -1) * axes, axis=1))
    np.testing.assert_allclose(alignment, 1.0, atol=1e-4)


def test_axes_are_orthonormal_and_codes_are_coordinates():
    faces = population(300)
    found = principal_components(faces, np.arange(300), 12)
    flat = found.axes.reshape(12, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(12), atol=1e-5)
    codes = found.codes(faces)
    np.testing.assert_allclose(np.cov(codes, rowvar=False), np.diag(found.variances), atol=1e-2)
    np.testing.assert_allclose(found.codes(found.faces(codes)), codes, atol=1e-3)


def test_few_faces_give_few_components_that_explain_them_all():
    faces = population(10)
    found = principal_components(faces, np.arange(10), 64)
    assert found.axes.shape == (9, 120, 3)
    np.testing.assert_allclose(found.faces(found.codes(faces)), faces, atol=1e-3)


def test_the_same_faces_give_the_same_axes_whatever_their_sign():
    faces = population(200)
    first, second = (principal_components(faces, np.arange(200), 8, seed) for seed in (0, 1))
    np.testing.assert_allclose(first.axes, second.axes, atol=1e-3)


def test_one_face_is_too_few():
    with pytest.raises(UsageError, match="two faces"):
        principal_components(population(3), np.array([1]), 4)
