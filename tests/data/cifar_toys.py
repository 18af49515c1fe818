"""CIFAR batches of a few images, byte for byte in the style of Python 2, which wrote the official ones."""

import io
import pickle
import struct

import numpy as np


class _Python2Pickler(pickle._Pickler):
    """Writes bytes the way Python 2 wrote its strings: SHORT_BINSTRING and BINSTRING."""

    def save_string(self, value: bytes) -> None:
        self.write(b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value)))
        self.write(value)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string}  # noqa: RUF012


def python2_pickle(value: object) -> bytes:
    """`value` in protocol 2, every text as a byte string, arrays under the name that numpy had then."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, 2).dump(_bytes(value))
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def cifar_batch(images: int, classes: int, seed: int, key: str = "labels") -> tuple[bytes, np.ndarray, list[int]]:
    """A batch file, its (N, 3, 32, 32) uint8 images and its labels."""
    random = np.random.default_rng(seed)
    data = random.integers(0, 256, (images, 3072), dtype=np.uint8)
    labels = random.integers(0, classes, images).tolist()
    batch = {"batch_label": "a toy", key: labels, "data": data, "filenames": [f"{n}.png" for n in range(images)]}
    return python2_pickle(batch), data.reshape(-1, 3, 32, 32), labels


def _bytes(value: object) -> object:
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, dict):
        return {_bytes(key): _bytes(entry) for key, entry in value.items()}
    return [_bytes(entry) for entry in value] if isinstance(value, list) else value
