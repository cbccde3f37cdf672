"""`register_all`: scans in, a FaceSet with its report out."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from meshgan.data.corpora.basis import layout_of
from meshgan.data.corpora.naming import ENDINGS, customary_subjects, mesh_files, natural
from meshgan.data.faceset import Card, FaceSetWriter, create_faceset
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import MILLIMETRES, WRITERS
from meshgan.progress import counted
from meshgan.reading import shown
from meshgan.registration.bake import check_size
from meshgan.registration.jobs import Job, Outcome, Settings, earlier_names, plan, result_of, run, take_over
from meshgan.registration.landmarks import READERS, available, no_detector
from meshgan.registration.quality import STRANGE_MM, stranger
from meshgan.registration.report import RESULTS, write_meshes, write_performance, write_report, write_textures
from meshgan.registration.templates import load_template
from meshgan.storage import alone_in, atomic_folder, keep_list, remove_written, require_replaceable, strangers


@dataclass(frozen=True)
class Registered:
    """How many scans got which verdict, why those that are not good are not, and all about each."""

    good: int
    check: int
    failed: int
    reasons: dict[str, str]  # scan → reason, of all that are not good
    scans: tuple[Outcome, ...]

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.good} good, {self.check} to check, {self.failed} failed."]
        strange = [scan.strange_mm for scan in self.scans if scan.strange_mm is not None]
        if strange and median(strange) > STRANGE_MM:
            lines.append(
                f"  The faces are unlike those that the face model knows, {median(strange):.2f} mm from them where "
                f"{STRANGE_MM} are usual at most: places on them are less sure."
            )
        lines += [f"  {scan}: {reason}" for scan, reason in list(self.reasons.items())[:10]]
        more = len(self.reasons) - 10
        return "\n".join(lines + [f"  and {more} more"] * (more > 0))

    def as_dict(self) -> dict[str, Any]:
        """The same for a machine."""
        counts = {"good": self.good, "check": self.check, "failed": self.failed, "reasons": self.reasons}
        return counts | {"scans": [scan.model_dump(mode="json", exclude={"trace"}) for scan in self.scans]}


def register_all(
    scans: Sequence[Path],
    out: Path,
    unit: str,
    template: Path | None = None,
    landmarks: Path | None = None,
    model: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    formats: Sequence[str] = ("ply",),
    in_scan_frame: bool = False,
    bake: int | None = None,
    sequence: bool = False,
) -> Registered:
    """Register every scan and write the FaceSet `out` of those that did not fail, with its report.

    Results gather in a hidden folder beside `out` and stay there if the run is cut. An `out` that an earlier run has
    written is brought up to date: what has not changed is taken over, and landmarks that were mended there stay.
    A `model` is of one's own people, and guides the fit beside the face model of the corpora.
    Without `landmarks` those in the folder `out/landmarks` count that were changed since an earlier run. Every face
    is also written as a mesh in each of `formats`; with `in_scan_frame`, once more where it lies in its scan. With
    `bake`, the colours of scans become textures of so many pixels on a side.

    In a `sequence` the scans are frames of one person, in the natural order of their names: each starts from the one
    before, and `out/weights.csv` has the weights of Apple's shapes, to be put on `out/at-rest.ply`. From the first
    frame that has changed on, all are registered again.

    Raises `UsageError` for wrong arguments before anything is done, and `MeshganError` if no scan could be used;
    then `out` holds only the report.
    """
    if unit not in {*MILLIMETRES, "auto"}:
        raise UsageError(f"there is no unit {unit!r}; choose one of {', '.join(MILLIMETRES)} or auto.")
    if unknown := [name for name in formats if f".{name}" not in WRITERS]:
        raise UsageError(f"meshes are written as {', '.join(WRITERS)} only, not as {unknown[0]!r}.")
    if sequence and (workers > 1 or scheduler is not None):
        raise UsageError(
            "frames of a sequence follow each other, so `sequence` goes without `workers` and `scheduler`."
        )
    if sequence and template is not None:
        raise UsageError("shapes are known for the template of meshgan alone, so `sequence` goes without `template`.")
    if landmarks is None and (out / RESULTS).is_dir() and (out / "landmarks").is_dir():
        landmarks = out / "landmarks"
    keep = _kept(out, landmarks)
    try:
        require_replaceable(out, keep)
    except MeshganError as error:
        raise UsageError(str(error)) from error
    listed = named_scans(scans)
    if sequence:
        listed = sorted(listed, key=lambda scan: natural(scan[1]))
    named = with_landmarks(listed, landmarks, _unchanged(out, landmarks))
    _require_kinship(out, {name for _, name, _ in named})
    if not available() and any(given is None for *_, given in named):
        raise no_detector()
    settings = Settings(unit, _absolute(template), _model_folder(model), sequence)
    face_template = load_template(settings.template, settings.model)  # a wrong one is told at once
    if bake is not None:
        check_size(bake, [layout_of(face_template.mesh)])
    work = out.absolute().with_name(f".{out.name}.work")
    with alone_in(work):
        keep_list(work)
        jobs = plan(named, settings, work)
        take_over(out / RESULTS, jobs)
        outcomes = _compared(run(jobs, workers, scheduler))
        subtitle = f"meshgan {version('meshgan')}, unit {unit}, template of {len(face_template.mesh.vertices)} vertices"
        usable = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.verdict != "failed"]
        if not usable:
            where = _only_report(out, subtitle, jobs, outcomes, face_template.landmark_names, keep)
            remove_written(work)
            raise MeshganError(f"no scan could be registered{where} ({outcomes[0].reason.rstrip('.')}).")
        card, mesh = _card(out, settings, outcomes), face_template.mesh
        with create_faceset(out, mesh, len(usable), card, keep, listed=True) as writer:
            _append(writer, usable, outcomes)
            write_report(writer.folder, out.name, subtitle, jobs, outcomes, face_template.landmark_names)
            if sequence:
                write_performance(writer.folder, mesh, jobs, outcomes)
            write_meshes(writer.folder / "meshes", mesh, usable, formats, in_scan=False)
            if in_scan_frame:
                write_meshes(writer.folder / "in-scan-frame", mesh, usable, formats, in_scan=True)
            if bake is not None:
                write_textures(writer.folder / "textures", mesh, usable, bake)
        remove_written(work)
    return _registered(outcomes)


def _compared(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of a run, of which those stranger to the face model than the others are not good."""
    known = {row: o.strange_mm for row, o in enumerate(outcomes) if o.strange_mm is not None and o.verdict != "failed"}
    compared = list(outcomes)
    places = [outcomes[row].strange_at for row in known]
    for row, why in zip(known, stranger(list(known.values()), places), strict=True):
        if why:
            reason = "; ".join(part for part in (outcomes[row].reason, why) if part)
            compared[row] = outcomes[row].model_copy(update={"verdict": "check", "reason": reason})
    return compared


