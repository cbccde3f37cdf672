"""One gate for every file: what is no ordinary file, too large, or no text, is said in one sentence."""

import io
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.cli.main import sentence
from meshgan.errors import MeshganError, UsageError
from meshgan.reading import (
    MOST_TOML,
    cells,
    decoded,
    parse_json,
    parse_toml,
    read_arrays,
    read_bytes,
    read_json,
    read_table,
    read_text,
    read_toml,
    shown,
)

READERS = [lambda path: read_bytes(path, 100), read_text, read_json, read_toml, read_table, read_arrays]
TEXT = "file,subject\nä.ply,Jürgen\n"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "socket", "long", "zero", "below a file"])
def test_what_is_no_ordinary_file_is_answered_at_once(read, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        match kind:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "device":
                path = Path("/dev/zero")
            case "socket":
                path = Path(short, "s")  # a socket's name has at most a hundred letters
                listening.bind(str(path))
            case "long":
                path = tmp_path / ("x" * 300)
            case "zero":
                path = tmp_path / "a\0b"
            case "below a file":
                path.write_text("x")
                path = path / "inside.csv"
        with pytest.raises(UsageError) as caught:
            read(path)
    assert str(path) in str(caught.value)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(2**40)
    for read in READERS:
        with pytest.raises(UsageError, match="large is larger than"):
            read(tmp_path / "large")


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("behind", ["", "\x1a", "\0\0"])
def test_text_of_any_encoding_and_line_end_is_the_same(encoding: str, end: str, behind: str, tmp_path: Path) -> None:
    data = (TEXT.replace("\n", end) + behind).encode(encoding)
    assert decoded(data) == TEXT
    (tmp_path / "a.csv").write_bytes(data)
    assert read_table(tmp_path / "a.csv", ["file", "subject"]) == [{"file": "ä.ply", "subject": "Jürgen"}]


@pytest.mark.parametrize(
    "text",
    [
        " File , SUBJECT \n\nä.ply, Jürgen\n,\n",
        "file;subject\nä.ply;Jürgen",
        "file\tsubject\t\nä.ply\tJürgen\t\n",
        "sep=;\nfile;subject\nä.ply;Jürgen\n",
        '"file","subject"\n"ä.ply","Jürgen"\n',
        "file,subject\nä.ply,Jürgen,,\n",
    ],
)
def test_tables_of_any_custom_are_the_same(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "a.csv", ["file", "subject"]) == [{"file": "ä.ply", "subject": "Jürgen"}]


def test_decimal_commas_are_points_where_no_comma_stands_between_cells() -> None:
    assert cells("name;x;y\nnose, tip;1,5;-,25e-3") == [(1, ["name", "x", "y"]), (2, ["nose, tip", "1.5", "-.25e-3"])]
    assert cells("name,x\nnose,1.5") == [(1, ["name", "x"]), (2, ["nose", "1.5"])]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,id\na,b\n", "column 'subject' is missing; it has file, id"),
        ("", "column 'file' is missing; it has none"),
        ("file,subject,Subject\na,b,c\n", "two columns are called"),
        ("file,subject,age,age\na,b,c,d\n", "two columns are called 'age'"),
        ("file,subject,,age\na,b,c,d\n", "a column has no name"),
        ("file,subject\na,b\n\na\n", "line 4 has 1 cell, the header 2"),
        ("file,subject\na,b,c\n", "line 2 has 3 cells, the header 2"),
        ('file,subject\na,"b\n', "no line of a CSV file"),
        ("file,subject\na," + "b" * 200_000, "no line of a CSV file"),
    ],
)
def test_a_wrong_table_is_told_with_line_and_column(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_table(tmp_path / "a.csv", ["file", "subject"])
    assert str(tmp_path / "a.csv") in str(caught.value)


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"file,subject\na,b\nM\xfcller,c\n")
    with pytest.raises(MeshganError, match=r"a\.csv: line 3 is not text in UTF-8 \(byte 0xfc\)"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(MeshganError, match="no text"):
        decoded(b"a" * 99 + b"\0b")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[1e999]",
        "[NaN]",
        "[-Infinity]",
        "[" + "9" * 5000 + "]",
        "[" + "9" * 400 + "]",
        f"[{-(2**64)}]",
        "{",
        "",
        '{"a": "\n"}',
    ],
)
def test_json_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(MeshganError) as caught:
        parse_json(text, "some.json")
    assert "some.json" in str(caught.value)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    "text",
    [
        "a." * 30_000 + "b = 1",
        "a = " + "[" * 50_000,
        "a = " + "9" * 5000,
        "a = 1\na = 2",
        "x" * MOST_TOML + "y",
        "a = 1e",
    ],
)
def test_toml_that_is_none_is_one_sentence_at_once(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_toml(text, "some.toml")
    assert "some.toml" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_archive_that_unfolds_to_much_is_refused_folded(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2**22), b=np.arange(3))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**16
    with pytest.raises(MeshganError, match="unfolds to more"):
        read_arrays(tmp_path / "bomb.npz", most=2**20)
    assert set(read_arrays(tmp_path / "bomb.npz")) == {"a", "b"}


def test_archives_that_lie_about_their_size_or_hold_objects_are_damaged(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, a=np.zeros(2**16))
    data = whole.getvalue().replace((2**19 + 128).to_bytes(4, "little"), (128).to_bytes(4, "little"))
    objects = io.BytesIO()
    np.savez(objects, a=np.array([{}], dtype=object))
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**60,)})
        archive.writestr("a.npy", header.getvalue())
    words = io.BytesIO()
    with zipfile.ZipFile(words, "w") as archive:
        archive.writestr("a.npy", "no array")
    damaged = (data, objects.getvalue(), huge.getvalue(), words.getvalue(), whole.getvalue()[:-200], b"")
    for number, content in enumerate(damaged):
        (tmp_path / f"{number}.npz").write_bytes(content)
        with pytest.raises(MeshganError, match=rf"{number}\.npz is damaged"):
            read_arrays(tmp_path / f"{number}.npz")


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (
        decoded,
        lambda d: cells(decoded(d)),
        lambda d: parse_json(decoded(d), "a"),
        lambda d: parse_toml(decoded(d), "a"),
    ):
        try:
            parse(data)
        except MeshganError as error:
            str(error).encode()


@given(st.text(st.characters()), st.binary())
def test_names_are_shown_in_one_line_that_any_file_holds(text: str, data: bytes) -> None:
    for name in (text, data):
        assert shown(name).isprintable()
        shown(name).encode("utf-8")
    assert shown(b"M\xfcller_x.ply") == "M\\xfcller_x.ply"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "the memory does not suffice"),
        (OSError(30, "Read-only file system", "/x"), "/x: Read-only file system; choose another place"),
        (KeyError("a"), "a fault of meshgan (KeyError: 'a')"),
        (UsageError("a\nb"), "a b"),
    ],
)
def test_every_end_is_one_sentence(error: Exception, expected: str) -> None:
    assert expected in sentence(error)
    assert "\n" not in sentence(error)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_of_any_encoding_shows_every_name(encoding: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "MPLBACKEND": "no such"}
    name = os.fsencode(tmp_path) + "лица-µ.csv".encode() + b"\xff"
    command = [sys.executable, "-m", "meshgan.cli.main", "data", "info", name]
    run = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert run.returncode == 2
    assert b"Traceback" not in run.stderr
    assert run.stderr.startswith(b"meshgan: ")
