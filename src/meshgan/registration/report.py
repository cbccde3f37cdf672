"""The report beside the faces: a page to look at, a table to sort, pictures, the landmarks found and the way back.

report.html, report.csv    what became of each scan
landmarks/                 those found or given, in each scan's own frame and unit
transforms.csv             the way from each face back to its scan
weights.csv                of a sequence: the weights of Apple's shapes in each frame, and the turns of the head
at-rest.ply                of a sequence: the face that these weights move
meshes/                    each face of the set, in millimetres
in-scan-frame/             if asked for: the faces there
textures/                  if asked for: the scans' colours as PNG, and faces that wear them, with their rigs
results/                   what each scan became, and its pictures: what has not changed is not done again
"""

import csv
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
from jinja2 import Environment, PackageLoader
from scipy.spatial.transform import Rotation

from meshgan.data.corpora.basis import layout_of
from meshgan.errors import UsageError
from meshgan.geometry.files import write_glb, write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.model.drive import HEAD
from meshgan.model.rig import ARKIT, targets_of
from meshgan.progress import track
from meshgan.registration.bake import NEAR_MM, as_png, bake, no_colours
from meshgan.registration.colours import read_painted
from meshgan.registration.jobs import Job, Outcome, result_of
from meshgan.registration.quality import (
    INTEROCULAR,
    NEVER,
    STRANGE_MM,
    STRANGER,
    STRANGEST_MM,
    THRESHOLDS,
    VERDICTS,
    WORST,
)
from meshgan.storage import atomic_file

COLUMNS = (
    "scan", "verdict", "reason", "median_mm", "p95_mm", "landmark_mm", "coverage", "folded", "feature_mm", "gap_mm2",
    "interocular_mm", "strange_mm", "smoothness", "seconds",
)  # fmt: skip
RESULTS = "results"
FORMS = {
    "uncovered": "{:.0%}",
    "folded": "{:.1%}",
    "gap_mm2": "{:.0f} mm²",
    "smoothness": "{:.1f}",
}  # of thresholds; others are lengths
DIGITS = {"coverage": 4, "gap_mm2": 0, "folded": 5, "seconds": 2}  # of the CSV; lengths have three


def write_report(
    folder: Path, title: str, subtitle: str, jobs: Sequence[Job], outcomes: Sequence[Outcome], names: Sequence[str]
) -> None:
    """Write everything into `folder`; `names` is the landmark scheme."""
    _write_csv(folder / "report.csv", outcomes)
    pictures = _keep_results(folder, jobs)
    usable = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.verdict != "failed"]
    _write_transforms(folder / "transforms.csv", usable)
    measured = [job for job in jobs if job.file("npz").is_file()]
    for job, place in zip(measured, own_places(jobs, measured, ".json"), strict=True):
        _write_landmarks(folder / "landmarks" / place, job, names)
    counts = Counter(outcome.verdict for outcome in outcomes)
    page = Environment(loader=PackageLoader("meshgan.registration", "assets"), autoescape=True).get_template(
        "report.html"
    )
    text = page.render(
        title=title, subtitle=subtitle, outcomes=outcomes, pictures=pictures, counts=counts, verdicts=VERDICTS,
        thresholds=_thresholds(), worst=WORST,
    )  # fmt: skip
    (folder / "report.html").write_text(text, encoding="utf-8")


def _write_csv(path: Path, outcomes: Sequence[Outcome]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for outcome in outcomes:
            writer.writerow([_cell(name, getattr(outcome, name)) for name in COLUMNS])


def _cell(name: str, value: object) -> object:
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(name, 3)}f}"
    return "" if value is None else value


def _keep_results(folder: Path, jobs: Sequence[Job]) -> Mapping[str, str]:
    """Keep what is known of all scans; returns their pictures: name of the scan → path within `folder`."""
    (folder / RESULTS).mkdir()
    found = {}
    for job in jobs:
        for ending in ("json", "npz", "jpg"):
            if job.file(ending).is_file():
                shutil.copyfile(job.file(ending), folder / RESULTS / job.file(ending).name)
        if job.file("jpg").is_file():
            found[job.name] = f"{RESULTS}/{job.file('jpg').name}"
    return found


def own_places(jobs: Sequence[Job], chosen: Sequence[Job], ending: str) -> list[str]:
    """A path for each of the chosen jobs, named as its scan; scans that differ in their ending alone keep it."""
    stems = Counter(PurePath(job.name).with_suffix("").as_posix().casefold() for job in jobs)
    return [
        f"{job.name}{ending}"
        if stems[PurePath(job.name).with_suffix("").as_posix().casefold()] > 1
        else PurePath(job.name).with_suffix(ending).as_posix()
        for job in chosen
    ]


