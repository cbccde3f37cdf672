"""The evaluation of a whole model: it repeats, resumes, recovers planted codes, and tells good from bad samples."""

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from pydantic import TypeAdapter

from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.errors import UsageError
from meshgan.evaluation import yardstick as measuring
from meshgan.evaluation.evaluate import Evaluation, evaluate, generalise, suitable_samplers
from meshgan.evaluation.yardstick import BY_KEY, Yardstick, shape_codes
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import FaceModel
from meshgan.model.model_folder import find_model, read_model_folder
from meshgan.model.pca import fit_pca
from meshgan.training.loop import train
from meshgan.training.recipe import parse_recipe
from meshgan.view.raster import Camera


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A short bootstrap; its own tests are elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "SHAPE_RESAMPLES", 10)
        patch.setattr(measuring, "FID_RESAMPLES", 5)
        yield


@pytest.fixture(scope="module")
def model(tiny_run):
    return FaceModel.load(tiny_run)


@pytest.fixture(scope="module")
def evaluation(model, tiny_faces):
    return evaluate(model, tiny_faces, samples=60, fid="off")


def test_an_evaluation_has_a_row_for_the_models_sampler_and_one_for_real_faces(evaluation, tiny_faces):
    assert [row.sampler for row in evaluation.rows] == ["uniform"]
    assert all(row.samples == 60 and row.score("fid") is None for row in evaluation.rows)
    assert evaluation.real.sampler == "none"
    assert evaluation.train_faces == len(tiny_faces.split.train)
    assert evaluation.real.score("diversity_mm").value > 0
    assert evaluation.generalisation.encoded_mm is None
    for row in (*evaluation.rows, evaluation.real):
        for estimate in map(row.score, ("coverage", "precision", "recall", "validity")):
            assert 0 <= estimate.interval[0] <= estimate.value <= estimate.interval[1] <= 1
        assert (
            row.score("specificity_mm").interval[0]
            < row.score("specificity_mm").value
            < row.score("specificity_mm").interval[1]
        )


def test_choices_are_made_without_the_test_part(model, tiny_faces):
    seen = replace(tiny_faces, card=tiny_faces.card.model_copy(update={"validation_share": 0.2}))
    changed = np.array(seen.vertices)
    changed[seen.split.test] += 100.0
    blind = replace(seen, vertices=changed)
    first, second = (evaluate(model, faces, 20, "off", part="validation") for faces in (seen, blind))
    assert first.test_faces == len(seen.split.validation) == 16
    assert first.part == "validation"
    assert measured(first) == measured(second)
    assert all(row.score("memorising") is None for row in (*first.rows, first.real))


def measured(evaluation):
    """Every number, by its place; but machine and date."""
    table = json.loads(evaluation.json())
    return dict(numbers({key: table[key] for key in ("generalisation", "rows", "real")}))


def numbers(value, place=""):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from numbers(part, f"{place}/{key}")
    if isinstance(value, int | float):
        yield place, value


def test_it_survives_json_and_repeats(evaluation, model, tiny_faces):
    again = TypeAdapter(Evaluation).validate_json(evaluation.json())
    assert again == evaluation
    repeated = measured(evaluate(model, tiny_faces, samples=60, fid="off"))
    assert repeated == measured(evaluation)
    assert len(repeated) > 40
    assert evaluate(model, tiny_faces, samples=60, fid="off", seed=1).rows != evaluation.rows


def test_numbers_are_those_of_the_definitions(evaluation, tiny_run, tiny_faces):
    parts = read_model_folder(find_model(tiny_run))
    model = FaceModel(replace(parts, card=parts.card.model_copy(update={"sampler": "fitted-normal"})))
    test = tiny_faces.vertices[tiny_faces.split.test].astype(np.float64)
    covered = []
    for row in (*evaluation.rows, *evaluate(model, tiny_faces, samples=60, fid="off").rows):
        samples = model.sample(60, seed=0, sampler=row.sampler).astype(np.float64)
        distances = np.array([np.linalg.norm(one - test, axis=2).mean(axis=1) for one in samples])
        assert row.score("specificity_mm").value == pytest.approx(distances.min(axis=1).mean(), rel=1e-5)
        assert row.score("specificity_mm").std == pytest.approx(distances.min(axis=1).std(), rel=1e-4)
        nearest = distances.argmin(axis=1)
        assert row.score("coverage").value == pytest.approx(len(np.unique(nearest[: len(test)])) / len(test))
        covered.append(len(np.unique(nearest)) / len(test) - row.score("coverage").value)
    assert max(covered) > 0  # all samples together would have covered more: as many as test faces count
    errors = model.fit(test.astype(np.float32)).error_mm
    assert evaluation.generalisation.fitted_mm.mean == pytest.approx(errors.mean(), rel=1e-5)


