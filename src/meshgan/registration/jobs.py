"""Many scans, one job each: over processes of this machine or a Dask cluster, each result on disk once it is there.

WORK/KEY.json   the outcome: verdict, reason, figures; written last, so that its presence means "done"
WORK/KEY.npz    vertices, landmarks and the way back to the scan, if the template could be laid onto it
WORK/KEY.jpg    the pictures

KEY holds the scan's content and all settings, so a run that was cut goes on where it stopped, and a changed scan or
setting is done anew. In a sequence each frame builds on those before, so its key holds theirs as well, and its NPZ what
the next one needs: from the first frame on that is new or has changed, all are done anew. What can happen to one scan
stays with it: an error becomes its outcome; a process that is killed while it works (by the system, for its memory) is
replaced, and the scan is tried once more by itself before it is given up. What happens to the machine (a full disk, a
cluster that is gone) is no scan's fault: it ends the run.
"""

import hashlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from threadpoolctl import threadpool_limits

from meshgan.arrays import Faces
from meshgan.errors import DiskError, MeshganError, UsageError, missing_extra
from meshgan.geometry.align import Similarity
from meshgan.geometry.files import MILLIMETRES, read_mesh
from meshgan.machine import process_pool
from meshgan.model.rig import ARKIT
from meshgan.progress import counted, track
from meshgan.reading import read_arrays, read_text, shown
from meshgan.registration.colours import ScanColours, colour_files
from meshgan.registration.landmarks import read_landmarks
from meshgan.registration.quality import VERDICTS, Quality, Verdict, draw_pictures, judge, measure
from meshgan.registration.register import register, unit_of
from meshgan.registration.sequence import (
    MOST_SHOTS,
    Moment,
    Person,
    Place,
    Shot,
    begin,
    doubt,
    find_again,
    follow,
)
from meshgan.registration.template import FaceTemplate
from meshgan.registration.templates import ASSET_FILES, OWN, landmark_file, load_template
from meshgan.storage import atomic_file, remove_file, sweep

FORMAT = "8"  # of results, and how they come about; part of every key
MOST_OUTCOME, MOST_RESULT = 2**20, 2**28  # bytes
FARTHEST = 1e9  # of any coordinate of a result
ANSWER_SECONDS = 10.0  # within which a Dask scheduler must answer
KILLED = "the process that worked on it was killed, twice; it may need more memory than there is"


@dataclass(frozen=True)
class Settings:
    """What all scans of one run share."""

    unit: str
    template: Path | None = None
    model: Path | None = None
    sequence: bool = False  # the scans are frames of one person in the order of time


@dataclass(frozen=True)
class Job:
    """One scan to register: the file, the name it is reported under, and its landmarks, if given."""

    scan: Path
    name: str
    landmarks: Path | None
    settings: Settings
    work: Path
    key: str

    def file(self, ending: str) -> Path:
        """The result's file with this ending."""
        return self.work / f"{self.key}.{ending}"

    @property
    def millimetres(self) -> float:
        """The length of the unit of the scan's own numbers, and of its landmarks: a GLB is in metres, whatever other
        scans of the run are in; 1 where it is not known."""
        return MILLIMETRES.get("m" if self.in_metres else self.settings.unit, 1.0)

    @property
    def in_metres(self) -> bool:
        """Whether the scan is a GLB."""
        return self.scan.suffix.lower() == ".glb"


