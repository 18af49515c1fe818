import pytest
import torch
from torch import nn

from companion.attacks.transfer.features import find_layer
from companion.errors import CompanionError
from companion.models.zoo import FAMILIES, AdversariallyTrained, build_surrogate
from companion.seeding import generator


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 32)])
def test_shapes_layers_and_seeds(family, channels, side):
    model = build_surrogate(family, channels, 7, side, generator(0, "w")).eval()
    images = torch.rand(2, channels, side, side, generator=generator(0, "i"))
    state = torch.random.get_rng_state()
    again = build_surrogate(family, channels, 7, side, generator(0, "w")).eval()
    assert torch.equal(state, torch.random.get_rng_state())
    assert model(images).shape == (2, 7)
    assert torch.equal(model.head(model.features(images)), model(images)) and torch.equal(again(images), model(images))
    assert model.head.in_features == model.features(images).shape[1]
    assert len(model.layers) >= 2 and all(isinstance(find_layer(model, name), nn.Module) for name in model.layers)
    assert all(part in set(model.modules()) for part in [*model.branches(), *model.skips()])
    assert bool(model.branches()) == (family != "cnn")


def test_mixers_and_transformers_mix_all_places():
    for family in ("mixer", "vit"):
        model = build_surrogate(family, 1, 3, 16, generator(0, "w")).eval()
        image = torch.rand(1, 1, 16, 16, generator=generator(0, "i")).requires_grad_()
        model(image).square().sum().backward()
        assert (image.grad.abs().amax(dim=(0, 1)) > 0).all()


def test_unknown_families_and_sizes_are_named():
    with pytest.raises(CompanionError, match='unknown family "lstm"'):
        build_surrogate("lstm", 1, 2, 16, generator(0))
    with pytest.raises(CompanionError, match="depht"):
        build_surrogate("vit", 1, 2, 16, generator(0), depht=1)
    with pytest.raises(CompanionError, match="do not tile"):
        build_surrogate("mixer", 1, 2, 18, generator(0))


def test_adversarial_training_perturbs_within_the_ball_and_only_in_training():
    network = build_surrogate("cnn", 1, 3, 16, generator(0, "w"))
    wrapped = AdversariallyTrained(network, 0.1)
    images = torch.rand(4, 1, 16, 16, generator=generator(0, "i"))
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        perturbed = wrapped._perturbed(images)
    change = (perturbed - images).abs()
    assert change.max() <= 0.1 + 1e-6 and change.mean() > 0.02
    assert perturbed.min() >= 0 and perturbed.max() <= 1 and not perturbed.requires_grad
    wrapped.eval()
    assert torch.equal(wrapped(images), network(images))
    with pytest.raises(CompanionError, match="eps -1"):
        AdversariallyTrained(network, -1)
