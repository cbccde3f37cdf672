"""The default corpus of identities."""

import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.corpora.anny import BLOCK, identities, make_identities
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.data.corpora.detail import detail
from meshgan.data.corpora.draws import Draws
from meshgan.data.corpora.folds import LABELS
from meshgan.data.corpora.population import AGE_GROUPS, GROUPS, draw_people
from meshgan.data.faceset import FaceSet
from meshgan.data.principal import principal_components
from meshgan.data.summary import summarise
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.align import rigid

COUNT = 400


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "set"
    make_identities(path, COUNT, seed=0)
    return FaceSet.open(path)


@pytest.fixture(scope="module")
def people():
    return draw_people(FaceBasis.read(), Draws(0, "identities", np.arange(4000)))


def group(corpus, **wanted):
    chosen = np.ones(len(corpus), dtype=bool)
    for label, value in wanted.items():
        chosen &= corpus.labels[label] == value
    return corpus.vertices[chosen].astype(float)


def test_a_face_does_not_depend_on_how_many_there_are(corpus, tmp_path):
    make_identities(tmp_path / "few", 60, seed=0)
    few = FaceSet.open(tmp_path / "few")
    np.testing.assert_array_equal(few.vertices, corpus.vertices[:60])
    for name, column in few.labels.items():
        np.testing.assert_array_equal(column, corpus.labels[name][:60])


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "again"):
        make_identities(tmp_path / name, 40, seed=5)
    for name in ("vertices.npy", "labels.csv", "card.json", "template.ply"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_another_seed_gives_other_people(corpus):
    other, _ = identities(FaceBasis.read(), face_template(), 1, 0)
    assert np.linalg.norm(other - corpus.vertices[:BLOCK], axis=2).mean() > 2


def test_faces_are_rigidly_aligned_without_scaling(corpus):
    motion = rigid(corpus.vertices, corpus.template.vertices)
    np.testing.assert_allclose(motion.rotation, np.broadcast_to(np.eye(3), (COUNT, 3, 3)), atol=1e-4)
    np.testing.assert_allclose(motion.translation, 0, atol=1e-3)
    sizes = np.linalg.norm(corpus.vertices - corpus.vertices.mean(axis=1, keepdims=True), axis=2).mean(axis=1)
    assert sizes.min() / sizes.max() < 0.85  # children stay smaller than adults


def test_labels_name_the_groups(corpus):
    who = {"subject", "ancestry", "sex", "age", "age_group", "weight", "build"}
    assert set(corpus.labels) == who | {f"{name}_mm" for name in LABELS} | {"moles", "asymmetry_mm"}
    assert set(corpus.labels["ancestry"]) == set(GROUPS)
    assert set(corpus.labels["age_group"]) == set(AGE_GROUPS)
    assert set(corpus.labels["sex"]) == {"female", "male"}
    assert len(set(corpus.subjects)) == COUNT
    ages = corpus.labels["age"].astype(int)
    assert ages.min() >= 4
    assert ages.max() <= 86
    assert ages[corpus.labels["age_group"] == "elderly"].min() >= 60


def test_groups_differ_as_people_do(corpus):
    children, elderly = group(corpus, age_group="child"), group(corpus, age_group="elderly")
    young = group(corpus, age_group="young")
    size = [np.ptp(faces[..., 1], axis=1).mean() for faces in (children, young)]
    assert size[0] < 0.93 * size[1]
    means = [group(corpus, ancestry=name, age_group="young").mean(axis=0) for name in GROUPS[:3]]
    pairs = [np.linalg.norm(means[i] - means[i - 1], axis=1).mean() for i in range(3)]
    assert min(pairs) > 1.0  # mm: further apart than sampling error
    halves = np.linalg.norm(young[::2].mean(axis=0) - young[1::2].mean(axis=0), axis=1).mean()
    assert halves < 0.7 * min(pairs)
    assert np.linalg.norm(elderly.mean(axis=0) - young.mean(axis=0), axis=1).mean() > 0.7


def test_faces_are_those_of_every_other_processor(corpus):
    """Four vertices of two people as they were first made, in mm: the corpus is frozen."""
    first = [
        [[-0.194, 12.234, 24.442], [31.050, 38.874, 20.525], [32.481, 16.847, 10.439], [-19.284, 17.548, 9.098]],
        [[0.037, 12.762, 35.327], [29.183, 42.850, 22.632], [30.183, 18.638, 9.828], [-17.105, 18.970, 7.974]],
    ]
    np.testing.assert_allclose(corpus.vertices[[0, 100]][:, [0, 1000, 2500, 5000]], first, atol=1.5e-3)


def test_labels_tell_what_is_to_be_seen(corpus):
    """The deeper the labels say that the forehead is lined, the more it rises and falls."""
    labels = corpus.labels["forehead_lines_mm"].astype(float)
    middle = corpus.template.vertices
    band = (np.abs(middle[:, 0]) < 25) & (middle[:, 1] > 50) & (middle[:, 1] < 80)
    rough = detail().reliefs[len(band) :][band] @ corpus.vertices[..., 2].T.astype(np.float32)
    relief = rough.std(axis=0)
    assert np.corrcoef(labels, relief)[0, 1] > 0.6
    np.testing.assert_allclose(
        corpus.labels["asymmetry_mm"].astype(float), detail().asymmetry(corpus.vertices[:]), atol=0.006
    )


def test_plain_faces_are_the_face_basis_alone(tmp_path):
    make_identities(tmp_path / "plain", 40, seed=3, plain=True)
    plain = FaceSet.open(tmp_path / "plain")
    assert plain.card.parameters["plain"]
    assert set(plain.labels) == {"subject", "ancestry", "sex", "age", "age_group", "weight", "build"}
    basis = FaceBasis.read()
    people = draw_people(basis, Draws(3, "identities", np.arange(BLOCK)), plain=True)
    neutral = basis.neutral(people.phenotype, people.features).vertices
    expected = rigid(neutral, plain.template.vertices)(neutral)[:40]
    np.testing.assert_allclose(plain.vertices, expected, atol=1e-4)


def test_rich_faces_have_detail_that_no_few_directions_hold(corpus):
    """Against plain faces: what 64 principal components of some leave of others."""
    plain = np.concatenate(
        [identities(FaceBasis.read(), face_template(), 0, i, plain=True)[0] for i in range(0, COUNT, BLOCK)]
    )
    left = []
    for faces in (plain[:COUNT], corpus.vertices[:]):
        known = principal_components(faces, np.arange(320), 64)
        others = faces[320:]
        left.append(np.linalg.norm(known.faces(known.codes(others)) - others, axis=2).mean())
    assert left[0] < 0.5
    assert 0.5 < left[1] < 1.0


def test_eyeballs_stay_as_round_as_they_were(corpus):
    plain = identities(FaceBasis.read(), face_template(), 0, 0, plain=True)[0]
    assert misfit_to_spheres(corpus.vertices[:60]) < 1.1 * misfit_to_spheres(plain[:60])


def misfit_to_spheres(faces):
    """Root mean square distance of the eyeballs of faces from their best spheres, in mm."""
    squares = []
    for ball, _ in detail().balls:
        for points in faces[:, ball].astype(float):
            system = np.column_stack([2 * points, np.ones(len(points))])
            solution = np.linalg.lstsq(system, (points**2).sum(axis=1))[0]
            radius = np.sqrt(solution[3] + (solution[:3] ** 2).sum())
            squares.append(((np.linalg.norm(points - solution[:3], axis=1) - radius) ** 2).mean())
    return np.sqrt(np.mean(squares))


def test_the_population_is_not_one_gaussian(people):
    share = people.phenotype.ancestry.max(axis=1)
    assert np.mean(share > 0.8) > 0.8
    assert np.mean((share > 0.65) & (share < 0.8)) < 0.01  # a gap between the clusters and the mixed
    cleft = people.features[:, FaceBasis.read().feature_names.index("chin-cleft-incr")]
    assert np.mean(cleft == 0) > 0.8
    np.testing.assert_allclose(people.phenotype.ancestry.sum(axis=1), 1)


def test_faces_are_mildly_asymmetric(corpus):
    with np.load("src/meshgan/data/assets/face_basis.npz") as arrays:
        mirror = arrays["mirror"].astype(int)
    mirrored = corpus.vertices[:, mirror] * np.array([-1, 1, 1], dtype=np.float32)
    back = rigid(mirrored, corpus.template.vertices)(mirrored)
    difference = np.linalg.norm(back - corpus.vertices, axis=2).mean(axis=1)
    assert 0.3 < difference.mean() < 2.0
    assert difference.max() < 3


def test_faces_are_varied_and_sane(corpus):
    faces = corpus.vertices.astype(float)
    distance = np.linalg.norm(faces - faces.mean(axis=0), axis=2).mean(axis=1)
    assert 5 < distance.mean() < 8  # real heads lie as far from their mean
    assert distance.max() < 20
    corners = faces[:100, corpus.template.triangles]
    crosses = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    turned = (crosses * corpus.template.triangle_normals).sum(axis=2) < 0
    assert turned.mean() < 0.004  # folds, next to the lids and inside the lips
    assert np.isfinite(faces).all()


def test_draws_belong_to_their_place():
    many, few = Draws(7, "x", np.arange(10)), Draws(7, "x", np.array([4, 2]))
    np.testing.assert_array_equal(many.uniform(5)[[4, 2]], few.uniform(5))
    np.testing.assert_array_equal(many.normal(3)[[4, 2]], few.normal(3))
    assert not np.array_equal(Draws(7, "y", [2]).uniform(5), Draws(7, "x", [2]).uniform(5))
    assert not np.array_equal(Draws(8, "x", [2]).uniform(5), Draws(7, "x", [2]).uniform(5))


@settings(max_examples=30)
@given(st.integers(-(2**64), 2**64), st.integers(0, 2**63), st.integers(1, 9))
def test_draws_are_the_bits_of_philox(seed, item, columns):
    """Against numpy's generator, one item at a time."""
    draws = Draws(seed, "x", [item, 3])
    found = [draws.uniform(columns) for _ in range(2)]
    key = np.array([seed & (2**64 - 1), zlib.crc32(b"x")], dtype=np.uint64)
    for row, number in enumerate((item, 3)):
        for call, uniform in enumerate(found):
            counter = np.array([0, call + 1, number, 0], dtype=np.uint64)
            raw = np.random.Philox(key=key, counter=counter).random_raw(columns)
            np.testing.assert_array_equal(uniform[row], ((raw >> np.uint64(11)).astype(float) + 0.5) / 2**53)


def test_draws_have_their_distributions():
    draws = Draws(0, "test", np.arange(4000))
    uniform, normal = draws.uniform(5), draws.normal(5)
    assert 0 < uniform.min() < 0.001 < 0.999 < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    counts = np.bincount(draws.choice([1, 2, 1]), minlength=3) / 4000
    np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.03)
    sparse = draws.sparse(1, 0.2)
    assert np.mean(sparse > 0) == pytest.approx(0.2, abs=0.03)


