"""A contact sheet of a data set: a few images of each class, tiled into one picture."""

import torch

from companion.data.imageset import ImageSet
from companion.errors import CompanionError

SEPARATOR = 2  # pixels between tiles and around them


def gallery(data: ImageSet, per_class: int, classes: int) -> torch.Tensor:
    """Return one picture, (C, H', W') float32 in [0, 1], with a row for each of the first `classes` classes.

    A row holds the first `per_class` images of its class, in the order of the data; white lines of SEPARATOR pixels
    run between and around the tiles, so that H' = classes * (H + SEPARATOR) + SEPARATOR, and W' alike.
    Raises CompanionError when the data has fewer classes, or a class fewer images, than asked for.

    >>> data = ImageSet(torch.zeros(6, 1, 8, 8), torch.arange(6) % 2, ("even", "odd"), "toy", "train")
    >>> gallery(data, per_class=3, classes=2).shape
    torch.Size([1, 22, 32])
    """
    if not 1 <= classes <= len(data.classes) or per_class < 1:
        raise CompanionError(
            f"a gallery of {per_class} images of {classes} classes was asked for; expected at least 1 image of 1 to "
            f"{len(data.classes)} classes, which is what {data.name} has."
        )
    channels, height, width = data.shape
    step_down, step_right = height + SEPARATOR, width + SEPARATOR
    picture = torch.ones(channels, classes * step_down + SEPARATOR, per_class * step_right + SEPARATOR)
    for row in range(classes):
        places = (data.labels == row).nonzero().squeeze(1)[:per_class]
        if len(places) < per_class:
            raise CompanionError(
                f"{data.name}/{data.split} has {len(places)} images of the class {data.classes[row]!r}; the gallery "
                f"needs {per_class}. Ask for fewer or load more images."
            )
        tiles = data.images[places].cpu()  # (per_class, C, H, W)
        top = SEPARATOR + row * step_down
        for column, tile in enumerate(tiles):
            left = SEPARATOR + column * step_right
            picture[:, top : top + height, left : left + width] = tile
    return picture  # (C, H', W')
