"""The generated `signs` world: small photos of traffic-sign-like signs, drawn from a seed, of any number.

Each image holds one sign of 43 classes (`companion.data.plates`) in front of a photo-like background
(`companion.data.backdrops`), seen from the side, shaded, partly hidden, out of focus and with a sensor's noise. Images
are drawn in blocks with a generator each, so that the first images of a split are the same however many are drawn, and
splits are independent streams.
"""

import math

import torch
import torch.nn.functional as F

from companion.data.backdrops import backdrops, smooth_noise, uniform
from companion.data.imageset import ImageSet
from companion.data.plates import CLASS_NAMES, EXTENT, draw_plates
from companion.errors import CompanionError
from companion.seeding import generator as seeded

SIDE = 32
SPLIT_SIZES = {"train": 5000, "test": 2000, "attacker": 5000, "defender": 1000}
_BLOCK = 250  # images that share a generator
_FINE = 2 * SIDE  # signs are drawn at twice the resolution and averaged
_KERNEL = 7  # side of the blur kernels, in pixels


def load(context: object, split: str, *, size: int | None = None, classes: int = 10, seed: int = 0) -> ImageSet:
    """Return a split of the world, as the catalogue asks for it; see `generate`.

    context: what the catalogue tells its loaders; not used. size: number of images; None takes the usual one of the
    split (`SPLIT_SIZES`).
    """
    _check(split, size, classes)
    return generate(split, SPLIT_SIZES[split] if size is None else size, classes, seed)


def generate(split: str, size: int, classes: int = 10, seed: int = 0) -> ImageSet:
    """Draw the first `size` images of a split; labels go round 0, 1, ..., classes - 1, so that they are balanced.

    split: "train", "test", "attacker" or "defender", independent streams of one world. The images are
    (size, 3, 32, 32) float32 in [0, 1] with 256 levels, as from a camera. The same arguments give the same bits.
    Raises CompanionError for an unknown split, for size < 1 and for classes outside 2 to 43.

    >>> generate("train", 4, classes=3).labels
    tensor([0, 1, 2, 0])
    """
    _check(split, size, classes)
    faces = draw_plates(classes, _FINE)
    labels = torch.arange(math.ceil(size / _BLOCK) * _BLOCK) % classes
    images = [
        _photos(faces[part], seeded(seed, "signs", split, block)) for block, part in enumerate(labels.split(_BLOCK))
    ]
    return ImageSet(torch.cat(images)[:size], labels[:size], CLASS_NAMES[:classes], "signs", split)


def _check(split: str, size: int | None, classes: int) -> None:
    if split not in SPLIT_SIZES:
        raise CompanionError(f"signs has no split {split!r}; its splits are {', '.join(SPLIT_SIZES)}.")
    if size is not None and size < 1:
        raise CompanionError(f"signs was asked for {size} images; size must be 1 or more.")
    if not 2 <= classes <= len(CLASS_NAMES):
        raise CompanionError(f"signs was asked for {classes} classes; it can draw 2 to {len(CLASS_NAMES)}.")


