"""Whole heads: the face of the corpus, and what is around it."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from meshgan.data.corpora import anny
from meshgan.data.corpora.basis import FaceBasis, face_layout, face_template, head_layout, layout_of
from meshgan.data.corpora.heads import LOOSE_MM, head_template, heads, sphere
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import Surface
from meshgan.model.rig import targets_of

COUNT = 4


@pytest.fixture(scope="module")
def made():
    """Four heads, and their faces, in one place."""
    found, faces, _, _ = heads().people(3, np.arange(COUNT))
    return found.astype(float), faces.astype(float)


def test_the_template_has_the_parts_that_it_names():
    template, parts = head_template(), heads().parts
    assert 9_000 <= len(template.vertices) <= 14_000
    assert list(parts) == ["skin", "eyeLeft", "eyeRight", "teethUpper", "teethLower", "tongue"]
    for part in parts.values():
        assert len(np.unique(template.components[part])) == 1
    assert len(np.unique(template.components)) == len(parts)
    assert np.unique(template.triangles).size == len(template.vertices)
    assert template._edges_and_uses[1].max() == 2
    normals = template.vertex_normals
    for part in list(parts.values())[1:]:
        outwards = template.vertices[part] - template.vertices[part].mean(axis=0)
        assert (outwards * normals[part]).sum(axis=1).mean() > 0


def test_the_face_of_the_head_is_the_face_template():
    template, face, kept = head_template(), face_template(), heads().kept
    np.testing.assert_allclose(template.vertices[: len(kept)], face.vertices[kept], atol=1e-4)
    number = np.full(len(face.vertices), -1)
    number[kept] = np.arange(len(kept))
    faces = {tuple(t) for t in number[face.triangles].tolist() if -1 not in t}
    assert faces <= {tuple(t) for t in template.triangles.tolist()}


def test_a_head_has_the_face_of_the_same_person(made, monkeypatch):
    monkeypatch.setattr(anny, "BLOCK", COUNT)
    own, labels = anny._heads(3, 0)
    same, _ = anny.identities(FaceBasis.read(), face_template(), 3, 0)
    np.testing.assert_allclose(own[:, : len(heads().kept)], same[:, heads().kept], atol=1e-3)
    assert [row["subject"] for row in labels] == [f"I{i:06d}" for i in range(COUNT)]
    alone, *_ = heads().people(3, np.array([2]))
    np.testing.assert_allclose(alone[0], made[0][2], atol=1e-3)


def test_eyes_are_balls_that_the_lids_touch(made):
    found, faces = made
    for eye, part, _ in heads().eyes:
        for head, face in zip(found, faces, strict=True):
            middle, radius = sphere(head[part])
            assert np.abs(np.linalg.norm(head[part] - middle, axis=1) - radius).max() < 1e-3
            assert np.abs(np.linalg.norm(face[eye.margin] - middle, axis=1) - radius - LOOSE_MM).max() < 0.1
            back = heads().face_of(head)[eye.ball]
            assert np.abs(np.linalg.norm(back - middle, axis=1) - radius - LOOSE_MM).max() < 1e-3


def test_the_skin_goes_on_smoothly_beyond_the_face(made):
    found, _ = made
    template, size, end = head_template(), len(heads().kept), heads().parts["skin"].stop
    own = template.triangles[(template.triangles < end).all(axis=1)]
    seam = ((own < size).any(axis=1)) & (own >= size).any(axis=1)
    for head in (template.vertices, *found):
        skin = Mesh(head[:end], own)
        along = (skin.triangle_normals[seam, None] * skin.vertex_normals[own[seam]]).sum(axis=2)
        assert along.min() > 0.5


def test_teeth_and_tongue_lie_in_the_mouth(made):
    template, parts = head_template(), heads().parts
    skin = template.triangles[(template.triangles < parts["skin"].stop).all(axis=1)]
    for head in made[0]:
        surface = Surface(Mesh(head[: parts["skin"].stop], skin))
        for name in ("teethUpper", "teethLower", "tongue"):
            points = head[parts[name]]
            found = surface.closest(points)
            outside = ((points - found.points) * surface.normals(found)).sum(axis=1)
            assert outside.min() > -0.3  # the skin inside the mouth faces the teeth


def test_parts_keep_clear_of_each_other_in_the_shapes_most_at_risk(made, monkeypatch):
    """Of one head; `python tools/head_figures.py` measures two hundred in all shapes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    tool = importlib.import_module("head_figures")
    head = made[0][1]
    measured, targets = tool.Depths(heads()), targets_of(head, "arkit")
    eyes = [name for name in targets if name.startswith("eye")]
    assert len(eyes) == 14
    for name in eyes:
        assert measured.of_lids(head + targets[name]) < tool.ALLOWED_MM, name
    for name in ("jawOpen", "tongueOut"):
        found = measured.measure(head + targets[name])
        assert max(found.values()) < tool.ALLOWED_MM, (name, found)
    for part, way in (("teethLower", (0.0, 6.0, 0.0)), ("eyeLeft", (0.0, 0.0, 2.0))):
        pushed = head.copy()
        pushed[heads().parts[part]] += way
        assert max(measured.measure(pushed).values()) > 1.0, part


