"""The three networks: what is shared, what a key changes, and what does not fit."""

import pytest
import torch
import torch.nn.functional as F

from companion.binary import keys
from companion.binary.layers import KeyedConv, RPReLU, TaskBatchNorm
from companion.binary.networks import ARCHITECTURES, build_network, quantise
from companion.errors import CompanionError
from companion.seeding import generator

IMAGES = torch.rand(6, 1, 16, 16, generator=generator(0, "images"))


def made(architecture, classes=(4, 3), **settings):
    return build_network(architecture, classes, 4, generator(0, "weights"), **settings).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("side", [16, 32])
def test_every_task_has_its_own_number_of_answers(architecture, side):
    network = made(architecture, side=side)
    images = torch.rand(2, 1, side, side, generator=generator(0, "images"))
    assert [network(images, task).shape for task in range(2)] == [(2, 4), (2, 3)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_number_of_binary_weights_does_not_depend_on_the_number_of_tasks(architecture):
    assert made(architecture, (4,)).binary_weights() == made(architecture, (4, 3, 2, 4)).binary_weights()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_key_changes_its_own_task_only(architecture):
    network = made(architecture)
    before = [network(IMAGES, task) for task in range(2)]
    keys.configure(network, 1, bytes(range(16)))
    assert torch.equal(network(IMAGES, 0), before[0])
    assert not torch.equal(network(IMAGES, 1), before[1])
    keys.configure(network, 1, None)
    assert torch.equal(network(IMAGES, 1), before[1])


def test_effective_weights_are_stored_sign_times_key():
    network = keys.configure(made("vgg"), 1, bytes(16))
    for name, layer in network.layers().items():
        key = 2.0 * torch.from_numpy(keys.key_bits(network, bytes(16))[name]) - 1
        assert torch.equal(layer.effective(1), torch.where(layer.weight >= 0, 1.0, -1.0) * key)


def test_the_gradient_goes_through_the_key_and_stops_outside_one():
    layer = KeyedConv(1, 1, 2, 1, generator(0, "w"))
    layer.weight.data = torch.tensor([[[[0.5, -0.5], [1.5, -1.5]]]])
    layer.keys[0] = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
    layer(torch.tensor([[[[2.0, 3.0], [4.0, 5.0]]]]), 0).sum().backward()
    assert torch.equal(layer.weight.grad, torch.tensor([[[[2.0, -3.0], [0.0, 0.0]]]]))


def test_channel_scales_are_reactnets_mean_magnitudes():
    layer = KeyedConv(3, 2, 3, 1, generator(0, "w"), padding=1, scaled=True)
    x = torch.randn(2, 3, 5, 5, generator=generator(0, "x")).sign()
    scale = layer.weight.abs().mean(dim=(1, 2, 3)).view(1, 2, 1, 1)
    assert torch.allclose(layer(x, 0), F.conv2d(x, layer.weight.sign(), padding=1) * scale)
    layer.freeze_scale()
    layer.weight.data = layer.weight.data.sign()
    assert torch.allclose(layer.channel_scale(), scale[0])


def test_rprelu_by_hand():
    layer = RPReLU(1, 1)
    layer.before[0].data.fill_(1.0)
    layer.after[0].data.fill_(-0.5)
    x = torch.tensor([-3.0, 1.0]).view(2, 1, 1, 1)
    assert torch.equal(layer(x, 0).flatten(), torch.tensor([-0.25 * 2 - 0.5, 1.5]))


def test_batch_norm_keeps_the_tasks_apart_unless_shared():
    x = torch.randn(8, 2, 3, 3, generator=generator(0, "x")) * 4 + 1
    own, shared = TaskBatchNorm(2, 2), TaskBatchNorm(2, 2, shared=True)
    for norm in (own, shared):
        norm(x, 0)
    assert torch.equal(own.statistics(1)[0], torch.zeros(2)) and own.statistics(0)[0].abs().min() > 0
    assert torch.equal(shared.statistics(0)[0], shared.statistics(1)[0])


def test_quantised_pixels_are_whole_256ths():
    found = quantise(IMAGES) * 256
    assert torch.equal(found, found.round()) and found.max() <= 255


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made("alexnet"), "no architecture 'alexnet'"),
        (lambda: made("vgg", (1,)), "at least 2"),
        (lambda: made("vgg", side=24), "side 24: expected a power of two"),
        (lambda: build_network("vgg", (2,), 0, generator(0)), "width 0"),
        (lambda: made("vgg")(IMAGES[:, :, :8, :8], 0), r"expected \(N, 1, 16, 16\)"),
        (lambda: made("vgg")(IMAGES, 2), "2 tasks was asked for task 2"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(CompanionError, match=message):
        call()
