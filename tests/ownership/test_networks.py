"""torchvision's networks as the zoo takes them: features and head make the logits, weights come from the generator."""

import pytest
import torch

from companion.errors import CompanionError
from companion.ownership import networks
from companion.seeding import generator
from companion.training import logits


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_network_is_its_head_on_its_features(name, channels):
    model = networks.build((name, 0), channels, 5, 32, generator(0, "weights")).eval()
    images = torch.rand(2, channels, 32, 32, generator=generator(0, "images"))
    assert model.head.out_features == 5
    torch.testing.assert_close(model.head(model.features(images)), logits(model, images))


def test_weights_depend_on_the_generator_alone():
    torch_state = torch.get_rng_state()
    first, same, other = (networks.build(("cnn", 4), 1, 3, 16, generator(seed)) for seed in (0, 0, 1))
    weight = first.head.weight
    assert torch.equal(weight, same.head.weight) and not torch.equal(weight, other.head.weight)
    big = [networks.build(("mobilenet_v2", 0), 3, 3, 32, generator(0)).head.weight for _ in range(2)]
    assert torch.equal(*big) and torch.equal(torch_state, torch.get_rng_state())


def test_an_unknown_network_is_named():
    with pytest.raises(CompanionError, match=r"unknown network 'alexnet'.*cnn.*vgg16_bn"):
        networks.build(("alexnet", 0), 3, 3, 32, generator(0))
