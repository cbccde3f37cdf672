"""Models made ready for the studio."""

import numpy as np
import pytest

from meshgan.data.corpora.recipes import EXPRESSIONS
from meshgan.data.principal import principal_components
from meshgan.errors import UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model.directions import SAMPLES
from meshgan.model.face_model import FaceModel
from meshgan.model.pca import PcaModel
from meshgan.model.rig import ARKIT, targets_of
from meshgan.studio import sliders
from meshgan.studio.sliders import Range, decode, identity_model, load_pair, rig_model

RNG = np.random.default_rng(0)


def test_decoding_without_padding_gives_the_same_faces(tiny_run):
    model = FaceModel.load(tiny_run)
    codes = model.codes(3, seed=1)
    np.testing.assert_allclose(decode(model, codes), model.decode(codes), atol=1e-4)
    np.testing.assert_allclose(decode(model, codes[1:2])[0], model.decode(codes)[1], atol=1e-4)


def test_the_range_is_that_of_the_models_own_faces():
    """Stretched and shifted normal codes: one in twenty is unusual, and a far one is out of range."""
    stretch = np.diag([0.1, 1.0, 10.0])
    place = Range.of((RNG.normal(size=(4000, 3)) @ stretch + 7).astype(np.float32)).place
    fresh = (RNG.normal(size=(2000, 3)) @ stretch + 7).astype(np.float32)
    places = [place(code) for code in fresh]
    assert 0.035 < np.mean([one == "edge" for one in places]) < 0.07
    assert places.count("outside") <= 2
    assert place(np.array([8, 7, 7], np.float32)) == "outside"  # ten deviations of the first number
    assert place(np.array([7, 7, 22], np.float32)) == "inside"


def test_a_range_survives_codes_of_lower_rank():
    line = np.outer(RNG.normal(size=500), [1.0, 2.0, 3.0]).astype(np.float32)
    assert Range.of(line).place(line[0] * 0) == "inside"


def test_models_start_at_the_mean_and_at_neutral(pair):
    identity, expression = pair
    np.testing.assert_allclose(identity.still, identity.mean_face, atol=1e-5)
    error = np.linalg.norm(expression.still - expression.template.vertices, axis=1).mean()
    best = expression.model.fit(expression.template.vertices[None]).error_mm.mean()
    assert error == pytest.approx(best, abs=1e-3)


def test_sliders_are_named_by_the_labels_and_the_axes(pair):
    identity, expression = pair
    assert list(identity.sliders)[:3] == ["age", "female", "id-1"]
    assert list(expression.sliders)[:3] == ["anger", "happiness", "exp-1"]
    shares = [slider.title for slider in identity.sliders.values() if slider.expert]
    assert shares[0].startswith("Axis 1 (")


def test_an_axis_slider_moves_one_component_of_the_models_faces_by_one_deviation(pair):
    identity, _ = pair
    faces = identity.model.sample(SAMPLES)
    found = principal_components(faces, np.arange(SAMPLES), 5)
    codes = np.stack([identity.start, *(identity.start + identity.sliders[f"id-{k}"].vector for k in range(1, 6))])
    scores = found.codes(identity.decode(codes))
    deviations = found.codes(faces).std(axis=0)
    np.testing.assert_allclose((scores[1:] - scores[0]) / deviations, np.eye(5), atol=0.02)


def test_a_trait_that_moves_nothing_gets_no_slider(folders, monkeypatch):
    monkeypatch.setattr(sliders, "LEAST_MM", 1e9)
    ready = identity_model(PcaModel.load(folders / "identity"), sliders._directions(str(folders / "identity")))
    assert all(slider.expert for slider in ready.sliders.values())


def test_a_network_can_be_either_model(tiny_run, tiny_faces):
    identity, expression = load_pair(str(tiny_run), str(tiny_run))
    assert expression is not None
    assert all(slider.expert for slider in identity.sliders.values())
    np.testing.assert_array_equal(identity.mean_face, tiny_faces.normalisation.mean)
    assert np.isfinite(expression.still).all()


def test_two_templates_do_not_go_together(folders, tmp_path, pair):
    model = pair[0].model
    turned = Mesh(model.template.vertices, model.template.triangles[:, [1, 2, 0]])
    parts = type(model._parts)(
        model.card.model_copy(update={"template": turned.content_hash}), turned, None, model._parts.tensors
    )
    PcaModel(parts).save(tmp_path / "other")
    with pytest.raises(UsageError, match="different templates"):
        load_pair(str(folders / "identity"), str(tmp_path / "other"))


def test_a_rig_is_a_model_of_expressions_whose_codes_are_weights(head_model):
    rig = rig_model(head_model.template)
    assert (rig.shapes, rig.model.code_size) == (ARKIT, 52)
    np.testing.assert_array_equal(rig.still, head_model.template.vertices.astype(np.float32))
    jaw = head_model.template.vertices + targets_of(head_model.template.vertices, "arkit")["jawOpen"]
    np.testing.assert_allclose(rig.decode(rig.sliders["jawOpen"].vector[None])[0], jaw, atol=1e-3)
    codes = rig.model.codes(300, seed=3)
    assert codes.min() >= 0
    assert codes.max() <= 1
    assert len(np.unique(codes, axis=0)) > 100
    assert [key for key, slider in rig.sliders.items() if not slider.expert] == list(EXPRESSIONS)
    assert all(rig.range.place(slider.vector) != "outside" for slider in rig.sliders.values() if not slider.expert)


def test_other_templates_have_no_rig(pair):
    assert rig_model(pair[0].template) is None
