"""The 1,797 handwritten digits that scikit-learn brings along: real scans (E. Alpaydin, C. Kaynak, 1998)."""

import gzip

import numpy as np
import torch

from companion.data.catalogue import Context
from companion.data.imageset import ImageSet
from companion.errors import CompanionError


def load(context: Context, split: str) -> ImageSet:
    """Return all digits as (1797, 1, 16, 16) float32 in [0, 1].

    The scans are 8x8 with 17 grey levels; they are doubled by bilinear interpolation, whose weights are sixteenths, so
    that every pixel is exact and the same on every machine.
    """
    (path,) = context.files.values()
    with gzip.open(path, "rt", encoding="ascii") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)  # (1797, 65)
    if table.ndim != 2 or table.shape[1] != 65 or table[:, :64].min() < 0 or table[:, :64].max() > 16:
        raise CompanionError(f"{path}: {table.shape} numbers, expected (N, 65): 64 pixels from 0 to 16 and a label.")
    scans = torch.from_numpy(table[:, :64]).reshape(-1, 1, 8, 8) / 16
    images = torch.nn.functional.interpolate(scans, scale_factor=2, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(table[:, 64]).to(torch.int64)
    return ImageSet(images.contiguous(), labels, context.classes, context.name, split)
