"""The work folder of a bulk registration: one scan's result is one set of files, written whole or not at all.

WORK/KEY.json   the outcome: verdict, reason, figures; written last, so that its presence means "done"
WORK/KEY.npz    vertices (V, 3) float32 and the landmarks, if the template could be laid onto the scan
WORK/KEY.jpg    the pictures

KEY holds the scan's content and all settings, so a run that was cut goes on where it stopped, and a changed scan or
setting is done anew.
"""

import hashlib
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from meshgan.arrays import Singles
from meshgan.errors import MeshganError
from meshgan.registration.models import landmark_file
from meshgan.registration.quality import Quality, Verdict
from meshgan.storage import atomic_file

FORMAT = "2"  # of the results; part of every key


@dataclass(frozen=True)
class Settings:
    """What all scans of one run share."""

    unit: str
    template: Path | None = None
    model: Path | None = None


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
    folded: float | None = None
    interocular_mm: float | None = None
    seconds: float = 0.0
    trace: str = ""  # of an error that nobody foresaw

    @classmethod
    def of(cls, scan: str, quality: Quality, verdict: Verdict, reason: str, seconds: float) -> "Outcome":
        """The outcome of a scan that got as far as being measured."""
        return cls(scan=scan, verdict=verdict, reason=reason, seconds=seconds, **asdict(quality))


def plan(scans: list[tuple[Path, str, Path | None]], settings: Settings, work: Path) -> list[Job]:
    """A job for each (file, name, landmarks); reading the files' content is all that it costs."""
    beside = landmark_file(settings.template) if settings.template else None
    shared = _digest(FORMAT, settings.unit, *map(_content, (settings.template, beside, settings.model)))
    return [
        Job(scan, name, landmarks, settings, work, _digest(shared, name, _content(scan), _content(landmarks)))
        for scan, name, landmarks in scans
    ]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _content(path: Path | None) -> str:
    """What tells two files or folders apart; a file that cannot be read will say so when its turn comes."""
    if path is None:
        return ""
    if path.is_dir():
        return _digest(*(_content(file) for file in sorted(path.iterdir()) if file.is_file()))
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return str(path)


def save(job: Job, outcome: Outcome, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a result; the JSON comes last."""
    if arrays:
        with atomic_file(job.file("npz")) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    with atomic_file(job.file("json")) as partial:
        partial.write_text(outcome.model_dump_json(indent=1) + "\n")


def outcome_of(job: Job) -> Outcome | None:
    """The result of a job that is done, or None; a damaged one counts as not done."""
    try:
        outcome = Outcome.model_validate_json(job.file("json").read_text(encoding="utf-8"))
        if outcome.verdict != "failed":
            vertices_of(job)
    except (OSError, ValidationError, ValueError, MeshganError):
        return None
    return outcome


def vertices_of(job: Job) -> Singles:
    """The registered vertices (V, 3)."""
    return arrays_of(job)["vertices"]


def arrays_of(job: Job) -> dict[str, NDArray[Any]]:
    """`vertices` (V, 3) in the template's frame, `landmark_index` (L,), `landmarks` (L, 3) in the scan's own."""
    try:
        with job.file("npz").open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("vertices", "landmark_index", "landmarks")}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MeshganError(f"{job.file('npz')} is damaged; remove it and run again.") from error
    if not np.isfinite(found["vertices"]).all():
        raise MeshganError(f"{job.file('npz')} is damaged; remove it and run again.")
    return found
