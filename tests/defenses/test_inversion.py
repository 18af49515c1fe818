"""Images drawn out of a network: sure of the class, repeatable, near the remembered statistics."""

from dataclasses import replace

import pytest
import torch

from companion.data import catalogue
from companion.defenses import inversion
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator
from companion.training import TrainingConfig, logits, train

LABELS = torch.arange(10)
QUICK = inversion.Config(steps=60)


@pytest.fixture(scope="module")
def model():
    data = catalogue.load("digits", "train", size=600)
    network = build_model("small_cnn", 1, 10, generator(0, "weights"), width=6)
    train(network, data.images, data.labels, TrainingConfig(4, 32, 0.1), generator(0, "training"))
    return network


def test_the_network_takes_the_images_for_their_classes(model):
    found = inversion.invert(model, (1, 16, 16), LABELS, QUICK, generator(0, "inversion"))
    assert found.shape == (10, 1, 16, 16) and found.min() >= 0 and found.max() <= 1
    assert (logits(model, found).argmax(1) == LABELS).float().mean() >= 0.9
    again = inversion.invert(model, (1, 16, 16), LABELS, QUICK, generator(0, "inversion"))
    assert torch.equal(found, again)
    assert all(parameter.requires_grad for parameter in model.parameters()) and not model.training


def test_statistics_and_smoothness_are_what_the_weights_buy(model):
    def drawn(**changes):
        return inversion.invert(model, (1, 16, 16), LABELS, replace(QUICK, **changes), generator(0, "inversion"))

    def distance(images):
        with inversion._Statistics(model) as statistics, torch.no_grad():
            model(images)
            return float(statistics.distance())

    assert distance(drawn(statistics=3.0)) < distance(drawn(statistics=0.0))
    smooth, rough = drawn(variation=5.0), drawn(variation=0.0)
    assert inversion.total_variation(smooth) < inversion.total_variation(rough)


def test_the_distance_is_zero_for_the_moments_remembered():
    layer = torch.nn.BatchNorm2d(2).eval()
    values = torch.rand(4, 2, 3, 3, generator=generator(0, "values"))
    layer.running_mean.copy_(values.mean((0, 2, 3)))
    layer.running_var.copy_(values.var((0, 2, 3), correction=0))
    with inversion._Statistics(layer) as statistics:
        layer(values)
        assert float(statistics.distance()) == pytest.approx(0, abs=1e-10)
        layer(values + layer.running_var.sqrt().view(1, 2, 1, 1))
        assert float(statistics.distance()) == pytest.approx(1, abs=1e-3)


def test_total_variation_by_hand():
    step = torch.tensor([[0.0, 1], [0, 1]]).view(1, 1, 2, 2)
    assert float(inversion.total_variation(step)) == 1.0
    assert float(inversion.total_variation(torch.full((1, 3, 4, 4), 0.3))) == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_inverted_is_refused(model):
    with pytest.raises(CompanionError, match="labels of shape"):
        inversion.invert(model, (1, 16, 16), LABELS[:0], QUICK, generator(0, "inversion"))
    broken = build_model("small_cnn", 1, 10, generator(0, "weights"), width=2)
    broken.head.weight.data.fill_(torch.nan)
    with pytest.raises(CompanionError, match="loss of the inversion is nan after 0 steps"):
        inversion.invert(broken, (1, 16, 16), LABELS, QUICK, generator(0, "inversion"))