def test_finished_parts_are_not_computed_again(model, tiny_faces, tmp_path, monkeypatch):
    """A stop while real faces are measured, then the same call again, then once more with nothing left to do."""
    measure, fit, calls = Yardstick.measure, FaceModel.fit, []

    def counted(self, blocks, sampler, seed):
        calls.append(sampler)
        if sampler == "none" and calls.count("none") == 1:
            raise KeyboardInterrupt
        return measure(self, blocks, sampler, seed)

    def counted_fit(self, *arguments, **options):
        calls.append("fit")
        return fit(self, *arguments, **options)

    monkeypatch.setattr(Yardstick, "measure", counted)
    monkeypatch.setattr(FaceModel, "fit", counted_fit)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tiny_faces, samples=20, fid="off", work=tmp_path)
    resumed = evaluate(model, tiny_faces, samples=20, fid="off", work=tmp_path)
    assert calls == ["fit", "uniform", "none", "none"]
    assert measured(evaluate(model, tiny_faces, samples=20, fid="off", work=tmp_path)) == measured(resumed)
    assert len(calls) == 4
    evaluate(model, tiny_faces, samples=21, fid="off", work=tmp_path)
    assert calls[4:] == ["uniform", "none"]  # other samples; the fits still hold


def test_damaged_parts_are_computed_again(model, tiny_faces, tmp_path):
    first = evaluate(model, tiny_faces, samples=20, fid="off", work=tmp_path)
    for file, damage in zip(sorted(tmp_path.iterdir()), ["", "{}", '{"sampler": 3}'], strict=True):
        file.write_text(damage)
    assert measured(evaluate(model, tiny_faces, samples=20, fid="off", work=tmp_path)) == measured(first)


def made_of(path, template, faces):
    """A FaceSet of these faces, each of its own subject."""
    card = Card(name="made", source="a test", licence="CC0-1.0", synthetic=True)
    with create_faceset(path, template, len(faces), card) as writer:
        writer.append(faces, [{"subject": f"s{row:04d}"} for row in range(len(faces))])
    return FaceSet.open(path)


def test_generalisation_recovers_planted_codes(model, tmp_path):
    """Faces that the generator can make are found again: the error is a small part of the faces' differences."""
    faces = made_of(tmp_path / "planted", model.template, model.sample(60, seed=9, sampler="fitted-normal"))
    planted = generalise(model, faces, tmp_path)
    spread = np.linalg.norm(faces.vertices[1:] - faces.vertices[:-1], axis=2).mean()
    assert planted.fitted_mm.mean < 0.03 * spread
    assert planted.interval_mm[0] <= planted.fitted_mm.mean <= planted.interval_mm[1]


def test_autoencoders_are_also_measured_by_encoding(tiny_faces, tmp_path, recipe_table):
    table = recipe_table | {"objective": {"kind": "autoencoder"}, "name": "coma"}
    train(parse_recipe(table, "coma.toml"), tiny_faces, tmp_path / "run")
    coma = FaceModel.load(tmp_path / "run")
    assert suitable_samplers(coma) == ("standard-normal", "fitted-normal")
    mixed = table | {"sampling": {"kind": "mixture", "faces": 40}}
    train(parse_recipe(mixed, "coma.toml"), tiny_faces, tmp_path / "mixed")
    assert suitable_samplers(FaceModel.load(tmp_path / "mixed")) == ("standard-normal", "fitted-normal", "mixture")
    free = mixed | {"objective": {"kind": "began-encoder"}}
    train(parse_recipe(free, "free.toml"), tiny_faces, tmp_path / "free")
    assert suitable_samplers(FaceModel.load(tmp_path / "free")) == ("fitted-normal", "mixture")
    found = generalise(coma, tiny_faces, tmp_path)
    test = tiny_faces.vertices[tiny_faces.split.test]
    expected = np.linalg.norm(coma.decode(coma.encode(test)) - test, axis=2).mean()
    assert found.encoded_mm.mean == pytest.approx(expected, rel=1e-5)
    assert found.fitted_mm.mean <= found.encoded_mm.mean  # the fit starts from the encoded code


