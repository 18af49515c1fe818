"""Signs: 0 is +1, and the gradients are the ones that the papers define."""

import torch

from companion.binary.binarize import piecewise, sign, straight_through

POINTS = torch.tensor([-2.0, -1.0, -0.75, -0.25, -0.0, 0.0, 0.25, 0.75, 1.0, 2.0])


def gradient(function):
    x = POINTS.clone().requires_grad_()
    function(x).sum().backward()
    return x.grad


def test_zero_is_plus_one_in_every_sign():
    expected = torch.tensor([-1.0] * 4 + [1.0] * 6)
    for function in (sign, straight_through, piecewise):
        assert torch.equal(function(POINTS), expected)


def test_straight_through_passes_inside_and_stops_outside():
    assert torch.equal(gradient(straight_through), (POINTS.abs() <= 1).float()), "at 1 too: clipped weights"


def test_piecewise_gradient_is_the_slope_of_reactnets_polynomial():
    assert torch.allclose(gradient(piecewise), torch.tensor([0, 0, 0.5, 1.5, 2, 2, 1.5, 0.5, 0, 0]))
