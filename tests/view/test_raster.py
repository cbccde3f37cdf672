"""The rasteriser against what can be worked out by hand: spheres, squares, who hides whom."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshgan.view.raster import CLAY, FRONTAL, LAMBERT, Camera, Light, decoded, encoded, render

RADIUS = 50.0
SPHERE = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
CAMERA = Camera(width_mm=128)
FRONT = Light(((0, 0, 1),), ((1.0,),), (0.0,), (1.0,), (0.0,), srgb=False)
FLAT = Light(((0, 0, 1),), ((0.0,),), (1.0,), (1.0,), (0.0,), srgb=False)  # white where there is surface
SQUARE = np.array([[-20, -20, 0], [20, -20, 0], [20, 20, 0], [-20, 20, 0]], dtype=float)
TWO = np.array([[0, 1, 2], [0, 2, 3]])


def sphere(**options: object) -> NDArray[np.uint8]:
    return render(SPHERE.vertices[None], SPHERE.faces, camera=CAMERA, **options)[0]


def pixel_centres(size: int, camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Camera-space x and y (mm) of the pixel centres, measured from the camera's centre."""
    along = ((np.arange(size) + 0.5) / size - 0.5) * camera.width_mm
    x, minus_y = np.meshgrid(along, along)
    return x, -minus_y


def sphere_normals(size: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    x, y = pixel_centres(size, CAMERA)
    inside = np.hypot(x, y) < RADIUS
    z = np.sqrt(np.where(inside, RADIUS**2 - x**2 - y**2, 0))
    return np.stack([x, y, z], axis=-1) / RADIUS, inside


def test_silhouette_of_a_sphere() -> None:
    image = sphere(light=FLAT, size=64, supersample=4)
    x, y = pixel_centres(64, CAMERA)
    distance = np.hypot(x, y)
    half_diagonal = CAMERA.width_mm / 64 * np.sqrt(0.5)
    assert (image[distance < RADIUS - half_diagonal - 0.1] == 255).all()
    assert (image[distance > RADIUS + half_diagonal] == 0).all()
    area = image.sum() / 255 * (CAMERA.width_mm / 64) ** 2
    assert area == pytest.approx(np.pi * RADIUS**2, rel=2e-3)


@pytest.mark.parametrize("direction", [(0, 0, 1), (0.3, 0.4, 1), (-1, 0, 0.2), (0, 1, 0)])
def test_shading_of_a_sphere(direction: tuple[float, float, float]) -> None:
    light = Light((direction,), ((0.8,),), (0.1,), (1.0,), (0.0,), srgb=False)
    image = sphere(light=light, size=96, supersample=1)
    normals, inside = sphere_normals(96)
    cosine = np.maximum(0, normals @ np.array(direction) / np.linalg.norm(direction))
    expected = 255 * (0.1 + 0.8 * cosine)
    x, y = pixel_centres(96, CAMERA)
    core = np.hypot(x, y) < 0.95 * RADIUS  # towards the rim the normal turns by degrees within a pixel
    assert np.abs(image[core] - expected[core]).max() <= 1.5
    assert np.abs(image[inside] - expected[inside]).max() <= 12


def test_normals_of_a_sphere_from_three_lights() -> None:
    """Three lights along the axes, one a channel, read the normal back."""
    axes = Light(
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), (0,) * 3, (1,) * 3, (0,) * 3, False
    )  # fmt: skip
    image = sphere(light=axes, size=64, supersample=1)
    normals, _ = sphere_normals(64)
    x, y = pixel_centres(64, CAMERA)
    quarter = (x > 0) & (y > 0) & (np.hypot(x, y) < 0.95 * RADIUS)
    read = image[quarter] / 255.0
    assert np.abs(read - normals[quarter]).max() < 0.006


def test_two_lights_are_the_sum_of_each() -> None:
    one = Light(((0.5, 0, 1),), ((0.3,),), (0.0,), (1.0,), (0.0,), False)
    two = Light(((-0.5, 1, 1),), ((0.4,),), (0.0,), (1.0,), (0.0,), False)
    both = Light(one.directions + two.directions, one.strengths + two.strengths, (0.0,), (1.0,), (0.0,), False)
    a, b, ab = (sphere(light=light).astype(int) for light in (one, two, both))
    assert np.abs(ab - a - b).max() <= 1


def test_srgb_encoding() -> None:
    shown = Light(FLAT.directions, FLAT.strengths, (0.2140,), (1.0,), (0.0,), srgb=True)
    assert abs(int(sphere(light=shown)[32, 32]) - 128) <= 1  # linear 0.214 is mid grey
    assert abs(int(sphere(light=FLAT)[32, 32]) - 255) == 0


def test_encoding_and_decoding_are_inverse() -> None:
    levels = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(decoded(encoded(levels)), levels, atol=1e-6)


