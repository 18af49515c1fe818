"""Packed bits give the float emulation's numbers, bit for bit; and they are packed."""

import numpy as np
import pytest
import torch

from companion.binary import keys, packed
from companion.binary.layers import KeyedConv
from companion.binary.networks import ARCHITECTURES, build_network
from companion.binary.training import recalibrated
from companion.seeding import generator


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_xnor_popcount_is_the_dot_product_of_signs(length):
    rng = np.random.default_rng(length)
    a, b = rng.integers(0, 2, (5, length), np.uint8), rng.integers(0, 2, (3, length), np.uint8)
    signs_a, signs_b = 2 * a.astype(int) - 1, 2 * b.astype(int) - 1
    assert np.array_equal(packed.xnor_dot(packed.pack(a), packed.pack(b), length), signs_a @ signs_b.T)
    assert np.array_equal(packed.unpack(packed.pack(a), length), a)
    assert packed.pack(a).nbytes == 5 * 8 * ((length + 63) // 64)


@pytest.mark.parametrize(("stride", "padding", "scaled"), [(1, 1, False), (2, 1, True), (1, 0, False), (2, 2, False)])
@pytest.mark.parametrize("pixels", [False, True])
def test_a_packed_layer_equals_its_float_layer(stride, padding, scaled, pixels):
    layer = KeyedConv(5, 7, 3, 1, generator(0, "w"), stride=stride, padding=padding, scaled=scaled)
    key = keys.expand(bytes(16), "layer", layer.weight.numel()).reshape(layer.weight.shape)
    layer.keys[0] = torch.from_numpy(2.0 * key - 1).float()
    x = torch.rand(4, 5, 9, 8, generator=generator(0, "x"))
    x = torch.round(x * 255) / 256 if pixels else (x - 0.5).sign()
    found = packed.PackedConv(layer, key, pixels)(x, 0)
    assert torch.equal(found, layer(x, 0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_network_equals_the_float_emulation(architecture):
    network = build_network(architecture, (5, 3), 6, generator(0, "w"))
    keys.configure_all(network, [bytes(16), bytes(range(16))])
    images = torch.rand(20, 1, 16, 16, generator=generator(0, "x"))
    for task in range(2):
        network = recalibrated(network, images, task)  # statistics as after a training
        bits = packed.packed_network(network, keys.key_bits(network, [bytes(16), bytes(range(16))][task]))
        with torch.no_grad():
            assert torch.equal(bits(images, task), network(images, task))
            assert torch.equal(packed.float_network(network, task)(images, task), network(images, task))


def test_another_key_gives_other_numbers():
    network = build_network("vgg", (5,), 6, generator(0, "w")).eval()
    images = torch.rand(4, 1, 16, 16, generator=generator(0, "x"))
    with torch.no_grad():
        answers = [packed.packed_network(network, keys.key_bits(network, bytes([k] * 16)))(images, 0) for k in (1, 2)]
    assert not torch.equal(*answers)
