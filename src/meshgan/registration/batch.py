"""`register_all`: scans in, a FaceSet with its report out."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from meshgan.data.corpora.naming import ENDINGS, customary_subjects, mesh_files
from meshgan.data.faceset import Card, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import MILLIMETRES
from meshgan.registration.bulk import run
from meshgan.registration.detector import MISSING, available
from meshgan.registration.landmarks import READERS
from meshgan.registration.models import load_template
from meshgan.registration.report import write_report
from meshgan.registration.work import Job, Outcome, Settings, plan, vertices_of

REPORT = {"report.html", "report.csv", "pictures", "landmarks"}


@dataclass(frozen=True)
class Registered:
    """How many scans got which verdict, and why the failed ones failed."""

    good: int
    check: int
    failed: int
    reasons: dict[str, str]  # scan → reason, of all that are not good

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.good} good, {self.check} to check, {self.failed} failed."]
        lines += [f"  {scan}: {reason}" for scan, reason in list(self.reasons.items())[:10]]
        more = len(self.reasons) - 10
        return "\n".join(lines + [f"  and {more} more"] * (more > 0))

    def as_dict(self) -> dict[str, Any]:
        """The same for a machine."""
        return asdict(self)


def register_all(
    scans: Sequence[Path],
    out: Path,
    unit: str,
    template: Path | None = None,
    landmarks: Path | None = None,
    model: Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
) -> Registered:
    """Register every scan and write the FaceSet `out` of those that did not fail, with its report.

    Results gather in a hidden folder beside `out` and stay there if the run is cut. Raises `UsageError` for wrong
    arguments before anything is done, and `MeshganError` if no scan could be used; then `out` holds only the report.
    """
    if unit not in {*MILLIMETRES, "auto"}:
        raise UsageError(f"there is no unit {unit!r}; choose one of {', '.join(MILLIMETRES)} or auto.")
    _make_room(out)
    named = with_landmarks(named_scans(scans), landmarks)
    if not available() and any(given is None for *_, given in named):
        raise UsageError(MISSING)
    settings = Settings(unit, _absolute(template), _absolute(model))
    face_template = load_template(settings.template, settings.model)  # a wrong one is told at once
    work = out.absolute().with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    jobs = plan(named, settings, work)
    outcomes = run(jobs, workers, scheduler)
    subtitle = f"meshgan {version('meshgan')}, unit {unit}, template of {len(face_template.mesh.vertices)} vertices"
    usable = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.verdict != "failed"]
    if not usable:
        _only_report(out, subtitle, jobs, outcomes, face_template.landmark_names)
        raise MeshganError(f"no scan could be registered; {out / 'report.html'} says why ({outcomes[0].reason}).")
    verdicts = {outcome.scan: outcome.verdict for outcome in outcomes}
    subjects = customary_subjects([job.name for job in usable])
    with create_faceset(out, face_template.mesh, len(usable), _card(out, settings, outcomes)) as writer:
        for job in usable:
            label = {"file": job.name, "subject": subjects[job.name], "verdict": verdicts[job.name]}
            writer.append(vertices_of(job)[None], [label])
        write_report(writer.folder, out.name, subtitle, jobs, outcomes, face_template.landmark_names)
    shutil.rmtree(work, ignore_errors=True)
    return _registered(outcomes)


def _make_room(out: Path) -> None:
    """Refuse a place that holds something, apart from the report of a run in which every scan failed."""
    if not out.exists():
        return
    held = {path.name for path in out.iterdir()} if out.is_dir() else {"a file"}
    if held - REPORT:
        raise UsageError(f"{out} exists already; remove it or choose another name.")
    shutil.rmtree(out)


def named_scans(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every scan once, with its path below the folder that all of them share as its name."""
    files = []
    for path in paths:
        if path.is_dir():
            files += [path / name for name in mesh_files(path)]
        elif path.suffix.lower() not in ENDINGS:
            raise UsageError(f"{path}: scans are read from {', '.join(sorted(ENDINGS))} files only.")
        elif not path.is_file():
            raise UsageError(f"{path} does not exist.")
        else:
            files.append(path)
    unique = list(dict.fromkeys(file.absolute() for file in files))
    shared = Path(os.path.commonpath([file.parent for file in unique]))
    return [(file, file.relative_to(shared).as_posix()) for file in unique]


def with_landmarks(scans: Sequence[tuple[Path, str]], landmarks: Path | None) -> list[tuple[Path, str, Path | None]]:
    """Each scan with its landmark file: the one given, or of a folder the file of the scan's name."""
    if landmarks is None:
        return [(path, name, None) for path, name in scans]
    if landmarks.is_file():
        if len(scans) > 1:
            raise UsageError(f"{landmarks} is one file, but there are {len(scans)} scans; give a folder with one each.")
        return [(path, name, landmarks.absolute()) for path, name in scans]
    if not landmarks.is_dir():
        raise UsageError(f"{landmarks} does not exist.")
    return [(path, name, _landmark_file(landmarks.absolute(), name)) for path, name in scans]


def _landmark_file(folder: Path, name: str) -> Path | None:
    candidates = [(folder / name).with_suffix(ending) for ending in READERS]
    return next((path for path in candidates if path.is_file()), None)


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path is not None else None


def _card(out: Path, settings: Settings, outcomes: Sequence[Outcome]) -> Card:
    return Card(
        name=out.name,
        source=f"{len(outcomes)} scans registered with meshgan {version('meshgan')}",
        licence="that of the scans",
        synthetic=False,
        parameters={
            "unit": settings.unit,
            "template": settings.template.name if settings.template else "default",
            "model": settings.model.name if settings.model else "corpus",
        },
    )


def _only_report(
    out: Path, subtitle: str, jobs: Sequence[Job], outcomes: Sequence[Outcome], names: Sequence[str]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_report(out, out.name, subtitle, jobs, outcomes, names)


def _registered(outcomes: Sequence[Outcome]) -> Registered:
    counts = Counter(outcome.verdict for outcome in outcomes)
    reasons = {outcome.scan: outcome.reason for outcome in outcomes if outcome.verdict != "good"}
    return Registered(counts["good"], counts["check"], counts["failed"], reasons)
