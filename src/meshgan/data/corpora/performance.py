"""How people make faces: which action units, how strongly, and how far left and right agree."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from meshgan.arrays import Floats, Integers
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.recipes import BESIDES, EXPRESSIONS, LIMITS, MORE_BESIDES, MORE_UNITS, RECIPES, UNITS, Units

NEUTRAL, POSED, SPONTANEOUS = range(3)

FAVOURITE = (0.55, 0.25, 0.2)  # shares of people who prefer each variant of an expression
FAVOURITE_KEPT = 0.8  # of faces follow it
UNIT_GAIN, TAKE_GAIN = 0.2, 0.14  # how strongly a unit is made, by people and by takes: deviation of the logarithm
UNIT_MISSING = 0.06  # of a person's units are never used
SIDE_BIAS, SIDE_TAKE = 0.07, 0.05  # standard deviation of left against right, of a person and of a take
ONE_SIDED, ONE_SIDE = 0.12, 0.6  # the share of a person's actions that are one-sided, and by how much at most
MIXED, MIXED_SHARE = 0.35, 0.5  # of spontaneous faces have a second expression, of at most that share
PARTIAL, PARTIAL_MISSING = 0.5, 0.35  # of spontaneous faces lack that share of their units
BESIDES_AT_ONCE, BESIDES_SHARE = 2, 0.4  # things that a face may do besides, and the share of faces that do each
BESIDES_POSED = 0.2  # how much of it while posing
PLAIN_SHARE, PLAIN_POSED = 0.5, 0.15  # the same in the plain corpus

ALL_UNITS = UNITS | MORE_UNITS
NUMBERS = list(ALL_UNITS)
PLAIN_NAMES = sorted({name for unit in UNITS.values() for name in unit})
NAMES = PLAIN_NAMES + sorted({name for unit in MORE_UNITS.values() for name in unit} - set(PLAIN_NAMES))
UNSIDED = {
    "browInnerUp",
    "cheekPuff",
    "jawForward",
    "jawOpen",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
}
SIDED = [name for name in NAMES if name not in UNSIDED | {"jawSide", "mouthSide"}]


@dataclass(frozen=True, eq=False)
class Style:
    """What is personal about S people's faces: favourite `variants` (S, 6) of the expressions, `gains` (S, U) of
    the units, `bias` (S, N) of the sided actions: below 0 the right side is stronger."""

    variants: Integers
    gains: Floats
    bias: Floats


def draw_style(draws: Draws) -> Style:
    """Draw the style of each item of `draws`."""
    variants = np.stack([draws.choice(FAVOURITE) for _ in EXPRESSIONS], axis=1)
    gains = np.exp(UNIT_GAIN * draws.normal(len(NUMBERS)))
    gains *= draws.uniform(len(NUMBERS)) > UNIT_MISSING
    bias = SIDE_BIAS * draws.normal(len(SIDED))
    bias += ONE_SIDE * np.sign(draws.normal(len(SIDED))) * draws.sparse(len(SIDED), ONE_SIDED)
    return Style(variants, gains, bias)


def draw_units(
    draws: Draws, style: Style, who: Integers, expression: Integers, kind: Integers, plain: bool = False
) -> tuple[Floats, Floats]:
    """Strengths (B, U) of the units in takes of people `who` (B,), and their intensities (B,) in [0, 1].

    Posed faces are at their apex; spontaneous ones have any intensity, and may be mixed or partial.
    """
    spontaneous = kind == SPONTANEOUS
    mixed, share, partial, level, besides = draws.uniform(5).T
    posed = 0.65 + 0.35 * np.sqrt(level)
    intensity = np.select([kind == NEUTRAL, kind == POSED], [0.0, posed], 0.1 + 0.9 * level**1.6)
    kept = draws.uniform(1)[:, 0] < FAVOURITE_KEPT
    variant = np.where(kept, style.variants[who, expression], draws.choice(FAVOURITE))
    second = STRENGTHS[draws.choice([1.0] * len(EXPRESSIONS)), draws.choice(FAVOURITE)]
    blend = np.where(spontaneous & (mixed < MIXED), MIXED_SHARE * share, 0.0)[:, None]
    missing = np.where(spontaneous & (partial < PARTIAL), PARTIAL_MISSING, 0.0)[:, None]
    units = (1 - blend) * STRENGTHS[expression, variant] * (draws.uniform(len(NUMBERS)) > missing) + blend * second
    units *= style.gains[who] * np.exp(TAKE_GAIN * draws.normal(len(NUMBERS))) * intensity[:, None]
    posing = PLAIN_POSED if plain else BESIDES_POSED
    amount = np.select([kind == NEUTRAL, kind == POSED], [0.0, posing * besides], besides)
    share, times, things = (
        (PLAIN_SHARE, 1, len(BESIDES)) if plain else (BESIDES_SHARE, BESIDES_AT_ONCE, len(BESIDES_STRENGTHS))
    )
    for _ in range(times):
        which = draws.choice([share / things] * things + [1 - share])
        units = (
            units + amount[:, None] * np.append(BESIDES_STRENGTHS[:things], np.zeros((1, len(NUMBERS))), axis=0)[which]
        )
    return units, intensity


def draw_actions(draws: Draws, style: Style, who: Integers, units: Floats, names: tuple[str, ...]) -> Floats:
    """Facial actions (B, A) named `names` that make up the units; left and right differ a little, or much."""
    lean = style.bias[who] + SIDE_TAKE * draws.normal(len(SIDED))
    leftwards = draws.uniform(1)[:, 0] < 0.5
    strengths = dict(zip(NAMES, (units @ UNIT_ACTIONS).T, strict=True))
    actions = {name: strengths[name] for name in UNSIDED}
    for what in ("jaw", "mouth"):
        sideways = strengths[f"{what}Side"]
        actions |= {f"{what}Left": sideways * leftwards, f"{what}Right": sideways * ~leftwards}
    for name, bias in zip(SIDED, lean.T, strict=True):
        actions[f"{name}Left"] = strengths[name] * (1 + np.minimum(bias, 0))
        actions[f"{name}Right"] = strengths[name] * (1 - np.maximum(bias, 0))
    absent = np.zeros(len(units))
    limits = [LIMITS.get(name.removesuffix("Left").removesuffix("Right"), 1.0) for name in names]
    return np.clip(np.stack([actions.get(name, absent) for name in names], axis=1), 0, limits)


def _strengths(units: Units) -> Floats:
    return np.array([units.get(number, 0.0) for number in NUMBERS])


def _unit_actions(units: Mapping[int, Mapping[str, float]]) -> Floats:
    return np.array([[units[number].get(name, 0.0) for name in NAMES] for number in NUMBERS])


UNIT_ACTIONS = _unit_actions(ALL_UNITS)  # (U, names)
STRENGTHS = np.array([[_strengths(variant) for variant in RECIPES[name]] for name in EXPRESSIONS])  # (6, 3, U)
BESIDES_STRENGTHS = np.array([_strengths(units) for units in BESIDES + MORE_BESIDES])
