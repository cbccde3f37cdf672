"""Non-rigid ICP and the model fit: against dense references, and on shapes whose truth is known."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import trimesh
from scipy.spatial.transform import Rotation

from meshgan.geometry.align import Similarity, rigid
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface
from meshgan.registration import nricp
from meshgan.registration import prior as prior_module
from meshgan.registration.nricp import Nodes, Step, nonrigid_icp
from meshgan.registration.prior import UNSURE, Anchors, FitStep, Prior, blended, fit, learn
from meshgan.registration.scan import Pull

NOTHING = Anchors(sp.csr_array((0, 162)), np.empty((0, 3)), np.empty(0))


def ball(level=2, radius=60.0):
    sphere = trimesh.creation.icosphere(level, radius=radius)
    return Mesh(sphere.vertices, sphere.faces)


def puller(mesh, surface):
    def pull(vertices):
        matches = surface.closest(vertices)
        normals = surface.normals(matches)
        cosine = np.einsum("vc,vc->v", mesh.with_vertices(vertices).vertex_normals, normals)
        return Pull(matches.points, normals, matches.distance, np.where(surface.on_border(matches), -1.0, cosine))

    return pull


def every_vertex(mesh):
    return Nodes(mesh.edges, sp.csr_array(sp.eye_array(len(mesh.vertices))))


def test_one_step_minimises_amberg_s_energy():
    """The first iteration with a node at every vertex against the paper's equations 8 and 12, solved densely."""
    mesh = ball(1)
    count = len(mesh.vertices)
    surface = Surface(mesh.with_vertices(mesh.vertices * [1.1, 1.0, 0.95]))
    rows = sp.csr_array((np.ones(2), ([0, 1], [3, 30])), shape=(2, count))
    anchors = Anchors(rows, mesh.vertices[[3, 30]] * 1.05, np.array([2.0, 4.0]))
    step = Step(0, 7.0, 0.5, 20.0, 1)
    state = next(
        nonrigid_icp(mesh.vertices, puller(mesh, surface), (every_vertex(mesh),), mesh.edges, anchors, (step,))
    )

    pull = puller(mesh, surface)(mesh.vertices)
    weights = np.concatenate([pull.weights(20.0, nricp.FACING), 0.5 * np.array([1.0, 0.25])])
    targets = np.concatenate([pull.points, anchors.targets])
    homogeneous = np.concatenate(
        [(mesh.vertices - mesh.vertices.mean(axis=0)) / nricp.UNIT, np.ones((count, 1))], axis=1
    )
    data = np.zeros((count, 4 * count))
    for v in range(count):
        data[v, 4 * v : 4 * v + 4] = homogeneous[v]
    data = np.concatenate([data, rows.toarray() @ data])
    arcs = np.zeros((len(mesh.edges), count))
    arcs[np.arange(len(arcs)), mesh.edges[:, 0]] = -1
    arcs[np.arange(len(arcs)), mesh.edges[:, 1]] = 1
    stiff = np.sqrt(7.0) * np.kron(arcs, np.diag([1, 1, 1, nricp.GAMMA]))
    system = np.concatenate([stiff, np.sqrt(weights)[:, None] * data])
    right = np.concatenate([np.zeros((len(stiff), 3)), np.sqrt(weights)[:, None] * targets])
    solution = np.linalg.lstsq(system, right, rcond=None)[0]
    np.testing.assert_allclose(state.vertices, data[:count] @ solution, atol=1e-6)


