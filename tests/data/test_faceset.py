"""FaceSet: what is written comes back, the split is by subject and seed alone, damage is named."""

import json
import os

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.data import faceset
from meshgan.data.corpora.basis import face_template, layout_of
from meshgan.data.faceset import (
    Card,
    FaceSet,
    Normalisation,
    blocks,
    create_faceset,
    measure_normalisation,
    some_rows,
)
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.files import write_mesh
from meshgan.geometry.mesh import Mesh
from shapes import icosphere

CARD = Card(name="test", source="made here", licence="CC0-1.0", synthetic=True)
TEMPLATE = Mesh([[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]], [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])


def make(path, subjects, card=CARD, rng=None):
    rng = rng or np.random.default_rng(0)
    faces = rng.normal(size=(len(subjects), 4, 3)).astype(np.float32)
    with create_faceset(path, TEMPLATE, len(subjects), card) as writer:
        for start in range(0, len(subjects), 3):
            part = slice(start, start + 3)
            writer.append(faces[part], [{"subject": name, "note": f'a, "{name}"'} for name in subjects[part]])
    return FaceSet.open(path), faces


@pytest.fixture
def subjects():
    return [f"s{i % 20:02d}" for i in range(50)]


def test_what_is_written_comes_back(tmp_path, subjects):
    opened, faces = make(tmp_path / "set", subjects)
    assert len(opened) == 50
    assert (opened.vertices == faces).all()
    assert isinstance(opened.vertices, np.memmap)
    assert opened.subjects.tolist() == subjects
    assert opened.labels["note"][3] == 'a, "s03"'
    assert opened.card == CARD
    assert opened.template.content_hash == TEMPLATE.content_hash
    assert not opened.vertices.flags.writeable


def test_fewer_faces_than_planned_are_legal_and_none_is_not(tmp_path):
    with create_faceset(tmp_path / "set", TEMPLATE, 10, CARD) as writer:
        writer.append(np.ones((4, 4, 3)), [{"subject": "a"}] * 4)
    assert FaceSet.open(tmp_path / "set").vertices.shape == (4, 4, 3)
    with pytest.raises(MeshganError, match="no face was usable"), create_faceset(tmp_path / "none", TEMPLATE, 10, CARD):
        pass
    assert not (tmp_path / "none").exists()


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), create_faceset(tmp_path / "set", TEMPLATE, 10, CARD) as writer:
        writer.append(np.ones((1, 4, 3)), [{"subject": "a"}])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_blocks_with_the_wrong_shape_or_labels_are_mistakes(tmp_path):
    with pytest.raises(ValueError, match="label rows"), create_faceset(tmp_path / "a", TEMPLATE, 10, CARD) as writer:
        writer.append(np.ones((2, 4, 3)), [{"subject": "a"}])
    with pytest.raises(ValueError, match="expected"), create_faceset(tmp_path / "b", TEMPLATE, 10, CARD) as writer:
        writer.append(np.ones((1, 5, 3)), [{"subject": "a"}])


@given(st.permutations(range(40)), st.integers(0, 3))
@settings(max_examples=20)
def test_the_split_depends_on_names_and_seed_never_on_the_order_of_rows(tmp_path_factory, order, seed):
    names = np.array([f"s{i % 20:02d}" for i in range(40)])
    card = CARD.model_copy(update={"split_seed": seed})
    plain = FaceSet(None, card, TEMPLATE, np.zeros((40, 4, 3), np.float32), {"subject": names})
    mixed = FaceSet(None, card, TEMPLATE, np.zeros((40, 4, 3), np.float32), {"subject": names[list(order)]})
    tested = [set(one.subjects[one.split.test]) for one in (plain, mixed)]
    assert tested[0] == tested[1]
    assert len(tested[0]) == 2  # a tenth of 20
    for one in (plain, mixed):
        assert not tested[0] & set(one.subjects[one.split.train])
        validated = set(one.subjects[one.split.validation])
        assert len(validated) == 1
        assert not validated & (tested[0] | set(one.subjects[one.split.train]))
        assert sorted([*one.split.train, *one.split.validation, *one.split.test]) == list(range(40))


@pytest.mark.parametrize(("count", "parts"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (100, (85, 5, 10))])
def test_the_parts_are_shares_of_the_subjects(count, parts):
    names = np.array([f"s{i:03d}" for i in range(count)])
    faces = FaceSet(None, CARD, TEMPLATE, np.zeros((count, 4, 3), np.float32), {"subject": names})
    assert (len(faces.split.train), len(faces.split.validation), len(faces.split.test)) == parts
    without = CARD.model_copy(update={"validation_share": 0.0})
    plain = FaceSet(None, without, TEMPLATE, faces.vertices, faces.labels)
    assert len(plain.split.validation) == 0
    np.testing.assert_array_equal(plain.split.test, faces.split.test)  # who is tested stays