def _photos(faces: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Photograph one sign face (B, 4, F, F) each: images (B, 3, 32, 32) in [0, 1]."""
    count = len(faces)
    scene = backdrops(count, SIDE, rng)
    u, v = _pose(count, rng)
    scene = _with_post(scene, u, v, rng)
    sign = F.grid_sample(faces, torch.stack([u, v], dim=-1) / EXTENT, padding_mode="zeros", align_corners=False)
    colour, cover = _weathered(F.avg_pool2d(sign, 2), rng)  # (B, 3, S, S), (B, 1, S, S)
    seen = 1 - _strips(count, rng)
    photo = scene * (1 - cover * seen) + colour * seen
    photo = _lit(photo, rng)
    photo = _blurred(photo, rng)
    return _sensed(photo, rng)


def _pose(count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sign coordinates (u, v), each (B, F, F), of the fine pixels: a random perspective view of the sign."""
    centres = (torch.arange(_FINE) + 0.5) / _FINE * 2 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    x = x - uniform(rng, count, -0.2, 0.2, 1, 1)
    y = y - uniform(rng, count, -0.2, 0.2, 1, 1)
    angle = uniform(rng, count, -15, 15, 1, 1) * math.pi / 180
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    radius = uniform(rng, count, 0.5, 0.85, 1, 1)  # half an image is 1
    side_turn = uniform(rng, count, -50, 50, 1, 1) * math.pi / 180
    tilt = uniform(rng, count, -25, 25, 1, 1) * math.pi / 180
    u, v = x / (radius * side_turn.cos()), y / (radius * tilt.cos())
    depth = 1 + 0.25 * (side_turn.sin() * u + tilt.sin() * v)  # what is farther away is smaller
    depth = depth.clamp(min=0.3)
    return u / depth, v / depth


def _with_post(scene: torch.Tensor, u: torch.Tensor, v: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Put the sign's post, which hangs from the middle of the sign downwards, into most scenes."""
    half = uniform(rng, len(scene), 0.05, 0.12, 1, 1)
    shown = (torch.rand(len(scene), 1, 1, generator=rng) < 0.7).float()
    inside = ((half - u.abs()) * _FINE / 4 + 0.5).clamp(0, 1) * (v > 0) * shown
    post = F.avg_pool2d(inside.unsqueeze(1), 2)  # (B, 1, S, S)
    across = F.avg_pool2d((u / half).clamp(-1, 1).unsqueeze(1), 2)
    grey = uniform(rng, len(scene), 0.25, 0.7, 1, 1, 1) * (1 + 0.3 * across)
    return scene * (1 - post) + grey * post


def _weathered(sign: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Fade and stain the paint of premultiplied signs (B, 4, S, S): colours (B, 3, S, S), coverage (B, 1, S, S)."""
    colour, cover = sign[:, :3], sign[:, 3:]
    pale = uniform(rng, len(sign), 0.0, 0.45, 1, 1, 1)
    faded = colour * (1 - pale) + pale * (0.5 * colour.mean(dim=1, keepdim=True) + 0.3 * cover)
    stains = 1 + 0.12 * smooth_noise(len(sign), 1, SIDE, (3, 7), rng)
    hue = uniform(rng, len(sign), 0.9, 1.1, 3, 1, 1)
    return (faded * stains * hue).minimum(cover), cover


def _strips(count: int, rng: torch.Generator) -> torch.Tensor:
    """Where a branch, a wire or a pole hides the sign: (B, 1, S, S), 1 where the background is seen instead."""
    centres = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    angle = uniform(rng, count, 0, math.pi, 1, 1, 1)
    across = centres.view(1, 1, 1, -1) * angle.cos() + centres.view(1, 1, -1, 1) * angle.sin()
    bow = 0.12 * smooth_noise(count, 1, SIDE, (3,), rng)
    offset, half = uniform(rng, count, -0.7, 0.7, 1, 1, 1), uniform(rng, count, 0.03, 0.14, 1, 1, 1)
    present = (torch.rand(count, 1, 1, 1, generator=rng) < 0.35).float()
    return ((half - (across + bow - offset).abs()) * SIDE / 2 + 0.5).clamp(0, 1) * present


def _lit(photo: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Light: a shadow's edge, glare, gain, colour cast, haze and gamma."""
    count = len(photo)
    centres = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x, y = centres.view(1, 1, 1, -1), centres.view(1, 1, -1, 1)
    angle = uniform(rng, count, 0, 2 * math.pi, 1, 1, 1)
    edge = x * angle.cos() + y * angle.sin() - uniform(rng, count, -0.6, 0.9, 1, 1, 1)
    shadow = (edge * uniform(rng, count, 2, 10, 1, 1, 1) + 0.5).clamp(0, 1)
    photo = photo * (1 - shadow * uniform(rng, count, -0.4, 0.6, 1, 1, 1).clamp(min=0))
    sun_x, sun_y = uniform(rng, count, -1, 1, 1, 1, 1), uniform(rng, count, -1, 0.3, 1, 1, 1)
    glare = (1 - torch.hypot(x - sun_x, y - sun_y) / 1.2).clamp(min=0)
    photo = photo + glare * uniform(rng, count, -0.8, 0.6, 1, 1, 1).clamp(min=0)
    gain = torch.exp(uniform(rng, count, math.log(0.45), math.log(1.3), 1, 1, 1))
    photo = photo * gain * uniform(rng, count, 0.9, 1.1, 3, 1, 1)
    haze = uniform(rng, count, -0.4, 0.4, 1, 1, 1).clamp(min=0)
    photo = photo * (1 - haze) + haze * uniform(rng, count, 0.3, 0.7, 1, 1, 1)
    return photo.clamp(1e-3, 1) ** torch.exp(uniform(rng, count, -0.35, 0.35, 1, 1, 1))


def _blurred(photo: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Defocus and motion: a Gaussian kernel for each image, longer along a random direction."""
    count = len(photo)
    steps = torch.arange(_KERNEL, dtype=torch.float32) - _KERNEL // 2
    angle = uniform(rng, count, 0, math.pi, 1, 1)
    along = steps.view(1, 1, -1) * angle.cos() + steps.view(1, -1, 1) * angle.sin()
    aside = steps.view(1, -1, 1) * angle.cos() - steps.view(1, 1, -1) * angle.sin()
    focus = 0.35 + 0.9 * torch.rand(count, 1, 1, generator=rng) ** 2
    motion = 1.4 * torch.rand(count, 1, 1, generator=rng) ** 3
    kernel = torch.exp(-0.5 * (aside / focus) ** 2 - 0.5 * (along / (focus + motion)) ** 2)
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)  # (B, k, k)
    padded = F.pad(photo, [_KERNEL // 2] * 4, mode="replicate").transpose(0, 1)  # (3, B, S + k - 1, S + k - 1)
    return F.conv2d(padded, kernel.unsqueeze(1), groups=count).transpose(0, 1)  # (B, 3, S, S)


def _sensed(photo: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Sensor: noise that grows with the light, then 256 levels."""
    count = len(photo)
    level = 0.006 + 0.035 * torch.rand(count, 1, 1, 1, generator=rng) ** 2
    noise = torch.randn(photo.shape, generator=rng) * level * (0.5 + photo.clamp(min=0))
    return ((photo + noise).clamp(0, 1) * 255).round() / 255
