"""Compiled functions are kept where that is possible and safe, and work where it is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshgan import compiled

MODULE = """
from meshgan.compiled import compiled

@compiled(fastmath=True)
def doubled(x):
    return 2 * x

print(doubled(21))
"""


@pytest.fixture
def nowhere(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A module whose installation and whose user's home cannot be written to, and an environment to run it in."""
    module = tmp_path / "installed" / "module.py"
    module.parent.mkdir()
    module.write_text(MODULE)
    (module.parent / "__pycache__").touch()  # no folder: also nobody who may write everywhere can make one there
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    gone = {"XDG_CACHE_HOME": os.devnull, "HOME": os.devnull, "TMPDIR": str(temporary), "NUMBA_CACHE_DIR": ""}
    return module, os.environ | gone


def kept(environment: dict[str, str]) -> list[Path]:
    return sorted(Path(environment["TMPDIR"]).rglob("*.nbc"))


def said(module: Path, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, str(module)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_read_only_installation_keeps_it_among_the_temporary_files(nowhere: tuple[Path, dict[str, str]]) -> None:
    module, environment = nowhere
    assert said(module, environment) == "42"
    assert len(kept(environment)) == 1
    first = kept(environment)[0].stat().st_mtime_ns
    assert said(module, environment) == "42"
    assert [file.stat().st_mtime_ns for file in kept(environment)] == [first]  # read, not made again


def test_what_others_could_have_put_there_is_never_run(nowhere: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    module, environment = nowhere
    folder = Path(environment["TMPDIR"]) / f"meshgan-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    assert said(module, environment) == "42"
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    assert said(module, environment) == "42"
    assert not kept(environment) and not list(elsewhere.iterdir())


def test_settings_of_numba_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numba

    before, tried = numba.config.CACHE_DIR, []

    def njit(**options: object) -> object:
        tried.append((options.get("cache", False), numba.config.CACHE_DIR))
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    monkeypatch.setattr(compiled, "_elsewhere", lambda: [tmp_path])
    assert compiled.compiled()(len)([1, 2]) == 2
    assert tried == [(True, before), (True, str(tmp_path)), (False, before)]
    assert before == numba.config.CACHE_DIR


def test_numba_is_imported_by_the_first_call_and_not_before(tmp_path: Path) -> None:
    """Also where one compiled function calls another, which nothing else has called."""
    (tmp_path / "pair.py").write_text(
        "import sys\n"
        "from meshgan.compiled import compiled\n"
        "@compiled()\n"
        "def inner(x):\n"
        "    return 2 * x\n"
        "@compiled()\n"
        "def outer(x):\n"
        "    return inner(x) + 1\n"
        "assert 'numba' not in sys.modules\n"
        "print(outer(20), inner(3), outer.__name__)\n"
    )
    assert said(tmp_path / "pair.py", dict(os.environ)) == "41 6 outer"
