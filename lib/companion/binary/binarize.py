"""Signs with gradients: the step that makes weights and activations binary, and what training pretends its slope is.

The sign of 0 is +1 everywhere, so that one bit says everything: 1 for +1, 0 for -1.
"""

import torch

_ABOVE_ONE = 1 + 2.0**-23  # the next float32; hardtanh's own gradient stops at its limits


def sign(values: torch.Tensor) -> torch.Tensor:
    """Return +1.0 where `values` >= 0 and -1.0 elsewhere, float32, without a gradient."""
    return torch.sign(values).add_(0.5).sign_()  # 0 becomes 1; many times faster than torch.where


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return sign(values)

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, values, -_ABOVE_ONE, _ABOVE_ONE)


class _Piecewise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return sign(values)

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return gradient * (2 - 2 * values.abs()).clamp_(min=0)


def straight_through(values: torch.Tensor) -> torch.Tensor:
    """Return sign(values); the gradient passes unchanged where |value| <= 1 and is 0 elsewhere.

    At exactly 1 it passes, or weights that are clipped to [-1, 1] could never come back.

    Source: the straight-through estimator of Hubara et al., Binarized Neural Networks, 2016.
    """
    return _StraightThrough.apply(values)


def piecewise(values: torch.Tensor) -> torch.Tensor:
    """Return sign(values); the gradient is multiplied by 2 + 2x on [-1, 0), 2 - 2x on [0, 1) and 0 elsewhere.

    That is the slope of a piecewise polynomial that is nearer to the step than a ramp is. Source: Liu et al.,
    Bi-Real Net, 2018, as in the official code of ReActNet, 2020.
    """
    return _Piecewise.apply(values)
