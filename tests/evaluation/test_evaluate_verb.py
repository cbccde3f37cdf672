"""`meshgan evaluate` as a person uses it."""

import json
import shutil
import sys

import pytest

from meshgan.cli.main import main
from meshgan.report.pages import EVALUATION
from meshgan.report.results import Results


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; returns exit status, output and errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["meshgan", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code or 0, output.out, output.err

    return call


def test_evaluate_writes_json_and_a_summary(run, tiny_run, tiny_faces, tmp_path):
    out = tmp_path / "results" / "tiny.json"
    common = ("evaluate", tiny_run, "--data", tiny_faces.path, "--out", out, "--samples", 20, "--fid", "off")
    status, output, _ = run(*common)
    assert status == 0
    assert "Specificity, mm" in output
    assert "real faces" in output
    written = json.loads(out.read_text())
    assert written["model"] == "tiny"
    assert list(out.parent.iterdir()) == [out]  # the folder of parts is gone
    own = shutil.copytree(tiny_run, tmp_path / "run")  # without --out, where `report` looks for it
    status, output, _ = run("evaluate", own, "--data", tiny_faces.path, "--samples", 20, "--fid", "off", "--json")
    assert json.loads(output) == json.loads((own / EVALUATION).read_text()) == written


def test_what_is_no_run_needs_a_place_for_its_numbers(run, tiny_faces):
    status, _, errors = run("evaluate", "identity", "--data", tiny_faces.path)
    assert (status, "identity is no run folder; say with --out" in errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fid", "vgg"), "'vgg' is not one of"),
        (("--part", "train"), "'train' is not one of"),
        (("--out", "."), "is a folder"),
        (("--out", "table.csv"), "should end in .json or .html"),
        (("--data", "nowhere"), "nowhere is not a FaceSet"),
        (("--samples", "2"), "needs 5 samples or more"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(run, tiny_run, tiny_faces, tmp_path, arguments, words):
    given = {"--data": tiny_faces.path, "--out": tmp_path / "out.json", "--fid": "off"} | dict([arguments])
    status, _, errors = run("evaluate", tiny_run, *(item for pair in given.items() for item in pair))
    assert status == 2
    assert words in errors
    assert "Traceback" not in errors


def test_several_models_make_a_table_and_a_page(run, tiny_run, tiny_faces, tmp_path):
    out = tmp_path / "table.html"
    common = ("--data", tiny_faces.path, "--samples", 20, "--fid", "off")
    status, output, _ = run("evaluate", tiny_run, "pca", *common, "--out", out)
    assert status == 0
    assert "PCA" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.html", "table.json"]
    results = Results.read(tmp_path / "table.json")
    assert [row.model for row in results.rows] == ["tiny", "pca", "real"]
    assert results.rows[1].score("specificity_mm").interval is not None
    page = out.read_text()
    for words in ("tiny", "real faces", "95 % intervals", "Where unseen faces are missed", "data:image/png"):
        assert words in page
    assert "Training curves" not in page
    status, output, _ = run("evaluate", "pca", *common, "--out", tmp_path / "pca.json", "--json")
    assert json.loads(output)["model"] == "pca"
    for wrong in (("pca", "pca"), ("pca", "no-such")):
        status, _, errors = run("evaluate", *wrong, *common, "--out", out)
        assert (status, errors.count("\n")) == (2, 1)
