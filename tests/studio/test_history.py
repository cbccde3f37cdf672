"""Undo and redo against a plain list."""

from hypothesis import given
from hypothesis import strategies as st

from meshgan.studio.session import PAUSE, REMEMBERED, History


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.sampled_from(["push", "undo", "redo"]), max_size=40))
def test_it_is_a_list_with_a_place_in_it(steps):
    history, past, place = History("0"), ["0"], 0
    for number, step in enumerate(steps, start=1):
        if step == "push":
            past, place = [*past[: place + 1], str(number)], place + 1
            history.push(str(number))
        elif step == "undo":
            assert history.undo() == (place > 0)
            place = max(place - 1, 0)
        else:
            assert history.redo() == (place < len(past) - 1)
            place = min(place + 1, len(past) - 1)
        assert history.current == past[place]


def test_one_movement_of_a_slider_is_one_step():
    clock = Clock()
    history = History("start", clock)
    for value in "abc":
        clock.now += PAUSE / 2
        history.push(value, "age")
    assert history.undo()
    assert history.current == "start"


def test_a_pause_or_another_slider_begins_a_new_step():
    clock = Clock()
    history = History("start", clock)
    history.push("a", "age")
    clock.now += PAUSE * 1.01
    history.push("b", "age")
    history.push("c", "weight")
    for expected in ("b", "a", "start"):
        assert history.undo()
        assert history.current == expected


def test_after_undo_the_same_slider_begins_a_new_step():
    history = History("start", Clock())
    history.push("a", "age")
    history.push("b", "weight")
    history.undo()
    history.push("c", "age")
    history.undo()
    assert history.current == "a"


def test_memory_is_bounded():
    history = History(0)
    for number in range(3 * REMEMBERED):
        history.push(number)
    while history.undo():
        pass
    assert history.current == 2 * REMEMBERED - 1
