"""How good a registration is: figures with stated thresholds, the verdict that follows from them, and pictures.

By its pictures a person judges it in seconds: scan, result, overlay and error map, from two sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from meshgan.arrays import Booleans, Bytes, Floats
from meshgan.geometry.laplacian import mass
from meshgan.geometry.mesh import Mesh, connected
from meshgan.geometry.surface import Surface
from meshgan.registration.finding import turned
from meshgan.registration.nricp import folded
from meshgan.registration.register import Registration
from meshgan.registration.scan import Frame, Hits, Scene, pixels, seen_from_before
from meshgan.registration.template import FaceTemplate
from meshgan.storage import atomic_file

Verdict = Literal["good", "check", "failed"]
VERDICTS: tuple[Verdict, ...] = ("good", "check", "failed")

OVER = 10.0  # mm: scan vertices farther from the template show something else: hair, shoulders, the back of the head

# Landmarks with an exact place; brows, jaw line, forehead and cheeks have none.
FEATURES = {"nose": (27, 36), "right eye": (36, 42), "left eye": (42, 48), "mouth": (48, 68)}
REGIONS: dict[str, tuple[int, ...]] = FEATURES | {  # of a face, by the landmarks nearest to a place
    "right side of the jaw": (0, 6), "chin": (6, 11), "left side of the jaw": (11, 17), "brows": (17, 27),
    "forehead": (68, 71), "root of the nose": (71, 72), "right temple": (72, 73), "left temple": (73, 74),
    "right cheek": (74, 77, 2), "left cheek": (75, 78, 2),
}  # fmt: skip
ON_FACE = 4.0  # mm from the result: what a detector saw farther off is hair, or a hand, and no landmark
NEAR_MM, HELD = 12.0, 0.5  # of a feature that such things hide the scan must hold that share of what is so near it

Colours = Floats  # (size, size, 3), 0-255

SIZE = 288  # pixels a side of one picture
HALF_WIDTH = 115.0  # mm
YAWS = (0.0, 40.0)
WORST = 3.0  # mm, the end of the error map's scale
STOPS = np.array([[40, 60, 150], [60, 170, 190], [150, 210, 110], [250, 210, 70], [220, 50, 40]], dtype=np.float64)
NOT_FACE = np.array([110.0, 110.0, 110.0])
WIRE = np.array([20.0, 90.0, 200.0])
WARNED_MM, WARNING = (0.8, 2.5), 0.8  # from the face model's: no tint, and all of it
WIRE_WIDTH = 0.08  # barycentric coordinate under which a point belongs to an edge
WIRE_OPACITY = 0.75
FINER = 3  # the wires are narrower than pixels
GIVEN_COLOUR, RESULT_COLOUR = np.array([0.0, 200.0, 60.0]), np.array([230.0, 30.0, 40.0])


@dataclass(frozen=True)
class Threshold:
    """A measure is good up to `good`, worth a look up to `failed`, and beyond that the registration has failed."""

    name: str
    good: float
    failed: float
    wording: str
    meaning: str


GAP_MM2 = 350.0  # of skin that a scan may lack in one patch around nose and mouth
NEVER = np.inf  # landmarks are a detector's word, and what a scan lacks may leave the rest of the face as it is
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
        "landmark_mm", 5.0, NEVER,
        "half of the landmarks of nose, eyes and mouth are missed by {value:.1f} mm or more",
        "median distance between the landmarks of nose, eyes and mouth found or given and those of the result",
    ),
    Threshold(
        "feature_mm", 6.0, NEVER,
        "the {feature} is missed by {value:.1f} mm",
        "the same for the worst of nose, right eye, left eye and mouth",
    ),
    Threshold(
        "uncovered", 0.25, 0.6,
        "{value:.0%} of the face is not held by the scan",
        "share of the face that no surface of the scan holds: 1 - coverage",
    ),
    Threshold(
        "gap_mm2", GAP_MM2, NEVER,
        "a patch of {value:.0f} mm² at the {gap_at} is not held by the scan",
        "largest patch around nose and mouth that no surface of the scan holds: a hole, or something before the face",
    ),
    Threshold(
        "folded", 0.001, 0.02,
        "{value:.2%} of the triangles are folded over",
        "share of triangles that are turned over",
    ),
    Threshold(
        "smoothness", 2.3, NEVER,
        "the scan is {value:.1f} times as smooth at nose and eyes as faces are, and so hardly shows where they are",
        "how much the normals of the fitted face model vary at nose and eyes, of what those of the scan do",
    ),
)  # fmt: skip
FOUND_MM = 2.0  # by which a detector's landmarks of a feature may be missed further than a person's
# What a registered face has beyond the face model tells how far places on it have slid: that of the 300 faces of
# docs/registration.md goes with their error by 0.74. Where all of a run are unlike the model's, it is the people.
STRANGE_MM, STRANGER = 0.46, 1.1  # good up to that, or so many times the run's median
STRANGEST_MM, FEW = 0.95, 5  # of runs of fewer faces: real heads, laid as they should be, are up to 0.8
INTEROCULAR = (45.0, 76.0)  # mm between the middles of the eyes, child to large adult


@dataclass(frozen=True)
class Quality:
    """The figures of one registration; lengths in mm, the rest as shares.

    `median_mm` and `p95_mm`: from scan vertices over the inside of the face to the result. `landmark_mm`: median
    over the landmarks of nose, eyes and mouth found or given, since one that lies on a strand of hair says nothing;
    `feature_mm`: over those of the worst, which is `feature`; `unknown` names those without any, with commas between.
    Of a frame that is followed from the one before no landmark is looked for, and both are NaN.
    `noisy`: the scan had to be smoothed.
    `coverage`: share of the inside of the face that the scan holds. `gap_mm2`: the largest patch around nose and mouth
    that it does not, `gap_at` the feature nearest to it. `folded`: share of triangles. `interocular_mm`: between the
    middles of the eyes. `strange_mm`: how far the face is from the likeliest one that the face model says of it, which
    is judged beside others (`stranger`), most of all at `strange_at`. `found`: a detector found the landmarks.
    `smoothness`: how much less the scan's normals vary at nose and eyes than those of the fitted face model.
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
    gap_at: str = ""
    strange_mm: float = 0.0
    found: bool = False
    strange_at: str = ""
    smoothness: float = 1.0

    @property
    def uncovered(self) -> float:
        """What coverage leaves."""
        return 1.0 - self.coverage


