"""Our AdamW against torch's, and the schedule by hand."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.optimisers import AdamW, decayed, warmup_cosine


def network():
    torch_seed = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(torch.randn(one.shape, generator=torch_seed))
    return model


def test_it_takes_the_steps_of_torchs_adamw_with_decay_on_matrices_only():
    ours = network()
    theirs = copy.deepcopy(ours)
    named = list(theirs.named_parameters())
    groups = [
        {"params": [one for name, one in named if decayed(name, one)], "weight_decay": 0.1},
        {"params": [one for name, one in named if not decayed(name, one)], "weight_decay": 0.0},
    ]
    assert [len(group["params"]) for group in groups] == [2, 4]
    reference = torch.optim.AdamW(groups, lr=1.0)
    optimiser = AdamW(ours.named_parameters(), weight_decay=0.1)
    stream = torch.Generator().manual_seed(0)
    for step in range(6):
        inputs = torch.randn(5, 4, generator=stream)
        rate = 0.01 * (step + 1)
        for model in (ours, theirs):
            model.zero_grad()
            model(inputs).square().mean().backward()
        optimiser.step(rate)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_parameters_without_gradients_stay_and_a_frozen_model_is_refused():
    model = network()
    model[0].requires_grad_(False)
    before = model[2].bias.clone()
    optimiser = AdamW(model.named_parameters())
    assert len(optimiser.parameters) == 4
    model[1](torch.ones(1, 8)).sum().backward()  # reaches the norm alone
    optimiser.step(0.1)
    assert torch.equal(model[2].bias, before)
    with pytest.raises(CompanionError, match="no parameter that needs a gradient"):
        AdamW(model.requires_grad_(False).named_parameters())


def test_the_schedule_rises_to_its_peak_and_falls_to_zero():
    rates = [warmup_cosine(2.0, step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 2.0 and rates[9] == rates[10] == 2.0
    assert all(late <= early for early, late in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(1 + math.cos(math.pi * 89 / 90), abs=1e-9)
    assert warmup_cosine(1.0, 1, 4, 1000) == 1.0, "a warm-up longer than the training is cut to half of it"
