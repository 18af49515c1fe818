"""Packed binary codes, their Hamming distances by XOR and popcount, and ranking by counting.

Distances of b-bit codes are the b + 1 numbers 0 to b, so a ranking needs no comparison sort: counting says at which
distance the top ends, and only what lies that close is put in order, by a radix sort of single bytes.
"""

import numpy as np
import torch

from companion.errors import CompanionError
from companion.hashing.heads import check_length

BLOCK = 2**14  # distances computed at once: 128 kB of words
WORDS = ((8, np.uint64), (4, np.uint32), (2, np.uint16), (1, np.uint8))


def pack(codes: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return codes (N, bits) of truth values, or of -1 and 1, as bytes (N, bits / 8) uint8.

    Raises CompanionError for another form and for a length that is not a multiple of 8.
    """
    values = np.asarray(codes)
    if values.ndim != 2:
        raise CompanionError(f"codes of shape {values.shape}: expected (N, bits).")
    check_length(values.shape[1])
    return np.packbits(values > 0, axis=1)


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return bytes (N, bits / 8) as truth values (N, bits)."""
    return np.unpackbits(packed, axis=1).astype(bool)


def hamming_distances(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Return the Hamming distances (Q, N) of packed codes (Q, bytes) and (N, bytes): uint8, or uint16 from 256 bits on.

    Raises CompanionError for codes of different lengths and for an empty database or no query.
    """
    check_searchable(queries, database)
    left, right = _words(queries)[:, :, None], _words(database).T.copy()  # (Q, W, 1), (W, N)
    count = len(database)
    found = np.zeros((len(queries), count), dtype=np.uint8 if queries.shape[1] < 32 else np.uint16)
    columns = min(count, BLOCK)
    rows = max(1, BLOCK // columns)
    different = np.empty((rows, columns), dtype=left.dtype)  # reused, so that it stays in the processor's cache
    ones = np.empty((rows, columns), dtype=np.uint8)
    for top in range(0, len(queries), rows):
        for start in range(0, count, columns):
            target = found[top : top + rows, start : start + columns]
            place = slice(target.shape[0]), slice(target.shape[1])
            for word, row in enumerate(right):
                np.bitwise_xor(left[top : top + rows, word], row[start : start + columns], out=different[place])
                np.bitwise_count(different[place], out=ones[place])
                np.add(target, ones[place], out=target)
    return found


def nearest(distances: np.ndarray, top: int) -> np.ndarray:
    """Return the `top` positions (Q, top) int64 with the smallest distances (Q, N), nearest first.

    Ties keep the order of the database (a stable sort). distances: uint8 or uint16; top: 1 to N.
    Raises CompanionError for another `top`.
    """
    check_top(top, distances.shape[1])
    found = np.empty((len(distances), top), dtype=np.int64)
    for row, chosen in zip(distances, found, strict=True):
        near = within(row, top)
        chosen[:] = near[np.argsort(row[near], kind="stable")[:top]]
    return found


def within(row: np.ndarray, top: int) -> np.ndarray:
    """Return the positions, ascending, of all distances (N,) up to the one at which the nearest `top` are complete.

    That distance is found by halving: how many lie at or below a number is counted faster than a histogram is made.
    """
    low, high = int(row.min()), int(row.max())
    while low < high:
        middle = (low + high) // 2
        if np.count_nonzero(row <= middle) >= top:
            high = middle
        else:
            low = middle + 1
    return np.flatnonzero(row <= low)


def check_top(top: int, count: int) -> None:
    """Raise CompanionError unless `top` codes can be taken of `count`."""
    if not 1 <= top <= count:
        raise CompanionError(f"the nearest {top} of {count} codes were asked for: expected 1 to {count}.")


def check_searchable(queries: np.ndarray, database: np.ndarray) -> None:
    """Raise CompanionError unless both are packed codes of the same length and neither is empty."""
    for name, packed in (("database", database), ("queries", queries)):
        if packed.ndim != 2 or packed.dtype != np.uint8 or not len(packed):
            raise CompanionError(
                f"the {name} of a search holds codes of shape {packed.shape} and type {packed.dtype}: expected at "
                "least one packed code, (N, bits / 8) uint8. Check that the selection is not empty, and `pack` it."
            )
    if queries.shape[1] != database.shape[1]:
        raise CompanionError(
            f"queries of {8 * queries.shape[1]} bits were searched in a database of {8 * database.shape[1]} bits: "
            "expected one code length."
        )


def _words(packed: np.ndarray) -> np.ndarray:
    """View bytes (N, B) as the widest words that divide them (N, W)."""
    size, kind = next((size, kind) for size, kind in WORDS if packed.shape[1] % size == 0)
    return np.ascontiguousarray(packed).view(kind).reshape(len(packed), packed.shape[1] // size)
