"""Batches depend on seed and step alone, cover each epoch once, and never show a test face."""

import numpy as np
import pytest
import torch

from meshgan.errors import UsageError
from meshgan.training.state import Batches, fixed_codes
from meshgan.training.team import Team


@pytest.fixture
def batches(tiny_faces):
    return Batches(tiny_faces, code=4, batch=8, seed=3, team=Team())


def test_a_batch_follows_from_seed_and_step(tiny_faces, batches):
    again = Batches(tiny_faces, code=4, batch=8, seed=3, team=Team())
    other = Batches(tiny_faces, code=4, batch=8, seed=4, team=Team())
    for step in (17, 2, 40):  # in any order
        assert torch.equal(batches(step).faces, again(step).faces)
        assert torch.equal(batches(step).codes, again(step).codes)
        assert not torch.equal(batches(step).codes, other(step).codes)
    assert not torch.equal(batches(0).codes, batches(1).codes)


def test_an_epoch_shows_each_training_face_once(tiny_faces):
    batches = Batches(tiny_faces, code=4, batch=4, seed=3, team=Team())  # 4 divides 68
    assert batches.steps_per_epoch * 4 == len(tiny_faces.split.train)
    orders = []
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        orders.append(np.concatenate([batches.rows_of(step) for step in steps]))
        assert sorted(orders[-1]) == sorted(tiny_faces.split.train)
    assert not np.array_equal(*orders)


def test_faces_are_normalised_training_faces(tiny_faces, batches):
    rows = batches.rows_of(5)
    expected = tiny_faces.normalisation.apply(tiny_faces.vertices[rows])
    np.testing.assert_allclose(batches(5).faces, expected, atol=1e-6)
    assert not np.isin(rows, tiny_faces.split.test).any()


def test_codes_are_uniform_on_both_sides_of_zero(batches):
    codes = torch.cat([batches(step).codes for step in range(400)])
    assert codes.abs().max() <= 1
    assert codes.mean().abs() < 0.02
    assert (codes.square().mean() - 1 / 3).abs() < 0.02  # a normal distribution would have 1


def test_processes_share_a_batch_without_rest_or_overlap(tiny_faces, batches):
    shares = [Batches(tiny_faces, 4, 8, 3, Team(rank, 2))(9) for rank in (0, 1)]
    for name in ("faces", "codes", "mix"):
        together = torch.stack([getattr(share, name) for share in shares], dim=1).flatten(0, 1)
        assert torch.equal(together, getattr(batches(9), name))


def test_phases_count_steps(batches):
    assert [batches(step, phases=3).phase for step in range(4)] == [0, 1, 2, 0]


def test_batches_that_cannot_be_are_refused(tiny_faces):
    with pytest.raises(UsageError, match="68 training faces, fewer than one batch of 100"):
        Batches(tiny_faces, 4, 100, 0, Team())
    with pytest.raises(UsageError, match="cannot be shared by 3 processes"):
        Batches(tiny_faces, 4, 8, 0, Team(0, 3))


def test_fixed_codes_follow_the_prior():
    assert fixed_codes(500, 8, "uniform", 0).abs().max() <= 1
    assert fixed_codes(500, 8, "standard-normal", 0).abs().max() > 2
    assert torch.equal(fixed_codes(16, 8, "uniform", 0), fixed_codes(16, 8, "uniform", 0))
    assert not torch.equal(fixed_codes(16, 8, "uniform", 0), fixed_codes(16, 8, "uniform", 1))