def test_an_ellipsoid_is_reached_and_the_caller_may_stop_early():
    mesh = ball()
    truth = mesh.vertices * [1.15, 0.9, 1.0]
    surface = Surface(ball(4).with_vertices(ball(4).vertices * [1.15, 0.9, 1.0]))
    coarse = np.arange(0, 162, 6)
    weights = np.exp(-((np.linalg.norm(mesh.vertices[:, None] - mesh.vertices[coarse], axis=2) / 25) ** 2))
    near = [
        (i, j)
        for i in range(len(coarse))
        for j in range(i)
        if np.linalg.norm(mesh.vertices[coarse[i]] - mesh.vertices[coarse[j]]) < 50
    ]
    blend = sp.csr_array(weights / weights.sum(axis=1, keepdims=True))
    nodes = (Nodes(np.array(near), blend), every_vertex(mesh))
    schedule = tuple(Step(s.nodes, s.stiffness, s.landmarks, 25.0, 4) for s in nricp.SCHEDULE)
    states = list(nonrigid_icp(mesh.vertices, puller(mesh, surface), nodes, mesh.edges, NOTHING, schedule))
    assert surface.closest(states[-1].vertices).distance.max() < 0.3
    assert np.linalg.norm(states[-1].vertices - truth, axis=1).mean() < 3.0  # it may slide a little
    first = next(nonrigid_icp(mesh.vertices, puller(mesh, surface), nodes, mesh.edges, NOTHING, schedule))
    np.testing.assert_array_equal(first.vertices, states[0].vertices)
    assert states[0].moved_mm > 10 * states[-1].moved_mm


def test_a_template_that_fits_already_stays_where_it_is():
    mesh = ball()
    states = list(
        nonrigid_icp(mesh.vertices, puller(mesh, Surface(mesh)), (every_vertex(mesh),) * 2, mesh.edges, NOTHING)
    )
    np.testing.assert_allclose(states[-1].vertices, mesh.vertices, atol=1e-8)
    assert (states[-1].weights == 1).all()


def test_landmarks_hold_where_the_surface_says_nothing():
    """On a sphere every turn fits the surface; only landmarks can tell which one is meant."""
    mesh = ball()
    truth = mesh.vertices @ Rotation.from_euler("y", 8, degrees=True).as_matrix().T
    marked = np.arange(0, 162, 9)
    rows = sp.csr_array((np.ones(len(marked)), (np.arange(len(marked)), marked)), shape=(len(marked), 162))
    anchors = Anchors(rows, truth[marked], np.ones(len(marked)))
    pull, nodes = puller(mesh, Surface(ball(4))), (every_vertex(mesh),)
    schedule = (Step(0, 50.0, 50.0, 20.0, 12),)
    with_marks = list(nonrigid_icp(mesh.vertices, pull, nodes, mesh.edges, anchors, schedule))[-1].vertices
    without = list(nonrigid_icp(mesh.vertices, pull, nodes, mesh.edges, NOTHING, schedule))[-1].vertices
    assert np.linalg.norm(with_marks - truth, axis=1).mean() < 1.0
    assert np.linalg.norm(without - truth, axis=1).mean() > 4.0


def test_what_is_too_far_or_faces_away_does_not_pull():
    pull = Pull(np.zeros((4, 3)), np.zeros((4, 3)), np.array([0.0, 1.0, 9.0, 1.0]), np.array([1.0, 0.9, 1.0, 0.2]))
    weights = pull.weights(4.0, 0.8)
    assert weights[0] == 1
    assert 0 < weights[1] < 1
    assert weights[2] == weights[3] == 0


def test_a_surface_that_faces_away_has_no_say_in_the_steps(monkeypatch):
    """Two parallel walls, the nearer one seen from behind: the sheet goes to the one that faces as it does."""
    x, y = (axis.ravel() for axis in np.mgrid[0:60:7j, 0:60:7j])
    cells = np.arange(36) // 6 * 7 + np.arange(36) % 6
    triangles = np.concatenate([np.stack([cells, cells + 7, cells + 8], 1), np.stack([cells, cells + 8, cells + 1], 1)])
    sheet = Mesh(np.stack([x, y, 0 * x], 1), triangles)
    away = Mesh(sheet.vertices + np.array([0, 0, 2.0]), triangles[:, ::-1])

    def pull(vertices):
        surface = Surface(away)
        matches = surface.closest(vertices)
        normals = surface.normals(matches)
        cosine = np.einsum("vc,vc->v", sheet.with_vertices(vertices).vertex_normals, normals)
        return Pull(matches.points, normals, matches.distance, cosine)

    anchors = Anchors(sp.csr_array(np.eye(3, 49)), sheet.vertices[:3], np.ones(3))
    schedule = (Step(-1, 1.0, 0.1, 20.0, 3),)
    for least, moved in ((nricp.FACING, False), (-2.0, True)):
        monkeypatch.setattr(nricp, "FACING", least)
        *_, last = nonrigid_icp(sheet.vertices, pull, (), sheet.edges, anchors, schedule)
        assert (np.abs(last.vertices[:, 2]).max() > 0.5) == moved


