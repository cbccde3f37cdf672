"""`meshgan sample`, `fit` and `interpolate` from files to files."""

import csv
import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image

from meshgan.cli import fitting
from meshgan.data.corpora.basis import face_template, head_layout
from meshgan.data.corpora.heads import heads
from meshgan.data.faceset import FaceSet
from meshgan.errors import MeshganError, MeshganWarning
from meshgan.geometry.align import rigid
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import closest_points
from meshgan.model.compose import compose_random
from meshgan.model.face_model import FaceModel
from meshgan.registration import templates
from meshgan.storage import alone_in


@pytest.fixture(scope="module")
def model(tiny_run):
    return FaceModel.load(tiny_run)


@pytest.fixture
def meshes(tmp_path, tiny_faces):
    """Two unseen faces as files."""
    paths = [tmp_path / f"scan-{row}.ply" for row in range(2)]
    for path, row in zip(paths, tiny_faces.split.test, strict=False):
        write_mesh(path, tiny_faces.template.with_vertices(tiny_faces.vertices[row]))
    return paths


def test_sampling_writes_meshes_codes_and_a_sheet(tmp_path, tiny_run, model, meshgan):
    sheet = tmp_path / "sheet.png"
    status, out, _ = meshgan(
        "sample", tiny_run, "--out", tmp_path / "a", "--count", 3, "--format", "ply,glb", "--sheet", sheet
    )
    assert status == 0
    assert "6 meshes" in out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        f"face-00{row}.{ending}" for row in range(3) for ending in ("glb", "json", "ply")
    ]
    found = read_mesh(tmp_path / "a/face-002.ply")
    np.testing.assert_allclose(found.vertices, model.sample(3)[2], atol=1e-4)
    code = json.loads((tmp_path / "a/face-002.json").read_text())["code"]
    np.testing.assert_allclose(model.decode([code])[0], found.vertices, atol=1e-4)
    assert np.asarray(Image.open(sheet)).std() > 1