class Outcome(BaseModel):
    """What became of one scan."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    scan: str
    verdict: Verdict
    reason: str = ""
    median_mm: float | None = None
    p95_mm: float | None = None
    landmark_mm: float | None = None
    feature_mm: float | None = None
    coverage: float | None = None
    gap_mm2: float | None = None
    gap_at: str = ""
    strange_mm: float | None = None
    strange_at: str = ""
    smoothness: float | None = None
    folded: float | None = None
    interocular_mm: float | None = None
    feature: str = ""
    unknown: str = ""
    noisy: bool = False
    found: bool = False
    seconds: float = 0.0
    trace: str = ""  # of an error that nobody foresaw

    @classmethod
    def of(cls, scan: str, quality: Quality, verdict: Verdict, reason: str, seconds: float) -> "Outcome":
        """The outcome of a scan that got as far as being measured; what was not is None."""
        figures: dict[str, Any] = {name: None if x != x else x for name, x in asdict(quality).items()}
        return cls(scan=scan, verdict=verdict, reason=reason, seconds=seconds, **figures)


@dataclass(frozen=True, eq=False)
class Result:
    """What a job has on disk: `vertices` (V, 3) in the template's frame, landmarks (L, 3) in the scan's own.

    `to_scan` carries the template's frame, in millimetres, to the scan's own frame and unit. Of a frame of a sequence
    it has what the next one goes on from.
    """

    vertices: Faces
    landmark_index: NDArray[np.int64]
    landmarks: NDArray[np.float64]
    to_scan: Similarity
    moment: Moment | None = None


def plan(scans: Sequence[tuple[Path, str, Path | None]], settings: Settings, work: Path) -> list[Job]:
    """A job for each (file, name, landmarks); reading the files' content is all that it costs."""
    beside = landmark_file(settings.template) if settings.template else None
    own = [hashlib.sha256((OWN / name).read_bytes()).hexdigest() for name in ASSET_FILES]
    shared = _digest(FORMAT, *own, settings.unit, *map(_content, (settings.template, beside, settings.model)))
    jobs: list[Job] = []
    for scan, name, landmarks in scans:
        job = Job(scan, name, landmarks, settings, work, "")
        more = ["m"] if job.in_metres else []
        if landmarks is None:
            more += map(_content, colour_files(scan))
        if settings.sequence:
            more += ["after", *(before.key for before in jobs[-1:])]
        jobs.append(replace(job, key=_digest(shared, name, _content(scan), _content(landmarks), *more)))
    return jobs


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="backslashreplace")).hexdigest()[:24]


def _content(path: Path | None) -> str:
    """What tells two files or folders apart; a file that cannot be read will say so when its turn comes."""
    if path is None:
        return ""
    try:
        if path.is_dir():
            return _digest(*(_content(file) for file in sorted(path.iterdir()) if file.is_file()))
        if path.is_file():
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        pass
    return str(path)


def take_over(folder: Path, jobs: Sequence[Job]) -> None:
    """Copy what an earlier run has left in `folder` of these jobs to where their results gather."""
    for job in jobs:
        for ending in ("jpg", "npz", "json"):  # the last one says that all is there
            source, place = folder / job.file(ending).name, job.file(ending)
            if source.is_file() and not place.exists() and source.stat().st_size <= MOST_RESULT:
                with atomic_file(place) as partial:
                    shutil.copyfile(source, partial)


def earlier_names(folder: Path) -> set[str]:
    """The scans of which an earlier run has left results in `folder`."""
    names = set()
    for path in folder.glob("*.json"):
        with suppress(ValidationError, MeshganError):
            names.add(Outcome.model_validate_json(read_text(path, MOST_OUTCOME)).scan)
    return names


def run(jobs: Sequence[Job], workers: int = 1, scheduler: str | None = None) -> list[Outcome]:
    """Do what is not done yet and return all outcomes, in the order of `jobs`.

    Raises `MeshganError` if some have no result in the end, which is not the same as having failed.
    """
    sequence = any(job.settings.sequence for job in jobs)
    open_jobs = _since_the_first_open(jobs) if sequence else [job for job in jobs if not _succeeded(job)]
    for job in open_jobs:
        remove_file(job.file("json"))
    known = {job.key: job for job in open_jobs}
    if sequence:
        way = over_frames(jobs[: len(jobs) - len(open_jobs)], open_jobs)
    else:
        way = over_dask(open_jobs, scheduler) if scheduler else over_processes(open_jobs, workers)
    with closing(way) as done:
        for key in track(done, "Registering", total=len(open_jobs)):
            if outcome := outcome_of(known[key]):
                print(f"  {outcome.scan}: {outcome.verdict}, {outcome.seconds:.1f} s", file=sys.stderr, flush=True)
    outcomes = [outcome_of(job) for job in jobs]
    missing = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome is None]
    if missing:
        raise MeshganError(
            f"no result for {len(missing)} of {counted(len(jobs), 'scan')}, {missing[0].name} for example; the others "
            "are kept, so run the same command again."
        )
    return [outcome for outcome in outcomes if outcome is not None]


