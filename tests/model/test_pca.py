"""PCA against the exact decomposition, and its verbs."""

import numpy as np
import pytest

from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.data.principal import principal_components
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model.load import load_model
from meshgan.model.model_folder import ModelParts
from meshgan.model.pca import PcaModel, fit_pca


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


@pytest.fixture(scope="module")
def faceset(tmp_path_factory):
    """600 faces of a planar template, one per subject."""
    faces = population(600)
    corner = (np.arange(9)[:, None] * 12 + np.arange(11)).ravel()
    squares = [np.stack([corner, corner + 1, corner + 13], 1), np.stack([corner, corner + 13, corner + 12], 1)]
    triangles = np.concatenate(squares)
    path = tmp_path_factory.mktemp("pca") / "set"
    card = Card(name="test", source="numbers", licence="CC0-1.0", synthetic=True)
    with create_faceset(path, Mesh(faces.mean(axis=0), triangles), len(faces), card) as writer:
        writer.append(faces, [{"subject": f"s{i:03d}"} for i in range(len(faces))])
    return FaceSet.open(path)


@pytest.fixture(scope="module")
def model(faceset):
    return fit_pca(faceset, components=30)


def test_samples_have_the_mean_and_the_variances_of_the_training_faces(model, faceset):
    samples = model.sample(4000, seed=3)
    train = faceset.vertices[faceset.split.train]
    components = principal_components(faceset.vertices, faceset.split.train, 10)
    np.testing.assert_allclose(samples.mean(axis=0), train.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(components.codes(samples).var(axis=0), components.variances, rtol=0.1)


def test_fit_is_the_orthogonal_projection(model, faceset):
    faces = faceset.vertices[faceset.split.test]
    fit = model.fit(faces)
    rest = (faces - fit.vertices).reshape(len(faces), -1)
    across = rest @ model.basis.reshape(30, -1).T / np.linalg.norm(model.basis.reshape(30, -1), axis=1)
    assert np.abs(across).max() < 0.02 * np.linalg.norm(rest, axis=1).max()
    np.testing.assert_allclose(fit.error_mm, np.linalg.norm(rest.reshape(len(faces), -1, 3), axis=2), atol=1e-5)


def test_fit_recovers_planted_codes_also_from_half_the_vertices(model):
    codes = model.codes(5, seed=1)
    faces = model.decode(codes)
    np.testing.assert_allclose(model.encode(faces), codes, atol=1e-2)
    weights = np.arange(120) % 2
    half = model.fit(np.where(weights[:, None], faces, 1e3), weights)
    np.testing.assert_allclose(half.vertices, faces, atol=0.05)
    assert np.isnan(half.error_mm[:, 0]).all()
    assert half.error_mm[:, 1].max() < 0.05


def test_one_vertex_leaves_the_rest_near_the_mean(model):
    weights = np.zeros(120)
    weights[7] = 1
    wanted = model.mean + np.float32([[2.0, 0.0, 0.0]])
    fit = model.fit(wanted[None], weights)
    np.testing.assert_allclose(fit.vertices[0, 7], wanted[7], atol=0.1)
    assert np.linalg.norm(fit.codes) < 5


def test_a_saved_model_is_the_same_model(model, tmp_path):
    model.save(tmp_path / "pca")
    again = load_model(tmp_path / "pca")
    assert isinstance(again, PcaModel)
    np.testing.assert_array_equal(again.sample(3, seed=5), model.sample(3, seed=5))
    assert again.card.origin == model.card.origin
    weights = (tmp_path / "pca" / "weights.safetensors").read_bytes()
    (tmp_path / "pca" / "weights.safetensors").write_bytes(weights[:-1])
    with pytest.raises(MeshganError, match=r"weights\.safetensors is damaged"):
        PcaModel.load(tmp_path / "pca")


def test_faces_and_codes_of_other_shapes_are_refused(model):
    with pytest.raises(UsageError, match="120"):
        model.fit(np.zeros((1, 119, 3)))
    with pytest.raises(UsageError, match="30"):
        model.decode(np.zeros((1, 31)))


@pytest.mark.parametrize("kind", ["pca", "network"])
def test_no_faces_have_no_codes_and_words_are_no_numbers(tiny_faces, tiny_run, kind):
    model = fit_pca(tiny_faces, 4) if kind == "pca" else load_model(tiny_run)
    assert model.fit(tiny_faces.vertices[:0]).vertices.shape == (0, *tiny_faces.template.vertices.shape)
    assert model.decode(np.zeros((0, 4))).shape == (0, *tiny_faces.template.vertices.shape)
    assert model.encode(tiny_faces.vertices[:0]).shape == (0, 4)
    for words in ([["a", "b", "c", "d"]], [[1, 2, 3, 4], [1]], None, [{}]):
        with pytest.raises(UsageError):
            FaceSet.create(words, tiny_faces.template)
        with pytest.raises(UsageError, match="must be"):
            model.decode(words)
        with pytest.raises(UsageError, match="must be"):
            model.fit(words)


def test_vertices_that_no_triangle_uses_count_nowhere_in_a_fit(tiny_faces):
    """Whoever makes a model of arrays may have such; where they lie in a face says nothing."""
    whole = fit_pca(tiny_faces, 4)
    far = np.full((5, 3), 1e4)
    template = Mesh(np.concatenate([whole.template.vertices, far]), whole.template.triangles)
    basis = np.random.default_rng(0).normal(size=(4, 5, 3))
    more = {"pca/mean": far, "pca/basis": basis}
    wide = {name: np.concatenate([whole.tensors[name], more[name].astype(np.float32)], -2) for name in more}
    model = PcaModel(ModelParts(whole.card, template, None, {**whole.tensors, **wide}))
    faces = tiny_faces.vertices[:3]
    found = model.fit(np.concatenate([faces, np.zeros((3, 5, 3))], axis=1))
    np.testing.assert_allclose(found.codes, whole.fit(faces).codes, atol=1e-5)
    assert np.isnan(found.error_mm[:, -5:]).all()
