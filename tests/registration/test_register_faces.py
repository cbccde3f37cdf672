"""From a scan to a registration: fake scans whose truth is known, real ones if at hand, and what is no scan at all."""

import importlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from meshgan.data.corpora.basis import FaceBasis, face_basis
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.motion import contacts, motion
from meshgan.data.corpora.population import draw_people
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.files import read_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface
from meshgan.registration import fake_scans, finding, templates
from meshgan.registration import register as module
from meshgan.registration.colours import ScanColours
from meshgan.registration.fake_scans import corpus_people, fake_scan, plain_people, scan_of_kind
from meshgan.registration.finding import degrees_between, find_face
from meshgan.registration.landmarks import Detector, Landmarks, available, read_landmarks
from meshgan.registration.nricp import folded
from meshgan.registration.prior import Anchors, fit
from meshgan.registration.quality import Quality, judge, measure, scan_distances, stranger
from meshgan.registration.register import Sighting, fit_model, register
from meshgan.registration.scan import Scene, calmed, cleaned
from meshgan.registration.templates import OWN, adopted, default_template

SCANS = Path(__file__).parents[2] / ".." / "shared" / "data" / "scans"
needs_detector = pytest.mark.skipif(not available(), reason="needs the extra [landmarks]")
needs_scans = pytest.mark.skipif(not SCANS.is_dir(), reason="the real scans are not at hand")


@pytest.fixture(scope="module")
def template():
    return default_template()


@pytest.fixture(scope="module")
def faces():
    return plain_people(3, "tests")


@pytest.fixture(scope="module")
def scanned(template, faces):
    """A face of the corpus as a scan, and where each of its vertices truly lies in it."""
    scan = fake_scan(template.mesh.with_vertices(faces[0]), np.random.default_rng(5))
    return scan.mesh, scan.pose(faces[0].astype(np.float64))


def marked(template, truth, index=range(17, 79)):
    index = np.array(list(index))
    return Landmarks(index, template.landmark_rows[index] @ truth)


def errors(result, truth):
    return np.linalg.norm(result.to_scan(result.vertices) - truth, axis=1)


