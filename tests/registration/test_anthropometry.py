"""Measures of faces: lengths, angles, surface lengths, areas, volumes and changes, against shapes that are known."""

import csv

import numpy as np
import pytest
import scipy.sparse as sp
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from meshgan.data.corpora.basis import face_template
from meshgan.data.corpora.heads import head_template, heads
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.registration.anthropometry import (
    MEASURES,
    REGIONS,
    Ruler,
    _volumes,
    angles,
    changes,
    inserted,
    measure,
)


@pytest.fixture(scope="module")
def ruler():
    return Ruler.of(face_template())


@pytest.fixture(scope="module")
def table():
    face = face_template().vertices
    turned = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).apply(2 * face + 5)
    return measure(FaceSet.create(np.stack([face, turned]), face_template()))


def test_a_face_twice_as_large_that_is_turned_has_twice_the_lengths(table):
    first, second = table
    for name, value in first.items():
        power = {"mm": 1, "mm2": 2, "mm3": 3, "deg": 0}.get(name.rpartition("_")[2])
        if power is not None:
            assert second[name] == pytest.approx(2**power * value, rel=1e-3, abs=2e-3 * 2**power), name


def test_the_known_face(table, ruler):
    first = table[0]
    marks = dict(zip(ruler.names, ruler.rows @ ruler.template.vertices, strict=True))
    assert first["en-en_mm"] == pytest.approx(np.linalg.norm(marks["right_eye_3"] - marks["left_eye_0"]), abs=1e-3)
    assert first["ex-en_r_mm"] == pytest.approx(first["ex-en_l_mm"], abs=0.01)  # the template is symmetric
    assert first["n-gn_mm"] > first["sn-gn_mm"] > first["sto-gn_mm"]
    for name in MEASURES:
        if f"{name}_surface_mm" in first:
            assert first[f"{name}_mm"] - 0.01 <= first[f"{name}_surface_mm"] < 2 * first[f"{name}_mm"], name
    assert sum(first[f"{name}_mm2"] for name in REGIONS) == pytest.approx(face_template().areas.sum(), rel=1e-4)
    assert first["nose_mm3"] > 1000


def test_angles_are_those_of_a_right_triangle():
    corner, first, last = np.zeros((1, 3)), np.array([[2.0, 0, 0]]), np.array([[0, 3.0, 0]])
    assert angles(first, corner, last) == pytest.approx(90.0)
    assert angles(corner, first, last) == pytest.approx(np.degrees(np.arctan2(3, 2)))


def test_points_that_are_inserted_leave_the_surface_as_it_is():
    rng = np.random.default_rng(0)
    ball = trimesh.creation.icosphere(2, radius=50.0)
    mesh = Mesh(ball.vertices, ball.faces)
    triangles = rng.integers(20, size=30)  # several in one triangle
    weights = rng.dirichlet([1, 1, 1], 30)
    weights[0], weights[1] = [1, 0, 0], [0.5, 0.5, 0]
    rows = sp.csr_array(
        (weights.ravel(), (np.repeat(np.arange(30), 3), mesh.triangles[triangles].ravel())), shape=(30, 162)
    )
    carry, finer = inserted(mesh, rows)
    fine = Mesh(carry(mesh.vertices), finer)
    assert fine.areas.sum() == pytest.approx(mesh.areas.sum())
    assert fine.areas.min() > 0
    assert not len(fine.boundary_edges)
    np.testing.assert_allclose(fine.vertices[carry.marks], rows @ mesh.vertices, atol=0.1)


def test_the_way_along_a_ball_is_a_great_circle(ruler):
    ball = trimesh.creation.icosphere(4, radius=50.0)
    mesh = Mesh(ball.vertices, ball.faces)
    ends = [int(mesh.vertices[:, axis].argmax()) for axis in range(2)]
    rows = sp.csr_array((np.ones(2), (np.arange(2), ends)), shape=(2, len(mesh.vertices)))
    own = Ruler(mesh, ("jaw_0", "jaw_1"), rows, np.zeros(len(mesh.triangles), int))
    found = own.surface_lengths(mesh.vertices[None], {"way": ("jaw_0", "jaw_1")})["way_surface_mm"]
    assert found == pytest.approx(50 * np.pi / 2, rel=5e-3)


