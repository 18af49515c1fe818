"""Neural Cleanse: the anomaly index by hand, the control of c, and a planted backdoor that must be found."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from companion.defenses.neural_cleanse import (
    BACKDOORBENCH,
    OFFICIAL,
    Config,
    _batches,
    _Control,
    anomaly_index,
    reverse_triggers,
)
from companion.errors import CompanionError
from companion.seeding import generator

TARGET, CLASSES = 2, 6
PATCH = (slice(4, 7), slice(6, 9))  # rows and columns of the planted trigger
QUICK = Config(steps=250, check_every=5, batch=16, warm_up=False, initial_cost=0.02, start=1.0)
norms = st.lists(st.floats(0.5, 1000), min_size=3, max_size=12)


class Planted(nn.Module):
    """Answers with TARGET when a known 3x3 patch is white; else with the brightest of CLASSES bands of columns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.normalise = nn.BatchNorm2d(1)  # in training mode it would change with every batch
        self.seen = []  # batch sizes

    def forward(self, images):
        self.seen.append(len(images))
        images = self.normalise(images)
        bands = images[:, 0].unflatten(2, (CLASSES, 3)).mean((1, 3))  # (B, CLASSES)
        patch = images[(slice(None), 0, *PATCH)].mean((1, 2))  # (B,)
        logits = 12 * bands
        fires = 60 * (patch - 0.6).relu()
        return self.scale * (logits + fires.unsqueeze(1) * torch.eye(CLASSES)[TARGET])


@pytest.fixture(scope="module")
def searched():
    images = torch.rand(64, 1, 18, 18, generator=generator(0, "images")) * 0.7
    model = Planted()
    return model, images, reverse_triggers(model, images, range(CLASSES), QUICK, generator(1))


def test_planted_backdoor_is_found_where_it_is(searched):
    _, _, found = searched
    assert found.reached.all() and (found.success >= QUICK.threshold).all()
    inside = found.masks[(TARGET, *PATCH)].sum()
    assert found.norms[TARGET] <= 9 and inside > 0.8 * found.norms[TARGET]
    used = found.masks[TARGET] > 0.5
    assert used.any() and (found.patterns[TARGET, 0][used] > 0.9).all()  # white, as the planted trigger is
    anomaly = anomaly_index(found.norms, found.reached)
    assert anomaly.flagged == (TARGET,) and anomaly.index > 2


def test_reversed_triggers_work_on_all_images(searched):
    model, images, found = searched
    model.eval()
    for k in range(CLASSES):
        stamped = (1 - found.masks[k]) * images + found.masks[k] * found.patterns[k]
        assert (model(stamped).argmax(1) == k).float().mean() > 0.95
    assert torch.allclose(found.norms, found.masks.sum((1, 2)))
    for values in (found.masks, found.patterns):
        assert values.min() >= 0 and values.max() <= 1


def test_classes_stop_on_their_own_and_then_cost_nothing():
    images = torch.rand(64, 1, 18, 18, generator=generator(0, "images")) * 0.7
    model = Planted()
    config = replace(QUICK, steps=400, stop_patience=3, patience=2)
    found = reverse_triggers(model, images, range(CLASSES), config, generator(1))
    assert found.steps.min() < found.steps.max()
    assert (found.steps % config.check_every == 0).all()
    assert sum(model.seen) == int(found.steps.sum()) * config.batch
    assert len(model.seen) == int(found.steps.max())
    assert model.seen == sorted(model.seen, reverse=True)


def test_a_class_does_not_depend_on_its_neighbours():
    images = torch.rand(64, 1, 18, 18, generator=generator(0, "images")).double() * 0.7
    model = Planted().double()
    config = replace(QUICK, steps=100)
    together = reverse_triggers(model, images, range(CLASSES), config, generator(5))
    for label in (4, TARGET):
        alone = reverse_triggers(model, images, [label], config, generator(5))
        assert alone.classes == (label,)
        assert torch.allclose(together.masks[label], alone.masks[0], atol=1e-6)
        assert torch.allclose(together.patterns[label], alone.patterns[0], atol=1e-6)
        assert together.steps[label] == alone.steps[0] and together.success[label] == alone.success[0]


