"""Landmark files: every format gives the same points; what is wrong ends in one sentence that names the file."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import MeshganError, UsageError
from meshgan.registration.landmarks import GROUPS, read_landmarks, silence
from meshgan.registration.templates import default_template

NAMES = default_template().landmark_names
coordinate = st.floats(-500, 500).map(lambda value: round(value, 6))
chosen = st.lists(st.integers(0, 78), min_size=4, max_size=79, unique=True)


def spread(count, seed=0):
    return np.random.default_rng(seed).normal(scale=50, size=(count, 3)).round(6)


def as_json(path, index, points):
    path.write_text(json.dumps({NAMES[i]: list(p) for i, p in zip(index, points, strict=True)}))


def as_numbers(path, index, points):
    path.write_text(json.dumps({str(i): list(p) for i, p in zip(index, points, strict=True)}))


def as_csv(path, index, points):
    lines = ["name,x,y,z"] + [
        f"{NAMES[i]},{p[0]!r},{p[1]!r},{p[2]!r}" for i, p in zip(index, points.tolist(), strict=True)
    ]
    path.write_text("\n".join(lines))


def as_pp(path, index, points):
    rows = [
        f'<point x="{x!r}" y="{y!r}" z="{z!r}" name="{NAMES[i]}" active="1"/>'
        for i, (x, y, z) in zip(index, points.tolist(), strict=True)
    ]
    path.write_text("<!DOCTYPE PickedPoints>\n<PickedPoints>" + "\n".join(rows) + "</PickedPoints>")


def as_ljson(path, index, points):
    labels = [{"label": NAMES[i], "mask": [row]} for row, i in enumerate(index)]
    path.write_text(
        json.dumps({"version": 2, "labels": labels, "landmarks": {"points": points.tolist(), "connectivity": []}})
    )


WRITERS = [("json", as_json), ("json", as_numbers), ("csv", as_csv), ("pp", as_pp), ("ljson", as_ljson)]


@pytest.mark.parametrize(("ending", "write"), WRITERS, ids=lambda x: getattr(x, "__name__", x))
@settings(max_examples=40)
@given(index=chosen, seed=st.integers(0, 1000))
def test_every_format_gives_the_points_back(tmp_path_factory, ending, write, index, seed):
    path = tmp_path_factory.mktemp("marks") / f"face.{ending}"
    points = spread(len(index), seed)
    write(path, index, points)
    read = read_landmarks(path, NAMES, millimetres=10.0)
    order = np.argsort(index)
    assert read.index.tolist() == sorted(index)
    np.testing.assert_allclose(read.points, 10 * points[order], rtol=1e-12)


def test_groups_of_menpo_files_go_to_their_places_whatever_their_order(tmp_path):
    points = spread(68)
    groups = ["chin", "leye", "reye", "leyebrow", "nose", "reyebrow", "mouth"]
    order = [member for group in groups for member in GROUPS[group]]
    labels, start = [], 0
    for group in groups:
        count = len(GROUPS[group])
        labels.append({"label": group, "mask": list(range(start, start + count))})
        start += count
    content = {"groups": {"LJSON": {"labels": labels, "landmarks": {"points": points[order].tolist()}}}, "version": 3}
    path = tmp_path / "face.ljson"
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(read_landmarks(path, NAMES).points, points)


def test_left_and_right_follow_the_file_s_own_convention():
    names = [NAMES[i] for i in GROUPS["left_eye"]]
    assert all(name.startswith("left_eye") for name in names)  # iBUG: the person's own left
    assert list(GROUPS["leye"]) == list(GROUPS["right_eye"])  # older files: the left of the image


def test_missing_points_are_left_out(tmp_path):
    points = spread(68).tolist()
    points[3] = [None, None, None]
    path = tmp_path / "face.json"
    path.write_text(json.dumps(points))
    read = read_landmarks(path, NAMES)
    assert len(read) == 67
    assert 3 not in read.index


def picked(path, points):
    rows = [f'<point x="{x}" y="{y}" z="{z}" name="{k}" active="1"/>' for k, (x, y, z) in enumerate(points.tolist())]
    path.write_text("<PickedPoints>" + "".join(rows) + "</PickedPoints>")


def test_numbers_that_meshlab_gives_by_itself_count_only_where_they_say_what_is_meant(tmp_path):
    path, points = tmp_path / "face.pp", spread(79)
    for count, first in ((51, 17), (68, 0), (79, 0)):
        picked(path, points[:count])
        read = read_landmarks(path, NAMES)
        assert read.index.tolist() == list(range(first, first + count))
        np.testing.assert_array_equal(read.points, points[:count])
    for count in (4, 5, 50, 52, 67):
        picked(path, points[:count])
        with pytest.raises(UsageError, match=f"0 to {count - 1}, which do not say"):
            read_landmarks(path, NAMES)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("between", "point"), [(",", "."), (";", ","), (";", "."), ("\t", ".")])
def test_tables_are_read_however_a_spreadsheet_writes_them(tmp_path, between, point, encoding):
    points = spread(6)
    rows = [between.join([NAMES[k], *(repr(x).replace(".", point) for x in p)]) for k, p in enumerate(points.tolist())]
    head = between.join(["Name", "X", "Y", "Z"])
    (tmp_path / "a.csv").write_bytes(("\r\n".join([head, "", *rows, ""])).encode(encoding))
    np.testing.assert_array_equal(read_landmarks(tmp_path / "a.csv", NAMES).points, points)


def test_switched_off_picked_points_are_left_out(tmp_path):
    path = tmp_path / "face.pp"
    as_pp(path, range(6), spread(6))
    path.write_text(path.read_text().replace('name="jaw_2" active="1"', 'name="jaw_2" active="0"'))
    assert read_landmarks(path, NAMES).index.tolist() == [0, 1, 3, 4, 5]


GOOD = {NAMES[i]: p for i, p in enumerate(spread(5).tolist())}
BAD = {
    "few.json": (json.dumps(dict(list(GOOD.items())[:3])), "at least 4"),
    "line.json": (json.dumps({NAMES[i]: [i, 2 * i, 0] for i in range(6)}), "one line"),
    "name.json": (json.dumps(GOOD | {"nostril": [0, 0, 0]}), "'nostril'"),
    "twice.csv": ("jaw_0,0,0,0\n0,1,0,0\njaw_1,0,1,0\njaw_2,0,0,1\njaw_3,2,0,0", "twice"),
    "cut.json": (json.dumps(GOOD)[:-9], "damaged"),
    "flat.csv": ("jaw_0,0,0\njaw_1,1,1\njaw_2,1,2\njaw_3,5,4", "damaged"),
    "words.csv": ("jaw_0,a,b,c\njaw_1,1,1,1\njaw_2,1,2,3\njaw_3,5,4,3", "damaged"),
    "bomb.pp": ('<!DOCTYPE x [<!ENTITY a "aaaa">]><PickedPoints/>', "entities"),
    "cut.pp": ('<PickedPoints><point x="0"', "damaged"),
    "deep.json": ("[" * 100_000, "damaged"),
    "number.json": ("7", "damaged"),
    "list.json": (json.dumps([[0, 0, 0]] * 5), "68"),
    "old.ljson": (json.dumps({"version": 1, "groups": [{"label": "x", "landmarks": []}]}), "landmarks"),
    "empty.csv": ("", "at least 4"),
    "marks.txt": ("", "only"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_one_sentence_with_the_file(tmp_path, name):
    content, word = BAD[name]
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=word) as raised:
        read_landmarks(path, NAMES)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_binary_and_huge_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_landmarks(tmp_path / "no.json", NAMES)
    (tmp_path / "b.json").write_bytes(b"{\n\xff}")
    with pytest.raises(MeshganError, match="line 2 is not text"):
        read_landmarks(tmp_path / "b.json", NAMES)
    (tmp_path / "h.json").write_text(" " * 5_000_000)
    with pytest.raises(UsageError, match="larger than"):
        read_landmarks(tmp_path / "h.json", NAMES)


@settings(max_examples=40)
@given(content=st.binary(max_size=400), ending=st.sampled_from(["json", "ljson", "pp", "csv"]))
def test_no_content_whatever_escapes_as_another_error(tmp_path_factory, content, ending):
    path = tmp_path_factory.mktemp("noise") / f"x.{ending}"
    path.write_bytes(content)
    with pytest.raises(MeshganError):
        read_landmarks(path, NAMES)


def test_a_stream_that_somebody_collects_is_left_alone(monkeypatch):
    """It has no descriptor to ask for."""
    collected = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", collected)
    with silence():
        print("said", file=sys.stderr)
    assert sys.stderr is collected
