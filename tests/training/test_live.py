"""The live line: plain lines without a terminal, seldom; nothing at all where another process talks."""

import io
import sys

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from meshgan.training import watch
from meshgan.training.watch import live_columns, live_line, losses

STATS = {"L_real": torch.tensor(0.5), "L_fake": torch.tensor(0.25), "k": torch.tensor(0.1), "M": torch.tensor(0.75)}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_appears_every_ten_seconds_and_at_the_end(clock, capsys):
    with live_line(total=1000, start=200, shown=True) as line:
        for seen in range(200, 1001, 80):
            line.show(seen, STATS)
            clock[0] += 4.0
    said = capsys.readouterr().err.splitlines()
    assert [text.split(" of ")[0].split()[-1] for text in said] == ["200", "440", "680", "920", "1,000"]
    assert said[1] == " 44%  440 of 1,000 faces  L(x) 0.5  L(G(z)) 0.25  k 0.1  M 0.75  20 faces/s  28 s left"


def test_a_k_of_nothing_is_explained():
    assert losses({"L_real": 0.55812, "k": 0.0, "M": 12.3456}) == "L(x) 0.558  k 0 (generator ahead)  M 12.3"
    assert losses({"k": 1e-5}) == "k 1e-05"


def test_where_another_process_talks_nothing_is_shown(clock, capsys):
    with live_line(total=100, start=0, shown=False) as line:
        line.show(50, STATS)
        line.show(100, STATS)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_one_line_changes(clock, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(watch, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=160))
    with live_line(total=100, start=0, shown=True) as line:
        line.show(50, STATS)
        clock[0] += 0.15
        line.show(55, STATS)  # too soon for an eye
        assert line.bar.tasks[0].percentage == 50
        clock[0] += 0.85
        line.show(60, STATS)
        assert line.bar.tasks[0].percentage == 60
        assert line.bar.tasks[0].fields["left"] == "1 s left"
    assert "60%" in screen.getvalue()
    assert "L(G(z)) 0.25" in screen.getvalue()
    assert sys.stderr is not screen


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_terminal_shows_bar_per_cent_and_time(width):
    told = "L(x) 0.766  L(G(z)) 0.81  k 0 (generator ahead)  M 1.07  anchor 0.141  judge 1.37  spectrum 1  folds 0"
    console = Console(width=width, force_terminal=True, color_system=None, file=(shown := io.StringIO()))
    progress = Progress(*live_columns(), console=console, expand=True)
    progress.add_task("training", total=200, completed=50, left="24 min 02 s left", losses=told)
    console.print(progress)
    line = shown.getvalue().rstrip()
    assert line.count("\n") == 0
    assert "\u2501" * 5 in line
    assert " 25%" in line
    assert "24 min 02 s left" in line
    assert "L(x) 0.7" in line