@given(st.integers(0, 299), st.integers(0, 3), st.integers(0, 2))
@settings(max_examples=40)
def test_every_float_is_in_the_fingerprint(face, vertex, axis):
    names = np.array([f"s{i % 30:02d}" for i in range(300)])
    vertices = np.random.default_rng(0).standard_normal((300, 4, 3)).astype(np.float32)
    first = FaceSet(None, CARD, TEMPLATE, vertices, {"subject": names})
    again = FaceSet(None, CARD, TEMPLATE, vertices.copy(), {"subject": names.copy()})
    assert first.fingerprint == again.fingerprint
    changed = vertices.copy()
    changed[face, vertex, axis] = np.nextafter(changed[face, vertex, axis], np.float32(9))
    assert FaceSet(None, CARD, TEMPLATE, changed, {"subject": names}).fingerprint != first.fingerprint


def test_a_narrowed_set_counts_some_rows_of_each_part_and_is_another_set():
    names = np.array([f"s{i:02d}" for i in range(60)])
    whole = FaceSet(None, CARD, TEMPLATE, np.zeros((60, 4, 3), np.float32), {"subject": names})
    some = whole.narrowed(train=10, test=2)
    assert [len(part) for part in (some.split.train, some.split.validation, some.split.test)] == [10, 2, 2]
    for part in ("train", "validation", "test"):
        assert set(getattr(some.split, part)) <= set(getattr(whole.split, part))
    assert some.fingerprint == whole.narrowed(10, 2).fingerprint
    assert len({one.fingerprint for one in (whole, some, whole.narrowed(9, 2))}) == 3
    assert len(whole.split.train) > 40  # which is as it was


def test_what_the_split_depends_on_is_in_the_fingerprint():
    names = np.array([f"s{i % 30:02d}" for i in range(300)])
    vertices = np.zeros((300, 4, 3), np.float32)

    def of(labels, **changes):
        return FaceSet(None, CARD.model_copy(update=changes), TEMPLATE, vertices, labels).fingerprint

    plain = {"subject": names}
    different = [of(plain, split_seed=1), of(plain, test_share=0.2), of(plain, validation_share=0.1)]
    different += [of({"subject": names[::-1]}), of(plain | {"age": names}), of({"subject": names, "b": names})]
    assert len({of(plain), *different}) == 7
    assert of(plain, name="other", licence="MIT") == of(plain)  # words about the set change no result


def test_blocks_that_are_hashed_apart_are_told_apart(monkeypatch):
    vertices = np.random.default_rng(0).standard_normal((20, 4, 3)).astype(np.float32)
    names = {"subject": np.array(["a"] * 20)}
    monkeypatch.setattr(faceset, "HASHED", 5 * 48)
    swapped = np.concatenate([vertices[5:10], vertices[:5], vertices[10:]])
    sets = [FaceSet(None, CARD, TEMPLATE, values, names) for values in (vertices, swapped)]
    assert sets[0].fingerprint != sets[1].fingerprint


def test_another_seed_tests_other_subjects(tmp_path, subjects):
    sets = [make(tmp_path / f"{seed}", subjects, CARD.model_copy(update={"split_seed": seed}))[0] for seed in range(5)]
    assert len({tuple(sorted(set(one.subjects[one.split.test]))) for one in sets}) > 1


def test_a_single_subject_is_trained_on(tmp_path):
    alone, _ = make(tmp_path / "set", ["me"] * 5)
    assert len(alone.split.train) == 5
    assert len(alone.split.test) == 0
    assert np.isfinite(alone.normalisation.mean).all()


def test_normalised_training_faces_have_mean_zero_and_deviation_one(tmp_path, subjects):
    opened, faces = make(tmp_path / "set", subjects)
    train = faces[opened.split.train]
    np.testing.assert_allclose(opened.normalisation.mean, train.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(opened.normalisation.std, train.std(axis=0), atol=1e-6)
    values = opened.normalisation.apply(train)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(opened.normalisation.undo(values), train, atol=1e-5)


def test_vertices_that_never_move_stay_finite_and_large_offsets_do_not_cancel():
    faces = np.full((300, 4, 3), 1e4, np.float32)
    faces[::2, 1] += 0.5
    found = measure_normalisation(faces, np.arange(300))
    assert found.std[0].tolist() == pytest.approx([0.01] * 3)
    np.testing.assert_allclose(found.std[1], 0.25, rtol=1e-5)
    assert np.isfinite(found.apply(faces)).all()


def test_normalisation_works_on_any_number_of_faces():
    one = Normalisation(np.ones((4, 3), np.float32), np.full((4, 3), 2.0, np.float32))
    assert (one.apply(np.full((4, 3), 5.0, np.float32)) == 2).all()
    assert one.undo(np.zeros((2, 3, 4, 3), np.float32)).shape == (2, 3, 4, 3)


def test_a_folder_of_something_else_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="is not a FaceSet"):
            FaceSet.open(path)


