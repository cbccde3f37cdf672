"""Pages of runs and reproductions: whole, self-contained, and made without doing anything twice."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from meshgan.cli.main import app
from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation import yardstick
from meshgan.evaluation.evaluate import evaluate
from meshgan.machine import machine
from meshgan.model.load import load_model
from meshgan.report import pages
from meshgan.report import reproduce as module
from meshgan.report.pages import curves_svg, write_run_page
from meshgan.report.reproduce import SCALES, TABLES, Asked, Scale, reproduce
from meshgan.report.results import Results
from meshgan.training.objective import BALANCE
from meshgan.training.recipe import load_recipe, parse_recipe

LOOSE = {"meta", "img", "input", "br", "link"}


class Checker(HTMLParser):
    """Collects addresses, and complains about tags that do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.images, self.text = [], [], 0, []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.images += tag == "img"
        if tag not in LOOSE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def checked(path):
    """The parsed page, if it is well-formed and asks for nothing from outside."""
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    assert checker.open == []
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in checker.addresses)
    return checker


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_a_run_page_shows_curves_samples_and_recipe(run):
    write_run_page(run, run / "report.html")
    page = checked(run / "report.html")
    text = " ".join(page.text)
    assert page.images == 1
    for words in ("Training run run", "Balance k", "Convergence M", "320 in", "finished", "lambda_k = 0.001"):
        assert words in text
    assert "Measured" not in text


def test_a_run_page_shows_an_evaluation_and_the_machine(run, tiny_faces):
    (run / "evaluation.json").write_text(evaluate(load_model(run), tiny_faces, samples=20, fid="off").json())
    write_run_page(run, run / "report.html")
    text = " ".join(checked(run / "report.html").text)
    assert "Measured" in text
    assert "real faces" in text
    assert (run / "machine.txt").read_text() == machine() + "\n"
    assert machine() in text
    (run / "evaluation.json").write_text("{}")
    with pytest.raises(MeshganError, match=r"evaluation\.json is damaged"):
        write_run_page(run, run / "report.html")


def test_a_run_that_has_hardly_begun_has_a_page_too(run):
    shutil.rmtree(run / "samples")
    shutil.rmtree(run / "model")
    (run / "stats.jsonl").unlink()
    write_run_page(run, run / "report.html")
    text = " ".join(checked(run / "report.html").text)
    assert "Nothing has been logged yet" in text
    assert "not finished" in text


def test_what_recipes_say_is_escaped(run):
    recipe = (run / "recipe.toml").read_text().replace('description = ""', 'description = "<script>alert(1)</script>"')
    (run / "recipe.toml").write_text(recipe)
    write_run_page(run, run / "report.html")
    assert "<script>alert" not in (run / "report.html").read_text()


def damaged(data, generator):
    """Cut, overwritten, shuffled, emptied, of another kind, or with a number that is none."""
    place = int(generator.integers(len(data) + 1))
    noise = generator.bytes(int(generator.integers(1, 30)))
    ways = (
        lambda: data[:place],
        lambda: data[:place] + noise + data[place + len(noise) :],
        lambda: data.replace(b"1", generator.choice([b"NaN", b"1e999", b"-1", b"[", b"9" * 5000, b'"x"']), 3),
        lambda: data.replace(b'"', b"", 2),
        lambda: b"",
        lambda: noise,
        lambda: b"\xff\xfe" + data,
        lambda: b"[" * 100_000,
        lambda: b'{"step": 1, "faces": "many", "seconds": null, "M": [1], "k": true}\n',
    )
    return ways[int(generator.integers(len(ways)))]()


def test_damaged_files_of_a_run_are_told_in_a_sentence_or_left_out(run, tiny_faces, monkeypatch):
    """Whatever happens to any of them: a page, or one sentence that names a file."""
    evaluation = evaluate(load_model(run), tiny_faces, samples=20, fid="off")
    (run / "evaluation.json").write_text(evaluation.json())
    generator = np.random.default_rng(0)
    names = ["recipe.toml", "stats.jsonl", "machine.txt", "evaluation.json"]
    files = [run / name for name in names] + sorted((run / "samples").iterdir())
    (run / "samples" / "faces-seen-9x.png").write_bytes(b"no picture")
    made = 0
    for file in files:
        whole = file.read_bytes()
        with monkeypatch.context() as patch:
            if file.name != "stats.jsonl":
                patch.setattr(pages, "curves_svg", lambda *lines: [])  # drawing takes most of the time
            for _ in range(12):
                file.write_bytes(damaged(whole, generator))
                try:
                    write_run_page(run, run / "report.html")
                    made += 1
                except MeshganError as error:
                    assert str(run) in str(error)
        file.write_bytes(whole)
    assert made > 10
    write_run_page(run, run / "report.html")


