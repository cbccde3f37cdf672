"""Many scans: results land one by one, a cut run goes on, a failure stays alone, a killed process loses nothing."""

import contextlib
import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshgan import storage
from meshgan.data.faceset import FaceSet
from meshgan.errors import DiskError, MeshganError, UsageError
from meshgan.geometry.align import Similarity
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.surface import Surface
from meshgan.registration import batch
from meshgan.registration import jobs as bulk
from meshgan.registration.batch import named_scans, register_all, with_landmarks
from meshgan.registration.fake_scans import fake_scan, plain_people
from meshgan.registration.jobs import Outcome, Result, Settings, outcome_of, plan, result_of, save
from meshgan.registration.landmarks import read_landmarks
from meshgan.registration.report import own_places, write_meshes
from meshgan.registration.templates import default_template
from meshgan.storage import disk_errors

GOOD = ("anna/smile.ply", "anna/still.ply", "bert/still.ply")
INDEX = np.arange(17, 79)


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    """Three scans with landmarks, and three files that are none."""
    folder = tmp_path_factory.mktemp("scans")
    template, faces = default_template(), plain_people(3, "bulk")
    for name, face, seed in zip(GOOD, faces, range(3), strict=True):
        scan = fake_scan(template.mesh.with_vertices(face), np.random.default_rng(seed))
        (folder / name).parent.mkdir(exist_ok=True)
        write_mesh(folder / name, scan.mesh)
        points = template.landmark_rows[INDEX] @ scan.pose(face.astype(np.float64))
        marks = {template.landmark_names[i]: p.tolist() for i, p in zip(INDEX, points, strict=True)}
        (folder / name).with_suffix(".json").write_text(json.dumps(marks))
    whole = (folder / GOOD[0]).read_bytes()
    (folder / "cut.ply").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    for name in ("cut", "empty", "nan"):
        (folder / f"{name}.json").write_text((folder / GOOD[0]).with_suffix(".json").read_text())
    return folder


@pytest.fixture
def jobs(scans, tmp_path):
    (tmp_path / "work").mkdir()
    named = with_landmarks(named_scans([scans / name for name in GOOD]), scans)
    return plan(named, Settings("mm"), tmp_path / "work")


