import json

import pytest
import torch

from meshgan.bench import train_step, twins
from meshgan.bench.hierarchy import hills
from meshgan.bench.train_step import Player
from meshgan.bench.twins import Passes, Work, convolution, network, training_step
from meshgan.errors import MeshganError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.chebyshev import ChebConv

pytest.importorskip("torch_geometric", exc_type=ImportError)


@pytest.fixture(scope="module")
def sheet() -> Hierarchy:
    return Hierarchy.build(hills(14))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_file_holds_what_it_promises(monkeypatch, capsys, sheet) -> None:
    monkeypatch.setattr(train_step, "face_template", lambda: hills(14))
    monkeypatch.setattr(train_step.Hierarchy, "cached", lambda mesh: sheet)
    monkeypatch.setattr(train_step, "growth", lambda: {"linear": True})
    recipe = {"meshgan": 45.0, "without traits": 30.0, "without details": 20.0, "ratio": 2.25, "of_traits": 1.5}
    monkeypatch.setattr(train_step, "of_recipe", lambda: recipe)
    monkeypatch.setattr(train_step, "ROUNDS", 1)
    monkeypatch.setattr(train_step, "BATCH", 2)
    monkeypatch.setattr(twins, "SIZE", 64)
    monkeypatch.setattr(twins, "COPIED", 1000)
    result = json.loads(json.dumps(train_step.run()))
    assert (result["vertices"], result["batch"]) == (196, 2)
    assert set(result["ms"]) == {"meshgan", "csr", "pyg"}
    assert set(result["ratio"]) == {"csr", "pyg", "floor"}
    assert result["ratio"]["csr"] == pytest.approx(result["ms"]["csr"] / result["ms"]["meshgan"])
    assert result["ratio"]["floor"] == pytest.approx(result["ms"]["meshgan"] / result["floor_ms"])
    assert result["floor_ms"] == pytest.approx(result["gflop"] / result["gflops"] * 1e3)
    assert 0 < max(result["difference"].values()) < 1e-4
    printed = capsys.readouterr().out
    assert "floor:" in printed
    assert "45.0 ms, 1.50 times that without traits (30.0) and 2.25 times that without details (20.0)" in printed


@pytest.mark.slow
def test_the_recipe_is_timed_with_its_details_and_without(monkeypatch) -> None:
    monkeypatch.setattr(train_step, "ROUNDS", 1)
    found = train_step.of_recipe()
    assert found["ratio"] == pytest.approx(found["meshgan"] / found["without details"])
    assert found["of_traits"] == pytest.approx(found["meshgan"] / found["without traits"])


def test_versions_that_differ_are_refused(sheet) -> None:
    players = train_step.versions(sheet)
    faces = torch.randn(2, 196, 3)
    train_step.check(players, faces)
    with torch.no_grad():
        players["csr"].critic.parts[1].convolutions[2].bias += 0.1
    with pytest.raises(MeshganError, match="csr"):
        train_step.check(players, faces)


def test_the_arithmetic_is_counted_as_by_hand(sheet) -> None:
    player = Player.of(sheet)
    last, first = player.generator.last, player.critic.encoder.convolutions.layers[0]
    entries, kept = last.laplacian.entries, first.kept
    assert isinstance(first, ChebConv)
    multiply, products = 196 * 6 * 16 * 3, 5 * entries * 3
    found = convolution(last)
    assert [work.flops for work in (found.forward, found.weights, found.inputs)] == [
        2 * (multiply + products),
        2 * (multiply + products),
        2 * multiply,
    ]
    some = sum(len(first.laplacian.matrix[[int(row)]].indices) for row in kept)
    assert convolution(first).forward.flops == 2 * (3 * (4 * entries + some) + len(kept) * 6 * 3 * 16)


def test_a_step_is_made_of_its_passes(sheet) -> None:
    player = Player.of(sheet)
    g, d = network(player.generator), network(player.critic)
    whole = training_step(player.generator, player.critic, 5)
    everything = sum((p.forward + p.weights + p.inputs for p in (g, d, d)), start=Work()) * 5
    assert 0.8 * everything.flops < whole.flops < everything.flops
    assert isinstance(g + d, Passes)


def test_growth_measures_time_and_memory(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(train_step, "SECONDS", 0.0)
    row = train_step.measure(14, 3)
    assert (row["vertices"], row["batch"]) == (196, 3)
    assert row["ms"] > 0
    assert row["mb"] >= 0


def test_growth_is_told_against_proportion(monkeypatch, capsys) -> None:
    class Here:
        """Runs in this process what else gets one of its own."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...

        def map(self, function, *columns):
            return map(function, *columns)

    monkeypatch.setattr(train_step, "ProcessPoolExecutor", Here)
    made = lambda side, batch: {"vertices": side**2, "batch": batch, "ms": (side / 10) ** 3, "mb": 1.0}  # noqa: E731
    monkeypatch.setattr(train_step, "measure", made)
    found = train_step.run(only_growth=True)["growth"]
    assert [row["vertices"] for row in found["sizes"]] == [5041, 12100, 19881, 80089]
    for row in found["sizes"]:
        assert row["proportion"] == pytest.approx((row["vertices"] / 5041) ** 0.5)
    assert found["exponent_ms"] == pytest.approx(1.5)
    assert "times proportion" in capsys.readouterr().out


def test_the_machine_is_described() -> None:
    about = twins.conditions()
    assert about["threads"] >= 1
    assert about["processor"]