def test_the_model_is_left_as_it_was():
    model = Planted().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.normalise.training))
    images = torch.rand(8, 1, 18, 18, generator=generator(0))
    reverse_triggers(model, images, [0, 1], replace(QUICK, steps=5, batch=4), generator(0))
    assert modes and not any(modes)
    assert model.training and model.normalise.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_class_that_is_never_reached_counts_as_large():
    class Deaf(nn.Module):
        def forward(self, images):
            return torch.cat([images.mean((1, 2, 3)).unsqueeze(1) * 0 + 1, images.sum((2, 3)) * 0], dim=1)

    images = torch.rand(8, 1, 6, 6, generator=generator(0))
    config = Config(steps=60, check_every=5, batch=8, warm_up=False, initial_cost=1.0, start=-3.0)
    found = reverse_triggers(Deaf(), images, [0, 1], config, generator(0))
    assert found.reached.tolist() == [True, False]
    assert found.norms[0] < 0.1 and found.norms[1] == 36 and found.success.tolist() == [1, 0]
    assert anomaly_index(found.norms, found.reached).index == pytest.approx(1 / 1.4826)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1000), st.floats(0, 1000))
def test_two_classes_never_say_anything(first, second):
    anomaly = anomaly_index(torch.tensor([first, second], dtype=torch.float64), torch.ones(2, dtype=torch.bool))
    assert anomaly.index == (0 if first == second else pytest.approx(0.6745, abs=1e-4))
    assert anomaly.flagged == ()


@settings(max_examples=100, deadline=None)
@given(norms, st.floats(0.1, 10), st.randoms())
def test_index_keeps_under_scale_and_order(values, scale, shuffle):
    reached = torch.ones(len(values), dtype=torch.bool)
    norms = torch.tensor(values, dtype=torch.float64)
    anomaly = anomaly_index(norms, reached)
    order = list(range(len(values)))
    shuffle.shuffle(order)
    moved = anomaly_index(norms[order], reached)
    assert moved.index == anomaly.index
    assert {order[k] for k in moved.flagged} == set(anomaly.flagged)
    scaled = anomaly_index(norms * 2, reached)  # a power of two: exact
    assert scaled.index == anomaly.index and scaled.flagged == anomaly.flagged
    for k in range(len(values)):
        below = norms[k] < anomaly.median and abs(norms[k] - anomaly.median) > 2 * anomaly.mad
        assert (k in anomaly.flagged) == below


def test_index_by_hand():
    anomaly = anomaly_index(torch.tensor([2.0, 40, 44, 50, 38]), torch.ones(5, dtype=torch.bool))
    assert anomaly.median == 40 and anomaly.mad == pytest.approx(1.4826 * 4)
    assert anomaly.index == pytest.approx(38 / (1.4826 * 4)) and anomaly.flagged == (0,)


def test_unreached_norms_are_large_whatever_they_hold():
    reached = torch.tensor([True, True, False, True, True])
    zero = anomaly_index(torch.tensor([41.0, 40, 0, 50, 38]), reached)
    large = anomaly_index(torch.tensor([41.0, 40, 50, 50, 38]), torch.ones(5, dtype=torch.bool))
    assert zero.index == large.index and 2 not in zero.flagged
    nothing = anomaly_index(torch.zeros(4), torch.zeros(4, dtype=torch.bool))
    assert nothing.index == 0 and nothing.flagged == ()


def test_index_where_most_norms_are_equal():
    reached = torch.ones(5, dtype=torch.bool)
    assert anomaly_index(torch.full((5,), 7.0), reached).index == 0
    anomaly = anomaly_index(torch.tensor([7.0, 7, 7, 3, 9]), reached)
    assert anomaly.mad == 0 and anomaly.index == float("inf") and anomaly.flagged == (3,)


