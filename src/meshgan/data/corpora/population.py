"""A population of people: clusters of ancestry, sex and age, and facial features that depend on them.

The numbers are choices, made by looking at the faces, not measurements of any real population: they give clusters,
conditional means, skewed and sparse features, and mild asymmetry, so that the faces are not one Gaussian.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from meshgan.arrays import Booleans, Floats, Integers
from meshgan.data.corpora.basis import ANCESTRIES, FaceBasis, Phenotype
from meshgan.data.corpora.draws import Draws

GROUPS = (*ANCESTRIES, "mixed")
GROUP_SHARES = (0.28, 0.30, 0.30, 0.12)
AGE_GROUPS = ("child", "teen", "young", "middle", "elderly")
AGE_SHARES = (0.11, 0.09, 0.34, 0.29, 0.17)
AGE_LIMITS = (4, 13, 18, 35, 60, 86)  # years
BUILDS = ("slim", "average", "heavy")
BUILD_LIMITS = (0.42, 0.64)  # of weight in [0, 1]

SPREAD_MM = 1.25  # standard deviation of a feature, at the vertex that it moves most
SPREAD_LIMITS = (0.03, 0.3)  # of the slider's range [-1, 1]
SIDES = 0.14  # how far left and right features differ, against how far people do
ASYMMETRY_MM = 0.4  # standard deviation of the targets made for asymmetry
HEAD_SHAPES = ("diamond", "invertedtriangular", "oval", "rectangular", "round", "square", "triangular")
HEAD_SHAPE_SHARE = 0.55  # of people have one of them
# How much more features vary in the rich corpora, where they vary as broadly as real heads do.
WIDER, WIDER_BY_REGION = (
    1.1,
    {"head": 1.6, "forehead": 1.5, "chin": 1.4, "cheek": 1.4, "eyebrows": 1.5, "neck": 1.2, "asym": 0.45},
)
WIDER_SHAPES = 1.3
CHILDREN = 0.3  # how much less the youngest do
REGIONS = {"nose": 0.75, "mouth": 0.75, "eye": 0.85}  # many features act there, and they add up
EXTREME = 2.2  # standard deviations at which personal variation ends

# Multiples of the usual spread for features that need more, or spoil a face when they vary as much as the rest.
SPREADS = {
    "eyebrows-trans-forward": 0.4, "chin-cleft-incr": 0.0, "forehead-nubian-incr": 0.5, "head-age-incr": 0.3,
    "head-fat-incr": 0.5, "head-angle-out": 0.5, "measure-neck-circ-incr": 0.5, "neck-double-incr": 0.4,
    "neck-scale-depth-incr": 0.3, "neck-scale-horiz-incr": 0.3, "mouth-trans-out": 0.15, "nose-trans-out": 0.15,
    "mouth-dimples-out": 0.5, "mouth-laugh-lines-out": 0.6, "eye-epicanthus-out": 0.5, "nose-septumangle-incr": 0.7,
    "eye-height1-incr": 0.8, "eye-height3-incr": 0.8, "eye-push1-out": 0.5, "eye-push2-out": 0.5,
    "mouth-lowerlip-middle-up": 0.5, "mouth-upperlip-middle-up": 0.5, "nose-nostrils-angle-up": 0.7,
    "chin-triangle": 0.0, "nose-compression-uncompress": 0.6, "eye-bag-incr": 0.7, "mouth-angles-up": 0.6,
}  # fmt: skip

# How a feature's mean depends on who somebody is. The drivers: one column of `Person.drivers` each.
EFFECTS: dict[str, dict[str, float]] = {
    "african": {"nose-width3-incr": 0.1, "mouth-upperlip-volume-incr": 0.15, "mouth-lowerlip-volume-incr": 0.1},
    "asian": {"eye-epicanthus-out": -0.15, "nose-hump-incr": -0.15, "cheek-bones-incr": 0.15},
    "caucasian": {"nose-hump-incr": 0.2, "nose-scale-horiz-incr": -0.1, "eye-push1-out": -0.1},
    "male": {"chin-width-incr": 0.12, "nose-hump-incr": 0.1, "chin-bones-incr": 0.1, "eyebrows-trans-up": -0.12},
    "female": {"eye-scale-incr": 0.2, "mouth-upperlip-volume-incr": 0.15, "mouth-lowerlip-volume-incr": 0.1,
               "nose-scale-vert-incr": -0.12, "nose-volume-incr": -0.2, "nose-width2-incr": -0.1,
               "eyebrows-trans-up": 0.15, "eyebrows-trans-forward": -0.12, "eyebrows-angle-up": 0.1,
               "chin-width-incr": -0.15, "chin-bones-incr": -0.12, "head-scale-horiz-incr": -0.05},
    "old": {"eye-bag-incr": 0.35, "mouth-laugh-lines-out": -0.2, "nose-point-up": -0.1, "nose-scale-depth-incr": 0.1,
            "eye-height2-incr": -0.2, "mouth-upperlip-volume-incr": -0.3, "mouth-lowerlip-volume-incr": -0.25,
            "cheek-inner-incr": -0.1, "mouth-angles-up": -0.15},
    "child": {"nose-scale-depth-incr": -0.12, "eye-scale-incr": 0.25, "cheek-volume-incr": 0.15, "nose-point-up": 0.15},
    "heavy": {"head-fat-incr": 0.6, "cheek-volume-incr": 0.4, "neck-double-incr": 0.45, "chin-width-incr": 0.15},
    "slim": {"head-fat-incr": -0.4, "cheek-inner-incr": -0.25, "cheek-bones-incr": 0.25, "cheek-volume-incr": -0.25},
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class People:
    """B people: what their macro shapes depend on, their values (B, F) of the basis's features, and their labels."""

    phenotype: Phenotype
    features: Floats
    groups: Integers  # index into GROUPS
    ages: Integers  # index into AGE_GROUPS
    female: Booleans

    def labels(self, subjects: list[str]) -> list[dict[str, object]]:
        """One label row a person."""
        builds = np.searchsorted(BUILD_LIMITS, self.phenotype.weight)
        rows = zip(
            subjects,
            self.groups,
            self.female,
            self.phenotype.age,
            self.ages,
            self.phenotype.weight,
            builds,
            strict=True,
        )
        return [
            {
                "subject": subject,
                "ancestry": GROUPS[group],
                "sex": "female" if female else "male",
                "age": int(age),
                "age_group": AGE_GROUPS[age_group],
                "weight": f"{weight:.3f}",
                "build": BUILDS[build],
            }
            for subject, group, female, age, age_group, weight, build in rows
        ]


