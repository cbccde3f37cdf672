"""Faces in motion: lids roll on the eye, lips meet, skin keeps its volume and folds where it is squeezed."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from meshgan.data.corpora import anny, lips
from meshgan.data.corpora.basis import FaceBasis, Neutral, face_template
from meshgan.data.corpora.detail import detail
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.eyes import lid_shares
from meshgan.data.corpora.motion import (
    MODES,
    Manner,
    Wrinkles,
    contacts,
    draw_manner,
    gauges,
    motion,
    vertex_areas,
)
from meshgan.data.corpora.population import draw_people

COUNT = 24
NAMES = FaceBasis.read().action_names
TEMPLATE = face_template()
LID = 3.0  # mm from the ball


class Crowd:
    """Some people, at rest, and how they move."""

    def __init__(self):
        draws = Draws(3, "crowd", np.arange(COUNT))
        self.people = draw_people(FaceBasis.read(), draws)
        traits = detail().draw(self.people, draws)
        plain = FaceBasis.read().neutral(self.people.phenotype, self.people.features)
        self.neutral = contacts().settled(detail().applied(plain, traits))
        self.manner = draw_manner(draws, NAMES, (0.6, 0.5, 0.6))
        self.wrinkles = Wrinkles(gauges(), traits.folds)

    def perform(self, actions):
        return motion().perform(self.neutral, actions, self.manner, self.wrinkles, np.ones(COUNT))[0]


@pytest.fixture(scope="module")
def crowd():
    return Crowd()


def acts(strengths=(), **named):
    """Actions (COUNT, A): the same for all, or random ones."""
    actions = np.zeros((COUNT, len(NAMES)))
    for name, value in {**dict(strengths), **named}.items():
        for column, full in enumerate(NAMES):
            if full in (name, f"{name}Left", f"{name}Right"):
                actions[:, column] = value
    return actions


def random_actions(seed, share=0.25, prefix=""):
    rng = np.random.default_rng(seed)
    shape = (COUNT, len(NAMES))
    chosen = np.array([name.startswith(prefix) for name in NAMES]) if prefix else np.ones(len(NAMES), dtype=bool)
    return rng.uniform(0, 1, shape) * (rng.uniform(size=shape) < share) * chosen


def sphere(points):
    """Centre and radius of the sphere of least squares, the slow way."""
    system = np.column_stack([2 * points, np.ones(len(points))])
    solution = np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)[0]
    return solution[:3], np.sqrt(solution[3] + solution[:3] @ solution[:3])


def lids():
    """For each eye of the template: the eyeball, the margin, and the skin of the lids around it."""
    found = []
    for eye in motion().eyes:
        centre, radius = sphere(TEMPLATE.vertices[eye.ball])
        gap = np.linalg.norm(TEMPLATE.vertices - centre, axis=1) - radius
        away = np.linalg.norm(TEMPLATE.vertices[:, None] - TEMPLATE.vertices[eye.margin], axis=2).min(axis=1)
        near = (gap < LID) & (away < 4) & ~np.isin(np.arange(len(gap)), eye.ball)
        found.append((eye.ball, eye.margin, np.flatnonzero(near)))
    return found


LIDS = lids()


def gaps(faces, neutral):
    """Distances of the lids from their balls, after and before: (B, eyes · lids) each."""
    after, before = [], []
    for ball, _, skin in LIDS:
        for face, rest in zip(faces.astype(float), neutral.astype(float), strict=True):
            for points, into in ((face, after), (rest, before)):
                centre, radius = sphere(points[ball])
                into.append(np.linalg.norm(points[skin] - centre, axis=1) - radius)
    return np.concatenate(after), np.concatenate(before)


def assert_lids_lie_on_the_ball(faces, neutral):
    after, before = gaps(faces, neutral)
    assert after.min() > -0.1
    assert (after - before).max() < 0.3
    assert_no_skin_gets_into_the_ball(faces, neutral)


def assert_no_skin_gets_into_the_ball(faces, neutral):
    """Neither what is near the margins nor what brows and cheeks push there and is hardly lid."""
    for eye in motion().eyes:
        skin = np.setdiff1d(np.arange(faces.shape[1]), eye.ball)
        for face, rest in zip(faces.astype(float), neutral.astype(float), strict=True):
            centre, radius = sphere(rest[eye.ball])
            before, after = (np.linalg.norm(points[skin] - centre, axis=1) - radius for points in (rest, face))
            assert after[before > -0.1].min() > -0.1


def lip_surfaces():
    """Triangles of the upper and the lower lip, told apart by what hangs together without the corners."""
    points = TEMPLATE.vertices
    box = (np.abs(points[:, 0]) < 20.5) & (points[:, 1] < -20) & (points[:, 1] > -60) & (points[:, 2] > -5)
    edges = TEMPLATE.edges[box[TEMPLATE.edges].all(axis=1)]
    graph = sp.coo_array((np.ones(len(edges)), edges.T), shape=(len(points),) * 2)
    label = connected_components(graph, directed=False)[1]
    sizes = {part: int((label == part).sum()) for part in np.unique(label[box])}
    two = sorted(sizes, key=lambda part: -sizes[part])[:2]
    two.sort(key=lambda part: -points[label == part, 1].mean())
    level = (points[:, 1] < -28) & (points[:, 1] > -52)
    return [TEMPLATE.triangles[((label == part) & level)[TEMPLATE.triangles].all(axis=1)] for part in two]


LIPS = lip_surfaces()


def heights(face, triangles, places, depths, sign):
    """The lowest (sign 1) or highest (-1) height of triangles over a grid, one triangle at a time."""
    best = np.full((len(places), len(depths)), np.inf)
    for a, b, c in face[triangles].astype(float):
        flat = (b[0] - a[0]) * (c[2] - a[2]) - (c[0] - a[0]) * (b[2] - a[2])
        if abs(flat) < 0.2 * np.linalg.norm(np.cross(b - a, c - a)):
            continue
        (x0, x1), (z0, z1) = (np.sort([a[k], b[k], c[k]])[[0, 2]] for k in (0, 2))
        rows, columns = (slice(*np.searchsorted(grid, ends)) for grid, ends in ((places, (x0, x1)), (depths, (z0, z1))))
        x, z = np.meshgrid(places[rows] - a[0], depths[columns] - a[2], indexing="ij")
        s = (x * (c[2] - a[2]) - (c[0] - a[0]) * z) / flat
        t = ((b[0] - a[0]) * z - x * (b[2] - a[2])) / flat
        height = np.where(
            (s >= 0) & (t >= 0) & (s + t <= 1), sign * (a[1] + s * (b[1] - a[1]) + t * (c[1] - a[1])), np.inf
        )
        best[rows, columns] = np.minimum(best[rows, columns], height)
    return sign * best


def overlap(face):
    """By how much in mm the lower lip reaches into the upper one, at most."""
    points = face[np.unique(np.concatenate(LIPS))]
    places, depths = (np.arange(points[:, k].min(), points[:, k].max(), 0.6) for k in (0, 2))
    upper = heights(face, LIPS[0], places, depths, 1.0)
    lower = heights(face, LIPS[1], places, depths, -1.0)
    return float(np.max(np.where(np.isfinite(upper) & np.isfinite(lower), lower - upper, -np.inf)))


def assert_lips_do_not_overlap(faces, rows):
    assert max(overlap(faces[row]) for row in rows) < 0.2


def test_balls_are_spheres_and_stay_where_they_are(crowd):
    faces = crowd.perform(random_actions(1))
    for ball, margin, _ in LIDS:
        np.testing.assert_array_equal(faces[:, ball], crowd.neutral.vertices[:, ball])
        for face in crowd.neutral.vertices.astype(float):
            centre, radius = sphere(face[ball])
            assert np.abs(np.linalg.norm(face[ball] - centre, axis=1) - radius).max() < 0.001
            assert np.abs(np.linalg.norm(face[margin] - centre, axis=1) - radius).max() < 0.1


@settings(max_examples=5)
@given(st.integers(0, 2**31), st.integers(0, 2**20))
def test_people_of_the_corpus_have_lips_that_meet_and_lids_that_lie_on_the_eye(seed, start):
    with pytest.MonkeyPatch.context() as few:
        few.setattr(anny, "BLOCK", 12)
        faces, _ = anny.identities(FaceBasis.read(), TEMPLATE, seed, start)
    assert_lips_do_not_overlap(faces, range(0, len(faces), 4))
    for ball, margin, skin in LIDS:
        for face in faces.astype(float):
            centre, radius = sphere(face[ball])
            gap = np.linalg.norm(face - centre, axis=1) - radius
            assert np.abs(gap[ball]).max() < 0.001
            assert np.abs(gap[margin]).max() < 0.1
            assert gap[skin].min() > -0.1


@pytest.mark.parametrize("strength", [0, 0.2, 0.4, 0.6, 0.8, 1])
@pytest.mark.parametrize("name", ["eyeBlink", "eyeSquint", "eyeWide", "eyeLookDown"])
def test_lids_roll_on_the_ball_at_every_strength(crowd, name, strength):
    assert_lids_lie_on_the_ball(crowd.perform(acts({name: strength})), crowd.neutral.vertices)


@settings(max_examples=8)
@given(st.integers(0, 2**31))
@example(382001)  # a brow that is drawn down went 0.6 mm into the ball
def test_lids_roll_on_the_ball_whatever_the_rest_of_the_face_does(crowd, seed):
    assert_lids_lie_on_the_ball(crowd.perform(random_actions(seed)), crowd.neutral.vertices)


def test_a_cheek_that_is_raised_far_stays_before_the_ball():
    """Of these people the last one's cheek went 1.5 mm into it: skin that is hardly lid was hardly held back."""
    with pytest.MonkeyPatch.context() as few:
        few.setattr(anny, "BLOCK", 8)
        faces = anny.identities(FaceBasis.read(), TEMPLATE, 77, 120)[0]
    for side in ("Left", "Right"):
        actions = acts({f"cheekSquint{side}": 1.0})[: len(faces)]
        neutral = Neutral(faces, np.zeros((len(faces), 3)))
        moved = motion().perform(neutral, actions, None, None, np.ones(len(faces)))[0]
        assert_no_skin_gets_into_the_ball(moved, faces)


