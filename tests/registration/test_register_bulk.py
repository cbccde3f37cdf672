"""Many scans: results land one by one, a cut run goes on, a failure stays alone, a killed process loses nothing."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from meshgan.bench.fake_scans import corpus_people, fake_scan
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import write_mesh
from meshgan.registration import bulk
from meshgan.registration.batch import named_scans, register_all, with_landmarks
from meshgan.registration.landmarks import read_landmarks
from meshgan.registration.models import default_template
from meshgan.registration.work import Outcome, Settings, outcome_of, plan, save, vertices_of

GOOD = ("anna/smile.ply", "anna/still.ply", "bert/still.ply")
INDEX = np.arange(17, 79)


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    """Three scans with landmarks, and three files that are none."""
    folder = tmp_path_factory.mktemp("scans")
    template, faces = default_template(), corpus_people(3, "bulk")
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
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 3
    assert all(f"pictures/{path.name}" in page and path.stat().st_size > 10_000 for path in pictures)
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
        arrays = {"vertices": np.zeros((900, 3)), "landmark_index": INDEX, "landmarks": np.zeros((62, 3))}
        save(job, Outcome(scan=job.name, verdict="good"), arrays)

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


@pytest.mark.slow
def test_processes_give_what_one_process_gives(jobs, registered):
    outcomes = bulk.run(jobs[:2], workers=2)
    assert all(outcome.verdict != "failed" for outcome in outcomes)
    faces = FaceSet.open(registered[0])
    for job, face in zip(jobs[:2], faces.vertices, strict=False):
        np.testing.assert_allclose(vertices_of(job), face, atol=1e-2)


def test_wrong_use_is_told_before_anything_is_done(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "ANSWER_SECONDS", 0.5)
    out = tmp_path / "faces"
    with pytest.raises(UsageError, match="unit"):
        register_all([scans], out, "inch")
    with pytest.raises(UsageError, match="does not exist"):
        register_all([scans / "no.ply"], out, "mm")
    with pytest.raises(UsageError, match="read from"):
        register_all([scans / "anna" / "smile.json"], out, "mm")
    with pytest.raises(UsageError, match="one file, but there are 6"):
        register_all([scans], out, "mm", landmarks=scans / "anna" / "smile.json")
    with pytest.raises(UsageError, match="does not exist"):
        register_all([scans], out, "mm", landmarks=scans / "marks")
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


def wait_for(condition, seconds=120):
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
        assert run.wait(timeout=240) == 0
    assert len(FaceSet.open(tmp_path / "faces")) == 3
    assert {row["verdict"] for row in rows_of(tmp_path / "faces")} <= {"good", "check"}