def measure(result: Registration, template: FaceTemplate) -> Quality:
    """All figures of one registration."""
    mesh = template.mesh.with_vertices(result.vertices)
    distances = scan_distances(result, template)
    seen = distances[np.isfinite(distances)]
    misses = {} if result.followed else _landmark_misses(result, template)
    unknown = np.nan if result.followed else np.inf
    worst = max(misses, key=lambda name: np.median(misses[name])) if misses else ""
    gap, gap_at = _largest_patch(mesh, template, template.middle & ~result.believed)
    strange = template.prior.remainder(result.vertices)
    return Quality(
        float(np.median(seen)) if len(seen) else np.inf,
        float(np.percentile(seen, 95)) if len(seen) else np.inf,
        float(np.median(np.concatenate(list(misses.values())))) if misses else unknown,
        float(np.median(misses[worst])) if misses else unknown,
        float(result.believed[template.inside].mean()),
        gap,
        float(folded(mesh, result.fitted).mean()),
        template.interocular(result.vertices),
        worst,
        ", ".join(name for name in FEATURES if name not in misses and not _told(name, result, template)),
        result.noisy,
        gap_at,
        _root_mean_square(strange),
        result.found,
        _worst_region(strange, template),
        _smoothness(result, template),
    )


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _smoothness(result: Registration, template: FaceTemplate) -> float:
    """How much the normals of the fitted face vary from vertex to vertex, of what the scan's do: the geometric mean of
    nose and eyes. (A mouth has a slit, or none.)

    A depth camera's surface lies where the face is, and yet does not show where on it things are.
    """
    surface = Surface(result.scan)
    fitted = template.mesh.with_vertices(result.fitted).vertex_normals
    scan = surface.normals(surface.closest(result.vertices))
    marks, ratios = template.landmark_rows @ template.mesh.vertices, []
    for part in (slice(*FEATURES["nose"]), slice(FEATURES["right eye"][0], FEATURES["left eye"][1])):
        near = template.inside & result.believed
        near[near] = cKDTree(marks[part]).query(template.mesh.vertices[near])[0] < NEAR_MM
        i, j = template.mesh.edges[near[template.mesh.edges].all(axis=1)].T
        here, there = (float(np.sum(1 - np.einsum("ec,ec->e", n[i], n[j]))) for n in (fitted, scan))
        ratios.append(max(here, 1e-9) / max(there, 1e-9))
    return float(np.sqrt(ratios[0] * ratios[1]))


