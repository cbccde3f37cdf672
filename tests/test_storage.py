import errno
from pathlib import Path

import pytest

from meshgan.errors import MeshganError
from meshgan.storage import atomic_file, atomic_folder


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


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as partial:
        (partial / "a").write_text("a")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as partial:
        (partial / "a").write_text("a")
    assert (target / "a").read_text() == "a"


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(MeshganError, match="exists already"), atomic_folder(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "keep me"


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written")])
def test_trouble_with_the_disk_is_a_sentence(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(MeshganError, match=words), atomic_file(tmp_path / "x"):
        raise OSError(number, "trouble")
    assert list(tmp_path.iterdir()) == []