@pytest.mark.parametrize("name", ["face_prior", "detector_points"])
def test_the_assets_are_what_the_tool_makes_of_the_corpus(name, monkeypatch):
    """If this fails, the corpus, the tool or the asset has changed: run tools/build_registration_assets.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    tool = importlib.import_module("build_registration_assets")
    with np.load(OWN / f"{name}.npz", allow_pickle=False) as asset:
        arrays = {key: asset[key] for key in asset.files}
    made = str(arrays.pop("fingerprint"))
    assert made == tool.fingerprint(arrays)
    assert np.abs(arrays["witness"] - tool.witness()).max() < 0.002  # mm
    monkeypatch.setattr(tool, "SEED", tool.SEED + 1)
    assert np.abs(arrays["witness"] - tool.witness()).max() > 1.0
    assert made != tool.fingerprint(arrays)


def test_the_model_spans_faces_it_has_not_seen(template, faces):
    basis = template.prior.basis.transpose(1, 2, 0).reshape(template.prior.basis.shape[1], -1)
    away = (faces - template.prior.mean).reshape(len(faces), -1).astype(np.float32)
    residual = away - (np.linalg.lstsq(basis.T, away.T, rcond=None)[0].T @ basis)
    assert np.linalg.norm(residual.reshape(-1, 3), axis=1).mean() < 0.25
    assert np.linalg.norm(away.reshape(-1, 3), axis=1).mean() > 2.0


@pytest.mark.parametrize("closed", [0.0, 1.0])
def test_lids_are_found_closed_where_they_are(template, closed):
    """Landmarks of nose and mouth say where the face is, and of the eyes nothing: the surface has to."""
    basis, people = face_basis(), draw_people(face_basis(), Draws(0, "asleep", np.arange(1)), plain=True)
    rest = basis.neutral(people.phenotype, people.features)
    blink = closed * np.array([[name.startswith("eyeBlink") for name in basis.action_names]])
    face = motion().perform(rest, blink, None, None, np.ones(1))[0][0].astype(np.float64)
    opening = [np.linalg.norm((template.landmark_rows[[37, 44]] - template.landmark_rows[[41, 46]]) @ rest.vertices[0])]
    marks = Landmarks(np.r_[27:36, 48:68], template.landmark_rows[np.r_[27:36, 48:68]] @ face)
    anchors = Anchors(template.landmark_rows[marks.index], marks.points, np.full(len(marks.index), 1.0))
    surface = Surface(template.mesh.with_vertices(face))
    fitted = fit_model(Sighting(Similarity(1.0, np.eye(3), np.zeros(3)), anchors, marks), surface, template).vertices
    opening.append(np.linalg.norm((template.landmark_rows[[37, 44]] - template.landmark_rows[[41, 46]]) @ fitted))
    share = opening[1] / opening[0]
    assert share < 0.35 if closed else 0.8 < share < 1.2


@pytest.mark.parametrize("small", [False, True])
def test_landmarks_keep_their_share_when_all_vertices_draw(template, small, monkeypatch):
    """Four times as many draw, unless the template is so small that all of them did before."""
    template, said = replace(template), []
    if small:
        vars(template)["sparse"] = template.drawn
    fitted = module.fit

    def noted(*given, **options):
        said.extend(step.say for steps in given if isinstance(steps, tuple) for step in steps)
        return fitted(*given, **options)

    monkeypatch.setattr(module, "fit", noted)
    rows = template.landmark_rows[27:68]
    anchors = Anchors(rows, rows @ template.prior.mean, np.ones(41))
    marks = Landmarks(np.arange(27, 68), anchors.targets)
    surface = Surface(template.mesh.with_vertices(template.prior.mean))
    fit_model(Sighting(Similarity.none(), anchors, marks), surface, template)
    *before, last = said
    assert set(before) == {1.0}
    assert last == (1.0 if small else len(template.mesh.vertices) / len(template.sparse.vertices))
    assert small or last > 3.9


def test_a_mouth_is_found_wide_open_where_it_is(template):
    """Landmarks of nose and eyes alone: what the model is nearest to at first is a mouth that is hardly open."""
    face = template.prior.mean + template.opening()
    index = np.arange(27, 48)
    anchors = Anchors(template.landmark_rows[index], template.landmark_rows[index] @ face, np.ones(len(index)))
    marks = Landmarks(index, anchors.targets)
    surface, start = Surface(template.mesh.with_vertices(face)), Similarity.none()
    fitted = fit_model(Sighting(start, anchors, marks), surface, template).vertices
    assert np.linalg.norm(fitted - face, axis=1).mean() < 1.0
    chin = template.landmark_rows[[8, 57, 66]]
    assert np.linalg.norm(chin @ (template.prior.mean - face), axis=1).min() > 20
    assert np.linalg.norm(chin @ (fitted - face), axis=1).max() < 4.0


def test_a_mouth_is_found_wide_open_that_the_detector_sees_closed(template):
    """Its points of lips and chin lie where those of a closed mouth would: the surface below has the last word."""
    move = template.opening()
    face = template.prior.mean + 1.3 * move
    index = np.r_[4:13, 27:68]
    rows = template.landmark_rows[index]
    anchors = Anchors(rows, rows @ (template.prior.mean + 0.1 * move), np.full(len(index), 3.0), found=True)
    surface = Surface(template.mesh.with_vertices(face))
    marks = Landmarks(index, anchors.targets)
    fitted = fit_model(Sighting(Similarity.none(), anchors, marks), surface, template).vertices
    assert np.linalg.norm(fitted - face, axis=1)[template.inside].mean() < 1.5
    assert np.linalg.norm(template.landmark_rows[[8, 57, 66]] @ (fitted - face), axis=1).max() < 5.0


def test_the_surface_finds_a_jaw_that_nearest_points_lose(template):
    """Nobody whom the model knows, a jaw 35 mm down, seen as skin alone, and landmarks as if the mouth were closed."""
    known, move = template.prior, np.linalg.norm(template.opening(), axis=1)
    person = known.mean + np.einsum(
        "ckv,k->vc", known.basis, np.random.default_rng(1).normal(size=known.basis.shape[1])
    )
    face = person + (move / move.max())[:, None] * [0.0, -35.0, -5.0]
    skin = template.mesh.triangles[template.inside[template.mesh.triangles].all(axis=1)]
    surface, chosen = Surface(Mesh(face, skin)), template.sparse.vertices
    index = np.r_[4:13, 27:68]
    rows = template.landmark_rows[index]
    anchors = Anchors(rows, rows @ person, np.full(len(index), 3.0), found=True)
    sighting = Sighting(Similarity.none(), anchors, Landmarks(index, anchors.targets))
    seen = module._lower(sighting, surface, template)
    missed = []
    for meeting in (None, partial(template.sparse.met, surface=surface, seen=seen, able=template.lower[chosen])):
        pull = partial(template.sparse.pull, surface=surface)
        found = fit(template.wide, anchors, sighting.pose, pull, module.FREE, module.OPENED, chosen, meeting)
        missed.append(np.linalg.norm(found.vertices - face, axis=1)[template.lower & template.inside].mean())
    assert missed[0] > 5
    assert missed[1] < 3


def test_a_surface_meets_the_nearest_vertices_that_are_able_and_face_alike(template):
    rng = np.random.default_rng(5)
    scan = template.mesh.with_vertices(template.mesh.vertices + rng.normal(0, 3.0, (1, 3)))
    seen, able = np.arange(0, len(scan.vertices), 7), template.lower[template.sparse.vertices]
    points = template.mesh.vertices[template.sparse.vertices]
    met = template.sparse.met(points, Surface(scan), seen, able)
    away = np.linalg.norm(scan.vertices[seen][:, None] - points[None], axis=2)
    alike = np.einsum("sc,sc->s", template.sparse.normals(points)[away.argmin(1)], scan.vertex_normals[seen]) > 0.5
    kept = alike & able[away.argmin(1)]
    assert 50 < kept.sum() < len(seen)
    np.testing.assert_array_equal(met.vertices, away.argmin(1)[kept])
    np.testing.assert_allclose(met.distance, away.min(1)[kept])
    np.testing.assert_array_equal(met.points, scan.vertices[seen[kept]])


def test_eyeballs_and_inside_are_where_they_should_be(template):
    middle = template.mesh.vertices[template.eyeballs]
    assert 50 < template.eyeballs.sum() < 500
    assert np.abs(np.abs(middle[:, 0]) - 32).max() < 20
    tip = template.landmark_rows[30] @ template.mesh.vertices
    nearest = np.linalg.norm(template.mesh.vertices - tip, axis=1).argmin()
    assert template.inside[nearest]
    assert not template.inside[template.mesh.boundary_vertices].all()
    assert 0.6 < template.inside.mean() < 0.97


@needs_detector
def test_a_fake_scan_in_any_orientation_is_brought_into_correspondence(template, scanned):
    mesh, truth = scanned
    states = []
    result = register(mesh, template, watch=states.append)
    error = errors(result, truth)
    assert error.mean() < 1.2
    assert np.percentile(error, 95) < 2.8
    quality = measure(result, template)
    assert quality.median_mm < 0.3
    assert quality.folded <= 0.001
    assert judge(quality)[0] == "good"
    assert len(states) == 10
    assert (
        np.linalg.norm(
            truth - truth.mean(axis=0) - (template.mesh.vertices - template.mesh.vertices.mean(axis=0)), axis=1
        ).mean()
        > 30
    )


def test_given_landmarks_do_without_the_detector(template, scanned, monkeypatch):
    mesh, truth = scanned
    monkeypatch.setattr(module, "available", lambda: False)
    with pytest.raises(UsageError, match=r"\[landmarks\].*`landmarks`"):
        register(mesh, template)
    few = [30, 36, 45, 48, 54, 8]
    result = register(mesh, template, marked(template, truth, few))
    assert errors(result, truth).mean() < 1.5
    assert result.landmarks.index.tolist() == few
    better = register(mesh, template, marked(template, truth))
    assert errors(better, truth).mean() < 1.0


def test_wrong_units_are_told_and_unknown_ones_estimated(template, scanned):
    mesh, truth = scanned
    metres = mesh.with_vertices(mesh.vertices / 1000)
    with pytest.raises(MeshganError, match="`unit='m'` would fit"):
        register(metres, template, marked(template, truth / 1000), "mm")
    odd = mesh.with_vertices(mesh.vertices * 0.0371)
    with pytest.raises(MeshganError, match="`unit='auto'`"):
        register(odd, template, marked(template, truth * 0.0371), "mm")
    glb = mesh.with_vertices(mesh.vertices * 1000)  # a GLB whose numbers are millimetres
    with pytest.raises(MeshganError, match=r"as every GLB is; .* PLY or OBJ .* `unit='auto'`"):
        register(glb, template, marked(template, truth * 1000), "glb")
    result = register(odd, template, marked(template, truth * 0.0371), "auto")
    assert errors(result, truth * 0.0371).mean() < 1.0 * 0.0371
    assert 55 < measure(result, template).interocular_mm < 70


@pytest.mark.parametrize("damage", ["inside out", "soup", "disorder", "shoulders"])
def test_damaged_meshes_give_the_same_face(template, scanned, damage):
    mesh, truth = scanned
    rng = np.random.default_rng(0)
    vertices, triangles = mesh.vertices, mesh.triangles
    if damage == "inside out":
        mesh = Mesh(vertices, triangles[:, ::-1])
    elif damage == "soup":
        mesh = Mesh(vertices[triangles].reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3))
    elif damage == "disorder":
        mesh = Mesh(vertices, np.where(rng.random((len(triangles), 1)) < 0.5, triangles, triangles[:, ::-1]))
    else:
        body = trimesh.creation.icosphere(4, radius=180.0)
        chin = (template.landmark_rows[[8]] @ truth)[0]
        below = truth.mean(axis=0) + 260 * (chin - truth.mean(axis=0)) / 90
        mesh = Mesh(
            np.concatenate([vertices, body.vertices + below]), np.concatenate([triangles, body.faces + len(vertices)])
        )
    result = register(mesh, template, marked(template, truth))
    assert errors(result, truth).mean() < 1.0


def turned_inside_out(mesh, truth, template):
    return Mesh(mesh.vertices, mesh.triangles[:, ::-1]), "mm", 1.0


def noisy(mesh, truth, template):
    noise = np.random.default_rng(0).normal(size=mesh.vertices.shape)
    return mesh.with_vertices(mesh.vertices + noise), "mm", 1.0


def tiny(mesh, truth, template):
    return mesh.with_vertices(mesh.vertices * 1e-14), "auto", 1e-14


def huge(mesh, truth, template):
    return mesh.with_vertices(mesh.vertices * 1e5), "auto", 1e5


def without_forehead(mesh, truth, template):
    marks = template.landmark_rows @ truth
    up = marks[27] - marks[8]
    low = (mesh.vertices - marks[27]) @ up < 18 * np.linalg.norm(up)
    return Mesh(mesh.vertices, mesh.triangles[low[mesh.triangles].all(axis=1)]), "mm", 1.0


def on_a_body(mesh, truth, template):
    marks = template.landmark_rows @ truth
    up = (marks[27] - marks[8]) / np.linalg.norm(marks[27] - marks[8])
    right = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    right /= np.linalg.norm(right)
    body = trimesh.creation.capsule(height=1000, radius=150).subdivide()
    turn = np.stack([right, np.cross(up, right), up])
    below = (body.vertices - body.vertices.mean(axis=0)) @ turn + truth.mean(axis=0) - 800 * up
    triangles = np.concatenate([mesh.triangles, body.faces + len(mesh.vertices)])
    return Mesh(np.concatenate([mesh.vertices, below]), triangles), "mm", 1.0


KINDS = [turned_inside_out, noisy, tiny, huge, without_forehead, on_a_body]


@needs_detector
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in KINDS[2:])) for k in KINDS])
def test_kinds_of_scans_that_are_easily_misread(template, scanned, kind):
    mesh, truth = scanned
    changed, unit, scale = kind(mesh, truth, template)
    result = register(changed, template, unit=unit)
    verdict, reason = judge(measure(result, template))
    assert verdict == ("check" if kind is noisy else "good"), reason
    error = np.linalg.norm(result.to_scan(result.vertices) - scale * truth, axis=1).mean()
    assert error < 1.5 * scale


def test_noise_is_smoothed_away_at_cracks_and_borders_too():
    """A plane of 2 mm with noise of 1 mm, a tenth of whose triangles are missing."""
    rng, side = np.random.default_rng(0), 60
    places = np.arange(side * side).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (places[:-1, :-1], places[:-1, 1:], places[1:, :-1], places[1:, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], axis=1), np.stack([b, d, c], axis=1)])
    flat = 2.0 * np.stack([*np.divmod(np.arange(side * side), side), np.zeros(side * side)], axis=1)
    cracked = cleaned(Mesh(flat, triangles[rng.random(len(triangles)) < 0.9]))
    rough = cracked.with_vertices(cracked.vertices + rng.normal(size=cracked.vertices.shape))
    calm = calmed(rough).vertices
    away = np.abs(calm[:, 2])
    assert np.sqrt((away**2).mean()) < 0.45
    assert np.quantile(away, 0.99) < 1.2  # of the noise, it is 2.6
    assert abs(np.ptp(calm, axis=0)[:2] - np.ptp(flat, axis=0)[:2]).max() < 4.0
    slight = cracked.with_vertices(cracked.vertices + 0.1 * rng.normal(size=cracked.vertices.shape))
    assert calmed(slight) is slight


@needs_detector
@pytest.mark.parametrize(
    ("unit", "scale", "advice"),
    [("m", 1e3, "`unit='mm'`"), pytest.param("mm", 1e-12, "`unit='auto'`", marks=pytest.mark.slow)],
)
def test_a_wrong_unit_is_told_with_the_one_that_fits_also_without_landmarks(template, scanned, unit, scale, advice):
    mesh, _ = scanned
    with pytest.raises(MeshganError, match=advice):
        register(mesh.with_vertices(mesh.vertices * scale), template, unit=unit)


def test_a_feature_without_landmarks_wants_a_look(template, scanned):
    mesh, truth = scanned
    result = register(mesh, template, marked(template, truth, range(17, 48)))
    verdict, reason = judge(measure(result, template))
    assert verdict == "check"
    assert "no landmark was found of the mouth" in reason


def behind_a_tube(mesh, template, truth, touching):
    """The scan, turned upright, with a tube before the mouth: nothing is seen of what lies behind it."""
    back = rigid(truth, template.mesh.vertices)
    face, marks = back(mesh.vertices), template.landmark_rows[48:68] @ back(truth)
    radius, x, y = 16.0, *marks.mean(axis=0)[:2]
    tube = trimesh.creation.cylinder(radius, 110.0, sections=48).subdivide().subdivide().subdivide()
    ahead = marks[:, 2].max() + radius + (0.0 if touching else 12.0)
    tube = tube.vertices[:, [2, 1, 0]] * [1.0, 1.0, -1.0] + [x, y, ahead], tube.faces
    hidden = (np.abs(face[:, 1] - y) < radius) & (np.abs(face[:, 0] - x) < 55.0)
    kept = mesh.triangles[~hidden[mesh.triangles].any(axis=1)]
    both = np.concatenate([kept, tube[1] + len(face)])
    return Mesh(np.concatenate([face, tube[0]]), both), back(truth)


@needs_detector
@pytest.mark.parametrize("touching", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_is_before_the_mouth_wants_a_look_and_pulls_nothing(template, scanned, touching):
    mesh, truth = behind_a_tube(scanned[0], template, scanned[1], touching)
    result = register(mesh, template)
    verdict, reason = judge(measure(result, template))
    assert verdict == "check"
    assert "mouth" in reason
    error = errors(result, truth)
    mouth = template.landmark_rows[48:68] @ template.mesh.vertices
    beside = np.abs(template.mesh.vertices[:, 1] - mouth[:, 1].mean()) > 25.0
    assert error[beside].mean() < 1.0
    assert error.mean() < 1.5


@needs_detector
def test_points_on_something_before_the_face_are_not_found(template, scanned):
    mesh, truth = behind_a_tube(scanned[0], template, scanned[1], touching=True)
    scene, frame = Scene(mesh, 1), finding.frontal_frame(Similarity.none(), template)
    with Detector() as detector:
        any_at_all, on_face = (finding.detect(scene, detector, frame, known) for known in (None, template))
    away = [
        Surface(template.mesh.with_vertices(truth)).closest(one.points[one.found]).distance
        for one in (any_at_all, on_face)
    ]
    assert (away[0] > 20).sum() > 5
    assert (away[1] > 20).sum() == 0
    assert len(away[1]) > 100


SOUND = Quality(
    median_mm=0.15, p95_mm=0.5, landmark_mm=2.0, feature_mm=3.0, coverage=0.95, gap_mm2=90.0, folded=0.0,
    interocular_mm=60.0, feature="left eye",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, "good", ""),
        ({"feature_mm": 7.0}, "check", "left eye is missed by 7.0 mm"),
        ({"feature_mm": 40.0, "landmark_mm": 22.0}, "check", "left eye is missed by 40.0 mm"),
        ({"feature_mm": 40.0, "gap_mm2": 423.0}, "check", "left eye is missed by 40.0 mm"),
        ({"feature_mm": 40.0, "interocular_mm": 100.0}, "check", "is the unit right"),
        (
            {"landmark_mm": np.inf, "feature_mm": np.inf, "unknown": "nose"},
            "check",
            "no landmark was found of the nose",
        ),
        ({"feature_mm": 40.0, "noisy": True}, "check", "smoothed"),
        ({"feature_mm": 40.0, "unknown": "nose, mouth"}, "check", "no landmark was found of the nose and the mouth"),
        ({"median_mm": 2.1}, "failed", "half of the scan's face"),
        ({"gap_mm2": 400.0, "gap_at": "mouth"}, "check", "patch of 400 mm² at the mouth"),
        ({"gap_mm2": 4000.0}, "check", "patch of 4000"),  # a hand before the mouth: the rest may be as it should
        ({"feature_mm": 7.0, "found": True}, "good", ""),  # a detector's word counts less than a person's
        ({"feature_mm": 9.0, "found": True}, "check", "left eye is missed by 9.0 mm"),
        ({"strange_mm": 0.9}, "good", ""),  # it is judged beside others
        ({"coverage": 0.3}, "failed", "70% of the face"),
        ({"folded": 0.03}, "failed", "folded over"),
    ],
)
def test_landmarks_fail_no_face(change, verdict, words):
    told, reason = judge(replace(SOUND, **change))
    assert told == verdict
    assert words in reason
    assert bool(reason) == (verdict != "good")


def test_one_landmark_on_a_strand_of_hair_is_no_doubt(template):
    index = np.arange(27, 68)
    points = template.landmark_rows[index] @ template.mesh.vertices
    points[index == 37] += [0, 0, 60.0]
    result = module.Registration(
        template.mesh.vertices,
        template.mesh.vertices,
        np.ones(len(template.mesh.vertices), dtype=bool),
        template.mesh,
        Landmarks(index, points),
        Similarity(1.0, np.eye(3), np.zeros(3)),
    )
    assert judge(measure(result, template))[0] == "good"
    points[(index >= 36) & (index < 42)] += [0, 0, 60.0]
    assert judge(measure(result, template)) == ("check", "the right eye is missed by 60.0 mm")


def test_landmarks_found_on_something_before_the_face_are_no_doubt(template):
    """As long as the scan holds what is there; else the feature is named."""
    index = np.arange(27, 68)
    points = template.landmark_rows[index] @ template.mesh.vertices
    points[(index >= 36) & (index < 42)] += [0, 0, 30.0]  # hair over the right eye
    result = module.Registration(
        template.mesh.vertices,
        template.mesh.vertices,
        np.ones(len(template.mesh.vertices), dtype=bool),
        template.mesh,
        Landmarks(index, points),
        Similarity(1.0, np.eye(3), np.zeros(3)),
        found=True,
    )
    assert judge(measure(result, template)) == ("good", "")
    eye = template.landmark_rows[36:42] @ template.mesh.vertices
    away = np.linalg.norm(template.mesh.vertices - eye.mean(axis=0), axis=1)
    told, reason = judge(measure(replace(result, believed=away > 25.0), template))
    assert told == "check"
    assert "no landmark was found of the right eye" in reason
    assert judge(measure(replace(result, found=False), template))[1] == "the right eye is missed by 30.0 mm"


def test_a_face_stranger_than_the_others_of_its_run_wants_a_look(template):
    usual = [0.30, 0.32, 0.34, 0.36]
    assert stranger([]) == []
    assert stranger(usual) == [""] * 4
    assert [bool(why) for why in stranger([*usual, 0.6])] == [False] * 4 + [True]
    assert stranger([2 * value for value in usual]) == [""] * 4  # it is the people, not the registration
    assert stranger([0.8]) == [""]  # as real heads are
    assert "more than most faces are" in stranger([1.1])[0]
    assert stranger([1.1] * 6) == [""] * 6  # another face model, or other people
    assert "at the left eye, more than others do" in stranger([*usual, 0.6], ["nose"] * 4 + ["left eye"])[4]
    faces = plain_people(4, "strange").astype(np.float64)
    rng, known = np.random.default_rng(0), template.prior.shape(np.eye(400)[3])
    assert template.prior.remainder(known).max() < 0.3
    for face in faces:
        slid = face + 3.0 * np.sin(face[:, [1, 2, 0]] / 9 + rng.uniform(0, 6, 3))
        assert template.prior.remainder(slid).mean() > 2 * template.prior.remainder(face).mean()


def test_a_blurred_scan_wants_a_look(template):
    """It lies where the face is; where its lids and the sides of its nose are, it does not show."""
    mesh, none = template.mesh, Similarity.none()
    i, j = np.concatenate([mesh.edges, mesh.edges[:, ::-1]]).T
    count, smooth = np.bincount(i, minlength=len(mesh.vertices))[:, None], mesh.vertices.copy()
    marks = Landmarks(np.arange(27, 68), template.landmark_rows[27:68] @ mesh.vertices)
    held = np.ones(len(mesh.vertices), dtype=bool)
    laid = module.Registration(mesh.vertices, mesh.vertices, held, mesh, marks, none)
    assert measure(laid, template).smoothness == pytest.approx(1.0, abs=0.1)
    for _ in range(30):
        mean = np.zeros_like(smooth)
        np.add.at(mean, i, smooth[j])
        smooth = 0.5 * smooth + 0.5 * mean / count
    told, reason = judge(measure(replace(laid, scan=mesh.with_vertices(smooth)), template))
    assert told == "check"
    assert "times as smooth at nose and eyes" in reason


@pytest.mark.parametrize(
    ("landmark", "name"),
    [(30, "nose"), (62, "mouth"), (45, "left eye"), (74, "right cheek"), (69, "forehead"), (8, "chin")],
)
def test_where_a_face_is_strange_is_named(template, landmark, name):
    vertices, rng = template.mesh.vertices, np.random.default_rng(0)
    near = np.linalg.norm(vertices - template.landmark_rows[[landmark]] @ vertices, axis=1) < 12.0
    slid = vertices + near[:, None] * rng.normal(scale=2.0, size=vertices.shape)
    marks = Landmarks(np.arange(27, 68), template.landmark_rows[27:68] @ slid)
    held, none = np.ones(len(vertices), dtype=bool), Similarity.none()
    result = module.Registration(slid, slid, held, template.mesh.with_vertices(slid), marks, none)
    assert measure(result, template).strange_at == name


def test_landmarks_that_are_not_what_they_are_called_are_told(template, scanned):
    mesh, truth = scanned
    wrong = Landmarks(np.arange(51), template.landmark_rows[17:68] @ truth)
    with pytest.raises(MeshganError, match="names and order"):
        register(mesh, template, wrong)


@needs_detector
@pytest.mark.slow  # one side is tested by what is registered above
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_face_is_found_from_every_side(template, scanned, faces, seed):
    scan = fake_scan(template.mesh.with_vertices(faces[1 + seed % 2]), np.random.default_rng(seed))
    with Detector() as detector:
        found = find_face(scan.mesh, detector, template)
    assert degrees_between(found.pose.rotation, scan.pose.rotation) < 8
    assert found.detection.found.sum() > 200
    assert found.misfit_mm < 6


def no_face(kind):
    rng = np.random.default_rng(0)
    if kind == "sphere":
        ball = trimesh.creation.icosphere(5, radius=90.0)
        return Mesh(ball.vertices, ball.faces)
    if kind == "hand":
        parts = [trimesh.creation.box((80, 90, 25)).subdivide().subdivide().subdivide()]
        for finger in range(5):
            part = trimesh.creation.capsule(height=60, radius=9)
            part.apply_transform(trimesh.transformations.euler_matrix(np.pi / 2, 0, 0))
            part.apply_translation([-40 + 20 * finger, 100 + 8 * (finger % 3), 0])
            parts.append(part)
        whole = trimesh.util.concatenate(parts)
        return Mesh(whole.vertices, whole.faces)
    return Mesh(rng.normal(scale=80, size=(3000, 3)), rng.integers(0, 3000, size=(4000, 3)))


@needs_detector
@pytest.mark.parametrize("kind", [pytest.param("sphere", marks=pytest.mark.slow), "hand", "noise"])
def test_what_is_no_face_is_said_to_be_none(template, kind, monkeypatch):
    monkeypatch.setattr(finding, "DIRECTIONS", 16)  # all 48 take half a minute
    with pytest.raises(MeshganError, match=r"no face was found|no surface"):
        register(no_face(kind), template)


@needs_detector
def test_another_template_takes_over_what_is_known_of_ours(template, faces, monkeypatch):
    """A user's template: another person, other triangles. Landmarks, detector and model go over to it."""
    monkeypatch.setattr(fake_scans, "SPACING_MM", (3.0, 3.1))
    other = fake_scan(template.mesh.with_vertices(faces[2]), np.random.default_rng(3))
    mesh = other.mesh.with_vertices(other.pose.inverse(other.mesh.vertices))
    laid = []
    monkeypatch.setattr(templates, "register", lambda *arguments: laid.append(register(*arguments)) or laid[-1])
    theirs = adopted(mesh, template, Path("theirs.ply"))
    places = theirs.landmark_rows @ mesh.vertices
    assert np.linalg.norm(places - template.landmark_rows @ faces[2], axis=1)[17:].mean() < 1.5
    scan = fake_scan(template.mesh.with_vertices(faces[0]), np.random.default_rng(4))
    result = register(scan.mesh, theirs, marked(template, scan.pose(faces[0].astype(np.float64))))
    assert len(result.vertices) == len(mesh.vertices)
    surface = Surface(template.mesh.with_vertices(scan.pose(faces[0].astype(np.float64))))
    assert np.median(surface.closest(result.to_scan(result.vertices)).distance) < 0.4
    assert not folded(theirs.mesh.with_vertices(result.vertices), result.fitted).mean() > 0.002
    turn = Similarity(1.0, Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.zeros(3))
    monkeypatch.setattr(templates, "register", lambda *_: replace(laid[0], to_scan=turn.after(laid[0].to_scan)))
    on_its_side = mesh.with_vertices(turn(mesh.vertices))
    with pytest.raises(UsageError, match="along \\+z"):
        adopted(on_its_side, template, Path("theirs.ply"))


