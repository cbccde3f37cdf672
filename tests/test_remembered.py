"""Remembered results: found under the same key only, and never when they are not whole."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshgan import remembered
from meshgan.remembered import cache_folder, code_of, key_of, remember, remember_array


@dataclass(frozen=True)
class Scores:
    name: str
    values: tuple[float, ...]


SCORES = Scores("a", (1.0, 2.5e-3))


def test_a_key_changes_with_everything_and_with_nothing_else() -> None:
    first = {"data": "abc", "samples": 10, "share": 0.1, "sampler": None, "counts": [1, 2]}
    assert key_of(**first) == key_of(**dict(reversed(first.items())))
    changes = [
        {"data": "abd"},
        {"samples": 11},
        {"share": float(np.nextafter(0.1, 1))},
        {"sampler": "x"},
        {"counts": [2, 1]},
    ]
    changes += [{"samples": "10"}, {"counts": [12]}, {"more": None}]
    assert len({key_of(**first), *(key_of(**(first | change)) for change in changes)}) == 1 + len(changes)
    with pytest.raises(TypeError, match="cannot be made of"):
        key_of(model=object())
    with pytest.raises(ValueError, match="Out of range"):
        key_of(value=float("nan"))


def test_the_code_counts_but_not_what_is_said_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "SOURCE", tmp_path)
    folder = tmp_path / "metrics"
    folder.mkdir()
    texts = {
        "plain": "def f(x):\n    return 2 * x\n",
        "documented": '"""About."""\n\n\ndef f(x):  # doubles\n    """Double."""\n    return 2 * x\n',
        "changed": "def f(x):\n    return 3 * x\n",
    }
    found = {}
    for name, text in texts.items():
        (folder / "a.py").write_text(text)
        code_of.cache_clear()
        found[name] = code_of("metrics")
    (folder / "a.py").rename(folder / "b.py")
    code_of.cache_clear()
    assert found["plain"] == found["documented"] != found["changed"] != code_of("metrics")
    code_of.cache_clear()
    monkeypatch.undo()
    assert code_of("evaluation") != code_of("geometry")
    with pytest.raises((ValueError, OSError)):
        code_of("no-such-folder")


def test_what_was_computed_is_found_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def compute() -> Scores:
        calls.append("scores")
        return SCORES

    def array() -> np.ndarray:
        calls.append("array")
        return np.arange(6.0).reshape(2, 3)

    for key in ("k1", "k1", "k2"):
        assert remember(tmp_path, "row", key, Scores, compute) == SCORES
        np.testing.assert_array_equal(remember_array(tmp_path, "fit", key, (2, 3), array), np.arange(6.0).reshape(2, 3))
    assert calls == ["scores", "array"] * 2


@given(st.binary(max_size=40), st.integers(0, 500), st.integers(0, 40), st.booleans())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_damaged_results_are_computed_again(tmp_path: Path, noise: bytes, place: int, gone: int, array: bool) -> None:
    """Whatever is overwritten, inserted or cut: a number that was changed is no result either."""

    def ask(value: float) -> float:
        if array:
            return float(remember_array(tmp_path, "fit", "k", (3, 4), lambda: np.full((3, 4), value, np.float32))[0, 0])
        return remember(tmp_path, "row", "k", Scores, lambda: Scores("a", (value, 2.5e-3))).values[0]

    path = tmp_path / ("fit-k.f4" if array else "row-k.json")
    path.unlink(missing_ok=True)
    assert ask(1.0) == 1.0
    whole = path.read_bytes()
    place %= len(whole) + 1
    damaged = whole[:place] + noise + whole[place + gone :]
    path.write_bytes(damaged)
    assert ask(7.0) == (1.0 if damaged == whole else 7.0)


def test_what_cannot_be_written_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    for name in ("a", "b"):
        assert remember(tmp_path / "file", name, "k", Scores, lambda: SCORES) == SCORES
    assert capsys.readouterr().err.count("not remembered") == 1


def test_the_cache_folder_is_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "meshgan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    assert cache_folder().parent.is_dir()
