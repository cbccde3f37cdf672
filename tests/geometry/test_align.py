import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from meshgan.errors import UsageError
from meshgan.geometry.align import Similarity, procrustes_mean, rigid, rotations, similarity


def motions(count: int, seed: int = 0, scaled: bool = False) -> Similarity:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(count, random_state=seed).as_matrix()
    scale = rng.uniform(0.3, 3, count) if scaled else np.ones(count)
    return Similarity(scale, rotation, rng.normal(0, 50, (count, 3)))


def shape(seed: int = 0, count: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 30, (count, 3)) * [1, 2, 0.5]


@settings(max_examples=30)
@given(st.integers(0, 1000), st.booleans())
def test_planted_motions_are_found(seed: int, scaled: bool) -> None:
    planted, reference = motions(5, seed, scaled), shape(seed)
    found = (similarity if scaled else rigid)(planted(reference), reference)
    np.testing.assert_allclose(found(planted(reference)), np.stack([reference] * 5), atol=1e-9)
    np.testing.assert_allclose(found.rotation, planted.inverse.rotation, atol=1e-9)
    np.testing.assert_allclose(found.scale, planted.inverse.scale)


def test_the_inverse_undoes() -> None:
    planted, points = motions(4, 3, scaled=True), shape(1)
    np.testing.assert_allclose(planted.inverse(planted(points)), np.stack([points] * 4), atol=1e-9)


def test_one_motion_is_one_of_many() -> None:
    """Verbs of a single motion, against those of N and against each other."""
    many, points = motions(4, 3, scaled=True), shape(1)
    one, two = many[1], many[2]
    np.testing.assert_allclose(one(points), many(points)[1], atol=1e-12)
    np.testing.assert_allclose(one.inverse(points), many.inverse(points)[1], atol=1e-12)
    np.testing.assert_allclose(one.after(two)(points), one(two(points)), atol=1e-9)
    np.testing.assert_allclose(many.after(many.inverse)(points), np.stack([points] * 4), atol=1e-9)
    np.testing.assert_array_equal(Similarity.none()(points), points)
    np.testing.assert_array_equal(Similarity.none(4)(points), np.stack([points] * 4))
    with pytest.raises(ValueError, match="do not fit"):
        Similarity(1.0, np.eye(3)[None], np.zeros(3))


def test_each_may_have_its_own_reference_and_weights() -> None:
    rng = np.random.default_rng(4)
    points, references, weights = rng.normal(size=(3, 9, 3)), rng.normal(size=(3, 9, 3)), rng.random((3, 9))
    together = similarity(points, references, weights)
    for row in range(3):
        alone = similarity(points[row], references[row], weights[row])
        for name in ("scale", "rotation", "translation"):
            np.testing.assert_allclose(getattr(together[row], name), getattr(alone, name), atol=1e-12)
    with pytest.raises(UsageError, match="do not fit"):
        similarity(points, references[:2])


def test_what_points_leave_open_is_not_turned() -> None:
    """Points on a line say nothing of turns about it, whatever rounding errors say; one place says nothing at all."""
    line = np.linspace(-30, 30, 9)[:, None] * [1, 2, -1]
    turn = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix()
    turns = [rigid(line @ turn.T * (1 + 1e-15 * k) + k, line).rotation for k in range(4)]
    for one in turns:
        np.testing.assert_allclose(one, turns[0], atol=1e-3)
    axis = np.array([1, 2, -1]) / np.sqrt(6)
    smallest = Rotation.align_vectors(axis[None], (turn @ axis)[None])[0].magnitude()
    assert Rotation.from_matrix(turns[0]).magnitude() == pytest.approx(smallest, abs=1e-3)
    np.testing.assert_allclose(rigid(np.ones((5, 3)), np.ones((5, 3))).rotation, np.eye(3), atol=1e-12)


