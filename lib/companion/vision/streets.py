"""The generated `streets` world: several small signs in one picture, with their boxes and a class for every pixel.

It stands in for the detection and segmentation sets that a laptop cannot train on. Signs of four classes, of varied
size, place and light, stand before the backgrounds of `companion.data.backdrops`, among coloured boards that are no
signs. Images are drawn in blocks with a generator each, so that the first ones are the same however many are drawn.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.data.backdrops import backdrops, uniform
from companion.data.plates import CLASS_NAMES, EXTENT, draw_plates
from companion.errors import CompanionError
from companion.seeding import generator as seeded

FACES = (0, 3, 6, 12)  # of `companion.data.plates`
CLASSES = tuple(CLASS_NAMES[face] for face in FACES)
PLACES = 4  # one sign at most in each quarter of a picture
SPLITS = ("train", "test")
_BLOCK = 250  # images that share a generator


@dataclass(frozen=True)
class Streets:
    """Pictures with their signs.

    images: (N, 3, S, S) float32 in [0, 1]; masks: (N, S, S) int64, 0 for background, else the class + 1; boxes:
    (N, 4, 4) float32, left, top, right and bottom in pixels of up to four signs; labels: (N, 4) int64, their classes,
    -1 where there is no sign; classes: their names.
    """

    images: torch.Tensor
    masks: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """S."""
        return self.images.shape[-1]


def generate(split: str, size: int, side: int = 48, seed: int = 0) -> Streets:
    """Draw the first `size` pictures of a split, `side` pixels wide and high; the same arguments give the same bits.

    Raises `CompanionError` for an unknown split, size < 1, and a side that is no multiple of 8 of at least 16.
    """
    if split not in SPLITS or size < 1 or side < 16 or side % 8:
        raise CompanionError(
            f"streets was asked for split {split!r}, {size} pictures of {side} pixels: expected one of "
            f"{', '.join(SPLITS)}, at least 1 picture, and a multiple of 8 of at least 16 pixels."
        )
    faces = draw_plates(max(FACES) + 1, 32)[list(FACES)]  # (K, 4, F, F)
    blocks = [_block(faces, side, seeded(seed, "streets", split, k)) for k in range(math.ceil(size / _BLOCK))]
    return Streets(*[torch.cat(part)[:size] for part in zip(*blocks, strict=True)])


def _block(faces: torch.Tensor, side: int, rng: torch.Generator) -> tuple[torch.Tensor, ...]:
    scene = backdrops(_BLOCK, side, rng)
    scene = _with_boards(scene, rng)
    present = torch.rand(_BLOCK, PLACES, generator=rng) < 0.5
    present[:, 0] |= ~present.any(dim=1)
    classes = torch.randint(0, len(faces), (_BLOCK, PLACES), generator=rng)
    masks = torch.zeros(_BLOCK, side, side, dtype=torch.int64)
    boxes = torch.zeros(_BLOCK, PLACES, 4)
    for place in range(PLACES):
        u, v = _pose(place, side, rng)
        sign = F.grid_sample(faces[classes[:, place]], torch.stack([u, v], dim=-1) / EXTENT, align_corners=False)
        sign = F.avg_pool2d(sign, 2) * present[:, place].view(-1, 1, 1, 1)
        colour, cover = sign[:, :3], sign[:, 3:]  # (B, 3, S, S), (B, 1, S, S)
        scene = scene * (1 - cover) + colour * uniform(rng, _BLOCK, 0.6, 1.1, 1, 1, 1)
        inside = cover[:, 0] > 0.5
        masks = torch.where(inside, classes[:, place].view(-1, 1, 1) + 1, masks)
        boxes[:, place] = _extent(inside)
    labels = torch.where(present, classes, -1)
    return _photographed(scene, rng), masks, boxes, labels


def _pose(place: int, side: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sign coordinates (u, v), each (B, 2S, 2S), of a random sign in one quarter of the picture."""
    centres = (torch.arange(2 * side) + 0.5) / side - 1  # -1 to 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    middle_x, middle_y = (place % 2) - 0.5, (place // 2) - 0.5
    x = x - middle_x - uniform(rng, _BLOCK, -0.2, 0.2, 1, 1)
    y = y - middle_y - uniform(rng, _BLOCK, -0.2, 0.2, 1, 1)
    angle = uniform(rng, _BLOCK, -12, 12, 1, 1) * math.pi / 180
    radius = uniform(rng, _BLOCK, 0.17, 0.36, 1, 1)  # half a picture is 1
    squeeze = uniform(rng, _BLOCK, 0.75, 1.0, 1, 1)  # seen from the side
    return (x * angle.cos() + y * angle.sin()) / (radius * squeeze), (y * angle.cos() - x * angle.sin()) / radius


def _with_boards(scene: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Put two plain coloured boards, round or square, into each scene: what is coloured need not be a sign."""
    count, side = len(scene), scene.shape[-1]
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    for _ in range(2):
        x = centres.view(1, 1, 1, -1) - uniform(rng, count, -0.9, 0.9, 1, 1, 1)
        y = centres.view(1, 1, -1, 1) - uniform(rng, count, -0.9, 0.9, 1, 1, 1)
        round_ = torch.rand(count, 1, 1, 1, generator=rng) < 0.5
        distance = torch.where(round_, torch.hypot(x, y), torch.maximum(x.abs(), y.abs()))
        cover = ((uniform(rng, count, 0.1, 0.3, 1, 1, 1) - distance) * side / 2 + 0.5).clamp(0, 1)
        colour = torch.rand(count, 3, 1, 1, generator=rng)
        scene = scene * (1 - cover) + colour * cover
    return scene


def _extent(inside: torch.Tensor) -> torch.Tensor:
    """Boxes (B, 4) around the true pixels of masks (B, S, S): left, top, right, bottom; zeros where there are none."""
    side = inside.shape[-1]
    places = torch.arange(side, dtype=torch.float32)
    edges = []
    for axis in (1, 2):  # columns, then rows
        seen = inside.any(dim=axis)  # (B, S)
        low = torch.where(seen, places, float(side)).amin(dim=1)
        high = torch.where(seen, places + 1, 0.0).amax(dim=1)
        edges.append((low, high))
    boxes = torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], dim=1)
    return boxes * inside.flatten(1).any(dim=1, keepdim=True)


def _photographed(scene: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    count = len(scene)
    gain = uniform(rng, count, 0.5, 1.2, 1, 1, 1) * uniform(rng, count, 0.9, 1.1, 3, 1, 1)
    level = uniform(rng, count, 0.005, 0.04, 1, 1, 1)
    noise = torch.randn(scene.shape, generator=rng) * level
    return ((scene * gain + noise).clamp(0, 1) * 255).round() / 255
