"""Energies by wavelength of a set of faces, and what principal components leave of unseen people."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.data.summary import ALL_BANDS, band_name, measure_detail
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh
from shapes import icosphere

RADIUS = 60.0


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A ball whose people differ by five smooth fields and by noise."""
    ball = icosphere(3)
    mesh = Mesh(RADIUS * ball.vertices, ball.triangles)
    rng = np.random.default_rng(0)
    smooth = np.stack([np.sin(k * mesh.vertices[:, k % 3] / RADIUS) for k in range(1, 6)])
    codes = rng.normal(size=(300, 5)) * 3
    vertices = mesh.vertices + (codes @ smooth)[..., None] * mesh.vertices / RADIUS
    vertices = vertices + 0.05 * rng.normal(size=vertices.shape)
    path = tmp_path_factory.mktemp("ball") / "set"
    card = Card(name="ball", source="a ball", licence="CC0-1.0", synthetic=True)
    with create_faceset(path, mesh, len(vertices), card) as writer:
        writer.append(vertices.astype(np.float32), [{"subject": f"S{i}"} for i in range(len(vertices))])
    return FaceSet.open(path)


def test_energies_add_up_and_components_take_what_is_smooth(faces):
    found = measure_detail(faces)
    away = faces.vertices[faces.split.test] - faces.normalisation.mean
    assert found.total.sum() == pytest.approx((away**2).sum(axis=2).mean(), rel=0.1)  # areas of a ball are alike
    assert found.total[0] > 10 * found.total[2:].sum()
    assert found.beyond.sum() < 0.02
    assert list(found.errors) == [8, 16, 32, 64, 128]
    assert found.errors[8] == pytest.approx(0.05 * np.sqrt(8 / np.pi), rel=0.1)  # noise alone
    assert (found.learned, found.measured) == (len(faces.split.train), len(faces.split.test))


def test_the_command_line(faces, tmp_path):
    picture = tmp_path / "spectrum.png"
    run = CliRunner().invoke(app, ["data", "info", str(faces.path), "--spectrum", str(picture), "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)["spectrum"]
    assert len(told["bands_mm"]) == len(told["total_mm2"]) == len(told["beyond_pca_64_mm2"]) == len(ALL_BANDS)
    assert picture.stat().st_size > 5000
    plain = CliRunner().invoke(app, ["data", "info", str(faces.path), "--spectrum", str(picture)])
    assert "64–32" in plain.output
    assert "principal components of" in plain.output


def test_bands_have_names():
    assert [band_name(band) for band in ALL_BANDS[:2]] == ["> 128", "128–64"]
    assert band_name((5.5, 0.0)) == "< 5.5"


def test_too_few_people_are_refused(tmp_path):
    mesh = icosphere(1)
    card = Card(name="one", source="a ball", licence="CC0-1.0", synthetic=True)
    with create_faceset(tmp_path / "one", mesh, 1, card) as writer:
        writer.append(mesh.vertices[None].astype(np.float32), [{"subject": "S"}])
    with pytest.raises(UsageError, match="too few people"):
        measure_detail(FaceSet.open(tmp_path / "one"))