def _write_landmarks(path: Path, job: Job, names: Sequence[str]) -> None:
    """The landmarks of a scan in its own frame and unit, as `--landmarks` reads them: correct them and run again."""
    result = result_of(job)
    points = zip(result.landmark_index, result.landmarks, strict=True)
    content = {names[index]: [float(f"{x:.9g}") for x in point] for index, point in points}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_transforms(path: Path, jobs: Sequence[Job]) -> None:
    """Of each scan the motion that carries its face in the set to it: `scale R x + t`, in the scan's own unit."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["scan", "scale", *(f"r{row}{column}" for row in "xyz" for column in "xyz"), "tx", "ty", "tz"])
        for job in jobs:
            way = result_of(job).to_scan
            writer.writerow([job.name, *(f"{x:.12g}" for x in (way.scale, *way.rotation.ravel(), *way.translation))])


def write_performance(folder: Path, template: Mesh, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """The person's face at rest, and a table of what it does, as `meshgan drive` reads it.

    There is a row for each frame: its name, the weights of Apple's shapes, and how the head is turned against the first
    one, in radians. What failed, or shows another face than most frames, lies on the line between its neighbours.
    """
    usable = [row for row, outcome in enumerate(outcomes) if outcome.verdict != "failed"]
    results = {row: result_of(jobs[row]) for row in usable}
    began = {row: result.moment.place.began for row, result in results.items() if result.moment is not None}
    person = Counter(began.values()).most_common(1)[0][0]
    usable = [row for row in usable if began[row] == person]
    turns = Rotation.from_matrix([results[row].to_scan.rotation for row in usable])
    angles = np.unwrap((turns[0].inv() * turns).as_euler("YXZ"), axis=0)
    moments = [moment for row in usable if (moment := results[row].moment) is not None]
    write_mesh(folder / "at-rest.ply", template.with_vertices(moments[-1].still))
    weights = np.stack([moment.weights for moment in moments])
    known = np.hstack([weights, angles])
    table = np.stack([np.interp(np.arange(len(jobs)), usable, column) for column in known.T], axis=1)
    with (folder / "weights.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["frame", *ARKIT, *HEAD])
        writer.writerows([job.name, *(f"{x:.5f}" for x in row)] for job, row in zip(jobs, table, strict=True))


def write_meshes(folder: Path, template: Mesh, jobs: Sequence[Job], formats: Sequence[str], in_scan: bool) -> None:
    """The face of each job in each of the formats: as it is in the set, or in the frame and unit of its scan."""
    layout = layout_of(template)
    for ending in formats:
        for job, place in zip(jobs, own_places(jobs, jobs, f".{ending}"), strict=True):
            result = result_of(job)
            vertices = result.vertices.astype(np.float64)
            if in_scan:
                vertices = result.to_scan(vertices)
            if in_scan and ending == "glb":  # it is written in metres, from millimetres
                vertices = vertices * job.millimetres
            write_mesh(folder / place, template.with_vertices(vertices), layout)


def write_textures(folder: Path, template: Mesh, jobs: Sequence[Job], size: int) -> None:
    """The scan's colours on each face's layout: a PNG, and a GLB of the face that wears it."""
    layout = layout_of(template)
    if layout is None:
        raise UsageError("faces of another template than meshgan's have no texture coordinates.")
    places = zip(*(own_places(jobs, jobs, ending) for ending in (".png", ".glb")), strict=True)
    for job, (png, glb) in track(zip(jobs, places, strict=True), "Baking", total=len(jobs)):
        unit = job.settings.unit
        painted = read_painted(job.scan, "mm" if unit == "auto" else unit)
        if painted is None:
            warnings.warn(no_colours(job.scan), stacklevel=2)
            continue
        result = result_of(job)
        vertices = result.vertices.astype(np.float64)
        there = result.to_scan(vertices) * job.millimetres
        near = NEAR_MM * float(result.to_scan.scale) * job.millimetres
        picture = as_png(bake(template.with_vertices(there), layout, painted, size, near))
        with atomic_file(folder / png) as partial:
            partial.write_bytes(picture)
        face, targets = template.with_vertices(vertices), targets_of(vertices, "both")
        write_glb(folder / glb, face, targets, name=job.scan.stem, layout=layout, picture=picture)


def _thresholds() -> list[tuple[str, str, str, str]]:
    rows = []
    for threshold in THRESHOLDS:
        form = FORMS.get(threshold.name, "{:.1f} mm")
        failed = "never" if threshold.failed == NEVER else form.format(threshold.failed)
        rows.append((threshold.name, form.format(threshold.good), failed, threshold.meaning))
    rows.append(
        (
            "interocular_mm",
            f"{INTEROCULAR[0]:.0f} to {INTEROCULAR[1]:.0f} mm",
            "",
            "distance between the eyes, else check",
        )
    )
    meaning = "distance from the result to the likeliest face that the face model says of it, root mean square"
    usual = f"{STRANGE_MM} mm, or {STRANGER} × the run's median, of few scans up to {STRANGEST_MM}"
    rows.append(("strange_mm", usual, "never", meaning))
    return rows
