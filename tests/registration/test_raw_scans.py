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
from meshgan.registration.fake_scans import MISREAD, make_scans, scan_of_kind
from meshgan.registration.templates import default_template


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


@pytest.mark.parametrize("kind", MISREAD)
def test_each_kind_that_is_easily_misread_lies_where_it_says(kind):
    template, rng = default_template(), np.random.default_rng(4)
    scan, truth = scan_of_kind(kind, template.mesh, template.landmark_rows, rng)
    scale, back = scan.pose.scale, scan.pose.inverse(scan.mesh.vertices)
    assert np.isfinite(back).all()
    assert scan.mesh.triangles.max() < len(back)
    apart = closest_points(truth, scan.mesh).distance / scale
    assert np.median(apart) < {"noise": 0.6, "depth camera": 0.6, "hand": 0.3}.get(kind, 0.2)
    moved = np.linalg.norm(scan.pose.inverse(truth) - template.mesh.vertices, axis=1)
    assert (moved.max() > 1.0) == (MISREAD[kind].face is not None)
    lips = closest_points((template.landmark_rows[48:68] @ truth), scan.mesh).distance.max() / scale
    assert (lips > 6.0) == (kind in ("tube", "hand"))  # what is before the mouth hides it
    again, _ = scan_of_kind(kind, template.mesh, template.landmark_rows, np.random.default_rng(4))
    np.testing.assert_array_equal(again.mesh.vertices, scan.mesh.vertices)
