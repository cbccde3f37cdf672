"""The face basis, template and landmarks that ship with the package."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.data.corpora.basis import (
    ANCESTRIES,
    ASSETS,
    CLOSED_MM,
    FaceBasis,
    Neutral,
    Phenotype,
    average_adult,
    face_template,
)
from meshgan.geometry.align import rigid

MIB = 1024 * 1024


@cache
def shipped():
    return FaceBasis.read()


@pytest.fixture(scope="module")
def basis():
    return shipped()


@pytest.fixture(scope="module")
def template():
    return face_template()


@pytest.fixture(scope="module")
def adult(basis):
    return basis.neutral(average_adult(), np.zeros((1, len(basis.feature_names))))


def person(basis, age=25.0, female=0.5, muscle=0.5, weight=0.5, ancestry=(1 / 3, 1 / 3, 1 / 3)):
    one = [np.array([float(x)]) for x in (age, female, muscle, weight)]
    return Phenotype(*one, np.array([ancestry], dtype=float))


def test_the_assets_are_small():
    sizes = [path.stat().st_size for path in ASSETS.iterdir()]
    assert sum(sizes) <= 12 * MIB


def test_the_template_is_one_clean_surface(template):
    assert len(template.vertices) == 5036
    assert template.components.max() == 0
    edges = np.sort(template.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert np.unique(edges, axis=0, return_counts=True)[1].max() == 2
    assert len(np.unique(template.triangles)) == 5036
    holes = len(template.vertices) - len(template.edges) + len(template.triangles)
    assert holes == 0  # Euler: a disc with one hole, the mouth; the eyes are closed
    ends = np.bincount(template.boundary_edges.ravel())
    assert set(ends[ends > 0]) == {2}


def test_the_template_looks_along_z_in_millimetres(template):
    width, height, depth = np.ptp(template.vertices, axis=0)
    assert 120 < width < 150
    assert 170 < height < 210
    assert 70 < depth < 110
    centroid = template.areas @ template.vertices[template.triangles].mean(axis=1) / template.areas.sum()
    np.testing.assert_allclose(centroid, 0, atol=1e-3)
    nose = template.vertices[template.vertices[:, 2].argmax()]
    assert abs(nose[0]) < 1
    assert template.vertex_normals[template.vertices[:, 2].argmax(), 2] > 0.5


def test_the_template_is_symmetric(template):
    with (ASSETS / "face_basis.npz").open("rb") as stream:
        mirror = np.load(stream, allow_pickle=False)["mirror"].astype(int)
    np.testing.assert_array_equal(mirror[mirror], np.arange(5036))
    np.testing.assert_allclose(template.vertices[mirror] * [-1, 1, 1], template.vertices, atol=0.02)
    triangles = {tuple(sorted(t)) for t in template.triangles.tolist()}
    assert {tuple(sorted(t)) for t in mirror[template.triangles].tolist()} == triangles


def test_triangles_are_regular(template):
    corners = template.vertices[template.triangles]
    squares = sum(((corners[:, i] - corners[:, i - 1]) ** 2).sum(axis=1) for i in range(3))
    quality = 4 * np.sqrt(3) * template.areas / squares
    assert quality.min() > 0.1
    assert np.median(quality) > 0.75


def test_landmarks_lie_where_their_names_say(template):
    marks = json.loads((ASSETS / "face_landmarks.json").read_text())
    names = [mark["name"] for mark in marks]
    assert len(set(names)) == len(names) == 79
    points = {m["name"]: np.array(m["weights"]) @ template.vertices[m["vertices"]] for m in marks}
    assert all(abs(sum(m["weights"]) - 1) < 1e-5 and min(m["weights"]) >= 0 for m in marks)
    assert names.index("jaw_8") == 8
    assert names.index("nose_tip") == 30
    assert names.index("outer_lips_0") == 48
    assert points["right_eye_0"][0] < points["right_eye_3"][0] < 0 < points["left_eye_0"][0] < points["left_eye_3"][0]
    assert points["jaw_0"][0] < -50
    assert points["jaw_16"][0] > 50
    order = ["forehead", "nose_ridge_0", "nose_tip", "nose_base_2", "outer_lips_3", "outer_lips_9", "chin_tip", "jaw_8"]
    heights = [points[name][1] for name in order]
    assert heights == sorted(heights, reverse=True)
    assert points["nose_tip"][2] == pytest.approx(template.vertices[:, 2].max(), abs=0.5)
    for left, right in (("left_eye_1", "right_eye_2"), ("jaw_3", "jaw_13"), ("cheek_left", "cheek_right")):
        np.testing.assert_allclose(points[left] * [-1, 1, 1], points[right], atol=0.02)


def test_the_average_adult_is_the_template(adult, template):
    difference = adult.vertices[0] - template.vertices
    np.testing.assert_allclose(difference - difference.mean(axis=0), 0, atol=1e-3)


def test_stored_steps_are_fine_enough(basis):
    with (ASSETS / "face_basis.npz").open("rb") as stream:
        arrays = np.load(stream, allow_pickle=False)
        step = float(arrays["step_mm"])
        assert step / 2 * np.sqrt(3) < 0.005  # the farthest that a vertex of a shape can be off
        for name in ("phenotypes", "features", "actions"):
            assert arrays[name].dtype == np.int16
            assert np.abs(arrays[name].astype(int)).max() < 32767
        provenance = json.loads(str(arrays["provenance"]))
    assert provenance["licence"] == "CC0-1.0"
    assert basis.phenotypes.dtype == np.float32


@given(
    age=st.floats(-20, 120), female=st.floats(0, 1), muscle=st.floats(0, 1), weight=st.floats(0, 1),
    share=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=50)
def test_phenotype_weights_share_one(age, female, muscle, weight, share):
    basis = shipped()
    weights = basis.phenotype_weights(person(basis, age, female, muscle, weight, (share, 1 - share, 0)))[0]
    of_ancestry = np.array([name.split("-")[0] in ANCESTRIES for name in basis.phenotype_names])
    assert weights.min() >= 0
    assert weights[of_ancestry].sum() == pytest.approx(1)
    assert weights[~of_ancestry].sum() == pytest.approx(1)


def test_a_pure_phenotype_has_two_shapes(basis):
    weights = basis.phenotype_weights(person(basis, 88, 1, 1, 0, (0, 1, 0)))[0]
    names = {basis.phenotype_names[i] for i in np.flatnonzero(weights)}
    assert names == {"asian-female-old", "female-old-maxmuscle-minweight"}


def test_features_are_signed(basis):
    column = basis.feature_names.index("nose-hump-incr")
    up, down = basis.feature_shapes[column]
    values = np.zeros((2, len(basis.feature_names)))
    values[:, column] = 0.5, -0.25
    weights = basis.feature_weights(values)
    assert weights[0, up] == 0.5
    assert weights[1, down] == 0.25
    assert np.count_nonzero(weights) == 2


def test_lips_are_closed_whatever_they_are_like(basis):
    values = np.random.default_rng(0).normal(0, 0.25, (20, len(basis.feature_names)))
    everyone = Phenotype(*[np.repeat(x, 20, axis=0) for x in vars(average_adult()).values()])
    faces = basis.neutral(everyone, values).vertices
    points = (faces[:, basis.lips] * basis.lip_weights[..., None]).sum(axis=-2)
    gaps = (points[:, :, 0, 1] - points[:, :, 1, 1]).mean(axis=1)
    np.testing.assert_allclose(gaps, CLOSED_MM, atol=0.15)
    apart = basis.perform(Neutral(faces, np.zeros((20, 3), np.float32)), np.eye(52)[[24] * 20])
    assert np.linalg.norm(apart - faces, axis=2).max() > 20  # jawOpen does open


def test_the_jaw_is_rigid_where_it_is_all_jaw(basis, adult):
    assert basis.action_names[24] == "jawOpen"
    chin = np.flatnonzero(basis.jaw_weights > 0.9999)
    head = np.flatnonzero(basis.jaw_weights == 0)
    assert len(chin) > 100
    for amount in (0.3, 0.7, 1.0):
        opened = basis.perform(adult, amount * np.eye(52)[[24]])[0]
        before, after = adult.vertices[0, chin].astype(float), opened[chin].astype(float)
        motion = rigid(before[None], after)
        np.testing.assert_allclose(motion(before[None])[0], after, atol=5e-3)
        angle = np.arccos((np.trace(motion.rotation[0]) - 1) / 2)
        assert angle == pytest.approx(amount * np.linalg.norm(basis.jaw_motions[24, :3]), rel=1e-3)
        shapes = amount * basis.actions[24, head]
        np.testing.assert_allclose(opened[head] - adult.vertices[0, head], shapes, atol=1e-4)


def test_the_jaw_turns_on_an_arc(basis, adult):
    half, whole = (basis.perform(adult, a * np.eye(52)[[24]])[0] - adult.vertices[0] for a in (0.5, 1.0))
    chin = basis.jaw_weights > 0.9999
    assert np.linalg.norm(half - whole / 2, axis=1)[chin].mean() > 0.3  # a linear blend would be a chord


def test_eyeballs_stay_when_eyes_look(basis):
    looks = [i for i, name in enumerate(basis.action_names) if name.startswith("eyeLook")]
    assert np.linalg.norm(basis.actions[looks], axis=2).max() < 6


def test_small_faces_move_less(basis, adult):
    smile = np.eye(52)[[basis.action_names.index("mouthSmileLeft")]]
    full, small = (basis.perform(adult, smile, scale) - adult.vertices for scale in (1.0, 0.8))
    np.testing.assert_allclose(small, 0.8 * full, atol=1e-4)