def test_an_existing_folder_is_kept(corpus):
    with pytest.raises(MeshganError, match="exists already"):
        make_identities(corpus.path, 10)
    assert len(FaceSet.open(corpus.path)) == COUNT


def test_a_count_below_one_is_refused(tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        make_identities(tmp_path / "none", 0)
    assert not (tmp_path / "none").exists()


def test_the_command_line(tmp_path):
    run = CliRunner()
    made = run.invoke(app, ["data", "anny-identities", str(tmp_path / "set"), "--count", "30", "--seed", "3"])
    assert made.exit_code == 0, made.output
    told = run.invoke(app, ["data", "info", str(tmp_path / "set"), "--json", "--sheet", str(tmp_path / "sheet.png")])
    summary = json.loads(told.output)
    assert summary["faces"] == summary["subjects"] == 30
    assert summary["template"]["vertices"] == 5036
    assert summary["card"]["parameters"]["seed"] == 3
    assert sum(summary["labels"]["sex"]["counts"].values()) == 30
    assert summary["split"] == {"train": 25, "validation": 2, "test": 3}
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    plain = run.invoke(app, ["data", "info", str(tmp_path / "set")])
    assert "30 faces of 30 subjects" in plain.output
    assert "CC0-1.0" in plain.output


def test_a_summary_tells_ranges_and_words(corpus):
    labels = summarise(corpus)["labels"]
    assert labels["subject"] == {"different": COUNT}
    assert labels["weight"]["from"] < 0.3 < 0.7 < labels["weight"]["to"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_count(tmp_path):
    script = (
        "import sys; from pathlib import Path; from meshgan.bench.hierarchy import peak_mb;"
        "from meshgan.data.corpora.anny import make_identities;"
        "make_identities(Path(sys.argv[1]), int(sys.argv[2])); print(peak_mb())"
    )
    used = []
    for count in (256, 6000):
        command = [sys.executable, "-c", script, str(tmp_path / str(count)), str(count)]
        used.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert used[1] < 1024  # MiB
    assert used[1] < used[0] + 450  # 6,000 faces are 345 MiB; pages of the mapped file may stay in memory