def _worst_region(values: Floats, template: FaceTemplate) -> str:
    """Where on the inside of a face values (V,) are largest: the name of the region."""
    marks = template.landmark_rows @ template.mesh.vertices
    names = sorted(REGIONS)
    places = [(marks[slice(*REGIONS[name])], number) for number, name in enumerate(names)]
    tree = cKDTree(np.concatenate([points for points, _ in places]))
    owner = np.concatenate([np.full(len(points), number) for points, number in places])
    where = owner[tree.query(template.mesh.vertices)[1]]
    counted = [values[template.inside & (where == number)] for number in range(len(names))]
    return names[int(np.argmax([_root_mean_square(some) if len(some) else 0.0 for some in counted]))]


def _landmark_misses(result: Registration, template: FaceTemplate) -> dict[str, Floats]:
    """The misses in mm of the landmarks of each of `FEATURES` of which any is known; of none, those of all others.

    Those that were found on something else than the face do not count.
    """
    index, points = result.landmarks.index, result.landmarks.points
    if result.found:
        mesh = template.mesh.with_vertices(result.vertices)
        on_face = Surface(mesh).closest(points).distance < ON_FACE
        index, points = index[on_face], points[on_face]
    misses = np.linalg.norm((template.landmark_rows @ result.vertices)[index] - points, axis=1)
    parts = {name: misses[(index >= first) & (index < last)] for name, (first, last) in FEATURES.items()}
    known = {name: part for name, part in parts.items() if len(part)}
    return known or ({"rest of the face": misses} if len(misses) else {})


def _told(feature: str, result: Registration, template: FaceTemplate) -> bool:
    """Whether the surface says enough of a feature none of whose landmarks lies on the face: the detector saw it, on a
    strand of hair, say, and yet the scan holds what is around it. Of followed frames no landmark is looked for."""
    first, last = FEATURES[feature]
    seen = (result.landmarks.index >= first) & (result.landmarks.index < last)
    marks = template.landmark_rows[first:last] @ template.mesh.vertices
    near = template.inside & (cKDTree(marks).query(template.mesh.vertices)[0] < NEAR_MM)
    return result.followed or bool(result.found and seen.any() and result.believed[near].mean() > HELD)


def _largest_patch(mesh: Mesh, template: FaceTemplate, marked: Booleans) -> tuple[float, str]:
    """The area in mm² of the largest connected patch of `marked` vertices (V,), and the feature nearest to it."""
    labels = connected(mesh.edges[marked[mesh.edges].all(axis=1)], len(marked))
    areas = np.bincount(labels, np.where(marked, mass(mesh), 0.0))
    patch = mesh.vertices[labels == areas.argmax()].mean(axis=0)
    marks = template.landmark_rows @ mesh.vertices
    apart = {name: np.linalg.norm(marks[slice(*part)].mean(axis=0) - patch) for name, part in FEATURES.items()}
    return float(areas.max()), min(apart, key=lambda name: apart[name])


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
    worst, reasons = 0, []
    for threshold in THRESHOLDS:
        value = getattr(quality, threshold.name)
        good = threshold.good + (FOUND_MM if quality.found and threshold.name == "feature_mm" else 0.0)
        level = int(value > good) + int(value > threshold.failed)
        worst = max(worst, level)
        if level:
            reasons.append(threshold.wording.format(value=value, feature=quality.feature, gap_at=quality.gap_at))
    if not INTEROCULAR[0] <= quality.interocular_mm <= INTEROCULAR[1]:
        reasons.append(f"the eyes are {quality.interocular_mm:.0f} mm apart; is the unit right?")
    if quality.noisy:
        reasons.append("the scan is so noisy that it was smoothed before it was used")
    if quality.unknown:
        reasons.append(f"no landmark was found of the {quality.unknown.replace(', ', ' and the ')}")
    return VERDICTS[max(worst, min(len(reasons), 1))], "; ".join(reasons)


def stranger(strange_mm: Sequence[float], strange_at: Sequence[str] = ()) -> list[str]:
    """Of each of the faces of a run, which are so far from what the model says, why it wants a look, or ''.

    `strange_at` says where each is so most of all.
    """
    usual = float(np.median(strange_mm)) if len(strange_mm) else 0.0
    limit = max(STRANGE_MM, STRANGER * usual)
    if len(strange_mm) < FEW:  # too few to say what is usual
        limit = min(limit, STRANGEST_MM)
    reasons = []
    for value, place in zip(strange_mm, strange_at or [""] * len(strange_mm), strict=True):
        where = f", most of all at the {place}" if place else ""
        than = "more than others do" if value > STRANGER * usual else "more than most faces are"
        says = f"the face lies {value:.2f} mm from what the face model knows{where}, {than}: places on it may have slid"
        reasons.append(says if value > limit else "")
    return reasons