def test_the_nearer_surface_hides_the_farther() -> None:
    near, far = SQUARE * 0.5 + [0, 0, 10], SQUARE
    vertices, triangles = np.concatenate([near, far]), np.concatenate([TWO, TWO + 4])
    red, blue = np.tile([1.0, 0, 0], (4, 1)), np.tile([0, 0, 1.0], (4, 1))
    for order in (slice(None), slice(None, None, -1)):  # whatever is drawn first
        image = render(
            vertices[None], triangles[order], light=FLAT, camera=CAMERA, colours=np.concatenate([red, blue])
        )[0]
        assert (image[32, 32] == [255, 0, 0]).all()
        assert (image[32, 32 + 8] == [0, 0, 255]).all()
    behind = vertices * [1, 1, -1]
    image = render(behind[None], triangles, light=FLAT, camera=CAMERA, colours=np.concatenate([red, blue]))[0]
    assert (image[32, 32] == [0, 0, 255]).all()


def test_intersecting_surfaces_change_places_at_the_crossing() -> None:
    tilted = SQUARE @ Camera(yaw=30).rotation.T  # its right side is farther away
    vertices, triangles = np.concatenate([SQUARE, tilted]), np.concatenate([TWO, TWO + 4])
    colours = np.repeat([[1.0, 0, 0], [0, 0, 1.0]], 4, axis=0)
    image = render(vertices[None], triangles, light=FLAT, camera=CAMERA, colours=colours, supersample=1)[0]
    assert (image[32, 24:32] == [0, 0, 255]).all()
    assert (image[32, 32:40] == [255, 0, 0]).all()


def test_back_faces_hide_and_receive_ambient_light_only() -> None:
    light = Light(((0, 0, 1), (0, 0, -1)), ((0.6,), (0.3,)), (0.2,), (1.0,), (0.0,), srgb=False)
    front = render(SQUARE[None], TWO, light=light, camera=CAMERA)[0, 32, 32]
    back = render(SQUARE[None], TWO[:, ::-1], light=light, camera=CAMERA)[0, 32, 32]
    assert (front, back) == (round(0.8 * 255), round(0.2 * 255))


def test_boundary_of_a_square_covers_pixels_by_their_share() -> None:
    camera = Camera(width_mm=64)  # one millimetre a pixel
    moved = SQUARE + np.array([0.25, 0.5, 0])
    image = render(moved[None], TWO, light=FLAT, camera=camera, supersample=8)[0].astype(int)
    assert image.sum() / 255 == pytest.approx(40 * 40, rel=1e-3)
    row = image[32]
    assert (row[13:52] == 255).all()
    assert abs(row[12] - 0.75 * 255) <= 1
    assert abs(row[52] - 0.25 * 255) <= 1
    assert image[51, 32] == 128
    assert (image[:11] == 0).all()