def _succeeded(job: Job) -> bool:
    """Whether an earlier run has a result; what failed then is tried again, it costs little."""
    outcome = outcome_of(job)
    return outcome is not None and outcome.verdict != "failed"


def _since_the_first_open(jobs: Sequence[Job]) -> list[Job]:
    """The frames of a sequence from the first one on of which nothing is known; one that failed stays so."""
    first = next((place for place, job in enumerate(jobs) if outcome_of(job) is None), len(jobs))
    return list(jobs[first:])


def over_frames(done: Sequence[Job], frames: Sequence[Job]) -> Generator[str, None, None]:
    """Keys of the frames of a sequence, each followed from the ones before, of which some are `done`."""
    jobs = [*done, *frames]
    people: dict[int, Person] = {}

    def shot(number: int) -> Shot:
        last = _moment(jobs[number])
        began = min(last.place.began, number)
        if began not in people:
            first = _moment(jobs[began]) if _succeeded(jobs[began]) else last
            people[began] = Person.of(first.still, _template(jobs[number].settings))
        return Shot(people[began], last)

    for number, job in enumerate(frames, start=len(done)):
        shots = [shot(last) for last in _last_frames(jobs[:number])]
        yield work_on(job, partial(_register, shots=shots, number=number))


def _last_frames(jobs: Sequence[Job]) -> list[int]:
    """The numbers of the last frames of the shots that may go on after those jobs, the latest first."""
    latest = next((number for number in reversed(range(len(jobs))) if _succeeded(jobs[number])), None)
    if latest is None:
        return []
    other = _moment(jobs[latest]).place.other
    return [latest, *(last for last in other if last < latest and _succeeded(jobs[last]))]


def _moment(job: Job) -> Moment:
    """What the frames after this one go on from, in millimetres."""
    moment = result_of(job).moment
    assert moment is not None
    return replace(moment, to_scan=_times(moment.to_scan, job.millimetres))


def work_on(job: Job, way: Callable[[Job, float], None] | None = None) -> str:
    """Register one scan, in a `way` of its own, and save its outcome, whatever happens to it; returns the job's key."""
    start = time.perf_counter()
    trace = ""
    try:
        _mark(job)
        # Small systems: threads would only wait for each other. And last bits differ with their number, which
        # robust weights make tenths of a millimetre of: whoever works on a scan comes to the same face.
        with threadpool_limits(1, user_api="blas"):
            (way or _register)(job, start)
        return job.key
    except DiskError:
        raise  # of the machine, not of the scan
    except MeshganError as error:
        reason = str(error).removeprefix(f"{job.scan}").strip(" :")
    except MemoryError:
        reason = "it needs more memory than there is"
    except Exception as error:
        reason, trace = f"unforeseen error: {type(error).__name__}: {error}", traceback.format_exc()
    seconds = time.perf_counter() - start
    save(job, Outcome(scan=job.name, verdict="failed", reason=shown(reason), seconds=seconds, trace=shown(trace)))
    return job.key


def _mark(job: Job) -> None:
    """Say that a process works on the job."""
    with atomic_file(job.file("started")) as partial:
        partial.touch()


