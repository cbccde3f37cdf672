"""Folders of meshes become sets of faces; what is wrong with a folder is said, and nothing half-written stays."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from meshgan.data import faceset
from meshgan.data.corpora import folder as corpus
from meshgan.data.corpora.basis import face_template
from meshgan.data.corpora.folder import Connectivity, import_folder, read_face
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import write_mesh
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh

BALL = trimesh.creation.icosphere(subdivisions=2, radius=90)
FACE = np.asarray(BALL.vertices) * [0.8, 1.1, 0.7]
TRIANGLES = np.asarray(BALL.faces)
RAISED = FACE + np.array([0, 50, 0])
FEWER = TRIANGLES[TRIANGLES.max(axis=1) < len(FACE) - 1]  # those without the last vertex
Write = Callable[[Path], object]


def face(number: int) -> NDArray[np.float64]:
    """A face of its own (V, 3) in mm: stretched a little and uneven."""
    rng = np.random.default_rng(number)
    return FACE * rng.uniform(0.9, 1.1, size=3) + rng.normal(size=FACE.shape)


def write(path: Path, vertices: NDArray[np.float64], triangles: NDArray[np.int64] = TRIANGLES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.Trimesh(vertices, triangles, process=False).export(path)


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """Twelve meshes of four subjects; every one is turned and moved."""
    for number in range(12):
        turn = Rotation.from_euler("xyz", [0.1 * number, 0.2, -0.1 * number])
        write(
            tmp_path / "meshes" / f"s{number // 3}_{number}.ply",
            turn.apply(face(number)) + np.array([5 * number, 0, 100]),
        )
    return tmp_path / "meshes"


def reasons(out: Path) -> dict[str, str]:
    with (out / "report.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["file", "reason"]
    return dict(rows)


def test_a_folder_becomes_a_set(meshes: Path, tmp_path: Path) -> None:
    result = import_folder(meshes, tmp_path / "set", "mm")
    faces = FaceSet.open(tmp_path / "set")
    assert (result.faces, result.subjects, result.vertices, dict(result.skipped)) == (12, 4, len(FACE), {})
    assert list(faces.labels["file"]) == [f"s{n // 3}_{n}.ply" for n in range(12)]
    assert list(faces.subjects) == [f"s{n // 3}" for n in range(12)]
    assert reasons(tmp_path / "set") == {}
    assert faces.card.parameters["unit"] == "mm"
    assert sum(map(len, (faces.split.train, faces.split.validation, faces.split.test))) == 12
    np.testing.assert_array_equal(faces.template.triangles, TRIANGLES)
    box = faces.template.vertices.min(axis=0), faces.template.vertices.max(axis=0)
    np.testing.assert_allclose(box[0] + box[1], 0, atol=1e-4)


def test_shapes_are_kept_and_lie_on_the_template(meshes: Path, tmp_path: Path) -> None:
    import_folder(meshes, tmp_path / "set", "mm")
    faces = FaceSet.open(tmp_path / "set")
    np.testing.assert_allclose(faces.vertices.mean(axis=0), faces.template.vertices, atol=1e-3)  # their mean, of shape
    for number, imported in enumerate(faces.vertices):
        original, imported = (v - v.mean(axis=0) for v in (face(number), imported.astype(float)))
        _, distance = Rotation.align_vectors(original, imported)
        assert distance / np.sqrt(len(FACE)) < 1e-4  # the same shape, not scaled, not mirrored
        best = Rotation.align_vectors(faces.template.vertices - faces.template.vertices.mean(axis=0), imported)[0]
        assert best.magnitude() < 1e-4  # it lies as well as it can


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("cm", 0.1), ("m", 0.001)])
def test_units(unit: str, scale: float, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "meshes" / f"{number}.ply", face(number) * scale)
    import_folder(tmp_path / "meshes", tmp_path / "set", unit)
    imported = FaceSet.open(tmp_path / "set").vertices[1]
    np.testing.assert_allclose(np.ptp(imported, axis=0), np.ptp(face(1), axis=0), rtol=0.05)


@pytest.mark.parametrize("ending", ["ply", "obj", "glb"])
def test_formats(ending: str, tmp_path: Path) -> None:
    for number in range(3):
        scale = 0.001 if ending == "glb" else 1.0  # metres by definition, whatever --unit says of other files
        write(tmp_path / "meshes" / f"{number}.{ending}", face(number) * scale)
    import_folder(tmp_path / "meshes", tmp_path / "set", "mm")
    faces = FaceSet.open(tmp_path / "set")
    np.testing.assert_allclose(
        faces.vertices[0] - faces.vertices[0].mean(axis=0), face(0) - face(0).mean(axis=0), atol=1e-3
    )
    np.testing.assert_array_equal(faces.template.triangles, TRIANGLES)


def test_stl_corners_are_joined_alike_in_every_file(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "meshes" / f"{number}.stl", face(number))
    assert import_folder(tmp_path / "meshes", tmp_path / "set", "mm").vertices == len(FACE)
    faces = FaceSet.open(tmp_path / "set")
    areas = [np.sort(Mesh(imported, faces.template.triangles).areas) for imported in faces.vertices]
    for number in range(3):
        np.testing.assert_allclose(areas[number], np.sort(Mesh(face(number), TRIANGLES).areas), rtol=1e-3)


def test_a_template_of_ones_own_stays_where_it_is(meshes: Path, tmp_path: Path) -> None:
    write(tmp_path / "mean.ply", RAISED)
    import_folder(meshes, tmp_path / "set", "mm", template=tmp_path / "mean.ply")
    faces = FaceSet.open(tmp_path / "set")
    np.testing.assert_allclose(faces.template.vertices, RAISED, atol=1e-4)
    np.testing.assert_allclose(faces.vertices.mean(axis=(0, 1)), [0, 50, 0], atol=1)


BAD: dict[str, tuple[Write, str]] = {
    "garbage.ply": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(2000)), "cannot be read"),
    "garbage.glb": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(2000)), "cannot be read"),
    "empty.obj": (lambda p: p.write_bytes(b""), ""),
    "no_triangles.obj": (lambda p: p.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n"), ""),
    "nan.ply": (lambda p: write(p, np.where(np.arange(3) == 1, np.nan, FACE)), "NaN or infinite"),
    "infinite.ply": (lambda p: write(p, np.where(np.arange(3) == 1, np.inf, FACE)), "NaN or infinite"),
    "huge.obj": (lambda p: write(p, FACE * 1e60), "too far away"),
    "point.ply": (lambda p: write(p, FACE * 0), "no area"),
    "metres.ply": (lambda p: write(p, FACE / 1000), "another unit"),
    "fewer.ply": (lambda p: write(p, FACE[:-1], FEWER), "161 vertices"),
    "other.ply": (lambda p: write(p, FACE, TRIANGLES[:, [0, 2, 1]]), "triangles are not the template's"),
    "one_less.ply": (lambda p: write(p, FACE, TRIANGLES[1:]), "triangles are not the template's"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_unusable_mesh_is_skipped_and_told(name: str, meshes: Path, tmp_path: Path) -> None:
    make, reason = BAD[name]
    make(meshes / f"s2_7b_{name}")
    result = import_folder(meshes, tmp_path / "set", "mm")
    assert result.faces == len(FaceSet.open(tmp_path / "set")) == 12
    assert list(result.skipped) == [f"s2_7b_{name}"]
    assert reasons(tmp_path / "set") == dict(result.skipped)
    assert reason in result.skipped[f"s2_7b_{name}"]
    assert str(meshes) not in result.skipped[f"s2_7b_{name}"]
    assert "1 skipped" in result.summary()


@pytest.mark.parametrize("ending", ["ply", "obj", "glb", "stl"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_cut_off_mesh_is_skipped(ending: str, share: float, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "meshes" / f"{number}.{ending}", face(number) * (0.001 if ending == "glb" else 1.0))
    broken = tmp_path / "meshes" / f"1.{ending}"
    broken.write_bytes(broken.read_bytes()[: int(share * broken.stat().st_size)])
    result = import_folder(tmp_path / "meshes", tmp_path / "set", "mm")
    assert list(result.skipped) == [broken.name]


@pytest.mark.parametrize("asked", [64, 3])
def test_the_template_has_the_commonest_connectivity(
    asked: int, meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "ASKED", asked)
    other = np.roll(TRIANGLES, 1, axis=0)
    other[0] = other[0, ::-1]
    for number, name in enumerate("az"):  # first and last: two of three that are asked of a large folder
        write(meshes / f"{name}.ply", face(number), other)
    result = import_folder(meshes, tmp_path / "set", "mm")
    assert result.faces == 12
    assert set(result.skipped.values()) == {"its triangles are not the template's"}
    np.testing.assert_array_equal(FaceSet.open(tmp_path / "set").template.triangles, TRIANGLES)


def test_an_unusable_first_mesh_is_not_the_template(meshes: Path, tmp_path: Path) -> None:
    (meshes / "a_first.ply").write_bytes(b"ply\n")
    assert import_folder(meshes, tmp_path / "set", "mm").faces == 12


def test_triangles_in_another_order_are_the_same_connectivity(tmp_path: Path) -> None:
    mixed = np.roll(np.random.default_rng(0).permutation(TRIANGLES), 1, axis=1)
    expected = Connectivity.of(Mesh(FACE, TRIANGLES))
    assert not expected.differs(Mesh(FACE, mixed))
    mixed[3] = mixed[3, ::-1]
    assert expected.differs(Mesh(FACE, mixed))
    write(tmp_path / "a.ply", FACE)
    assert isinstance(read_face(tmp_path / "a.ply", expected, "mm"), np.ndarray)


def test_vertices_without_triangles_stay_out_and_components_stay_in(tmp_path: Path) -> None:
    """Two closed components and stray vertices, which count nowhere."""
    two = np.concatenate([[[1e4, 0, 0]], FACE, FACE * 0.2 + [150, 0, 0], [[0, 0, 0]]])
    both = np.concatenate([TRIANGLES, TRIANGLES + len(FACE)]) + 1
    for number in range(4):
        moved = two * [1, 1 + 0.02 * number, 1]
        moved[0] += 1000 * number
        write(tmp_path / "meshes" / f"{number}.ply", moved, both)
    result = import_folder(tmp_path / "meshes", tmp_path / "set", "mm")
    assert any("Left out 2 of 326 vertices" in note for note in result.notes)
    faces = FaceSet.open(tmp_path / "set")
    assert faces.vertices.shape == (4, len(two) - 2, 3)
    assert np.abs(faces.vertices[3] - faces.template.vertices).max() < 10
    np.testing.assert_allclose(faces.template.vertices.min(0) + faces.template.vertices.max(0), 0, atol=1e-4)
    hierarchy = Hierarchy.build(faces.template)
    coarsest = hierarchy.levels[-1].mesh
    assert len(np.unique(coarsest.components[np.unique(coarsest.triangles)])) == 2


def test_triangles_that_share_nothing_are_joined_alike_in_every_file(tmp_path: Path) -> None:
    for number in range(3):
        soup = face(number)[TRIANGLES].reshape(-1, 3)
        write(tmp_path / "meshes" / f"{number}.ply", soup, np.arange(len(soup)).reshape(-1, 3))
    result = import_folder(tmp_path / "meshes", tmp_path / "set", "mm")
    assert (result.faces, result.vertices) == (3, len(FACE))
    faces = FaceSet.open(tmp_path / "set")
    assert len(faces.template.boundary_edges) == 0
    for number in range(3):
        areas = [Mesh(face(number), TRIANGLES).areas, Mesh(faces.vertices[number], faces.template.triangles).areas]
        np.testing.assert_allclose(*map(np.sort, areas), rtol=1e-3)


WRONG = [(0.001, "mm", "m"), (0.1, "mm", "cm"), (1.0, "m", "mm"), (1.0, "cm", "mm")]


@pytest.mark.parametrize(("scale", "given", "fits"), WRONG)
def test_a_unit_that_makes_no_face_is_told_with_the_one_that_does(
    scale: float, given: str, fits: str, tmp_path: Path
) -> None:
    for number in range(3):
        write(tmp_path / "meshes" / f"{number}.ply", face(number) * scale)
    with pytest.raises(UsageError, match=rf"0\.ply measures .*with `unit='{fits}'` it would measure [12][0-9]+ mm"):
        import_folder(tmp_path / "meshes", tmp_path / "set", given)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("unit", ["mm", "cm", "m"])
def test_glb_faces_and_a_template_in_millimetres_meet_under_any_unit(unit: str, tmp_path: Path) -> None:
    write(tmp_path / "template.ply", FACE)
    for number in range(3):
        write_mesh(tmp_path / "meshes" / f"{number}.glb", Mesh(face(number), TRIANGLES))
    result = import_folder(tmp_path / "meshes", tmp_path / "set", unit, template=tmp_path / "template.ply")
    assert (result.faces, dict(result.skipped)) == (3, {})
    assert 150 < np.ptp(FaceSet.open(tmp_path / "set").vertices[0], axis=0).max() < 260


def test_a_template_is_in_its_own_unit_or_in_that_of_the_meshes(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "meshes" / f"{number}.ply", face(number) * 0.001)
    for name, scale in (("mm.ply", 1.0), ("m.ply", 0.001)):
        write(tmp_path / name, FACE * scale)
        assert import_folder(tmp_path / "meshes", tmp_path / f"set-{name}", "m", template=tmp_path / name).faces == 3
    with pytest.raises(UsageError, match=r"m\.ply measures .* with `template_unit='m'` it would"):
        import_folder(tmp_path / "meshes", tmp_path / "set", "m", template=tmp_path / "m.ply", template_unit="mm")


def test_names_that_are_no_text_are_escaped(meshes: Path, tmp_path: Path) -> None:
    (meshes / "s0_0.ply").rename(os.fsdecode(os.fsencode(meshes) + b"/s\xfc_0.ply"))
    result = import_folder(meshes, tmp_path / "set", "mm")
    assert "s\\xfc_0.ply" in FaceSet.open(tmp_path / "set").labels["file"]
    result.summary().encode()


def test_labels_and_the_report_of_those_without(meshes: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,subject,age\n" + "".join(f"s{n // 3}_{n},p{n % 2},{20 + n}\n" for n in range(10)))
    result = import_folder(meshes, tmp_path / "set", "mm", labels=table)
    faces = FaceSet.open(tmp_path / "set")
    assert list(faces.labels) == ["file", "subject", "age"]
    assert list(faces.subjects) == ["p0", "p1"] * 5
    assert list(faces.labels["age"]) == [str(20 + n) for n in range(10)]
    assert set(result.skipped.values()) == {"labels.csv has no row for it"}
    assert result.subjects == 2


def test_the_number_of_workers_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FEW", 4)
    monkeypatch.setattr(corpus, "BLOCK", 5)
    for number in range(17):
        write(tmp_path / "meshes" / f"{number}.ply", face(number))
    (tmp_path / "meshes" / "8.ply").write_bytes(b"")
    for workers in (1, 2):
        import_folder(tmp_path / "meshes", tmp_path / f"set{workers}", "mm", workers=workers)
    one, two = (sorted((tmp_path / f"set{n}").iterdir()) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        if a.name != "card.json":  # it holds the set's name
            assert a.read_bytes() == b.read_bytes()
    assert list(reasons(tmp_path / "set2")) == ["8.ply"]


def test_wrong_use(meshes: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    write(tmp_path / "flat.obj", FACE * 0)
    cases: list[tuple[dict[str, object], str]] = [
        ({"folder": tmp_path / "gone"}, "gone is not a folder"),
        ({"folder": tmp_path / "nothing"}, "holds no mesh"),
        ({"unit": "inch"}, "no unit 'inch'"),
        ({"template": tmp_path / "gone.ply"}, r"gone\.ply does not exist"),
        ({"template": tmp_path / "flat.obj"}, r"flat\.obj cannot be the template"),
        ({"labels": tmp_path / "gone.csv"}, r"gone\.csv does not exist"),
        ({"subject_pattern": "("}, "not a regular expression"),
    ]
    for changed, complaint in cases:
        arguments = {"folder": meshes, "out": tmp_path / "set", "unit": "mm"} | changed
        with pytest.raises(UsageError, match=complaint):
            import_folder(**arguments)  # type: ignore[arg-type]
        assert not (tmp_path / "set").exists()


def test_a_folder_in_which_nothing_is_usable(meshes: Path, tmp_path: Path) -> None:
    write(tmp_path / "template.ply", FACE[:-1], FEWER)
    with pytest.raises(MeshganError, match="holds no face of the template: 162 vertices where"):
        import_folder(meshes, tmp_path / "set", "mm", template=tmp_path / "template.ply")
    for path in meshes.iterdir():
        path.write_bytes(b"ply")
    with pytest.raises(MeshganError, match=r"no usable mesh; s0_0\.ply"):
        import_folder(meshes, tmp_path / "set", "mm")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["meshes", "template.ply"]


def test_an_existing_set_is_not_overwritten(meshes: Path, tmp_path: Path) -> None:
    import_folder(meshes, tmp_path / "set", "mm")
    with pytest.raises(MeshganError, match="exists already"):
        import_folder(meshes, tmp_path / "set", "mm")


def test_a_full_disk_leaves_nothing_behind(meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(faceset.os, "posix_fallocate", full)
    with pytest.raises(MeshganError, match="set: the disk is full"):
        import_folder(meshes, tmp_path / "set", "mm")
    assert [p.name for p in tmp_path.iterdir()] == ["meshes"]


@pytest.mark.parametrize("kilobytes", [4, 16, 24])
def test_a_full_small_disk(kilobytes: int, meshes: Path, tmp_path: Path) -> None:
    """On a real, small file system, where one may be mounted: before, in and after the faces (23 KiB)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted")
    try:
        with pytest.raises(MeshganError, match="set: the disk is full"):
            import_folder(meshes, disk / "set", "mm")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_command(meshes: Path, tmp_path: Path) -> None:
    (meshes / "s1_4b.ply").write_bytes(b"")
    command = [sys.executable, "-m", "meshgan.cli.main", "data", "import", str(meshes), str(tmp_path / "set")]
    run = subprocess.run([*command, "--unit", "mm", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["faces"] == 12
    again = subprocess.run([*command, "--unit", "mm"], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("meshgan: ")
    assert again.stderr.count("\n") == 1
    wrong = subprocess.run([*command, "--unit", "ell"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


def test_faces_that_look_along_another_axis_are_turned_upright(tmp_path: Path) -> None:
    upright = face_template()
    for number in range(3):
        turned = upright.vertices[:, [0, 2, 1]] * [1, -1, 1] * (1 + 0.03 * number)  # z up, looking along -y
        write_mesh(tmp_path / f"meshes/p{number}.ply", upright.with_vertices(turned))
    notes = import_folder(tmp_path / "meshes", tmp_path / "set", "mm").notes
    assert any("p0.ply looks along -y with z up and was turned, as `up='z'` does" in note for note in notes)
    assert not any("turned" in note for note in import_folder(tmp_path / "meshes", tmp_path / "z", "mm", up="z").notes)
    with pytest.raises(UsageError, match="`up='z'` turns it"):
        import_folder(tmp_path / "meshes", tmp_path / "y", "mm", up="y")
    middle = (upright.vertices.max(axis=0) + upright.vertices.min(axis=0)) / 2
    for name in ("set", "z"):
        faces = FaceSet.open(tmp_path / name)
        np.testing.assert_allclose(faces.template.vertices, 1.03 * (upright.vertices - middle), atol=1e-4)
        assert np.ptp(faces.vertices, axis=1).argmax(axis=1).tolist() == [1, 1, 1]  # higher than broad or deep


@pytest.mark.slow
def test_sigterm_ends_an_import_with_its_processes_and_leaves_nothing(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    write(tmp_path / "meshes/s0_0.ply", face(0))
    for number in range(1, 20_000):
        os.link(tmp_path / "meshes/s0_0.ply", tmp_path / f"meshes/s{number}_0.ply")
    command = [
        sys.executable,
        "-m",
        "meshgan.cli.main",
        "data",
        "import",
        str(tmp_path / "meshes"),
        str(tmp_path / "set"),
    ]
    run = subprocess.Popen([*command, "--unit", "mm", "--workers", "2"], stderr=subprocess.PIPE, text=True)
    try:
        readers: list[psutil.Process] = []
        while len(readers) < 2 and run.poll() is None:
            time.sleep(0.05)
            children = psutil.Process(run.pid).children()
            readers = [process for process in children if "spawn_main" in " ".join(process.cmdline())]
        assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        _, error = run.communicate(timeout=600)
    finally:
        run.kill()
    assert run.returncode == 143
    assert "Traceback" not in error
    assert not psutil.wait_procs(readers, timeout=600)[1]
    assert [path.name for path in tmp_path.iterdir()] == ["meshes"]
