import json

from meshgan.bench import hierarchy


def test_the_benchmark_measures_builds_in_fresh_processes(monkeypatch, capsys) -> None:
    monkeypatch.setattr(hierarchy, "SIDES", (12, 16))
    monkeypatch.setattr(hierarchy, "LIMITS_S", {12: 100.0, 16: 1e-9})
    result = hierarchy.run()
    assert json.loads(json.dumps(result)) == result
    assert [row["vertices"] for row in result["rows"]] == [144, 256]
    assert result["rows"][1]["counts"][:3] == [256, 64, 16]
    assert all(row["first_s"] > row["build_s"] > 0 for row in result["rows"])
    assert not result["within_limits"]
    assert "limits (144 in 100 s, 256 in 0 s): MISSED" in capsys.readouterr().out


def test_growth_is_the_slope_in_log_log() -> None:
    assert abs(hierarchy.slope([1, 10, 100], [3, 300, 30_000]) - 2) < 1e-12
