"""The captured step, with a stand-in for CUDA graphs: every batch counts once, whichever way it is run."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from meshgan.training.graph import WARM_UP, stepper
from meshgan.training.state import Batch, State
from meshgan.training.team import Team


class Graph:
    """Like a CUDA graph: capturing runs nothing, replaying runs what was captured on the same memory."""

    recording = None

    def replay(self):
        self.body()


class Adding:
    """Adds up what it sees; in phase 1 twice."""

    phases = 2

    def __init__(self):
        self.calls = []

    def step(self, state, batch):
        stats = {"sum": torch.zeros(())}

        def body():
            amount = (batch.faces.sum() + 10 * batch.codes.sum() + 100 * batch.mix.sum()) * (1 + batch.phase)
            state.variables["total"].add_(amount)
            stats["sum"].copy_(amount)

        if Graph.recording is None:
            self.calls.append(batch.phase)
            body()
        else:
            Graph.recording.body = body
        return stats


@pytest.fixture
def stand_in(monkeypatch):
    @contextlib.contextmanager
    def capture(graph):
        Graph.recording = graph
        yield
        Graph.recording = None

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def batches(count):
    rng = torch.Generator().manual_seed(0)
    return [
        Batch(torch.rand(4, 2, 3, generator=rng), torch.rand(4, 5, generator=rng), torch.rand(4, generator=rng), i % 2)
        for i in range(count)
    ]


def run(device, count=20):
    objective, state = Adding(), State({}, {}, {"total": torch.zeros(())}, team=Team(device=device))
    advance = stepper(objective, state)
    sums = [advance(batch)["sum"].item() for batch in batches(count)]
    return objective, state.variables["total"].item(), sums


def test_a_captured_step_does_what_the_plain_one_does(stand_in):
    plain, total, sums = run(torch.device("cpu"))
    captured, same_total, same_sums = run(torch.device("cuda"))
    assert same_sums == sums
    assert same_total == total
    assert len(plain.calls) == 20
    assert captured.calls == [0, 1] * WARM_UP  # the rest was replayed, from one graph for each phase


def test_statistics_of_a_step_stay_when_the_next_one_is_replayed(stand_in):
    advance = stepper(Adding(), State({}, {}, {"total": torch.zeros(())}, team=Team(device=torch.device("cuda"))))
    kept = [advance(batch)["sum"] for batch in batches(20)]
    assert len({value.item() for value in kept}) == 20


def test_several_processes_run_plain_steps():
    objective = Adding()
    state = State({}, {}, {"total": torch.zeros(())}, team=Team(0, 2, torch.device("cuda")))
    advance = stepper(objective, state)
    for batch in batches(10):
        advance(batch)
    assert len(objective.calls) == 10
