"""PUF, fuzzy extractor and key derivation: standard vectors, right and wrong devices, tampering, lengths."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from companion.binary import device
from companion.errors import CompanionError
from companion.seeding import generator
from companion.statistics import wilson


def enrolled(noise=0.1, name="device"):
    puf = device.Puf.made(generator(0, name), noise)
    return puf, *device.enroll(puf, generator(0, name, "secret"))


def test_hkdf_gives_the_vectors_of_rfc_5869():
    found = device.hkdf(bytes([0x0B] * 22), bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert found.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    without = device.hkdf(bytes([0x0B] * 22), b"", b"", 42)
    assert without.hex() == ("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
    with pytest.raises(CompanionError, match="expected 1 to 8160"):
        device.hkdf(b"a", b"", b"", 8161)


def test_noisy_reads_give_the_root_key_and_other_devices_do_not():
    puf, root, helper = enrolled()
    stream = generator(1, "reads")
    assert all(device.reproduce(puf.read(stream), helper) == root for _ in range(20))
    other = device.Puf.made(generator(2, "other"), 0.1)
    assert device.reproduce(other.read(stream), helper, verify=False) != root
    with pytest.raises(CompanionError, match="belongs to another device"):
        device.reproduce(other.read(stream), helper)


def test_the_code_corrects_what_it_promises_in_each_block():
    puf, root, helper = enrolled(0.0)
    read = puf.reference.copy().reshape(device.BLOCKS, 23, device.REPEATS)
    read[:, :3] ^= True  # three of 23 symbols of every block wholly wrong
    read[:, 3:, :3] ^= True  # and three of seven repeats of all others
    assert device.reproduce(read.reshape(-1), helper) == root
    read[0, 3] ^= True  # a fourth symbol
    with pytest.raises(CompanionError, match="more errors than the code corrects"):
        device.reproduce(read.reshape(-1), helper)


def test_the_exact_failure_rate_by_another_way_and_by_counting():
    wrong = binom.sf(device.REPEATS // 2, device.REPEATS, 0.2)
    expected = 1 - binom.cdf(3, 23, wrong) ** device.BLOCKS
    assert device.failure_rate(0.2) == pytest.approx(expected)
    assert device.failure_rate(0.0) == 0
    puf, root, helper = enrolled(0.2)
    interval = wilson(device.count_failures(puf, helper, root, 400, generator(0, "count")), 400, 0.999)
    assert interval.low <= expected <= interval.high


def test_a_tampered_or_cut_helper_string_is_refused():
    puf, _, helper = enrolled(0.0)
    content = helper.to_bytes()
    assert device.Helper.from_bytes(content) == helper
    for position in (4, len(content) - 1):  # in the offset, in the tag
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises(CompanionError, match="tampered with"):
            device.reproduce(puf.reference, device.Helper.from_bytes(bytes(changed)))
    with pytest.raises(CompanionError, match="It was cut or is something else"):
        device.Helper.from_bytes(content[:-1])
    with pytest.raises(CompanionError, match="begins with b'XBNH'"):
        device.Helper.from_bytes(b"X" + content[1:])
    assert replace(helper, tag=helper.tag) == helper


def test_unwrapping_needs_user_device_and_task():
    seed, user, root = bytes(range(16)), bytes([1] * 16), bytes([2] * 32)
    wrapped = device.wrap(seed, user, root, 3)
    assert device.unwrap(wrapped, user, root, 3) == seed
    others = [(bytes([9] * 16), root, 3), (user, bytes([9] * 32), 3), (user, root, 4)]
    assert all(device.unwrap(wrapped, *other) != seed for other in others)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [((15, 16, 32), "seed of a key stream: found 15"), ((16, 20, 32), "user key"), ((16, 16, 16), "root key")],
)
def test_keys_of_the_wrong_length_are_refused(lengths, message):
    with pytest.raises(CompanionError, match=message):
        device.wrap(*(bytes(length) for length in lengths), 0)


def test_impossible_devices_are_refused():
    with pytest.raises(CompanionError, match=r"read noise 0\.5"):
        device.Puf.made(generator(0, "d"), 0.5)
    _, _, helper = enrolled()
    with pytest.raises(CompanionError, match="a PUF read of shape"):
        device.reproduce(np.zeros(10, bool), helper)
