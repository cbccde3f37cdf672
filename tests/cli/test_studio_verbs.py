"""`meshgan studio` and `meshgan export` as a person starts and stops them."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.cli.studio import _announce
from meshgan.errors import UsageError
from meshgan.model.pca import fit_pca

pytest.importorskip("viser", reason="needs the extra studio")

from visitor import Visitor


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_faces):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    fit_pca(tiny_faces, 5).save(folder)
    return folder


class Running:
    """A studio in a process of its own, for a `with` block; `end` closes it and keeps what it said.

    `first` is Python that it runs first; `deaf` starts it as scripts start what runs in the background.
    """

    def __init__(self, *words, cwd, first="", deaf=False):
        code = f"{first}\nfrom meshgan.cli.main import main\nmain()"
        command = [sys.executable, "-c", code, "studio", *map(str, words), "--port", "0"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        before = signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.default_int_handler)
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=-1, stderr=-1, text=True)
        signal.signal(signal.SIGINT, before)

    def __enter__(self):
        said = iter(self.process.stdout.readline, "")
        found = next((f for line in said if (f := re.search(r"open at (http://\S+)", line))), None)
        assert found, self.process.stderr.read()
        self.address = found[1]
        return self

    def end(self, how=signal.SIGINT):
        self.process.send_signal(how)
        self.process.wait(timeout=300)
        self.out, self.err = self.process.stdout.read(), self.process.stderr.read()  # with what is still in the buffer
        return self.process.returncode

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def test_it_opens_shows_a_page_and_ctrl_c_closes_it(model, tmp_path):
    with Running(model, cwd=tmp_path) as studio:
        assert studio.address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(studio.address, timeout=300) as page:
            assert b"<html" in page.read()
        assert studio.end() == 0
        assert "The studio is closed." in studio.out
        assert studio.err == ""


@pytest.mark.slow
def test_ctrl_c_also_ends_what_was_started_in_the_background(model, tmp_path):
    with Running(model, cwd=tmp_path, deaf=True) as studio:
        assert studio.end() == 0
        assert studio.err == ""


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_fit(model, tmp_path):
    endless = "import time, meshgan.studio.worker as worker\n"
    endless += "worker.Worker._do = lambda *given: (given[-1]('Please wait …'), time.sleep(300))"
    with Running(model, cwd=tmp_path, first=endless) as studio:
        with Visitor(studio.address) as visitor:
            visitor.upload("Load a mesh", "template.ply", (model / "template.ply").read_bytes())
            visitor.wait(lambda: any("Please wait" in note for note in visitor.notes))
            assert studio.end() == 0
        assert studio.err == ""


@pytest.mark.slow
def test_it_ends_when_the_machine_asks_it_to(model, tmp_path):
    with Running(model, cwd=tmp_path) as studio:
        assert studio.end(signal.SIGTERM) == 0
        assert studio.err == ""


@pytest.mark.slow
def test_what_make_demo_has_trained_is_shown_by_default(model, tmp_path):
    (tmp_path / "demo" / "run").mkdir(parents=True)
    (tmp_path / "demo" / "run" / "model").symlink_to(model)
    nothing = "import pathlib, meshgan.cli.studio as module\nmodule.SHIPPED = pathlib.Path('nothing')"
    with Running(cwd=tmp_path, first=nothing) as studio:
        assert studio.end() == 0


@pytest.mark.slow
def test_the_shipped_models_are_shown_by_default(tmp_path):
    with Running(cwd=tmp_path) as studio:
        assert studio.end() == 0
        assert studio.err == ""


@pytest.mark.slow
def test_open_to_the_network_it_warns_and_wants_a_token(model, tmp_path):
    with Running(model, "--host", "0.0.0.0", cwd=tmp_path) as studio:
        assert "?token=" in studio.address
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(studio.address.partition("?")[0], timeout=300)
        assert studio.end() == 0
        assert "Warning: others on your network can reach it" in studio.out


def test_what_there_is_to_know_of_an_address_comes_with_it(monkeypatch):
    """Who reads the address may close the studio before another line is there."""
    said = []

    class Terminal(io.StringIO):
        def flush(self):
            said.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    _announce(["http://here"], guarded=True, wanted=1, got=2)
    (lines,) = said
    assert [line.split()[0] for line in lines.splitlines()] == ["Port", "The", "Warning:"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["studio", "nowhere"], r"nowhere is no model folder"),
        (["export", "nowhere", "--out", "x.onnx"], r"nowhere is no model folder"),
        (["export", "nowhere", "--out", "x.obj"], r"x\.obj should end in \.onnx"),
    ],
)
def test_wrong_use_is_one_sentence(words, sentence):
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UsageError)
    assert re.search(sentence, str(result.exception))


def test_without_any_model_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("meshgan.cli.studio.SHIPPED", tmp_path / "nothing")
    result = CliRunner().invoke(app, ["studio"])
    assert re.search(r"there is no model to show: .*make demo", str(result.exception))


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("meshgan.cli.studio.find_spec", lambda name: None)
    assert "[studio]'" in str(CliRunner().invoke(app, ["studio"]).exception)


def test_export_writes_the_generator(model, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    result = CliRunner().invoke(app, ["export", str(model), "--out", str(tmp_path / "tiny.onnx"), "--json"])
    told = json.loads(result.stdout)
    assert told["code"] == 5
    assert told["bytes"] == (tmp_path / "tiny.onnx").stat().st_size
