"""What judges details: the critic of patches and the energies by wavelength."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from operators import hierarchy
from test_networks import DETAILED, SMALL, detailed, faces, seeded

from meshgan.geometry.laplacian import band_energies, cotangent_weights, mass
from meshgan.geometry.mesh import Mesh
from meshgan.nn import paths
from meshgan.nn.patches import PatchCritic, Spectrum


@pytest.fixture(scope="module")
def sphere() -> Mesh:
    ball = trimesh.creation.icosphere(3, radius=40.0)  # 642 vertices: more than have exact harmonics
    return Mesh(ball.vertices, ball.faces)


def test_gradients_of_noise_and_patches_are_those_of_the_plain_path() -> None:
    network, critic = detailed(), PatchCritic(hierarchy(), SMALL, seeded())
    codes = torch.randn(2, DETAILED.code, generator=seeded())
    noise = torch.randn(2, network.noise_size, generator=seeded())

    def gradients() -> list[torch.Tensor]:
        made = network(codes, noise)
        loss = critic(made, network.beyond(made)).sigmoid().mean()
        return list(torch.autograd.grad(loss, [*network.parameters(), *critic.parameters()]))

    usual = gradients()
    with paths.forced("rows"):
        plain = gradients()
    for one, other in zip(usual, plain, strict=True):
        assert other.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_critic_of_patches_sees_real_details_at_unit_size(sphere: Mesh) -> None:
    critic = PatchCritic(hierarchy((642, 60, 30, 15, 8)), SMALL)
    real = 3.0 * faces(50, 642)
    critic.measure(real, Spectrum(sphere, np.ones((642, 3), np.float32)))
    for seen in critic.seen(real):
        torch.testing.assert_close(seen.square().mean(dim=0), torch.ones(642, 3), rtol=1e-4, atol=1e-4)
    assert critic(real, real).shape == (50, 60 + 30 + 15 + 8)


def test_energies_are_relative_to_real_faces_and_follow_sizes(sphere: Mesh) -> None:
    spectrum, real = Spectrum(sphere, np.ones((642, 3), np.float32)), faces(40, 642)
    spectrum.measure(real)
    torch.testing.assert_close(spectrum(real), torch.ones_like(spectrum.real))
    torch.testing.assert_close(spectrum(0.5 * real), torch.full_like(spectrum.real, 0.25))


def test_energies_before_they_are_relative_are_those_of_the_metric(sphere: Mesh) -> None:
    scale = np.random.default_rng(0).uniform(0.5, 2.0, (642, 3)).astype(np.float32)
    details = faces(3, 642)
    found = Spectrum(sphere, scale)(details)[:-4].sum() / sphere.areas.sum()
    millimetres = details.numpy() * scale
    whole = band_energies(millimetres, sphere, [(np.inf, 0.0)]).mean()
    assert found.item() == pytest.approx(whole, rel=1e-3)


def test_rough_fields_weigh_in_the_last_moment_and_smooth_ones_in_the_first_band(sphere: Mesh) -> None:
    spectrum = Spectrum(sphere, np.ones((642, 3), np.float32))
    rough = faces(20, 642)
    spectrum.measure(rough)
    smooth = torch.from_numpy(sphere.vertices.astype(np.float32))[None]
    energies = spectrum(smooth)
    assert energies[0] > 1000 * energies[-1]
    assert not torch.equal(spectrum(rough), spectrum(smooth))


def test_energies_are_those_of_bands_of_harmonics_and_moments_of_the_rest(sphere: Mesh) -> None:
    """By the definition, with dense matrices; the bands are each a fixed ratio wide."""
    ones, details = np.ones((642, 3), np.float32), faces(3, 642)
    spectrum = Spectrum(sphere, ones)
    roots = np.sqrt(mass(sphere))
    weighted = cotangent_weights(sphere).toarray() / np.outer(roots, roots)
    operator = 2 * weighted / (1.01 * np.linalg.eigvalsh(weighted)[-1])
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
    for power in range(5):
        waves = np.einsum("uv,nvc->nuc", np.linalg.matrix_power(operator, power), rest)
        expected.append((rest * waves).sum() / 3)
    np.testing.assert_allclose(spectrum(details).numpy(), expected, rtol=1e-3)


def test_what_real_faces_never_do_stays_finite(sphere: Mesh) -> None:
    critic, real = PatchCritic(hierarchy((642, 60, 30, 15, 8)), SMALL), faces(5, 642)
    real[:, 7] = 0.0
    critic.measure(real, Spectrum(sphere, np.ones((642, 3), np.float32)))
    place = critic.deviations[0]
    torch.testing.assert_close(place[7], torch.full((3,), 1e-3) * place.square().mean().sqrt(), rtol=1e-3, atol=0)
    torch.testing.assert_close(critic.deviations[0, 8], real[:, 8].square().mean(dim=0).sqrt())
