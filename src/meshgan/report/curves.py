"""Training curves as SVG, small multiples."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from meshgan.training.watch import CURVES

Lines = Sequence[Mapping[str, Any]]
Curves = Mapping[str, tuple[list[int], list[float]]]  # label → faces seen, values

TIMES = {"step", "faces", "epoch", "seconds"}  # what a line says of when, not of what
COLOURS = ("#1f6fb4", "#d1605e")
MOST = 1500  # points of a curve
LARGEST = 1e300  # beyond it, axes have no ticks


def curves_svg(lines: Lines, declared: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The statistics of stats.jsonl over faces seen: one SVG element for each panel that has something to show.

    `declared` are the panels of the run's objective (`Objective.curves`): titles, statistics and labels. What every
    run logs follows, and last whatever else was logged, each with a panel of its own.
    """
    thinned = lines[:: max(1, len(lines) // MOST)]
    wanted = {**declared, **CURVES}
    known = {key for logged in wanted.values() for key in logged} | TIMES
    keys = dict.fromkeys(key for line in thinned for key, value in line.items() if is_number(value))
    wanted |= {key: {key: key} for key in keys if key not in known}
    panels = [(title, curves) for title, logged in wanted.items() if (curves := _curves(thinned, logged))]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "meshgan"}):
        return [_panel(title, curves) for title, curves in panels]


def is_number(value: object) -> bool:
    """Whether a value of a line can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _curves(lines: Lines, logged: Mapping[str, str]) -> Curves:
    """Those of these statistics that the run has logged, where they are numbers."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for key, label in logged.items():
        points = [
            (line["faces"], line[key]) for line in lines if is_number(line.get("faces")) and is_number(line.get(key))
        ]
        if points:
            seen, values = zip(*points, strict=True)
            curves[label] = (list(seen), list(values))
    return curves


def _panel(title: str, curves: Curves) -> str:
    figure = Figure(figsize=(4.2, 2.4), layout="constrained")
    axis = figure.add_subplot()
    for (label, (seen, values)), colour in zip(curves.items(), COLOURS, strict=False):
        axis.plot(seen, values, color=colour, linewidth=1.3, label=label)
    every = [value for _, values in curves.values() for value in values]
    if min(every) >= 0:
        top = max(every) or 1.0
        axis.set_ylim(-0.03 * top, 1.08 * top)  # from zero, so that heights can be compared
    axis.locator_params(nbins=5)
    axis.set_title(title, fontsize=9.5, loc="left")
    axis.tick_params(labelsize=8.5, colors="#555555")
    axis.grid(color="#e4e4e4", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_formatter(lambda seen, _: _count(seen))
    axis.set_xlabel("faces seen", fontsize=8.5, color="#555555")
    if len(curves) > 1:
        axis.legend(fontsize=8.5, frameon=False)
    return _svg(figure)


def _count(number: float) -> str:
    """12,000 as 12k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def _svg(figure: Figure) -> str:
    """The figure as an element for a page: without the file's header, as wide as its place."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue().decode()
    element = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r'\1role="img"', element, count=1)
