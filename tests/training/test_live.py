"""The live line: plain lines without a terminal, seldom; nothing at all where another process talks."""

import io
import sys

import pytest
import torch
from rich.console import Console

from meshgan.training import watch
from meshgan.training.watch import live_line

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
    assert [text.split(" of ")[0] for text in said] == ["200", "440", "680", "920", "1,000"]
    assert said[1] == "440 of 1,000 faces seen  L(x) 0.5000  L(G(z)) 0.2500  k 0.1000  M 0.7500  20 faces/s  28 s left"


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
        clock[0] += 1.0
        line.show(60, STATS)
        assert "60 of 100 faces seen" in line.status.status
    assert sys.stderr is not screen
