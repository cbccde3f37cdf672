"""What judges details: energies by wavelength, traits, and what real faces never do."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from test_networks import DETAILED, detailed, faces, seeded

from meshgan.geometry.laplacian import mass
from meshgan.geometry.mesh import Mesh
from meshgan.nn import paths
from meshgan.nn.details import (
    CUT,
    DEGREE,
    FINE,
    REGIONS,
    SIGMA,
    Details,
    Spectrum,
    Traits,
    around,
    bernstein,
    freedom,
    gaussian_mean,
    regions,
    score,
)
from shapes import grid


@pytest.fixture(scope="module")
def sphere() -> Mesh:
    ball = trimesh.creation.icosphere(3, radius=40.0)  # 642 vertices: more than have exact harmonics
    return Mesh(ball.vertices, ball.faces)


def test_gradients_of_noise_are_those_of_the_plain_path() -> None:
    network = detailed()
    codes = torch.randn(2, DETAILED.code, generator=seeded())
    noise = torch.randn(2, network.noise_size, generator=seeded())

    def gradients() -> list[torch.Tensor]:
        made = network(codes, noise)
        return list(torch.autograd.grad(network.beyond(made).sigmoid().mean(), list(network.parameters())))

    usual = gradients()
    with paths.forced("rows"):
        plain = gradients()
    for one, other in zip(usual, plain, strict=True):
        assert other.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_energies_are_relative_to_real_faces_and_follow_sizes(sphere: Mesh) -> None:
    spectrum, real = Spectrum(sphere, np.ones((642, 3), np.float32)), faces(40, 642)
    spectrum.measure(real)
    torch.testing.assert_close(spectrum(real).mean(dim=0), torch.ones_like(spectrum.real))
    torch.testing.assert_close(spectrum(0.5 * real), 0.25 * spectrum(real))


@pytest.mark.parametrize("degree", [1, 4, DEGREE])
def test_filters_are_the_terms_of_a_binomial_and_add_up_to_all(degree: int) -> None:
    kept = np.linspace(-0.3, 1, 14)  # eigenvalues of a mean
    of_powers = bernstein(degree).astype(float) @ kept ** np.arange(degree + 1)[:, None]
    one_by_one = [math.comb(degree, i) * (1 - kept) ** i * kept ** (degree - i) for i in range(degree + 1)]
    np.testing.assert_allclose(of_powers, one_by_one, atol=1e-12)
    np.testing.assert_allclose(of_powers.sum(axis=0), 1.0)


def test_means_around_a_vertex_count_areas_and_distances_along_edges(sphere: Mesh) -> None:
    mean, areas = gaussian_mean(sphere).toarray(), mass(sphere)
    np.testing.assert_allclose(mean.sum(axis=1), 1.0)
    graph = np.full((642, 642), np.inf)
    i, j = sphere.edges.T
    graph[i, j] = graph[j, i] = np.linalg.norm(sphere.vertices[i] - sphere.vertices[j], axis=1)
    sigma = SIGMA * graph[i, j].mean()
    near = (graph[0] < CUT * sigma).nonzero()[0]
    assert len(near) >= 5
    ratio = np.exp(-((graph[0, near] / sigma) ** 2) / 2) * areas[near] / areas[0]
    np.testing.assert_allclose(mean[0, near] / mean[0, 0], ratio, rtol=1e-6)
    lonely = Mesh(np.vstack([np.eye(3), [[9.0, 9.0, 9.0]]]), np.array([[0, 1, 2]]))
    np.testing.assert_array_equal(gaussian_mean(lonely).toarray()[3], [0, 0, 0, 1])


def test_rough_fields_weigh_in_the_last_filter_and_smooth_ones_in_the_first_band(sphere: Mesh) -> None:
    spectrum = Spectrum(sphere, np.ones((642, 3), np.float32))
    rough = faces(20, 642)
    spectrum.measure(rough)
    smooth = torch.from_numpy(sphere.vertices.astype(np.float32))[None]
    energies = spectrum(smooth)[0]
    assert energies[0] > 1000 * energies[-1]
    assert not torch.equal(spectrum(rough), spectrum(smooth))


def by_region(mesh: Mesh, waves: np.ndarray) -> list[float]:
    """Mean energies of fields (N, V, 3), times roots of areas, of regions: along normals of the mesh, then across."""
    along = np.einsum("nvc,vc->nv", waves, mesh.vertex_normals)[:, :, None] * mesh.vertex_normals
    places = regions(mesh)
    parts = [(part, places == place) for part in (along, waves - along) for place in np.unique(places)]
    return [np.square(part[:, inside]).sum() / len(waves) for part, inside in parts]


def test_waves_along_normals_are_told_from_those_across(sphere: Mesh) -> None:
    spectrum, details = Spectrum(sphere, np.ones((642, 3), np.float32)), faces(20, 642)
    spectrum.measure(details)
    dents = torch.from_numpy(sphere.vertex_normals.astype(np.float32)) * details[:, :, :1]
    assert not spectrum.held.shape[0]
    waves = spectrum(dents).mean(dim=0)[len(spectrum.sizes) :].view(DEGREE + 1, 2, -1)
    along, across = waves[-1]  # the shortest, beside which no surface is bent
    assert along.min() > 10 * across.max() > 0


def test_energies_are_those_of_bands_of_harmonics_and_of_filters_of_the_rest(sphere: Mesh) -> None:
    """By the definition, with dense matrices; the bands are each a fixed ratio wide."""
    ones, details = np.ones((642, 3), np.float32), faces(3, 642)
    spectrum = Spectrum(sphere, ones)
    roots = np.sqrt(mass(sphere))
    smooth = gaussian_mean(sphere).toarray()
    rough = np.eye(642) - smooth
    columns = details.numpy() * roots[:, None]
    harmonics = spectrum.harmonics.numpy().astype(np.float64)
    np.testing.assert_allclose(harmonics @ harmonics.T, np.eye(len(harmonics)), atol=1e-4)
    codes = np.einsum("kv,nvc->nkc", harmonics, columns)
    rest = columns - np.einsum("kv,nkc->nvc", harmonics, codes)
    ends = np.cumsum([0, *spectrum.sizes])
    assert (ends[1], ends[-1], len(spectrum.sizes)) == (9, len(harmonics), 10)
    ratios = ends[2:] / ends[1:-1]
    np.testing.assert_allclose(ratios, (len(harmonics) / 9) ** (1 / 9), rtol=0.07)
    expected = [np.square(codes[:, start:stop]).sum() / 3 for start, stop in pairwise(ends)]
    for power in range(7):
        kernel = np.linalg.matrix_power(rough, power) @ np.linalg.matrix_power(smooth, 6 - power) * math.comb(6, power)
        waves = np.einsum("uv,nvc->nuc", kernel, rest / roots[:, None]) * roots[:, None]
        expected += by_region(sphere, waves)
    np.testing.assert_allclose(spectrum(details).mean(dim=0).numpy(), expected, rtol=1e-3)


def test_waves_that_only_small_triangles_hold_are_measured_where_these_are() -> None:
    flat = grid(30, 30)
    points = flat.vertices.copy()
    points[:, 0] = 29 * (points[:, 0] / points[:, 0].max()) ** 3  # columns ever denser towards x = 0
    mesh = Mesh(points, flat.triangles)
    spectrum = Spectrum(mesh, np.ones_like(points, np.float32))
    held, regional = spectrum.held.shape[0], spectrum.areas.shape[0]
    assert 0 < held < regional
    assert len(spectrum.real) == len(spectrum.sizes) + 2 * ((DEGREE + 1) * regional + held)
    rough = np.eye(961) - gaussian_mean(mesh, FINE).toarray()
    roots, details = np.sqrt(mass(mesh)), faces(3, 961)
    harmonics = spectrum.harmonics.numpy().astype(np.float64)
    columns = details.numpy() * roots[:, None]
    rest = columns - np.einsum("kv,nkc->nvc", harmonics, np.einsum("kv,nvc->nkc", harmonics, columns))
    waves = np.einsum("uv,nvc->nuc", rough @ rough, rest / roots[:, None]) * roots[:, None]
    expected = [energy for energy in by_region(mesh, waves) if energy > 0]
    np.testing.assert_allclose(spectrum(details).mean(dim=0).numpy()[-2 * held :], expected, rtol=1e-3)


def test_regions_are_patches_of_like_size_and_the_border() -> None:
    mesh = grid(20, 20)
    places = regions(mesh)
    border = np.zeros(len(places), dtype=bool)
    border[mesh.boundary_vertices] = True
    beside = np.unique(mesh.edges[border[mesh.edges].any(axis=1)])
    np.testing.assert_array_equal(np.flatnonzero(places == 0), beside)
    sizes = np.bincount(places)
    assert len(sizes) == REGIONS + 1
    assert sizes[1:].min() * 10 > sizes[1:].max() > 0
    assert regions(Mesh(np.eye(3), [[0, 1, 2]])).tolist() == [0, 0, 0]


def test_regions_are_smaller_where_triangles_are() -> None:
    flat = grid(30, 30)
    points = flat.vertices.copy()
    fine = points[:, 0] < 15
    points[fine, 0] = 12 + points[fine, 0] / 5  # halves of as many vertices, one of them five times as dense
    mesh = Mesh(points, flat.triangles)
    places = regions(mesh)
    rarer, denser = (len(np.unique(places[half & (places > 0)])) for half in (~fine, fine))
    by_area = np.ptp(points[fine, 0]) / np.ptp(points[~fine, 0])
    assert denser / rarer > 2 * by_area
    lengths = around(mesh)
    assert lengths[fine].mean() < 0.8 * lengths[~fine].mean()
    assert around(Mesh(np.eye(3), [[0, 1, 2]])).tolist() == pytest.approx([2**0.5] * 3)


def test_harmonics_and_what_they_leave_count_alike(sphere: Mesh) -> None:
    spectrum = Spectrum(sphere, np.ones((642, 3), np.float32))
    count = len(spectrum.sizes)
    assert spectrum.shares[:count].sum().item() == pytest.approx(0.5)
    assert spectrum.shares[count:].sum().item() == pytest.approx(0.5)
    plane = grid(8, 8)  # whose harmonics are all exact
    few = Spectrum(plane, np.ones_like(plane.vertices, np.float32))
    assert few.smoothing is None
    assert few.shares.sum().item() == pytest.approx(1.0)
    assert len(few.shares) == len(few.sizes)


def test_what_real_faces_never_do_stays_finite(sphere: Mesh) -> None:
    real = faces(5, 642)
    real[:, 7] = 0.0
    place = Details(sphere, real, np.ones((642, 3), np.float32)).deviations
    torch.testing.assert_close(place[7], torch.full((3,), 1e-3) * place.square().mean().sqrt(), rtol=1e-3, atol=0)
    torch.testing.assert_close(place[8], real[:, 8].square().mean(dim=0).sqrt())


def test_regions_in_which_real_faces_have_no_details_stay_finite(sphere: Mesh) -> None:
    spectrum, real = Spectrum(sphere, np.ones((642, 3), np.float32)), faces(20, 642)
    real[:, sphere.vertices[:, 0] > 0] = 0.0
    spectrum.measure(real)
    details = faces(2, 642).requires_grad_()
    energies = spectrum(details)
    (slope,) = torch.autograd.grad(energies.sum(), details)
    assert torch.isfinite(energies).all()
    assert torch.isfinite(slope).all()
    spectrum.measure(torch.zeros(3, 642, 3))
    assert torch.isfinite(spectrum(torch.zeros(2, 642, 3))).all()


def test_stiff_parts_have_no_details_and_what_lies_on_them_has_few(sphere: Mesh) -> None:
    ball = trimesh.creation.icosphere(2, radius=10.0)  # 162 vertices, 1 mm inside of the larger one's top
    points = np.vstack([sphere.vertices, ball.vertices + np.array([0.0, 0.0, 29.0])])
    pair = Mesh(points, np.vstack([sphere.triangles, ball.faces + 642]))
    rng = np.random.default_rng(0)
    details = 0.5 * rng.standard_normal((50, 804, 3))
    assert freedom(pair, details).min() == 1.0  # both parts bend
    maps = 0.01 * rng.standard_normal((50, 3, 3))
    details[:, 642:] = ball.vertices @ maps + 0.3 * rng.standard_normal((50, 1, 3))
    free = freedom(pair, details.astype(np.float32))[:, 0]
    assert not free[642:].any()
    size = np.sqrt(np.square(details[:, :642]).sum(axis=2).mean(axis=0))
    top = sphere.vertices[:, 2].argmax()
    assert free[top] == pytest.approx(1.0 / (3 * size[top]), rel=0.05)
    assert free[:642][sphere.vertices[:, 2] < 30].min() == 1.0
    details[:, :642] = details[:, :1]
    assert freedom(pair, details)[:642].max() > 0  # the largest part is never stiff


def test_the_score_is_least_for_the_distribution_of_real_faces() -> None:
    shares, count = torch.tensor([0.25, 0.75]), 100_000

    def drawn(mean: float, deviation: float, seed: int) -> torch.Tensor:
        return mean + deviation * torch.randn(count, 2, generator=seeded(seed))

    real = drawn(1.0, 0.3, 0)
    found = {of: float(score(drawn(*of, 1), drawn(*of, 2), real, shares)) for of in [(1.0, s) for s in (0.0, 0.3, 0.9)]}
    found |= {of: float(score(drawn(*of, 1), drawn(*of, 2), real, shares)) for of in ((0.8, 0.3), (1.2, 0.3))}
    assert min(found, key=found.__getitem__) == (1.0, 0.3)
    one = float((drawn(0.0, 0.3, 0) - drawn(0.0, 0.3, 1)).abs().mean())
    assert one == pytest.approx(0.6 / math.sqrt(math.pi), rel=0.02)  # mean |x − x'| of N(0, 0.3²)
    alone = float(score(real[:, :1], drawn(1.0, 0.3, 1)[:, :1], drawn(1.0, 0.3, 2)[:, :1], torch.ones(1)))
    assert alone == pytest.approx(one, rel=0.02)  # of a single number both parts are half of it


def test_traits_are_coordinates_of_details_and_miss_nothing_of_them() -> None:
    scale = np.full((30, 3), 2.0, np.float32)
    real = torch.randn(40, 3, generator=seeded()) @ torch.randn(3, 90, generator=seeded(1))
    traits = Traits(4, scale)  # one more than there are
    traits.measure(real.view(40, 30, 3) - real.view(40, 30, 3).mean(dim=0))
    details = (real - real.mean(dim=0)).view(40, 30, 3)
    codes = traits(details)
    torch.testing.assert_close(codes[:, :3].std(dim=0), torch.ones(3), rtol=1e-4, atol=1e-4)
    assert codes[:, 3].abs().max() == 0
    assert traits.missed(details, details) < 1e-8
    assert float(traits.missed(details, torch.zeros_like(details))) == pytest.approx(1.0)
