"""The mean absolute error against its definition."""

import pytest
import torch

from meshgan.nn.networks import l1


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
def test_the_error_and_its_slopes_are_those_of_the_definition(wanted: tuple[bool, bool]) -> None:
    rng = torch.Generator().manual_seed(0)
    pair = [torch.randn(2, 5, 3, generator=rng, dtype=torch.float64).requires_grad_(want) for want in wanted]
    leaves = [tensor for tensor in pair if tensor.requires_grad]
    expected = (pair[0] - pair[1]).abs().mean()
    found = l1(*pair)
    torch.testing.assert_close(found, expected)
    slopes, references = torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * expected, leaves)
    for slope, reference in zip(slopes, references, strict=True):
        torch.testing.assert_close(slope, reference)


def test_where_nothing_is_wrong_the_slope_is_zero() -> None:
    faces = torch.ones(1, 2, 3)
    rebuilt = faces.clone().requires_grad_()
    (slope,) = torch.autograd.grad(l1(faces, rebuilt), rebuilt)
    assert not slope.any()
