"""What judges details: the critic of patches and the energies by wavelength."""

import numpy as np
import pytest
import torch
import trimesh
from operators import hierarchy
from test_networks import DETAILED, SMALL, detailed, faces, seeded

from meshgan.geometry.laplacian import band_energies
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
