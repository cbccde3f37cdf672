"""The penalty on folds and crossings: it sees what the metric sees, and its gradient leads out of it."""

import numpy as np
import pytest
import torch

from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import intersecting
from meshgan.nn.validity import REACH, Validity, pierces
from shapes import bumpy, grid, together

SMOOTH = grid(6, 6)


def units(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mm per unit of faces that are given in mm."""
    return np.zeros_like(mesh.vertices, np.float32), np.ones_like(mesh.vertices, np.float32)


def of(mesh: Mesh, smooth: list | None = None) -> Validity:
    real = np.stack([mesh.vertices] * 3).astype(np.float32)
    return Validity(mesh, *units(mesh), real, real if smooth is None else np.stack(smooth).astype(np.float32))


def field(*meshes: Mesh) -> torch.Tensor:
    return torch.from_numpy(np.stack([mesh.vertices for mesh in meshes]).astype(np.float32)).requires_grad_()


def two_sheets(distance: float) -> Mesh:
    """A plane, and hills over it whose feet stand at this distance: below it where it is negative."""
    plane = grid(5, 5)
    hills = bumpy(5, 5, seed=1)
    height = hills.vertices[:, 2] - hills.vertices[:, 2].min() + distance
    return together(plane, Mesh(np.c_[hills.vertices[:, :2] + [0.31, 0.17], height], hills.triangles[:, ::-1]))


def test_a_whole_surface_has_neither() -> None:
    folds, crossings = of(SMOOTH)(field(SMOOTH, SMOOTH))
    assert (folds.item(), crossings.item()) == (0.0, 0.0)


def test_a_vertex_pulled_over_its_neighbours_is_a_fold_and_the_gradient_takes_it_back() -> None:
    pulled = SMOOTH.vertices.copy()
    inner = int(np.argmin(np.linalg.norm(pulled - pulled.mean(axis=0), axis=1)))
    pulled[inner] += [1.6, 0.3, 0.4]
    faces, penalty = field(SMOOTH.with_vertices(pulled)), of(SMOOTH)
    before = penalty(faces)[0]
    assert before > 0.3
    for _ in range(60):
        (slope,) = torch.autograd.grad(penalty(faces)[0], faces)
        faces = (faces - 0.02 * slope).detach().requires_grad_()
    assert penalty(faces)[0] < 0.5 * before


def test_folds_that_real_faces_have_are_nobodys_fault() -> None:
    pulled = SMOOTH.vertices.copy()
    pulled[14] += [1.6, 0.3, 0.0]
    both = np.stack([SMOOTH.vertices, pulled]).astype(np.float32)
    penalty = Validity(SMOOTH, *units(SMOOTH), both, both)
    assert penalty(field(SMOOTH.with_vertices(pulled)))[0] == 0.0


def test_crossings_are_counted_and_the_gradient_draws_them_apart() -> None:
    apart, through = two_sheets(0.1), two_sheets(-0.15)
    assert not intersecting(apart.vertices[None], apart.triangles).any()
    assert intersecting(through.vertices[None], through.triangles).any()
    penalty = of(apart, smooth=[through.vertices])
    assert penalty(field(apart))[1] == 0.0
    faces = field(through, apart)
    found = penalty(faces)[1].item()
    assert found == pytest.approx(crossing_pairs(through, apart) / 2)
    for _ in range(60):
        (slope,) = torch.autograd.grad(penalty(faces)[1], faces)
        faces = (faces - 0.01 * slope).detach().requires_grad_()
    assert penalty(faces)[1] <= 0.1 * found
    torch.testing.assert_close(faces[1], field(apart)[0], rtol=0, atol=0)  # what crosses nothing is left alone


def crossing_pairs(mesh: Mesh, template: Mesh) -> int:
    """Of triangles without a common corner that are near each other in the template, as the metric sees two alone."""
    corners = template.vertices[template.triangles]
    near = REACH * np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).mean()
    middles = corners.mean(axis=1)
    pairs = [
        mesh.vertices[np.r_[one, other]]
        for i, one in enumerate(mesh.triangles)
        for j, other in enumerate(mesh.triangles[:i])
        if not set(one) & set(other) and np.linalg.norm(middles[i] - middles[j]) < near
    ]
    return int(intersecting(np.stack(pairs), np.arange(6).reshape(2, 3)).any(axis=1).sum())


def test_nothing_is_looked_at_where_smooth_faces_do_not_cross() -> None:
    through = two_sheets(-0.15)
    penalty = of(two_sheets(0.1))
    assert len(penalty.candidates) == 0
    folds, crossings = penalty(field(through))
    assert crossings == 0.0
    assert torch.isfinite(folds)


def test_a_triangle_is_pierced_as_the_metric_says() -> None:
    rng = np.random.default_rng(0)
    six = rng.normal(size=(400, 6, 3))
    expected = [intersecting(one[None], np.arange(6).reshape(2, 3)).any() for one in six]
    one, other = torch.from_numpy(six.transpose(1, 2, 0)).float().split(3)
    found = pierces(one, other) | pierces(other, one)
    assert found.tolist() == expected
    assert 50 < sum(expected) < 350


def test_degenerate_triangles_give_finite_gradients() -> None:
    faces = field(SMOOTH.with_vertices(np.zeros_like(SMOOTH.vertices)))
    folds, crossings = of(SMOOTH)(faces)
    (slope,) = torch.autograd.grad(folds + crossings, faces)
    assert torch.isfinite(slope).all()