def test_a_gan_with_an_encoder_is_measured_under_its_own_sampler(tiny_faces, tmp_path, recipe_table):
    table = recipe_table | {"objective": {"kind": "began-cs"}, "name": "began-cs"}
    train(parse_recipe(table, "began-cs.toml"), tiny_faces, tmp_path / "run")
    model = FaceModel.load(tmp_path / "run")
    assert model.encoder is not None
    assert suitable_samplers(model) == ("uniform",)


def test_pca_is_measured_under_its_own_sampler(tiny_faces):
    pca = fit_pca(tiny_faces, components=8)
    found = evaluate(pca, tiny_faces, samples=60, fid="off")
    assert [row.sampler for row in found.rows] == ["fitted-normal"]
    assert found.generalisation.fitted_mm.mean < 0.5  # the faces have five degrees of freedom
    assert found.rows[0].score("shape_frechet_mm2").value < 3 * found.real.score("shape_frechet_mm2").value + 1


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tiny_faces):
    """Scores of fresh, collapsed, noisy and memorised faces against 100 test faces of one population."""
    generator = np.random.default_rng(5)
    ways = generator.normal(size=(6, 3, 3))
    template = tiny_faces.template

    def people(count):
        bends = 0.05 * np.einsum("nk,kij->nij", generator.normal(size=(count, 6)), ways)
        return (template.vertices @ (np.eye(3) + bends)).astype(np.float32)

    faces = made_of(tmp_path_factory.mktemp("people") / "set", template, people(1000))
    yardstick = Yardstick.of(faces, "off")
    fresh = people(300)
    samples = {
        "fresh": fresh,
        "collapsed": fresh.mean(axis=0) + 0.01 * (fresh - fresh.mean(axis=0)),
        "noisy": fresh + generator.normal(scale=4.0, size=fresh.shape).astype(np.float32),
        "memorised": np.repeat(faces.vertices[faces.split.train[:6]], 50, axis=0)[generator.permutation(300)],
    }
    return {name: yardstick.measure([block], "uniform", seed=0) for name, block in samples.items()}


def test_fresh_faces_of_the_population_score_well(rows):
    fresh = rows["fresh"]
    assert fresh.score("precision").value > 0.7
    assert fresh.score("recall").value > 0.7
    assert fresh.score("coverage").value > 0.5


def test_collapse_is_seen_by_everything_but_specificity(rows):
    fresh, collapsed = rows["fresh"], rows["collapsed"]
    assert collapsed.score("specificity_mm").value < fresh.score("specificity_mm").value
    assert collapsed.score("diversity_mm").value < 0.05 * fresh.score("diversity_mm").value
    assert collapsed.score("coverage").value < 0.2 * fresh.score("coverage").value
    assert collapsed.score("recall").value < 0.1
    assert collapsed.score("shape_frechet_mm2").value > 10 * fresh.score("shape_frechet_mm2").value


def test_noise_is_seen_by_specificity(rows):
    assert rows["noisy"].score("specificity_mm").value > 1.1 * rows["fresh"].score("specificity_mm").value


def test_memorisation_is_seen_by_coverage_recall_and_frechet(rows):
    fresh, memorised = rows["fresh"], rows["memorised"]
    assert memorised.score("precision").value > 0.7
    assert memorised.score("coverage").value < 0.2 * fresh.score("coverage").value
    assert memorised.score("recall").value < 0.5 * fresh.score("recall").value
    assert memorised.score("shape_frechet_mm2").value > 5 * fresh.score("shape_frechet_mm2").value


