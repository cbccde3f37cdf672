import json
import struct
from pathlib import Path

import numpy as np
import pygltflib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from meshgan.cli.main import app
from meshgan.data.corpora.expressions import ExpressionPlan
from meshgan.errors import UsageError
from meshgan.geometry.align import rigid
from meshgan.geometry.files import read_mesh, write_mesh
from meshgan.model.compose import compose, compose_random, expression_targets, named_expressions, sizes
from meshgan.model.directions import Directions, estimate_directions
from meshgan.model.load import load_model


def test_sizes_are_root_mean_square_distances_from_the_middle() -> None:
    rng = np.random.default_rng(0)
    faces, template = rng.normal(3.0, 2.0, (2, 3, 40, 3)).astype(np.float32), rng.normal(5.0, 1.0, (40, 3))
    spreads = [np.linalg.norm(np.std(part, axis=-2, dtype=np.float64), axis=-1) for part in (faces, template)]
    found = sizes(faces, template)
    assert found.dtype == np.float32 and found.shape == (2, 3)
    np.testing.assert_allclose(found, spreads[0] / spreads[1], rtol=1e-6)
    np.testing.assert_array_equal(sizes(faces[0, 0], template), found[0, 0])


@given(st.integers(0, 10**6), st.floats(0.3, 3.0))
def test_a_face_moves_as_much_as_it_is_large(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    template, shift = rng.normal(size=(2, 20, 3))
    identity = size * template[:, [1, 2, 0]] + rng.normal(size=3)  # turned, moved and scaled
    composed = compose(identity, template + shift, template)
    np.testing.assert_allclose(composed, identity + size * shift, atol=1e-9)
    np.testing.assert_allclose(compose(identity, template, template), identity, atol=1e-12)


def test_faces_and_expressions_of_any_count_are_paired_as_arrays_are() -> None:
    rng = np.random.default_rng(0)
    identities, expressions, template = (
        rng.normal(size=(3, 1, 9, 3)),
        rng.normal(size=(1, 2, 9, 3)),
        rng.normal(size=(9, 3)),
    )
    table = compose(identities, expressions, template)
    assert table.shape == (3, 2, 9, 3)
    np.testing.assert_allclose(table[2, 1], compose(identities[2, 0], expressions[0, 1], template))


@pytest.mark.parametrize("faces", [np.zeros((2, 9, 3)), np.full((3, 9, 3), np.nan), np.zeros((3, 8, 3)), "faces", None])
def test_arrays_that_do_not_compose_are_refused(faces) -> None:
    with pytest.raises(UsageError):
        compose(np.ones((3, 9, 3)), faces, np.eye(9, 3))


def test_it_is_nearer_to_the_corpus_s_true_faces_than_the_plain_sum() -> None:
    """The corpus knows the neutral face, the pure expression of the template, and the face that has both."""
    plan = ExpressionPlan(subjects=12, posed=36, spontaneous=0, part="classifier", plain=True)
    takes = plan.takes(rows := plan.neutrals + np.arange(36))
    neutral = plan.neutral(takes.who, takes.session)
    pure, template = plan.pure(rows), plan.template.vertices.astype(np.float32)
    truth = plan.basis.perform(neutral, takes.actions, sizes(neutral.vertices, template))
    plain, ours = neutral.vertices + pure - template, compose(neutral.vertices, pure, template)
    errors = [np.linalg.norm(made - truth, axis=2).mean() for made in (plain, ours)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.05


@pytest.fixture(scope="module")
def model(tiny_run: Path):
    return load_model(tiny_run)


@pytest.fixture(scope="module")
def described(tiny_run: Path, model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that knows where joy and fear lie in its latent space."""
    folder = tmp_path_factory.mktemp("models") / "described"
    model.save(folder)
    codes = model.codes(60, seed=5)
    joy = (codes[:, 0] > 0).astype(float)
    estimate_directions(codes, {"joy": joy, "fear": 1 - joy}).save(folder)
    return folder


def test_random_faces_are_identities_with_expressions(model) -> None:
    made = compose_random(model, model, 3, seed=2)
    np.testing.assert_array_equal(made.identities, model.sample(3, seed=2))
    np.testing.assert_allclose(
        made.faces, compose(made.identities, model.template.vertices + made.shifts, model.template.vertices), atol=1e-4
    )
    assert not np.allclose(made.shifts, made.identities - model.template.vertices)  # not the identity's own codes


def test_named_expressions_are_the_faces_of_their_mean_codes(model, described: Path) -> None:
    directions = Directions.load(described)
    targets = named_expressions(model, directions)
    assert list(targets) == ["expressionJoy", "expressionFear"]
    face = model.decode(directions.at("fear", 1.0)[None])[0]
    np.testing.assert_allclose(targets["expressionFear"] + model.template.vertices, face, atol=1e-4)


def test_a_model_without_directions_has_no_names_for_expressions(model, tiny_run: Path, described: Path) -> None:
    assert expression_targets(tiny_run, model) == {}
    assert list(expression_targets(described, model)) == ["expressionJoy", "expressionFear"]


def test_the_command_writes_faces_that_open_with_their_expression(described: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    result = CliRunner().invoke(
        app, ["compose", str(described), str(described), "--out", str(out), "--count", "2", "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [Path(file).name for file in told["files"]] == ["face-000.glb", "face-001.glb"]
    assert (out / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    document = glb_document(out / "face-001.glb")
    (body,) = document["meshes"]
    assert body["extras"]["targetNames"] == told["targets"]
    assert told["targets"][:3] == ["expressionRandom", "expressionJoy", "expressionFear"]
    assert body["weights"] == [1.0] + [0.0] * (len(told["targets"]) - 1)
    made = compose_random(load_model(described), load_model(described), 2)
    random = document["accessors"][body["primitives"][0]["targets"][0]["POSITION"]]
    np.testing.assert_allclose(random["max"], (made.faces - made.identities)[1].max(0) / 1000, atol=1e-6)
    low, high = made.identities[1].min(0), made.identities[1].max(0)
    position = document["accessors"][body["primitives"][0]["attributes"]["POSITION"]]
    np.testing.assert_allclose([position["min"], position["max"]], np.stack((low, high)) / 1000, atol=1e-6)


def glb_document(path: Path) -> dict:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + length])


def test_models_of_two_templates_do_not_compose(model, tmp_path: Path) -> None:
    class Other:
        card = model.card
        template = model.template.__class__(model.template.vertices, model.template.triangles[:, [1, 2, 0]])

    with pytest.raises(UsageError, match="different templates"):
        compose_random(model, Other(), 1)


def test_expressions_before_identities_are_refused(model) -> None:
    class Still(type(model)):
        """Draws faces of one size, as models of expressions do."""

        def sample(self, count: int, seed: int = 0, sampler: str | None = None):
            faces = super().sample(count, seed, sampler)
            return faces / sizes(faces, self.template.vertices)[:, None, None]

    still = Still(model._parts)
    compose_random(model, still, 2)
    with pytest.raises(UsageError, match="identities first"):
        compose_random(still, model, 2)


def test_a_face_of_ones_own_gets_expressions(model, described: Path, tmp_path: Path, meshgan) -> None:
    own = model.sample(1, seed=9)[0]
    turned = Rotation.from_euler("y", 20, degrees=True).apply(own) + 30
    write_mesh(tmp_path / "mine.ply", model.template.with_vertices(turned))
    assert meshgan("sample", described, "--out", tmp_path / "drawn", "--count", 1)[0] == 0
    code = (tmp_path / "drawn" / "face-000.json").read_bytes()
    (tmp_path / "code.json").write_bytes(code)
    seen = {}
    for name in ("mine.ply", "code.json"):
        out = tmp_path / name.partition(".")[0]
        run = ("compose", described, described, "--identity", tmp_path / name, "--out", out, "--count", 2)
        status, _, error = meshgan(*run)
        assert status == 0, error
        seen[name] = [pygltflib.GLTF2().load(out / f"face-00{row}.glb") for row in range(2)]
        found = [read_mesh(out / f"face-00{row}.glb").vertices for row in range(2)]
        assert np.abs(found[0] - found[1]).max() > 0.1  # two expressions, which are on when a file is opened
        beside = json.loads((out / "face-001.json").read_text())
        extras = seen[name][1].nodes[0].extras
        assert extras == beside
        assert extras["identity"] == name
        assert extras["seed"] == 0
        assert ("code" in extras) == (name == "code.json")
        assert ("licence" in extras) == (name == "code.json")  # somebody's own mesh is not under the model's
        shifts = model.decode([extras["expression_code"]])[0] - model.template.vertices
        still = rigid(own, model.template.vertices)(own) if name == "mine.ply" else model.sample(1)[0]
        moved = still + sizes(still, model.template.vertices) * shifts
        np.testing.assert_allclose(found[1], moved, atol=2e-2)
    names = {name for both in seen.values() for gltf in both for name in (gltf.nodes[0].name, gltf.materials[0].name)}
    assert len(names) == 8  # nothing clashes in one scene
    (tmp_path / "bad.json").write_text("{}")
    for name, expected in (("no.ply", 2), ("bad.json", 1)):
        run = ("compose", described, described, "--identity", tmp_path / name, "--out", tmp_path / "x")
        status, _, error = meshgan(*run)
        assert (status, error.count("\n")) == (expected, 1)


def test_a_sampled_glb_says_where_it_comes_from(described: Path, tmp_path: Path, meshgan) -> None:
    assert meshgan("sample", described, "--out", tmp_path / "drawn", "--count", 2, "--seed", 3)[0] == 0
    gltf = pygltflib.GLTF2().load(tmp_path / "drawn" / "face-001.glb")
    extras = gltf.nodes[0].extras
    assert extras == json.loads((tmp_path / "drawn" / "face-001.json").read_text())
    assert (extras["model"], extras["licence"], extras["seed"]) == ("tiny", "CC0-1.0", 3)
    np.testing.assert_allclose(extras["code"], load_model(described).codes(2, 3)[1])
    assert gltf.asset.copyright == "CC0-1.0"
    assert gltf.nodes[0].name == "tiny-3-face-001"