def test_what_an_objective_logs_is_drawn_though_no_panel_knows_it():
    lines = [{"step": i, "faces": 10 * i, "seconds": i, "something": i, "anchor": 1.0, "judge": 0.5} for i in range(9)]
    panels = "".join(curves_svg(lines, {"Loss of the judge": {"judge": "without its penalty"}}))
    for word in ("something", "anchor", "Loss of the judge"):
        assert word in panels


def test_models_of_other_faces_or_another_split_are_refused(small, tmp_path):
    """A model of other faces is never taken for one of these, PCA's neither."""
    faces = module.identity_corpus(tmp_path, TINY)
    other = replace(faces, card=faces.card.model_copy(update={"split_seed": 5}))
    for name in ("pca", "coma"):
        module.make_model(tmp_path / "runs" / name, name, faces, (), "cpu")
        with pytest.raises(UsageError, match="other data"):
            module.make_model(tmp_path / "runs" / name, name, other, (), "cpu")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        write_run_page(tmp_path, tmp_path / "report.html")


def test_curves_are_well_formed_and_go_where_the_numbers_go():
    lines = [{"step": i, "faces": 1000 * i, "k": 0.5, "M": 1.0 / (1 + i), "seconds": i} for i in range(5000)]
    panels = curves_svg(lines, BALANCE)
    assert len(panels) == 2
    for panel in panels:
        root = ET.fromstring(panel)
        assert root.attrib["viewBox"]
        assert "2M" in "".join(root.itertext())
    assert len(panels[0]) < 60_000  # thinned
    path = max(re.findall(r'<path d="(M[^"]+)"', panels[0]), key=len)
    heights = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]
    assert heights[0] < heights[-1]  # M falls, and y grows downwards
    assert curves_svg([], BALANCE) == []


@pytest.mark.parametrize(
    "name", ["paper", "coma", "gan", "wgan", "wgan-gp", "began-cs", "convolutions", "meshgan", "classifier"]
)
def test_every_statistic_of_every_objective_is_drawn(name):
    """What `step` returns is declared; what is declared is drawn: nothing is logged that no report shows."""
    declared = load_recipe(name).objective.curves
    statistics = [statistic for logged in declared.values() for statistic in logged]
    lines = [{"step": i, "faces": 16 * i, "seconds": i, **dict.fromkeys(statistics, 0.5)} for i in range(3)]
    titles = ["".join(ET.fromstring(panel).itertext()) for panel in curves_svg(lines, declared)]
    assert len(titles) == len(declared)
    assert all(any(title in text for text in titles) for title in declared)


ROWS = (  # recipes, as they are made
    "meshgan", "pointwise", "convolutions", "paper", "coma", "coma-tuned", "patches", "pca", "gmm", "flow", "bootstrap"
)  # fmt: skip
TINY = Scale(identities=80, samples=20, fid="off", steps=3, changes=(), ablation=(), seeds=1)


@pytest.fixture
def small(monkeypatch, tiny_faces, recipe_table):
    """The tiny corpus and recipes of a second in place of the real ones; returns what was made, in order."""
    made = []

    def corpus(path, count):
        made.append(f"corpus {count}")
        shutil.copytree(tiny_faces.path, path)

    def recipe(name, changes):
        real = load_recipe(name)
        if real.objective.kind == "pca":
            return load_recipe(name, ["schedule.faces=500"])
        objective = {"kind": real.objective.kind} | ({"clip": 0.01} if real.objective.kind == "wgan" else {})
        network = recipe_table["network"] | {
            "linear": real.network.linear, "mapping": min(8, real.network.mapping), "mixing": real.network.mixing
        }  # fmt: skip
        return parse_recipe(recipe_table | {"name": name, "network": network, "objective": objective}, name)

    train = module.train

    def counted(recipe, *arguments, **options):
        made.append(recipe.name)
        return train(recipe, *arguments, **options)

    drawn, draw = {}, pages._panel

    def once(title, curves):
        """Draw a panel for the first run that has one: ten runs have sixty alike."""
        if title not in drawn:
            drawn[title] = draw(title, curves)
        return drawn[title]

    monkeypatch.setattr(pages, "_panel", once)
    monkeypatch.setattr(module, "make_identities", corpus)
    monkeypatch.setattr(module, "load_recipe", recipe)
    monkeypatch.setattr(module, "train", counted)
    monkeypatch.setattr(yardstick, "SHAPE_RESAMPLES", 5)
    monkeypatch.setattr(pages, "SHOWN", 2)
    monkeypatch.setitem(SCALES, "smoke", TINY)
    return made


