"""A model that is questioned, not trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Hold `model` in evaluation mode and without parameter gradients; afterwards every part is as it was.

    Gradients with respect to the input still flow, and cost less.
    """
    modes = [(part, part.training) for part in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield model
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, value in wanted:
            parameter.requires_grad_(value)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU for a model without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
