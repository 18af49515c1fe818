"""The generated `marks` world: grey pictures of pictograms, of plates, or of textures, drawn from a seed.

Three tasks that have nothing in common but their form: which of eight pictograms is seen, ink on paper; which of five
kinds of plate, whatever stands on it; which of six textures. Pose, contrast (dark on light or light on dark), clutter,
blur and noise vary. Images are drawn in blocks with a generator each, as in `companion.data.signs`.
"""

import math

import torch
import torch.nn.functional as F

from companion.data.backdrops import smooth_noise, uniform
from companion.data.drawing import Disc, Polygon, moved, paint, regular
from companion.data.imageset import ImageSet
from companion.data.pictograms import PICTOGRAMS
from companion.errors import CompanionError
from companion.seeding import generator as seeded

SIDE = 32
PICTURES = (*("walker", "bicycle", "lorry", "crossing", "bend left", "bumps", "lights", "snow", "turn right", "ring"),)
PLATES = ("disc", "triangle", "square", "octagon", "diamond")
TEXTURES = ("stripes", "checks", "dots", "rings", "clouds", "grain")
CLASSES = {"pictograms": PICTURES, "plates": PLATES, "textures": TEXTURES}
SPLIT_SIZES = {"train": 2000, "test": 1000}
_BLOCK = 200  # images that share a generator
_TEMPLATE = 64  # side of the drawings that are posed


def load(context: object, split: str, *, size: int | None = None, task: str = "pictograms", seed: int = 0) -> ImageSet:
    """Return a split of one task, (size, 1, 32, 32) float32 in [0, 1] with 256 levels, classes in turn.

    context: what the catalogue tells its loaders; not used. size: number of images; None takes the usual one of the
    split (`SPLIT_SIZES`). task: "pictograms", "plates" or "textures".
    Raises CompanionError for an unknown split or task and for size < 1.
    """
    if split not in SPLIT_SIZES:
        raise CompanionError(f"marks has no split {split!r}; its splits are {', '.join(SPLIT_SIZES)}.")
    if task not in CLASSES:
        raise CompanionError(f"marks has no task {task!r}; its tasks are {', '.join(CLASSES)}.")
    size = SPLIT_SIZES[split] if size is None else size
    if size < 1:
        raise CompanionError(f"marks was asked for {size} images; size must be 1 or more.")
    labels = torch.arange(math.ceil(size / _BLOCK) * _BLOCK) % len(CLASSES[task])
    draw = {"pictograms": _pictograms, "plates": _plates, "textures": _textures}[task]
    images = [draw(part, seeded(seed, "marks", task, split, block)) for block, part in enumerate(labels.split(_BLOCK))]
    return ImageSet(torch.cat(images)[:size], labels[:size], CLASSES[task], "marks", split)


