"""Training with AdamW: the schedule, the same bits twice, which parameters decay, and clear refusals."""

import pytest
import torch
from torch import nn

from companion.errors import CompanionError
from companion.seeding import generator
from companion.vision import fitting
from companion.vision.fitting import FitConfig, fit, one_cycle, smoothed_cross_entropy

QUICK = FitConfig(epochs=3, batch_size=16, learning_rate=0.03, crop_padding=1)


def problem():
    """Two classes that differ in brightness."""
    labels = torch.arange(64) % 2
    noise = 0.1 * torch.rand(64, 1, 8, 8, generator=generator(0, "images"))
    return (labels.view(-1, 1, 1, 1) * 0.6 + noise).float(), labels


def network():
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 2))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator(1, "weights")))
    return layers


def test_learns_gives_the_same_bits_and_leaves_the_global_state():
    images, labels = problem()
    models = [network(), network()]
    state = torch.get_rng_state()
    losses = [fit(m, images, (labels,), smoothed_cross_entropy, QUICK, generator(2, "fit")) for m in models]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] and losses[0][-1] < 0.6 * losses[0][0]
    assert all(torch.equal(a, b) for a, b in zip(*[m.state_dict().values() for m in models], strict=True))
    assert ((models[0](images).argmax(1) == labels).float().mean() > 0.95) and not models[0].training


def test_the_schedule_rises_falls_and_ends_near_nothing():
    rates = [one_cycle(step, 100, 0.2) for step in range(100)]
    assert max(rates) == 1 and rates.index(1.0) == 19
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001 and one_cycle(0, 10, 0.0) == 1


def test_adamw_is_pytorchs():
    images, labels = problem()
    ours, theirs = network().eval(), network().eval()
    mine = fitting.AdamW(list(ours.parameters()), 0.05, 0.5)
    groups = [{"params": [p for p in theirs.parameters() if (p.ndim > 1) == many]} for many in (True, False)]
    groups[1]["weight_decay"] = 0.0
    reference = torch.optim.AdamW(groups, weight_decay=0.05)
    for step in range(6):
        for model in (ours, theirs):
            smoothed_cross_entropy(model(10 * images), labels).backward()
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
        reference.zero_grad()
        mine.step(0.01 * (step + 1))
        assert step or norm > 0.5, "the first gradient is clipped"
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_crops_are_shifts():
    images = torch.arange(2 * 36.0).view(2, 1, 6, 6)
    padded = nn.functional.pad(images, [2] * 4).permute(0, 2, 3, 1)
    found = fitting._cropped(padded, torch.tensor([1, 0]), 2, generator(0, "crop"))
    for crop, image in zip(found, padded[[1, 0]], strict=True):
        windows = image[..., 0].unfold(0, 6, 1).unfold(1, 6, 1)  # (5, 5, 6, 6)
        assert (windows == crop[0]).all(dim=(2, 3)).sum() == 1


def test_refusals():
    images, labels = problem()
    with pytest.raises(CompanionError, match="as many targets as images"):
        fit(network(), images, (labels[:5],), smoothed_cross_entropy, QUICK, generator(0, "fit"))
    with pytest.raises(CompanionError, match="training loss is nan"):
        fit(network(), images * float("nan"), (labels,), smoothed_cross_entropy, QUICK, generator(0, "fit"))
    with pytest.raises(CompanionError, match="warmup is 1"):
        FitConfig(warmup=1.5)
    with pytest.raises(CompanionError, match="batch normalisation needs two"):
        FitConfig(batch_size=1)
