"""The report beside the faces: `report.html` to look at, `report.csv` to sort, the pictures and the landmarks found."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from meshgan.registration.pictures import WORST
from meshgan.registration.quality import INTEROCULAR, THRESHOLDS, VERDICTS
from meshgan.registration.work import Job, Outcome, arrays_of

COLUMNS = (
    "scan", "verdict", "reason", "median_mm", "p95_mm", "landmark_mm", "coverage", "folded", "feature_mm", "gap_mm2",
    "interocular_mm", "seconds",
)  # fmt: skip
FORMS = {"uncovered": "{:.0%}", "folded": "{:.1%}", "gap_mm2": "{:.0f} mm²"}  # of thresholds; others are lengths
DIGITS = {"coverage": 4, "gap_mm2": 0, "folded": 5, "seconds": 2}  # of the CSV; lengths have three


def write_report(
    folder: Path, title: str, subtitle: str, jobs: Sequence[Job], outcomes: Sequence[Outcome], names: Sequence[str]
) -> None:
    """Write everything into `folder`; `names` is the landmark scheme."""
    _write_csv(folder / "report.csv", outcomes)
    pictures = _copy_pictures(folder, jobs)
    _write_landmarks(folder / "landmarks", jobs, names)
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


def _copy_pictures(folder: Path, jobs: Sequence[Job]) -> Mapping[str, str]:
    """Pictures of all scans that have one: name of the scan → path within `folder`."""
    (folder / "pictures").mkdir()
    found = {}
    for number, job in enumerate(jobs):
        if job.file("jpg").is_file():
            found[job.name] = f"pictures/{number:05d}.jpg"
            shutil.copyfile(job.file("jpg"), folder / found[job.name])
    return found


def _write_landmarks(folder: Path, jobs: Sequence[Job], names: Sequence[str]) -> None:
    """The landmarks of each scan in its own frame and unit, as `--landmarks` reads them: correct them and run again."""
    for job in jobs:
        if job.file("npz").is_file():
            arrays = arrays_of(job)
            points = zip(arrays["landmark_index"], arrays["landmarks"], strict=True)
            content = {names[index]: [round(float(x), 6) for x in point] for index, point in points}
            path = (folder / job.name).with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _thresholds() -> list[tuple[str, str, str, str]]:
    rows = []
    for threshold in THRESHOLDS:
        form = FORMS.get(threshold.name, "{:.1f} mm")
        rows.append((threshold.name, form.format(threshold.good), form.format(threshold.failed), threshold.meaning))
    rows.append(
        (
            "interocular_mm",
            f"{INTEROCULAR[0]:.0f} to {INTEROCULAR[1]:.0f} mm",
            "",
            "distance between the eyes, else check",
        )
    )
    return rows
