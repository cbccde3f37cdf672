"""The benchmark of registration: failures are counted, faces unlike the model are bent as said, limits are kept."""

import numpy as np
import pytest

from meshgan.bench import fake_scans
from meshgan.bench import register as bench
from meshgan.errors import MeshganError
from meshgan.geometry.mesh import Mesh
from meshgan.registration.detector import available
from meshgan.registration.models import default_template


def test_a_scan_without_a_result_is_counted(monkeypatch):
    template, calls = default_template(), []
    people = fake_scans.corpus_people(3, "bench").astype(np.float64)

    class Placed:
        def __init__(self, vertices):
            self.vertices, self.to_scan = vertices, lambda points: points

    class Quality:
        median_mm, folded = 0.25, 0.0

    def register(mesh, template):
        calls.append(mesh)
        if len(calls) == 2:
            raise MeshganError("no face")
        return Placed(truths[len(calls) - 1] + [0.0, 3.0 * len(calls), 0.0])

    scans = [fake_scans.FakeScan(Mesh(face, template.mesh.triangles), bench_pose()) for face in people]
    truths = [scan.pose(face) for scan, face in zip(scans, people, strict=True)]
    monkeypatch.setattr(bench, "register", register)
    monkeypatch.setattr(bench, "measure", lambda result, template: Quality)
    monkeypatch.setattr(bench, "judge", lambda quality: ("check", ""))
    figures = bench._errors(scans, people, template)
    assert figures["without_result"] == 1
    assert figures["verdicts"] == {"good": 0, "check": 2, "failed": 0}
    assert figures["face_mm"][1] is None
    assert figures["mean_mm"] == pytest.approx(6.0)
    assert figures["worst_face_mm"] == pytest.approx(9.0)


def bench_pose():
    return fake_scans.Similarity(1.0, np.eye(3), np.array([1.0, 2.0, 3.0]))


def test_a_face_unlike_the_model_is_bent_smoothly_and_as_much_as_stated():
    face = default_template().mesh
    bent = fake_scans.estranged(face, np.random.default_rng(0))
    motion = bent - face.vertices
    assert np.sqrt((motion**2).sum(axis=1).mean()) == pytest.approx(fake_scans.STRANGE_MM)
    i, j = face.edges.T
    steps = np.linalg.norm(motion[i] - motion[j], axis=1) / np.linalg.norm(face.vertices[i] - face.vertices[j], axis=1)
    assert np.percentile(steps, 99) < 0.5


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="needs the extra [landmarks]")
def test_the_limits_are_kept_on_a_few_faces():
    figures = bench.run(faces=3, strange=1, compared=1)
    assert figures["without_result"] == 0
    assert figures["mean_mm"] <= bench.LIMITS["mean_mm"]
    assert figures["p95_mm"] <= bench.LIMITS["p95_mm"]
    assert figures["folded"] <= bench.LIMITS["folded"]
    ours = figures["beside_trimesh"]["meshgan"]
    for name in ("trimesh, faces", "trimesh, vertices"):
        theirs = figures["beside_trimesh"][name]
        assert theirs["seconds"] >= bench.LIMITS["times_faster"] * ours["seconds"]
        assert ours["error_mm"] <= theirs["error_mm"]
        assert ours["surface_mm"] <= theirs["surface_mm"]