def _register(job: Job, start: float, shots: Sequence[Shot] = (), number: int = 0) -> None:
    """Register a scan by itself, or as a frame of that `number` after those that the `shots` hold."""
    template, unit = _template(job.settings), unit_of(job.scan.name, job.settings.unit)
    millimetres = job.millimetres
    names = template.landmark_names
    landmarks = read_landmarks(job.landmarks, names, millimetres) if job.landmarks else None
    known = "mm" if unit in ("auto", "glb") else unit
    mesh, colours = read_mesh(job.scan, known), ScanColours(job.scan, known)
    moment = None
    if shots:
        result, moment = follow(mesh, shots, number, landmarks, unit, colours)
        if result.followed and judge(measure(result, template))[0] == "failed":
            result, moment = find_again(mesh, shots, number, None, unit, colours)
    elif job.settings.sequence:
        result, moment = begin(mesh, template, landmarks, unit, number, colours)
    else:
        result = register(mesh, template, landmarks, unit, colours=colours)
    quality = measure(result, template)
    verdict, reason = judge(quality)
    if shots and moment is not None and landmarks is None and (why := doubt(moment)):
        verdict, reason = max(verdict, "check", key=VERDICTS.index), "; ".join(filter(None, (why, reason)))
    if colours.trouble:
        reason = "; ".join(filter(None, (reason, f"shape alone was looked at: {colours.trouble}")))
    draw_pictures(result, template, job.file("jpg"))
    to_scan = _times(result.to_scan, 1 / millimetres)
    marks = result.landmarks
    kept = Result(result.vertices.astype(np.float32), marks.index, to_scan(marks.points), to_scan, moment)
    save(job, Outcome.of(job.name, quality, verdict, reason, time.perf_counter() - start), kept)


def _times(motion: Similarity, factor: float) -> Similarity:
    """The same motion into another unit."""
    return Similarity(motion.scale * factor, motion.rotation, motion.translation * factor)


@lru_cache(maxsize=1)
def _template(settings: Settings) -> FaceTemplate:
    return load_template(settings.template, settings.model)


def save(job: Job, outcome: Outcome, result: Result | None = None) -> None:
    """Write a result; the JSON comes last."""
    if result is not None:
        way, moment = result.to_scan, result.moment
        more: dict[str, Any] = {}
        if moment is not None:
            still = moment.still.astype(np.float32)
            more = {"still": still, "weights": moment.weights, "held": moment.held, "frames": moment.frames}
            place = moment.place
            more["place"] = np.array([place.number, place.began, place.after, *place.other], dtype=np.int64)
        with atomic_file(job.file("npz")) as partial, partial.open("wb") as stream:
            np.savez(
                stream, allow_pickle=False, vertices=result.vertices, landmark_index=result.landmark_index,
                landmarks=result.landmarks, scale=way.scale, rotation=way.rotation, translation=way.translation, **more,
            )  # fmt: skip
    with atomic_file(job.file("json")) as partial:
        partial.write_text(outcome.model_dump_json(indent=1) + "\n", encoding="utf-8")


def outcome_of(job: Job) -> Outcome | None:
    """The result of a job that is done, or None; a damaged one counts as not done."""
    try:
        outcome = Outcome.model_validate_json(read_text(job.file("json"), MOST_OUTCOME))
        if outcome.verdict != "failed":
            result_of(job)
    except (ValidationError, MeshganError):
        return None
    return outcome if outcome.scan == job.name else None


def result_of(job: Job) -> Result:
    """What a job has on disk. Raises `MeshganError` if it is missing or holds nonsense."""
    path, size = job.file("npz"), len(_template(job.settings).mesh.vertices)
    arrays = read_arrays(path, MOST_RESULT)
    shapes = {"vertices": (size, 3), "scale": (), "rotation": (3, 3), "translation": (3,)}
    if job.settings.sequence:
        shapes |= {"still": (size, 3), "weights": (len(ARKIT),), "held": ()}
    numbers = {"landmarks": arrays.get("landmarks"), **{name: arrays.get(name) for name in shapes}}
    index, damaged = arrays.get("landmark_index"), MeshganError(f"{path} is damaged; remove it and run again.")
    for name, array in numbers.items():
        if array is None or array.dtype.kind != "f" or not (np.abs(array) < FARTHEST).all():  # NaN is not below
            raise damaged
        if array.shape != shapes.get(name, (len(index) if index is not None and index.ndim == 1 else -1, 3)):
            raise damaged
    if index is None or index.dtype.kind != "i" or not np.isin(index, np.arange(_landmark_count(job))).all():
        raise damaged
    if len(np.unique(index)) != len(index) or not arrays["scale"] > 0 or not _is_rotation(arrays["rotation"]):
        raise damaged
    way = Similarity(float(arrays["scale"]), arrays["rotation"], arrays["translation"])
    moment = None
    if job.settings.sequence:
        face, still = (arrays[name].astype(np.float64) for name in ("vertices", "still"))
        place = _place(arrays.get("place"))
        count = arrays.get("frames")
        if place is None or count is None or count.dtype.kind != "i" or count.shape != () or not 0 < count < FARTHEST:
            raise damaged
        moment = Moment(face, still, arrays["weights"], way, float(arrays["held"]), int(count), place)
    marks = arrays["landmarks"]
    return Result(arrays["vertices"].astype(np.float32), index.astype(np.int64), marks, way, moment)