def test_faces_without_detail_are_no_measure_of_it(rows):
    """The population has six degrees of freedom: what lies beyond 64 components is rounding."""
    assert all(row.score("detail") is None for row in rows.values())


def test_few_faces_have_no_detail_beyond_their_components(tmp_path_factory, tiny_faces):
    """All that 60 training faces show lies in 59 components."""
    few = made_of(tmp_path_factory.mktemp("few") / "set", tiny_faces.template, np.asarray(tiny_faces.vertices)[:67])
    assert len(few.split.train) <= measuring.COARSE
    row = Yardstick.of(few, "off").measure([np.asarray(few.vertices)], "uniform", seed=0)
    assert row.score("detail") is None
    assert row.score("diversity_mm").value > 0


def test_copies_are_seen_by_memorising_and_fresh_faces_are_not(rows):
    assert rows["memorised"].score("memorising").value < 0.01
    assert rows["fresh"].score("memorising").value == pytest.approx(1, abs=0.1)
    low, high = rows["fresh"].score("memorising").interval
    assert low <= rows["fresh"].score("memorising").value <= high


def test_noise_is_seen_by_validity(rows):
    assert rows["fresh"].score("validity").value > 0.97
    assert rows["noisy"].score("validity").value < 0.7  # 4 mm, where vertices lie 40 mm apart
    parts = rows["noisy"].score("validity").parts
    assert max(parts["folded"], parts["intersecting"]) <= 1 - rows["noisy"].score("validity").value + 1e-9


def test_real_faces_are_no_copies_of_themselves(evaluation):
    assert evaluation.real.score("memorising").value == pytest.approx(1)


def test_distances_in_shape_space_are_root_mean_squares_in_mm(tiny_faces):
    pca = fit_pca(tiny_faces, components=12)
    space = Yardstick.of(tiny_faces, "off").space
    faces = pca.sample(4, seed=2)
    codes = shape_codes(space, faces)
    expected = np.sqrt(np.square(faces[0] - faces[1]).sum(axis=1).mean())
    assert np.linalg.norm(codes[0] - codes[1]) == pytest.approx(expected, rel=1e-3)


def test_fid_is_that_of_the_rendered_faces(model, tiny_faces, monkeypatch):
    """With the pixels' means as features, the wiring is checked without the network."""
    seen = []

    def features(images, title):
        seen.append(images)
        return images.reshape(len(images), 8, -1).mean(axis=2).astype(np.float32)

    monkeypatch.setattr("meshgan.evaluation.inception.inception_features", features)
    monkeypatch.setattr("meshgan.evaluation.inception.graph_file", lambda: None)
    monkeypatch.setattr(measuring, "IMAGES", 50)
    found = evaluate(model, tiny_faces, samples=60, fid="inception")
    test = len(tiny_faces.split.test)
    assert [(len(images), images.shape[1]) for images in seen] == [
        (count, size) for count in (test, 50, 50) for size in (64, 256)
    ]
    assert all(images.max() > 200 for images in seen)
    assert (seen[0][:, 28:36, 28:36] > 0).all()  # the face is in the middle of the picture
    assert (
        found.rows[0].score("fid").interval[0]
        <= found.rows[0].score("fid").value
        <= found.rows[0].score("fid").interval[1]
    )
    assert found.real.score("fid").value < found.rows[0].score("fid").value


