"""The benchmark of the corpora runs and its numbers hang together."""

import json
from concurrent.futures import ProcessPoolExecutor

import pytest

from meshgan.bench import data


def test_the_numbers_hang_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "ProcessPoolExecutor", lambda count, start, **_: ProcessPoolExecutor(count, start))  # one
    result = data.run(60)
    json.dumps(result)
    identities, expressions, decoupling, spectrum = result["rows"]
    assert identities["faces"] == 60
    assert expressions["faces"] > decoupling["faces"] > 0
    assert (spectrum["faces"], spectrum["vertices"]) == (20, 400)
    for row in result["rows"]:
        assert row["faces_per_s"] == pytest.approx(row["faces"] / row["seconds"])
        assert 50 < row["memory_mb"] < 2048
    floor = result["floor"]
    assert floor["seconds"] == pytest.approx(floor["product_s"] + floor["write_s"])
    assert floor["megabytes"] == pytest.approx(60 * 5036 * 12 / 1e6)
    assert result["times_floor"] > 1
    assert "limits" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # nothing is left behind
