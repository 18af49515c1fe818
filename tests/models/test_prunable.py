"""Chains: the same answers as the network, masks against hooks that switch channels off, and what is refused."""

import pytest
import torch
from torch import nn

from companion.errors import CompanionError
from companion.models.build import build_model
from companion.models.prunable import Chain, Masked, chain_of
from companion.seeding import generator

IMAGES = torch.rand(5, 3, 16, 16, generator=generator(0, "images"))


def network(name="small_cnn", **settings):
    model = build_model(name, 3, 4, generator(0, "weights"), **settings).eval()
    for part in model.modules():  # so that batch normalisation is not the identity
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.1, 0.1, generator=generator(1, part.num_features))
            part.bias.data.uniform_(-0.1, 0.3, generator=generator(2, part.num_features))
    return model


@pytest.mark.parametrize(("name", "settings", "neurons"), [("small_cnn", {"width": 3}, 21), ("resnet18", {}, 1984)])
def test_a_chain_answers_as_the_network_does(name, settings, neurons):
    model = network(name, **settings)
    chain = chain_of(model)
    assert chain.neurons == neurons
    assert torch.allclose(chain(IMAGES), model(IMAGES), atol=1e-5)
    everyone = torch.ones(2, neurons, dtype=torch.bool)
    assert torch.allclose(Masked(chain, IMAGES).logits(everyone)[1], model(IMAGES), atol=1e-5)
    assert chain_of(chain) is chain


@pytest.mark.parametrize(("name", "settings"), [("small_cnn", {"width": 3}), ("resnet18", {})])
def test_masks_are_channels_set_to_zero_after_the_activation(name, settings):
    chain = chain_of(network(name, **settings))
    masks = torch.rand(6, chain.neurons, generator=generator(0, "masks")) < 0.7
    found = Masked(chain, IMAGES).logits(masks)
    for mask, logits in zip(masks, found, strict=True):
        maps = IMAGES
        for stage, part in zip(chain.stages, mask.split(chain.sizes), strict=True):
            maps = stage(maps) * part.view(1, -1, 1, 1)
        assert torch.allclose(chain.tail(maps), logits, atol=1e-5)


def test_shared_stages_are_computed_once():
    chain = chain_of(network(width=3))
    masked = Masked(chain, IMAGES)
    masks = torch.ones(10, 21, dtype=torch.bool)
    for row in range(9):
        masks[row + 1, 20 - row] = False  # the last stage has 12 neurons: the first two stages see one mask only
    masked.logits(masks)
    assert masked.passes.tolist() == [5, 5, 50]
    masked.logits(~torch.eye(21, dtype=torch.bool))
    assert masked.passes.tolist() == [5 + 4 * 5, 5 + 10 * 5, 50 + 21 * 5]


def test_chunks_change_nothing():
    masked = Masked(chain_of(network(width=3)), IMAGES)
    masks = torch.rand(40, 21, generator=generator(0, "masks")) < 0.5
    whole = masked.logits(masks)
    masked.chunk = 7
    assert torch.allclose(masked.logits(masks), whole, atol=1e-6)


def test_neurons_know_their_stage():
    chain = chain_of(network(width=3))
    assert chain.stage_of(torch.tensor([0, 2, 3, 8, 9, 20])).tolist() == [0, 0, 1, 1, 2, 2]


def test_activations_are_means_over_places():
    chain = chain_of(network(width=3))
    found = chain.activations(IMAGES)
    assert [part.shape[1] for part in found] == [3, 6, 12]
    assert torch.allclose(found[0], chain.stages[0](IMAGES).mean((2, 3)))


def test_a_network_with_nothing_to_prune_is_refused():
    with pytest.raises(CompanionError, match="a Linear has nothing to prune"):
        chain_of(nn.Linear(3, 2))
    with pytest.raises(CompanionError, match="nothing to prune"):
        Chain([], nn.Linear(3, 2), [])


def test_weights_that_are_not_finite_are_named():
    model = network(width=3)
    model.blocks[1][0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(CompanionError, match=r"1 of 162 numbers of the network's stages.1.0.weight are not finite"):
        chain_of(model)


def test_masks_and_images_of_another_form_are_refused():
    masked = Masked(chain_of(network(width=3)), IMAGES)
    with pytest.raises(CompanionError, match=r"expected \(M, 21\)"):
        masked.logits(torch.ones(2, 20, dtype=torch.bool))
    with pytest.raises(CompanionError, match=r"expected \(M, 21\)"):
        masked.logits(torch.ones(2, 21))
    with pytest.raises(CompanionError, match="images of shape"):
        Masked(masked.chain, IMAGES[:0])