def draw_pictures(result: Registration, template: FaceTemplate, path: Path) -> None:
    """Write one JPEG: four pictures wide, two views high."""
    scan = Scene(result.scan)
    face = Scene(template.mesh.with_vertices(result.vertices))
    distances = scan_distances(result, template)
    middle = template.mesh.vertices.mean(axis=0)
    rows = []
    for yaw in YAWS:
        frame = turned(Frame(np.eye(3), middle, HALF_WIDTH), yaw)
        rows.append(np.concatenate(_pictures(scan, face, frame, distances, result, template), axis=1))
    image = Image.fromarray(np.concatenate(rows).clip(0, 255).astype(np.uint8))
    with atomic_file(path) as partial:
        image.save(partial, format="JPEG", quality=85)


def _pictures(
    scan: Scene, face: Scene, frame: Frame, distances: Floats, result: Registration, template: FaceTemplate
) -> list[Colours]:
    grey, scan_hits = scan.photograph(frame, SIZE)
    plain, hits = face.photograph(frame, SIZE)
    shaded, alone = _coloured(grey), _coloured(plain)
    errors = shaded / 255 * _heat(_interpolated(scan, scan_hits, distances)).reshape(SIZE, SIZE, 3) * 1.2
    here = (template.landmark_rows @ result.vertices)[result.landmarks.index]
    with_points = _dotted(_dotted(shaded, frame, result.landmarks.points, GIVEN_COLOUR), frame, here, RESULT_COLOUR)
    return [with_points, _warned(alone, face, hits, template), _overlay(shaded, face, frame), errors]


def _warned(picture: Colours, face: Scene, hits: Hits, template: FaceTemplate) -> Colours:
    """A picture of the face with a tint where it is unlike those that the face model knows."""
    unlike = _interpolated(face, hits, template.prior.remainder(face.mesh.vertices)).reshape(SIZE, SIZE, 1)
    share = WARNING * np.nan_to_num((unlike - WARNED_MM[0]) / (WARNED_MM[1] - WARNED_MM[0])).clip(0, 1)
    return np.asarray(picture * (1 - share + share * RESULT_COLOUR / 255))


def _coloured(image: Bytes) -> Colours:
    return np.repeat(image[:, :, None].astype(np.float64), 3, axis=2)


def _overlay(scan: Colours, face: Scene, frame: Frame) -> Colours:
    """The scan with the template's edges drawn over it: how much of each pixel they cover, of `FINER` squared."""
    hits = face.cast(frame, *pixels(FINER * SIZE), FINER * SIZE)
    edge = hits.found & (hits.barycentric.min(axis=1) < WIRE_WIDTH)
    cover = edge.reshape(SIZE, FINER, SIZE, FINER).mean(axis=(1, 3))[:, :, None]
    return scan + WIRE_OPACITY * cover * (WIRE - scan)


def _interpolated(scene: Scene, hits: Hits, values: Floats) -> Floats:
    corners = values[scene.mesh.triangles[np.maximum(hits.triangle, 0)]]
    return np.where(hits.found, np.einsum("nk,nk->n", hits.barycentric, corners), np.nan)


def _heat(values: Floats) -> Colours:
    """Colours (N, 3) of distances (N,): blue for none, red for `WORST` and beyond, grey for what does not count."""
    place = np.nan_to_num(values).clip(0, WORST) / WORST * (len(STOPS) - 1)
    colours = np.stack([np.interp(place, np.arange(len(STOPS)), STOPS[:, channel]) for channel in range(3)], axis=1)
    return np.where(np.isfinite(values)[:, None], colours, NOT_FACE)


def _dotted(image: Colours, frame: Frame, points: Floats, colour: Floats) -> Colours:
    """The image with a dot of 3 × 3 pixels at each point (L, 3)."""
    place = (points - frame.centre) @ frame.rotation.T / frame.half_width
    columns = np.rint((place[:, 0] + 1) * SIZE / 2 - 0.5).astype(np.int64)
    rows = np.rint((1 - place[:, 1]) * SIZE / 2 - 0.5).astype(np.int64)
    image = image.copy()
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            image[(rows + i).clip(0, SIZE - 1), (columns + j).clip(0, SIZE - 1)] = colour
    return image