def test_wrong_use_is_refused_in_one_sentence(model, tiny_faces, tmp_path, monkeypatch):
    other = made_of(tmp_path / "other", model.template, model.sample(20))
    with pytest.raises(UsageError, match="2 test faces; an evaluation needs 5"):
        evaluate(model, other, samples=20, fid="off")
    with pytest.raises(UsageError, match="5 samples or more"):
        evaluate(model, tiny_faces, samples=3, fid="off")
    monkeypatch.setattr("meshgan.evaluation.inception.PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match="`fid='off'`"):
        evaluate(model, tiny_faces, samples=20)


def test_json_is_for_people_too(evaluation):
    table = json.loads(evaluation.json())
    assert set(table["rows"][0]) == {"sampler", "samples", *BY_KEY}
    assert set(table["rows"][0]) >= {
        "sampler",
        "specificity_mm",
        "diversity_mm",
        "coverage",
        "shape_frechet_mm2",
        "fid",
    }
    assert table["generalisation"]["fitted_mm"]["mean"] == evaluation.generalisation.fitted_mm.mean


def test_the_table_of_metrics_says_what_is_done():
    """Numbers in its words are those that are used; digits and directions are those of all published tables."""
    shown = [(metric.name, metric.unit, metric.digits, metric.better, metric.spread) for metric in measuring.METRICS]
    assert shown == [
        ("generalisation", "mm", 3, "lower", True),
        ("specificity", "mm", 3, "as real", True),
        ("fid", "", 2, "lower", False),
        ("fid256", "", 2, "lower", False),
        ("kid", "", 4, "lower", False),
        ("shape_frechet", "mm2", 2, "lower", False),
        ("diversity", "mm", 2, "as real", False),
        ("coverage", "", 3, "higher", False),
        ("precision", "", 3, "higher", False),
        ("recall", "", 3, "higher", False),
        ("detail", "", 3, "lower", False),
        ("validity", "", 3, "higher", False),
        ("memorising", "", 3, "as real", False),
    ]
    for name, words in (
        ("fid", (f"{measuring.IMAGES:,} samples", f"{measuring.SIZE}×{measuring.SIZE} pictures")),
        ("fid256", (f"{measuring.LARGE}×{measuring.LARGE} pictures", f"{measuring.IMAGES:,} samples")),
        ("shape_frechet", (f"beyond {measuring.COMPONENTS} components",)),
        ("detail", (f"{measuring.DETAILED:,} samples", f"the {measuring.COARSE} strongest")),
        ("validity", (f"{measuring.CHECKED} samples",)),
        ("memorising", (f"{measuring.MEMORIES:,} samples",)),
    ):
        (metric,) = (one for one in measuring.METRICS if one.name == name)
        for word in words:
            assert word in f"{metric.what}; {metric.of}; {metric.blind}", (name, word)
    assert measuring.EXCUSED == 0.01  # "a hundredth or more of the training faces"
    keys = [metric.key(part) for metric in measuring.METRICS[:3] for part in ("", "std", "interval", "parts")]
    assert keys[:4] == [
        "generalisation_mm",
        "generalisation_std_mm",
        "generalisation_interval_mm",
        "generalisation_parts",
    ]
    assert keys[8:] == ["fid", "fid_std", "fid_interval", "fid_parts"]


def test_large_pictures_are_of_a_face_that_looks_aside_in_light_that_grazes_it():
    """On a ball the brightest place faces the light; a nose, in front of all, is beside the middle."""
    sphere = trimesh.creation.icosphere(4, radius=80.0)
    ball = Mesh(sphere.vertices, sphere.faces)
    camera = Camera()
    small, large = measuring._pictures(sphere.vertices[None], ball, camera)
    assert (small.shape, large.shape, large.dtype) == ((1, 64, 64), (1, 256, 256), np.uint8)
    rows, columns = np.nonzero(large[0] >= np.quantile(large[0], 0.999))
    pixel = 240 / 256
    x, y = (columns.mean() - 127.5) * pixel / 80, (127.5 - rows.mean()) * pixel / 80
    light = np.array([-0.8, 0.5, 0.55]) / np.linalg.norm([-0.8, 0.5, 0.55])
    np.testing.assert_allclose([x, y], light[:2], atol=0.05)
    assert large[0].max() == pytest.approx(255 * 1.0, abs=12)  # nothing is burnt out, but hardly anything is black
    assert np.median(large[0][large[0] > 0]) > 10
    assert large[0, 0, 0] == 0
    nose = np.where(sphere.vertices[:, 2:] > 79, [0.0, 0.0, 60.0], 0.0) + sphere.vertices
    with_nose = measuring._pictures(nose[None], ball, camera)[1]
    changed = np.abs(with_nose[0].astype(int) - large[0]) > 30
    tip = (np.flatnonzero(changed.any(axis=0)).max() - 127.5) * pixel
    assert tip == pytest.approx(140 * np.sin(np.radians(measuring.THREE_QUARTERS)), abs=3)
    assert measuring.THREE_QUARTERS == 35