def test_a_template_s_own_landmarks_go_before_those_found(template, tmp_path):
    path = templates.landmark_file(tmp_path / "mine.ply")
    assert templates.with_own_landmarks(template, path) is template
    mark = {"name": "nose_tip", "vertices": [3, 5, 8], "weights": [0.5, 0.25, 0.25]}
    path.write_text(json.dumps([mark]))
    moved = templates.with_own_landmarks(template, path).landmark_rows - template.landmark_rows
    corners = template.mesh.vertices
    expected = 0.5 * corners[3] + 0.25 * corners[5] + 0.25 * corners[8] - template.landmark_rows[[30]] @ corners
    np.testing.assert_allclose((moved @ corners)[30], expected[0], atol=1e-9)
    assert not np.delete(moved.toarray(), 30, axis=0).any()
    for wrong in ({"vertices": [3, 5, 999_999]}, {"name": "elbow"}, {"weights": [1, 2]}):
        path.write_text(json.dumps([mark | wrong]))
        with pytest.raises(UsageError, match=r"mine\.landmarks\.json"):
            templates.with_own_landmarks(template, path)


@pytest.mark.parametrize(("kind", "row", "most"), [("hand", 0, 2.0), ("open mouth", 3, 1.8)])
def test_landmarks_around_the_eyes_are_enough_whatever_is_below(template, kind, row, most):
    """Fingers over mouth and chin, and a wide open mouth: drawn from the first, they left 7.9 and 7.4 mm."""
    face = template.mesh.with_vertices(corpus_people(8, 8, 4242)[row].astype(np.float64))
    scan, truth = scan_of_kind(kind, face, template.landmark_rows, np.random.default_rng(row))
    eyes = np.array([27, 36, 39, 42, 45])
    noise = np.random.default_rng(row).normal(scale=1.5, size=(len(eyes), 3))
    result = register(scan.mesh, template, Landmarks(eyes, template.landmark_rows[eyes] @ truth + noise))
    assert np.linalg.norm(result.to_scan(result.vertices) - truth, axis=1).mean() < most
    assert judge(measure(result, template))[0] == "check"  # nobody has said where nose and mouth are


