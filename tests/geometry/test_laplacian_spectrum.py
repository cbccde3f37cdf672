"""Energies by wavelength, against all harmonics of a mesh and against waves of a known length."""

from functools import cache

import numpy as np
import pytest

from meshgan.errors import UsageError
from meshgan.geometry.laplacian import BANDS, BandFilter, cotangent_weights, mass
from meshgan.geometry.mesh import Floats, Mesh
from shapes import bumpy, grid, icosphere, together

ALL = ((np.inf, 128.0), *BANDS)


@cache
def all_harmonics(mesh: Mesh) -> tuple[Floats, Floats]:
    """Eigenvalues and eigenvectors (columns) of the symmetric form, over the vertices that have an area."""
    areas = mass(mesh)
    used = areas > 0
    roots = np.sqrt(areas[used])
    values, vectors = np.linalg.eigh(cotangent_weights(mesh).toarray()[np.ix_(used, used)] / np.outer(roots, roots))
    return values, vectors


def by_all_harmonics(displacements: Floats, mesh: Mesh, bands: tuple[tuple[float, float], ...]) -> Floats:
    """The definition: every eigenvector, sharp edges."""
    areas = mass(mesh)
    used = areas > 0
    roots = np.sqrt(areas[used])
    values, vectors = all_harmonics(mesh)
    codes = np.einsum("vk,nvc->nkc", vectors * roots[:, None], displacements[:, used])
    wavelengths = 2 * np.pi / np.sqrt(np.maximum(values, 1e-30))
    energies = [
        np.square(codes[:, (wavelengths <= long) & (wavelengths > short)]).sum(axis=(1, 2)) for long, short in bands
    ]
    return np.stack(energies, axis=1) / areas.sum()


def face_like(mesh: Mesh, count: int, seed: int = 0) -> Floats:
    """Displacements whose energy falls with the wavelength as that of faces does, about eight times an octave."""
    roots = np.sqrt(mass(mesh))
    values, vectors = all_harmonics(mesh)
    strength = (1e-3 + np.maximum(values, 0.0)) ** -1.25
    codes = np.random.default_rng(seed).standard_normal((count, len(values), 3)) * strength[None, :, None]
    return np.einsum("vk,nkc->nvc", vectors / roots[:, None], codes)


@pytest.fixture(scope="module")
def hills() -> Mesh:
    mesh = bumpy(39, 34)  # 1,400 vertices, as far apart as those of a face
    return mesh.with_vertices(3.0 * mesh.vertices)


@pytest.fixture(scope="module")
def prepared(hills: Mesh) -> BandFilter:
    return BandFilter.of(hills, ALL)


def test_filters_agree_with_all_harmonics(hills: Mesh, prepared: BandFilter) -> None:
    displacements = face_like(hills, 12)
    found, expected = prepared.energies(displacements), by_all_harmonics(displacements, hills, ALL)
    assert prepared.matrix is not None and len(prepared.harmonics) < 300  # it did filter
    exact = [i for i, (_, short) in enumerate(ALL) if short >= 32]
    np.testing.assert_allclose(found[:, exact], expected[:, exact], rtol=1e-3)
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), rtol=0.03)  # soft edges move little
    np.testing.assert_allclose(found, expected, rtol=0.3, atol=1e-6)


def test_bands_add_up_to_the_mean_square(hills: Mesh, prepared: BandFilter) -> None:
    displacements = face_like(hills, 5) + 7.0
    areas = mass(hills)
    square = np.einsum("v,nvc->n", areas, displacements**2) / areas.sum()
    np.testing.assert_allclose(prepared.energies(displacements).sum(axis=1), square, rtol=1e-4)


def test_a_wave_on_a_plane_lies_in_the_band_of_its_length() -> None:
    plane = grid(60, 30)
    plane = plane.with_vertices(3.0 * plane.vertices)  # 180 × 90 mm; a wave that fits it is one harmonic
    lengths = np.array([90.0, 45.0, 22.0, 13.0])
    waves = np.round(180 / lengths * 2) / 2
    along = 0.3 * np.cos(2 * np.pi * waves[:, None] * plane.vertices[:, 0] / 180)
    energies = BandFilter.of(plane).energies(along[:, :, None] * np.array([1.0, 0.0, 0.0]))
    for band, row in enumerate(energies):
        assert row.argmax() == band
        assert row[band] == pytest.approx(0.3**2 / 2, rel=0.05)
        assert np.delete(row, band).sum() < 0.01 * row[band]


def test_quiet_bands_are_not_drowned_by_loud_ones(hills: Mesh, prepared: BandFilter) -> None:
    """A smooth movement of 5 mm must not show as detail: the finest bands of faces are 10,000 times weaker."""
    x = hills.vertices[:, 0]
    smooth = 5.0 * np.sin(np.pi * x / x.max())[None, :, None] * np.ones(3)
    assert prepared.energies(smooth)[0, 3:].sum() < by_all_harmonics(smooth, hills, ALL)[0, 3:].sum() + 1e-5


def test_degenerate_harmonics_components_and_lonely_vertices() -> None:
    ball = icosphere(3, radius=40.0)
    other = ball.with_vertices(ball.vertices + np.array([200.0, 0.0, 0.0]))
    pair = together(ball, other, Mesh([[0.0, 0.0, 0.0]], np.zeros((0, 3))))  # two equal balls and a lonely vertex
    generator = np.random.default_rng(0)
    fields = generator.standard_normal((4, len(pair.vertices), 3))
    found, expected = BandFilter.of(pair, ALL).energies(fields), by_all_harmonics(fields, pair, ALL)
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=1e-2)
    np.testing.assert_allclose(found.sum(axis=1), expected.sum(axis=1), rtol=1e-4)


def test_turning_a_displacement_changes_nothing(hills: Mesh, prepared: BandFilter) -> None:
    displacements = face_like(hills, 2)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    np.testing.assert_allclose(
        prepared.energies(displacements @ turn), prepared.energies(displacements), rtol=1e-3, atol=1e-7
    )


def test_small_meshes_are_exact() -> None:
    mesh = bumpy(9, 7)
    fields = np.random.default_rng(0).standard_normal((3, len(mesh.vertices), 3))
    bands = ((np.inf, 4.0), (4.0, 2.0), (2.0, 0.0))
    np.testing.assert_allclose(
        BandFilter.of(mesh, bands).energies(fields), by_all_harmonics(fields, mesh, bands), rtol=1e-4
    )


def test_nonsense_is_refused() -> None:
    mesh = bumpy(9, 7)
    with pytest.raises(UsageError, match="pair of wavelengths"):
        BandFilter.of(mesh, ((8.0, 16.0),))
    with pytest.raises(UsageError, match="expected displacements"):
        BandFilter.of(mesh).energies(np.zeros((1, 5, 3)))
    with pytest.raises(UsageError, match="without area"):
        BandFilter.of(Mesh(np.zeros((3, 3)), [[0, 1, 2]]))
