"""Eq. 2 finds the code that made a face; Eq. 3 is a straight line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meshgan.data.faceset import Normalisation
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import FaceModel
from meshgan.model.inversion import CHUNK, PRIOR, first_guess, fit_codes, invert
from meshgan.model.latent import check_weights, interpolate, target_of_points

VERTICES, CODE = 50, 3


@pytest.fixture(scope="module")
def bent():
    """A decoder that is known, smooth and not linear."""
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(CODE, VERTICES * 3, generator=rng)
    second = 0.2 * torch.randn(CODE, VERTICES * 3, generator=rng)

    class Bent(torch.nn.Module):
        def forward(self, codes):
            return (codes @ first + torch.sin(2 * codes) @ second).unflatten(1, (VERTICES, 3))

    return Bent()


@pytest.fixture(scope="module")
def problem(bent):
    codes = torch.rand(5, CODE, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    scale = torch.full((VERTICES, 3), 2.0)
    examples = torch.rand(200, CODE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return codes, bent(codes), scale, torch.ones(VERTICES), examples


def test_eq_2_finds_the_codes_that_made_the_faces(bent, problem):
    codes, faces, scale, weights, examples = problem
    starts = first_guess(bent, examples, faces, scale, weights)
    found = invert(bent, faces, scale, weights, starts, steps=300)
    torch.testing.assert_close(found, codes, atol=2e-3, rtol=0)
    from_zero = invert(bent, faces, scale, weights, torch.zeros_like(starts), steps=300)
    torch.testing.assert_close(from_zero, codes, atol=2e-3, rtol=0)


def test_the_first_guess_is_better_than_none(bent, problem):
    codes, faces, scale, weights, examples = problem
    guess = first_guess(bent, examples, faces, scale, weights)
    assert (guess - codes).abs().max() < 0.1 < codes.abs().max()


def test_the_optimum_is_that_of_the_mean_distance(bent, problem):
    """A few wild vertices hardly move a fit that minimises distances; they would move one of squares."""
    codes, faces, scale, weights, examples = problem
    wild = faces.clone()
    wild[:, :5] += 10.0
    found = invert(bent, wild, scale, weights, first_guess(bent, examples, wild, scale, weights), steps=300)
    assert (found - codes).abs().max() < 0.05


def test_each_face_of_a_batch_is_fitted_for_itself(bent, problem):
    _, faces, scale, weights, examples = problem
    many = faces.repeat(CHUNK, 1, 1)
    starts = first_guess(bent, examples, many, scale, weights)
    found = invert(bent, many, scale, weights, starts, steps=20).unflatten(0, (CHUNK, 5))
    assert len(many) > CHUNK
    for row in range(5):
        alone = invert(bent, faces[row : row + 1], scale, weights, starts[row : row + 1], steps=20)
        torch.testing.assert_close(found[:, row], alone.expand(CHUNK, -1), atol=1e-4, rtol=0)


def test_vertices_without_weight_do_not_matter(bent, problem):
    codes, faces, scale, weights, examples = problem
    part = weights.clone()
    part[20:] = 0
    spoiled = faces.clone()
    spoiled[:, 20:] = 1e3
    found = [
        invert(bent, target, scale, part, first_guess(bent, examples, target, scale, part), steps=200)
        for target in (faces, spoiled)
    ]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], codes, atol=5e-3, rtol=0)


def test_the_prior_pulls_towards_zero_by_its_weight_and_only_where_a_part_is_known():
    """All vertices move by 0.1 mm with the first number: 0.1 |3 − z₁| + PRIOR/2 · |z|² is least at z₁ = 0.1 / PRIOR."""

    class Shift(torch.nn.Module):
        def forward(self, codes):
            return 0.1 * codes[:, :1, None] * torch.tensor([1.0, 0.0, 0.0]).expand(1, VERTICES, 3)

    size, slope = 2, 0.1
    unit = Normalisation(np.zeros((VERTICES, 3), np.float32), np.ones((VERTICES, 3), np.float32))
    target = np.zeros((1, VERTICES, 3), np.float32)
    far = 3.0
    target[..., 0] = slope * far
    part = np.ones(VERTICES, np.float32)
    whole, part[7:] = part.copy(), 0
    start = np.array([[2.0, 2.0]], np.float32)
    examples = np.zeros((4, size), np.float32)
    found = fit_codes(Shift(), unit, target, part, examples, steps=400, start=start)
    np.testing.assert_allclose(found, [[slope / (2 * PRIOR / size), 0.0]], atol=0.02)
    free = fit_codes(Shift(), unit, target, whole, examples, steps=400, start=start)
    np.testing.assert_allclose(free, [[far, 2.0]], atol=0.02)  # nothing is asked of the second number


def test_fits_are_measured_in_millimetres(tiny_run, tiny_faces):
    model = FaceModel.load(tiny_run)
    made = model.sample(4, seed=9, sampler="uniform")
    fit = model.fit(made)
    np.testing.assert_allclose(fit.vertices, model.decode(fit.codes), atol=1e-4)
    np.testing.assert_allclose(fit.error_mm, np.linalg.norm(fit.vertices - made, axis=-1), atol=1e-4)
    assert fit.error_mm.mean() < 0.05
    weights = np.zeros(162)
    weights[:9] = 1
    assert np.isnan(model.fit(made, weights).error_mm[:, 9:]).all()


def test_the_same_faces_give_the_same_codes(tiny_run, tiny_faces):
    model = FaceModel.load(tiny_run)
    first, again = (model.fit(tiny_faces.vertices[:3], steps=10).codes for _ in range(2))
    assert (first == again).all()


def test_a_start_is_where_the_search_begins(bent, problem):
    codes, faces, _, _, examples = problem
    unit = Normalisation(np.zeros((VERTICES, 3), np.float32), np.ones((VERTICES, 3), np.float32))
    arguments = (bent, unit, faces.numpy(), np.ones(VERTICES, np.float32), examples.numpy())
    start = codes.numpy() + 0.2
    near = fit_codes(*arguments, steps=1, start=start)
    assert np.abs(near - start).max() <= 0.051  # one step of Adam


codes = st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4)


@given(codes, codes, st.floats(-3, 3))
def test_eq_3_is_a_straight_line_through_both_ends(first, second, factor):
    ends_and_one = interpolate(first, second, [0.0, 1.0, factor])
    np.testing.assert_allclose(ends_and_one[:2], [first, second], atol=1e-6)
    expected = np.array(first) + factor * (np.array(second) - first)
    np.testing.assert_allclose(ends_and_one[2], expected, atol=1e-5)


def test_codes_that_do_not_fit_each_other_are_refused():
    with pytest.raises(UsageError, match="same length"):
        interpolate([1.0, 2.0], [1.0], [0.5])
    with pytest.raises(UsageError, match="same length"):
        interpolate([[1.0, 2.0]], [[1.0, 2.0]], [0.5])
    for words in (([1.0], [np.nan], [0.5]), ([1.0], [2.0], [np.inf]), ("a", "b", [0.5]), ([1.0], [2.0], ["x"])):
        with pytest.raises(UsageError, match="codes and factors must be"):
            interpolate(*words)


def test_points_become_a_target_with_weights():
    template = np.zeros((6, 3))
    target, weights = target_of_points(template, [4, 1], [[1, 2, 3], [4, 5, 6]])
    assert weights.tolist() == [0, 1, 0, 0, 1, 0]
    assert target[0, 4].tolist() == [1, 2, 3]
    assert target[0, 1].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("indices", "points"),
    [([], np.zeros((0, 3))), ([6], np.zeros((1, 3))), ([-1], np.zeros((1, 3))), ([1, 1], np.zeros((2, 3))),
     ([0.5], np.zeros((1, 3))), ([0], np.zeros((2, 3))), ([0], np.full((1, 3), np.nan))],
)  # fmt: skip
def test_points_that_cannot_be_are_refused(indices, points):
    with pytest.raises(UsageError):
        target_of_points(np.zeros((6, 3)), indices, points)


@pytest.mark.parametrize("weights", [[1.0], [1, 1, -1], [0, 0, 0], [1, np.nan, 1], [[1, 1, 1]]])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(UsageError, match="weights must be 3 finite numbers"):
        check_weights(weights, Mesh(np.eye(3), [[0, 1, 2]]))
    assert check_weights(None, Mesh(np.eye(3), [[0, 1, 2]])).tolist() == [1, 1, 1]
