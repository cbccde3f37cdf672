"""The benchmark of registration: failures are counted, faces unlike the model are bent as said, limits are kept."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from meshgan.bench import register as bench
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import MeshganError
from meshgan.geometry.files import write_mesh
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import barycentric_matrix, closest_points
from meshgan.registration import fake_scans
from meshgan.registration.batch import Registered
from meshgan.registration.jobs import Outcome
from meshgan.registration.landmarks import available
from meshgan.registration.quality import Quality
from meshgan.registration.templates import default_template
from shapes import icosphere


def test_a_scan_without_a_result_is_counted(monkeypatch):
    template, calls = default_template(), []
    people = fake_scans.plain_people(3, "bench").astype(np.float64)

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


def test_told_its_planes_a_face_of_the_model_is_known_and_a_shape_beyond_it_is_not():
    """A face that slides along itself has the same planes nearly everywhere: nobody can say where its places went."""
    template = default_template()
    prior = template.prior
    face = prior.shape(np.random.default_rng(3).normal(size=20))
    known = bench.told_planes(face[None], template)
    vertices = template.mesh.with_vertices(face)
    across = np.cross(vertices.vertex_normals, [0.0, 1.0, 0.0])
    slid = bench.told_planes((face + 2.0 * across)[None], template)
    assert known["mean_mm"] < 0.1 < 0.7 < slid["mean_mm"]
    assert known["p95_mm"] < slid["p95_mm"]


def test_verdicts_are_counted_by_kind_and_error(monkeypatch, capsys):
    truths = []
    some = {name: fake_scans.MISREAD[name] for name in ("at rest", "no unit", "inside out")}

    def scan_of_kind(name, *more):
        scan, truth = made(name, *more)
        truths.append((name, scan.pose.scale, truth))
        return scan, truth

    def register(mesh, template, unit):
        name, scale, truth = truths[-1]
        if name == "inside out":
            raise MeshganError("no face")
        assert unit == ("auto" if name == "no unit" else "mm")
        aside = scale * np.array([0.5 if name == "at rest" else 3.5, 0, 0])
        return SimpleNamespace(vertices=truth + aside, to_scan=lambda points: points)

    made = fake_scans.scan_of_kind
    monkeypatch.setattr(bench, "MISREAD", some)
    monkeypatch.setattr(bench, "scan_of_kind", scan_of_kind)
    monkeypatch.setattr(bench, "register", register)
    strange = iter([0.3, 0.31, 0.3, 1.1])
    monkeypatch.setattr(bench, "measure", lambda *_: Quality(0.1, 0.2, 2, 3, 1, 0, 0, 60, strange_mm=next(strange)))
    figures = bench.kinds(2, 5)
    table = figures["kinds"]
    assert table["at rest"]["good"] == {"within_1.5_mm": 2, "beyond_1.5_mm": 0, "beyond_3_mm": 0}
    assert (
        table["no unit"]["good"]
        == table["no unit"]["check"]
        == {"within_1.5_mm": 0, "beyond_1.5_mm": 1, "beyond_3_mm": 1}
    )
    assert table["inside out"]["without_result"] == table["all"]["without_result"] == 2
    assert table["all"]["error_mm"] == pytest.approx(2.0)
    assert len({name for name, *_ in truths}) == 3
    assert "no unit" in capsys.readouterr().out


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


def test_meshmonk_is_a_row_where_it_is_installed_and_starts_where_others_do(monkeypatch):
    """A stand-in, which finds every vertex 2 mm before where the pose puts it, and is shown both meshes as they are."""
    template, scan = default_template(), Mesh(60 * icosphere(2).vertices, icosphere(2).triangles)
    pose = fake_scans.Similarity(1.5, np.eye(3), np.array([1.0, 2.0, 3.0]))

    class Monk:
        @staticmethod
        def features_from_vertices(vertices, triangles):
            return np.concatenate([vertices, Mesh(vertices, triangles).vertex_normals], axis=1).astype(np.float32)

        @staticmethod
        def pyramid_register(floating_features, target_features, floating_faces, target_faces):
            np.testing.assert_array_equal(target_features[:, :3], scan.vertices.astype(np.float32))
            np.testing.assert_array_equal(target_faces, scan.triangles)
            np.testing.assert_array_equal(floating_faces, template.mesh.triangles)
            return type("Found", (), {"aligned_vertices": floating_features[:, :3] + np.float32([0, 0, 2])})

    monkeypatch.setitem(sys.modules, "meshmonk", Monk)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: Monk)
    method = bench._methods()["meshmonk"]
    found = method(scan, type("Start", (), {"pose": pose}), template)
    np.testing.assert_allclose(found, pose(template.mesh.vertices) + np.array([0, 0, 2]), atol=1e-4)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert "meshmonk" not in bench._methods()


def test_a_model_of_plain_people_takes_the_place_of_the_present_one_and_of_nothing_else(monkeypatch):
    """`plain` is heard, and then nothing is set beside other methods."""
    template, asked = default_template(), []
    monkeypatch.setattr(bench, "_plain_model", lambda: template.prior.at(np.arange(3)))
    monkeypatch.setattr(bench, "corpus_people", lambda *counts: np.zeros((2, 3, 3)))
    monkeypatch.setattr(bench, "plain_people", lambda *counts: np.zeros((2, 3, 3)))
    monkeypatch.setattr(bench, "_scans", lambda truth, template: [fake_scans.FakeScan(None, None)])
    monkeypatch.setattr(bench, "register", lambda mesh, template: None)
    monkeypatch.setattr(bench, "_errors", lambda scans, truth, template: asked.append(template.prior.mean.shape) or {})
    monkeypatch.setattr(bench, "told_planes", lambda truth, template: template.prior.mean.shape)
    monkeypatch.setattr(bench, "_show", lambda summary: None)
    assert "beside_trimesh" not in bench.run(2, 0, 1, plain=True)
    assert asked == [(3, 3), (3, 3)]
    three = replace(template, prior=template.prior.at(np.arange(3)))
    monkeypatch.setattr(bench, "load_template", lambda path, model: three if model == Path("mine") else template)
    assert "beside_trimesh" not in bench.run(2, 0, 1, model=Path("mine"))
    assert asked == [(3, 3)] * 4


def test_a_real_scan_is_held_against_the_landmarks_beside_it(monkeypatch, tmp_path, capsys):
    """Marks that lie 1 mm before the template's, on the jaw line 2 mm; not in millimetres, it is made of face size."""
    template, units = default_template(), []
    marks = template.landmark_rows @ template.mesh.vertices + np.where(np.arange(79) < 17, 2, 1)[:, None] * [0, 0, 1]
    lines = [f"{name},{x},{y},{z}" for name, (x, y, z) in zip(template.landmark_names, marks, strict=True)]
    (tmp_path / "head.csv").write_text("\n".join(["name,x,y,z", *lines]))
    write_mesh(tmp_path / "head.ply", template.mesh)

    def register(mesh, template, unit="mm", *, colours):
        assert colours() is None  # the scan has none
        units.append(unit)
        if unit == "mm":
            raise MeshganError("the eyes are 4 mm apart")
        return Placed(mesh)

    class Placed:
        def __init__(self, mesh):
            self.vertices, self.to_scan = mesh.vertices, lambda points: points

    quality = {"median_mm": 0.1, "p95_mm": 1.0, "coverage": 1.0, "folded": 0.0}
    monkeypatch.setattr(bench, "register", register)
    monkeypatch.setattr(bench, "measure", lambda result, template: type("Quality", (), quality))
    monkeypatch.setattr(bench, "judge", lambda quality: ("good", ""))
    figures = bench._real(tmp_path / "head.ply", template)
    assert units == ["mm", "auto"]
    assert figures["without_jaw_mm"] == pytest.approx(1.0, abs=1e-3)
    assert figures["landmarks_mm"] == pytest.approx((17 * 2 + 62) / 79, abs=1e-3)
    assert figures["p95_mm"] == 1.0
    bare = {name: value for name, value in figures.items() if name not in ("landmarks_mm", "without_jaw_mm")}
    bench._show({"real": {"with marks": figures, "without": bare}})
    assert capsys.readouterr().out.count("landmarks 1.22, without the jaw line 1.00") == 1


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="needs the extra [landmarks]")
def test_the_limits_are_kept_on_a_few_faces():
    figures = bench.run(faces=3, strange=1, compared=1)
    for kind in ("fake_scans", "plain_people"):
        assert figures[kind]["without_result"] == 0
        assert figures[kind]["folded"] <= bench.LIMITS["folded"]
    assert figures["plain_people"]["mean_mm"] <= bench.LIMITS["mean_mm"]
    assert figures["plain_people"]["p95_mm"] <= bench.LIMITS["p95_mm"]
    ours = figures["beside_trimesh"]["meshgan"]
    for name in ("trimesh, faces", "trimesh, vertices"):
        theirs = figures["beside_trimesh"][name]
        assert theirs["seconds"] >= bench.LIMITS["times_faster"] * ours["seconds"]
        assert ours["error_mm"] <= theirs["error_mm"]
        assert ours["surface_mm"] <= theirs["surface_mm"]