def test_reproduce_makes_everything_once(small, tmp_path):
    first = reproduce("table1", tmp_path, "smoke")
    assert small == ["corpus 80", *ROWS]
    assert [(row.model, row.sampler) for row in first.rows] == [
        ("meshgan", "uniform"),
        ("meshgan-conv-off", "uniform"),
        ("meshgan-pointwise", "uniform"),
        ("meshgan-convolutions", "uniform"),  # the tiny recipe is sampled so
        ("meshgan-paper", "uniform"),
        ("coma", "standard-normal"),
        ("coma", "fitted-normal"),
        ("coma-tuned", "standard-normal"),
        ("coma-tuned", "fitted-normal"),
        ("patches", "standard-normal"),
        ("patches", "fitted-normal"),
        ("pca", "fitted-normal"),
        ("gmm", "mixture"),
        ("flow", "flow"),
        ("bootstrap", "bootstrap"),
        ("real", "none"),
    ]
    assert all(row.train_minutes is not None for row in first.rows[:-1])
    page = checked(tmp_path / "table1.html")
    assert page.images == 17  # real faces, fifteen samplers, error maps
    assert "Smoke scale" in " ".join(page.text)
    written = json.loads((tmp_path / "table1.json").read_text())
    assert written["scale"] == "smoke"
    again = reproduce("table1", tmp_path, "smoke")
    assert again.rows == first.rows
    assert small == ["corpus 80", *ROWS]


def test_a_table_of_ones_own_faces(small, tmp_path, tiny_faces, monkeypatch):
    monkeypatch.setitem(TABLES, "table1", {"coma": "coma", "pca": "pca"})
    asked = []
    shrunk = module.load_recipe
    monkeypatch.setattr(module, "load_recipe", lambda name, changes: asked.append(changes) or shrunk(name, changes))
    monkeypatch.setitem(SCALES, "smoke", replace(TINY, identities=1000, changes=("schedule.epochs=3",)))
    own = replace(tiny_faces, card=tiny_faces.card.model_copy(update={"name": "mine"}))
    results = reproduce("table1", tmp_path, "smoke", own=own)
    assert results.data == "mine"
    assert [row.model for row in results.rows] == ["coma", "coma", "pca", "real"]
    assert small == ["coma", "pca"]  # no corpus
    assert asked[0] == ("schedule.epochs=3", "schedule.faces=2550")  # as many as the corpus would give it
    assert not (tmp_path / "corpus").exists()