@pytest.fixture(scope="module")
def model():
    """Bent balls: a mean and eight smooth ways to bend."""
    mesh = ball(3)
    rng = np.random.default_rng(0)
    directions = mesh.vertices / 60
    ways = np.stack(
        [np.cos(directions @ rng.normal(scale=2.5, size=3) + k)[:, None] * rng.normal(size=3) for k in range(8)]
    )
    faces = mesh.vertices + 3 * np.einsum("nk,kvc->nvc", rng.normal(size=(60, 8)), ways)
    return mesh, learn(faces.astype(np.float32), 8), faces


def test_principal_components_describe_the_faces(model):
    _, prior, faces = model
    flat = prior.basis.transpose(1, 2, 0).reshape(8, -1).astype(np.float64)
    centred = (faces - prior.mean).reshape(60, -1)
    coefficients = np.linalg.lstsq(flat.T, centred.T, rcond=None)[0]
    np.testing.assert_allclose(flat.T @ coefficients, centred.T, atol=1e-3)
    np.testing.assert_allclose(coefficients.std(axis=1, ddof=1), 1.0, atol=1e-3)
    np.testing.assert_allclose(prior.shape(coefficients[:, 5]), faces[5], atol=1e-3)


def test_the_fit_finds_pose_and_shape_and_ignores_wild_landmarks(model):
    mesh, prior, faces = model
    pose = Similarity(
        1.02, Rotation.from_euler("xyz", [4, -3, 5], degrees=True).as_matrix(), np.array([3.0, -2.0, 4.0])
    )
    truth = pose(faces[7])
    surface = Surface(mesh.with_vertices(truth))
    rng = np.random.default_rng(1)
    marked = rng.choice(len(truth), 40, replace=False)
    targets = truth[marked] + rng.normal(scale=0.5, size=(40, 3))
    targets[:4] += 60.0
    rows = sp.csr_array((np.ones(40), (np.arange(40), marked)), shape=(40, len(truth)))
    start = Similarity(1.0, np.eye(3), np.zeros(3))
    found = fit(prior, Anchors(rows, targets, np.full(40, 1.0)), start, puller(mesh, surface))
    assert np.linalg.norm(found.vertices - truth, axis=1).mean() < 0.5
    assert abs(found.pose.scale - 1.02) < 0.02
    alone = fit(
        prior, Anchors(rows, targets, np.full(40, 1.0)), start, partial(puller(mesh, surface)), scale_sigma=1e-6
    )
    assert abs(alone.pose.scale - 1.0) < 1e-3


def test_the_fit_passes_over_surfaces_that_face_away(model, monkeypatch):
    mesh, prior, faces = model
    truth = faces[7]
    inside_out = mesh.with_vertices(truth)
    backwards = Surface(Mesh(inside_out.vertices, inside_out.triangles[:, ::-1]))
    rows = sp.csr_array(np.eye(12, len(truth)))
    anchors = Anchors(rows, prior.mean[:12], np.ones(12))
    start = Similarity(1.0, np.eye(3), np.zeros(3))
    found = fit(prior, anchors, start, puller(mesh, backwards))
    np.testing.assert_allclose(found.vertices, prior.mean, atol=1e-3)  # nothing but the landmarks spoke
    monkeypatch.setattr(prior_module, "FACING", -2.0)
    assert np.abs(fit(prior, anchors, start, puller(mesh, backwards)).vertices - prior.mean).max() > 0.2