def _place(numbers: NDArray[Any] | None) -> Place | None:
    """Where a frame stands in its sequence, None if that is nonsense."""
    if numbers is None or numbers.dtype.kind != "i" or numbers.ndim != 1 or not 3 <= len(numbers) < 3 + MOST_SHOTS:
        return None
    number, began, after, *other = numbers.tolist()
    sensible = 0 <= began <= number and -1 <= after < number and all(0 <= last < number for last in other)
    return Place(number, began, after, tuple(other)) if sensible else None


def _landmark_count(job: Job) -> int:
    return len(_template(job.settings).landmark_names)


def _is_rotation(matrix: NDArray[Any]) -> bool:
    return np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6) and bool(np.linalg.det(matrix) > 0)


def over_processes(jobs: Sequence[Job], workers: int) -> Generator[str, None, None]:
    """Keys of finished jobs as they finish, over `workers` processes; one worker is this process itself."""
    if workers == 1 or len(jobs) <= 1:
        yield from map(work_on, jobs)
        return
    waiting = list(jobs)
    while waiting:
        before = len(waiting)
        yield from _until_broken(waiting, workers)
        waiting = [job for job in waiting if outcome_of(job) is None]
        suspects = [job for job in waiting if job.file("started").exists()]
        if len(waiting) == before and not suspects:
            raise MeshganError(
                "the worker processes do not start: a script must call this under `if __name__ == '__main__':`; else "
                "run with one worker to see why."
            )
        for job in suspects:  # one of them killed its process: each gets a process of its own
            yield from _until_broken([job], 1)
            if outcome_of(job) is None:
                save(job, Outcome(scan=job.name, verdict="failed", reason=KILLED))
        waiting = [job for job in waiting if outcome_of(job) is None]


def _until_broken(jobs: Sequence[Job], workers: int) -> Iterator[str]:
    """Keys of finished jobs until all are done or a process is killed."""
    for job in jobs:
        remove_file(job.file("started"))
    try:
        with process_pool(min(workers, len(jobs))) as pool:
            for future in as_completed([pool.submit(work_on, job) for job in jobs]):
                yield future.result()
    except BrokenProcessPool:
        return
    finally:
        sweep(jobs[0].work)  # what a process that was ended had begun to write


def over_dask(jobs: Sequence[Job], scheduler: str) -> Generator[str, None, None]:
    """Keys of finished jobs as they finish, over the workers of a Dask cluster that see the same files."""
    try:
        import distributed
    except ImportError as error:
        raise missing_extra("`scheduler`", "scale") from error
    connect: Any = distributed.Client  # without types
    try:
        client = connect(scheduler, timeout=ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler}; start one with `dask scheduler`.") from error
    completed: Any = distributed.as_completed
    with client:
        futures = {client.submit(work_on, job, pure=False, key=f"register-{job.key}"): job for job in jobs}
        for future in completed(futures):
            _settle(futures[future], future, distributed.KilledWorker, scheduler)
            yield futures[future].key


def _settle(job: Job, future: Any, killed: type[BaseException], scheduler: str) -> None:
    """A job whose workers were killed again and again has failed; any other failure is the cluster's."""
    try:
        failure = None if future.status == "finished" else future.exception(timeout=ANSWER_SECONDS)
    except (CancelledError, TimeoutError, OSError) as error:
        failure = error
    if isinstance(failure, killed):
        save(job, Outcome(scan=job.name, verdict="failed", reason=KILLED))
    elif isinstance(failure, MeshganError):
        raise failure
    elif failure is not None or future.status != "finished":
        raise MeshganError(
            f"the Dask scheduler at {scheduler} is gone or gave {job.name} up ({failure or future.status}); what is "
            "done is kept, so run the same command again when it is back."
        ) from failure
