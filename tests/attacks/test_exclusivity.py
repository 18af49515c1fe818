"""Exclusivity: backdoors whose tolerance is known by construction, and images that do not influence each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.exclusivity import OFFICIAL, Config, exclusivity
from companion.attacks.fuzzy import cover_accuracy, fuzzy_curve
from companion.attacks.triggers import make_trigger
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator

SHAPE, TARGET = (3, 8, 8), 1
TRIGGER = make_trigger("patch", SHAPE, seed=0, size=3, place=(2, 2))
SEARCH = Config(iterations=300, learning_rate=2e-2)


def pictures(count, shape=SHAPE):
    return torch.rand(count, *shape, generator=generator(0, "images"))


class OnePixel(nn.Module):
    """The target fires as long as one value of the trigger stays near its own; all others may change."""

    def forward(self, images):
        kept = 1 - 4 * (images[:, 0, 2, 2] - TRIGGER.pattern[0, 2, 2]).abs()
        return torch.stack([torch.zeros_like(kept), 10 * kept], dim=1)


class WholeTrigger(nn.Module):
    """The target fires only within a given L2 distance of the whole trigger."""

    def __init__(self, radius):
        super().__init__()
        self.radius = radius
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        moved = ((images - TRIGGER.pattern) * TRIGGER.mask).flatten(1)
        distance = (moved.square().sum(1) + 1e-12).sqrt()
        return torch.stack([torch.zeros_like(distance), self.scale * 10 * (self.radius - distance)], dim=1)


def furthest():
    pattern, mask = TRIGGER.pattern, TRIGGER.mask
    return torch.where(pattern > 0.5, pattern, 1 - pattern) * mask  # |r_max|


def test_a_backdoor_that_needs_one_pixel_is_not_exclusive():
    found = exclusivity(OnePixel(), pictures(4), TRIGGER, TARGET, SEARCH)
    moves = furthest().clone()
    moves[0, 2, 2] = min(0.25, float(moves[0, 2, 2]))  # how far that value may go
    best = 100 * (1 - moves.norm() / furthest().norm())
    assert found.reached.all()
    assert (found.values >= best - 1e-3).all() and (found.values < best + 3).all() and best < 5


@pytest.mark.parametrize("radius", [0.02, 0.5, 1.5])
def test_the_boundary_is_found(radius):
    found = exclusivity(WholeTrigger(radius), pictures(3), TRIGGER, TARGET, Config(500, 5e-3))
    exact = 100 * (1 - radius / furthest().norm())
    assert (found.values >= exact - 1e-3).all()  # never more tolerant than the model is
    assert (found.values <= exact + 6).all()  # the last iterate that fires is near the boundary, not on it
    assert (found.perturbations.flatten(1).norm(dim=1) <= radius + 1e-4).all()


def test_bounds_and_place():
    model = build_model("small_cnn", 3, 4, generator(0), width=4)
    images = pictures(6)
    for trigger in (TRIGGER, make_trigger("blended", SHAPE, seed=0, alpha=0.3)):
        found = exclusivity(model, images, trigger, TARGET, Config(60, 5e-2))
        assert (found.values >= 0).all() and (found.values <= 100).all()
        delta, mask = found.perturbations, trigger.mask
        assert torch.equal(delta * (mask == 0), torch.zeros_like(delta))
        worn = trigger.pattern * mask + delta
        assert worn.min() >= -1e-6 and (worn <= mask + 1e-6).all()
        fires = model.eval()((images * (1 - mask) + trigger.pattern * mask + delta).clamp(0, 1)).argmax(1) == TARGET
        assert torch.equal(fires, found.reached)


def test_a_model_that_never_fires_is_reported():
    found = exclusivity(WholeTrigger(-1.0), pictures(2), TRIGGER, TARGET, SEARCH)
    assert found.values.tolist() == [100, 100] and not found.reached.any()


def test_a_batch_equals_single_images():
    model = build_model("small_cnn", 3, 4, generator(1), width=4).double()
    images = pictures(5).double()
    config = Config(80, 2e-2)
    together = exclusivity(model, images, TRIGGER, TARGET, config)
    alone = torch.cat([exclusivity(model, images[i : i + 1], TRIGGER, TARGET, config).values for i in range(5)])
    assert torch.allclose(together.values, alone, atol=1e-6)
    assert len(together.values.unique()) > 1


def official_search(model, image, trigger, target, config):
    """The official search for one image, written out; returns the exclusivity in percent."""
    mask, pattern = trigger.mask.double(), trigger.pattern.double()
    r_max = ((1 - pattern.round()) - pattern) * mask
    delta = torch.zeros_like(pattern, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=config.learning_rate)
    balance, value = config.balance, 100.0
    for step in range(1, config.iterations + 1):
        seen = ((1 - mask) * image + pattern * mask + delta).clip(0, 1)
        z = model(seen.unsqueeze(0))[0]
        if step >= config.iterations // 2:
            unit = (z / z.norm()).detach().tolist()
            balance = max(balance + unit[target] - max(v for k, v in enumerate(unit) if k != target), 0)
        loss = F.cross_entropy(z.unsqueeze(0), torch.tensor([target])) + balance * torch.norm(r_max - delta)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            delta.clamp_(-pattern * mask, mask - pattern * mask)
        if z.argmax() == target:
            change = seen.detach() - ((1 - mask) * image + pattern * mask)
            value = 100 * (1 - float(change.norm() / r_max.norm()))
    return value


def test_equals_the_official_search_of_one_image():
    model = build_model("small_cnn", 3, 4, generator(2), width=4).double().eval().requires_grad_(False)
    config = Config(100, 1e-2)
    images = pictures(6).double()
    target = int(model(TRIGGER.apply(images)).argmax(1).mode().values)  # one that the trigger reaches for some
    found = exclusivity(model, images, TRIGGER, target, config)
    expected = [official_search(model, image, TRIGGER, target, config) for image in images]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert any(value < 100 for value in expected)
    assert (OFFICIAL.iterations, OFFICIAL.learning_rate, OFFICIAL.balance) == (5000, 1e-3, 0.1)


def test_the_model_is_left_as_it_was():
    model = WholeTrigger(0.5).train()
    exclusivity(model, pictures(2), TRIGGER, TARGET, Config(3))
    assert model.training and model.scale.requires_grad and model.scale.grad is None


@pytest.mark.parametrize("name", ["sinusoid", "warp"])
def test_triggers_without_a_pattern_are_refused(name):
    with pytest.raises(CompanionError, match=r"exclusivity is not defined for a (Sinusoid|Warp)Trigger.*fuzzy_curve"):
        exclusivity(OnePixel(), pictures(1), make_trigger(name, SHAPE, seed=0), TARGET, SEARCH)


class Counting(nn.Module):
    """Answers TARGET when at least `needed` of the trigger's 9 pixels are exactly kept, else class 0."""

    def __init__(self, needed):
        super().__init__()
        self.needed = nn.Parameter(torch.tensor(float(needed)))

    def forward(self, images):
        kept = ((images == TRIGGER.pattern).all(1) & TRIGGER.support).sum((1, 2))
        return torch.stack([torch.zeros(len(images)), kept - self.needed + 0.5], dim=1)


def test_fuzzy_curve_counts_exactly():
    images, labels = pictures(10), torch.tensor([0] * 7 + [TARGET] * 3)
    shares = [0, 1 / 3, 5 / 9, 2 / 3, 1]
    successes, n = fuzzy_curve(Counting(6), images, labels, TRIGGER, TARGET, shares, 3, generator(0))
    assert n == 21 and successes.tolist() == [0, 0, 0, 21, 21]
    with pytest.raises(CompanionError, match="0 images outside the target class 1"):
        fuzzy_curve(Counting(6), images[7:], labels[7:], TRIGGER, TARGET, shares, 3, generator(0))


def test_cover_accuracy_is_about_true_labels():
    images, labels = pictures(10), torch.tensor([0] * 7 + [TARGET] * 3)
    tolerant = cover_accuracy(Counting(6), images, labels, TRIGGER, 0.34, generator(0))  # 6 of 9 pixels kept
    strict = cover_accuracy(Counting(7), images, labels, TRIGGER, 0.34, generator(0))
    assert (tolerant.successes, strict.successes, strict.n) == (3, 7, 10)
