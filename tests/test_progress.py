import pytest

from meshgan import progress


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (7500, "2 h 05 min")]
)
def test_durations_read_as_people_write_them(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


def test_every_item_comes_through_in_order() -> None:
    assert list(progress.track(range(5), "counting")) == [0, 1, 2, 3, 4]


def test_plain_lines_say_how_much_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert len(list(progress.track(range(4), "faces", total=1024, step=256))) == 4
    assert capsys.readouterr().err.splitlines() == ["faces: 512 of 1024, 12 s left", "faces: 1024 of 1024, 0 s left"]