def test_foreign_places_are_compared_through_the_faces_own_triangles(tmp_path, monkeypatch, capsys):
    """What follows every face exactly has no error; what slides by a millimetre on one of them has that much."""
    template = default_template()
    people = fake_scans.plain_people(4, "bench")
    coarse = Hierarchy.cached(template.mesh).levels[1].mesh  # any other connectivity that the same faces have
    kept = np.array([np.flatnonzero((template.mesh.vertices == v).all(axis=1))[0] for v in coarse.vertices])
    shown = [template.mesh.with_vertices(face) for face in people]
    card = Card(name="foreign", source="a test", licence="CC0-1.0", synthetic=True)
    with create_faceset(tmp_path / "set", Mesh(people[0][kept], coarse.triangles), 4, card) as writer:
        writer.append(people[:, kept], [{"subject": name} for name in ("a", "a", "b", "b")])
    faces, calls = FaceSet.open(tmp_path / "set"), []
    places = barycentric_matrix(
        closest_points(shown[0].vertices, Mesh(people[0][kept], coarse.triangles)),
        Mesh(people[0][kept], coarse.triangles),
    )

    def methods(mesh, template):
        calls.append(mesh)
        vertices = places @ mesh.vertices
        yield "exact", vertices, 1.0
        yield "lost", None if len(calls) == 2 else vertices, 2.0
        yield "slides", vertices + np.array([0.0, 0.0, 1.5]) * (len(calls) == 3), 3.0

    monkeypatch.setattr(bench, "_by_each_method", methods)
    table = bench.foreign(faces, 4)["methods"]
    assert table["exact"]["same_person_mm"] == pytest.approx(0, abs=1e-4)
    assert table["exact"]["others_mm"] == pytest.approx(0, abs=1e-4)
    assert table["lost"]["without_result"] == 1
    assert table["lost"]["same_person_mm"] is None
    assert table["slides"]["others_mm"] == pytest.approx(0.75, abs=1e-3)
    assert "places missed" in capsys.readouterr().out