def draw_people(
    basis: FaceBasis, draws: Draws, age_shares: tuple[float, ...] = AGE_SHARES, plain: bool = False
) -> People:
    """Draw one person for each item of `draws`; with `plain`, features vary less, as in the plain corpora."""
    groups, ages = draws.choice(GROUP_SHARES), draws.choice(age_shares)
    place, tilt, choice = draws.uniform(3).T
    limits = np.array(AGE_LIMITS)
    age = limits[ages] + place * (limits[ages + 1] - limits[ages])
    female = choice < 0.5
    femininity = np.where(female, 1 - 0.15 * tilt, 0.15 * tilt)
    phenotype = Phenotype(age, femininity, *_build(draws, age, female), _ancestry(draws, groups))
    features = _features(basis, draws, _drivers(phenotype), _spreads(basis), plain)
    return People(phenotype, features, groups, ages, female)


def _ancestry(draws: Draws, groups: Integers) -> Floats:
    """Shares (B, 3): near one for the three groups, two of them between 0.35 and 0.65 for `mixed`."""
    pure, split, pair = draws.uniform(3).T
    shares = np.full((len(groups), 3), 0.0)
    rows = np.arange(len(groups))
    clear = groups < 3
    other = 0.18 * pure / 2
    shares[clear] = other[clear, None]
    shares[rows[clear], groups[clear]] = 1 - 2 * other[clear]
    left_out = np.minimum((pair * 3).astype(int), 2)
    first, second = (left_out + 1) % 3, (left_out + 2) % 3
    part = 0.35 + 0.3 * split
    shares[rows[~clear], first[~clear]] = part[~clear]
    shares[rows[~clear], second[~clear]] = 1 - part[~clear]
    return shares


