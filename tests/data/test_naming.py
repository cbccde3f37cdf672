"""Natural order, subjects by custom or pattern, labels from CSV files."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshgan.data.corpora.naming import (
    customary_subjects,
    guess_told,
    label_rows,
    mesh_files,
    natural,
    read_labels,
    subjects_of,
    unused_rows,
)
from meshgan.errors import MeshganError, UsageError


def test_numbers_sort_by_value() -> None:
    names = ["face10.ply", "face2.ply", "Face1.ply", "a/9.ply", "a/10.ply", "face02.ply", "face.ply"]
    ordered = ["a/9.ply", "a/10.ply", "Face1.ply", "face02.ply", "face2.ply", "face10.ply", "face.ply"]
    assert sorted(names, key=natural) == ordered


@given(st.lists(st.text(alphabet="aB19._-²٣/"), unique=True, min_size=2))
def test_order_does_not_depend_on_the_order_before(names: list[str]) -> None:
    mixed = random.Random(0).sample(names, len(names))
    assert sorted(names, key=natural) == sorted(mixed, key=natural)


def test_meshes_are_found_below_the_folder_and_hidden_files_are_not(tmp_path: Path) -> None:
    for name in ("b.PLY", "a/2.obj", "a/10.stl", "c.glb", "notes.txt", "._b.ply", ".cache/x.ply"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert mesh_files(tmp_path) == ["a/2.obj", "a/10.stl", "b.PLY", "c.glb"]


def test_a_folder_without_meshes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no mesh"):
        mesh_files(tmp_path)
    with pytest.raises(UsageError, match="gone is not a folder"):
        mesh_files(tmp_path / "gone")


@pytest.mark.parametrize(
    ("files", "subjects"),
    [
        (["anna_smile.ply", "anna_sad.ply", "bob-1.ply"], ["anna", "anna", "bob"]),
        (["S1/a.ply", "S1/b_c.ply", "S2/a.ply"], ["S1", "S1", "S2"]),
        (["face_001.ply", "face_002.ply"], ["face_001", "face_002"]),
        (["7.ply", "8.ply"], ["7", "8"]),
        (["only/a.ply", "only/b.ply"], ["only/a", "only/b"]),
        (
            [f"FaceTalk_{who}_bareteeth.{k:06d}.ply" for who in ("170725_00137_TA", "170728_03272_TA") for k in (1, 2)],
            ["FaceTalk_170725_00137_TA"] * 2 + ["FaceTalk_170728_03272_TA"] * 2,
        ),
        (["train/S1/a.ply", "test/S2/a.ply"], ["S1", "S2"]),
        (["train/a_1.ply", "test/b_1.ply", "test/a_2.ply"], ["a", "b", "a"]),
        (["session 1/S1/x.ply", "session 2/S1/x.ply", "session 2/S2/x.ply"], ["S1", "S1", "S2"]),
        (["smile/P1/a.ply", "sad/P1/a.ply", "sad/P2/a.ply"], ["P1", "P1", "P2"]),
        (["cheeks_in/FT_1/a.ply", "high_smile/FT_1/a.ply", "high_smile/FT_2/a.ply"], ["FT_1", "FT_1", "FT_2"]),
        (["grimace/F01/a.ply", "phoneme/F01/a.ply", "phoneme/F02/a.ply"], ["F01", "F01", "F02"]),
        (["1/models_reg/1_neutral.obj", "2/models_reg/1_neutral.obj"], ["1", "2"]),
        (["scan_S01_neutral.ply", "scan_S01_smile.ply", "scan_S02_neutral.ply"], ["scan_S01", "scan_S01", "scan_S02"]),
        (["neutral_S01.ply", "smile_S01.ply", "smile_S02.ply"], ["S01", "S01", "S02"]),
    ],
)
def test_customs_of_naming(files: list[str], subjects: list[str]) -> None:
    assert list(customary_subjects(files).values()) == subjects


def test_a_pattern_finds_the_subject() -> None:
    assert subjects_of(["x_S12_a.ply", "none.ply"], r"_(S\d+)_") == {"x_S12_a.ply": "S12", "none.ply": ""}
    assert subjects_of(["a.ply"], r"(b)?") == {"a.ply": ""}
    with pytest.raises(UsageError, match="not a regular expression"):
        subjects_of(["a.ply"], "(")
    with pytest.raises(UsageError, match="parentheses"):
        subjects_of(["a.ply"], "a")


def test_labels_are_matched_with_or_without_ending(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("subject,file,age\r\nanna,a.ply,30\r\nbob,./sub/b,40\r\n", encoding="utf-8-sig")
    rows, without = label_rows(["a.ply", "c.ply", "sub/b.obj"], table, None)
    assert rows == [
        {"file": "a.ply", "subject": "anna", "age": "30"},
        {"file": "sub/b.obj", "subject": "bob", "age": "40"},
    ]
    assert [list(row)[:2] for row in rows] == [["file", "subject"]] * 2
    assert without == {"c.ply": "labels.csv has no row for it"}


def test_labels_need_the_subject_unless_a_pattern_finds_it(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,age\nanna_1.ply,30\nbob_1.ply,40\n")
    with pytest.raises(UsageError, match=r"column 'subject' is missing; it has file, age"):
        label_rows(["anna_1.ply", "bob_1.ply"], table, None)
    rows, _ = label_rows(["anna_1.ply", "bob_1.ply"], table, "([a-z]+)_")
    assert [row["subject"] for row in rows] == ["anna", "bob"]


@pytest.mark.parametrize("header", ["file,Subject", " FILE ; subject ", "file\tSUBJECT"])
def test_labels_of_any_spreadsheet_are_the_same(header: str, tmp_path: Path) -> None:
    sign = next(sign for sign in ",;\t" if sign in header)
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "labels.csv").write_text(f"{header}\r\nsub\\a.ply{sign}anna\r\n", encoding=encoding)
        assert label_rows(["sub/a.ply"], tmp_path / "labels.csv", None)[0] == [{"file": "sub/a.ply", "subject": "anna"}]


def test_rows_of_no_mesh_are_counted(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,subject\na.ply,A\ngone.ply,B\nalso,C\n")
    assert unused_rows(["a.ply"], tmp_path / "labels.csv") == ["gone.ply", "also"]
    with pytest.raises(UsageError, match=r"none of the 1 mesh .*rows name a\.ply, gone\.ply"):
        label_rows(["b.ply"], tmp_path / "labels.csv", None)


def test_guesses_are_told_with_examples() -> None:
    rows, _ = label_rows(["S1_a.ply", "S1_b.ply", "S2_a.ply"], None, None)
    assert guess_told(rows).startswith("Guessed from the names: 2 subjects (S1_a.ply is of S1, S2_a.ply is of S2)")


def test_linked_folders_are_read_once_and_circles_end(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.ply").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/back").symlink_to(tmp_path / "set")
    assert mesh_files(tmp_path / "set") == ["linked/a.ply"]


def test_every_name_says_who_it_is() -> None:
    assert customary_subjects(["-a.ply", "b.ply"]) == {"-a.ply": "-a", "b.ply": "b"}
    assert all(customary_subjects(["_1_x.ply", "__.ply", " 2.ply"]).values())


def test_a_set_of_faces_is_no_folder_of_meshes(tmp_path: Path) -> None:
    """It holds one, its template."""
    for name in ("card.json", "vertices.npy", "template.ply"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="is a set of faces already"):
        mesh_files(tmp_path)


def test_meshes_without_a_subject_are_told() -> None:
    rows, without = label_rows(["S1.ply", "x.ply"], None, "(S1)")
    assert [row["file"] for row in rows] == ["S1.ply"]
    assert without == {"x.ply": "it has no subject"}
    with pytest.raises(UsageError, match=r"none of the 2.*S1\.ply: it has no subject"):
        label_rows(["S1.ply", "x.ply"], None, "(S7)")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "column 'file'"),
        (b"file,subject\n", "a row for each mesh"),
        (b"name,subject\na,b\n", "column 'file'"),
        (b"file,subject\na\n", "line 2 has 1 cell,"),
        (b"file,subject\na,b,c\n", "line 2 has 3 cells"),
        (b"file,subject\na,b\na,c\n", "more than once"),
        (b"file,subject\n\xff\xfe,b\n", "line 2 is not text"),
        (b'file,subject\n"a,b\n', "no line of a CSV"),
    ],
)
def test_tables_that_cannot_be_used(content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(MeshganError, match=rf"labels\.csv.*{complaint}"):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(UsageError, match=r"gone\.csv does not exist"):
        read_labels(tmp_path / "gone.csv")