@pytest.fixture(scope="session")
def registered(scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "faces"
    result = register_all([scans], out, "mm", landmarks=scans)
    return out, result


def some_result():
    way = Similarity(1.0, np.eye(3), np.zeros(3))
    return Result(np.zeros((len(default_template().mesh.vertices), 3), np.float32), INDEX, np.zeros((62, 3)), way)


def rows_of(out):
    with (out / "report.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_folder_becomes_a_set_with_its_report(registered, scans):
    out, result = registered
    faces = FaceSet.open(out)
    assert len(faces) == 3
    assert result.failed == 3
    assert set(result.reasons) >= {"cut.ply", "empty.obj", "nan.obj"}
    assert faces.subjects.tolist() == ["anna", "anna", "bert"]
    assert faces.labels["file"].tolist() == list(GOOD)
    rows = {row["scan"]: row for row in rows_of(out)}
    assert set(rows) == {*GOOD, "cut.ply", "empty.obj", "nan.obj"}
    needed = ["scan", "verdict", "reason", "median_mm", "p95_mm", "landmark_mm", "coverage", "folded"]
    assert list(rows[GOOD[0]])[: len(needed)] == needed
    assert all(float(rows[name]["median_mm"]) < 0.3 and float(rows[name]["coverage"]) > 0.8 for name in GOOD)
    assert all(
        rows[name]["verdict"] == "failed" and rows[name]["reason"] for name in ("cut.ply", "empty.obj", "nan.obj")
    )
    assert not any(str(scans) in row["reason"] for row in rows.values())
    assert [path.name for path in out.parent.iterdir()] == ["faces"]  # the work folder is gone


def test_the_page_shows_every_scan(registered):
    out, _ = registered
    page = (out / "report.html").read_text()
    for name in (*GOOD, "cut.ply", "empty.obj", "nan.obj"):
        assert name in page
    pictures = sorted((out / "results").glob("*.jpg"))
    assert len(pictures) == 3
    assert all(f"results/{path.name}" in page and path.stat().st_size > 10_000 for path in pictures)
    assert "0.5 mm" in page  # the thresholds are stated


def test_landmarks_found_can_be_corrected_and_given_back(registered, scans):
    out, _ = registered
    names = default_template().landmark_names
    written = read_landmarks(out / "landmarks" / "anna" / "smile.json", names)
    given = read_landmarks(scans / "anna" / "smile.json", names)
    np.testing.assert_allclose(written.points, given.points, atol=1e-5)
    pairs = with_landmarks(named_scans([scans / name for name in GOOD]), out / "landmarks")
    assert all(path is not None and path.is_file() for *_, path in pairs)


def test_an_earlier_result_is_not_made_again_and_a_changed_one_is(jobs, monkeypatch):
    done = []

    def quick(job, start):
        done.append(job.name)
        save(job, Outcome(scan=job.name, verdict="good"), some_result())

    monkeypatch.setattr(bulk, "_register", quick)
    bulk.work_on(jobs[0])
    assert done == [GOOD[0]]
    outcomes = bulk.run(jobs)
    assert sorted(done) == sorted(GOOD)
    assert [outcome.scan for outcome in outcomes] == list(GOOD)
    assert all(outcome.verdict != "failed" for outcome in outcomes)
    bulk.run(jobs)
    assert len(done) == 3
    jobs[1].file("npz").write_bytes(jobs[1].file("npz").read_bytes()[:5000])  # a disk that lost half a file
    assert outcome_of(jobs[1]) is None
    bulk.run(jobs)
    assert done[3:] == [GOOD[1]]
    other = plan([(jobs[0].scan, jobs[0].name, jobs[0].landmarks)], Settings("auto"), jobs[0].work)
    assert other[0].key != jobs[0].key


def test_what_failed_is_tried_again_and_an_unforeseen_error_is_an_outcome(jobs, monkeypatch):
    def stumble(job, start):
        raise ZeroDivisionError("that one")

    monkeypatch.setattr(bulk, "_register", stumble)
    outcomes = bulk.run(jobs[:1])
    assert outcomes[0].verdict == "failed"
    assert "ZeroDivisionError: that one" in outcomes[0].reason
    assert "stumble" in outcomes[0].trace
    monkeypatch.undo()
    assert bulk.run(jobs[:1])[0].verdict != "failed"


def test_processes_give_what_one_process_gives(jobs, registered):
    outcomes = bulk.run(jobs[:2], workers=2)
    assert all(outcome.verdict != "failed" for outcome in outcomes)
    faces = FaceSet.open(registered[0])
    for job, face in zip(jobs[:2], faces.vertices, strict=False):
        np.testing.assert_allclose(result_of(job).vertices, face, atol=1e-2)


def test_wrong_use_is_told_before_anything_is_done(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "ANSWER_SECONDS", 0.5)
    out = tmp_path / "faces"
    with pytest.raises(UsageError, match="unit"):
        register_all([scans], out, "inch")
    with pytest.raises(UsageError, match=r"\.glb.* not as 'fbx'"):
        register_all([scans], out, "mm", formats=["fbx"])
    with pytest.raises(UsageError, match="does not exist"):
        register_all([scans / "no.ply"], out, "mm")
    with pytest.raises(UsageError, match="read from"):
        register_all([scans / "anna" / "smile.json"], out, "mm")
    with pytest.raises(UsageError, match="one file, but there are 6"):
        register_all([scans], out, "mm", landmarks=scans / "anna" / "smile.json")
    with pytest.raises(UsageError, match="does not exist"):
        register_all([scans], out, "mm", landmarks=scans / "marks")
    with pytest.raises(UsageError, match="identity ships with meshgan and has nothing to add"):
        register_all([scans], out, "mm", model="identity")
    with pytest.raises(UsageError, match="no Dask scheduler"):
        register_all([scans / GOOD[0]], out, "mm", landmarks=scans, scheduler="tcp://127.0.0.1:9")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UsageError, match="exists already"):
        register_all([scans], tmp_path / "full", "mm")
    assert not out.exists()


def test_a_run_without_any_usable_scan_leaves_its_report(scans, tmp_path):
    with pytest.raises(MeshganError, match=r"report\.html says why"):
        register_all([scans / "cut.ply", scans / "nan.obj"], tmp_path / "faces", "mm", landmarks=scans)
    assert "cut.ply" in (tmp_path / "faces" / "report.html").read_text()
    assert len(rows_of(tmp_path / "faces")) == 2
    result = register_all(
        [scans / GOOD[0]], tmp_path / "faces", "mm", landmarks=scans / "anna"
    )  # it is in nobody's way
    assert result.failed == 0


def test_mending_reads_the_files_of_the_set_itself_and_keeps_them(registered, scans, tmp_path):
    """The documented way: correct OUT/landmarks/…, run again with it. What is unchanged is no person's landmark."""
    out = tmp_path / "faces"
    shutil.copytree(registered[0], out)
    mended = out / "landmarks" / "anna" / "still.json"
    mended.write_text((scans / "anna" / "still.json").read_text() + "\n")  # by hand
    (out / "notes.txt").write_text("mine")
    given = batch.with_landmarks(
        named_scans([scans / name for name in GOOD]), out / "landmarks", batch._unchanged(out, out / "landmarks")
    )
    assert [path for *_, path in given] == [None, mended, None]
    with pytest.raises(UsageError, match="holds other scans"):
        register_all([scans / GOOD[1]], out, "mm", landmarks=out / "landmarks")  # by itself, its name is another


def test_a_run_into_the_same_folder_redoes_what_changed_and_only_that(scans, tmp_path, monkeypatch):
    done = []

    def quick(job, start):
        done.append(job.name)
        save(job, Outcome(scan=job.name, verdict="good"), some_result())

    monkeypatch.setattr(bulk, "_register", quick)
    monkeypatch.setattr(batch, "available", lambda: True)
    mine, out = tmp_path / "scans", tmp_path / "faces"
    shutil.copytree(scans / "anna", mine / "anna")
    shutil.copytree(scans / "bert", mine / "bert")

    def run(**options):
        done.clear()
        assert register_all([mine], out, "mm", **options).failed == 0
        return done

    assert sorted(run()) == sorted(GOOD)
    assert run() == []
    (out / "notes.txt").write_text("mine")
    mended = out / "landmarks" / "anna" / "still.json"
    mended.write_text((scans / "anna" / "still.json").read_text())
    before = mended.read_bytes()
    assert run() == [GOOD[1]]
    assert run() == []
    assert run(landmarks=out / "landmarks") == []
    assert mended.read_bytes() == before
    shutil.copyfile(scans / GOOD[2], mine / "new.ply")
    (mine / GOOD[0]).unlink()
    assert run() == ["new.ply"]
    assert set(FaceSet.open(out).labels["file"]) == {GOOD[1], GOOD[2], "new.ply"}
    assert mended.read_bytes() == before
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("scan", ["nothing.ply", "cut.ply", GOOD[0]])
def test_landmarks_made_by_hand_are_never_deleted(scans, tmp_path, scan):
    out = tmp_path / "faces"
    marks = (out / "landmarks" / scan).with_suffix(".json")
    marks.parent.mkdir(parents=True)
    marks.write_text((scans / GOOD[0]).with_suffix(".json").read_text())
    before = marks.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        register_all([scans / scan], out, "mm", landmarks=scans)
    with contextlib.suppress(MeshganError):
        register_all([scans / scan], out, "mm", landmarks=marks)
    assert marks.read_bytes() == before
    place = out / "landmarks" / Path(scan).parent
    with contextlib.suppress(MeshganError):
        register_all([scans / scan], out, "mm", landmarks=place)
    assert marks.read_bytes() == before
    assert (out / "card.json").exists() == (scan == GOOD[0])


def test_a_set_is_worth_more_than_the_report_of_a_failure(registered, scans, tmp_path):
    out = tmp_path / "faces"
    shutil.copytree(registered[0], out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(MeshganError, match="stays as it was"):
        register_all([scans / "cut.ply"], out, "mm", landmarks=out / "landmarks" / "anna" / "smile.json")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_link_as_out_is_answered(scans, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "far")
    with pytest.raises(UsageError, match="symbolic link"):
        register_all([scans / GOOD[0]], tmp_path / "out", "mm", landmarks=scans)
    assert list((tmp_path / "far").iterdir()) == []


def test_the_way_back_leads_to_the_scan(scans, tmp_path):
    """Faces in the scan's own frame and unit lie on the scan; so does the set after `transforms.csv`."""
    scan = read_mesh(scans / GOOD[0])
    (tmp_path / "scans").mkdir()
    write_mesh(tmp_path / "scans" / "a.ply", scan.with_vertices(scan.vertices / 10))
    marks = json.loads((scans / GOOD[0]).with_suffix(".json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({name: (np.array(p) / 10).tolist() for name, p in marks.items()}))
    out = tmp_path / "faces"
    formats = ("ply", "glb", "obj")
    register_all([tmp_path / "scans"], out, "cm", landmarks=tmp_path / "a.json", formats=formats, in_scan_frame=True)
    back = read_mesh(out / "in-scan-frame" / "a.ply")
    for name in ("a.glb", "a.obj"):  # whoever says the unit of the scans reads all of them alike
        again = read_mesh(out / "in-scan-frame" / name, "cm").vertices
        np.testing.assert_allclose(again, 10 * back.vertices, atol=1e-3)
    for name in ("a.ply", "a.glb", "a.obj"):
        np.testing.assert_allclose(read_mesh(out / "meshes" / name).vertices, FaceSet.open(out).vertices[0], atol=1e-4)
    assert np.median(Surface(scan).closest(10 * back.vertices).distance) < 0.3
    with (out / "transforms.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    turn = np.array([float(row[f"r{i}{j}"]) for i in "xyz" for j in "xyz"]).reshape(3, 3)
    moved = float(row["scale"]) * FaceSet.open(out).vertices[0] @ turn.T + [float(row[f"t{i}"]) for i in "xyz"]
    np.testing.assert_allclose(moved, back.vertices, atol=1e-4)
    assert float(row["scale"]) == pytest.approx(0.1)


@pytest.mark.parametrize("unit", ["mm", "auto"])
def test_a_glb_is_in_metres_and_so_are_its_landmarks_and_the_way_back(jobs, tmp_path, monkeypatch, unit):
    """Whatever the other scans of the run are in."""
    mesh, way = default_template().mesh, Similarity(1.0, np.eye(3), np.array([0, 0, 300.0]))
    write_mesh(tmp_path / "a.glb", mesh)
    points = {"30": [0.0, 0.0, 0.1], "36": [0.03, 0.02, 0.1], "45": [-0.03, 0.02, 0.1], "8": [0.0, -0.05, 0.1]}
    (tmp_path / "a.json").write_text(json.dumps(points))
    (job,) = plan([(tmp_path / "a.glb", "a.glb", tmp_path / "a.json")], Settings(unit), jobs[0].work)
    asked = []

    def laid(scan, template, landmarks, of_unit, colours):
        assert colours.path == tmp_path / "a.glb"
        asked.extend([np.ptp(scan.vertices), landmarks.points[2].tolist(), of_unit])
        return SimpleNamespace(vertices=mesh.vertices, landmarks=landmarks, to_scan=way)

    for name in ("measure", "judge", "draw_pictures"):
        monkeypatch.setattr(bulk, name, lambda *_: ("good", ""))
    monkeypatch.setattr(bulk, "register", laid)
    monkeypatch.setattr(Outcome, "of", lambda name, *_: Outcome(scan=name, verdict="good", seconds=1.0))
    bulk._register(job, 0.0)
    assert asked == [pytest.approx(np.ptp(mesh.vertices)), [30, 20, 100], "auto" if unit == "auto" else "glb"]
    result = result_of(job)
    np.testing.assert_allclose(result.to_scan(mesh.vertices), way(mesh.vertices) / 1000)
    np.testing.assert_allclose(
        result.landmarks[2], [0.03, 0.02, 0.4]
    )  # the way back of a point in the template's frame
    write_meshes(tmp_path / "back", mesh, [job], ("glb", "ply"), in_scan=True)
    for place, of_unit in (("back/a.glb", "mm"), ("back/a.ply", "m")):
        moved = read_mesh(tmp_path / place, of_unit).vertices
        np.testing.assert_allclose(moved, way(mesh.vertices), atol=1e-3)


def test_scans_that_differ_in_their_ending_alone_keep_their_own_files(jobs):
    names = ["a/x.ply", "a/x.obj", "a/X.stl", "b/x.ply"]
    named = [replace(jobs[0], name=name) for name in names]
    assert own_places(named, named, ".json") == ["a/x.ply.json", "a/x.obj.json", "a/X.stl.json", "b/x.json"]
    folder = jobs[0].work
    (folder / "a").mkdir()
    (folder / "a" / "x.obj.json").touch()
    assert batch._landmark_file(folder, Path("/scans/a/x.obj"), "a/x.obj") == folder / "a" / "x.obj.json"
    assert batch._landmark_file(folder, Path("/scans/a/x.ply"), "a/x.ply") is None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_result_is_done_again_and_never_a_traceback(jobs, data):
    """Mutations of both files: either they are as good as before, or they count as not done."""
    job = jobs[0]
    save(job, Outcome(scan=job.name, verdict="good", median_mm=0.1), some_result())
    path = job.file(data.draw(st.sampled_from(["json", "npz"])))
    content = bytearray(path.read_bytes())
    head = st.integers(0, min(len(content), 2500) - 1) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        place = min(data.draw(head), len(content) - 1)
        kind = data.draw(st.sampled_from(["flip", "cut", "drop", "insert"]))
        if kind == "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut" and place > 0:
            del content[place:]
        elif kind == "drop":
            del content[place : place + 7]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        content = content or bytearray(b"x")
    path.write_bytes(content)
    outcome = outcome_of(job)
    if outcome is not None and outcome.verdict != "failed":
        assert outcome.scan == job.name
        assert result_of(job).vertices.shape == default_template().mesh.vertices.shape


NONSENSE = {
    "vertices": [np.full((5, 3), 1.0), np.full(5, 1.0), np.array("x"), np.array([[1j] * 3])],
    "landmark_index": [np.array([0, 99]), np.array([-1]), np.array([1, 1]), np.array([0.5]), np.array("a")],
    "landmarks": [np.zeros((3, 3)), np.full((62, 3), np.nan), np.zeros(0)],
    "scale": [np.array(0.0), np.array(-1.0), np.array(np.inf), np.zeros(2)],
    "rotation": [np.zeros((3, 3)), np.diag([1.0, 1.0, -1.0]), np.eye(2), np.full((3, 3), np.nan)],
    "translation": [np.zeros(2), np.full(3, np.nan), np.full(3, 1e300)],
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_result_that_holds_nonsense_is_none(jobs, name):
    job = jobs[0]
    save(job, Outcome(scan=job.name, verdict="good"), some_result())
    whole = dict(np.load(job.file("npz")))
    assert outcome_of(job) is not None
    for value in (*NONSENSE[name], None):
        changed = {key: array for key, array in (whole | {name: value}).items() if array is not None}
        np.savez(job.file("npz"), **changed)
        assert outcome_of(job) is None, (name, value)


def test_a_full_disk_ends_the_run_and_is_no_scan_s_failure(jobs, monkeypatch):
    def full(job, start):
        with disk_errors(job.work):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bulk, "_register", full)
    with pytest.raises(DiskError, match="disk is full"):
        bulk.run(jobs)
    assert not any(job.file("json").exists() for job in jobs)


def test_no_result_is_not_a_failure(jobs, monkeypatch):
    """Workers that vanish (a cluster that is gone) leave scans without a result; nothing is said to have failed."""
    monkeypatch.setattr(bulk, "over_processes", lambda jobs, workers: (job.key for job in jobs))
    save(jobs[0], Outcome(scan=jobs[0].name, verdict="good"), some_result())
    with pytest.raises(MeshganError, match="no result for 2 of 3 scans"):
        bulk.run(jobs)
    assert outcome_of(jobs[0]) is not None


class Future:
    """What is left of a Dask future."""

    def __init__(self, status, failure=None):
        self.status, self.failure = status, failure

    def exception(self, timeout=None):
        if isinstance(self.failure, CancelledError):
            raise self.failure
        return self.failure


class KilledError(Exception):
    pass


def test_what_a_cluster_does_is_told_apart(jobs):
    def settle(future):
        bulk._settle(jobs[0], future, KilledError, "tcp://somewhere")

    settle(Future("finished"))
    for gone in (Future("cancelled", CancelledError()), Future("lost"), Future("error", OSError("closed"))):
        with pytest.raises(MeshganError, match="tcp://somewhere is gone"):
            settle(gone)
        assert outcome_of(jobs[0]) is None
    with pytest.raises(DiskError, match="full"):
        settle(Future("error", DiskError("the disk is full")))
    settle(Future("error", KilledError()))
    assert outcome_of(jobs[0]).verdict == "failed"


def command(scans, out, *more):
    names = [str(scans / name) for name in GOOD]
    return [
        sys.executable,
        "-m",
        "meshgan.cli.main",
        "register",
        *names,
        "--out",
        str(out),
        "--unit",
        "mm",
        "--landmarks",
        str(scans),
        *more,
    ]


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def workers_of(pid):
    """The worker processes that a process has started."""
    psutil = pytest.importorskip("psutil")
    found = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return [process.pid for process in found if "spawn_main" in " ".join(process.cmdline())]


@pytest.fixture
def start():
    """Start a command in a process group of its own; whatever is left of it ends with the test."""
    groups = []

    def launch(arguments):
        process = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL)
        groups.append(process)
        return process

    yield launch
    for process in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_killed_process_and_a_killed_run_lose_nothing(scans, tmp_path, start):
    out, work = tmp_path / "faces", tmp_path / ".faces.work"
    run = start(command(scans, out, "--workers", "2"))
    wait_for(lambda: any(work.glob("*.started")))
    os.kill(workers_of(run.pid)[0], signal.SIGKILL)
    wait_for(lambda: any(work.glob("*.json")) or run.poll() is not None)
    assert run.poll() is None
    finished = {path: path.stat().st_mtime_ns for path in work.glob("*.json")}
    os.killpg(run.pid, signal.SIGKILL)  # everything
    run.wait()
    assert not out.exists()
    assert finished
    again = start(command(scans, out, "--workers", "2"))
    kept = {}
    while again.poll() is None:
        kept |= {path: path.stat().st_mtime_ns for path in finished if path.exists()}
        time.sleep(0.02)
    assert again.returncode == 0
    assert kept == finished  # what was done stayed done
    assert {row["scan"] for row in rows_of(out)} == set(GOOD)
    assert len(FaceSet.open(out)) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_run(scans, tmp_path, start, number):
    """However a run ends, its processes end with it; two Ctrl-C do not hang; nothing is left but what was done."""
    psutil = pytest.importorskip("psutil")
    out, work = tmp_path / "faces", tmp_path / ".faces.work"
    run = start(command(scans, out, "--workers", "2"))
    wait_for(lambda: len(workers_of(run.pid)) == 2 and any(work.glob("*.started")))
    workers = [psutil.Process(pid) for pid in workers_of(run.pid)]
    run.send_signal(number)
    if number == signal.SIGINT:
        time.sleep(0.1)
        run.send_signal(number)
    assert run.wait(timeout=600) == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert not psutil.wait_procs(workers, timeout=600)[1]
    assert not out.exists()
    if number != signal.SIGKILL:
        assert not list(work.glob(".*.partial"))


def test_what_an_ended_process_had_begun_to_write_goes(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def ended(count):
        (tmp_path / storage._sealed("a.started", storage.PARTIAL)).write_bytes(b"half")
        yield SimpleNamespace(submit=ended_while_writing)

    def ended_while_writing(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "process_pool", ended)
    job = SimpleNamespace(work=tmp_path, file=lambda ending: tmp_path / f"a.{ending}")
    with pytest.raises(KeyboardInterrupt):
        list(bulk._until_broken([job], 2))
    assert not list(tmp_path.iterdir())


def test_a_second_run_in_one_folder_is_told(scans, tmp_path, start):
    run = start(command(scans, tmp_path / "faces", "--workers", "2"))
    wait_for(lambda: any((tmp_path / ".faces.work").glob("*.started")))
    with pytest.raises(UsageError, match="another run is at work"):
        register_all([scans / GOOD[0]], tmp_path / "faces", "mm", landmarks=scans)
    run.kill()


@pytest.mark.slow
def test_a_dask_cluster_survives_a_killed_worker(scans, tmp_path, start):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        arguments = command(scans, tmp_path / "faces", "--scheduler", cluster.scheduler_address)
        run = start(arguments)
        work = tmp_path / ".faces.work"
        wait_for(lambda: any(work.glob("*.started")))
        victim = next(iter(cluster.workers.values()))
        os.kill(victim.pid, signal.SIGKILL)
        assert run.wait(timeout=600) == 0
    assert len(FaceSet.open(tmp_path / "faces")) == 3
    assert {row["verdict"] for row in rows_of(tmp_path / "faces")} <= {"good", "check"}


CLUSTER = """
import time, distributed
if __name__ == "__main__":
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
    print(cluster.scheduler_address, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_scheduler_that_dies_ends_the_run_and_no_scan_has_failed(scans, tmp_path, start):
    pytest.importorskip("distributed")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    cluster = subprocess.Popen([sys.executable, tmp_path / "cluster.py"], stdout=subprocess.PIPE, text=True)
    try:
        address = cluster.stdout.readline().strip()
        work = tmp_path / ".faces.work"
        log = tmp_path / "log"
        with log.open("w") as stream:
            arguments = command(scans, tmp_path / "faces", "--scheduler", address)
            run = subprocess.Popen(arguments, stderr=stream, start_new_session=True)
        wait_for(lambda: any(work.glob("*.json")) or run.poll() is not None, 300)
    finally:
        cluster.kill()
        cluster.communicate()
    assert run.wait(timeout=300) == 1
    text = log.read_text()
    assert "Traceback" not in text.rsplit("meshgan:", 1)[-1]
    assert "run the same command again" in text
    kept = [json.loads(path.read_text()) for path in work.glob("*.json")]
    assert kept
    assert not any(outcome["verdict"] == "failed" and outcome["scan"] in GOOD for outcome in kept)
    assert not (tmp_path / "faces").exists()
    again = start(command(scans, tmp_path / "faces"))
    assert again.wait(timeout=600) == 0
    assert {row["scan"] for row in rows_of(tmp_path / "faces")} == set(GOOD)
