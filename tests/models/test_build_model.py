import pytest
import torch

from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_weights_depend_on_the_generator_alone(name):
    torch.random.default_generator.manual_seed(1)
    first = build_model(name, 3, 10, generator(5, "weights")).state_dict()
    torch.random.default_generator.manual_seed(2)
    again = build_model(name, 3, 10, generator(5, "weights")).state_dict()
    other = build_model(name, 3, 10, generator(6, "weights")).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_global_random_state_stays_untouched():
    before = torch.random.get_rng_state()
    build_model("small_cnn", 3, 10, generator(0, "weights"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_generator_moves_on_so_that_two_networks_differ():
    source = generator(0, "weights")
    first, second = (build_model("small_cnn", 3, 10, source, width=4) for _ in range(2))
    assert not torch.equal(first.head.weight, second.head.weight)


def test_a_loaded_state_computes_the_same_bits():
    model = build_model("small_cnn", 3, 10, generator(0, "weights")).eval()
    other = build_model("small_cnn", 3, 10, generator(1, "weights")).eval()
    other.load_state_dict({key: value.contiguous() for key, value in model.state_dict().items()})
    images = torch.rand(40, 3, 32, 32, generator=generator(0, "images"))
    assert torch.equal(model(images), other(images))


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(CompanionError, match='unknown model "vgg": expected one of small_cnn, resnet18'):
        build_model("vgg", 3, 10, generator(0, "weights"))


def test_settings_that_the_network_does_not_have_are_named():
    with pytest.raises(CompanionError, match=r"'depth'.*model_settings"):
        build_model("small_cnn", 3, 10, generator(0, "weights"), depth=3)
