"""The idx files of MNIST and its successors, plain or compressed with gzip (Y. LeCun, the MNIST database)."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from companion.data.catalogue import Context
from companion.data.imageset import ImageSet
from companion.errors import CompanionError


def load(context: Context, split: str) -> ImageSet:
    """Return the images of a split whose two files are, in this order, images and labels.

    Images come back as (N, 1, H, W) float32 in [0, 1].
    """
    images_path, labels_path = context.files.values()
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise CompanionError(
            f"{images_path} has the shape {images.shape} and {labels_path} {labels.shape}: expected (N, H, W) and (N,)."
        )
    if labels.max(initial=0) >= len(context.classes):
        raise CompanionError(f"{labels_path}: label {labels.max()} is outside 0 to {len(context.classes) - 1}.")
    pixels = torch.from_numpy(images)[:, None].to(torch.float32).div_(255)  # (N, 1, H, W)
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), context.classes, context.name, split)


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array in an idx file; raises CompanionError for another type or a wrong length."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise CompanionError(f"{path} cannot be decompressed: {error}. Fetch it again.") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise CompanionError(f"{path} begins with {content[:4].hex() or 'nothing'}, not with 000008 as idx bytes do.")
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start]) if len(content) >= start else (0,)
    if len(content) != start + math.prod(shape):
        raise CompanionError(f"{path}: {len(content):,} bytes, expected {start + math.prod(shape):,} for {shape}.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()