@pytest.mark.parametrize("name", ["card.json", "template.ply", "vertices.npy", "labels.csv"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "garbage", "binary"])
def test_damage_is_named(tmp_path, subjects, name, damage):
    make(tmp_path / "set", subjects)
    path = tmp_path / "set" / name
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "garbage": b"garbage",
        "binary": bytes(range(256)) * 40,
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(MeshganError, match=name if (tmp_path / "set/card.json").exists() else "is not a FaceSet"):
        FaceSet.open(tmp_path / "set")


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, np.float32), np.float32(1), np.zeros((50, 4, 3)), np.zeros((50, 5, 3), np.float32),
     np.zeros((0, 4, 3), np.float32), np.zeros((49, 4, 3), np.float32), np.array([{}], dtype=object)],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_vertices_of_the_wrong_kind_are_refused(tmp_path, subjects, array):
    make(tmp_path / "set", subjects)
    np.save(tmp_path / "set" / "vertices.npy", array, allow_pickle=True)
    with pytest.raises(MeshganError, match=r"vertices.npy|labels.csv"):
        FaceSet.open(tmp_path / "set")


def test_an_archive_under_the_name_of_an_array_is_refused(tmp_path, subjects):
    make(tmp_path / "set", subjects)
    with (tmp_path / "set" / "vertices.npy").open("wb") as stream:
        np.savez(stream, a=np.zeros(3))
    with pytest.raises(MeshganError, match=r"vertices.npy"):
        FaceSet.open(tmp_path / "set")


@pytest.mark.parametrize("text", ["name\na\n", "subject\n" + "a\n" * 49, "subject,age\n" + "a\n" * 50, "subject\n\n"])
def test_labels_that_do_not_fit_are_refused(tmp_path, subjects, text):
    make(tmp_path / "set", subjects)
    (tmp_path / "set" / "labels.csv").write_text(text)
    with pytest.raises(MeshganError, match=r"labels.csv needs a column 'subject' and exactly 50 rows"):
        FaceSet.open(tmp_path / "set")


@pytest.mark.parametrize("change", ['"unit": "inch"', '"more": 1', '"test_share": "many"', '"test_share": 1.0'])
def test_a_card_edited_by_hand_is_checked(tmp_path, subjects, change):
    make(tmp_path / "set", subjects)
    path = tmp_path / "set" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **json.loads("{" + change + "}")}))
    with pytest.raises(MeshganError, match=r"card.json"):
        FaceSet.open(tmp_path / "set")


def test_blocks_cover_every_face_once():
    assert [(part.start, part.stop) for part in blocks(600, "x")] == [(0, 256), (256, 512), (512, 600)]


def test_what_is_chosen_does_not_follow_labels_that_come_in_turns():
    chosen = some_rows(np.arange(5991), 1000)
    assert len(np.unique(chosen)) == 1000
    assert np.bincount(chosen % 6).min() > 120  # every sixth row has the same expression
    np.testing.assert_array_equal(chosen, some_rows(np.arange(5991), 1000))
    np.testing.assert_array_equal(some_rows(np.array([7, 9]), 5), [7, 9])


def a_set(count=5, labels=None):
    template = Mesh(np.eye(3) * 100, [[0, 1, 2]])
    return FaceSet.create(template.vertices + np.arange(count)[:, None, None], template, labels)


def test_arrays_become_a_set_in_memory_and_on_disk(tmp_path):
    faces = a_set(5, {"subject": ["a", "a", "b", "c", "d"], "age": [1, 2, 3, 4, 5]})
    opened = faces.save(tmp_path / "set")
    for one in (faces, opened):
        assert len(one) == 5
        assert list(one.labels["age"]) == ["1", "2", "3", "4", "5"]
        np.testing.assert_array_equal(one[3], one.vertices[3])
        assert one[1:3].shape == (2, 3, 3)
        assert one[one.subjects == "a"].shape == (2, 3, 3)
        assert len(list(one)) == 5
        with pytest.raises(IndexError):
            one[5]
    assert opened.fingerprint == faces.fingerprint
    assert list(a_set(2).subjects) == ["0", "1"]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30])
