"""Packed codes and rankings by counting, against brute force on truth values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.errors import CompanionError
from companion.hashing.codes import hamming_distances, nearest, pack, unpack
from companion.seeding import generator


def random_codes(count: int, bits: int, name: str = "codes") -> torch.Tensor:
    return torch.rand(count, bits, generator=generator(0, name)) < 0.5


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([8, 16, 24, 32, 64, 72, 128, 264]), st.integers(1, 9), st.integers(1, 60), st.integers(0, 5))
def test_distances_and_order_equal_brute_force(bits, queries, size, seed):
    left, right = random_codes(queries, bits, f"left {seed}"), random_codes(size, bits, f"right {seed}")
    right[size // 2 :] = right[: size - size // 2].clone()  # ties
    expected = (left[:, None] != right[None]).sum(2).numpy()
    found = hamming_distances(pack(left), pack(right))
    assert (found == expected).all()
    for top in {1, size // 2 + 1, size}:
        assert (nearest(found, min(top, size)) == np.argsort(expected, axis=1, kind="stable")[:, :top]).all()


def test_signs_and_truth_values_pack_alike_and_unpack():
    codes = random_codes(5, 24)
    assert (pack(codes) == pack(2.0 * codes - 1)).all() and (unpack(pack(codes)) == codes.numpy()).all()
    assert pack(codes).shape == (5, 3)


def test_a_length_that_does_not_fill_bytes_is_refused():
    with pytest.raises(CompanionError, match="a code of 12 bits"):
        pack(random_codes(3, 12))
    with pytest.raises(CompanionError, match=r"expected \(N, bits\)"):
        pack(random_codes(3, 16)[0])


def test_an_empty_database_and_other_lengths_are_refused():
    codes = pack(random_codes(3, 16))
    with pytest.raises(CompanionError, match="the database of a search holds codes of shape"):
        hamming_distances(codes, codes[:0])
    with pytest.raises(CompanionError, match="the queries of a search"):
        hamming_distances(codes[:0], codes)
    with pytest.raises(CompanionError, match="16 bits were searched in a database of 8 bits"):
        hamming_distances(codes, codes[:, :1])
    with pytest.raises(CompanionError, match="nearest 4 of 3"):
        nearest(hamming_distances(codes, codes), 4)
