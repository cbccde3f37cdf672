"""The rasteriser's benchmark runs, and what it draws is the size of a face."""

import json

import numpy as np
import pytest

from meshgan.bench import raster
from meshgan.geometry.mesh import Mesh


def test_the_benchmark_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"IMAGES": 4, "STILLS": 1, "ROUNDS": 1}.items():
        monkeypatch.setattr(raster, name, value)
    result = raster.run()
    assert json.loads(json.dumps(result)) == result
    assert result["above_floor"] == (result["images_per_s_one_core"] >= raster.FLOOR)
    assert "images/s" in capsys.readouterr().out


def test_its_faces_look_at_the_viewer() -> None:
    faces, triangles = raster.bumpy_faces(2)
    mesh = Mesh(faces[0], triangles)
    assert abs(len(mesh.vertices) - 5036) < 10
    assert mesh.vertex_normals[:, 2].mean() > 0.5
    assert (np.ptp(mesh.vertices, axis=0)[:2] > [100, 150]).all()