def test_the_chain_tells_what_is_lost_by_wavelength_and_to_a_model(tmp_path, monkeypatch, capsys):
    """Registration that halves what distinguishes faces leaves a quarter of the energy in every band."""
    template = Mesh(60 * icosphere(2).vertices, icosphere(2).triangles)
    sizes = np.random.default_rng(0).normal(1, 0.1, (12, len(template.vertices), 1))
    people = (sizes * template.vertices).astype(np.float32)
    card = Card(name="true", source="a test", licence="CC0-1.0", synthetic=True)
    with create_faceset(tmp_path / "set", template, 12, card) as writer:
        writer.append(people, [{"subject": str(number)} for number in range(12)])

    def scanned(faces, out, count):
        out.mkdir(parents=True)
        lines = ["file,row", *(f"scan-{row}.ply,{row}" for row in range(count))]
        (out / "truth.csv").write_text("\n".join(lines) + "\n")

    def register_all(scans, out, unit):
        assert [path.name for path in scans] == [f"scan-{row}.ply" for row in range(8)]
        found = people[[5, 2, 7, 0]]  # in any order; not all are found
        mean = found.mean(axis=0)
        with create_faceset(out, template, 4, card) as writer:
            labels = [{"file": f"scan-{row}.ply", "subject": str(row)} for row in (5, 2, 7, 0)]
            writer.append(mean + (found - mean) / 2, labels)
        verdicts = {5: "good", 2: "good", 7: "check", 0: "check"}
        return Registered(2, 2, 4, {}, tuple(Outcome(scan=f"scan-{k}.ply", verdict=v) for k, v in verdicts.items()))

    monkeypatch.setattr(bench, "make_scans", scanned)
    monkeypatch.setattr(bench, "register_all", register_all)
    monkeypatch.setattr(bench, "rigid", lambda points, reference: lambda faces: faces)
    monkeypatch.setattr(bench, "NETWORK_STEPS", 100)
    figures = bench.chain(FaceSet.open(tmp_path / "set"), tmp_path / "out", 8)
    energies = {name: np.array(values) for name, values in figures["energies_mm2"].items()}
    np.testing.assert_allclose(energies["registered"], energies["true"] / 4, rtol=0.02)
    np.testing.assert_allclose(energies["difference"], energies["true"] / 4, rtol=0.02)
    np.testing.assert_array_equal(FaceSet.open(tmp_path / "out" / "true").vertices, people[[5, 2, 7, 0]])
    assert figures["unseen"] == 4  # who was scanned is not unseen, found or not
    assert figures["pca_mm"]["true"]["64"] <= figures["pca_mm"]["true"]["8"]
    assert figures["pca_mm"]["true"]["64"] == pytest.approx(figures["pca_mm"]["registered"]["64"], rel=1e-3)
    for name, error in figures["network_mm"].items():
        assert error <= 1.05 * figures["pca_mm"][name]["16"]  # it starts there
    far = np.linalg.norm((people - people[[5, 2, 7, 0]].mean(axis=0))[[5, 2, 7, 0]] / 2, axis=2).mean(axis=1) > 1.5
    assert figures["verdicts"]["good"]["beyond_1.5_mm"] == far[:2].sum()
    assert figures["verdicts"]["check"]["within_1.5_mm"] == (~far[2:]).sum()
    assert "unseen true faces" in capsys.readouterr().out
