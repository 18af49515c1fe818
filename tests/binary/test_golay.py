"""The Golay code against its known weights, and against every error that it must correct."""

from itertools import combinations

import numpy as np

from companion.binary import golay


def test_the_code_has_the_known_weight_distribution():
    words = golay.encode(np.arange(4096))
    weights = np.bincount(np.bitwise_count(words), minlength=24)
    expected = {0: 1, 7: 253, 8: 506, 11: 1288, 12: 1288, 15: 506, 16: 253, 23: 1}
    assert {k: int(n) for k, n in enumerate(weights) if n} == expected
    assert np.array_equal(words >> 11, np.arange(4096)), "the message stands in front"


def test_every_error_of_up_to_three_bits_is_corrected_and_four_are_not():
    errors = np.array([sum(1 << b for b in c) for k in range(4) for c in combinations(range(23), k)])
    word = golay.encode(np.array([0b101100111000]))
    assert len(errors) == 2048 and (golay.decode(word ^ errors) == 0b101100111000).all()
    assert golay.decode(word ^ 0b1111)[0] != 0b101100111000