def test_x_points_right_and_y_up() -> None:
    small = SQUARE * 0.2
    image = render(
        np.stack([small + np.array([30, 0, 0]), small + np.array([0, 30, 0])]), TWO, light=FLAT, camera=CAMERA
    )
    assert image[0, 32, 32 + 15] == 255
    assert image[1, 32 - 15, 32] == 255


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_no_gaps_and_no_overlaps_between_triangles(seed: int) -> None:
    """Any triangulation of a square, however its inner points lie, covers exactly the square."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.linspace(-20, 20, 8), np.linspace(-20, 20, 8)), -1)
    grid[1:-1, 1:-1] += rng.uniform(-2, 2, size=(6, 6, 2))
    cells = np.arange(64).reshape(8, 8)
    a, b, c, d = cells[:-1, :-1].ravel(), cells[:-1, 1:].ravel(), cells[1:, 1:].ravel(), cells[1:, :-1].ravel()
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    vertices = np.concatenate([grid.reshape(-1, 2), rng.normal(size=(64, 1))], axis=1)
    turned = Camera(width_mm=64)
    pieces = render(vertices[None], triangles, light=FLAT, camera=turned, supersample=3)
    whole = render(SQUARE[None], TWO, light=FLAT, camera=turned, supersample=3)
    np.testing.assert_array_equal(pieces, whole)


def test_degenerate_triangles_change_nothing() -> None:
    triangles = np.concatenate([[[0, 0, 1], [2, 2, 2]], TWO])
    vertices = np.concatenate([SQUARE, [[-30, 0, 5], [0, 0, 5], [30, 0, 5]]])
    sliver = np.concatenate([triangles, [[4, 5, 6]]])  # on one line, before the square
    expected = render(SQUARE[None], TWO, light=FRONT, camera=CAMERA)
    np.testing.assert_array_equal(render(vertices[None], sliver, light=FRONT, camera=CAMERA), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 3e38])
def test_a_wild_vertex_takes_only_its_triangles_with_it(bad: float) -> None:
    for coordinate in range(3):
        vertices = np.concatenate([SQUARE, SQUARE[:3] + np.array([0, 0, 1])])
        vertices[4, coordinate] = bad
        image = render(vertices[None], np.concatenate([TWO, [[4, 5, 6]]]), light=FRONT, camera=CAMERA)
        np.testing.assert_array_equal(image, render(SQUARE[None], TWO, light=FRONT, camera=CAMERA))


def test_surfaces_outside_the_image_and_reaching_over_its_edge() -> None:
    outside = render(SQUARE[None] + [500.0, 0, 0], TWO, light=FLAT, camera=CAMERA)
    assert not outside.any()
    covering = render(SQUARE[None] * 1000, TWO, light=FLAT, camera=CAMERA)
    assert (covering == 255).all()
    behind = render(
        SQUARE[None] - [0, 0, 1e5], TWO, light=FLAT, camera=CAMERA
    )  # an orthographic camera sees all depths
    np.testing.assert_array_equal(behind, render(SQUARE[None], TWO, light=FLAT, camera=CAMERA))


def test_turning_the_camera_is_turning_the_mesh() -> None:
    camera = Camera(width_mm=128, yaw=35, pitch=-20)
    head = SPHERE.vertices * [0.6, 1.0, 0.8] + [0, 5, 0]
    turned = head @ camera.rotation.T
    difference = render(head[None], SPHERE.faces, camera=camera).astype(int) - render(
        turned[None], SPHERE.faces, camera=CAMERA
    )
    assert np.abs(difference).max() <= 3  # rounding
    assert (camera.rotation @ [0, 0, 1])[0] > 0  # positive yaw looks to the viewer's right
    assert (Camera(pitch=20).rotation @ [0, 0, 1])[1] > 0  # positive pitch looks up


@pytest.mark.parametrize("yaw", [0.0, 40.0, 90.0])
def test_framing_holds_the_face(yaw: float) -> None:
    head = SPHERE.vertices * [0.6, 1.0, 0.8] + [100, -30, 7]
    image = render(head[None], SPHERE.faces, light=FLAT, camera=Camera.framing(head, yaw=yaw))[0]
    rows, columns = np.nonzero(image)
    assert (rows.min(), rows.max()) == (2, 61)
    assert rows.mean() == pytest.approx(31.5, abs=0.1)
    assert columns.mean() == pytest.approx(31.5, abs=0.1)


def test_framing_holds_every_face_but_not_the_strays() -> None:
    head = SPHERE.vertices * [0.6, 1.0, 0.8]
    faces = np.stack([head, 1.2 * head, head * 0.9, head + np.array([0, 20, 0]), head - np.array([0, 10, 0])])
    camera = Camera.framing(faces)
    image = render(faces, SPHERE.faces, light=FLAT, camera=camera)
    assert not image[:, [0, -1]].any()
    assert not image[:, :, [0, -1]].any()
    assert camera.width_mm < 1.1 * 130
    strays = np.concatenate([faces, [head + 1e6, head * 1e3, head * np.nan]])
    assert Camera.framing(strays).width_mm < 200
    assert Camera.framing(np.full((2, 5, 3), np.nan)).width_mm == Camera().width_mm


def test_batches_colours_and_threads_agree() -> None:
    rng = np.random.default_rng(0)
    faces = SPHERE.vertices + rng.normal(size=(5, 1, 3)) * 5
    colours = rng.uniform(size=(5, len(SPHERE.vertices), 3))
    one, three = (
        render(faces, SPHERE.faces, 32, light=CLAY, camera=CAMERA, colours=colours, threads=n) for n in (1, 3)
    )
    np.testing.assert_array_equal(one, three)
    assert one.shape == (5, 32, 32, 3)
    for face, colour, image in zip(faces, colours, one, strict=True):
        np.testing.assert_array_equal(
            render(face[None], SPHERE.faces, 32, light=CLAY, camera=CAMERA, colours=colour)[0], image
        )


def test_colours_are_interpolated_as_light() -> None:
    colours = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=float)
    shown = Light(FLAT.directions, FLAT.strengths, (1.0,), (1.0,), (0.0,), srgb=False)
    image = render(SQUARE[None], TWO, light=shown, camera=Camera(width_mm=40), colours=colours, supersample=4)[0]
    np.testing.assert_allclose(image[32, :, 0], (np.arange(64) + 0.5) / 64 * 255, atol=1)


def test_shapes_and_wrong_use() -> None:
    assert render(np.zeros((0, 4, 3)), TWO).shape == (0, 64, 64)
    assert render(SQUARE[None], np.zeros((0, 3), int)).max() == 0
    with pytest.raises(ValueError, match="shape"):
        render(SQUARE, TWO)
    with pytest.raises(ValueError, match="outside"):
        render(SQUARE[None], TWO + 1)
    with pytest.raises(ValueError, match="colours"):
        render(SQUARE[None], TWO, colours=np.zeros((3, 3)))


def test_the_measured_view_is_fixed() -> None:
    """Distances between image features mean something only as long as these numbers stay."""
    assert Camera() == FRONTAL == Camera(240.0, (0.0, 0.0, 0.0), 0.0, 0.0)
    assert Camera.frontal([[-60, -80, 0], [60, 110, 40]]) == Camera(240.0, (0.0, 15.0, 20.0))
    assert Camera.frontal([[-60, -150, 0], [60, 150, 40]]) == Camera(360.0, (0.0, 0.0, 20.0))
    assert Light(((0.3, 0.4, 1.0),), ((1.0,),), (0.0,), (1.0,), (0.0,), False) == LAMBERT