def _append(writer: FaceSetWriter, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """Append the results of `jobs` to a FaceSet, each labelled with its file, its subject and its verdict."""
    verdicts = {outcome.scan: outcome.verdict for outcome in outcomes}
    subjects = customary_subjects([job.name for job in jobs])
    if any(job.settings.sequence for job in jobs):
        subjects = dict.fromkeys(subjects, shown(jobs[0].scan.parent.name))
    for job in jobs:
        label = {"file": job.name, "subject": subjects[job.name], "verdict": verdicts[job.name]}
        writer.append(result_of(job).vertices[None], [label])


def _kept(out: Path, landmarks: Path | None) -> Callable[[PurePath], bool] | None:
    """Which files of an earlier `out` take the place of new ones; None if it is not to be replaced.

    It is replaced where an earlier run has left its results: of those that have not changed, nothing is done again.
    Landmarks in it that a person has changed stay.
    """
    if landmarks is not None and landmarks.exists() and landmarks.resolve().is_relative_to(out.resolve()):
        place = landmarks.resolve().relative_to(out.resolve())
        return lambda path: path.is_relative_to(place)
    if (out / RESULTS).is_dir() or ((out / "report.html").is_file() and not (out / "card.json").exists()):
        return lambda path: path.is_relative_to("landmarks")
    return None


def _require_kinship(out: Path, names: set[str]) -> None:
    """Refuse to replace a set of other scans: that is no bringing up to date, but a slip."""
    before = earlier_names(out / RESULTS) if (out / "card.json").exists() else set()
    if before and not before & names:
        raise UsageError(f"{out} holds other scans ({min(before)}, …); choose another name, or remove it.")


def _unchanged(out: Path, landmarks: Path | None) -> Callable[[Path], bool]:
    """Whether a landmark file is one that an earlier run wrote into `out` and nobody has changed."""
    if landmarks is None or not out.is_dir():
        return lambda path: False
    others, inside = set(strangers(out)), out.resolve()
    return lambda path: path.resolve().is_relative_to(inside) and path.resolve().relative_to(inside) not in others


def _model_folder(model: str | Path | None) -> Path | None:
    if model is None:
        return None
    from meshgan.model.model_folder import SHIPPED, find_model  # needs torch, which registration else does without

    folder = find_model(model).resolve()
    if folder.parent == SHIPPED.resolve():
        raise UsageError(
            f"{model} ships with meshgan and has nothing to add: the face model that guides every fit has learned from "
            "more of the same people. Leave `model` out, or give one of your own people."
        )
    return folder


def named_scans(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every scan once, with its path below the folder that all of them share as its name."""
    files = []
    for path in paths:
        if path.is_dir():
            files += [path / name for name in mesh_files(path)]
        elif path.suffix.lower() not in ENDINGS:
            if not path.exists():
                raise UsageError(f"{path} does not exist.")
            raise UsageError(f"{path}: scans are read from {', '.join(sorted(ENDINGS))} files only.")
        elif not path.is_file():
            raise UsageError(f"{path} does not exist.")
        else:
            files.append(path)
    unique = list(dict.fromkeys(file.absolute() for file in files))
    shared = Path(os.path.commonpath([file.parent for file in unique]))
    return [(file, shown(file.relative_to(shared))) for file in unique]


def with_landmarks(
    scans: Sequence[tuple[Path, str]], landmarks: Path | None, unchanged: Callable[[Path], bool] = lambda path: False
) -> list[tuple[Path, str, Path | None]]:
    """Each scan with its landmark file: the one given, or of a folder the file of the scan's name.

    Files that are `unchanged` since they were found do not count: they would be taken for a person's own.
    """
    if landmarks is None:
        return [(path, name, None) for path, name in scans]
    if landmarks.is_file():
        if len(scans) > 1:
            raise UsageError(f"{landmarks} is one file, but there are {len(scans)} scans; give a folder with one each.")
        return [(path, name, landmarks.absolute()) for path, name in scans]
    if not landmarks.is_dir():
        raise UsageError(f"{landmarks} does not exist.")
    found = [(path, name, _landmark_file(landmarks.absolute(), path, name)) for path, name in scans]
    return [(path, name, None if file is not None and unchanged(file) else file) for path, name, file in found]


def _landmark_file(folder: Path, scan: Path, name: str) -> Path | None:
    """The file of a scan below `folder`: its name with another ending, or with one more (`face.ply.json`)."""
    raw = folder / PurePath(name).parent / scan.name
    candidates = [place for ending in READERS for place in (Path(f"{raw}{ending}"), raw.with_suffix(ending))]
    return next((path for path in candidates if path.is_file()), None)


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path is not None else None


def _card(out: Path, settings: Settings, outcomes: Sequence[Outcome]) -> Card:
    return Card(
        name=out.name,
        source=f"{counted(len(outcomes), 'scan')} registered with meshgan {version('meshgan')}",
        licence="that of the scans",
        synthetic=False,
        parameters={
            "unit": settings.unit,
            "template": settings.template.name if settings.template else "default",
            "model": settings.model.name if settings.model else "corpus",
            **({"sequence": "one person"} if settings.sequence else {}),
        },
    )


def _only_report(
    out: Path,
    subtitle: str,
    jobs: Sequence[Job],
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    keep: Callable[[PurePath], bool] | None,
) -> str:
    """Write the report alone, unless `out` holds a set, which is worth more; returns where to look."""
    if (out / "card.json").exists():
        return f"; {out} stays as it was"
    with atomic_folder(out, keep, listed=True) as folder:
        write_report(folder, out.name, subtitle, jobs, outcomes, names)
    return f"; {out / 'report.html'} says why"


def _registered(outcomes: Sequence[Outcome]) -> Registered:
    counts = Counter(outcome.verdict for outcome in outcomes)
    reasons = {outcome.scan: outcome.reason for outcome in outcomes if outcome.verdict != "good"}
    return Registered(counts["good"], counts["check"], counts["failed"], reasons, tuple(outcomes))
