"""Holes are told from rims, and a dark cone lies behind each hole."""

import numpy as np
import pytest
import trimesh

from meshgan.geometry.mesh import Mesh
from meshgan.view.figures import DARK, DEPTH, holes, tiles, with_backing
from meshgan.view.raster import Camera

CELLS = np.arange(64).reshape(8, 8)
A, B, C, D = (part.ravel() for part in (CELLS[:-1, :-1], CELLS[:-1, 1:], CELLS[1:, 1:], CELLS[1:, :-1]))
SHEET = np.concatenate([np.stack([A, B, C], axis=1), np.stack([A, C, D], axis=1)])
X, Y = (axis.ravel() for axis in np.meshgrid(np.linspace(-35, 35, 8), np.linspace(-35, 35, 8)))
FLAT = np.stack([X, Y, np.zeros(64)], axis=1)
INNER = [27, 28, 35, 36]  # the corners of the cell in the middle


def holed(cell: int = 24) -> np.ndarray:
    """The sheet without one of its 49 cells."""
    return np.delete(SHEET, [cell, 49 + cell], axis=0)


def test_the_rim_is_no_hole() -> None:
    assert holes(SHEET, 64) == []
    assert holes(np.asarray(trimesh.creation.icosphere(2).faces), 162) == []


def test_a_hole_is_found_and_its_filling_faces_outwards() -> None:
    (edges,) = holes(holed(), 64)
    assert sorted(edges[:, 0]) == sorted(edges[:, 1]) == INNER
    vertices, corners, _ = with_backing(FLAT[None], holed(), np.ones((64, 3)))
    closed = Mesh(vertices[0], corners)
    assert len(corners) == len(SHEET) - 2 + 4
    assert (closed.triangle_normals[-4:, 2] > 0).all()


@pytest.mark.parametrize("cell", [8, 24, 40])
def test_each_hole_of_each_part_counts(cell: int) -> None:
    two = np.concatenate([holed(), holed(cell) + 64])
    assert sorted(len(edges) for edges in holes(two, 128)) == [4, 4]


def test_the_tip_lies_behind_the_middle() -> None:
    faces = np.stack([FLAT, FLAT * 2 + np.array([0, 0, 5.0])])
    vertices, corners, colours = with_backing(faces, holed(), np.ones((64, 3)))
    assert vertices.shape == (2, 64 + 5, 3)
    np.testing.assert_array_equal(vertices[:, :64], faces)
    np.testing.assert_allclose(vertices[:, -1], [[0, 0, -10 * DEPTH], [0, 0, 5 - 20 * DEPTH]], atol=1e-5)
    np.testing.assert_allclose(colours[64:], np.tile(DARK, (5, 1)))
    assert corners.max() == 68


def test_pictures_are_dark_in_holes_and_white_outside() -> None:
    image = tiles(FLAT[None], holed(), 64, camera=Camera(width_mm=80))[0]
    assert image[32, 32].max() < 60
    assert image[10, 10].min() > 120
    assert (image[0, 0] == 255).all()
