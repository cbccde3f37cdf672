"""How good a registration is, in figures with stated thresholds, and the verdict that follows from them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from meshgan.arrays import Booleans, Floats
from meshgan.geometry.laplacian import mass
from meshgan.geometry.mesh import Mesh, connected
from meshgan.geometry.surface import Surface
from meshgan.registration.nricp import folded
from meshgan.registration.register import Registration
from meshgan.registration.template import FaceTemplate
from meshgan.registration.views import seen_from_before

Verdict = Literal["good", "check", "failed"]
VERDICTS: tuple[Verdict, ...] = ("good", "check", "failed")

OVER = 10.0  # mm: scan vertices farther from the template show something else: hair, shoulders, the back of the head

# Landmarks with an exact place; brows, jaw line, forehead and cheeks have none.
FEATURES = {"nose": (27, 36), "right eye": (36, 42), "left eye": (42, 48), "mouth": (48, 68)}


@dataclass(frozen=True)
class Threshold:
    """A measure is good up to `good`, worth a look up to `failed`, and beyond that the registration has failed.

    Landmarks are no more than a detector's word, or a person's: `alone`, they want a look however far off they are.
    A face has failed by them only if what the surface or the shape says wants a look as well.
    """

    name: str
    good: float
    failed: float
    wording: str
    meaning: str
    alone: bool = True


THRESHOLDS = (
    Threshold(
        "median_mm", 0.5, 2.0,
        "half of the scan's face lies {value:.2f} mm or more from the result",
        "median distance from the scan, inside the face, to the result",
    ),
    Threshold(
        "p95_mm", 4.0, 8.0,
        "a twentieth of the scan's face lies {value:.1f} mm or more from the result",
        "the 95 % quantile of the same distance",
    ),
    Threshold(
        "landmark_mm", 5.0, 10.0,
        "half of the landmarks of nose, eyes and mouth are missed by {value:.1f} mm or more",
        "median distance between the landmarks of nose, eyes and mouth found or given and those of the result",
        alone=False,
    ),
    Threshold(
        "feature_mm", 6.0, 15.0,
        "the {feature} is missed by {value:.1f} mm",
        "the same for the worst of nose, right eye, left eye and mouth",
        alone=False,
    ),
    Threshold(
        "uncovered", 0.25, 0.6,
        "{value:.0%} of the face is not held by the scan",
        "share of the face that no surface of the scan holds: 1 - coverage",
    ),
    Threshold(
        "gap_mm2", 350.0, 2500.0,
        "a patch of {value:.0f} mm² around nose and mouth is not held by the scan",
        "largest patch around nose and mouth that no surface of the scan holds: a hole, or a part that went astray",
    ),
    Threshold(
        "folded", 0.001, 0.02,
        "{value:.2%} of the triangles are folded over",
        "share of triangles that are turned over",
    ),
)  # fmt: skip
INTEROCULAR = (45.0, 76.0)  # mm between the middles of the eyes, child to large adult


@dataclass(frozen=True)
class Quality:
    """The figures of one registration; lengths in mm, the rest as shares.

    `median_mm` and `p95_mm`: from scan vertices over the inside of the face to the result. `landmark_mm`: median
    over the landmarks of nose, eyes and mouth found or given, since one that lies on a strand of hair says nothing;
    `feature_mm`: over those of the worst, which is `feature`; `unknown` names those without any, with commas between.
    `noisy`: the scan had to be smoothed.
    `coverage`: share of the inside of the face that the scan holds. `gap_mm2`: the largest patch around nose and mouth
    that it does not. `folded`: share of triangles. `interocular_mm`: between the middles of the eyes.
    """

    median_mm: float
    p95_mm: float
    landmark_mm: float
    feature_mm: float
    coverage: float
    gap_mm2: float
    folded: float
    interocular_mm: float
    feature: str = ""
    unknown: str = ""
    noisy: bool = False

    @property
    def uncovered(self) -> float:
        """What coverage leaves."""
        return 1.0 - self.coverage


def measure(result: Registration, template: FaceTemplate) -> Quality:
    """All figures of one registration."""
    mesh = template.mesh.with_vertices(result.vertices)
    distances = scan_distances(result, template)
    seen = distances[np.isfinite(distances)]
    misses = _landmark_misses(result, template)
    worst = max(misses, key=lambda name: np.median(misses[name])) if misses else ""
    return Quality(
        float(np.median(seen)) if len(seen) else np.inf,
        float(np.percentile(seen, 95)) if len(seen) else np.inf,
        float(np.median(np.concatenate(list(misses.values())))) if misses else np.inf,
        float(np.median(misses[worst])) if misses else np.inf,
        float(result.believed[template.inside].mean()),
        _largest_patch(mesh, template.middle & ~result.believed),
        float(folded(mesh, result.fitted).mean()),
        template.interocular(result.vertices),
        worst,
        ", ".join(name for name in FEATURES if name not in misses),
        result.noisy,
    )


def _landmark_misses(result: Registration, template: FaceTemplate) -> dict[str, Floats]:
    """The misses in mm of the landmarks of each of `FEATURES` of which any is known; of none, those of all others."""
    index = result.landmarks.index
    misses = np.linalg.norm((template.landmark_rows @ result.vertices)[index] - result.landmarks.points, axis=1)
    parts = {name: misses[(index >= first) & (index < last)] for name, (first, last) in FEATURES.items()}
    known = {name: part for name, part in parts.items() if len(part)}
    return known or ({"rest of the face": misses} if len(misses) else {})


def _largest_patch(mesh: Mesh, marked: Booleans) -> float:
    """The area in mm² of the largest connected patch of `marked` vertices (V,)."""
    labels = connected(mesh.edges[marked[mesh.edges].all(axis=1)], len(marked))
    return float(np.bincount(labels, np.where(marked, mass(mesh), 0.0)).max())


def scan_distances(result: Registration, template: FaceTemplate) -> Floats:
    """Distance (V_scan,) of each scan vertex over the inside of the face to the result; NaN for all others.

    A vertex counts if its closest point lies on the inside of the template, on a surface that faces the same way,
    and within `OVER`, and if a viewer before the face sees it: nostrils and mouths have walls that no template has.
    """
    mesh = template.mesh.with_vertices(result.vertices)
    surface = Surface(mesh)
    matches = surface.closest(result.scan.vertices)
    facing = np.einsum("vc,vc->v", surface.normals(matches), result.scan.vertex_normals) > 0
    inside = template.inside[mesh.triangles[matches.triangle]].all(axis=1)
    counted = facing & inside & (matches.distance < OVER)
    counted[counted] = seen_from_before(result.scan, np.flatnonzero(counted))
    return np.where(counted, matches.distance, np.nan)


def judge(quality: Quality) -> tuple[Verdict, str]:
    """The verdict, and its reasons in words; of a good registration, the empty string."""
    reasons = []
    told = {True: 0, False: 0}  # the worst of what speaks for itself, and of what does not
    for threshold in THRESHOLDS:
        value = getattr(quality, threshold.name)
        level = int(value > threshold.good) + int(value > threshold.failed)
        told[threshold.alone] = max(told[threshold.alone], level)
        if level:
            reasons.append(threshold.wording.format(value=value, feature=quality.feature))
    if not INTEROCULAR[0] <= quality.interocular_mm <= INTEROCULAR[1]:
        told[True] = max(told[True], 1)
        reasons.append(f"the eyes are {quality.interocular_mm:.0f} mm apart; is the unit right?")
    worst = max(told.values()) if told[True] else min(told[False], 1)
    if quality.noisy:
        reasons.append("the scan is so noisy that it was smoothed before it was used")
    if quality.unknown:
        reasons.append(f"no landmark was found of the {quality.unknown.replace(', ', ' and the ')}")
    return VERDICTS[max(worst, min(len(reasons), 1))], "; ".join(reasons)