def test_networks_are_trained_with_several_seeds_and_told_from_each_other(small, tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", replace(TINY, seeds=2))
    monkeypatch.setitem(TABLES, "table1", {"meshgan": "meshgan", "pca": "pca"})
    monkeypatch.setattr(module, "write_reproduction_page", lambda *arguments: None)
    found = reproduce("table1", tmp_path, "smoke")
    assert small == ["corpus 80", "meshgan", "meshgan", "pca"]
    row = found.find("meshgan", "uniform")
    assert len(set(row.seeds["specificity_mm"])) == 2
    assert row.value("specificity_mm") == row.seeds["specificity_mm"][0]
    text = (tmp_path / "table1.md").read_text()
    assert " to " in text
    assert "Between MeshGAN and other rows all differences are larger than seeds'" in text
    assert Results.read(tmp_path / "table1.json").json() == found.json()


def test_a_part_of_a_table_is_made_and_later_the_rest(small, tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", replace(TINY, seeds=2))
    monkeypatch.setattr(module, "write_reproduction_page", lambda *arguments: None)
    only = ["meshgan-conv-off", "pca"]  # the first is made of the weights of another
    part = reproduce("table1", tmp_path, "smoke", asked=Asked(only, seeds=1))
    assert small == ["corpus 80", "meshgan", "pca"]
    assert [row.model for row in part.rows] == ["meshgan-conv-off", "pca", "real"]
    whole = reproduce("table1", tmp_path, "smoke", asked=Asked([*only, "meshgan"]))
    assert small == ["corpus 80", "meshgan", "pca", "meshgan"]  # its second seed
    assert [row.model for row in whole.rows] == ["meshgan", "meshgan-conv-off", "pca", "real"]
    assert whole.rows[2] == part.rows[1]
    with pytest.raises(UsageError, match="table1 has no model gan: choose of meshgan, "):
        reproduce("table1", tmp_path, "smoke", asked=Asked(["gan"]))
    written = Results.read(tmp_path / "table1.json").rows
    again = reproduce("table1", tmp_path, "smoke", asked=Asked(["pca"])).rows  # what is there already stays
    assert [row.model for row in again] == [row.model for row in whole.rows]
    assert again[:2] == written[:2]
    (tmp_path / "runs" / "meshgan" / module.MARK).write_text("of other faces")
    stale = reproduce("table1", tmp_path, "smoke", asked=Asked(["pca"]))
    assert [row.model for row in stale.rows] == ["pca", "real"]


def test_as_many_faces_are_drawn_as_are_asked_for(small, tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", TINY)
    monkeypatch.setattr(module, "write_reproduction_page", lambda *arguments: None)
    for asked, drawn in ((None, TINY.samples), (TINY.samples + 7, TINY.samples + 7)):
        reproduce("table1", tmp_path, "smoke", asked=Asked(["pca"], samples=asked))
        assert json.loads((tmp_path / "evaluations" / "pca.json").read_text())["rows"][0]["samples"] == drawn


def test_a_stopped_reproduction_goes_on_where_it_was(small, tmp_path, monkeypatch):
    measure = module.measure

    def stopped(model, faces, path, size):
        if path.stem == "coma":
            raise KeyboardInterrupt
        return measure(model, faces, path, size)

    monkeypatch.setattr(module, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproduce("table1", tmp_path, "smoke")
    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "write_reproduction_page", lambda *arguments: None)
    reproduce("table1", tmp_path, "smoke")
    assert small == ["corpus 80", *ROWS]


def test_a_model_that_fails_keeps_a_row_that_says_why(small, tmp_path, monkeypatch):
    make = module.make_model

    def failing(run, *arguments):
        if run.name == "gan":
            raise MeshganError("training stopped after 8 faces: a loss is not a number.")
        make(run, *arguments)

    monkeypatch.setattr(module, "make_model", failing)
    monkeypatch.setitem(TABLES, "ablation", {"gan": "gan", "wgan": "wgan"})
    found = reproduce("ablation", tmp_path, "smoke")
    assert found.rows[0].note.startswith("training stopped")
    assert [row.model for row in found.rows] == ["gan", "wgan", "real"]
    assert "training stopped after 8 faces" in (tmp_path / "ablation.html").read_text()


def test_wrong_use_is_refused(small, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no table9 at smoke scale"):
        reproduce("table9", tmp_path, "smoke")
    monkeypatch.setitem(TABLES, "table1", {"pca": "pca"})
    reproduce("table1", tmp_path, "smoke")
    monkeypatch.setitem(SCALES, "smoke", replace(TINY, identities=90))
    with pytest.raises(UsageError, match="holds 80 faces, this scale has 90"):
        reproduce("table1", tmp_path, "smoke")
    monkeypatch.setattr("meshgan.evaluation.inception.PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match="fid"):
        reproduce("table1", tmp_path, "desk")


def test_every_table_names_recipes_that_ship():
    for models in TABLES.values():
        for recipe in models.values():
            for scale in SCALES.values():
                load_recipe(recipe, scale.changes)
                load_recipe(recipe, scale.ablation)


def test_the_verbs_exist():
    names = {command.callback.__name__ for command in app.registered_commands}
    assert {"evaluate", "reproduce", "report"} <= names