def test_a_trained_model_can_guide_the_fit(template, monkeypatch, tmp_path):
    class Model:
        template = default_template().mesh

        @classmethod
        def load(cls, folder):
            return cls()

        def sample(self, count, seed):
            return np.concatenate([plain_people(8, "model")] * 2)

    monkeypatch.setattr("meshgan.model.load.load_model", Model.load)
    guided = templates.load_template(None, tmp_path)
    assert guided.mesh is template.mesh
    theirs = plain_people(8, "model")[0].astype(np.float64)
    shout = template.mesh.vertices + template.opening()
    for face, least, most in ((theirs, 0.0, 0.5), (shout, 0.7, 1.2)):
        before, after = (np.linalg.norm(prior.remainder(face)) for prior in (template.prior, guided.prior))
        assert least * before < after < most * before  # it knows its people, and what the template's people do
    Model.template = Mesh(np.eye(3), [[0, 1, 2]])
    with pytest.raises(UsageError, match="another template"):
        templates.load_template(None, tmp_path)


@needs_scans
@needs_detector
@pytest.mark.slow
def test_james(template):
    """A real scan with hair, holes and six components; parts off the shelf gave 0.46 mm and 1.4 % flipped triangles."""
    result = register(read_mesh(SCANS / "james" / "james.obj"), template)
    quality = measure(result, template)
    assert quality.median_mm < 0.3
    assert quality.folded <= 0.001
    assert judge(quality)[0] == "good"
    given = read_landmarks(SCANS / "james" / "james.ljson", template.landmark_names)
    assert given.index.tolist() == list(range(68))
    misses = np.linalg.norm(result.to_scan(template.landmark_rows @ result.vertices)[:68] - given.points, axis=1)
    assert misses.mean() < 2.9
    assert misses[17:].mean() < 2.5  # the jaw line slides
    path = SCANS / "james" / "james.obj"
    seen = register(read_mesh(path), template, colours=ScanColours(path, "mm"))
    coloured = np.linalg.norm(seen.to_scan(template.landmark_rows @ seen.vertices)[:68] - given.points, axis=1)
    assert coloured[17:].mean() < min(2.3, misses[17:].mean() - 0.2)
    assert coloured[36:48].mean() < min(2.0, misses[36:48].mean() - 0.8)  # eyes, which shape hardly shows
    by_hand = register(read_mesh(SCANS / "james" / "james.obj"), template, given)
    assert measure(by_hand, template).median_mm < 0.35
    again = np.linalg.norm(by_hand.to_scan(template.landmark_rows @ by_hand.vertices)[:68] - given.points, axis=1)
    assert again[17:].mean() < 1.95  # so exact they are


