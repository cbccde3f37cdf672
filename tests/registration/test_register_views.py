"""Views and what the detector's points become: rays against geometry, opinions against each other."""

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from meshgan.geometry.mesh import Mesh
from meshgan.registration.finding import _ordered, agreed, degrees_between, looking_along, sphere, turned
from meshgan.registration.scan import Frame, Scene

FRONT = Frame(np.eye(3), np.array([10.0, 0.0, 0.0]), 80.0)


def ball(flipped=False):
    mesh = trimesh.creation.icosphere(4, radius=50.0)
    return Mesh(mesh.vertices + np.array([10.0, 0.0, 0.0]), mesh.faces[:, ::-1] if flipped else mesh.faces)


def test_every_pixel_shows_the_point_that_lies_behind_it():
    scene = Scene(ball())
    image, hits = scene.photograph(FRONT, 64)
    rows, columns = np.divmod(np.arange(64 * 64), 64)
    x, y = (columns + 0.5) * 2.5 - 80 + 10, 80 - (rows + 0.5) * 2.5
    points = scene.points(hits)
    inside = (x - 10) ** 2 + y**2 < 49**2
    assert hits.found[inside].all()
    np.testing.assert_allclose(points[inside, 0], x[inside], atol=1e-3)
    np.testing.assert_allclose(points[inside, 1], y[inside], atol=1e-3)
    assert (points[inside, 2] > 0).all()  # the near side
    outside = (x - 10) ** 2 + y**2 > 51**2
    assert not hits.found[outside].any()
    assert (image.ravel()[outside] == 0).all()
    assert np.isnan(points[outside]).all()


def test_a_turned_frame_sees_the_turned_thing():
    rotation = Rotation.from_euler("xyz", [20, 130, -60], degrees=True).as_matrix()
    head = trimesh.creation.icosphere(3, radius=50.0)
    bumpy = head.vertices * (1 + 0.2 * np.sin(head.vertices[:, :1] / 9))
    straight = Scene(Mesh(bumpy, head.faces)).photograph(Frame(np.eye(3), np.zeros(3), 80.0), 48)[0]
    frame = Frame(rotation.T, np.array([5.0, 6.0, 7.0]), 80.0)
    again = Scene(Mesh(bumpy @ rotation.T + [5, 6, 7], head.faces)).photograph(frame, 48)[0]
    assert np.abs(straight.astype(int) - again).mean() < 0.5


def test_only_the_outer_side_is_lit():
    lit = [
        Scene(ball(flipped), outward).photograph(FRONT, 32)[0].max()
        for flipped in (False, True)
        for outward in (1, -1, 0)
    ]
    assert [value > 0 for value in lit] == [True, False, True, False, True, True]


def test_a_single_ray_comes_back_as_one_row():
    hits = Scene(ball()).cast(FRONT, np.array([31.5]), np.array([31.5]), 64)
    assert hits.triangle.shape == (1,)
    assert hits.barycentric.shape == (1, 3)


def test_yaw_walks_around_the_up_axis():
    side = turned(FRONT, 90.0)
    assert degrees_between(side.rotation, FRONT.rotation) == 90.0
    np.testing.assert_allclose(side.rotation[1], [0, 1, 0], atol=1e-12)
    assert side.rotation[2, 0] > 0.99  # from the viewer's right


def test_directions_cover_the_sphere_and_frames_are_rotations():
    directions = sphere(48)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    assert np.degrees(np.arccos((sphere(2000) @ directions.T).max(axis=1))).max() < 30
    for direction in directions:
        frame = looking_along(direction)
        np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(frame) > 0
        np.testing.assert_allclose(frame[2], direction)


def test_views_that_agree_outvote_the_one_that_does_not():
    points = np.zeros((3, 5, 3))
    points[:, 0] = [[0, 0, 0], [1, 0, 0], [40, 0, 0]]  # the third is wrong
    points[:, 1] = [[0, 0, 0], [30, 0, 0], [60, 0, 0]]  # nobody agrees
    points[:, 2] = [[7, 0, 0], [0, 0, 0], [0, 0, 0]]  # seen once
    points[:, 3] = np.nan  # never seen
    points[:, 4] = [[0, 0, 0], [0, 0, 3], [0, 0, 0]]
    trust = np.ones((3, 5))
    trust[1:, 2] = 0
    trust[:, 3] = 0
    trust[:, 4] = [0.5, 1.0, 0.0]
    detection = agreed(points, trust)
    assert detection.views.tolist() == [2, 0, 1, 0, 2]
    np.testing.assert_allclose(detection.points[0], [0.5, 0, 0])
    np.testing.assert_allclose(detection.points[2], [7, 0, 0])
    np.testing.assert_allclose(detection.points[4], [0, 0, 2])
    assert np.isnan(detection.points[[1, 3]]).all()


def test_order_of_the_winding_is_recognised():
    rng = np.random.default_rng(0)
    mesh = ball()
    mixed = np.where(rng.random((len(mesh.triangles), 1)) < 0.5, mesh.triangles, mesh.triangles[:, ::-1])
    assert _ordered(mesh)
    assert _ordered(ball(flipped=True))
    assert not _ordered(Mesh(mesh.vertices, mixed))
