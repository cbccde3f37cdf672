"""Frames of one person: followed from the one before, found again after a jump, redone from the first that changed."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.geometry.align import Similarity
from meshgan.geometry.files import write_mesh
from meshgan.model.drive import read_performance
from meshgan.model.rig import ARKIT
from meshgan.registration import batch, sequence
from meshgan.registration import jobs as bulk
from meshgan.registration.batch import register_all
from meshgan.registration.fake_scans import fake_scan, fake_sequence, plain_people
from meshgan.registration.jobs import Outcome, Result, Settings, plan, save
from meshgan.registration.landmarks import Landmarks
from meshgan.registration.quality import judge, measure
from meshgan.registration.sequence import Moment, Person, Place, Shot, at_rest, doubt, follow
from meshgan.registration.templates import default_template

SMILE, JAW = ARKIT.index("mouthSmileLeft"), ARKIT.index("jawOpen")
INDEX = np.arange(17, 79)
ALONE = Place()


@pytest.fixture(scope="module")
def still():
    return plain_people(1, "sequence")[0].astype(np.float64)


@pytest.fixture(scope="module")
def person(still):
    return Person.of(still, default_template())


@pytest.fixture(scope="module")
def take(still):
    """Twelve frames, in which the mouth smiles, opens and closes."""
    return fake_sequence(still, 12, moving=True, seed=3)


def before(scan, face, still, weights, frames=1):
    """What is known once a frame is laid as it should be."""
    return Moment(face, still, weights, scan.pose, 0.9, frames, ALONE)


def test_weights_are_told_from_a_face_at_rest(person, still):
    wanted = np.zeros(len(ARKIT))
    wanted[[SMILE, JAW]] = 0.5, 0.3
    found = person.weights(person.moved(wanted))
    assert np.abs(found - wanted).max() < 0.1
    assert found.min() >= 0
    assert person.weights(np.zeros_like(still)).max() < 0.01
    assert person.weights(-person.moved(wanted)).min() >= 0  # whatever a face does, weights stay weights
    assert person.weights(9 * person.moved(wanted)).max() <= 1


def test_the_face_at_rest_is_found_behind_an_expression(person, still):
    wanted = np.zeros(len(ARKIT))
    wanted[JAW] = 0.6
    face = still + person.moved(wanted)
    rest, weights = at_rest(face, default_template())
    assert weights[JAW] == pytest.approx(0.6, abs=0.1)
    assert np.linalg.norm(rest - still, axis=1).mean() < 0.4 * np.linalg.norm(face - still, axis=1).mean()


def test_frames_are_followed_without_a_search(person, still, take, monkeypatch):
    monkeypatch.setattr(sequence, "sight", None)  # it would fail
    scans, faces, weights = take
    moment = before(scans[2], faces[2], still, weights[2])
    for row in (3, 4):
        result, moment = follow(scans[row].mesh, [Shot(person, moment)], row)
        error = np.linalg.norm(moment.to_scan(moment.vertices) - scans[row].pose(faces[row]), axis=1)
        assert result.followed
        assert error.mean() < 0.6
        assert moment.weights[SMILE] == pytest.approx(weights[row, SMILE], abs=0.15)
    assert moment.frames == 3
    quality = measure(result, person.template)
    assert judge(quality) == ("good", "")
    assert np.isnan(quality.landmark_mm)  # none was looked for
    assert Outcome.of("a", quality, "good", "", 0.0).landmark_mm is None


def test_a_head_that_jumps_is_found_again(person, still, take, monkeypatch):
    scans, faces, weights = take
    pose = Similarity(1.0, Rotation.from_euler("xyz", [80, 40, 10], degrees=True).as_matrix(), np.array([200.0, 0, 0]))
    scan = fake_scan(person.template.mesh.with_vertices(faces[3]), np.random.default_rng(0), pose)
    marks = Landmarks(INDEX, person.template.landmark_rows[INDEX] @ pose(faces[3]))
    asked = []

    def found(mesh, template, landmarks, *rest):
        asked.append(landmarks)
        return sighted(mesh, template, marks, *rest)

    sighted = sequence.sight
    monkeypatch.setattr(sequence, "sight", found)
    result, moment = follow(scan.mesh, [Shot(person, before(scans[2], faces[2], still, weights[2]))], 3)
    assert moment.place == Place(3, 0, -1, (0,))
    assert "searched for anew" in doubt(moment)
    assert asked == [None]
    assert not result.followed
    assert len(result.landmarks) == len(marks)
    assert np.linalg.norm(moment.to_scan(moment.vertices) - pose(faces[3]), axis=1).mean() < 0.8


def elsewhere(face, template, turn, seed):
    """A scan of a face far from where the others of the take have it."""
    pose = Similarity(1.0, Rotation.from_euler("xyz", turn, degrees=True).as_matrix(), np.array([300.0, 0, -90]))
    return fake_scan(template.mesh.with_vertices(face), np.random.default_rng(seed), pose)


def gone_on(mesh, shots, number):
    """A frame, and the shots that the next one may go on from."""
    result, moment = follow(mesh, shots, number)
    people = {shot.last.place.began: shot.person for shot in shots}
    person = people.get(moment.place.began) or Person.of(moment.still, shots[0].person.template)
    others = {shot.last.place.number: shot for shot in shots}
    return result, moment, [Shot(person, moment), *(others[row] for row in moment.place.other)]


@pytest.fixture
def detected(person, monkeypatch):
    """Faces are found where they truly are; returns what to tell of each scan."""
    marks, sighted = {}, sequence.sight

    def tell(scan, face):
        marks[len(scan.mesh.vertices)] = Landmarks(INDEX, person.template.landmark_rows[INDEX] @ scan.pose(face))

    monkeypatch.setattr(
        sequence, "sight", lambda mesh, to, _, *more: sighted(mesh, to, marks[len(mesh.vertices)], *more)
    )
    return tell


@pytest.fixture(scope="module")
def somebody_else():
    return plain_people(2, "somebody else")[0].astype(np.float64)


def test_two_odd_frames_in_a_row_leave_no_trace(person, still, take, detected, somebody_else):
    scans, faces, weights = take
    odd = [
        elsewhere(faces[4], person.template, [80, 40, 10], 1),
        elsewhere(somebody_else, person.template, [0, 170, 9], 2),
    ]
    for scan, face in zip(odd, (faces[4], somebody_else), strict=True):
        detected(scan, face)
    shots = [Shot(person, before(scans[2], faces[2], still, weights[2]))]
    own, other = odd
    _, moment, shots = gone_on(own.mesh, shots, 1)
    assert "searched for anew" in doubt(moment)
    assert np.linalg.norm(moment.to_scan(moment.vertices) - own.pose(faces[4]), axis=1).mean() < 0.8
    _, moment, shots = gone_on(other.mesh, shots, 2)
    assert "registered by itself" in doubt(moment)
    assert np.linalg.norm(moment.to_scan(moment.vertices) - other.pose(somebody_else), axis=1).mean() < 1.5
    assert moment.place == Place(2, 2, -1, (1, 0))
    _, moment, shots = gone_on(scans[3].mesh, shots, 3)
    assert (moment.place, doubt(moment)) == (Place(3, 0, 0, (2, 1)), "")
    assert np.linalg.norm(moment.to_scan(moment.vertices) - scans[3].pose(faces[3]), axis=1).mean() < 0.6
    assert np.linalg.norm(moment.still - still, axis=1).mean() < 0.3


def test_an_odd_first_frame_is_left_behind(person, take, detected, somebody_else):
    scans, faces, _ = take
    odd, nothing = elsewhere(somebody_else, person.template, [10, 30, 100], 3), np.zeros(len(ARKIT))
    first = before(odd, somebody_else, somebody_else, nothing)
    detected(scans[2], faces[2])
    _, moment, shots = gone_on(scans[2].mesh, [Shot(Person.of(somebody_else, person.template), first)], 1)
    assert "registered by itself" in doubt(moment)
    assert moment.place == Place(1, 1, -1, (0,))
    _, moment, shots = gone_on(scans[3].mesh, shots, 2)
    assert (moment.place, doubt(moment)) == (Place(2, 1, 1, (0,)), "")
    assert np.linalg.norm(moment.to_scan(moment.vertices) - scans[3].pose(faces[3]), axis=1).mean() < 1.0


def test_noise_of_the_scans_averages_out(person, still):
    """A still face, frame by frame with other triangles, noise, holes and pose, hardly trembles."""
    scans, faces, weights = fake_sequence(still, 6, moving=False, seed=5)
    moment = before(scans[0], faces[0], still, weights[0], frames=8)
    laid = []
    for scan in scans[1:]:
        _, moment = follow(scan.mesh, [Shot(person, moment)], moment.place.number + 1)
        laid.append(moment.vertices)
    flicker = np.sqrt(np.var(laid, axis=0).sum(axis=1))[person.template.inside]
    assert 0 < flicker.mean() < 0.1
    assert moment.weights.max() < 0.1


def some_moment(job, place=ALONE):
    size = len(default_template().mesh.vertices)
    way = Similarity(1.0, np.eye(3), np.zeros(3))
    moment = Moment(np.zeros((size, 3)), np.zeros((size, 3)), np.zeros(len(ARKIT)), way, 0.9, 1, place)
    save(
        job,
        Outcome(scan=job.name, verdict="failed" if "bad" in job.name else "good"),
        Result(np.zeros((size, 3), np.float32), INDEX, np.zeros((len(INDEX), 3)), way, moment),
    )


def test_a_sequence_is_redone_from_the_first_frame_that_changed(tmp_path, monkeypatch):
    done = []

    names = {}

    def quick(job, start, shots, number):
        names[number] = job.name
        done.append((job.name, names[shots[0].last.place.number] if shots else None))
        some_moment(job, Place(number, 0, number - 1))

    monkeypatch.setattr(bulk, "_register", quick)
    monkeypatch.setattr(bulk.Person, "of", lambda still, template: object())
    monkeypatch.setattr(batch, "available", lambda: True)
    folder, out = tmp_path / "scans", tmp_path / "faces"
    folder.mkdir()
    for name in ("1", "2", "bad3", "4", "10"):
        (folder / f"f{name}.ply").write_bytes(name.encode())

    def run():
        done.clear()
        register_all([folder], out, "mm", sequence=True)
        return list(done)

    order = ["f1.ply", "f2.ply", "f4.ply", "f10.ply", "fbad3.ply"]
    assert run() == list(zip(order, [None, *order[:4]], strict=True))
    assert run() == []  # not what failed either: the frames after it would change
    (folder / "f4.ply").write_bytes(b"another")
    assert run() == [("f4.ply", "f2.ply"), ("f10.ply", "f4.ply"), ("fbad3.ply", "f10.ply")]
    (folder / "f2.ply").unlink()
    assert [name for name, _ in run()] == ["f4.ply", "f10.ply", "fbad3.ply"]
    (folder / "fbad1.ply").write_bytes(b"early")
    (folder / "fbad1.ply").rename(folder / "f1bad.ply")
    (folder / "f12.ply").write_bytes(b"last")
    ran = run()  # what fails is no frame that others follow
    assert ("f4.ply", "f1.ply") in ran
    with (out / "weights.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6  # failed frames have a row, so that time goes on
    assert set(FaceSet.open(out).subjects) == {"scans"}


def test_damaged_results_of_a_sequence_are_told(tmp_path):
    (tmp_path / "a.ply").touch()
    (job,) = plan([(tmp_path / "a.ply", "a.ply", None)], Settings("mm", sequence=True), tmp_path)
    some_moment(job)
    assert bulk.outcome_of(job) is not None
    result = bulk.result_of(job)
    for broken in ({"weights": np.full(len(ARKIT), np.nan)}, {"frames": 0}, {"still": np.zeros((3, 3))}):
        save(job, Outcome(scan="a.ply", verdict="good"), replace(result, moment=replace(result.moment, **broken)))
        assert bulk.outcome_of(job) is None
    alone = plan([(tmp_path / "a.ply", "a.ply", None)], Settings("mm"), tmp_path)
    assert alone[0].key != job.key


@pytest.mark.parametrize(
    ("options", "advice"),
    [({"workers": 2}, "workers"), ({"scheduler": "tcp://x"}, "scheduler"), ({"template": "t.ply"}, "template")],
)
def test_what_a_sequence_cannot_have_is_told(tmp_path, options, advice):
    with pytest.raises(UsageError, match=advice):
        register_all([tmp_path], tmp_path / "out", "mm", sequence=True, **options)


def test_register_and_drive_work_end_to_end(tmp_path, take):
    scans, faces, weights = take
    (tmp_path / "take").mkdir()
    for row in (2, 3, 4):
        write_mesh(tmp_path / "take" / f"frame-{row}.ply", scans[row].mesh)
    template = default_template()
    points = template.landmark_rows[INDEX] @ scans[2].pose(faces[2])
    marks = {template.landmark_names[i]: p.tolist() for i, p in zip(INDEX, points, strict=True)}
    (tmp_path / "frame-2.json").write_text(json.dumps(marks))
    out = tmp_path / "faces"
    command = ["register", str(tmp_path / "take"), "--out", str(out), "--unit", "mm", "--sequence"]
    ran = CliRunner().invoke(app, [*command, "--landmarks", str(tmp_path), "--json"])
    assert ran.exit_code == 0, ran.output
    played = read_performance(out / "weights.csv")
    assert played.weights.shape == (3, len(ARKIT))
    assert np.abs(played.weights[:, SMILE] - weights[2:5, SMILE]).max() < 0.2
    placed = FaceSet.open(out)
    assert len(placed) == 3
    driven = ["drive", str(out / "at-rest.ply"), "--from", str(out / "weights.csv"), "--fps", "30"]
    ran = CliRunner().invoke(app, [*driven, "--out", str(tmp_path / "driven.glb")])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "driven.glb").stat().st_size > 100_000
