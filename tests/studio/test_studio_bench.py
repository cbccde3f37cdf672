"""The studio's benchmark runs, and its visitor waits for what belongs to the slider."""

import json

import numpy as np
import pytest

pytest.importorskip("viser", reason="needs the extra studio")

from meshgan.bench import studio
from meshgan.studio.gate import Gate
from meshgan.studio.server import Studio


def test_the_benchmark_runs(monkeypatch, capsys, pair):
    monkeypatch.setattr(studio, "MOVES", 5)
    monkeypatch.setattr(studio, "_models", lambda: {"spheres": pair})
    result = studio.run()
    assert json.loads(json.dumps(result)) == result
    found = result["spheres"]
    assert 0 < found["work_ms"]["median"] <= found["work_ms"]["p95"]
    quick = (found["round_trip_ms"]["median"] < studio.LIMIT_MS, found["work_ms"]["median"] < studio.WORK_LIMIT_MS)
    assert found["within_limits"] == all(quick)
    assert "slider to new vertices" in capsys.readouterr().out


def test_a_movement_has_arrived_when_it_returns(shared):
    running = Studio(shared, Gate(port=0))
    try:
        with studio._visitor(running.addresses[0]) as move:
            (page,) = running.pages.values()
            for value in (3.0, 7.0, 2.0):
                move(value)
                assert page.session.amount("age") == value
                np.testing.assert_array_equal(page.stage.parts[0].vertices, page.session.face)
    finally:
        running.stop()
