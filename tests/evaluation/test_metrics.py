"""Each metric on cases with known answers, and each shown to move the right way under collapse, noise, memorisation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import UsageError
from meshgan.evaluation import evaluate, metrics, nearest, semantics, yardstick
from meshgan.evaluation.nearest import FaceIndex
from values import assert_sound_values

VERTICES = 60


def faces_of(count, seed, scale=3.0):
    """Faces from one Gaussian population of eight directions."""
    shape = np.random.default_rng(11).normal(size=(8, VERTICES, 3))
    weights = np.random.default_rng(seed).normal(size=(count, 8))
    return (100.0 + scale * np.tensordot(weights, shape, axes=1)).astype(np.float32)


TRAIN, TEST, FRESH = (faces_of(count, seed) for count, seed in ((400, 0), (150, 1), (150, 2)))
COLLAPSED = np.repeat(TRAIN.mean(axis=0, keepdims=True), 150, axis=0).astype(np.float32)
NOISY = FRESH + np.random.default_rng(3).normal(scale=6.0, size=FRESH.shape).astype(np.float32)
COPIES = np.repeat(TRAIN[:5], 30, axis=0)  # a model that has learned five faces by heart


def scores(samples):
    nearest = FaceIndex.build(TEST).nearest(samples)
    flat, real = samples.reshape(len(samples), -1), TEST.reshape(len(TEST), -1)
    return {
        "specificity": metrics.mean_score(nearest.distance).value,
        "diversity": metrics.pair_distances(samples).mean(),
        "coverage": metrics.covered(nearest.index, len(TEST)).mean(),
        "precision": metrics.inside_manifold(flat, real).mean(),
        "recall": metrics.inside_manifold(real, flat).mean(),
    }


SCORES = {
    name: scores(samples)
    for name, samples in {"real": FRESH, "collapsed": COLLAPSED, "noisy": NOISY, "copies": COPIES}.items()
}


def test_real_faces_look_real():
    assert SCORES["real"]["precision"] > 0.6
    assert SCORES["real"]["recall"] > 0.6


def test_collapse_flatters_specificity_and_nothing_else():
    real, collapsed = SCORES["real"], SCORES["collapsed"]
    assert collapsed["specificity"] < real["specificity"]
    assert collapsed["diversity"] == 0.0
    assert collapsed["coverage"] == pytest.approx(1 / len(TEST))
    assert collapsed["recall"] < 0.1


def test_noise_worsens_specificity_and_precision():
    real, noisy = SCORES["real"], SCORES["noisy"]
    assert noisy["specificity"] > 1.2 * real["specificity"]
    assert noisy["precision"] < 0.5 * real["precision"]
    assert noisy["diversity"] > real["diversity"]  # so diversity alone is no sign of quality either


def test_memorisation_keeps_precision_and_loses_coverage_and_recall():
    real, copies = SCORES["real"], SCORES["copies"]
    assert copies["precision"] > 0.5
    assert copies["coverage"] <= 5 / len(TEST)
    assert copies["recall"] < 0.2 * real["recall"]


def test_errors_of_a_shift_are_its_length():
    errors = metrics.vertex_errors(TEST + np.float32([3.0, 0.0, 4.0]), TEST)
    np.testing.assert_allclose(errors, 5.0, rtol=1e-5)
    assert errors.shape == TEST.shape[:2]


def test_generalisation_by_hand():
    errors = np.array([[1.0, 3.0], [2.0, 10.0]])
    found = metrics.generalisation(errors)
    assert found == metrics.Errors(mean=4.0, std=2.0, vertex_std=np.sqrt(12.5), median=2.5, maximum=10.0)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.1, 50.0))
def test_distances_scale_and_do_not_depend_on_the_order_of_vertices(seed, factor):
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(2, 5, 17, 3))
    order = generator.permutation(17)
    errors = metrics.vertex_errors(a, b)
    np.testing.assert_allclose(metrics.vertex_errors(factor * a, factor * b), factor * errors, rtol=1e-9)
    np.testing.assert_allclose(metrics.vertex_errors(a[:, order], b[:, order]), errors[:, order])
    np.testing.assert_allclose(errors, np.linalg.norm(a - b, axis=2))


def test_pairs_are_disjoint_and_their_mean_is_that_of_all_pairs():
    line = np.zeros((9, 1, 3), np.float32)
    line[:, 0, 0] = 2.0 ** np.arange(9)  # every pair has its own distance, which tells who is in it
    distances = metrics.pair_distances(line, seed=5)
    sums = {
        float(abs(a - b)): (i, j) for i, a in enumerate(line[:, 0, 0]) for j, b in enumerate(line[:, 0, 0]) if i < j
    }
    used = [face for distance in distances for face in sums[float(distance)]]
    assert len(distances) == 4
    assert len(set(used)) == 8
    every = [np.linalg.norm(TRAIN[i] - TRAIN[i + 1 :], axis=2).mean(axis=1).sum() for i in range(len(TRAIN))]
    expected = sum(every) / (len(TRAIN) * (len(TRAIN) - 1) / 2)
    assert metrics.pair_distances(TRAIN).mean() == pytest.approx(expected, rel=0.05)


def test_coverage_by_hand():
    np.testing.assert_array_equal(metrics.covered(np.array([2, 2, 0]), 4), [True, False, True, False])


def test_manifold_by_hand():
    """Balls around 0, 1, 3 and 7 on a line reach the second neighbour: radii 3, 2, 3 and 6."""
    manifold = np.array([[0.0], [1.0], [3.0], [7.0]])
    points = np.array([[-3.0], [-3.1], [13.0], [13.1], [5.0]])
    inside = metrics.inside_manifold(points, manifold, neighbours=2)
    np.testing.assert_array_equal(inside, [True, False, True, False, True])


def test_manifold_equals_the_definition():
    generator = np.random.default_rng(0)
    points, manifold = generator.normal(size=(130, 4)), generator.normal(size=(90, 4)) * 0.7
    distances = np.linalg.norm(manifold[:, None] - manifold[None], axis=2)
    radii = np.sort(distances, axis=1)[:, 3]  # column 0 is the point itself
    expected = [any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, radii, strict=True)) for p in points]
    np.testing.assert_array_equal(metrics.inside_manifold(points, manifold), expected)
    assert 0.1 < np.mean(expected) < 0.9


def test_bootstrap_interval_holds_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        low, high = metrics.bootstrap_interval(generator.exponential(size=80), np.mean, resamples=300, seed=trial)
        held += low <= 1.0 <= high
    assert 0.87 <= held / 200 <= 0.98


def test_bootstrap_interval_has_the_width_of_theory_and_repeats():
    values = np.random.default_rng(1).normal(size=2000)
    low, high = metrics.bootstrap_interval(values, np.mean)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.1)
    assert metrics.bootstrap_interval(values, np.mean) == (low, high)


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="cannot be compared"):
        metrics.vertex_errors(TEST, TEST[:, :-1])
    with pytest.raises(UsageError, match="two faces"):
        metrics.pair_distances(TEST[:1])
    with pytest.raises(UsageError, match="more than 3"):
        metrics.inside_manifold(np.zeros((2, 2)), np.zeros((3, 2)))


def bands_of(count, seed, energies):
    """Energies of faces that scatter about these means."""
    return np.random.default_rng(seed).gamma(4.0, 0.25, (count, len(energies))) * np.asarray(energies)


def test_detail_is_zero_for_the_same_spectrum_and_the_log_of_a_common_factor():
    real = bands_of(400, 0, [1e-2, 1e-3, 1e-4])
    assert metrics.detail(bands_of(400, 1, [1e-2, 1e-3, 1e-4]), real, "abc").value < 0.1
    quarter = metrics.detail(real / 4, real, "abc")
    assert quarter.value == pytest.approx(np.log(4))
    assert quarter.parts == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.25})
    assert quarter.interval[0] <= quarter.value <= quarter.interval[1]
    assert metrics.detail(real * [4, 1, 1], real, "abc").value == pytest.approx(np.log(4) / np.sqrt(3))  # too much too


def test_a_model_without_detail_has_a_finite_distance_and_silent_bands_do_not_count():
    real = bands_of(100, 0, [1e-2, 1e-3, 1e-13])
    none = metrics.detail(np.zeros((50, 3)), real, "abc")
    assert none.value == pytest.approx(np.log(1000))
    assert set(none.parts) == {"a", "b"}
    assert metrics.detail(np.zeros((50, 3)), np.zeros((50, 3)), "abc") is None


def test_the_kernel_distance_is_zero_on_the_average_between_equals_however_few():
    generator = np.random.default_rng(0)
    values = [
        metrics.kernel_distance(generator.normal(size=(30, 8)), generator.normal(size=(30, 8)), seed=seed).value
        for seed in range(60)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)
    assert min(values) < 0 < max(values)


def test_the_kernel_distance_is_that_of_the_definition():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(6, 5)), generator.normal(size=(6, 5)) + 0.5

    def kernel(x, y):
        return (x @ y / 5 + 1) ** 3

    within = sum(kernel(s[i], s[j]) for s in (a, b) for i in range(6) for j in range(6) if i != j) / 30
    between = sum(kernel(x, y) for x in a for y in b) / 36
    assert metrics.kernel_distance(a, b).value == pytest.approx(within - 2 * between)
    assert metrics.kernel_distance(a + 1, b).value > metrics.kernel_distance(a, b).value


def test_memorising_is_one_for_unseen_faces_and_zero_for_copies():
    generator = np.random.default_rng(2)
    to_train, to_test = generator.uniform(1, 2, 500), generator.uniform(2, 4, 500)
    ratio = to_train.mean() / to_test.mean()  # more training faces: they are nearer to anybody
    assert metrics.memorising(to_train, to_test, ratio).value == pytest.approx(1)
    assert metrics.memorising(np.zeros(500), to_test, ratio).value == 0
    half = metrics.memorising(to_train / 2, to_test, ratio)
    assert half.value == pytest.approx(0.5)
    assert half.interval[0] < 0.5 < half.interval[1]


def test_a_copy_is_nearer_to_its_original_than_to_all_others():
    """The whole way, from faces: a smooth bootstrap of the training faces is told from fresh ones."""
    people = faces_of(900, seed=3)
    train, test, fresh = FaceIndex.build(people[:400]), FaceIndex.build(people[400:500]), people[500:]
    real = train.nearest(fresh[:200]).distance.mean() / test.nearest(fresh[:200]).distance.mean()
    noise = np.random.default_rng(0).normal(scale=0.05, size=(400, VERTICES, 3)).astype(np.float32)
    for samples, expected in ((fresh[200:], (0.9, 1.1)), (people[:400] + noise, (0.0, 0.3))):
        to_train, to_test = (index.nearest(samples).distance for index in (train, test))
        assert expected[0] < metrics.memorising(to_train, to_test, real).value < expected[1]


def test_values_cannot_be_changed_and_arrays_are_not_compared():
    for module in (evaluate, metrics, nearest, semantics, yardstick):
        assert_sound_values(module)
