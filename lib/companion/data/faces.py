"""The generated `faces` world: small grey portraits with an identity and an emotion, drawn from a seed, of any number.

A person is a set of proportions, tones and habits (hair, glasses, beard) that follows from the seed and the person's
number alone; an emotion moves brows, eyes and mouth, more or less strongly and never quite the same. Each image adds
pose, light, a busy background, a hand or scarf before the face, blur and a sensor's noise. Nobody who exists is shown.
Images are drawn in blocks with a generator each, as in `companion.data.signs`.
"""

import math

import torch
import torch.nn.functional as F

from companion.data.backdrops import smooth_noise, uniform
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.seeding import generator as seeded

SIDE = 32
SPLIT_SIZES = {"train": 4000, "test": 2000, "attacker": 2000, "defender": 2000}
TASKS = ("emotion", "identity")
EMOTIONS = ("afraid", "angry", "disgusted", "happy", "neutral", "sad", "surprised")
_BLOCK = 250  # images that share a generator
_FINE = 2 * SIDE  # drawn at twice the resolution and averaged

# What an emotion does at full strength: mouth's ends up, mouth open, mouth wider, brows up, brows' inner ends up, eyes
# wider, nose wrinkled.
_EXPRESSIONS = torch.tensor(
    [
        [-0.25, 0.45, 0.00, 0.60, 0.70, 0.35, 0.0],  # afraid
        [-0.45, 0.05, -0.05, -0.70, -0.90, -0.15, 0.3],  # angry
        [-0.55, 0.25, -0.15, -0.40, -0.30, -0.35, 1.0],  # disgusted
        [0.95, 0.25, 0.25, 0.10, 0.05, -0.15, 0.1],  # happy
        [0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.0],  # neutral
        [-0.80, 0.00, -0.15, 0.05, 0.85, -0.25, 0.0],  # sad
        [0.00, 0.85, -0.25, 0.95, 0.10, 0.40, 0.0],  # surprised
    ]
)
_TRAITS = {  # lowest and highest value of each trait of a person; lengths are in half images
    "width": (0.42, 0.58),
    "height": (0.6, 0.76),
    "jaw": (0.05, 0.4),
    "skin": (0.38, 0.9),
    "hair": (0.02, 0.9),
    "hairline": (0.35, 0.75),
    "parting": (-0.25, 0.25),
    "volume": (0.02, 0.16),
    "long": (0.0, 1.0),
    "eyes_apart": (0.17, 0.27),
    "eye_size": (0.08, 0.12),
    "eye_line": (-0.16, -0.02),
    "iris": (0.02, 0.45),
    "brow": (0.03, 0.075),
    "brow_up": (0.13, 0.2),
    "nose": (0.16, 0.3),
    "nostrils": (0.045, 0.11),
    "mouth": (0.19, 0.28),
    "mouth_line": (0.3, 0.42),
    "lips": (0.025, 0.06),
    "glasses": (0.0, 1.0),
    "beard": (0.0, 1.0),
    "ears": (0.07, 0.13),
}

Traits = dict[str, torch.Tensor]


def load(
    context: object,
    split: str,
    *,
    size: int | None = None,
    task: str = "emotion",
    people: int = 40,
    first_person: int = 0,
    seed: int = 0,
) -> ImageSet:
    """Return a split of the world, as the catalogue asks for it; see `generate`.

    context: what the catalogue tells its loaders; not used. size: number of images; None takes the usual one of the
    split (`SPLIT_SIZES`). task: what the labels are, "emotion" or "identity" (counted from `first_person`).
    """
    _check(split, size, people, first_person)
    if task not in TASKS:
        raise CompanionError(f"faces was asked for the task {task!r}; its tasks are {', '.join(TASKS)}.")
    images, persons, emotions = generate(
        split, SPLIT_SIZES[split] if size is None else size, people, first_person, seed
    )
    if task == "emotion":
        return ImageSet(images, emotions, EMOTIONS, "faces", split)
    names = tuple(f"person {number}" for number in range(first_person, first_person + people))
    return ImageSet(images, persons - first_person, names, "faces", split)


