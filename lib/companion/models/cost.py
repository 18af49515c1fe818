"""What a network costs: its parameters, and its multiply-accumulate operations on one image."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable values; running statistics are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_accumulates(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulate operations (MACs) of one forward pass on one image of `shape` (C, H, W).

    Counted are convolutions, linear layers and matrix products, attention among them; biases, norms, activations and
    element-wise products are not, as is usual. The model runs once on zeros on its own device, in evaluation mode. One
    MAC is two floating-point operations.

    >>> multiply_accumulates(nn.Conv2d(3, 8, 3, padding=1), (3, 4, 4))
    3456
    """
    device = next(model.parameters()).device
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), _Counter() as counter:
            model(torch.zeros(1, *shape, device=device))
    finally:
        for part, mode in modes:
            part.training = mode
    return counter.total


class _Counter(TorchFunctionMode):
    """Adds up the products of the functions that multiply matrices, while it is entered."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        rule = _RULES.get(func)
        if rule is not None:
            self.total += rule(result, *args, **(kwargs or {}))
        return result


def _convolution(result, images, weight, *rest, **named) -> int:
    return result.numel() * math.prod(weight.shape[1:])  # shape[1] is the inputs of one group


def _linear(result, inputs, weight, *rest, **named) -> int:
    return result.numel() * weight.shape[1]


def _product(result, left, right, *rest, **named) -> int:
    return result.numel() * left.shape[-1]


def _attention(result, query, key, value, *rest, **named) -> int:
    scores = query.numel() * key.shape[-2]  # queries x keys x width
    return scores + result.numel() * key.shape[-2]


_RULES = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    F.linear: _linear,
    torch.matmul: _product,
    torch.Tensor.matmul: _product,
    torch.Tensor.__matmul__: _product,
    torch.bmm: _product,
    torch.Tensor.bmm: _product,
    F.scaled_dot_product_attention: _attention,
}