def test_the_scale_prior_weighs_all_growth_so_far_and_the_solution_is_the_minimum(model):
    """At the end, the gradient of misfit and penalty together with respect to the growth vanishes."""
    mesh, prior, _ = model
    rows = sp.csr_array(np.eye(30, len(mesh.vertices)))
    targets = 1.15 * prior.mean[:30]
    step = (FitStep(40, 8, 0.0, np.inf),)
    scales = []
    for sigma in (0.02, 0.05, 0.2):
        anchors = Anchors(rows, targets, np.full(30, 4.0))
        found = fit(prior, anchors, Similarity(1.0, np.eye(3), np.zeros(3)), puller(mesh, Surface(mesh)), sigma, step)
        scales.append(found.pose.scale)

        def energy(growth, found=found, sigma=sigma):
            away = np.linalg.norm(rows @ (_grown(found, growth)) - targets, axis=1) / 4.0
            robust = (UNSURE**2 / 2) * (away**2 / (UNSURE**2 + away**2))  # whose weights are Geman and McClure's
            return robust.sum() + 0.5 * (np.log(found.pose.scale * growth) / sigma) ** 2

        assert min(energy(1.0), energy(1.002), energy(0.998)) == energy(1.0)
    assert 1.0 < scales[0] < scales[1] < scales[2] < 1.15


def _grown(found, growth):
    middle = found.vertices.mean(axis=0)
    return middle + growth * (found.vertices - middle)


def test_a_fit_goes_on_where_an_earlier_one_of_some_vertices_stands(model):
    mesh, prior, faces = model
    surface, start = Surface(mesh.with_vertices(faces[5])), Similarity.none()
    rows = sp.csr_array(np.eye(12, len(mesh.vertices)))
    anchors = Anchors(rows, faces[5][:12], np.ones(12))
    first, second = (FitStep(3, 8, 20.0, 1.0),), (FitStep(2, 8, 4.0, 0.2),)
    at_once = fit(prior, anchors, start, puller(mesh, surface), schedule=first + second)
    before = fit(prior, anchors, start, puller(mesh, surface), schedule=first)
    after = fit(prior, anchors, before, puller(mesh, surface), schedule=second)
    np.testing.assert_allclose(after.vertices, at_once.vertices, atol=1e-3)
    some = Mesh(mesh.vertices[:100], mesh.triangles[(mesh.triangles < 100).all(axis=1)])  # as a coarse level is
    roughly = fit(prior, anchors, start, puller(some, surface), schedule=first, chosen=np.arange(100))
    finely = fit(prior, anchors, roughly, puller(mesh, surface), schedule=second)
    missed = [np.linalg.norm(one.vertices - faces[5], axis=1).mean() for one in (roughly, finely)]
    assert missed[1] < missed[0]
    assert missed[1] < 0.3


def test_landmarks_that_have_four_times_the_say_count_as_four_of_each(model):
    mesh, prior, faces = model
    rows, start = sp.csr_array(np.eye(30, len(mesh.vertices))), Similarity.none()
    targets = faces[11][:30] + np.random.default_rng(4).normal(size=(30, 3))
    one = Anchors(rows, targets, np.ones(30))
    four = Anchors(sp.csr_array(sp.vstack([rows] * 4)), np.tile(targets, (4, 1)), np.ones(120))
    step = FitStep(4, 8, 20.0, 1.0)
    pull = puller(mesh, Surface(mesh.with_vertices(faces[11])))
    said = fit(prior, one, start, pull, schedule=(replace(step, say=4.0),)).vertices
    np.testing.assert_allclose(said, fit(prior, four, start, pull, schedule=(step,)).vertices, atol=1e-3)
    assert np.abs(said - fit(prior, one, start, pull, schedule=(step,)).vertices).max() > 0.01


