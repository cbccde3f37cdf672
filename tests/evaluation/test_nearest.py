"""The pruned search gives what brute force gives, on hostile input too, and it does prune."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgan.errors import UsageError
from meshgan.evaluation.nearest import FaceIndex, spatial_clusters


def brute_force(samples, faces):
    """All distances (N, M) in float64."""
    a, b = samples.astype(np.float64), faces.astype(np.float64)
    return np.array([np.linalg.norm(one - b, axis=2).mean(axis=1) for one in a])


def smooth_faces(count, vertices, seed, modes=24, scale=5.0):
    """Faces whose differences are smooth over the surface, as real ones are."""
    generator = np.random.default_rng(seed)
    shape = np.random.default_rng(7)
    place = shape.uniform(-1, 1, (vertices, 2))
    base = np.column_stack([place * [75, 95], 60 * (1 - np.square(place).sum(axis=1))])
    waves = np.cos(place @ shape.normal(size=(2, modes)) * 1.5 + shape.uniform(0, 6, modes))
    directions = shape.normal(size=(modes, 3)) * scale * 0.9 ** np.arange(modes)[:, None]
    weights = generator.normal(size=(count, modes))
    return (base + np.einsum("nk,vk,kc->nvc", weights, waves, directions)).astype(np.float32)


def assert_exact(samples, faces):
    found = FaceIndex.build(faces).nearest(samples)
    distances = brute_force(samples, faces)
    np.testing.assert_allclose(found.distance, distances.min(axis=1), rtol=2e-6, atol=1e-6)
    chosen = distances[np.arange(len(samples)), found.index]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=2e-6, atol=1e-6)


@settings(max_examples=60)
@given(
    samples=st.integers(1, 70),
    faces=st.integers(1, 40),
    vertices=st.integers(1, 700),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 500.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_brute_force_on_noise_without_structure(samples, faces, vertices, spread, offset, seed):
    generator = np.random.default_rng(seed)
    a = (offset + spread * generator.normal(size=(samples, vertices, 3))).astype(np.float32)
    b = (offset + spread * generator.normal(size=(faces, vertices, 3))).astype(np.float32)
    assert_exact(a, b)


@pytest.mark.parametrize("vertices", [1259, 1500])
def test_equals_brute_force_on_smooth_faces(vertices):
    assert_exact(smooth_faces(80, vertices, seed=1), smooth_faces(60, vertices, seed=2))


def test_a_face_of_the_set_is_its_own_nearest():
    faces = smooth_faces(50, 400, seed=3)
    found = FaceIndex.build(faces).nearest(faces)
    np.testing.assert_array_equal(found.index, np.arange(50))
    np.testing.assert_allclose(found.distance, 0.0, atol=1e-6)


def test_of_equal_faces_the_first_is_chosen():
    face = smooth_faces(1, 300, seed=4)
    found = FaceIndex.build(np.repeat(face, 5, axis=0)).nearest(face + np.float32(1.0))
    assert found.index[0] == 0


def test_one_deviating_vertex_decides():
    """Cluster means hardly see a single vertex: the bounds must not decide alone."""
    face = smooth_faces(1, 800, seed=5)[0]
    faces = np.repeat(face[None], 4, axis=0)
    faces[[0, 1, 3], [10, 200, 500]] += np.float32([[8.0], [7.0], [6.0]])
    found = FaceIndex.build(faces).nearest(face[None])
    assert found.index[0] == 2
    found = FaceIndex.build(faces[[0, 1, 3]]).nearest(face[None])
    assert found.index[0] == 2


def test_clusters_are_a_partition_of_nearly_equal_parts():
    points = np.random.default_rng(0).normal(size=(501, 3))
    clusters = spatial_clusters(points, 32)
    np.testing.assert_array_equal(np.sort(np.concatenate(clusters)), np.arange(501))
    sizes = [len(cluster) for cluster in clusters]
    assert max(sizes) - min(sizes) <= 1
    extents = [np.linalg.norm(np.ptp(points[cluster], axis=0)) for cluster in clusters]
    assert np.mean(extents) < 0.6 * np.linalg.norm(np.ptp(points, axis=0))


def test_other_templates_and_empty_sets_are_refused():
    index = FaceIndex.build(smooth_faces(3, 40, seed=6))
    with pytest.raises(UsageError, match="40 vertices, not of 41"):
        index.nearest(smooth_faces(3, 41, seed=6))
    with pytest.raises(UsageError, match="at least one"):
        FaceIndex.build(np.zeros((0, 4, 3), np.float32))


def test_pruning_saves_most_of_the_work():
    """Far faces cost next to nothing: 40 times as many of them may not cost 8 times as much."""
    near, far = smooth_faces(30, 2500, seed=8), smooth_faces(1170, 2500, seed=9) + np.float32(30.0)
    samples = smooth_faces(200, 2500, seed=10)

    def seconds(faces):
        index = FaceIndex.build(faces)
        index.nearest(samples[:32])
        start = time.process_time()
        index.nearest(samples)
        return time.process_time() - start

    assert seconds(np.concatenate([near, far])) < 8 * seconds(near)
