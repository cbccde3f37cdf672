"""The results table in its four forms, and the comparisons that it is asked for."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from pydantic import ValidationError

from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation.metrics import Score
from meshgan.evaluation.yardstick import BY_KEY, METRICS
from meshgan.model.load import load_model
from meshgan.report import reproduce
from meshgan.report.results import (
    Result,
    Results,
    beyond_seeds,
    cells,
    comma_separated,
    contests,
    headings,
    latex,
    markdown,
    shown,
)

RECIPE = 'name = "x"\n[sampling]\nkind = "fitted-normal"\n'


def row(model, sampler, **values):
    scores = {"generalisation_mm": 1.0, "specificity_mm": 2.0, "fid": 10.0, "shape_frechet_mm2": 4.0}
    scores |= {"diversity_mm": 6.0, "coverage": 0.8, "fid_interval": (9.5, 10.5)}
    return Result(model=model, sampler=sampler, recipe=RECIPE, **(scores | values))


ROWS = (
    row("meshgan", "uniform", fid=99.0),
    row("meshgan", "fitted-normal", fid=7.0, specificity_mm=2.1, generalisation_mm=1.1, generalisation_std_mm=0.25),
    row("coma", "standard-normal", fid=20.0),
    row("coma", "fitted-normal"),
    row("real", "none", generalisation_mm=None, coverage=0.9),
    Result(model="gan", sampler="none", note="training stopped after 100 faces: a loss is not a number"),
)
RESULTS = Results("table1", "desk", "a machine", "2026-01-31", "faces", 90, 10, ROWS)


def test_json_round_trip_and_schema(tmp_path):
    RESULTS.write(tmp_path)
    assert Results.read(tmp_path / "table1.json") == RESULTS
    table = json.loads((tmp_path / "table1.json").read_text())
    assert {"machine", "date", "rows"} <= set(table)
    wanted = {"model", "sampler", "generalisation_mm", "specificity_mm", "fid", "shape_frechet_mm2", "diversity_mm"}
    assert wanted | {"coverage", "faces_seen", "train_minutes"} <= set(table["rows"][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table1.csv", "table1.json", "table1.md", "table1.tex"]


@pytest.mark.parametrize("text", ["", "{}", '{"table": 3}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "table1.json").write_text(text)
    with pytest.raises(MeshganError, match=r"table1\.json"):
        Results.read(tmp_path / "table1.json")


def test_markdown_is_a_table_with_notes():
    lines = markdown(ROWS).splitlines()
    assert len({line.count("|") for line in lines[: len(ROWS) + 2]}) == 1
    assert "| MeshGAN | N(μ, Σ) | 1.100 ± 0.250 | 2.100 | 7.00 |" in lines[3]
    assert lines[-1] == "GAN: training stopped after 100 faces: a loss is not a number"


def test_latex_escapes_and_lines_up():
    text = latex([ROWS[0].model_copy(update={"model": "100% & more"})])
    assert r"100\% \& more" in text
    assert "U($-$1, 1)" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {8}  # only what was measured: not how long it took
    assert text.isascii()


def test_csv_has_every_number_and_intervals_in_two_columns():
    records = list(csv.DictReader(io.StringIO(comma_separated(ROWS))))
    assert len(records) == len(ROWS)
    assert float(records[1]["fid"]) == 7.0
    assert (records[1]["fid_interval_low"], records[1]["fid_interval_high"]) == ("9.5", "10.5")
    assert records[4]["generalisation_mm"] == ""
    assert records[5]["note"].startswith("training stopped")


def test_contests_use_the_models_own_sampler():
    found = {contest.text: contest for contest in contests(RESULTS)}
    assert found["FID, MeshGAN : CoMA from N(0, I); the paper has 0.76"].ratio == pytest.approx(0.35)
    assert found["FID, MeshGAN : CoMA from N(μ, Σ)"].ratio == pytest.approx(0.7)
    coverage = found["Coverage, MeshGAN : real faces"]
    assert coverage.ratio == pytest.approx(0.8 / 0.9)
    assert not coverage.held
    assert found["Diversity, MeshGAN : real faces"].held
    assert not found["Generalisation, MeshGAN : CoMA"].held
    assert found["Specificity, MeshGAN : real faces"].held


def test_table_2_is_held_to_the_papers_ratio_of_expression_models():
    found = {contest.text: contest for contest in contests(replace(RESULTS, table="table2"))}
    assert found["FID, MeshGAN : CoMA from N(0, I); the paper has 0.61"].limit == 0.61
    assert found["Generalisation, MeshGAN : CoMA"].limit == 1.0


def test_every_coma_of_the_table_is_a_contest():
    tuned = (row("coma-tuned", "standard-normal", fid=14.0), row("coma-tuned", "fitted-normal", generalisation_mm=0.5))
    found = {contest.text: contest for contest in contests(replace(RESULTS, rows=(*ROWS, *tuned)))}
    assert len(found) == len(contests(RESULTS)) + 6
    assert found["FID, MeshGAN : CoMA (tuned) from N(0, I); the paper has 0.76"].ratio == pytest.approx(0.5)
    assert not found["Generalisation, MeshGAN : CoMA (tuned)"].held


def test_contests_need_their_rows_and_numbers():
    assert contests(replace(RESULTS, rows=ROWS[:3])) == []
    without = [one.model_copy(update={"scores": one.scores | {"fid": None}}) for one in ROWS]
    assert not any("FID" in contest.text for contest in contests(replace(RESULTS, rows=tuple(without))))


def test_every_metric_of_the_table_has_a_place_everywhere():
    """A new metric is one function and one entry: files, headings and cells follow."""
    scores = {key: Score(0.5, 0.1, (0.4, 0.6), {"part": 0.25}) for key in BY_KEY}
    full = Result(model="meshgan", sampler="uniform", scores=scores)
    again = Result.model_validate_json(full.model_dump_json())
    assert again == full
    record = json.loads(full.model_dump_json())
    for key, metric in BY_KEY.items():
        assert record[key] == 0.5
        assert record[metric.key("interval")] == [0.4, 0.6]
        assert metric.heading in headings([full])
        assert all((metric.what, metric.of, metric.interval, metric.blind, metric.heading))
    assert len(cells(full, [full])) == len(headings([full])) == 3 + len(METRICS)
    both = [full, full.model_copy(update={"train_minutes": 1.0})]  # how long is shown where it is known
    assert len(cells(full, both)) == len(headings(both)) == 4 + len(METRICS)
    assert "detail_parts: part" in comma_separated([full]).splitlines()[0]
    assert headings(ROWS) != headings([full])
    with pytest.raises(KeyError):
        full.score("beauty")


@pytest.mark.parametrize("change", [{"fid": float("nan")}, {"fid": "good"}, {"fid_interval": [1]}, {"beauty": 1.0}])
def test_nonsense_is_no_result(change):
    record = json.loads(ROWS[0].model_dump_json()) | change
    with pytest.raises(ValidationError):
        Result.model_validate(record)


def test_a_difference_counts_when_the_ranges_over_seeds_are_apart():
    def seeded(model, *values):
        return Result(model=model, sampler="uniform", fid=values[0], seeds={"fid": values} if len(values) > 1 else {})

    ours = seeded("meshgan", 5.0, 6.0, 7.0)
    for other, apart in (((8.0, 9.0), True), ((6.5, 9.0), False), ((4.9,), True), ((5.5,), False)):
        (line,) = beyond_seeds([ours, seeded("coma", *other)])
        assert line.endswith("overlaps)." if apart else "but for CoMA, U(−1, 1): FID.")
    assert beyond_seeds([seeded("meshgan", 5.0), seeded("coma", 1.0)]) == []  # one seed says nothing of others
    assert "6.00 (5.00 to 7.00)" in markdown([ours])


def test_all_models_are_checked_before_one_is_measured(tmp_path, tiny_run, tiny_faces, head_model, monkeypatch):
    measured = []
    monkeypatch.setattr(reproduce, "evaluate", lambda *given, **options: measured.append(given))
    with pytest.raises(UsageError, match="template"):
        reproduce.compare(
            {"own": load_model(tiny_run), "heads": head_model}, tiny_faces, tmp_path / "a.json", tmp_path, 20, "off"
        )
    assert not measured


def test_a_comparison_is_none_of_the_papers_tables_whatever_its_file_is_called(tmp_path, tiny_run, tiny_faces):
    reproduce.compare({"own": load_model(tiny_run)}, tiny_faces, tmp_path / "table2.html", tmp_path / "x", 20, "off")
    page = (tmp_path / "table2.html").read_text()
    assert f"<h1>Models compared on {tiny_faces.card.name}</h1>" in page
    assert "Table 2" not in page


def test_nothing_is_shown_as_less_than_nothing() -> None:
    """A distance without bias may be some 1e-6 below zero, where both sets are alike."""
    metric = BY_KEY["kid"]
    assert shown(Score(-4.6e-6, None, (-1e-5, 1e-5)), metric) == "0.0000"
    assert shown(Score(-0.0123, None, (-1.0, 1.0)), metric) == "-0.0123"


def test_the_row_of_real_faces_keeps_the_figures_of_pictures() -> None:
    plain = [Result(model="real", sampler="none", specificity_mm=1.0)]
    newer = [Result(model="real", sampler="none", specificity_mm=2.0)]
    pictured = [Result(model="real", sampler="none", specificity_mm=3.0, fid=4.0)]
    assert reproduce.fuller(newer, pictured) == pictured
    assert reproduce.fuller(pictured, newer) == pictured
    assert reproduce.fuller(newer, plain) == newer
    assert reproduce.fuller([], plain) == plain
    assert reproduce.fuller([], []) == []
