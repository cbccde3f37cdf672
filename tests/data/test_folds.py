"""Folds of the skin: lines on the template, and the folds of people."""

import numpy as np
import pytest

from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.folds import FOLDS, LABELS, draw_folds, eye_gap, fold_lines
from meshgan.data.corpora.population import draw_people

COUNT = 600


@pytest.fixture(scope="module")
def people():
    return draw_people(FaceBasis.read(), Draws(0, "folds", np.arange(COUNT)))


@pytest.fixture(scope="module")
def folds(people):
    return draw_folds(fold_lines(), people, Draws(0, "skin", np.arange(COUNT)))


def test_lines_come_in_pairs_and_lie_on_the_face():
    lines, template = fold_lines(), face_template()
    assert len(lines.names) == sum(2 if fold.paired else 1 for fold in FOLDS)
    assert len(lines.column("nasolabial")) == 2
    assert lines.column("right_nasolabial") == lines.column("nasolabial")[:1]
    for number, name in enumerate(lines.names):
        there = lines.vertex[lines.fold == number]
        assert len(there) > 5, name
        if name.startswith("right_"):
            other = lines.vertex[lines.fold == number + 1]
            assert abs(len(other) - len(there)) <= 0.1 * len(there), name
            middles = template.vertices[there].mean(axis=0), template.vertices[other].mean(axis=0)
            np.testing.assert_allclose(middles[0] * [-1, 1, 1], middles[1], atol=0.5)
    assert eye_gap(template)[lines.vertex].min() > 0.5  # neither eyeballs nor edges of lids


def test_across_lies_in_the_surface_and_distances_are_distances():
    lines, template = fold_lines(), face_template()
    np.testing.assert_allclose(np.linalg.norm(lines.across, axis=1), 1, atol=1e-3)
    curves = np.array([fold.kind < 2 for fold in lines.kinds])[lines.fold]
    normals = template.vertex_normals[lines.vertex[curves]]
    assert np.abs((lines.across[curves] * normals).sum(axis=1)).max() < 1e-5
    assert ((lines.along >= 0) & (lines.along <= 1)).all()


def test_a_fold_is_a_groove_where_its_line_runs(folds):
    lines = folds.lines
    few = folds.of(np.arange(20))
    depth = np.zeros_like(few.depth)
    column = lines.column("forehead_2")[0]
    depth[:, column] = 1.0
    moved = few.displacement(depth)
    assert moved.shape == (20, len(face_template().vertices))
    assert (moved.min(axis=1) < -0.6).all()
    assert (moved.min(axis=1) > -1.2).all()
    assert not moved[:, np.setdiff1d(np.arange(moved.shape[1]), lines.vertex[lines.fold == column])].any()
    deepest = face_template().vertices[moved.argmin(axis=1), 1]
    assert np.ptp(deepest) > 1  # a course of one's own
    np.testing.assert_allclose(few.displacement(2 * depth), 2 * moved, atol=1e-5)


def test_the_old_are_lined_and_children_are_not(people, folds):
    age = people.phenotype.age
    for label in ("forehead_lines", "frown_lines", "crows_feet", "marionette_lines", "lip_lines", "eye_bags"):
        depth = folds.labels()[f"{label}_mm"]
        assert depth[age < 16].max() < 0.1, label
        assert depth[age > 65].mean() > 0.2, label
    lined = np.abs(folds.depth).sum(axis=1)
    assert lined[age > 65].mean() > 4 * lined[age < 14].mean()
    heavy, slim = people.phenotype.weight > 0.6, people.phenotype.weight < 0.45
    assert folds.labels()["double_chin_mm"][heavy].mean() > 2 * folds.labels()["double_chin_mm"][slim].mean()


def test_capacity_is_there_at_every_age_and_grows(people, folds):
    age = people.phenotype.age
    crow = folds.capacity[:, folds.lines.column("crow_2")].mean(axis=1)
    assert 0 < crow[age < 12].mean() < crow[(age > 20) & (age < 35)].mean() < crow[age > 60].mean()
    assert folds.capacity.max() <= 2.5


def test_people_differ_in_which_folds_they_have(people, folds):
    old = people.phenotype.age > 65
    shown = folds.depth[old] > 0
    assert 0.05 < shown.mean() < 0.95
    assert len(np.unique(shown, axis=0)) > 0.9 * old.sum()


def test_labels_name_depths(folds):
    told = folds.labels()
    assert set(told) == {*(f"{label}_mm" for label in LABELS), "moles"}
    assert all(values.shape == (COUNT,) for values in told.values())
    some = folds.moles()
    assert some.min() == 0
    assert 0.2 < some.max() < 2.5
