"""Sliders against what they promise: a label's unit, a score's standard deviation."""

import numpy as np
import pytest

from meshgan.model.directions import estimate_directions, principal_directions
from meshgan.studio.sliders import expressions, traits

RNG = np.random.default_rng(0)


def test_a_principal_direction_moves_one_score_by_one_deviation():
    mixing, offset = RNG.normal(size=(8, 3)), RNG.normal(size=3)
    codes = RNG.normal(size=(300, 8)) @ RNG.normal(size=(8, 8)) + 5
    scores = codes @ mixing + offset
    directions = principal_directions(codes.astype(np.float32), scores)
    np.testing.assert_allclose(directions @ mixing, np.diag(scores.std(axis=0)), atol=1e-3)


def test_of_all_directions_with_that_effect_it_is_the_likeliest():
    """Its Mahalanobis length is least: any change that the scores do not see makes it longer."""
    codes = RNG.normal(size=(400, 6)) @ RNG.normal(size=(6, 6))
    mixing = RNG.normal(size=(6, 2))
    directions = principal_directions(codes.astype(np.float32), codes @ mixing)
    precision = np.linalg.inv(np.cov(codes, rowvar=False))
    unseen = np.linalg.svd(mixing.T)[2][2:]
    np.testing.assert_allclose(directions @ precision @ unseen.T, 0, atol=1e-3)


def found(names):
    codes = RNG.normal(size=(200, 4))
    return estimate_directions(codes, {name: 30 + 12 * codes[:, i] for i, name in enumerate(names)}), codes


def test_age_is_counted_in_years_and_others_in_deviations():
    directions, _ = found(["age", "nose size"])
    age, nose = traits(directions)
    assert (age.key, age.title, nose.key, nose.title) == ("age", "Age, years", "nose-size", "Nose size")
    np.testing.assert_allclose(age.vector * directions.deviation[0], directions.vectors[0], rtol=1e-5)
    np.testing.assert_allclose(nose.vector, directions.vectors[1], rtol=1e-5)
    assert age.step == 1.0
    assert age.high == np.ceil(3 * directions.deviation[0]) == -age.low
    assert nose.marks == ((-3.0, "less"), (0.0, ""), (3.0, "more"))


def test_an_expression_at_one_is_the_mean_of_its_label_and_neutral_is_none():
    directions, codes = found(["anger", "neutral"])
    neutral = codes[0].astype(np.float32)
    (anger,) = expressions(directions, neutral)
    np.testing.assert_allclose(neutral + anger.vector, directions.at("anger", 1.0), atol=1e-4)
    assert (anger.low, anger.high) == (0.0, 1.5)


@pytest.mark.parametrize(
    ("value", "kept"), [(0.333333, 0.33), (99, 3.0), (-1e30, -3.0), (float("nan"), 0.0), (float("inf"), 0.0)]
)
def test_a_slider_has_no_other_values(value, kept):
    assert traits(found(["weight"])[0])[0].clipped(value) == kept