@needs_scans
@needs_detector
@pytest.mark.slow
def test_lee_perry_smith(template):
    """A head with shoulders in no unit, its eyes closed."""
    mesh = read_mesh(SCANS / "lee_perry_smith" / "LeePerrySmith.ply")
    with pytest.raises(MeshganError, match="`unit='auto'`"):
        register(mesh, template, unit="mm")
    quality = measure(register(mesh, template, unit="auto"), template)
    assert quality.median_mm < 0.3
    assert quality.p95_mm < 2.0  # the walls of nostrils and mouth, which it has, do not count
    assert quality.folded <= 0.001
    assert judge(quality)[0] == "good"


@needs_detector
@pytest.mark.slow
def test_ten_million_triangles_are_bounded(template, faces):
    fine = trimesh.Trimesh(faces[0], template.mesh.triangles, process=False)
    vertices, triangles = trimesh.remesh.subdivide_loop(fine.vertices, fine.faces, iterations=5)
    assert len(triangles) > 10_000_000
    result = register(Mesh(vertices, triangles), template)
    assert np.linalg.norm(result.to_scan(result.vertices) - faces[0], axis=1).mean() < 1.5


def test_landmark_scheme_and_template_agree(template):
    assert len(template.landmark_names) == 79
    marks = template.landmark_rows @ template.mesh.vertices
    assert marks[36, 0] < marks[45, 0]  # the person's right eye lies on the viewer's left
    assert marks[8, 1] < marks[57, 1] < marks[30, 1] < marks[27, 1]
    json.dumps(template.landmark_names)