def test_a_mirror_image_is_never_mirrored_back() -> None:
    reference = shape(2)
    for fit in (rigid, similarity):
        found = fit((reference * [-1, 1, 1])[None], reference)
        assert np.linalg.det(found.rotation[0]) == pytest.approx(1)
        assert np.abs(found(reference * [-1, 1, 1]) - reference).max() > 1


@pytest.mark.parametrize("fit", [rigid, similarity])
def test_no_other_motion_is_closer(fit) -> None:
    """Compared with a general minimiser that starts at the answer, on noisy points with weights."""
    rng = np.random.default_rng(0)
    reference, points = shape(4), shape(4) @ Rotation.from_rotvec([0.3, -1, 2]).as_matrix() + rng.normal(0, 8, (20, 3))
    weights = rng.uniform(0, 1, 20)

    def misfit(parameters: np.ndarray) -> float:
        scale = np.exp(parameters[6]) if fit is similarity else 1.0
        moved = scale * Rotation.from_rotvec(parameters[:3]).apply(points) + parameters[3:6]
        return float(weights @ ((moved - reference) ** 2).sum(axis=1))

    found = fit(points[None], reference, weights)
    turn = Rotation.from_matrix(found.rotation[0]).as_rotvec()
    answer = np.concatenate([turn, found.translation[0], np.log(found.scale)])
    assert misfit(answer) <= minimize(misfit, answer).fun * (1 + 1e-9)


def test_points_of_weight_zero_do_not_count() -> None:
    reference = shape(5)
    points = motions(3, 5)(reference)
    points[:, 7] += 1000
    weights = np.ones(20)
    weights[7] = 0
    aligned = rigid(points, reference, weights)(points)
    np.testing.assert_allclose(np.delete(aligned, 7, axis=1)[0], np.delete(reference, 7, axis=0), atol=1e-9)


def test_flat_coincident_and_single_points_give_proper_motions() -> None:
    for points in (shape() * [1, 1, 0], shape() * [1, 0, 0], np.zeros((4, 3)), np.ones((1, 3))):
        found = similarity(np.stack([points, points]), points)
        np.testing.assert_allclose(found(points), np.stack([points] * 2), atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(found.rotation), 1)


def test_what_does_not_fit_is_refused() -> None:
    for points, reference, weights in (
        (shape()[:, :2], shape()[:, :2], None),
        (shape(), shape()[None], None),
        (shape()[None], shape(count=4), None),
        (shape()[None], shape(), np.ones(3)),
    ):
        with pytest.raises(UsageError, match="do not fit"):
            rigid(points, reference, weights)
    for weights in (np.zeros(20), -np.ones(20)):
        with pytest.raises(UsageError, match="weights must not"):
            rigid(shape()[None], shape(), weights)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_procrustes_mean_forgets_the_motions(scaled: bool) -> None:
    shapes = np.stack([shape()] * 8)
    moved = motions(8, 1, scaled)(shapes)
    np.testing.assert_allclose(procrustes_mean(moved, scaled=scaled), moved[0], atol=1e-7)


def test_the_procrustes_mean_is_its_own_mean() -> None:
    rng = np.random.default_rng(0)
    shapes = motions(12)(shape() + rng.normal(0, 2, (12, 20, 3)))
    mean = procrustes_mean(shapes)
    again = rigid(shapes, mean)(shapes).mean(axis=0)
    np.testing.assert_allclose(rigid(again[None], mean)(again)[0], mean, atol=1e-6)
    true = rigid(mean[None], shape())(mean)[0]
    assert np.abs(true - shape()).mean() < 1.0  # noise of 2 mm averaged over 12


@given(st.lists(st.floats(-7, 7), min_size=3, max_size=3), st.sampled_from([1.0, 1e-4, 1e-9, 0.0]))
def test_rotation_vectors_turn_as_far_as_they_are_long(vector: list[float], scale: float) -> None:
    vectors = np.array([vector, vector[::-1]]) * scale
    np.testing.assert_allclose(rotations(vectors), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-14)
    np.testing.assert_array_equal(rotations(vectors)[0], rotations(vectors[0]))
