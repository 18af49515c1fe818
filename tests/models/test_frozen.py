"""A frozen model: nothing of it changes, and everything is back afterwards, whatever happens."""

import pytest
import torch
from torch import nn

from companion.models.frozen import device_of, frozen


def test_every_part_is_restored():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Dropout()).train()
    model[0].eval()  # a mixture of modes and of trained parameters
    model[1].bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(model) as held:
        assert held is model and not any(part.training for part in model.modules())
        inputs = torch.ones(2, 3, requires_grad=True)
        model(inputs).sum().backward()
        assert inputs.grad is not None and all(p.grad is None for p in model.parameters())
        _ = 1 / 0
    assert [part.training for part in model] == [False, True, True] and model.training
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]


def test_device_of():
    assert device_of(nn.Flatten()) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