def test_what_a_shape_brings_through_the_skin_goes_back_behind_it(made, monkeypatch):
    """The inside of the mouth through the chin, and the lower lip into a tongue that hangs before it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    measured, whole, head = importlib.import_module("head_figures").Depths(heads()), heads(), made[0][1]
    lining, used, skin = whole._lining
    surface = Surface(Mesh(head[used], skin))
    found = surface.closest(head[lining])
    ways = found.points - head[lining]
    before = (found.distance < 12) & ((surface.normals(found) * ways).sum(axis=1) > 0.8 * found.distance)
    assert before.sum() > 5
    shifts = np.zeros((1, *head.shape), np.float32)
    shifts[0, lining[before]] = ways[before] * (1 + 0.8 / found.distance[before, None])
    assert measured.measure(head + shifts[0])["mouth through skin"] > 0.7
    whole._keep_behind(head, shifts)
    assert measured.measure(head + shifts[0])["mouth through skin"] < 0.3

    out = targets_of(head, "arkit")["tongueOut"]
    out[np.searchsorted(whole.kept, whole.lip), 2] += 4.0
    deep = measured.measure(head + out)["skin in tongue"]
    assert deep > 0.5
    whole._draw_ahead(head, out)
    assert measured.measure(head + out)["skin in tongue"] < 0.5 * deep


def test_every_level_keeps_every_part_and_learns_from_its_own():
    hierarchy = Hierarchy.cached(head_template())
    part = head_template().components
    for level in hierarchy.levels[:-1]:
        coarse = part[level.kept]
        assert len(np.unique(coarse)) == 6
        assert np.bincount(coarse).min() >= 3
        up = level.up.tocoo()
        np.testing.assert_array_equal(part[up.row], coarse[up.col])
        part = coarse


def test_a_set_of_heads(tmp_path, monkeypatch):
    monkeypatch.setattr(anny, "BLOCK", 2)
    anny.make_heads(tmp_path / "set", 3, seed=3)
    found = FaceSet.open(tmp_path / "set")
    assert found.vertices.shape == (3, len(head_template().vertices), 3)
    assert found.card.synthetic
    assert found.card.licence == "CC0-1.0"
    assert {"subject", "ancestry", "sex", "age"} <= set(found.labels)
    assert layout_of(found.template) is head_layout()
    with pytest.raises(UsageError, match="at least 1"):
        anny.make_heads(tmp_path / "none", 0)


def test_the_layout_of_a_head_fits_it_and_overlaps_nowhere():
    template, layout = head_template(), head_layout()
    np.testing.assert_array_equal(layout.owner[layout.corners], template.triangles)
    assert sum(part.count for part in layout.parts) == len(template.vertices)
    assert layout.coordinates.min() >= 0
    assert layout.coordinates.max() <= 1
    assert covered_twice(layout.coordinates[layout.corners], 1500) == 0
    assert layout_of(face_template()) is face_layout()


def covered_twice(triangles, size):
    """Pixels of a square whose middles lie well inside two triangles (F, 3, 2), which do not share a side there."""
    count = np.zeros((size, size), dtype=np.int64)
    for a, b, c in triangles * size:
        low, high = np.floor(np.min([a, b, c], axis=0)).astype(int), np.ceil(np.max([a, b, c], axis=0)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5, indexing="ij")
        whole = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        u = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / whole
        v = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / whole
        inside = (u > 1e-6) & (v > 1e-6) & (u + v < 1 - 1e-6)
        count[low[0] : high[0], low[1] : high[1]] += inside
    return int((count > 1).sum())