def test_the_same_seed_gives_the_same_bytes(tmp_path, tiny_run, meshgan):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert meshgan("sample", tiny_run, "--out", tmp_path / name, "--count", 2, "--seed", seed)[0] == 0
    first, again, other = ((tmp_path / name / "face-001.glb").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_the_model_folder_alone_is_enough(tmp_path, tiny_run, meshgan):
    shutil.copytree(tiny_run / "model", tmp_path / "elsewhere/renamed")
    assert meshgan("sample", tmp_path / "elsewhere/renamed", "--out", tmp_path / "a", "--count", 1)[0] == 0
    assert meshgan("sample", tiny_run, "--out", tmp_path / "b", "--count", 1)[0] == 0
    assert (tmp_path / "a/face-000.glb").read_bytes() == (tmp_path / "b/face-000.glb").read_bytes()


def test_json_names_the_files(tmp_path, tiny_run, meshgan):
    _, out, _ = meshgan("sample", tiny_run, "--out", tmp_path / "a", "--count", 1, "--json")
    assert json.loads(out)["files"] == [str(tmp_path / "a/face-000.glb")]


def test_fitting_writes_faces_codes_errors_and_a_picture(tmp_path, tiny_run, model, meshes, meshgan):
    status, out, err = meshgan("fit", tiny_run, *meshes, "--out", tmp_path / "fit")
    assert status == 0, err
    assert "scan-0" in out
    summary = json.loads((tmp_path / "fit/summary.json").read_text())
    assert [face["name"] for face in summary["faces"]] == ["scan-0", "scan-1"]
    for path, face in zip(meshes, summary["faces"], strict=True):
        found, target = read_mesh(tmp_path / f"fit/{path.name}").vertices, read_mesh(path).vertices
        errors = np.linalg.norm(found - target, axis=1)
        assert face["mean_mm"] == pytest.approx(errors.mean(), abs=1e-3)
        assert face["max_mm"] == pytest.approx(errors.max(), abs=1e-3)
        assert errors.mean() < np.linalg.norm(model.normalisation.mean - target, axis=1).mean()
    assert (tmp_path / "fit/errors.png").is_file()


def test_a_turned_mesh_is_fitted_where_it_lies(tmp_path, tiny_run, meshes, meshgan):
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mesh = read_mesh(meshes[0])
    write_mesh(tmp_path / "turned.ply", mesh.with_vertices(mesh.vertices @ turn.T + 500.0))
    assert meshgan("fit", tiny_run, meshes[0], tmp_path / "turned.ply", "--out", tmp_path / "fit")[0] == 0
    plain, turned = (read_mesh(tmp_path / f"fit/{name}.ply").vertices for name in ("scan-0", "turned"))
    np.testing.assert_allclose(turned, plain @ turn.T + 500.0, atol=0.1)


def test_landmarks_alone_give_a_whole_face(tmp_path, tiny_run, meshes, meshgan):
    mesh = read_mesh(meshes[0])
    chosen = np.arange(0, 162, 8)
    with (tmp_path / "points.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("vertex", "x", "y", "z"), *((v, *mesh.vertices[v] / 10) for v in chosen)])
    status, _, err = meshgan("fit", tiny_run, tmp_path / "points.csv", "--out", tmp_path / "fit", "--unit", "cm")
    assert status == 0, err
    found = read_mesh(tmp_path / "fit/points.ply").vertices
    mean = json.loads((tmp_path / "fit/points.json").read_text())["mean_mm"]
    assert mean == pytest.approx(np.linalg.norm(found - mesh.vertices, axis=1)[chosen].mean(), abs=1e-3)
    assert np.linalg.norm(found - mesh.vertices, axis=1).mean() < 20


def test_vertices_that_do_not_count_are_ignored(tmp_path, tiny_run, meshes, meshgan):
    mesh = read_mesh(meshes[0])
    moved = mesh.vertices.copy()
    moved[100:] += 40.0
    write_mesh(tmp_path / "damaged.ply", mesh.with_vertices(moved))
    (tmp_path / "good.txt").write_text("\n".join(map(str, range(100))))
    for name, target in (("clean", meshes[0]), ("part", tmp_path / "damaged.ply")):
        arguments = ["fit", tiny_run, target, "--out", tmp_path / name, "--vertices", tmp_path / "good.txt"]
        assert meshgan(*arguments)[0] == 0
    clean, part = (
        json.loads((tmp_path / name).read_text())["code"] for name in ("clean/scan-0.json", "part/damaged.json")
    )
    np.testing.assert_allclose(part, clean, atol=1e-3)


def test_the_scale_of_a_mesh_is_found_and_that_of_landmarks_is_not(tmp_path, tiny_run, meshes, meshgan):
    (tmp_path / "points.csv").write_text("vertex,x,y,z\n0,0,0,0\n")
    status, _, err = meshgan("fit", tiny_run, tmp_path / "points.csv", "--out", tmp_path / "fit", "--unit", "auto")
    assert status == 2
    assert "landmarks" in err
    assert "--unit" in err
    shape = read_mesh(meshes[0])
    write_mesh(tmp_path / "inches.ply", shape.with_vertices(shape.vertices / 25.4))
    status, _, err = meshgan("fit", tiny_run, tmp_path / "inches.ply", "--out", tmp_path / "fit")
    assert status == 2
    assert "no unit fits; give `--unit auto`" in err
    assert meshgan("fit", tiny_run, tmp_path / "inches.ply", "--out", tmp_path / "fit", "--unit", "auto")[0] == 0
    fitted = read_mesh(tmp_path / "fit" / "inches.ply").vertices
    assert np.ptp(fitted, axis=0) == pytest.approx(np.ptp(shape.vertices, axis=0), rel=0.3)


def test_interpolation_between_a_mesh_and_a_code(tmp_path, tiny_run, model, meshes, meshgan):
    (tmp_path / "b.json").write_text(json.dumps({"code": [0.5, -0.5, 0.2, 0.1]}))
    out = tmp_path / "between"
    status, _, err = meshgan(
        "interpolate",
        tiny_run,
        meshes[0],
        tmp_path / "b.json",
        "--out",
        out,
        "--factors",
        "-1,0,1,2",
        "--format",
        "ply",
    )
    assert status == 0, err
    codes = [json.loads((out / f"between-00{i}.json").read_text())["code"] for i in range(4)]
    assert codes[2] == pytest.approx([0.5, -0.5, 0.2, 0.1])
    np.testing.assert_allclose(np.add(codes[0], codes[3]), np.add(codes[1], codes[2]), atol=1e-5)
    np.testing.assert_allclose(read_mesh(out / "between-003.ply").vertices, model.decode([codes[3]])[0], atol=1e-4)
    assert (out / "strip.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["sample", "nowhere", "--out", "x"], 2, "nowhere is no model folder, no run folder and no model that ships"),
        (["sample", "RUN", "--out", "x", "--format", "stl"], 2, "unknown format 'stl'"),
        (["sample", "RUN", "--out", "x", "--sampler", "magic"], 2, "'magic' is not one of"),
        (["sample", "RUN", "--out", "x", "--count", "0"], 2, "count"),
        (["fit", "RUN", "nowhere.ply", "--out", "x"], 2, "nowhere.ply"),
        (["fit", "RUN", "MESH", "MESH", "--out", "x"], 2, "a file is named twice"),
        (["fit", "RUN", "MESH", "--out", "x", "--unit", "inch"], 2, "'inch' is not one of"),
        (["fit", "RUN", "OTHER", "--out", "x"], 2, "is not of the model's template"),
        (["fit", "RUN", "BROKEN", "--out", "x"], 1, "broken.ply"),
        (["fit", "RUN", "points.csv", "--out", "x"], 2, "points.csv does not exist"),
        (["interpolate", "RUN", "MESH", "MESH", "--out", "x", "--factors", "a,b"], 2, "write numbers with commas"),
        (["interpolate", "RUN", "MESH", "WRONG", "--out", "x"], 2, "wrong.json is not of this model"),
        (["interpolate", "RUN", "MESH", "NONE", "--out", "x"], 1, "none.json holds no code"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path, tiny_run, meshes, meshgan, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.ply").write_bytes(meshes[0].read_bytes()[:700])
    (tmp_path / "wrong.json").write_text('{"code": [1.0, 2.0]}')
    (tmp_path / "none.json").write_text('{"kode": [1.0]}')
    other = read_mesh(meshes[0])
    write_mesh(tmp_path / "other.ply", type(other)(other.vertices, other.triangles[:, ::-1]))
    files = {"RUN": tiny_run, "MESH": meshes[0], "BROKEN": "broken.ply", "OTHER": "other.ply"}
    files |= {"WRONG": "wrong.json", "NONE": "none.json"}
    found, out, err = meshgan(*(files.get(argument, argument) for argument in arguments))
    assert found == status, err
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "x").exists()


def test_one_broken_mesh_among_good_ones_writes_nothing(tmp_path, tiny_run, meshes, meshgan):
    meshes[1].write_bytes(b"ply\nformat ascii 1.0\n")
    assert meshgan("fit", tiny_run, *meshes, "--out", tmp_path / "fit")[0] == 1
    assert not (tmp_path / "fit").exists()


def test_a_turned_mesh_that_may_not_be_turned_back_is_told(tmp_path, tiny_run, model, meshgan):
    mesh = model.template
    write_mesh(tmp_path / "up.ply", mesh.with_vertices(mesh.vertices[:, [0, 2, 1]] * [1, -1, 1]))
    status, _, error = meshgan("fit", tiny_run, tmp_path / "up.ply", "--out", tmp_path / "out", "--no-align")
    assert status == 2
    assert "up is turned by 90 degrees" in error
    assert "--align" in error
    assert not (tmp_path / "out").exists()


def test_results_of_two_runs_never_lie_in_one_folder(tmp_path, tiny_run, meshes, meshgan):
    out = tmp_path / "out"
    run = ("sample", tiny_run, "--out", out, "--count", 3)
    assert meshgan(*run)[0] == 0
    assert meshgan(*run, "--seed", 1)[0] == 0  # the same names: the command once more
    between = ("interpolate", tiny_run, *meshes, "--factors", "0,1", "--out", out)
    others = [("sample", tiny_run, "--out", out, "--count", 2), (*run, "--format", "ply"), between]
    for other in (*others, ("fit", tiny_run, *meshes, "--out", out)):
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        status, _, error = meshgan(*other)
        assert status == 2
        assert "of another run" in error
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert meshgan("fit", tiny_run, *meshes, "--out", tmp_path / "fitted")[0] == 0
    assert "of another run" in meshgan("fit", tiny_run, *meshes, "--out", tmp_path / "fitted")[2]


def test_a_fit_never_takes_the_place_of_the_mesh_that_it_is_of(tmp_path, tiny_run, meshes, meshgan):
    before = meshes[0].read_bytes()
    status, _, error = meshgan("fit", tiny_run, meshes[0], "--out", tmp_path)
    assert status == 2
    assert "exists already" in error
    assert meshes[0].read_bytes() == before


def test_a_second_run_at_once_is_told(tmp_path, tiny_run, meshgan):
    with alone_in(tmp_path / "out"):
        status, _, error = meshgan("sample", tiny_run, "--out", tmp_path / "out", "--count", 1)
    assert status == 2
    assert "another run is at work" in error


def test_a_set_of_faces_is_fitted(tmp_path, tiny_run, tiny_faces, meshgan):
    labels = {"subject": ["a", "b"], "file": ["x/one.obj", "y/two.obj"]}
    FaceSet.create(tiny_faces.vertices[:2], tiny_faces.template, labels).save(tmp_path / "set")
    assert meshgan("fit", tiny_run, tmp_path / "set", "--out", tmp_path / "fitted")[0] == 0
    found = {path.name for path in (tmp_path / "fitted").iterdir()}
    assert {"one.ply", "one.json", "two.ply", "two.json", "summary.json", "errors.png"} <= found


def test_a_raw_scan_is_registered_before_it_is_fitted(tmp_path, tiny_run, tiny_faces, model, meshgan, monkeypatch):
    face = tiny_faces.vertices[0].astype(float)
    laid = SimpleNamespace(vertices=face - 5, to_scan=lambda points: points + 5)
    for module in (fitting, templates):  # as if the model were of the package's template
        monkeypatch.setattr(module, "face_within", lambda template: np.arange(len(template.vertices)))
    monkeypatch.setattr(templates, "register", lambda mesh, template, unit: laid)
    scan = trimesh.creation.icosphere(3, radius=80)
    write_mesh(tmp_path / "scan.ply", Mesh(scan.vertices, scan.faces))
    status, _, error = meshgan("fit", tiny_run, tmp_path / "scan.ply", "--out", tmp_path / "fitted")
    assert status == 0
    assert "registered first" in error
    fitted = read_mesh(tmp_path / "fitted" / "scan.ply").vertices
    expected = model.fit(rigid(face, model.template.vertices)(face)[None]).vertices[0]
    back = rigid(face, model.template.vertices).inverse
    np.testing.assert_allclose(fitted, back(expected), atol=0.05)

    def fails(mesh, template, unit):
        raise MeshganError("no face was found.")

    monkeypatch.setattr(templates, "register", fails)
    status, _, error = meshgan("fit", tiny_run, tmp_path / "scan.ply", "--out", tmp_path / "b")
    assert status == 1
    assert "scan.ply is not of the model's template, and cannot be registered: no face was found." in error


def test_a_model_of_heads_is_fitted_to_faces_and_to_heads(tmp_path, head_model, meshgan):
    """To a mesh and a set of the face template by the face alone, which may lie anywhere; to a head by all of it."""
    head_model.save(tmp_path / "model")
    codes = np.array([[1.0, -0.5, 0.7], [-0.3, 0.8, 0.2]], np.float32)
    truth = head_model.decode(codes).astype(float)
    faces = np.stack([heads().face_of(head) for head in truth])
    away = [5.0, -300.0, 20.0]
    write_mesh(tmp_path / "face.ply", face_template().with_vertices(faces[0] + away))
    write_mesh(tmp_path / "head.glb", head_model.template.with_vertices(truth[1]), head_layout())
    FaceSet.create(faces, face_template()).save(tmp_path / "set")
    given = [tmp_path / name for name in ("face.ply", "head.glb", "set")]
    assert meshgan("fit", tmp_path / "model", *given, "--out", tmp_path / "fitted")[0] == 0
    shifts = {"face": (0, away), "head": (1, 0), "face-000": (0, 0), "face-001": (1, 0)}
    for name, (row, shift) in shifts.items():
        found = read_mesh(tmp_path / "fitted" / f"{name}.ply").vertices
        assert np.abs(found - truth[row] - shift).max() < 1.0, name
        code = json.loads((tmp_path / "fitted" / f"{name}.json").read_text())["code"]
        np.testing.assert_allclose(code, codes[row], atol=0.05)
    status, _, error = meshgan("fit", tmp_path / "model", given[0], "--unit", "cm", "--out", tmp_path / "b")
    assert (status, error.count("\n")) == (2, 1)
    assert "`--unit mm` would fit" in error


def test_heads_and_expressions_of_faces_do_not_go_together(tmp_path, head_model, meshgan):
    head_model.save(tmp_path / "model")
    status, _, error = meshgan("compose", tmp_path / "model", "expression", "--out", tmp_path / "faces")
    assert (status, error.count("\n")) == (2, 1)
    assert "are of different templates" in error
    assert "has expressions of its own" in error
    assert not (tmp_path / "faces").exists()


@pytest.mark.parametrize("ending", ["glb", "obj", "ply"])
def test_what_a_verb_has_written_every_other_reads_at_the_same_size(tmp_path, tiny_run, model, meshgan, ending):
    """A GLB holds metres, all others millimetres; nobody needs to say so of our own files."""
    faces, own, truth = tmp_path / "faces", tmp_path / "set", model.sample(3)
    assert meshgan("sample", tiny_run, "--out", faces, "--count", 3, "--format", ending)[0] == 0
    files = [faces / f"face-00{row}.{ending}" for row in range(3)]
    assert meshgan("data", "import", faces, own, "--unit", "mm")[0] == 0
    imported = FaceSet.open(own).vertices
    np.testing.assert_allclose(imported, rigid(truth, imported)(truth), atol=2e-3)
    assert meshgan("data", "export", own, "--out", tmp_path / "again", "--format", ending)[0] == 0
    exported = read_mesh(sorted((tmp_path / "again").glob(f"*.{ending}"))[1])
    np.testing.assert_allclose(exported.vertices, imported[1], atol=1e-3)
    assert meshgan("fit", tiny_run, *files, "--out", tmp_path / "fitted")[0] == 0
    for row in range(3):
        found = read_mesh(tmp_path / f"fitted/face-00{row}.ply")
        assert np.linalg.norm(found.vertices - truth[row], axis=1).mean() < 2
    out = ("--out", tmp_path / "between", "--factors", "0,1", "--format", ending)
    assert meshgan("interpolate", tiny_run, files[0], files[1], *out)[0] == 0
    found = read_mesh(tmp_path / f"between/between-001.{ending}")
    size, wanted = (np.ptp(points, axis=0).max() for points in (found.vertices, truth[1]))
    assert size == pytest.approx(wanted, rel=0.1)
    out = tmp_path / f"template.{ending}"
    around = ("--vertices", 60, "--radius", 150, "--up", "y", "--front", "z")
    assert meshgan("data", "template", files[0], out, *around)[0] == 0
    template, whole = read_mesh(out), read_mesh(files[0])
    assert len(template.vertices) == 60
    assert closest_points(template.vertices, whole).distance.max() < 1  # of the same size, at the same place
    if ending == "glb":
        assert meshgan("compose", tiny_run, tiny_run, "--out", tmp_path / "composed", "--count", 1)[0] == 0
        (shown,) = compose_random(model, model, 1).faces
        found = read_mesh(tmp_path / "composed/face-000.glb").vertices
        np.testing.assert_allclose(found, shown, atol=2e-3)


def test_a_folder_of_meshes_is_fitted(tmp_path, tiny_run, meshes, meshgan):
    together = meshgan("fit", tiny_run, meshes[0].parent, "--out", tmp_path / "folder", "--json")
    single = meshgan("fit", tiny_run, *sorted(meshes), "--out", tmp_path / "single", "--json")
    assert (together[0], single[0]) == (0, 0)
    names = {path.name for path in (tmp_path / "single").iterdir()}
    assert names == {path.name for path in (tmp_path / "folder").iterdir()}
    (tmp_path / "empty").mkdir()
    status, _, error = meshgan("fit", tiny_run, tmp_path / "empty", "--out", tmp_path / "x")
    assert (status, error.count("\n")) == (2, 1)
    assert "empty" in error


def test_a_code_of_another_model_is_told(tmp_path, tiny_run, model, meshgan):
    for name in (model.card.name, "another"):
        known = {"model": name, "code": model.codes(1)[0].tolist()}
        (tmp_path / f"{name}.json").write_text(json.dumps(known))
        given = ("--identity", tmp_path / f"{name}.json", "--out", tmp_path / name, "--count", 1)
        with warnings.catch_warnings():
            warnings.simplefilter("always", MeshganWarning)
            status, _, error = meshgan("compose", tiny_run, tiny_run, *given)
        assert status == 0
        assert ("another.json is of the model another" in error) == (name == "another")


def test_the_face_that_gets_expressions_is_not_written_over(tmp_path, tiny_run, meshgan):
    assert meshgan("sample", tiny_run, "--out", tmp_path / "mine", "--count", 1)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    given = ("--identity", tmp_path / "mine/face-000.json", "--out", tmp_path / "mine")
    status, _, error = meshgan("compose", tiny_run, tiny_run, *given)
    assert (status, error.count("\n")) == (2, 1)
    assert "face-000.json lies in" in error
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data template HEAD HEAD --vertices 60", "`out` would take the place of `mesh`"),
        ("sample RUN --out OUT --count 1 --sheet OUT/face-000.glb", "face-000.glb should end in .png"),
        ("data info SET --sheet OUT/x.png --spectrum OUT/./x.png", "`--sheet` would take the place of `--spectrum`"),
        ("measure SET --out SET/labels.csv --no-surface", "labels.csv belongs to the set, model or run"),
        ("evaluate RUN --data SET --out RUN/model/model.json", "model.json belongs to the set, model or run"),
        ("report RUN --out RUN/recipe.toml", "recipe.toml belongs to the set, model or run"),
        ("report RUN --out OUT/page.toml", "page.toml should end in .html"),
        ("data export SET --out SET", "`--out` would take the place of `path`"),
    ],
)
def test_nothing_is_written_over_what_is_read(tmp_path, tiny_run, tiny_faces, meshes, meshgan, words, message):
    places = {"HEAD": meshes[0], "RUN": tiny_run, "SET": tiny_faces.path, "OUT": tmp_path / "out"}
    for name, place in places.items():
        words = words.replace(name, str(place))
    kept = (meshes[0], tiny_run / "recipe.toml", tiny_run / "model/model.json", tiny_faces.path / "labels.csv")
    before = {place: place.read_bytes() for place in kept}
    status, _, error = meshgan(*words.split())
    assert (status, error.count("\n")) == (2, 1)
    assert message in error
    assert {place: place.read_bytes() for place in before} == before
    assert not (tmp_path / "out").exists()


def test_a_template_of_a_head_in_another_unit_is_told_which_would_fit(tmp_path, tiny_run, model, meshgan):
    told = {"a.ply": "`--unit m`", "b.obj": "measures 1.6e+03 mm, as mm", "c.glb": "`--glb-unit mm`"}
    for name, scale in (("a.ply", 0.001), ("b.obj", 10.0), ("c.glb", 1000.0)):
        write_mesh(tmp_path / name, model.template.with_vertices(model.template.vertices * scale))
        status, _, error = meshgan("data", "template", tmp_path / name, tmp_path / "t.ply", "--vertices", 60)
        assert (status, error.count("\n")) == (2, 1)
        assert told[name] in error
    status, _, error = meshgan("fit", tiny_run, tmp_path / "c.glb", "--out", tmp_path / "fitted")
    assert (status, "a GLB is in metres: write it so" in error) == (2, True)


def test_nothing_is_drawn_into_a_set_a_model_or_a_run(meshgan, tiny_faces, tiny_run):
    for folder in (tiny_faces.path, tiny_run / "model", tiny_run):
        before = sorted(folder.rglob("*"))
        status, _, error = meshgan("sample", "identity", "--out", folder, "--count", 1)
        assert status == 2
        assert "is a set, a model or a run" in error
        assert sorted(folder.rglob("*")) == before
    status, _, error = meshgan("interpolate", tiny_run, tiny_faces.path, tiny_faces.path, "--out", tiny_run / "x")
    assert (status, "is a folder; name one face" in error) == (2, True)
