"""Distributions of principal coordinates: each finds a known one again, survives its folder, and refuses damage."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from meshgan.errors import MeshganError
from meshgan.model import samplers
from meshgan.model.flow import Flow, fit_flow
from meshgan.model.load import load_model
from meshgan.model.pca import fit_coordinates
from meshgan.model.samplers import (
    DISTRIBUTIONS,
    Bootstrap,
    Mixture,
    fit_mixture,
    fit_mixture_to,
    read_distribution,
)


def two_blobs(count, seed):
    """Codes (count, 3) around (±2, 0, 0), of different shape: no Gaussian."""
    generator = np.random.default_rng(seed)
    left = generator.random(count) < 0.3
    codes = generator.normal(size=(count, 3)) * np.where(left[:, None], [0.3, 1.0, 0.5], [0.5, 0.4, 1.0])
    codes[:, 0] += np.where(left, -2.0, 2.0)
    return codes.astype(np.float32)


def test_a_mixture_finds_its_components_again():
    codes, unseen = two_blobs(2000, 0), two_blobs(500, 1)
    fit = fit_mixture(codes, unseen, components=2)
    order = np.argsort(fit.means[:, 0])
    np.testing.assert_allclose(fit.weights[order], [0.3, 0.7], atol=0.03)
    np.testing.assert_allclose(fit.means[order][:, 0], [-2, 2], atol=0.1)
    deviations = [np.sqrt(np.diag(fit.roots[k].T @ fit.roots[k])) for k in order]
    np.testing.assert_allclose(deviations, [[0.3, 1.0, 0.5], [0.5, 0.4, 1.0]], atol=0.08)
    one = fit_mixture(codes, unseen, components=1)
    assert fit.log_likelihood(unseen) > one.log_likelihood(unseen) + 0.5


def test_a_mixture_of_codes_of_any_scale_is_that_of_their_deviations():
    codes, unseen = two_blobs(2000, 0), two_blobs(500, 1)
    scale = np.array([0.25, 32, 2], np.float32)  # powers of two: no digit is lost
    one, other = fit_mixture_to(codes, unseen), fit_mixture_to(scale * codes, scale * unseen)
    np.testing.assert_allclose(other.draw(50, 4) / scale, one.draw(50, 4), atol=1e-4)
    shift = np.array([7.0, -300.0, 0.0], np.float32)
    moved = fit_mixture_to(shift + codes, shift + unseen)  # a local optimum of its own, but as likely a one
    assert moved.log_likelihood(shift + unseen) == pytest.approx(one.log_likelihood(unseen), abs=0.1)
    still = codes * np.array([1.0, 1.0, 0.0], np.float32)  # a number that never varies
    drawn = fit_mixture_to(still, still).draw(200, 0)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn[:, 2]).max() < 0.01


def test_the_log_likelihood_is_that_of_the_definition():
    root = np.array([[[1.0, 0.5], [0.0, 2.0]]])
    mixture = Mixture(np.ones(1), np.array([[1.0, -1.0]]), root)
    covariance = root[0].T @ root[0]
    apart = np.array([0.3, 0.7]) - mixture.means[0]
    expected = -0.5 * (apart @ np.linalg.inv(covariance) @ apart + np.log(np.linalg.det(2 * np.pi * covariance)))
    assert mixture.log_likelihood(np.array([[0.3, 0.7]])) == pytest.approx(expected)
    drawn = mixture.draw(20_000, 0)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), covariance, rtol=0.05, atol=0.05)


def test_more_rounds_never_make_a_mixture_less_likely(monkeypatch):
    codes, values = two_blobs(300, 2), []
    monkeypatch.setattr(samplers, "RIDGES", (1e-6,))
    monkeypatch.setattr(samplers, "ENOUGH", -np.inf)
    for rounds in (1, 2, 4, 8):
        monkeypatch.setattr(samplers, "ROUNDS", rounds)
        values.append(fit_mixture(codes, codes, components=3).log_likelihood(codes))
    assert np.diff(values).min() > -1e-4


def test_a_flow_carries_noise_to_both_blobs():
    flow = fit_flow(two_blobs(2000, 0), two_blobs(300, 1), seen=60_000)
    drawn = flow.draw(2000, 5)
    assert np.mean(drawn[:, 0] < 0) == pytest.approx(0.3, abs=0.06)
    assert np.mean(np.abs(drawn[:, 0]) < 0.7) < 0.05  # hardly anything between them: it is no Gaussian
    np.testing.assert_allclose(drawn.std(axis=0), two_blobs(5000, 3).std(axis=0), rtol=0.12)


def test_a_bootstrap_is_a_training_face_and_some_noise():
    points = np.arange(12.0, dtype=np.float32).reshape(4, 3) * 100
    drawn = Bootstrap(points, 0.1).draw(1000, 0)
    nearest = np.linalg.norm(drawn[:, None] - points[None], axis=2)
    assert nearest.min(axis=1).max() < 1
    np.testing.assert_allclose(np.bincount(nearest.argmin(axis=1)) / 1000, 0.25, atol=0.05)


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_models_of_coordinates_have_the_verbs_of_all_models(kind, tiny_faces, tmp_path):
    model = fit_coordinates(tiny_faces, kind, seen=2000, components=5)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.sample(40, seed=3), model.sample(40, seed=3))
    np.testing.assert_array_equal(again.codes(7, seed=3), model.codes(40, seed=3)[:7])
    assert again.samplers.names == (kind,)
    assert not np.array_equal(again.sample(4, seed=4), model.sample(4, seed=3))
    faces = tiny_faces.vertices[tiny_faces.split.test]
    assert again.fit(faces).error_mm.mean() < 0.1  # five degrees of freedom
    spread = tiny_faces.vertices[tiny_faces.split.train].std(axis=0).mean()
    assert model.sample(400).std(axis=0).mean() == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_damaged_distributions_are_refused(kind, tiny_faces, tmp_path):
    model = fit_coordinates(tiny_faces, kind, seen=500, components=5)
    mine = {name: value for name, value in model.tensors.items() if name.startswith(f"{kind}/")}
    assert type(read_distribution(kind, 5, mine)) in (Mixture, Bootstrap, Flow)
    save_file(dict(mine), tmp_path / "whole")
    for name in mine:
        whole = load_file(tmp_path / "whole")
        for change in ("gone", "nan", "huge", "shape", "empty", "code"):
            tensors, size = dict(whole), 5
            if change == "gone":
                del tensors[name]
            elif change == "shape":
                tensors[name] = np.concatenate([whole[name], whole[name]])
            elif change == "empty":
                tensors[name] = whole[name][:0]
            elif change == "code":
                size = 6
            else:
                tensors[name] = np.full_like(whole[name], np.nan if change == "nan" else 1e20)
            if (kind, name, change) == ("bootstrap", "bootstrap/points", "shape"):
                continue  # twice as many points are as good
            with pytest.raises(MeshganError):
                read_distribution(kind, size, tensors)


def test_without_its_convolutions_a_model_is_linear_in_its_code(tiny_faces, tmp_path, recipe_table):
    from meshgan.model.face_model import FaceModel
    from meshgan.training.loop import train
    from meshgan.training.recipe import parse_recipe

    table = recipe_table | {"network": recipe_table["network"] | {"linear": True}}
    train(parse_recipe(table, "linear.toml"), tiny_faces, tmp_path / "run")
    model = FaceModel.load(tmp_path / "run")
    off = model.without_convolutions()
    codes = np.random.default_rng(0).normal(size=(3, model.code_size)).astype(np.float32)

    def bend(which):
        a, b, middle = (which.decode(c[None])[0] for c in (codes[0], codes[1], (codes[0] + codes[1]) / 2))
        return np.abs(a + b - 2 * middle).max()

    assert bend(off) < 1e-3 < bend(model)
    assert off.card.name.endswith("conv-off")
    off.save(tmp_path / "off")
    np.testing.assert_array_equal(FaceModel.load(tmp_path / "off").decode(codes), off.decode(codes))