def test_closed_eyes_are_closed(crowd):
    """A full blink brings the margins together: what is left of the opening is what the edges of lids fill."""
    eye = motion().eyes[0]
    openings = []
    for faces in (crowd.neutral.vertices, crowd.perform(acts(eyeBlink=1.0))):
        angle = eye.balls(crowd.neutral.vertices).polar(faces[:, eye.margin].astype(float))[2]
        openings.append((angle @ (eye.upper[eye.edge] - eye.lower[eye.edge]).T).max(axis=1))
    assert (openings[1] < 0.25 * openings[0]).all()


@settings(max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_lids_never_pass_each_other(values):
    names = ("eyeBlink", "eyeSquint", "cheekSquint", "eyeLookDown", "eyeWide", "eyeLookUp")
    strengths = {name: np.array([value]) for name, value in zip(names, values, strict=True)}
    raised, lowered = lid_shares(strengths)
    assert raised[0] + lowered[0] <= 1 + 1e-12
    closed = lid_shares(strengths | {"eyeBlink": np.ones(1)})
    assert sum(closed)[0] == pytest.approx(1)


def test_the_reference_sees_lips_that_overlap(crowd):
    """Plain sums let them."""
    faces = FaceBasis.read().perform(crowd.neutral, acts(mouthPress=1.0))
    assert min(overlap(face) for face in faces[:4]) > 0.5


@pytest.mark.parametrize(
    "strengths",
    [
        {},
        {"mouthPress": 1.0},
        {"mouthPucker": 1.0},
        {"mouthFunnel": 1.0},
        {"mouthRollLower": 1.0, "mouthRollUpper": 1.0},
        {"jawOpen": 0.5, "mouthClose": 1.0},
        {"mouthClose": 1.0},
        {"mouthShrugLower": 1.0, "mouthSmile": 1.0},
        {"jawLeft": 1.0, "mouthShrugLower": 1.0, "mouthPress": 0.5},
    ],
)
def test_lips_press_and_do_not_pass(crowd, strengths):
    assert_lips_do_not_overlap(crowd.perform(acts(strengths)), range(0, COUNT, 6))


@settings(max_examples=4)
@given(st.integers(0, 2**31))
@example(6415)  # a mouth of 65 mm, whose corners were not looked at
def test_lips_do_not_pass_in_any_combination(crowd, seed):
    assert_lips_do_not_overlap(crowd.perform(random_actions(seed)), range(0, COUNT, 6))


def test_lips_do_not_pass_where_they_are_narrow(crowd):
    """Here they overlapped in a strip of 0.2 mm, between the places that were looked at."""
    assert_lips_do_not_overlap(crowd.perform(random_actions(14)), [20])


def test_the_widest_mouth_is_looked_at_from_corner_to_corner(crowd):
    faces = crowd.perform(acts(mouthStretch=1.0, mouthSmile=1.0, mouthDimple=1.0))
    points = faces[:, np.unique(np.concatenate(LIPS))]
    width, depth = np.ptp(points[..., 0], axis=1).max(), np.ptp(points[..., 2], axis=1).max()
    assert width > 70
    assert width < lips.PLACES * lips.STEP_MM - 4
    assert depth < lips.DEPTHS * lips.STEP_MM - 4


def test_lips_are_compiled_for_one_layout(monkeypatch):
    """Compiling takes seconds for each: few faces and many, alone or sliced, come as the same kinds of arrays."""
    seen, compute = set(), lips._part

    def noted(*arrays):
        seen.add(tuple((array.dtype.str, array.flags.c_contiguous, array.flags.writeable) for array in arrays))
        compute(*arrays)

    monkeypatch.setattr(lips, "_part", noted)
    face = face_template().vertices.astype(np.float32)
    for count in (1, 2, 5):
        faces = np.repeat(face[None], count, axis=0)
        for given_ in (faces, faces.transpose(1, 0, 2).copy().transpose(1, 0, 2)):
            contacts().lips.part(given_)
    assert len(seen) == 1 and all(contiguous for _, contiguous, _ in seen.pop())


def test_lips_are_sealed_over_an_open_jaw(crowd):
    middle = slice(44, 64)
    contacts = [motion().lips.contact(crowd.perform(acts(jawOpen=0.3, mouthClose=value))) for value in (0.0, 1.0)]
    opened, closed = (np.median(contact.gap[:, middle], axis=1) for contact in contacts)
    above = (opened < 100) & (closed < 100)  # elsewhere the jaw has drawn the lower lip back
    assert above.mean() > 0.5
    assert (closed[above] < 0.8 * opened[above]).all()
    assert np.median((closed / opened)[above]) < 0.5
    assert (closed > -0.1).all()


def test_a_face_at_rest_stays_as_it_is(crowd):
    faces = crowd.perform(acts())
    np.testing.assert_allclose(faces, crowd.neutral.vertices, atol=1e-3)


def test_wrinkles_deepen_with_age_where_the_skin_is_squeezed(crowd):
    """The same brows raised on the same faces: the folds of the old are deeper, and come on the forehead alone."""
    lines = crowd.wrinkles.folds.lines
    smooth = replace(crowd.wrinkles.folds, capacity=np.zeros_like(crowd.wrinkles.folds.capacity))
    raised = acts(browInnerUp=1.0, browOuterUp=1.0)
    faces = crowd.perform(raised)
    bare, _ = motion().perform(crowd.neutral, raised, crowd.manner, Wrinkles(gauges(), smooth), np.ones(COUNT))
    depth = np.linalg.norm(faces - bare, axis=2)
    forehead = np.unique(
        lines.vertex[np.isin(lines.fold, [i for i, name in enumerate(lines.names) if "forehead" in name])]
    )
    deepest = depth[:, forehead].max(axis=1)
    assert np.median(deepest) > 0.3
    capacity = crowd.wrinkles.folds.capacity[:, :4].max(axis=1)
    assert (deepest < 0.8 * capacity + 0.1).all()
    child, old = (np.full((1, len(lines.names)), value) for value in (0.3, 1.2))
    one = crowd.wrinkles.folds.of(np.zeros(1, dtype=int))
    heights = []
    for size in (child, old):
        face = crowd.neutral.vertices[:1] * np.array([1, 0.9, 1], dtype=np.float32)
        before = face.copy()
        Wrinkles(gauges(), replace(one, capacity=size)).add(crowd.neutral.vertices[:1], face)
        heights.append(np.linalg.norm(face - before, axis=2).max())
    assert heights[1] > 3 * heights[0]
    assert depth[:, TEMPLATE.vertices[:, 1] < -5].max() < 0.05


def test_gauges_measure_how_much_skin_shrinks():
    """A template that is flattened in height: folds across the height are squeezed by as much."""
    squeezed = TEMPLATE.vertices * [1, 0.8, 1]
    found = gauges().stretch(TEMPLATE.vertices[None].astype(np.float32), squeezed[None].astype(np.float32))[:, 0]
    lines = gauges().lines
    count = len(found) // len(lines.names)
    for name, low, high in (("forehead_2", 0.78, 0.92), ("frown_1", 0.93, 1.001)):
        for column in lines.column(name):
            own = found[column * count : (column + 1) * count]
            assert own.min() > low
            assert own.max() < high


def test_skin_bulges_where_it_is_squeezed():
    """What loses area moves outwards."""
    height = TEMPLATE.vertices[:, 1]
    patch = np.exp(-(((TEMPLATE.vertices - [-42, -5, 5]) / 14.0) ** 2).sum(axis=1))
    squeezed = TEMPLATE.vertices.copy()
    squeezed[:, 1] = height - 0.35 * patch * (height + 5)
    faces = squeezed[None].astype(np.float32)
    rest = vertex_areas(TEMPLATE.vertices[None].astype(np.float32), motion().triangles)
    motion()._bulge(faces, rest, np.ones(1))
    out = ((faces[0] - squeezed) * TEMPLATE.vertex_normals).sum(axis=1)
    assert out[patch > 0.8].min() > 0.3
    assert np.abs(out[patch < 1e-4]).max() < 0.05


def test_everybody_has_an_own_manner(crowd):
    smile = acts(mouthSmile=0.8)
    same = Manner(np.zeros((COUNT, len(NAMES), MODES), np.float32), np.zeros((COUNT, len(NAMES), MODES), np.float32))
    usual, _ = motion().perform(crowd.neutral, smile, same, crowd.wrinkles, np.ones(COUNT))
    difference = np.linalg.norm(crowd.perform(smile) - usual, axis=2)
    moved = np.linalg.norm(usual - crowd.neutral.vertices, axis=2)
    assert (difference.mean(axis=1) > 0.03 * moved.mean(axis=1)).all()
    assert (difference.mean(axis=1) < 0.6 * moved.mean(axis=1)).all()
