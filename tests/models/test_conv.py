"""Networks without batch normalisation: shapes, neurons, and weights that depend on the generator alone."""

import pytest
import torch

from companion.errors import CompanionError
from companion.models.conv import ARCHITECTURES, build_conv
from companion.seeding import generator


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("side", [8, 16, 28])
def test_logits_are_the_head_of_features_and_neurons_exist(name, side):
    model = build_conv(name, (2, side, side), 5, generator(0))
    images = torch.rand(3, 2, side, side, generator=generator(1))
    found = model.features(images)
    assert found.shape == (3, 32) and (found >= 0).all()
    assert torch.equal(model(images), model.head(found)) and model(images).shape == (3, 5)
    modules = dict(model.named_modules())
    assert set(model.activations) <= set(modules) and len(model.activations) >= 3


def test_the_residual_network_is_probed_at_its_sums():
    assert sum(name.endswith(".sum") for name in build_conv("resnet", (1, 16, 16), 2, generator(0)).activations) == 3


def test_weights_come_from_the_generator_and_the_global_state_stays():
    before = torch.random.get_rng_state()
    first, again, other = (build_conv("conv4", (1, 16, 16), 3, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, again.head.weight) and not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vgg", (1, 16, 16), 3), 'unknown network "vgg": expected one of conv2, conv4, resnet'),
        (("conv2", (1, 16, 12), 3), "expected square images"),
        (("conv2", (1, 4, 4), 3), "at least 8 pixels"),
        (("conv2", (1, 16, 16), 1), "at least 2 classes"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(CompanionError, match=message):
        build_conv(*arguments, generator(0))


def test_an_unknown_setting_is_named():
    with pytest.raises(CompanionError, match="depth"):
        build_conv("conv2", (1, 16, 16), 3, generator(0), depth=3)