def _grid(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return x, y


def _cover(shapes: tuple) -> torch.Tensor:
    """Coverage (F, F) of a drawing that spans -1.1 to 1.1."""
    x, y = _grid(_TEMPLATE)
    return paint([(shape, (1.0, 1.0, 1.0)) for shape in shapes], 1.1 * x, 1.1 * y, 2.2 / _TEMPLATE)[3]


def _posed(drawings: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """See drawings (B, 1, F, F) turned, scaled, moved and from the side: (B, 1, 32, 32)."""
    count = len(drawings)
    x, y = _grid(2 * SIDE)
    x, y = x - uniform(rng, count, -0.15, 0.15, 1, 1), y - uniform(rng, count, -0.15, 0.15, 1, 1)
    angle = uniform(rng, count, -15, 15, 1, 1) * math.pi / 180
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    radius = uniform(rng, count, 0.7, 0.98, 1, 1)
    u = x / radius / uniform(rng, count, 0.8, 1.0, 1, 1)
    v = y / radius + uniform(rng, count, -0.2, 0.2, 1, 1) * u
    seen = F.grid_sample(drawings, torch.stack([u, v], dim=-1) / 1.1, align_corners=False)
    return F.avg_pool2d(seen, 2)


def _pictograms(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    drawings = torch.stack([_cover(PICTOGRAMS[name]) for name in PICTURES]).unsqueeze(1)
    return _printed(_posed(drawings[labels], rng), rng)


def _plates(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    square = Polygon(((-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)), 0.08)
    outlines = (
        Disc(0, 0, 0.95),
        Polygon(regular(3, 0.98, y=0.16), 0.1),
        square,
        Polygon(regular(8, 0.98, 22.5)),
        Polygon(regular(4, 0.98), 0.04),
    )
    plates = torch.stack([_cover((outline,)) for outline in outlines])
    inner = [_cover(moved(PICTOGRAMS[name], 0.5, y=0.1)) for name in PICTURES]
    inner = torch.stack([*inner, torch.zeros_like(inner[0])])
    shown = inner[torch.randint(len(inner), (len(labels),), generator=rng)]
    strength = uniform(rng, len(labels), 0.4, 1.0, 1, 1)
    return _printed(_posed((plates[labels] * (1 - strength * shown)).unsqueeze(1), rng), rng)


def _textures(labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    count = len(labels)
    x, y = (axis.expand(count, SIDE, SIDE) for axis in _grid(SIDE))
    angle = uniform(rng, count, 0, math.pi, 1, 1)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    bow = 0.15 * smooth_noise(count, 2, SIDE, (3,), rng)
    u, v = u + bow[:, 0], v + bow[:, 1]
    pace = uniform(rng, count, 6, 11, 1, 1)
    phase = uniform(rng, count, 0, 2 * math.pi, 2, 1, 1)
    across, along = torch.sin(pace * u + phase[:, 0]), torch.sin(pace * v + phase[:, 1])
    centre = uniform(rng, count, -0.5, 0.5, 2, 1, 1)
    kinds = [
        across,
        across * along * 1.6,
        (across + along - 0.7).clamp(-1, 1),
        torch.sin(1.3 * pace * torch.hypot(x - centre[:, 0], y - centre[:, 1])),
        smooth_noise(count, 1, SIDE, (4, 8), rng).squeeze(1) * 1.5,
        torch.randn(count, SIDE, SIDE, generator=rng) * 0.8,
    ]
    chosen = torch.stack(kinds, dim=1)[torch.arange(count), labels]
    return _printed((0.5 + 0.5 * chosen).clamp(0, 1).unsqueeze(1), rng)


def _printed(cover: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Ink on paper, (B, 1, 32, 32): tones, clutter, uneven light, blur, noise and 256 levels."""
    count = len(cover)
    paper, ink = uniform(rng, count, 0.55, 1.0, 1, 1, 1), uniform(rng, count, 0.0, 0.35, 1, 1, 1)
    swapped = torch.rand(count, 1, 1, 1, generator=rng) < 0.2
    paper, ink = torch.where(swapped, ink, paper), torch.where(swapped, paper, ink)
    picture = paper + (ink - paper) * cover
    light = 1 + 0.15 * smooth_noise(count, 1, SIDE, (2, 5), rng)
    strip = _strip(count, rng)
    picture = picture * light * (1 - strip) + uniform(rng, count, 0, 1, 1, 1, 1) * strip
    soft = F.avg_pool2d(F.pad(picture, [1] * 4, mode="replicate"), 3, stride=1)
    blur = uniform(rng, count, 0, 0.5, 1, 1, 1)
    picture = picture + (soft - picture) * blur
    noise = torch.randn(picture.shape, generator=rng) * uniform(rng, count, 0.02, 0.1, 1, 1, 1)
    return torch.round((picture + noise).clamp(0, 1) * 255) / 255


def _strip(count: int, rng: torch.Generator) -> torch.Tensor:
    """A bar across some of the pictures, (B, 1, 32, 32) in [0, 1]."""
    x, y = _grid(SIDE)
    angle = uniform(rng, count, 0, math.pi, 1, 1, 1)
    away = (x * angle.cos() + y * angle.sin() - uniform(rng, count, -0.7, 0.7, 1, 1, 1)).abs()
    there = torch.rand(count, 1, 1, 1, generator=rng) < 0.3
    return ((uniform(rng, count, 0.03, 0.12, 1, 1, 1) - away) * SIDE / 2 + 0.5).clamp(0, 1) * there
