"""The captured step, with a stand-in for CUDA graphs: every batch counts once, whichever way it is run."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn import paths
from meshgan.training import loop
from meshgan.training.checkpoint import RunFolder
from meshgan.training.loop import WARM_UP, start, stepper, train
from meshgan.training.recipe import parse_recipe
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
    """A stand-in for the device that keeps an order book: who worked where, who waited for whom."""
    book, main = [], SimpleNamespace(name="main")
    where = [main]

    def waits(one):
        return lambda other: book.append(f"{one.name} waits for {other.name}")

    def side():
        stream = SimpleNamespace(name="side")
        stream.wait_stream = waits(stream)
        return stream

    @contextlib.contextmanager
    def on(stream):
        where.append(stream)
        yield
        where.pop()

    @contextlib.contextmanager
    def capture(graph):
        assert Graph.recording is None  # one at a time
        book.append("capture")
        Graph.recording = graph
        yield
        Graph.recording = None

    main.wait_stream = waits(main)
    step, replay = Adding.step, Graph.replay

    def noted_step(self, state, batch):
        if Graph.recording is None:
            book.append(f"step on {where[-1].name}")
        return step(self, state, batch)

    def noted_replay(self):
        book.append(f"replay on {where[-1].name}")
        replay(self)

    monkeypatch.setattr(Adding, "step", noted_step)
    monkeypatch.setattr(Graph, "replay", noted_replay)
    for name, value in {
        "Stream": side,
        "current_stream": lambda: where[-1],
        "stream": on,
        "CUDAGraph": Graph,
        "graph": capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return book


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


def test_warm_up_runs_beside_and_both_sides_wait(stand_in):
    """What PyTorch asks for before a capture: a side stream that waits for the work so far, and is waited for."""
    run(torch.device("cuda"), count=2 * WARM_UP + 3)
    once = ["side waits for main", "step on side", "main waits for side"]
    assert stand_in[: 6 * WARM_UP] == once * 2 * WARM_UP
    assert stand_in[6 * WARM_UP :] == ["capture", "replay on main", "capture", "replay on main", "replay on main"]


def test_a_graph_keeps_memory_of_its_own(stand_in):
    """The batch that was captured may change or go away: what is replayed reads the newest batch, copied."""
    state = State({}, {}, {"total": torch.zeros(())}, team=Team(device=torch.device("cuda")))
    advance, given = stepper(Adding(), state), [batch for batch in batches(2 * WARM_UP + 6) if batch.phase == 0]
    for batch in given[: WARM_UP + 1]:
        advance(batch)
    copies = [tensor.clone() for tensor in (given[-1].faces, given[-1].codes, given[-1].mix)]
    given[WARM_UP].faces.fill_(torch.nan)
    assert advance(given[-1])["sum"].isfinite()
    for tensor, copy in zip((given[-1].faces, given[-1].codes, given[-1].mix), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_a_cpu_asks_no_device_for_anything(stand_in):
    run(torch.device("cpu"), count=8)
    assert set(stand_in) == {"step on main"}


def test_three_steps_warm_up_as_pytorch_asks_for():
    assert WARM_UP == 3


def test_several_processes_run_plain_steps():
    objective = Adding()
    state = State({}, {}, {"total": torch.zeros(())}, team=Team(0, 2, torch.device("cuda")))
    advance = stepper(objective, state)
    for batch in batches(10):
        advance(batch)
    assert len(objective.calls) == 10


OBJECTIVES = {
    "began": {}, "began-cs": {}, "began-encoder": {}, "gan": {}, "autoencoder": {},
    "wgan": {"clip": 0.01}, "wgan-gp": {"clip": 0.0, "penalty": 10.0},
    "began-judge": {"window": 8, "memory": 32, "spectrum": 1.0, "validity": 1.0},
}  # fmt: skip


def recipe_of(kind, table):
    """The tiny recipe for one of `OBJECTIVES`."""
    table["objective"] = {"kind": kind.removesuffix("-gp"), **OBJECTIVES[kind]}
    if kind == "began-judge":
        table["network"].update(linear=True, mapping=8, detail=True)
    return parse_recipe(table, "x")


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_step_computes_on_one_device_and_lays_gradients_out_like_weights(recipe_table, tiny_faces, kind):
    """On PyTorch's device without memory: what mixes devices fails there as on a card, whose optimisers also refuse
    gradients that are laid out in another way than their weights."""
    recipe = recipe_of(kind, recipe_table)
    hierarchy = Hierarchy.cached(tiny_faces.template, recipe.hierarchy.counts)
    state = start(recipe, tiny_faces, hierarchy, 0, Team())
    for network in (*state.networks.values(), *state.averages.values()):
        network.to("meta")
    strange = []
    for name in state.optimisers:
        state.optimisers[name] = torch.optim.Adam(state.networks[name].parameters())
        state.optimisers[name].register_step_pre_hook(
            lambda one, *_: strange.extend(
                weight.shape for weight in one.param_groups[0]["params"]
                if weight.grad is not None and weight.grad.stride() != weight.stride()
            )
        )  # fmt: skip
    state = State(state.networks, state.optimisers, {name: value.to("meta") for name, value in state.variables.items()},
                  state.averages, state.clip)  # fmt: skip
    noise = sum(hierarchy.counts) if kind == "began-judge" else 0
    with paths.forced("gather"):
        for phase in range(recipe.objective.phases):
            shapes = ((8, 162, 3), (8, recipe.network.code), (8,), (8, noise))
            faces, codes, mix, chance = (torch.empty(shape, device="meta") for shape in shapes)
            stats = recipe.objective.step(state, Batch(faces, codes, mix, phase, chance if noise else None))
            state.average(0.5)
            assert {value.device.type for value in stats.values()} == {"meta"}
    assert not strange


@pytest.mark.gpu
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_card_learns_what_a_cpu_learns_which_goes_on_from_there(
    recipe_table, tiny_faces, tmp_path, monkeypatch, kind
):
    """The first steps are a CPU's but for rounding; the captured ones, those that the card would do without a graph.

    How many crossings and folds there are changes by jumps: twelve steps of the judge make a hundredth out of the last
    bits of a number, on two paths of one CPU as well, so not all steps are compared with a CPU's.
    """
    recipe = recipe_of(kind, recipe_table)
    few = WARM_UP * recipe.objective.phases

    def learned(name, device, steps):
        seen = replace(recipe.schedule, epochs=None, faces=steps * recipe.schedule.batch)
        train(replace(recipe, schedule=seen), tiny_faces, tmp_path / name, device, resume=True)
        return RunFolder(tmp_path / name).latest().tensors

    def plain(objective, state):
        return lambda batch: objective.step(state, batch)

    before = start(recipe, tiny_faces, Hierarchy.cached(tiny_faces.template, recipe.hierarchy.counts), 0, Team())
    pairs = [[learned("cpu", "cpu", few), learned("short", "cuda", few)], [learned("graph", "cuda", 4 * few)]]
    monkeypatch.setattr(loop, "stepper", plain)
    pairs[1].append(learned("plain", "cuda", 4 * few))
    for one, other in pairs:
        for name, begun in before.tensors().items():
            if name.startswith("network/"):
                assert (one[name] - other[name]).norm() <= 0.05 * (one[name] - begun).norm() + 1e-6, name
    learned("short", "cpu", 2 * few)
    assert RunFolder(tmp_path / "short").latest().step == 2 * few
