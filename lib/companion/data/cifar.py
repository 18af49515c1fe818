"""CIFAR-10 and CIFAR-100 from the official Python batches (A. Krizhevsky, technical report, 2009)."""

import tarfile
from pathlib import Path

import numpy as np
import torch

from companion.data.catalogue import Context
from companion.data.imageset import ImageSet
from companion.data.unpickle import parse_pickle, read_pickle
from companion.errors import CompanionError


def load(context: Context, split: str) -> ImageSet:
    """Return the images of the batches that the split lists, in the official order.

    Each file is one batch; a split with `members` has one file, the official archive, and reads those members of it
    without unpacking anything. Images come back as (N, 3, 32, 32) float32 in [0, 1].
    """
    if context.split.members:
        (archive,) = context.files.values()
        batches = [(f"{archive}:{member}", _member(archive, member)) for member in context.split.members]
    else:
        batches = [(str(path), read_pickle(path)) for path in context.files.values()]
    pixels, labels = zip(*(_arrays(batch, origin, len(context.classes)) for origin, batch in batches), strict=True)
    images = torch.from_numpy(np.concatenate(pixels)).to(torch.float32).div_(255)  # (N, 3, 32, 32)
    return ImageSet(images, torch.from_numpy(np.concatenate(labels)), context.classes, context.name, split)


def _member(archive: Path, member: str) -> dict:
    try:
        with tarfile.open(archive, "r:*") as opened:
            return parse_pickle(opened.extractfile(member).read(), f"{archive}:{member}")
    except (KeyError, AttributeError, EOFError, OSError, tarfile.TarError) as error:
        raise CompanionError(
            f"{archive}: the member {member} cannot be read: {error}. Fetch the archive again."
        ) from None


def _arrays(batch: dict, origin: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    data = batch.get("data")
    labels = batch.get("fine_labels", batch.get("labels"))
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise CompanionError(f"{origin}: `data` is {np.shape(data)}, expected (N, 3072) bytes.")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise CompanionError(f"{origin}: {np.shape(labels)} labels for {len(data)} images.")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise CompanionError(f"{origin}: a label is outside 0 to {classes - 1}.")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)