def generate(
    split: str, size: int, people: int = 40, first_person: int = 0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw the first `size` portraits of a split: images, persons and emotions.

    split: "train", "test", "attacker" or "defender", independent streams that show the same persons; people,
    first_person: persons first_person to first_person + people - 1
    appear in turn, each with the seven emotions in turn, so that both are balanced.
    Images are (size, 1, 32, 32) float32 in [0, 1] with 256 levels; persons and emotions (size,) int64.
    Raises CompanionError for an unknown split, size < 1, people < 2 and first_person < 0.

    >>> generate("train", 3, people=2)[1]
    tensor([0, 1, 0])
    """
    _check(split, size, people, first_person)
    number = torch.arange(math.ceil(size / _BLOCK) * _BLOCK)
    persons = number % people + first_person
    emotions = (number % people + number // people) % len(EMOTIONS)
    everyone = _traits(people, first_person, seed)
    images = []
    for block in range(len(number) // _BLOCK):
        part = slice(block * _BLOCK, (block + 1) * _BLOCK)
        traits = {name: values[persons[part] - first_person] for name, values in everyone.items()}
        rng = seeded(seed, "faces", split, people, first_person, block)
        images.append(_portraits(traits, _EXPRESSIONS[emotions[part]], rng))
    return torch.cat(images)[:size], persons[:size], emotions[:size]


def _check(split: str, size: int | None, people: int, first_person: int) -> None:
    if split not in SPLIT_SIZES:
        raise CompanionError(f"faces has no split {split!r}; its splits are {', '.join(SPLIT_SIZES)}.")
    if size is not None and size < 1:
        raise CompanionError(f"faces was asked for {size} images; size must be 1 or more.")
    if people < 2 or first_person < 0:
        raise CompanionError(
            f"faces was asked for {people} people from number {first_person} on; expected 2 or more, from 0 or later."
        )


def _traits(people: int, first_person: int, seed: int) -> Traits:
    """Return every person's traits, each (people,); a person's do not depend on who else is asked for."""
    low, high = (torch.tensor(bounds) for bounds in zip(*_TRAITS.values(), strict=True))
    drawn = [
        torch.rand(len(_TRAITS), generator=seeded(seed, "faces", "person", number))
        for number in range(first_person, first_person + people)
    ]
    values = torch.stack(drawn) * (high - low) + low  # (people, traits)
    return dict(zip(_TRAITS, values.unbind(1), strict=True))


def _portraits(traits: Traits, expressions: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Photograph one face each: images (B, 1, 32, 32) in [0, 1]."""
    count = len(expressions)
    strength = uniform(rng, count, 0.6, 1.3, 1)
    moved = expressions * strength + 0.13 * torch.randn(expressions.shape, generator=rng)
    t = {name: value.view(-1, 1, 1) for name, value in traits.items()}
    e = [column.view(-1, 1, 1) for column in moved.unbind(1)]
    u, v = _pose(count, rng)
    picture = _behind(t, u, v, rng)
    picture = _head(picture, t, u, v, rng)
    picture = _eyes(picture, t, e, u, v, rng)
    picture = _nose_and_mouth(picture, t, e, u, v)
    picture = _hair(picture, t, u, v)
    picture = F.avg_pool2d(picture.unsqueeze(1), 2)  # (B, 1, S, S)
    return _sensed(_hidden(picture, rng), rng)


def _pose(count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Face coordinates (u, v), each (B, F, F), of the fine pixels; u is squeezed on the side turned away."""
    centres = (torch.arange(_FINE) + 0.5) / _FINE * 2 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    x = x - uniform(rng, count, -0.1, 0.1, 1, 1)
    y = y - uniform(rng, count, -0.1, 0.1, 1, 1)
    angle = uniform(rng, count, -10, 10, 1, 1) * math.pi / 180
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    scale = uniform(rng, count, 1.2, 1.45, 1, 1)
    turn = uniform(rng, count, -0.15, 0.15, 1, 1)
    u = x / scale
    return u * (1 + turn * u), y / scale


def _cover(distance: torch.Tensor) -> torch.Tensor:
    """Coverage of pixels from signed distances in half images: 1 inside, 0 outside, soft over one fine pixel."""
    return (0.5 - distance * _FINE / 2).clamp(0, 1)


def _over(picture: torch.Tensor, tone: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    return picture + (tone - picture) * cover


def _ellipse(u: torch.Tensor, v: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """About the signed distance to an ellipse around the origin."""
    return (torch.sqrt((u / across) ** 2 + (v / down) ** 2 + 1e-8) - 1) * torch.minimum(across, down)


def _head_shape(t: Traits, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    narrower = 1 - t["jaw"] * v.clamp(min=0)  # the jaw
    return _ellipse(u, v, t["width"] * narrower.clamp(min=0.3), t["height"].expand_as(u))


def _behind(t: Traits, u: torch.Tensor, v: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Background, shoulders and the hair behind the head."""
    count = len(u)
    tone = uniform(rng, count, 0.1, 0.9, 1, 1) + 0.2 * smooth_noise(count, 1, _FINE, (3, 8), rng).squeeze(1)
    shirt = uniform(rng, count, 0.05, 0.95, 1, 1) * (1 + 0.15 * torch.sin(u * uniform(rng, count, 5, 30, 1, 1)))
    slope = v - 0.85 - 0.25 * u**2
    picture = _over(tone, shirt, _cover(-slope * (v > 0.5)) * (v > 0.5))
    neck = torch.maximum(u.abs() - 0.55 * t["width"], 0.4 - v)
    picture = _over(picture, 0.75 * t["skin"], _cover(torch.maximum(neck, v - 0.95)))
    reach = torch.where(t["long"] > 0.55, 0.75, 0.1)
    behind = _ellipse(u, v + 0.05, t["width"] + t["volume"], t["height"] + t["volume"])
    return _over(picture, t["hair"].expand_as(u), _cover(torch.maximum(behind, v - reach)))


def _head(picture: torch.Tensor, t: Traits, u: torch.Tensor, v: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Ears, head and beard, lit from one side."""
    light = uniform(rng, len(u), -0.5, 0.5, 1, 1)
    shade = 1 + light * u / t["width"] * 0.8 - 0.15 * v
    for side in (-1, 1):
        ear = _ellipse(u - side * t["width"], v, t["ears"].expand_as(u) * 0.7, t["ears"].expand_as(u) * 1.3)
        picture = _over(picture, 0.85 * t["skin"] * shade, _cover(ear))
    head = _head_shape(t, u, v)
    rounding = 1 - 0.35 * ((head / t["width"] + 0.35).clamp(min=0) / 0.35)
    picture = _over(picture, t["skin"] * shade * rounding, _cover(head))
    stubble = (t["beard"] > 0.65) * uniform(rng, len(u), 0.5, 0.8, 1, 1)
    chin = torch.maximum(head, 0.22 + 0.5 * (t["width"] - u.abs()).clamp(min=0) - v)
    return _over(picture, t["hair"] * 0.8 + 0.1, _cover(chin) * stubble)


def _eyes(
    picture: torch.Tensor, t: Traits, e: list[torch.Tensor], u: torch.Tensor, v: torch.Tensor, rng: torch.Generator
) -> torch.Tensor:
    """Eyes, brows and glasses."""
    gaze = uniform(rng, len(u), -0.4, 0.4, 1, 1)
    blink = (torch.rand(len(u), 1, 1, generator=rng) < 0.06) * 0.8
    opened = (0.6 + 0.8 * e[5]).clamp(min=0.12) * (1 - blink)
    for side in (-1, 1):
        x, y = u - side * t["eyes_apart"], v - t["eye_line"]
        size = t["eye_size"]
        white = _ellipse(x, y, size.expand_as(u) * 1.15, (size * opened).expand_as(u))
        picture = _over(picture, (0.65 + 0.3 * t["skin"]).expand_as(u), _cover(white))
        iris = torch.maximum(torch.hypot(x - gaze * size * 0.5, y) - 0.62 * size, white)
        picture = _over(picture, t["iris"].expand_as(u), _cover(iris))
        lid = (white.abs() - 0.014) + 0.05 * (y > 0)
        picture = _over(picture, (0.3 * t["skin"]).expand_as(u), _cover(lid) * 0.7)
        inward = -side * x / (1.4 * size)  # 1 at the inner end
        line = y + t["brow_up"] + 0.075 * e[3] + 0.085 * e[4] * inward + 0.25 * x**2 / size
        brow = torch.maximum(line.abs() - t["brow"] / 2, x.abs() - 1.5 * size)
        picture = _over(picture, (0.75 * t["hair"].clamp(max=0.6)).expand_as(u), _cover(brow) * 0.9)
        frame = (torch.hypot(x, y * 1.15) - 1.75 * size).abs() - 0.014
        picture = _over(picture, torch.full_like(u, 0.08), _cover(frame) * (t["glasses"] > 0.75))
    return picture


def _nose_and_mouth(
    picture: torch.Tensor, t: Traits, e: list[torch.Tensor], u: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    tip = t["eye_line"] + t["nose"]
    bridge = torch.maximum((u - 0.35 * t["nostrils"]).abs() - 0.016, (v - tip + t["nose"] / 2).abs() - t["nose"] / 2)
    picture = _over(picture, 0.72 * t["skin"], _cover(bridge) * 0.6)
    wings = _ellipse(u.abs() - t["nostrils"] * 0.7, v - tip, t["nostrils"].expand_as(u) * 0.5, torch.full_like(u, 0.03))
    picture = _over(picture, 0.35 * t["skin"], _cover(wings) * 0.8)
    fold = ((v - tip) * 0.9 - (u.abs() - 1.4 * t["nostrils"]) * 1.2).abs() - 0.014
    fold = torch.maximum(fold, torch.maximum(u.abs() - 2.6 * t["nostrils"], tip - 0.03 - v))
    picture = _over(picture, 0.55 * t["skin"], _cover(fold) * (0.25 + 0.7 * e[6]).clamp(0, 1))
    half = t["mouth"] * (1 + 0.55 * e[2])
    middle = t["mouth_line"] + 0.07 * e[0] - 0.17 * e[0] * (u / t["mouth"]) ** 2  # the line between the lips
    gap = 0.13 * e[1].clamp(min=0) * (1 - (u / half) ** 2).clamp(min=0)
    away = (v - middle - 0.3 * gap).abs() - gap  # from the opening
    ends = u.abs() - half
    picture = _over(picture, 0.6 * t["skin"] + 0.05, _cover(torch.maximum(away - t["lips"], ends)) * 0.9)
    opening = torch.maximum(away - 0.012, ends)
    picture = _over(picture, torch.full_like(u, 0.1), _cover(opening))
    teeth = torch.maximum(opening, (v - middle + 0.35 * gap).abs() - 0.3 * gap) + 0.02
    return _over(picture, torch.full_like(u, 0.9), _cover(teeth) * (e[0] > 0.2))


def _hair(picture: torch.Tensor, t: Traits, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The hair that falls into the forehead."""
    skull = _ellipse(u, v + 0.02, t["width"] + 0.4 * t["volume"], t["height"] + 0.5 * t["volume"])
    line = v + t["hairline"] * t["height"] - 0.5 * (u - t["parting"]).abs() + 0.12
    streaks = t["hair"] * (1 + 0.08 * torch.sin(25 * (u + 0.3 * v)))
    return _over(picture, streaks, _cover(torch.maximum(skull, line)))


def _hidden(picture: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Put a hand, scarf or strand before some faces: a bowed band from the edge of the picture."""
    count = len(picture)
    centres = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    angle = uniform(rng, count, 0, 2 * math.pi, 1, 1, 1)
    across = centres.view(1, 1, 1, -1) * angle.cos() + centres.view(1, 1, -1, 1) * angle.sin()
    edge = across - uniform(rng, count, 0.35, 0.95, 1, 1, 1) + 0.1 * smooth_noise(count, 1, SIDE, (4,), rng)
    present = (torch.rand(count, 1, 1, 1, generator=rng) < 0.15).float()
    return _over(picture, uniform(rng, count, 0.05, 0.9, 1, 1, 1), (0.5 + edge * SIDE / 2).clamp(0, 1) * present)


def _sensed(picture: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Camera: gain, gamma, defocus, noise, then 256 levels."""
    count = len(picture)
    picture = picture * torch.exp(uniform(rng, count, math.log(0.7), math.log(1.25), 1, 1, 1))
    picture = picture.clamp(1e-3, 1) ** torch.exp(uniform(rng, count, -0.3, 0.3, 1, 1, 1))
    soft = F.avg_pool2d(F.pad(picture, [1] * 4, mode="replicate"), 3, stride=1)
    picture = picture + (soft - picture) * uniform(rng, count, 0, 0.6, 1, 1, 1)
    noise = torch.randn(picture.shape, generator=rng) * (0.004 + 0.03 * torch.rand(count, 1, 1, 1, generator=rng) ** 2)
    return ((picture + noise).clamp(0, 1) * 255).round() / 255
