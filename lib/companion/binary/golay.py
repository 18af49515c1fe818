"""The binary Golay code [23, 12, 7]: 12 bits become 23, and any three errors among them are corrected.

Source: M. J. E. Golay, Notes on digital coding, 1949. The code is perfect: each of the 2^11 syndromes belongs to
exactly one error of weight at most 3, so a table of 2,048 entries decodes.
"""

from functools import cache
from itertools import combinations

import numpy as np

LENGTH, DIMENSION, CORRECTS = 23, 12, 3
_POLYNOMIAL = 0b110001110101  # x^11 + x^10 + x^6 + x^5 + x^4 + x^2 + 1


def _remainder(words: np.ndarray) -> np.ndarray:
    """Return words of 23 bits modulo the generator polynomial: their syndromes, 11 bits."""
    rest = words.astype(np.int64)
    for bit in range(LENGTH - 1, LENGTH - DIMENSION - 1, -1):
        rest = np.where(rest >> bit & 1, rest ^ (_POLYNOMIAL << (bit - 11)), rest)
    return rest


def encode(messages: np.ndarray) -> np.ndarray:
    """Return code words (n,) int64 of 23 bits for messages (n,) of 12 bits: the message, then 11 check bits."""
    shifted = np.asarray(messages, dtype=np.int64) << (LENGTH - DIMENSION)
    return shifted | _remainder(shifted)


def decode(words: np.ndarray) -> np.ndarray:
    """Return the messages (n,) of the nearest code words; right wherever at most three of the 23 bits are wrong."""
    words = np.asarray(words, dtype=np.int64)
    return (words ^ _errors()[_remainder(words)]) >> (LENGTH - DIMENSION)


@cache
def _errors() -> np.ndarray:
    """The error of weight at most 3 of each syndrome, (2048,)."""
    patterns = [sum(1 << bit for bit in chosen) for k in range(4) for chosen in combinations(range(LENGTH), k)]
    patterns = np.array(patterns, dtype=np.int64)
    table = np.empty(1 << (LENGTH - DIMENSION), dtype=np.int64)
    table[_remainder(patterns)] = patterns
    return table
