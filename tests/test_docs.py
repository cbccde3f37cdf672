"""The commands in README and docs are run as they stand.

A fenced block marked `console` is run: every line that starts with `$ ` in a fresh folder per page, in order. A page
whose commands another page has too, in that order, is run there. Blocks marked `sh` are for people (they take long or
need a network).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from meshgan.evaluation.yardstick import METRICS
from meshgan.report.results import Result, Results, cells, headings, markdown

ROOT = Path(__file__).parents[1]
# Columns of the table in README.
SHOWN = (
    "Model",
    "Sampler",
    "FID",
    "FID 256",
    "Detail",
    "Validity",
    "Specificity, mm",
    "Coverage",
    "Generalisation, mm",
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = set("|<>*?&;$`~")  # letters that are for a shell
LONG = {"evaluation.md"}  # a whole table takes minutes; tests/report makes one in this process, of smaller networks


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


def told_elsewhere(page: Path) -> bool:
    """Whether a page before it, or one with more commands, has all commands of this one in this order."""
    mine, before = commands(page), True
    for other in PAGES:
        before = before and other != page
        theirs = commands(other)
        rest = iter(theirs)
        if (before or len(theirs) > len(mine)) and all(command in rest for command in mine):
            return True
    return False


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name in LONG), id=page.name)
        for page in PAGES
        if commands(page) and not told_elsewhere(page)
    ],
)
def test_the_commands_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meshgan: Callable[..., tuple[int, str, str]]
) -> None:
    """The first of README in a shell, by the command that was installed; others in this process, which has imported
    already what takes them seconds."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        verb, *words = shlex.split(command)
        if command == commands(PAGES[0])[0] or verb != "meshgan" or SHELL & set(command):
            done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
            status, output, errors = done.returncode, done.stdout, done.stderr
        else:
            with warnings.catch_warnings(action="default"):
                status, output, errors = meshgan(*words)
        assert status == 0, f"{page.name}: $ {command}\n{output}\n{errors}"


def test_the_lines_of_python_in_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGES[0].read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, names := {})
    assert names["faces"].shape == (4, 5036, 3)
    assert (tmp_path / "face.glb").stat().st_size > 50_000


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_an_old_python_is_told_before_anything_is_done(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"meshgan needs Python 3.11 or newer, and {old} is 3.9" in done.stderr
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_of_a_page_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} points to {target}"


def results_of(table: str) -> tuple[Result, ...]:
    return Results.read(ROOT / "docs" / "results" / f"{table}.json").rows


@pytest.mark.parametrize(
    "table", ["table1-desk", "table2-desk", "table1-paper", "table1-plain", "table2-plain", "ablation-desk"]
)
def test_tables_in_the_docs_are_those_of_the_results_files(table: str) -> None:
    assert markdown(results_of(table)) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_table_in_the_readme_is_that_of_the_results_file() -> None:
    """One row for each model, drawn from as its recipe says: what a table says last of it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    every = results_of("table1-desk")
    rows = list({row.model: row for row in every}.values())
    shown = [headings(every).index(name) for name in SHOWN]
    for row in rows:
        told = [cells(row, every)[column] for column in shown]
        told[2:] = [figure.split(" ")[0] for figure in told[2:]]  # without the spread of faces or seeds
        assert "| " + " | ".join(told) + " |" in readme


def test_the_metrics_in_the_docs_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for metric in METRICS:
        name = metric.heading.partition(",")[0]
        line = f"| {name} | {metric.what} | {metric.of} | {metric.interval} | {metric.better} | {metric.blind} |"
        assert line in page, line
