"""Key streams: SHAKE-128 as the standard has it, one bit a weight, and what lengths are refused."""

import hashlib

import numpy as np
import pytest

from companion.binary import keys
from companion.binary.networks import build_network
from companion.errors import CompanionError
from companion.seeding import generator

SEED = bytes(range(16))


def test_the_stream_is_shake128_of_domain_seed_and_layer():
    expected = hashlib.shake_128(b"companion.rbnn.key" + SEED + b"stem").digest(3)
    bits = keys.expand(SEED, "stem", 21)
    assert [int(bit) for bit in bits] == [int(c) for c in "".join(f"{byte:08b}" for byte in expected)[:21]]


def test_streams_of_layers_and_of_near_seeds_are_unrelated():
    one = keys.expand(SEED, "a", 20000)
    for other in (keys.expand(SEED, "b", 20000), keys.expand(keys.flip_seed_bit(SEED, 127), "a", 20000)):
        assert abs((one == other).mean() - 0.5) < 0.02
    assert abs(one.mean() - 0.5) < 0.02


def test_a_longer_stream_begins_with_the_shorter():
    assert np.array_equal(keys.expand(SEED, "a", 1000)[:13], keys.expand(SEED, "a", 13))


def test_flipping_changes_exactly_the_share_asked_for():
    bits = {"a": keys.expand(SEED, "a", 200).reshape(2, 100), "b": keys.expand(SEED, "b", 50)}
    flipped = keys.flip_share(bits, 0.1, generator(0, "flip"))
    assert [(bits[name] != flipped[name]).sum() for name in bits] == [20, 5]
    with pytest.raises(CompanionError, match=r"a share of 1\.5 flipped"):
        keys.flip_share(bits, 1.5, generator(0, "flip"))


def test_one_flipped_seed_bit_is_one_bit():
    changed = keys.flip_seed_bit(SEED, 10)
    assert sum(bin(a ^ b).count("1") for a, b in zip(SEED, changed, strict=True)) == 1


def test_wrong_lengths_are_named():
    network = build_network("vgg", (2, 2), 2, generator(0, "w"))
    with pytest.raises(CompanionError, match=r"15 bytes; expected 16 bytes \(128 bits\)"):
        keys.configure(network, 0, bytes(15))
    with pytest.raises(CompanionError, match="found str; expected 16 bytes"):
        keys.expand("0123456789abcdef", "a", 8)
    with pytest.raises(CompanionError, match="1 seeds for a network with 2 tasks"):
        keys.configure_all(network, [SEED])
