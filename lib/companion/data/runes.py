"""The generated `runes` world: small photos of painted characters of any number of classes, for few-shot learning.

A class is a rune, a few strokes between points of a grid, which follow from the seed and the class's number alone. A
hand paints it anew for each image: its corners wander, its pose, thickness, ink and ground change, so that only the
strokes tell classes apart. Images are drawn in blocks with a generator each, as in `companion.data.signs`.
"""

import math

import torch
import torch.nn.functional as F

from companion.data.backdrops import backdrops, smooth_noise, uniform
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.seeding import generator as seeded

SIDE = 32
SPLIT_SIZES = {"train": 6400, "test": 2000}
MOST_CLASSES = 10_000
_BLOCK = 250  # images that share a generator
_GRID = 3  # corners of a rune lie near the points of a grid of this side
_CORNERS, _STROKES = 6, 6
_FINE = 2 * SIDE  # drawn at twice the resolution and averaged


def load(
    context: object, split: str, *, size: int | None = None, classes: int = 40, first_class: int = 0, seed: int = 0
) -> ImageSet:
    """Return a split of the world, as the catalogue asks for it; see `generate`.

    context: what the catalogue tells its loaders; not used. size: number of images; None takes the usual one of the
    split (`SPLIT_SIZES`).
    """
    _check(split, size, classes, first_class)
    return generate(split, SPLIT_SIZES[split] if size is None else size, classes, first_class, seed)


def generate(split: str, size: int, classes: int = 40, first_class: int = 0, seed: int = 0) -> ImageSet:
    """Draw the first `size` images of the runes number first_class, ..., first_class + classes - 1.

    split: "train" or "test", independent streams of one world; labels go round 0, 1, ..., classes - 1, so that they
    are balanced. The images are (size, 3, 32, 32) float32 in [0, 1] with 256 levels. The same arguments give the same
    bits, and a smaller `size` gives the first of them.
    Raises CompanionError for an unknown split, for size < 1, classes < 2 and numbers of classes out of range.

    >>> generate("train", 4, classes=3, first_class=7).classes
    ('rune 7', 'rune 8', 'rune 9')
    """
    _check(split, size, classes, first_class)
    corners, strokes = _runes(range(first_class, first_class + classes), seed)
    labels = torch.arange(math.ceil(size / _BLOCK) * _BLOCK) % classes
    images = [
        _photos(corners[part], strokes[part], seeded(seed, "runes", split, first_class, block))
        for block, part in enumerate(labels.split(_BLOCK))
    ]
    names = tuple(f"rune {number}" for number in range(first_class, first_class + classes))
    return ImageSet(torch.cat(images)[:size], labels[:size], names, "runes", split)


def _check(split: str, size: int | None, classes: int, first_class: int) -> None:
    if split not in SPLIT_SIZES:
        raise CompanionError(f"runes has no split {split!r}; its splits are {', '.join(SPLIT_SIZES)}.")
    if size is not None and size < 1:
        raise CompanionError(f"runes was asked for {size} images; size must be 1 or more.")
    if classes < 2 or first_class < 0 or first_class + classes > MOST_CLASSES:
        raise CompanionError(
            f"runes was asked for {classes} classes from number {first_class} on; expected at least 2, between 0 and "
            f"{MOST_CLASSES}."
        )


def _runes(numbers: range, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return corners (K, corners, 2) within [-1, 1] and strokes (K, strokes, 2), pairs of corner numbers."""
    corners, strokes = [], []
    for number in numbers:
        rng = seeded(seed, "rune", number)
        points = torch.randperm(_GRID * _GRID, generator=rng)[:_CORNERS]
        grid = torch.stack([points % _GRID, points // _GRID], 1) * (1.6 / (_GRID - 1)) - 0.8
        corners.append(grid + uniform(rng, _CORNERS, -0.15, 0.15, 2))
        walk = torch.arange(_CORNERS)
        lines = torch.stack([walk[:-1], walk[1:]], 1)  # one line through all corners, and one stroke across
        lifted = int(torch.randint(1, _CORNERS - 2, (), generator=rng))  # where the brush is lifted once
        lines[lifted] = torch.tensor([lifted, lifted])
        across = torch.randperm(_CORNERS, generator=rng)[:2]
        strokes.append(torch.cat([lines, across[None]]))
    return torch.stack(corners), torch.stack(strokes)


def _photos(corners: torch.Tensor, strokes: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Paint one rune each, corners (B, corners, 2) and strokes (B, strokes, 2): images (B, 3, 32, 32) in [0, 1]."""
    count = len(corners)
    wall = backdrops(count, SIDE, rng)
    plaster = torch.rand(count, 3, 1, 1, generator=rng) * (1 + 0.1 * smooth_noise(count, 3, SIDE, (4, 9), rng))
    ground = torch.where(torch.rand(count, 1, 1, 1, generator=rng) < 0.5, wall, plaster.clamp(0, 1))
    ink = _ink(ground, rng)
    cover = _painted(corners, strokes, rng)
    photo = ground * (1 - cover) + ink * cover
    photo = photo * (1 - _shadow(count, rng)) * torch.exp(uniform(rng, count, -0.4, 0.25, 1, 1, 1))
    noise = torch.randn(photo.shape, generator=rng) * (0.01 + 0.05 * torch.rand(count, 1, 1, 1, generator=rng) ** 2)
    return ((photo + noise).clamp(0, 1) * 255).round() / 255


def _ink(ground: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """An ink (B, 3, 1, 1) of any hue, lighter than a dark ground and darker than a light one."""
    count = len(ground)
    light = ground.mean(dim=(1, 2, 3), keepdim=True)
    hue = torch.rand(count, 3, 1, 1, generator=rng)
    strength = uniform(rng, count, 0.4, 0.85, 1, 1, 1)
    goal = (light < uniform(rng, count, 0.35, 0.65, 1, 1, 1)).float()
    return light + (goal - light) * strength + 0.15 * (hue - 0.5)


def _painted(corners: torch.Tensor, strokes: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Where the ink covers the ground: (B, 1, 32, 32) in [0, 1]."""
    count = len(corners)
    placed = _posed(corners + 0.1 * torch.randn(corners.shape, generator=rng), rng)
    index = strokes.unsqueeze(-1).expand(-1, -1, -1, 2)  # (B, strokes, 2, 2)
    ends = placed.unsqueeze(1).expand(-1, strokes.shape[1], -1, -1).gather(2, index)
    start, step = ends[:, :, 0], ends[:, :, 1] - ends[:, :, 0]  # (B, strokes, 2)
    centres = (torch.arange(_FINE) + 0.5) / _FINE * 2 - 1
    x = centres.view(1, 1, 1, -1) - start[..., 0, None, None]  # (B, strokes, 1, F)
    y = centres.view(1, 1, -1, 1) - start[..., 1, None, None]
    along_x, along_y = step[..., 0, None, None], step[..., 1, None, None]
    share = ((x * along_x + y * along_y) / (along_x**2 + along_y**2).clamp(min=1e-9)).clamp(0, 1)
    squared = ((x - share * along_x) ** 2 + (y - share * along_y) ** 2).amin(dim=1)  # (B, F, F)
    bow = 0.03 * smooth_noise(count, 1, _FINE, (5, 11), rng)[:, 0]
    half = uniform(rng, count, 0.05, 0.12, 1, 1)
    cover = ((half + bow - squared.sqrt()) * _FINE / 2 + 0.5).clamp(0, 1)
    worn = 1 - (0.6 * smooth_noise(count, 1, SIDE, (4, 9), rng)).clamp(0, 0.8)
    return F.avg_pool2d(cover.unsqueeze(1), 2) * worn


def _posed(corners: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Turn, stretch, slant and shift the corners (B, corners, 2) of each rune."""
    count = len(corners)
    angle = uniform(rng, count, -20, 20, 1) * math.pi / 180
    x = corners[..., 0] * uniform(rng, count, 0.6, 1.0, 1)
    y = corners[..., 1] * uniform(rng, count, 0.6, 1.0, 1)
    x = x + y * uniform(rng, count, -0.3, 0.3, 1)
    turned = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=-1)
    return turned + uniform(rng, count, -0.15, 0.15, 1, 2)


def _shadow(count: int, rng: torch.Generator) -> torch.Tensor:
    """A shadow with a straight soft edge over some of the images: (B, 1, 32, 32) in [0, 0.5]."""
    centres = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    angle = uniform(rng, count, 0, 2 * math.pi, 1, 1, 1)
    edge = centres.view(1, 1, 1, -1) * angle.cos() + centres.view(1, 1, -1, 1) * angle.sin()
    depth = uniform(rng, count, -0.5, 0.5, 1, 1, 1).clamp(min=0)
    return ((edge - uniform(rng, count, -0.5, 0.9, 1, 1, 1)) * 4 + 0.5).clamp(0, 1) * depth
