"""The paper's own length: its recipe and CoMA as published, looked at on the way to 300 epochs.

    python tools/long_runs.py OUT table1 [--at 144000 600000 …] [--only coma] [--picture over-faces.png]

OUT is of `meshgan reproduce`: the corpus of the table is made or found there. Each recipe is trained on to the numbers
of faces of `--at`, one after the other, and then to the end of its 300 epochs; at each, what its model draws is
measured against the test part and kept in `over-faces.json`, of which the picture is drawn. A run that was cut goes
on where it stood; one that stands further than a number of faces is not measured there. The recipes are the same
whatever the end, for their rates fall by epochs. When both are through, `meshgan reproduce table1 --scale paper
--seeds 1 --only meshgan-paper --only coma --out OUT` finds their runs, and makes the table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from meshgan.arrays import Faces
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.evaluation.evaluate import yardstick
from meshgan.evaluation.yardstick import Fid, Source
from meshgan.model.load import load_model
from meshgan.report.reproduce import SCALES, TABLES, corpus_of, home_of, make_model
from meshgan.report.results import NAMES
from meshgan.storage import atomic_file

ROWS = ("meshgan-paper", "coma")
AT = (144_000, 600_000, 1_200_000, 2_000_000)  # faces seen; the first is the desk scale's
SHOWN = {"diversity_mm": "diversity, mm", "fid": "FID", "detail": "detail"}
SAMPLES, BLOCK, DPI = 1200, 128, 160
FILE = "over-faces.json"

Line = dict[str, Any]


def main() -> None:
    """Train, measure and draw."""
    parser = argparse.ArgumentParser(description="The paper's recipe and CoMA over faces seen.")
    parser.add_argument("out", type=Path)
    parser.add_argument("table", choices=("table1", "table2"))
    parser.add_argument("--at", type=int, nargs="*", default=AT, help="faces seen, at which a run is measured")
    parser.add_argument("--only", choices=ROWS, action="append")
    parser.add_argument("--fid", choices=("inception", "off"), default="inception")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    size, home = SCALES["paper"], home_of(options.table, options.out)
    faces = corpus_of(options.table, options.out, size)
    for name in options.only or ROWS:
        run, recipe = home / "runs" / name, TABLES[options.table][name]
        for seen in sorted(options.at):
            try:
                make_model(run, recipe, faces, (f"schedule.faces={seen}",), "cpu")
            except UsageError as error:
                print(f"{name}: {error}")  # it stands further already
            else:
                look(home / FILE, name, run, faces, options.fid)
        make_model(run, recipe, faces, size.changes, "cpu")
        look(home / FILE, name, run, faces, options.fid)
    if options.picture is not None:
        draw(known(home / FILE), options.picture)


def look(path: Path, name: str, run: Path, faces: FaceSet, fid: Fid) -> None:
    """Measure what the model of a run draws, unless that is done, and write it down beside what is known."""
    model = load_model(run)
    seen = model.card.origin.faces_seen
    before = {(line["model"], line["faces"]): line for line in known(path)}
    wanted = "detail" if fid == "off" else "fid"
    if wanted in before.get((name, seen), {}):
        return
    before[name, seen] = {"model": name, "faces": seen, **scores(model.sample(SAMPLES), model.card.sampler, faces, fid)}
    if wanted not in before.get(("real", 0), {}):
        order = np.random.default_rng(0).permutation(faces.split.train)[:SAMPLES]
        before["real", 0] = {"model": "real", "faces": 0, **scores(faces.vertices[order], "none", faces, fid)}
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(list(before.values()), indent=1) + "\n", encoding="utf-8")
    found = before[name, seen]
    print(f"{name} at {seen:,} faces: " + ", ".join(f"{SHOWN[key]} {found[key]:.3f}" for key in SHOWN if key in found))


def known(path: Path) -> list[Line]:
    """What is written down so far."""
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def scores(drawn: Faces, source: Source, faces: FaceSet, fid: Fid) -> dict[str, float]:
    """Every metric of faces (N, V, 3) against the test part."""
    row = yardstick(faces, fid, "test").measure(np.array_split(drawn, -(-len(drawn) // BLOCK)), source, 0)
    return {key: score.value for key, score in row.scores.items() if score is not None}


def draw(lines: list[Line], path: Path) -> None:
    """A panel for each metric that is shown, over millions of faces seen; real faces as a dotted line."""
    shown = [key for key in SHOWN if any(key in line for line in lines)]
    figure, axes = plt.subplots(1, len(shown), figsize=(3.4 * len(shown), 2.8), layout="constrained", squeeze=False)
    for panel, key in zip(axes[0], shown, strict=True):
        for name, colour in zip(ROWS, ("#1f5fbf", "#c8551b"), strict=True):
            run = sorted((line["faces"], line[key]) for line in lines if line["model"] == name and key in line)
            if run:
                seen, values = zip(*run, strict=True)
                panel.plot(np.array(seen) / 1e6, values, marker="o", color=colour, label=NAMES[name])
        for line in lines:
            if line["model"] == "real":
                panel.axhline(line[key], color="#999999", linestyle=":", label="real faces")
        panel.set(xlabel="million faces seen", title=SHOWN[key], ylim=(0, None), xlim=(0, None))
        panel.grid(alpha=0.25)
    axes[0, 0].legend(frameon=False, fontsize=8)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI)
    plt.close(figure)


if __name__ == "__main__":
    main()