@pytest.mark.parametrize("wild", [0, 1, 3])
def test_landmarks_far_off_lose_their_say(model, wild):
    """A few landmarks at a wrong place move the fit of landmarks alone hardly more than if they were not there."""
    mesh, prior, faces = model
    truth = faces[11]
    marked = np.random.default_rng(2).choice(len(truth), 40, replace=False)
    start = Similarity(1.0, np.eye(3), np.zeros(3))
    step = (FitStep(8, 8, 0.0, np.inf),)

    def fitted(chosen, targets):
        rows = sp.csr_array((np.ones(len(chosen)), (np.arange(len(chosen)), chosen)), shape=(len(chosen), len(truth)))
        anchors = Anchors(rows, targets, np.ones(len(chosen)))
        return fit(prior, anchors, start, puller(mesh, Surface(mesh)), schedule=step).vertices

    targets = truth[marked].copy()
    targets[:wild] += [40.0, -30.0, 20.0]
    without = fitted(marked[wild:], targets[wild:])
    assert np.linalg.norm(fitted(marked, targets) - without, axis=1).mean() < 0.15


def test_a_detector_that_errs_by_more_than_it_should_is_believed_less(model):
    """Points found 4 mm off where they say 1 mm draw a fit from its surface by less than points that a person gave."""
    mesh, prior, faces = model
    truth, random = faces[7], np.random.default_rng(6)
    rows, start = sp.csr_array(np.eye(40, len(truth))), Similarity.none()
    step, pull = (FitStep(6, 8, 20.0, 1.0),), puller(mesh, Surface(mesh.with_vertices(truth)))

    def missed(off, found):
        targets = truth[:40] + off * random.normal(size=(40, 3))
        anchors = Anchors(rows, targets, np.ones(40), found)
        return np.linalg.norm(fit(prior, anchors, start, pull, schedule=step).vertices - truth, axis=1).mean()

    assert missed(4.0, True) < 0.8 * missed(4.0, False)
    random = np.random.default_rng(6)
    one = missed(0.5, True)
    random = np.random.default_rng(6)
    assert one == pytest.approx(missed(0.5, False), rel=1e-3)  # as good as it says: nothing is taken from it


def people_of(prior):
    """Faces whose covariance is that of a model: its components one by one, to either side."""
    ways = np.sqrt(prior.basis.shape[1]) * prior.basis.transpose(1, 2, 0).astype(np.float64)
    return np.concatenate([prior.mean + ways, prior.mean - ways])


def test_two_models_blended_vary_as_people_drawn_from_both_do(model):
    mesh, prior, _ = model
    rng = np.random.default_rng(8)
    turn = Similarity(1.0, Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix(), np.array([4.0, -3.0, 9.0]))
    bent = mesh.vertices + rng.normal(size=mesh.vertices.shape)
    other = Prior(turn(bent), rng.normal(size=(3, 5, len(bent))).astype(np.float32))  # it lies elsewhere
    theirs = rigid(other.mean, prior.mean)(people_of(other))
    people = np.concatenate([np.repeat(theirs, 8, axis=0), np.repeat(people_of(prior), 5, axis=0)]).reshape(160, -1)
    found = blended(other, prior, 100)
    np.testing.assert_allclose(found.mean.ravel(), people.mean(axis=0), atol=1e-4)
    rows = found.basis.transpose(1, 2, 0).reshape(found.basis.shape[1], -1).astype(np.float64)
    expected = np.cov(people.T, bias=True)
    np.testing.assert_allclose(rows.T @ rows, expected, atol=1e-4 * np.abs(expected).max())
    assert blended(other, prior, 3).basis.shape[1] == 3


def test_the_prior_says_no_more_than_its_mean_without_data(model):
    mesh, prior, _ = model
    far = Surface(mesh.with_vertices(mesh.vertices + 1000))
    rows = sp.csr_array(np.eye(8, len(mesh.vertices)))
    anchors = Anchors(rows, prior.mean[:8], np.full(8, 1.0))
    found = fit(prior, anchors, Similarity(1.0, np.eye(3), np.zeros(3)), puller(mesh, far))
    np.testing.assert_allclose(found.vertices, prior.mean, atol=1e-3)


def test_learning_does_not_depend_on_the_sign_that_the_solver_picks(model):
    _, prior, faces = model
    mirrored = learn(faces[::-1].astype(np.float32), 8)
    np.testing.assert_allclose(mirrored.basis, prior.basis, atol=1e-3)
    assert isinstance(prior, Prior)