def _build(draws: Draws, age: Floats, female: Booleans) -> tuple[Floats, Floats]:
    """Muscle and weight (B,) in [0, 1]: men and the young are more muscular, middle age is heavier; skewed."""
    noise = draws.normal(3)
    muscle = 0.5 + np.where(female, -0.06, 0.08) - 0.15 * np.clip((age - 50) / 35, 0, 1) + 0.14 * noise[:, 0]
    middle = np.exp(-(((age - 50) / 25) ** 2))
    weight = 0.46 + 0.08 * middle + 0.1 * noise[:, 1] + 0.07 * np.abs(noise[:, 2]) ** 1.5
    return np.clip(muscle, 0.05, 0.95), np.clip(weight, 0.12, 1.0)


def _drivers(phenotype: Phenotype) -> Mapping[str, Floats]:
    """The columns that `EFFECTS` name, each (B,) in [0, 1]."""
    age, weight = phenotype.age, phenotype.weight
    return dict(zip(ANCESTRIES, phenotype.ancestry.T, strict=True)) | {
        "male": 1 - phenotype.female,
        "female": phenotype.female,
        "old": np.clip((age - 45) / 40, 0, 1),
        "child": np.clip((16 - age) / 12, 0, 1),
        "heavy": np.clip((weight - 0.5) / 0.3, 0, 1),
        "slim": np.clip((0.48 - weight) / 0.2, 0, 1),
    }


def _features(basis: FaceBasis, draws: Draws, drivers: Mapping[str, Floats], spreads: Floats, plain: bool) -> Floats:
    """Values (B, F): a mean that depends on the person, personal variation shared by both sides, and asymmetry."""
    names = [name.removeprefix("l-").removeprefix("r-") for name in basis.feature_names]
    shared = np.unique(names)
    column = np.searchsorted(shared, names)
    personal = draws.normal(len(shared))[:, column] * np.sqrt(1 - SIDES**2)
    sided = np.array([name.startswith(("l-", "r-")) for name in basis.feature_names])
    personal += np.where(sided, SIDES, np.sqrt(1 - (1 - SIDES**2))) * draws.normal(len(names))
    values = np.clip(personal, -EXTREME, EXTREME) * spreads
    if not plain:
        wider = np.array([WIDER_BY_REGION.get(name.split("-")[0], WIDER) for name in names])
        values *= wider * (1 - CHILDREN * drivers["child"][:, None])
    for driver, effects in EFFECTS.items():
        for name, effect in effects.items():
            values[:, column == np.searchsorted(shared, name)] += effect * drivers[driver][:, None]
    values[:, [name.startswith("head-") and name[5:] in HEAD_SHAPES for name in names]] = (
        1.0 if plain else WIDER_SHAPES
    ) * _head_shapes(draws)
    values[:, names.index("chin-cleft-incr")] = 0.9 * draws.sparse(1, 0.15)[:, 0] * drivers["male"]
    return np.clip(values, -1, 1)


def _head_shapes(draws: Draws) -> Floats:
    """(B, 7): most people have something of one of the named shapes of a head, some have none."""
    which = draws.choice([HEAD_SHAPE_SHARE / len(HEAD_SHAPES)] * len(HEAD_SHAPES) + [1 - HEAD_SHAPE_SHARE])
    amount = 0.15 + 0.5 * draws.uniform(1)[:, 0]
    return np.eye(len(HEAD_SHAPES) + 1)[which][:, :-1] * amount[:, None]


@cache
def _spreads(basis: FaceBasis) -> Floats:
    """The standard deviation (F,) of each feature: the same in millimetres where it acts, within limits."""
    reach = np.linalg.norm(basis.features[:, :-1], axis=2).max(axis=1)
    reach = np.where(basis.feature_shapes >= 0, reach[basis.feature_shapes], 0).max(axis=1)
    asymmetric = np.array([name.startswith("asym-") for name in basis.feature_names])
    spreads = np.clip(np.where(asymmetric, ASYMMETRY_MM, SPREAD_MM) / reach, *SPREAD_LIMITS)
    plain = [name.removeprefix("l-").removeprefix("r-") for name in basis.feature_names]
    region = np.array([REGIONS.get(name.split("-")[0], 1.0) for name in plain])
    return spreads * region * np.array([SPREADS.get(name, 1.0) for name in plain])
