"""Ctrl-C, SIGTERM and a closed terminal: heard, counted, and given back."""

import os
import signal
import threading

import pytest

from meshgan.training import team as module
from meshgan.training.team import AGREE_EVERY, SIGNALS, Team, stop_requests


@pytest.fixture(autouse=True)
def handlers():
    """Own handlers, so that nothing here ends the test run."""

    def mine(number, frame):
        raise AssertionError(f"signal {number} went past the run")

    before = {number: signal.signal(number, mine) for number in SIGNALS}
    yield mine
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_what_the_next_step_stops_for(number, handlers):
    with stop_requests(Team()) as stop:
        assert stop(1) == 0
        os.kill(os.getpid(), number)
        assert stop(2) == number
        assert stop(3) == number  # it is not forgotten
    assert all(signal.getsignal(one) is handlers for one in SIGNALS)


def test_the_first_signal_counts_and_a_second_ctrl_c_ends_at_once(handlers):
    with stop_requests(Team()) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(1) == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyError), stop_requests(Team()):
        raise KeyError
    assert all(signal.getsignal(one) is handlers for one in SIGNALS)


def test_several_processes_ask_each_other_now_and_then(monkeypatch):
    asked = []
    monkeypatch.setattr(Team, "largest", lambda self, value: asked.append(value) or signal.SIGTERM)
    with stop_requests(Team(0, 2)) as stop:
        found = [stop(step) for step in range(1, 2 * AGREE_EVERY + 1)]
        assert found == ([0] * (AGREE_EVERY - 1) + [signal.SIGTERM]) * 2
        assert asked == [0, 0]
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the others would wait for ever: it does not end at once
        stop(AGREE_EVERY)
        assert asked[-1] == signal.SIGINT


def test_a_thread_hears_nothing_and_touches_nothing(handlers):
    seen = []

    def run():
        with stop_requests(Team()) as stop:
            seen.append((stop(1), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(0, handlers)]


@pytest.mark.skipif(not module.HANGUP, reason="this system has no SIGHUP")
def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests(Team()) as stop:
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop(1) == 0
