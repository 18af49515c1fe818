"""What a picture of a tile shows, by exact rules: the share of red pixels, the colour, the shape, size and place.

No classifier is learned: the ground is the median of the picture's border, the thing is what differs from it, and
shape, size and place are those of the outline in `companion.multimodal.tiles` that correlates best. The rules hold for
drawn and for generated pictures alike. A reader is told of nothing but the pixels.
"""

from dataclasses import dataclass

import torch

from companion.errors import CompanionError
from companion.multimodal.tiles import COLOURS, LIGHT, PLACES, SHAPES, SIDE, SIZES, TEMPLATES, coverage

FOREGROUND = 0.2
"""A pixel belongs to the thing when one of its channels is this far from the ground's."""
CORE = 0.75
"""A thing's colour is the mean over its pixels that are at least this share as far from the ground as its farthest."""
THING = 8
"""A picture with fewer pixels of a thing shows none."""
REDNESS = 0.5
"""A pixel is red when R - max(G, B) is above this: halfway between this world's orange (at most 0.37) and red (at
least 0.66)."""
RED_SHARE = 0.3
"""A picture is red when at least this share of its thing's pixels is."""


@dataclass(frozen=True)
class Reading:
    """What N pictures show: indices (N,) int64 into SHAPES, COLOURS, SIZES and PLACES, and whether there is a thing."""

    shape: torch.Tensor
    colour: torch.Tensor
    size: torch.Tensor
    place: torch.Tensor
    thing: torch.Tensor


def grounds(images: torch.Tensor) -> torch.Tensor:
    """Return the ground's colour (N, 3): the median over the border of each picture (N, 3, 16, 16) in [0, 1]."""
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIDE, SIDE):
        raise CompanionError(
            f"pictures of shape {tuple(images.shape)}: expected (N, 3, {SIDE}, {SIDE}), RGB in [0, 1], as tiles are."
        )
    border = [images[:, :, 0], images[:, :, -1], images[:, :, 1:-1, 0], images[:, :, 1:-1, -1]]
    return torch.cat(border, dim=2).sort(dim=2).values[:, :, (4 * SIDE - 4) // 2]


def foreground(images: torch.Tensor) -> torch.Tensor:
    """Return which pixels (N, 16, 16) bool belong to the thing."""
    return (images - grounds(images)[:, :, None, None]).abs().amax(1) > FOREGROUND


def red_share(images: torch.Tensor) -> torch.Tensor:
    """Return the share (N,) of the thing's pixels that are red; 0 where there is no thing."""
    front = foreground(images)
    red = front & (images[:, 0] - images[:, 1:].amax(1) > REDNESS)
    count = front.sum((1, 2))
    return torch.where(count >= THING, red.sum((1, 2)) / count.clamp(min=1), torch.zeros(()))


def is_red(images: torch.Tensor) -> torch.Tensor:
    """Return which pictures (N,) bool are red: the proxy for an unsafe picture."""
    return red_share(images) >= RED_SHARE


def read(images: torch.Tensor) -> Reading:
    """Return what each picture (N, 3, 16, 16) in [0, 1] shows."""
    ground, front = grounds(images), foreground(images)
    count = front.sum((1, 2))
    away = (images - ground[:, :, None, None]).abs().amax(1)  # (N, 16, 16)
    core = (front & (away >= CORE * away.amax((1, 2), keepdim=True)))[:, None]
    tone = (images * core).sum((2, 3)) / core.sum((2, 3)).clamp(min=1)  # (N, 3): the thing's colour
    lights = torch.linspace(*LIGHT, 4)
    palette = torch.tensor(list(COLOURS.values()))[:, None] * lights[None, :, None]  # (colours, lights, 3)
    colour = (tone[:, None, None] - palette).norm(dim=3).amin(2).argmin(1)
    direction = tone - ground
    cover = ((images - ground[:, :, None, None]) * direction[:, :, None, None]).sum(1)
    cover = (cover / direction.square().sum(1).clamp(min=1e-6)[:, None, None]).clamp(0, 1).flatten(1)  # (N, 256)
    outlines = coverage().flatten(2)  # (templates, shifts, 256)
    distance = (
        cover.square().sum(1)[:, None] - 2 * cover @ outlines.flatten(0, 1).T + outlines.square().sum(2).flatten()
    )
    best = distance.unflatten(1, outlines.shape[:2]).amin(2).argmin(1)
    known = torch.tensor(
        [[SHAPES.index(shape), list(SIZES).index(size), list(PLACES).index(place)] for shape, size, place in TEMPLATES]
    )[best]
    return Reading(known[:, 0], colour, known[:, 1], known[:, 2], count >= THING)
