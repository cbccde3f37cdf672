"""What a newcomer sees first: verbs in groups, choices as choices, counts, and commands to type as they are."""

import json
import subprocess
import sys
from importlib import metadata
from typing import get_args

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from meshgan.cli import shipped_models, shipped_recipes
from meshgan.cli.evaluate import Made
from meshgan.cli.main import GROUPS, app, in_options
from meshgan.errors import install_command, missing_extra
from meshgan.progress import counted
from meshgan.report.paper_figures import FIGURES
from meshgan.report.reproduce import TABLES
from meshgan.training.recipe import load_recipe, recipe_toml


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_verbs_stand_in_groups(option):
    shown = CliRunner().invoke(app, [option]).output
    places = [shown.index(f"─ {group} ─") for group in GROUPS]
    assert places == sorted(places)
    assert all(f" {verb.__name__} " in shown for verbs in GROUPS.values() for verb in verbs)
    assert "-h" in CliRunner().invoke(app, ["data", "info", option]).output


def test_every_verb_has_a_sentence_an_example_and_help_for_each_option():
    def verbs(command):
        for child in getattr(command, "commands", {}).values():
            yield from verbs(child) if hasattr(child, "commands") else [child]

    for verb in verbs(get_command(app)):
        assert "Example: `meshgan " in verb.help, verb.name
        for parameter in verb.params:
            assert parameter.help, (verb.name, parameter.name)
            assert parameter.help[-1] in ".)…", (verb.name, parameter.name, parameter.help)


@pytest.mark.parametrize("words", [["train"], ["data", "anny-heads"], ["data"], []])
def test_options_that_take_no_value_show_no_type(words):
    shown = CliRunner().invoke(app, [*words, "-h"])
    assert "--help" in shown.output
    assert "bool" not in shown.output


def test_what_is_wrong_with_a_word_is_said_without_python():
    shown = CliRunner().invoke(app, ["sample", "identity", "--out", "x", "--rig", "arkitt"])
    assert shown.exit_code == 2
    assert "'arkitt' is not one of 'arkit', 'expressions'" in shown.output
    assert "Value error" not in shown.output
    assert "{MODEL}" in shown.output


@pytest.mark.parametrize(
    ("option", "number", "said"),
    [
        ("--smoothing-mm", "inf", "`smoothing_mm=inf` is not a finite number."),
        ("--seed", "1" + "0" * 30, "`seed` is too large"),
    ],
)
def test_numbers_that_are_none_are_refused_before_anything_is_done(option, number, said):
    verb = "decouple" if option == "--smoothing-mm" else "anny-identities"
    done = CliRunner().invoke(app, ["data", verb, *(["x"] if verb == "decouple" else []), "y", option, number])
    assert getattr(done.exception, "exit_status", done.exit_code) == 2
    assert said in f"{done.output} {done.exception}"


def test_choices_are_those_that_there_are():
    assert get_args(Made) == (*TABLES, *FIGURES, "all")
    shown = CliRunner().invoke(app, ["reproduce", "table3", "--out", "x"])
    assert shown.exit_code == 2
    assert "'figure7'" in shown.output
    assert {"quick", "demo", "meshgan"} <= set(shipped_recipes())
    assert all(load_recipe(name).name == name for name in shipped_recipes())
    assert shipped_models("id") == ["identity"]


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'meshgan[studio]'"),
        ({}, "pip install 'meshgan[studio]'"),
        (
            {"url": "file:///home/me/mesh%20gan", "dir_info": {"editable": True}},
            "pip install -e '/home/me/mesh gan[studio]'",
        ),
        ({"url": "file:///home/me/meshgan", "dir_info": {}}, "pip install 'meshgan[studio] @ file:///home/me/meshgan'"),
        (
            {"url": "https://example.org/m.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'meshgan[studio] @ git+https://example.org/m.git'",
        ),
    ],
)
def test_extras_are_installed_from_where_meshgan_came_from(monkeypatch, origin, command):
    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
    assert install_command("studio") == command
    assert (
        str(missing_extra("the studio", "studio"))
        == f"the studio needs the extra `studio`; install it with: {command}."
    )


def test_verbs_that_compute_nothing_with_it_do_not_load_pytorch(tiny_faces, tmp_path):
    """It takes longer than all that they do; nor do those that are told wrong words."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(recipe_toml(load_recipe("quick")))
    here, nowhere = str(tiny_faces.path), str(tmp_path / "nothing")
    calls = [
        (0, ["recipes", "show", "meshgan", "--set", "schedule.faces=5000"]),
        (0, ["data", "info", here]),
        (0, ["report", str(run)]),
        (2, ["train", "mashgan", "--data", here, "--out", nowhere]),
        (2, ["train", "quick", "--data", nowhere, "--out", nowhere]),
        (2, ["evaluate", "identity", "--data", nowhere, "--out", f"{nowhere}.json"]),
    ]
    program = (
        "import json, sys; from typer.testing import CliRunner; from meshgan.cli.main import app\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(app, words)\n"
        "    print(getattr(done.exception, 'exit_status', done.exit_code), 'torch' in sys.modules)"
    )
    words = json.dumps([words for _, words in calls])
    done = subprocess.run([sys.executable, "-c", program, words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{status} False" for status, _ in calls], done.stderr


def test_one_of_a_thing_is_no_plural():
    assert counted(1, "mesh", "meshes") == "1 mesh"
    assert [counted(count, "face") for count in (0, 1, 12_000)] == ["0 faces", "1 face", "12,000 faces"]


@pytest.mark.parametrize(("words", "expected"), [("--version", ""), ("--debug --version", "ERROR:other:noise\n")])
def test_other_libraries_logs_are_for_developers(words, expected):
    """They hold tracebacks of what the library then got over."""
    code = (
        "import contextlib, logging, sys; from meshgan.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "logging.getLogger('other').error('noise')"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("meshgan ") and done.stderr == expected


def test_an_extra_is_not_worded_as_an_option():
    words = ["evaluate", "a"]
    assert in_options(str(missing_extra("the FID", "fid")), words).startswith("the FID needs the extra `fid`;")
    assert in_options("give `fid='off'`", words) == "give `--fid off`"


def test_every_model_and_recipe_is_completed():
    """Whatever names one does; the words say which parameters these are."""
    command = get_command(app)
    verbs = dict(command.commands)
    verbs |= {
        f"{group} {name}": verb
        for group, of in command.commands.items()
        for name, verb in getattr(of, "commands", {}).items()
    }
    named = [
        (verb, parameter)
        for verb, found in verbs.items()
        for parameter in found.params
        if "ships" in str(getattr(parameter, "help", "")) or "MODEL" in str(parameter.metavar)
    ]
    missing = {f"{verb} {p.name}" for verb, p in named if not p.shell_complete(None, "")}
    assert len(named) > 15
    assert missing == {"reproduce only"}  # rows of a table