def test_faces_that_are_none_are_told_by_who_reads_them(tmp_path, wrong):
    """A set of gigabytes is opened without being read."""
    a_set().save(tmp_path / "set")
    vertices = np.load(tmp_path / "set" / "vertices.npy")
    vertices[2, 1, 0] = wrong
    np.save(tmp_path / "set" / "vertices.npy", vertices)
    faces = FaceSet.open(tmp_path / "set")
    assert faces[:2].shape == (2, 3, 3)
    readers = [lambda: faces[2], lambda: list(faces), faces.check, lambda: faces.fingerprint]
    for read in [*readers, lambda: faces.export(tmp_path / "meshes")]:
        with pytest.raises(MeshganError, match=r"vertices\.npy holds what is no number or a kilometre away"):
            read()
    assert not (tmp_path / "meshes").exists()


def test_a_set_is_a_data_set_of_pytorch(tmp_path):
    import torch
    from torch.utils.data import DataLoader

    for faces in (a_set(), a_set().save(tmp_path / "set")):
        batches = list(DataLoader(faces, batch_size=2, shuffle=False))
        assert [tuple(batch.shape) for batch in batches] == [(2, 3, 3), (2, 3, 3), (1, 3, 3)]
        np.testing.assert_array_equal(batches[1].numpy(), faces.vertices[2:4])
    faces = a_set()
    again = FaceSet.create(
        torch.from_numpy(faces[:2]), faces.template, {"age": torch.arange(2), "sex": np.array(["f", "m"])}
    )
    assert [list(again.labels[name]) for name in ("age", "sex")] == [["0", "1"], ["f", "m"]]
    with pytest.raises(UsageError, match="requires grad"):
        FaceSet.create(torch.from_numpy(faces[:2]).requires_grad_(), faces.template)


@pytest.mark.parametrize(
    ("vertices", "labels", "told"),
    [
        (np.zeros((0, 3, 3)), {}, "at least one"),
        (np.zeros((3, 3)), {}, "not of a template of 3"),
        (np.full((1, 3, 3), np.nan), {}, "NaN"),
        (np.eye(3)[None], {}, "another unit"),
        (100 * np.eye(3)[None], {"age": [1, 2]}, "'age' has 2 values for 1"),
    ],
)
def test_arrays_that_make_no_set_are_told(vertices, labels, told):
    with pytest.raises(UsageError, match=told):
        FaceSet.create(vertices, Mesh(np.eye(3) * 100, [[0, 1, 2]]), labels)


def test_exported_faces_of_the_package_have_its_texture_coordinates(tmp_path, meshgan):
    assert meshgan("data", "anny-identities", tmp_path / "set", "--count", 2)[0] == 0
    assert meshgan("data", "export", tmp_path / "set", "--out", tmp_path / "out", "--format", "obj,glb")[0] == 0
    wanted = layout_of(face_template()).coordinates
    for ending in ("obj", "glb"):
        read = trimesh.load(tmp_path / f"out/face-001.{ending}", force="mesh", process=False)
        assert read.visual.uv.min() >= 0
        assert read.visual.uv.max() <= 1
        assert len(np.unique(np.round(read.visual.uv, 5), axis=0)) == len(np.unique(np.round(wanted, 5), axis=0))


def test_what_is_exported_is_imported_again(tmp_path, meshgan):
    sphere = trimesh.creation.icosphere(1, radius=90)
    template = Mesh(sphere.vertices, sphere.faces)
    faces = FaceSet.create(
        np.stack([template.vertices * size for size in (1, 1.1, 1.2)]),
        template,
        {"subject": ["a", "b", "b"], "file": ["x/one.obj", "x/two.obj", "y/three.obj"]},
    ).save(tmp_path / "set")
    out = tmp_path / "meshes"
    assert meshgan("data", "export", tmp_path / "set", "--out", out, "--format", "obj,glb")[0] == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted([f"{n}.{e}" for n in ("one", "two", "three") for e in ("obj", "glb")] + ["labels.csv"])
    run = ("data", "import", out, tmp_path / "again", "--unit", "mm", "--labels", out / "labels.csv")
    assert meshgan(*run, "--template", tmp_path / "set" / "template.ply")[0] == 0
    again = FaceSet.open(tmp_path / "again")
    assert dict(zip(again.labels["file"], again.subjects, strict=True)) == {
        "one.obj": "a", "two.obj": "b", "three.obj": "b"
    }  # fmt: skip
    order = [list(again.labels["file"]).index(f"{n}.obj") for n in ("one", "two", "three")]
    np.testing.assert_allclose(again.vertices[order], faces.vertices, atol=1e-3)
    for bad in (
        ("--out", out),
        ("--out", tmp_path / "new", "--format", "fbx"),
        ("--out", tmp_path / "n", "--format", ""),
    ):
        status, _, error = meshgan("data", "export", tmp_path / "set", *bad)
        assert status in (1, 2)
        assert error.count("\n") == 1


