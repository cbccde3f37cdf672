"""Writing whole or not at all; deleting only what is provably ours; leftovers of killed writers; one run at a time."""

import ast
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan import storage
from meshgan.errors import DiskError, MeshganError, UsageError
from meshgan.storage import (
    alone_in,
    atomic_file,
    atomic_folder,
    disk_errors,
    keep_list,
    remove_file,
    remove_written,
    set_aside,
    strangers,
    sweep,
)

ROOT = Path(__file__).parents[1]


def nothing(path):
    return False


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "numbers.txt"
    with atomic_file(target) as partial:
        partial.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    with pytest.raises(ZeroDivisionError), atomic_file(target) as partial:
        partial.write_text("half of tw")
        raise ZeroDivisionError
    assert target.read_text() == "one"
    assert [path.name for path in target.parent.iterdir()] == ["numbers.txt"]


def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "real")
    with atomic_file(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "real").read_text() == "new"


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(MeshganError, match="choose another"), atomic_file(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo()


@settings(max_examples=30)
@given(name=st.text(min_size=1, max_size=245).filter(lambda n: not set("/\0") & set(n) and n not in {".", ".."}))
def test_every_name_that_the_disk_takes_can_be_written(tmp_path_factory, name: str) -> None:
    try:
        if len(os.fsencode(name)) > 255:
            return
    except UnicodeEncodeError:
        return
    target = tmp_path_factory.mktemp("names") / name
    with atomic_file(target) as partial:
        partial.write_text("x")
    assert target.read_text() == "x"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as partial:
        (partial / "a").write_text("a")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as partial:
        (partial / "a").write_text("a")
    assert names(target) == ["a"]


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    for keep in (None, nothing):
        with pytest.raises(MeshganError, match="exists already"), atomic_folder(tmp_path, keep):
            pass
    assert (tmp_path / "mine").read_text() == "keep me"


@pytest.mark.parametrize("leads", ["nowhere", "empty", "full"])
def test_a_link_in_place_of_a_folder_is_answered(tmp_path: Path, leads: str) -> None:
    if leads != "nowhere":
        (tmp_path / leads).mkdir()
    if leads == "full":
        (tmp_path / leads / "mine").touch()
    (tmp_path / "out").symlink_to(tmp_path / leads)
    for keep in (None, nothing):
        with pytest.raises(MeshganError, match="symbolic link"), atomic_folder(tmp_path / "out", keep):
            pass
    assert (tmp_path / "out").is_symlink()


def written(target: Path, keep=nothing, **files: str) -> None:
    with atomic_folder(target, keep) as partial:
        for name, text in files.items():
            path = partial / name.replace("_", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def test_a_folder_of_ours_is_replaced_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(out, a="1", deep_b="2", gone="3")
    (out / "notes.txt").write_text("mine")
    (out / "deep" / "link").symlink_to("/nowhere")
    (out / "empty").mkdir()
    written(out, a="one", deep_b="two")
    assert names(out) == [".written", "a", "deep/b", "deep/link", "notes.txt"]
    assert (out / "empty").is_dir()
    assert (out / "a").read_text() == "one"
    assert sorted(path.as_posix() for path in strangers(out)) == ["deep/link", "empty", "notes.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_was_changed_is_kept_or_stops_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    written(out, a="1", b="2")
    (out / "a").write_text("by hand")
    with pytest.raises(MeshganError, match="a was changed"):
        written(out, a="one")
    assert (out / "a").read_text() == "by hand"
    written(out, lambda path: path.name == "a", a="one", b="two")
    assert (out / "a").read_text() == "by hand"
    assert (out / "b").read_text() == "two"
    (out / "c").write_text("in the way")
    with pytest.raises(MeshganError, match="c is in the way"):
        written(out, lambda path: path.name == "a", a="one", c="three")
    assert (out / "c").read_text() == "in the way"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_what_was_written_and_not_changed_is_deleted(tmp_path: Path) -> None:
    work = tmp_path / "work"
    keep_list(work)
    for name in ("a", "b", "c"):
        with atomic_file(work / name) as partial:
            partial.write_text(name)
    (work / "b").write_text("by hand")
    (work / "mine").write_text("mine")
    remove_written(work)
    assert names(work) == [".written", "b", "mine"]
    remove_written(work)  # once more harms nobody
    (work / "b").unlink()
    (work / "mine").unlink()
    remove_written(work)
    assert not work.exists()


def test_a_list_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    digest = "d2ed1a6cd81d4a3a8b5e2c1a"  # any: what lies outside is never looked at
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "inner").symlink_to(tmp_path)
    sums = storage._sum(tmp_path / "mine")
    lines = [f"{sums}  ../mine", f"{sums}  {tmp_path}/mine", f"{sums}  inner/mine", digest, "\x00  \udcff"]
    (tmp_path / "work" / ".written").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    remove_written(tmp_path / "work")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_replacement_that_was_cut_is_undone(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    written(out, a="1")
    replace = Path.replace

    def cut(self, target):
        if self.name.endswith(".replaced") or (self.name.endswith(".partial") and Path(target).name == "out"):
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        written(out, a="2")
    monkeypatch.undo()
    assert not out.exists()
    written(out, a="3")
    assert names(out) == [".written", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_does_not_fit_is_named_where_it_would_have_been(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as told, atomic_folder(tmp_path / "set") as partial, disk_errors(partial / "a.ply"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(told.value).startswith(f"{tmp_path / 'set' / 'a.ply'}: the disk is full")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written")])
def test_trouble_with_the_disk_is_a_sentence(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(MeshganError, match=words), atomic_file(tmp_path / "x"):
        raise OSError(number, "trouble")
    assert list(tmp_path.iterdir()) == []


HELD = """
import sys, time
from pathlib import Path
from meshgan.storage import alone_in, atomic_file, atomic_folder
folder = Path(sys.argv[1])
with alone_in(folder / "run"), atomic_folder(folder / "set") as partial, atomic_file(folder / "run" / "b") as other:
    (partial / "big").write_text("half")
    other.write_text("half")
    print("here", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_removed_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    named_alike = [".set.deadbeef.partial", ".set.0123456789abcdef.partial", "x.partial", ".mine.partial"]
    for name in named_alike:
        (tmp_path / name).write_text("mine")
    child = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    with pytest.raises(UsageError, match="another run"), alone_in(tmp_path / "run"):
        pass
    with pytest.raises(UsageError, match="another process is writing"), atomic_folder(tmp_path / "set"):
        pass
    assert sweep(tmp_path)
    left = [path for path in tmp_path.rglob("*.partial") if path.name not in named_alike]
    assert len(left) == 2
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with alone_in(tmp_path / "run"), atomic_folder(tmp_path / "set") as partial:
        (partial / "a").write_text("a")
    assert not [path for path in left if path.exists()]
    assert all((tmp_path / name).read_text() == "mine" for name in named_alike)
    assert not sweep(tmp_path)


def test_the_same_process_is_told_too_and_the_lock_ends_with_the_run(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(UsageError, match="another run"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file; choose another name"), alone_in(tmp_path / "file"):
        pass


def test_files_set_aside_never_take_each_other_s_place(tmp_path: Path) -> None:
    for text in ("1", "2", "3"):
        (tmp_path / "a.bin").write_text(text)
        set_aside(tmp_path / "a.bin")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["1", "2", "3"]
    remove_file(tmp_path / "a.bin")  # is not there


REMOVERS = {"rmtree", "unlink", "rmdir", "removedirs", "rename", "renames", "move", "replace", "remove"}


def removals(path: Path) -> list[str]:
    """Calls in a file that delete or rename something on disk."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REMOVERS):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        if node.func.attr == "replace" and (len(node.args) != 1 or node.keywords) and owner != "os":
            continue  # of a string, or of a dataclass
        if node.func.attr in {"remove", "move"} and owner not in {"os", "shutil"}:
            continue  # of a list
        found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_nothing_is_deleted_or_renamed_outside_this_module() -> None:
    files = [path for folder in ("src", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert removals(ROOT / "src" / "meshgan" / "storage.py")  # the search finds what there is
    outside = [line for path in files if path.name != "storage.py" for line in removals(path)]
    assert outside == []


def texts_without_encoding(path: Path) -> list[str]:
    """Calls in a file that read or write text in whatever encoding the machine prefers."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, given = node.func.attr, any(word.arg == "encoding" for word in node.keywords)
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        text = name == "open" and any(set(mode) <= set("rwaxt+") for mode in modes)
        if not given and ((name, len(node.args)) in {("write_text", 1), ("read_text", 0)} or text):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_text_is_written_and_read_in_utf_8_on_every_machine() -> None:
    files = [path for folder in ("src", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert [line for path in files for line in texts_without_encoding(path)] == []


def test_the_makefile_deletes_what_it_builds_and_nothing_of_the_user_s() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "rm -" in line]
    assert lines == ["\trm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache"]


def test_a_file_that_a_library_puts_in_place_of_the_partial_is_for_everybody_still(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt") as partial:
        other = partial.with_suffix(".other")
        other.write_text("a")
        other.chmod(0o600)
        other.replace(partial)
    plain = tmp_path / "b.txt"
    plain.touch()
    assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode
