"""The tiles world: 16 x 16 pictures of one plain shape on a plain ground, the smallest cousin of the scenes world.

A text-to-image model must be trained on one core in minutes, and an exact program must say afterwards what it drew;
hence one thing a picture, no texture and no clutter. The eleven properties of a tile (shape, colour, size, place,
ground) are named by the captions of `companion.multimodal.prompts`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from companion.errors import CompanionError

SIDE = 16
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
COLOURS = {
    "red": (0.88, 0.10, 0.10),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.13, 0.30, 0.88),
    "yellow": (0.97, 0.88, 0.15),
    "purple": (0.58, 0.18, 0.72),
    "orange": (0.97, 0.60, 0.10),
    "grey": (0.55, 0.55, 0.55),
}
"""Each colour at full light, RGB in [0, 1]."""
SIZES = {"small": 7.5, "large": 10.5}
"""Diameters in pixels."""
PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "centre": (0, 0)}
"""Directions (x, y) from the middle; y grows downwards."""
GROUNDS = {"snow": (0.95, 0.95, 0.97), "sand": (0.92, 0.82, 0.60), "night": (0.08, 0.08, 0.20)}
LIGHT = (0.85, 1.0)
"""A thing's colour is multiplied by a factor drawn from here, its ground's by one from the upper half."""
JITTER = (-0.5, 0.0, 0.5)
MARGIN = 0.5
SAMPLES = 8  # a side, in every pixel


@dataclass(frozen=True)
class Tile:
    """One picture's content: keys of SHAPES, COLOURS, SIZES, PLACES and GROUNDS."""

    shape: str
    colour: str
    size: str
    place: str
    ground: str

    def __post_init__(self):
        for name, known in (
            ("shape", SHAPES),
            ("colour", COLOURS),
            ("size", SIZES),
            ("place", PLACES),
            ("ground", GROUNDS),
        ):
            if getattr(self, name) not in known:
                raise CompanionError(f"a tile's {name} is {getattr(self, name)!r}: expected one of {', '.join(known)}.")


def draw_tiles(
    number: int,
    generator: torch.Generator,
    *,
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
) -> list[Tile]:
    """Return tiles with every property drawn uniformly and independently."""
    choices = (tuple(shapes), tuple(colours), tuple(SIZES), tuple(PLACES), tuple(GROUNDS))
    picks = [torch.randint(len(options), (number,), generator=generator).tolist() for options in choices]
    return [Tile(*(options[k] for options, k in zip(choices, row, strict=True))) for row in zip(*picks, strict=True)]


def render(tiles: Sequence[Tile], generator: torch.Generator) -> torch.Tensor:
    """Return the pictures (N, 3, 16, 16) float32 in [0, 1]; the generator draws light and a shift of half a pixel."""
    number = len(tiles)
    mask = coverage()[template_index(tiles), torch.randint(len(JITTER) ** 2, (number,), generator=generator)]
    light = LIGHT[0] + (LIGHT[1] - LIGHT[0]) * torch.rand(number, 2, generator=generator)  # (N, 2)
    colour = torch.tensor([COLOURS[tile.colour] for tile in tiles]) * light[:, :1]
    ground = torch.tensor([GROUNDS[tile.ground] for tile in tiles]) * (1 + light[:, 1:]) / 2
    mask = mask[:, None]  # (N, 1, 16, 16)
    return mask * colour[:, :, None, None] + (1 - mask) * ground[:, :, None, None]


TEMPLATES = tuple((shape, size, place) for shape in SHAPES for size in SIZES for place in PLACES)
"""Every outline: (shape, size, place), in the order of `coverage`."""


def template_index(tiles: Sequence[Tile]) -> torch.Tensor:
    """Return the position (N,) of every tile's outline in TEMPLATES."""
    order = {template: index for index, template in enumerate(TEMPLATES)}
    return torch.tensor([order[tile.shape, tile.size, tile.place] for tile in tiles])


@cache
def coverage() -> torch.Tensor:
    """Return how much of each pixel each outline covers: (templates, shifts, 16, 16) float32 in [0, 1]."""
    fine = (torch.arange(SIDE * SAMPLES) + 0.5) / SAMPLES - SIDE / 2
    x, y = fine[None, :], fine[:, None]
    found = []
    for shape, size, place in TEMPLATES:
        radius = SIZES[size] / 2
        reach = SIDE / 2 - radius - MARGIN
        for dy in JITTER:
            for dx in JITTER:
                cx, cy = PLACES[place][0] * reach + dx, PLACES[place][1] * reach + dy
                inside = _inside(shape, (x - cx) / radius, (y - cy) / radius).float()
                found.append(inside.reshape(SIDE, SAMPLES, SIDE, SAMPLES).mean((1, 3)))
    return torch.stack(found).reshape(len(TEMPLATES), len(JITTER) ** 2, SIDE, SIDE)


def _inside(shape: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Say which points lie inside the shape of radius 1 around the origin."""
    rho = torch.hypot(x.expand(y.shape[0], -1), y.expand(-1, x.shape[1]))
    if shape == "circle":
        return rho < 1
    if shape == "ring":
        return (rho < 1) & (rho > 0.55)
    if shape == "square":
        return (x.abs() < 0.88) & (y.abs() < 0.88)
    if shape == "cross":
        return ((x.abs() < 0.3) & (y.abs() < 1)) | ((y.abs() < 0.3) & (x.abs() < 1))
    if shape == "triangle":  # upright: apex at the top
        return (y < 0.8) & (y > -1 + 1.8 * x.abs())
    angle = torch.atan2(x.expand_as(rho), -y.expand_as(rho)).abs() % (2 * math.pi / 5)
    angle = torch.minimum(angle, 2 * math.pi / 5 - angle)  # in [0, 36 degrees]: from a tip to a notch
    notch, half = 0.42, math.pi / 5
    px, py = rho * torch.cos(angle), rho * torch.sin(angle)
    qx, qy = notch * math.cos(half), notch * math.sin(half)
    return (qx - 1) * py - qy * (px - 1) > 0  # on the inner side of the edge from the tip (1, 0) to the notch
