"""The line that says where numbers come from."""

import re

from meshgan import machine


def test_the_machine_is_one_line_with_cores_and_versions():
    line = machine.machine()
    assert "\n" not in line
    assert re.search(r", \d+ cores, .*Python 3\.\d+\.\d+, torch \d", line)


def test_without_proc_the_platform_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUS", tmp_path / "none")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert machine.machine().startswith("unknown processor, ")


def test_the_date_is_iso():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", machine.today())
