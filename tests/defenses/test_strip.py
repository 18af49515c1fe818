"""STRIP: entropies worked out by hand, the threshold against scipy, errors counted on inputs that were not fitted."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from companion.defenses.strip import BACKDOORBENCH, ORIGINAL, Config, entropies, evaluate
from companion.errors import CompanionError
from companion.seeding import generator


class Answer(nn.Module):
    """A model that computes its logits by a function of the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def pictures(count, name="images"):
    return torch.rand(count, 1, 4, 4, generator=generator(0, name))


def test_certain_predictions_have_no_entropy():
    model = Answer(lambda x: torch.tensor([1e4, 0.0, 0.0]).repeat(len(x), 1))  # exactly 1, 0, 0
    assert torch.equal(entropies(model, pictures(5), pictures(9, "overlays"), generator(0)), torch.zeros(5))


@pytest.mark.parametrize("config", [ORIGINAL, BACKDOORBENCH], ids=["original", "backdoorbench"])
def test_uniform_predictions_have_log_k(config):
    model = Answer(lambda x: torch.zeros(len(x), 7))
    found = entropies(model, pictures(3), pictures(9, "overlays"), generator(0), config)
    assert torch.allclose(found, torch.full((3,), math.log(7, config.base)))


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_entropy_by_hand(weight):
    # One overlay to draw from: the model sees x + w o, not clipped, and answers with log-odds (its sum, 0).
    image, overlay = torch.full((1, 1, 1, 2), 0.9), torch.full((1, 1, 1, 2), 0.8)
    model = Answer(lambda x: torch.stack([x.sum((1, 2, 3)), torch.zeros(len(x))], dim=1))
    share = 1 / (1 + math.exp(-2 * (0.9 + weight * 0.8)))
    expected = -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
    found = entropies(model, image, overlay, generator(0), Config(overlays=3, weight=weight))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_mean_over_the_drawn_overlays():
    # Overlay i makes the model certain (i = 0) or undecided between two classes (i = 1): H is the share of ones drawn.
    overlays = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    model = Answer(lambda x: torch.stack([1e4 * (1 - x[:, 0, 0, 0]), torch.zeros(len(x))], dim=1))
    images = torch.zeros(6, 1, 1, 1)
    found = entropies(model, images, overlays, generator(4), Config(overlays=50))
    picks = torch.randint(2, (6, 50), generator=generator(4))
    assert torch.allclose(found, picks.float().mean(1))
    assert len(found.unique()) > 1  # each input has overlays of its own


def test_chunks_do_not_matter(monkeypatch):
    model = Answer(lambda x: torch.stack([x.mean((1, 2, 3)), x[:, 0, 1, 1], x[:, 0, 2, 2]], dim=1) * 9)
    whole = entropies(model, pictures(20), pictures(9, "overlays"), generator(0))
    monkeypatch.setattr("companion.defenses.strip.IMAGES_AT_ONCE", 350)
    parts = entropies(model, pictures(20), pictures(9, "overlays"), generator(0))
    assert torch.allclose(whole, parts, atol=1e-6) and len(parts) == 20
    assert len(entropies(model, pictures(0), pictures(9, "overlays"), generator(0))) == 0


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = entropies(model, pictures(3), pictures(9, "overlays"), generator(0))
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (found * torch.ones(3, requires_grad=True)).sum().backward()  # an ordinary tensor


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 3.3), min_size=2, max_size=60), st.floats(0.001, 0.5))
def test_threshold_equals_scipy(values, share):
    clean = torch.tensor(values, dtype=torch.float64)
    report = evaluate(clean, clean, clean, share)
    mu, sigma = scipy.stats.norm.fit(values)
    expected = scipy.stats.norm.ppf(share, loc=mu, scale=sigma) if sigma > 1e-9 else mu
    assert report.threshold == pytest.approx(expected, abs=1e-6)
    by_rank = evaluate(clean, clean, clean, share, "quantile")
    assert by_rank.threshold == pytest.approx(scipy.stats.mstats.mquantiles(values, [share], 1, 1)[0], abs=1e-9)
    assert by_rank.false_rejection.successes <= math.ceil(share * (len(values) - 1))


def test_errors_are_counted_on_other_inputs():
    fit = torch.tensor([1.0, 2.0, 3.0])
    report = evaluate(fit, torch.tensor([0.1, 1.5, 2.5, 0.2]), torch.tensor([0.0, 0.0, 0.9, 2.0, 3.0]), 0.1)
    assert report.threshold == pytest.approx(2 + scipy.stats.norm.ppf(0.1) * math.sqrt(2 / 3))
    assert (report.false_rejection.successes, report.false_rejection.n) == (2, 4)
    assert (report.false_acceptance.successes, report.false_acceptance.n) == (2, 5)
    constant = evaluate(torch.ones(5), torch.ones(4), torch.tensor([0.5, 1.0]))
    assert constant.threshold == 1 and constant.false_rejection.successes == 0
    assert constant.false_acceptance.successes == 1  # an entropy at the threshold counts as clean


def test_errors_name_the_value():
    ones = torch.ones(3)
    with pytest.raises(CompanionError, match=r"\(1, 4, 4\)|\(2, 1, 4, 4\).*\(0, 1, 4, 4\)"):
        entropies(Answer(lambda x: x), pictures(2), pictures(0), generator(0))
    with pytest.raises(CompanionError, match=r"rate is 1\.5"):
        evaluate(ones, ones, ones, 1.5)
    with pytest.raises(CompanionError, match='"median"'):
        evaluate(ones, ones, ones, 0.1, "median")
    with pytest.raises(CompanionError, match="triggered entropies"):
        evaluate(ones, ones, torch.tensor([1.0, float("nan")]))