def test_volumes_are_those_of_a_dome_and_a_box():
    box = trimesh.creation.box((10, 20, 30))
    assert _volumes(box.vertices[None] + 7, np.asarray(box.faces), 8) == pytest.approx(6000)
    open_box = np.asarray(box.faces)[box.face_normals[:, 2] > -0.5]
    assert _volumes(box.vertices[None] + 7, open_box, 8) == pytest.approx(6000)  # its border is closed
    ball = trimesh.creation.icosphere(4, radius=10.0)
    dome = np.asarray(ball.faces)[ball.triangles_center[:, 2] > 0]
    assert _volumes(np.asarray(ball.vertices)[None], dome, len(ball.vertices)) == pytest.approx(
        2 / 3 * np.pi * 1000, rel=0.05
    )


def test_changes_follow_sessions_and_say_which_way():
    face = face_template().vertices
    nose = np.exp(-0.5 * ((face - face[face[:, 2].argmax()]) ** 2).sum(axis=1) / 10**2)
    grown = face + 3 * nose[:, None] * [0, 0, 1]
    labels = {"subject": ["a", "b", "a", "a"], "session": ["10", "1", "2", "9"]}
    faces = FaceSet.create(np.stack([grown + 40, face, face, face]), face_template(), labels)
    found = list(changes(faces))
    assert [one.rows for one in found] == [(2, 3), (2, 0)]
    assert found[0].numbers["max_mm"] == pytest.approx(0, abs=1e-3)
    assert found[1].moved_mm[nose.argmax()] == pytest.approx(3, abs=0.3)
    assert found[1].numbers["nose_mm3_change"] > 100
    with pytest.raises(UsageError, match="nobody twice"):
        list(changes(FaceSet.create(face[None], face_template())))


@pytest.mark.parametrize("points", [["n"], ["n", "n"], ["n", "prn", "sn", "gn"], ["n", "no_such"]])
def test_wrong_measures_are_told(points):
    with pytest.raises(UsageError, match=r"no measure|no landmark"):
        measure(FaceSet.create(face_template().vertices[None], face_template()), [points], surface=False)


def test_the_verb(tmp_path, meshgan):
    face = face_template().vertices
    faces = np.stack([face, face * 1.01, face * 0.99])
    FaceSet.create(faces, face_template(), {"subject": ["a", "b", "a"]}).save(tmp_path / "set")
    run = ("measure", tmp_path / "set", "--no-surface", "--out")
    status, _, error = meshgan(*run, tmp_path / "t.csv", "--between", "n,li", "--change", tmp_path / "c.csv")
    assert (status, error) == (0, "")
    with (tmp_path / "t.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3
    assert float(rows[1]["n-li_mm"]) == pytest.approx(1.01 * float(rows[0]["n-li_mm"]), abs=2e-3)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] > 100
    for bad in (("t.json",), ("t.csv", "--between", "n"), ("t.csv", "--change", tmp_path / "c.png")):
        status, _, error = meshgan(*run, *bad)
        assert status == 2
        assert error.count("\n") == 1


def test_heads_measure_as_their_faces_do():
    people, faces, _, _ = heads().people(2, np.arange(2))
    found, wanted = (
        measure(FaceSet.create(shapes, template), surface=False)
        for shapes, template in ((people, head_template()), (faces, face_template()))
    )
    for one, two in zip(found, wanted, strict=True):
        assert one.keys() == two.keys()
        # Landmarks of lids lie partly on the eyeballs, which are true balls on a head.
        for name, value in one.items():
            if name.endswith(("_mm", "_deg")):
                assert value == pytest.approx(two[name], abs=0.4 if name.startswith("ps-pi") else 0.1), name
            elif name.endswith("_mm2"):
                assert value == pytest.approx(two[name], rel=0.03), name
