"""`meshgan data scan`: raw scans with a known truth."""

import csv

import numpy as np
import pytest
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.corpora.basis import face_template
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import read_mesh
from meshgan.geometry.surface import closest_points
from meshgan.registration.fake_scans import make_scans


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "set"
    template = face_template()
    card = Card(name="x", source="x", licence="x", synthetic=True)
    with create_faceset(path, template, 3, card) as writer:
        sizes = np.array([0.95, 1.0, 1.05], dtype=np.float32)[:, None, None]
        writer.append(sizes * template.vertices.astype(np.float32), [{"subject": name} for name in "abc"])
    return FaceSet.open(path)


def test_the_truth_lays_the_face_onto_its_scan(faces, tmp_path):
    made = CliRunner().invoke(app, ["data", "scan", str(faces.path), str(tmp_path / "out"), "--count", "2"])
    assert made.exit_code == 0, made.output
    with (tmp_path / "out" / "truth.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    for row in rows:
        scan = read_mesh(tmp_path / "out" / row["file"], "m")
        matrix = np.array([[float(row[f"m{i}{j}"]) for j in range(4)] for i in range(3)]) * 1000
        face = faces.vertices[int(row["row"])].astype(float) @ matrix[:, :3].T + matrix[:, 3]
        assert row["subject"] == faces.subjects[int(row["row"])]
        distance = closest_points(face, scan).distance
        assert np.median(distance) < 0.4  # noise of 0.2 mm and flat triangles
        assert np.mean(distance > 2) < 0.35  # holes and what was cut off
        assert len(np.unique(scan.components)) > 1  # stray pieces
        assert np.ptp(scan.vertices, axis=0).max() > 1.3 * np.ptp(face, axis=0).max()  # the head around


def test_scans_follow_from_the_seed(faces, tmp_path):
    for name, seed, count in (("a", 0, 1), ("b", 0, 1), ("c", 1, 1)):
        make_scans(faces, tmp_path / name, count, seed)
    read = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "abc"}
    assert read["a"] == read["b"]
    assert read["a"] != read["c"]


def test_what_cannot_be_scanned_is_refused(faces, tmp_path):
    with pytest.raises(UsageError, match="from 1 to 3"):
        make_scans(faces, tmp_path / "out", 4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(MeshganError, match="exists already"):
        make_scans(faces, tmp_path / "full", 1)
