"""Energies by wavelength of a set of faces, and what principal components leave of unseen people."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.data.summary import ALL_BANDS, COMPONENTS, band_name, measure_detail
from meshgan.errors import UsageError
from meshgan.geometry.align import Similarity
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


def test_faces_of_another_set_are_measured_wherever_they_lie(faces, tmp_path):
    own = faces.vertices[faces.split.test].astype(float)
    away = Similarity(1.0, Rotation.from_rotvec([0.1, 0.2, -0.1]).as_matrix(), np.array([9.0, 0, 0]))
    found = {}
    for name, vertices in (("own", own), ("moved", away(own)), ("lumps", own * (1 + 0.01 * np.sin(own[..., :1])))):
        with create_faceset(tmp_path / name, faces.template, len(own), faces.card) as writer:
            writer.append(vertices.astype(np.float32), [{"subject": f"S{i}"} for i in range(len(own))])
        found[name] = measure_detail(faces, FaceSet.open(tmp_path / name))
    plain, beside = measure_detail(faces), {name: detail.beside for name, detail in found.items()}
    np.testing.assert_allclose(found["lumps"].total, plain.total)
    assert beside["own"].measured == len(own)
    np.testing.assert_allclose(beside["moved"].total, beside["own"].total, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(beside["moved"].errors[64], beside["own"].errors[64], rtol=1e-2)
    assert beside["lumps"].beyond[3:].sum() > 2 * beside["own"].beyond[3:].sum() > 0
    assert "beside: beyond PCA-64" in found["lumps"].describe()
    assert found["lumps"].as_dict()["beside"]["faces_measured"] == len(own)
    other = icosphere(2)
    with create_faceset(tmp_path / "other", other, 1, faces.card) as writer:
        writer.append(other.vertices[None].astype(np.float32), [{"subject": "S"}])
    with pytest.raises(UsageError, match="another template"):
        measure_detail(faces, FaceSet.open(tmp_path / "other"))


def test_the_command_line(faces, tmp_path):
    picture = tmp_path / "spectrum.png"
    run = CliRunner().invoke(app, ["data", "info", str(faces.path), "--spectrum", str(picture), "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)["spectrum"]
    assert len(told["bands_mm"]) == len(told["total_mm2"]) == len(told["beyond_pca_64_mm2"]) == len(ALL_BANDS)
    assert picture.stat().st_size > 5000
    assert [int(count) for count in told["pca_error_mm"]] == [n for n in COMPONENTS if n < told["faces_learned_from"]]
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