def strewn(mesh: Mesh) -> tuple[Mesh, np.ndarray]:
    """The mesh with vertices strewn between its own that no triangle uses, far away; and where its own are (V,)."""
    own = np.flatnonzero(np.arange(2 * len(mesh.vertices)) % 23)[: len(mesh.vertices)]
    vertices = np.full((own[-1] + 3, 3), 1e6)
    vertices[own] = mesh.vertices
    return Mesh(vertices, own[mesh.triangles]), own


def test_vertices_without_triangles_count_nowhere_however_a_set_is_made(tmp_path):
    mesh = icosphere(2, 90.0)
    around, own = strewn(mesh)
    faces = np.random.default_rng(0).normal(1e6, 1e5, size=(30, *around.vertices.shape))
    faces[:, own] = mesh.vertices * np.random.default_rng(1).uniform(0.9, 1.1, size=(30, 1, 3))
    plain = FaceSet.create(faces[:, own], mesh)
    with create_faceset(tmp_path / "set", around, 30, plain.card) as writer:
        writer.append(faces, [{"subject": subject} for subject in plain.subjects])
    for other in (FaceSet.create(faces, around), FaceSet.open(tmp_path / "set")):
        assert np.array_equal(other.template.triangles, mesh.triangles)
        np.testing.assert_allclose(other.template.vertices, mesh.vertices, atol=1e-5)
        np.testing.assert_array_equal(other.vertices, plain.vertices)
        np.testing.assert_array_equal(other.normalisation.mean, plain.normalisation.mean)


def test_a_soup_of_triangles_becomes_a_surface_in_a_set(tmp_path):
    mesh = icosphere(2, 90.0)
    corners = mesh.triangles.ravel()
    soup = Mesh(mesh.vertices[corners], np.arange(len(corners)))
    made = FaceSet.create(np.stack([soup.vertices, 1.1 * soup.vertices]), soup)
    assert made.vertices.shape == (2, *mesh.vertices.shape)
    np.testing.assert_allclose(made.template.areas.sum(), mesh.areas.sum())
    np.testing.assert_allclose(made.vertices[1], 1.1 * made.vertices[0], atol=1e-4)


def test_a_set_whose_template_has_stray_vertices_is_refused(tmp_path, subjects):
    path = make(tmp_path / "set", subjects)[0].path
    around, _ = strewn(icosphere(1, 80.0))
    write_mesh(path / "template.ply", around)
    with pytest.raises(MeshganError, match="no triangle uses"):
        FaceSet.open(path)


def test_labels_that_are_too_long_or_come_twice_are_refused(tmp_path, subjects, monkeypatch):
    path = make(tmp_path / "set", subjects)[0].path
    rows = (path / "labels.csv").read_text().splitlines()
    (path / "labels.csv").write_text("\n".join([f"{rows[0]},note", *(f"{row},x" for row in rows[1:])]))
    with pytest.raises(MeshganError, match="two columns of one name"):
        FaceSet.open(path)
    (path / "labels.csv").write_text("\n".join(rows))
    monkeypatch.setattr("meshgan.data.faceset.MOST_LABELS", 10)
    with pytest.raises(MeshganError, match="longer than any word"):
        FaceSet.open(path)


@pytest.mark.parametrize("name", ["vertices.npy", "labels.csv", "card.json"])
def test_what_is_no_file_is_not_waited_for(tmp_path, subjects, name):
    path = make(tmp_path / "set", subjects)[0].path
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(MeshganError, match=r"damaged|not a FaceSet"):
        FaceSet.open(path)


def test_faces_that_are_no_numbers_are_told_before_anything_is_learned_from_them(tmp_path, subjects):
    path = make(tmp_path / "set", subjects)[0].path
    vertices = np.load(path / "vertices.npy", mmap_mode="r+")
    vertices[:, 3, 1] = np.nan
    vertices.flush()
    for ask in ("fingerprint", "normalisation"):
        with pytest.raises(MeshganError, match="no number"):
            getattr(FaceSet.open(path), ask)