def test_surfaces_that_no_viewer_sees_do_not_count(template, scanned):
    """A second wall behind the face: what is measured on the first stays, and the second adds next to nothing."""
    mesh, truth = scanned
    result = register(mesh, template, marked(template, truth))
    behind = result.scan.vertices - [0.0, 0.0, 5.0]
    count = len(behind)
    double = Mesh(
        np.concatenate([result.scan.vertices, behind]),
        np.concatenate([result.scan.triangles, result.scan.triangles + count]),
    )
    alone, both = scan_distances(result, template), scan_distances(replace(result, scan=double), template)
    assert np.isfinite(alone).mean() > 0.5
    assert (np.isfinite(both[:count]) != np.isfinite(alone)).mean() < 0.01  # some undersides now face the wall
    assert np.isfinite(both[count:]).mean() < 0.06  # seen through the holes and past the rim


def test_lips_of_a_result_do_not_pass_through_each_other(template):
    """A sum of plain shapes lets pressed lips overlap by more than half a millimetre; nothing else moves."""
    basis, lips = FaceBasis.read(), contacts().lips
    pressed = np.isin(basis.action_names, ("mouthPressLeft", "mouthPressRight")).astype(float)
    face = template.mesh.vertices + np.einsum("a,avc->vc", pressed, basis.actions)
    parted = template.parted(face)
    gaps = [lips.contact(one[None].astype(np.float32)).gap.min() for one in (face, parted)]
    assert gaps[0] < -0.5
    assert gaps[1] > -0.1
    still = np.setdiff1d(np.arange(len(face)), lips.near)
    np.testing.assert_array_equal(parted[still], face[still])
    np.testing.assert_array_equal(template.parted(parted), parted)