def official_rule(rates, norms, config):
    """The control loop of the official code for one class, written out step by step."""
    cost = 0.0 if config.warm_up else config.initial_cost
    best = compared = float("inf")
    up = down = stale = waiting = 0
    rose = fell = False
    trace = []
    for rate, norm in zip(rates, norms, strict=True):
        success = rate >= config.threshold
        improved = success and norm < best
        best = norm if improved else best
        if best < float("inf"):
            stale = stale + 1 if best >= config.stop_ratio * compared else 0
        compared = min(best, compared)
        if rose and fell and stale >= config.stop_patience:
            trace.append((cost, improved, True))
            return trace
        if cost == 0 and success:
            waiting += 1
            if waiting >= config.patience:
                cost, up, down, rose, fell = config.initial_cost, 0, 0, False, False
        else:
            waiting = 0
        up, down = (up + 1, 0) if success else (0, down + 1)
        if up >= config.patience:
            cost, up, rose = cost * config.raise_factor, 0, True
        elif down >= config.patience:
            cost, down, fell = cost / config.lower_factor, 0, True
        trace.append((cost, improved, False))
    return trace


@pytest.mark.parametrize("config", [OFFICIAL, BACKDOORBENCH], ids=["official", "backdoorbench"])
def test_control_equals_the_official_loop(config):
    stream = generator(3)
    count, length = 40, 300
    drift = torch.rand(count, 1, generator=stream) * 0.5 + 0.45
    rates = (torch.rand(count, length, generator=stream) < drift).float()
    for k in range(0, count, 2):  # runs of equal outcomes, so that c moves both ways
        rates[k] = rates[k, ::7].repeat_interleave(7)[:length]
    norms = 100 - 20 * torch.rand(count, length, generator=stream).cumsum(1) / length
    expected = [official_rule(rates[k].tolist(), norms[k].tolist(), config) for k in range(count)]
    control = _Control(count, config)
    running = torch.ones(count, dtype=torch.bool)
    for t in range(length):
        improved, stopped = control.check(rates[:, t], norms[:, t])
        for k in running.nonzero().squeeze(1).tolist():
            cost, better, stops = expected[k][t]
            assert bool(improved[k]) == better and bool(stopped[k]) == stops
            assert stops or float(control.cost[k]) == pytest.approx(cost)
        running &= ~stopped
    assert 0 < running.sum() < count  # both endings were tried
    assert max(cost for trace in expected for cost, _, _ in trace) > config.initial_cost


def test_batches_are_reshuffled_epochs():
    stream = _batches(10, 4, generator(0))
    drawn = torch.stack([next(stream) for _ in range(5)])
    assert torch.equal(drawn.flatten()[:10].sort().values, torch.arange(10))
    assert torch.equal(drawn.flatten()[10:].sort().values, torch.arange(10))


def test_errors_name_the_value():
    model, images = Planted(), torch.rand(4, 1, 18, 18, generator=generator(0))
    with pytest.raises(CompanionError, match=r"values from .* to 2"):
        reverse_triggers(model, images.clamp(min=0).index_fill(0, torch.tensor([0]), 2.0), [0], QUICK, generator(0))
    with pytest.raises(CompanionError, match=r"\[1, 1\]"):
        reverse_triggers(model, images, [1, 1], QUICK, generator(0))
    model.scale.data.fill_(float("nan"))
    with pytest.raises(CompanionError, match="loss is nan"):
        reverse_triggers(model, images, [0], QUICK, generator(0))
    with pytest.raises(CompanionError, match=r"shape \(2,\)"):
        anomaly_index(torch.zeros(3), torch.ones(2, dtype=torch.bool))
    with pytest.raises(CompanionError, match="nan"):
        anomaly_index(torch.tensor([1.0, float("nan")]), torch.ones(2, dtype=torch.bool))
