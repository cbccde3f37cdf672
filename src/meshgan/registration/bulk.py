"""Many scans: over processes of this machine or a Dask cluster, each result on disk as soon as it is there.

What can happen to one scan stays with it: an error becomes its outcome; a process that is killed while it works
(by the system, for its memory) is replaced, and the scan is tried once more by itself before it is given up.
"""

import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import MILLIMETRES, read_mesh
from meshgan.progress import track
from meshgan.registration.landmarks import read_landmarks
from meshgan.registration.models import load_template
from meshgan.registration.quality import judge, measure
from meshgan.registration.register import register
from meshgan.registration.report import draw
from meshgan.registration.template import FaceTemplate
from meshgan.registration.work import Job, Outcome, Settings, outcome_of, save

ANSWER_SECONDS = 10.0  # within which a Dask scheduler must answer
KILLED = "the process that worked on it was killed, twice; it may need more memory than there is"


def run(jobs: Sequence[Job], workers: int = 1, scheduler: str | None = None) -> list[Outcome]:
    """Do what is not done yet and return all outcomes, in the order of `jobs`."""
    open_jobs = [job for job in jobs if not _succeeded(job)]
    for job in open_jobs:
        job.file("json").unlink(missing_ok=True)
    done = over_dask(open_jobs, scheduler) if scheduler else over_processes(open_jobs, workers)
    for _ in track(done, "registering", total=len(open_jobs)):
        pass
    return [outcome_of(job) or Outcome(scan=job.name, verdict="failed", reason=KILLED) for job in jobs]


def _succeeded(job: Job) -> bool:
    """Whether an earlier run has a result; what failed then is tried again, it costs little."""
    outcome = outcome_of(job)
    return outcome is not None and outcome.verdict != "failed"


def work_on(job: Job) -> str:
    """Register one scan and save its outcome, whatever happens; returns the job's key."""
    job.file("started").touch()
    start = time.perf_counter()
    try:
        _register(job, start)
    except MeshganError as error:
        reason = str(error).removeprefix(f"{job.scan}").strip(" :")
        save(job, Outcome(scan=job.name, verdict="failed", reason=reason, seconds=time.perf_counter() - start), {})
    except MemoryError:
        save(job, Outcome(scan=job.name, verdict="failed", reason="it needs more memory than there is"), {})
    except Exception as error:
        reason = f"unforeseen error: {type(error).__name__}: {error}"
        save(job, Outcome(scan=job.name, verdict="failed", reason=reason, trace=traceback.format_exc()), {})
    return job.key


def _register(job: Job, start: float) -> None:
    template, unit = _template(job.settings), job.settings.unit
    millimetres = MILLIMETRES.get(unit, 1.0)
    names = template.landmark_names
    landmarks = read_landmarks(job.landmarks, names, millimetres) if job.landmarks else None
    mesh = read_mesh(job.scan, "mm" if unit == "auto" else unit)
    result = register(mesh, template, landmarks, unit)
    quality = measure(result, template)
    verdict, reason = judge(quality)
    draw(result, template, job.file("jpg"))
    arrays: dict[str, NDArray[Any]] = {
        "vertices": result.vertices.astype(np.float32),
        "landmark_index": result.landmarks.index,
        "landmarks": result.to_scan(result.landmarks.points) / millimetres,
    }
    save(job, Outcome.of(job.name, quality, verdict, reason, time.perf_counter() - start), arrays)


@lru_cache(maxsize=1)
def _template(settings: Settings) -> FaceTemplate:
    return load_template(settings.template, settings.model)


def over_processes(jobs: Sequence[Job], workers: int) -> Iterator[str]:
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
            raise MeshganError("the worker processes do not start; run with --workers 1 to see why.")
        for job in suspects:  # one of them killed its process: each gets a process of its own
            yield from _until_broken([job], 1)
            if outcome_of(job) is None:
                save(job, Outcome(scan=job.name, verdict="failed", reason=KILLED), {})
        waiting = [job for job in waiting if outcome_of(job) is None]


def _until_broken(jobs: Sequence[Job], workers: int) -> Iterator[str]:
    """Keys of finished jobs until all are done or a process is killed."""
    for job in jobs:
        job.file("started").unlink(missing_ok=True)
    quiet = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process to handle
    with _one_thread_each():
        pool = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), signal.signal, quiet)
        try:
            for future in as_completed([pool.submit(work_on, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile compute with one thread, unless the user has said otherwise."""
    added = [name for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name not in os.environ]
    os.environ |= dict.fromkeys(added, "1")
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def over_dask(jobs: Sequence[Job], scheduler: str) -> Iterator[str]:
    """Keys of finished jobs as they finish, over the workers of a Dask cluster that see the same files."""
    try:
        import distributed
    except ImportError as error:
        raise UsageError("--scheduler needs the extra: pip install 'meshgan[scale]'.") from error
    connect: Any = distributed.Client  # without types
    try:
        client = connect(scheduler, timeout=ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler}; start one with `dask scheduler`.") from error
    completed: Any = distributed.as_completed
    with client:
        futures = {client.submit(work_on, job, pure=False, key=f"register-{job.key}"): job for job in jobs}
        for future in completed(futures):
            _settle(futures[future], future.exception(), distributed.KilledWorker)
            yield futures[future].key


def _settle(job: Job, failure: BaseException | None, killed: type[BaseException]) -> None:
    """A job whose workers were killed again and again has failed; any other failure is the cluster's."""
    if isinstance(failure, killed):
        save(job, Outcome(scan=job.name, verdict="failed", reason=KILLED), {})
    elif failure is not None:
        raise MeshganError(f"the cluster failed on {job.name}: {failure}.") from failure
