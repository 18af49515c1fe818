"""Subsets kept as plain numpy archives: `images` (N, H, W[, 3]) uint8 and `labels` (N,)."""

import zipfile

import numpy as np
import torch

from companion.data.catalogue import Context
from companion.data.imageset import ImageSet
from companion.errors import CompanionError


def load(context: Context, split: str) -> ImageSet:
    """Return the images of a split whose one file is an npz archive, as (N, C, H, W) float32 in [0, 1].

    Object arrays (which would be pickles) are refused.
    """
    (path,) = context.files.values()
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise CompanionError(f"{path} is not an npz archive with plain `images` and `labels`: {error}") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
        raise CompanionError(
            f"{path}: images {images.shape} {images.dtype} and labels {labels.shape}; "
            "expected (N, H, W[, 3]) uint8 and (N,)."
        )
    if labels.max(initial=0) >= len(context.classes):
        raise CompanionError(f"{path}: label {labels.max()} is outside 0 to {len(context.classes) - 1}.")
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)  # (N, C, H, W)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32).div_(255)
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), context.classes, context.name, split)
