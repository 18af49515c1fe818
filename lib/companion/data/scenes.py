"""The generated `scenes` world: small pictures of coloured, textured shapes, each with a size and a place, on a ground.

A scene is written down (`Scene`, `Thing`) before it is drawn, so that everything said of it can be checked:
`companion.data.captions` describes it, `render` draws it. With `clutter=1` the pictures are hard (pose, light, grain,
textured ground, things partly hidden, blur, noise); with `clutter=0` they are flat and exact, so that a detector that
looks at single colours cannot err. Everything random comes from one generator through named streams that are drawn
scene by scene: the first scenes and pictures are the same however many follow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.seeding import generator as seeded

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.13),
    "orange": (0.96, 0.50, 0.08),
    "yellow": (0.97, 0.87, 0.16),
    "green": (0.15, 0.63, 0.20),
    "teal": (0.08, 0.68, 0.68),
    "blue": (0.13, 0.30, 0.88),
    "purple": (0.55, 0.20, 0.74),
    "grey": (0.50, 0.50, 0.50),
}
SHAPES = (
    "circle",
    "square",
    "triangle",
    "cross",
    "star",
    "ring",
    "heart",
    "moon",
    "arrow",
    "diamond",
    "hexagon",
    "bolt",
)
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom", "centre")
GROUNDS = ("sand", "sea", "grass", "brick", "night", "snow")
GROUND_COLOURS: dict[str, tuple[float, float, float]] = {  # pale or dull, so that none lies near a thing's colour
    "sand": (0.80, 0.73, 0.58),
    "sea": (0.33, 0.46, 0.54),
    "grass": (0.42, 0.48, 0.32),
    "brick": (0.60, 0.50, 0.46),
    "night": (0.09, 0.10, 0.17),
    "snow": (0.90, 0.92, 0.95),
}
POSITIONS: dict[str, tuple[float, float]] = {  # (x to the right, y downwards), half a picture is 1
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "top": (0.0, -1.0),
    "bottom": (0.0, 1.0),
    "centre": (0.0, 0.0),
}
SPLIT_SIZES = {"train": 5000, "test": 2000, "attacker": 5000, "defender": 1000}
DARK = 0.58  # a texture's second tone is the colour times this: the hue stays
MOST_THINGS = 4
_RADII = {"small": 0.34, "large": 0.56}  # of a thing that is alone, in half pictures
_CROWDED = (1.0, 0.76, 0.68, 0.62)  # what radii are multiplied by when there are 1, 2, 3, 4 things
_REACH = (0.36, 0.5, 0.52, 0.54)  # how far from the middle a place is
_EXTENT = 1.6  # the atlas of shapes shows [-_EXTENT, _EXTENT] squared, in radii
_ATLAS = 64
_CHUNK = 500  # scenes drawn together


@dataclass(frozen=True)
class Thing:
    """One shape of a scene; each field is a word of COLOURS, SHAPES, TEXTURES, SIZES and PLACES."""

    shape: str
    colour: str
    texture: str = "plain"
    size: str = "large"
    place: str = "centre"


@dataclass(frozen=True)
class Scene:
    """Things, the later before the earlier where they meet, on a ground."""

    things: tuple[Thing, ...]
    ground: str


def draw_scenes(
    number: int,
    generator: torch.Generator,
    *,
    things: tuple[int, int] = (1, 2),
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
    textures: Sequence[str] = TEXTURES,
    sizes: Sequence[str] = SIZES,
    grounds: Sequence[str] = GROUNDS,
) -> list[Scene]:
    """Draw `number` scenes, every property uniform over the words given and independent of the others.

    things: the least and the most things of a scene, 1 to 4. A scene's things differ in shape (where `shapes` has
    enough) and in place; a thing that is not alone is never in the centre. The first scenes are the same for any
    `number`. Raises CompanionError for a number < 0, for things outside 1 to 4 and for an unknown word.

    >>> from companion.seeding import generator
    >>> len(draw_scenes(3, generator(0), things=(2, 2))[0].things)
    2
    """
    least, most = things
    if number < 0 or not 1 <= least <= most <= MOST_THINGS:
        raise CompanionError(
            f"scenes: {number} scenes of {least} to {most} things were asked for; expected 0 or more scenes of 1 to "
            f"{MOST_THINGS} things."
        )
    for words, known, kind in (
        (shapes, SHAPES, "shapes"),
        (colours, tuple(COLOURS), "colours"),
        (textures, TEXTURES, "textures"),
        (sizes, SIZES, "sizes"),
        (grounds, GROUNDS, "grounds"),
    ):
        _check_words(words, known, kind)
    rolls = torch.rand(number, 2 + 5 * MOST_THINGS, generator=generator, dtype=torch.float64).tolist()
    return [_scene(roll, least, most, shapes, colours, textures, sizes, grounds) for roll in rolls]


def _scene(roll, least, most, shapes, colours, textures, sizes, grounds) -> Scene:
    count = least + int(roll[0] * (most - least + 1))
    places = list(PLACES) if count == 1 else list(PLACES[:4])
    left, found = list(shapes), []
    for i in range(count):
        r = roll[2 + 5 * i : 7 + 5 * i]
        left = left or list(shapes)
        found.append(
            Thing(
                left.pop(int(r[0] * len(left))),
                _pick(colours, r[1]),
                _pick(textures, r[2]),
                _pick(sizes, r[3]),
                places.pop(int(r[4] * len(places))),
            )
        )
    return Scene(tuple(found), _pick(grounds, roll[1]))


def _pick(words: Sequence[str], roll: float) -> str:
    return words[int(roll * len(words))]


def _check_words(words: Sequence[str], known: Sequence[str], kind: str) -> None:
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        raise CompanionError(
            f"scenes: {unknown[0] if unknown else 'an empty list'!r} is not among the {kind}, which are: "
            f"{', '.join(known)}."
        )


def load(
    context: object, split: str, *, size: int | None = None, seed: int = 0, side: int = 32, clutter: float = 1.0
) -> ImageSet:
    """Return scenes of one thing, labelled with its shape, as the catalogue asks for it; labels go round, balanced.

    context: what the catalogue tells its loaders; not used. size: number of images; None takes the usual one of the
    split (`SPLIT_SIZES`). Images are (size, 3, side, side) float32 in [0, 1] with 256 levels.
    """
    if split not in SPLIT_SIZES:
        raise CompanionError(f"scenes has no split {split!r}; its splits are {', '.join(SPLIT_SIZES)}.")
    size = SPLIT_SIZES[split] if size is None else size
    if size < 1:
        raise CompanionError(f"scenes was asked for {size} images; size must be 1 or more.")
    scenes = labelled_scenes(size, seeded(seed, "scenes", split, "scenes"))
    images = render(scenes, seeded(seed, "scenes", split, "pictures"), side=side, clutter=clutter)
    return ImageSet(images, torch.arange(size) % len(SHAPES), SHAPES, "scenes", split)


def labelled_scenes(number: int, generator: torch.Generator, **options: object) -> list[Scene]:
    """Draw scenes of one thing whose shapes go round SHAPES, so that their labels are balanced; see `draw_scenes`."""
    drawn = draw_scenes(number, generator, things=(1, 1), **options)
    return [
        Scene((Thing(SHAPES[i % len(SHAPES)], t.colour, t.texture, t.size, t.place),), scene.ground)
        for i, scene in enumerate(drawn)
        for t in scene.things
    ]


def render(
    scenes: Sequence[Scene], generator: torch.Generator | None, *, side: int = 32, clutter: float = 1.0
) -> torch.Tensor:
    """Draw the scenes: (n, 3, side, side) float32 in [0, 1] with 256 levels.

    clutter: 0 draws flat pictures with hard edges, in which a thing's pixels have exactly its colour (or, in a
    texture's second tone, DARK times it) and the generator is not used; 1 the hard world; between, a mixture of both
    in pose, light and noise. The first pictures are the same however many scenes follow.
    Raises CompanionError for side < 8, clutter outside [0, 1], a scene that no world has, or a missing generator.
    """
    return render_with_masks(scenes, generator, side=side, clutter=clutter)[0]


def masks(scenes: Sequence[Scene], *, side: int = 32) -> torch.Tensor:
    """Where each thing is seen in the flat pictures (`clutter=0`): (n, most things, side, side) bool."""
    return render_with_masks(scenes, None, side=side, clutter=0.0)[1] > 0.5


def render_with_masks(
    scenes: Sequence[Scene], generator: torch.Generator | None, *, side: int = 32, clutter: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the scenes and return (images, cover): cover (n, most things, side, side) in [0, 1], what is seen of each.

    See `render`; the cover is taken before strips that hide things, blur and noise.
    """
    if side < 8 or not 0 <= clutter <= 1:
        raise CompanionError(
            f"scenes: a picture of side {side} and clutter {clutter} was asked for; expected a side of 8 or more and "
            f"a clutter from 0 to 1."
        )
    if clutter and generator is None:
        raise CompanionError(f"scenes: pictures of clutter {clutter} need a generator; only flat ones (0) do without.")
    base = int(torch.randint(2**62, (1,), generator=generator)) if clutter else 0
    dice = _Dice(base)
    most = max((len(scene.things) for scene in scenes), default=1)
    pictures, covers = [torch.zeros(0, 3, side, side)], [torch.zeros(0, most, side, side)]
    for start in range(0, len(scenes), _CHUNK):
        codes = _encode(scenes[start : start + _CHUNK], most)
        picture, cover = _draw(codes, dice, side, float(clutter))
        pictures.append(picture)
        covers.append(cover)
    return torch.cat(pictures), torch.cat(covers)


class _Dice:
    """Named streams of uniform numbers, each drawn row by row, so that rows do not depend on how many follow."""

    def __init__(self, base: int):
        self.base, self.streams = base, {}

    def __call__(self, name: str, count: int, low: float, high: float, *shape: int) -> torch.Tensor:
        if name not in self.streams:
            self.streams[name] = seeded(self.base, "scenes", name)
        return torch.rand(count, *shape, generator=self.streams[name]) * (high - low) + low


def _encode(scenes: Sequence[Scene], most: int) -> dict[str, torch.Tensor]:
    """The scenes as integers: "ground" and "count" (n,), and each property of things (n, most), -1 for no thing."""
    fields = {"shape": SHAPES, "colour": tuple(COLOURS), "texture": TEXTURES, "size": SIZES, "place": PLACES}
    index = {name: {word: i for i, word in enumerate(words)} for name, words in fields.items()}
    try:
        codes = {
            name: torch.tensor(
                [
                    [index[name][getattr(thing, name)] for thing in scene.things] + [-1] * (most - len(scene.things))
                    for scene in scenes
                ]
            )
            for name in fields
        }
        codes["ground"] = torch.tensor([GROUNDS.index(scene.ground) for scene in scenes])
    except (KeyError, ValueError) as error:
        raise CompanionError(f"scenes: {error} is no word of this world; see companion.data.scenes.") from error
    counts = [len(scene.things) for scene in scenes]
    if not all(1 <= count <= MOST_THINGS for count in counts):
        raise CompanionError(f"scenes: a scene has {max(counts)} things; expected 1 to {MOST_THINGS}.")
    codes["count"] = torch.tensor(counts)
    return codes


def _draw(codes: dict[str, torch.Tensor], dice: _Dice, side: int, clutter: float) -> tuple[torch.Tensor, torch.Tensor]:
    count = len(codes["ground"])
    picture = _grounds(codes["ground"], dice, side, clutter)
    most = codes["shape"].shape[1]
    seen = torch.zeros(count, most, side, side)
    for i in range(most):
        codes_i = {name: code[:, i] for name, code in codes.items() if code.ndim == 2}
        paint, cover, halo = _thing(codes_i, codes["count"], i, dice, side, clutter)
        picture = picture * (1 - 0.45 * clutter * halo * (1 - cover))
        picture = picture * (1 - cover) + paint * cover
        seen[:, :i] *= 1 - cover
        seen[:, i] = cover[:, 0]
    if clutter:
        picture = _hidden(picture, dice, clutter)
        picture = _lit(picture, dice, clutter)
        picture = _sensed(picture, dice, clutter)
    return (picture.clamp(0, 1) * 255).round() / 255, seen


def _axes(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    return centres.view(1, 1, 1, side), centres.view(1, 1, side, 1)  # x, y


def _noise(name: str, count: int, side: int, cells: tuple[int, int], dice: _Dice) -> torch.Tensor:
    """Smooth noise (count, 1, side, side) in [-1, 1] over a grid of (down, across) cells."""
    grid = dice(name, count, -1, 1, 1, cells[0] + 1, cells[1] + 1)
    return F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)


def _grounds(ground: torch.Tensor, dice: _Dice, side: int, clutter: float) -> torch.Tensor:
    """Textured grounds (n, 3, side, side)."""
    count = len(ground)
    colour = torch.tensor(list(GROUND_COLOURS.values()))[ground].view(count, 3, 1, 1)
    if not clutter:
        return colour.expand(count, 3, side, side).clone()
    x, y = _axes(side)
    broad = _noise("broad", count, side, (4, 4), dice)
    middle = _noise("middle", count, side, (9, 9), dice)
    fine = _noise("fine", count, side, (24, 24), dice)
    blades = _noise("blades", count, side, (7, 28), dice)
    free = dice("ground", count, 0, 1, 6, 1, 1, 1)
    tint = 1 + 0.10 * clutter * dice("tint", count, -1, 1, 3, 1, 1)
    pattern = torch.zeros(count, 1, side, side)

    def rows(name):
        return (ground == GROUNDS.index(name)).nonzero().squeeze(1)

    i = rows("sand")
    bend = y[..., :] + 0.35 * broad[i] + 0.4 * (free[i, 0] - 0.5) * x
    pattern[i] = 0.10 * torch.sin(2 * math.pi * (bend * (2 + 2 * free[i, 1]) + free[i, 2])) + 0.13 * fine[i]
    i = rows("sea")
    swell = y + 0.12 * torch.sin(2 * math.pi * (x * (0.8 + free[i, 0]) + free[i, 1])) + 0.15 * middle[i]
    waves = torch.sin(2 * math.pi * (swell * (2.2 + 1.5 * free[i, 2]) + free[i, 3]))
    pattern[i] = 0.16 * waves + 0.35 * (waves - 0.8).clamp(min=0) * 5 * (fine[i] > 0.1) + 0.06 * broad[i]
    i = rows("grass")
    pattern[i] = 0.42 * blades[i] + 0.12 * broad[i]
    i = rows("brick")
    pattern[i] = _bricks(x, y, free[i], middle[i], side)
    i = rows("night")
    pattern[i] = 0.5 * broad[i] + 14.0 * (fine[i] - 0.72 - 0.15 * free[i, 0]).clamp(min=0) + 0.4 * (y + 1) / 2
    i = rows("snow")
    pattern[i] = 0.07 * broad[i] + 0.06 * middle[i] + 0.05 * fine[i] - 0.08 * (y + 1) * free[i, 0]
    return (colour * tint * (1 + clutter * pattern)).clamp(0, 1)


def _bricks(x: torch.Tensor, y: torch.Tensor, free: torch.Tensor, noise: torch.Tensor, side: int) -> torch.Tensor:
    rows, columns = 3 + free[:, 0], 1.6 + 0.8 * free[:, 1]  # courses and bricks in half a picture
    down = y * rows + free[:, 2]
    across = x * columns + free[:, 3] + 0.5 * (down.floor() % 2)
    width = 0.10 + 0.05 * free[:, 4]
    edge = torch.minimum(0.5 - (down - down.floor() - 0.5).abs(), (0.5 - (across - across.floor() - 0.5).abs()) * 1.7)
    mortar = ((width - edge) * side / 7 + 0.5).clamp(0, 1)
    tone = torch.sin(12.9898 * down.floor() + 78.233 * across.floor()) * 0.10  # each brick its own
    return 0.28 * mortar + (tone + 0.08 * noise) * (1 - mortar)


@lru_cache(maxsize=1)
def _atlas() -> torch.Tensor:
    """Signed distance to each shape's edge, (12, _ATLAS, _ATLAS), negative inside; all shapes have one area."""
    step = (torch.arange(_ATLAS) + 0.5) / _ATLAS * 2 - 1
    y, x = torch.meshgrid(step * _EXTENT, step * _EXTENT, indexing="ij")
    fields = []
    for shape in SHAPES:
        size = 1.0
        for _ in range(3):  # one radius scales the shape; three rounds bring its area to that of a disc of radius 0.8
            field = _distance(shape, x / size, y / size) * size
            area = float((field < 0).float().mean()) * (2 * _EXTENT) ** 2
            size *= math.sqrt(math.pi * 0.64 / area)
        fields.append(_distance(shape, x / size, y / size) * size)
    return torch.stack(fields)


def _distance(shape: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if shape == "circle":
        return torch.hypot(x, y) - 0.8
    if shape == "ring":
        return (torch.hypot(x, y) - 0.75).abs() - 0.24
    if shape == "moon":
        return torch.maximum(torch.hypot(x, y) - 0.9, 0.78 - torch.hypot(x - 0.45, y + 0.12))
    return _polygon(torch.tensor(_corners(shape)), x, y)


def _corners(shape: str) -> list[tuple[float, float]]:
    def wheel(count, radius, turn=0.0):
        angles = [turn + 2 * math.pi * i / count for i in range(count)]
        return [(radius * math.sin(a), -radius * math.cos(a)) for a in angles]

    if shape == "square":
        return [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)]
    if shape == "triangle":
        return wheel(3, 1.0)
    if shape == "diamond":
        return [(0.0, -1.15), (0.68, 0.0), (0.0, 1.15), (-0.68, 0.0)]
    if shape == "hexagon":
        return wheel(6, 0.9, math.pi / 6)
    if shape == "star":
        outer, inner = wheel(5, 1.0), wheel(5, 0.42, math.pi / 5)
        return [corner for pair in zip(outer, inner, strict=True) for corner in pair]
    if shape == "cross":
        a, b = 0.3, 0.9
        quarter = [(-a, -b), (a, -b), (a, -a)]
        return [corner for turn in range(4) for corner in _turned(quarter, turn)]
    if shape == "arrow":
        return [(-1.0, -0.27), (0.1, -0.27), (0.1, -0.75), (1.0, 0.0), (0.1, 0.75), (0.1, 0.27), (-1.0, 0.27)]
    if shape == "bolt":
        return [(0.25, -1.1), (-0.6, 0.15), (-0.08, 0.15), (-0.3, 1.1), (0.6, -0.25), (0.08, -0.25), (0.5, -1.1)]
    if shape == "heart":
        turns = [2 * math.pi * i / 48 for i in range(48)]
        return [
            (
                0.9 * math.sin(t) ** 3,
                -0.06 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) - 0.1,
            )
            for t in turns
        ]
    raise CompanionError(f"scenes cannot draw the shape {shape!r}; its shapes are {', '.join(SHAPES)}.")


def _turned(corners: list[tuple[float, float]], quarters: int) -> list[tuple[float, float]]:
    for _ in range(quarters):
        corners = [(-y, x) for x, y in corners]
    return corners


def _polygon(corners: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Signed distance to a polygon (corners (m, 2)), negative inside, by its edges' distances and crossings."""
    ax, ay = corners[:, 0].view(-1, 1, 1), corners[:, 1].view(-1, 1, 1)
    bx, by = ax.roll(-1, 0), ay.roll(-1, 0)
    along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
    along = along.clamp(0, 1)
    gap = torch.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)).amin(dim=0)
    spans = (ay > y) != (by > y)
    slope = torch.where(spans, (bx - ax) / torch.where(by == ay, torch.ones_like(by), by - ay), torch.zeros_like(by))
    inside = (spans & (x < ax + (y - ay) * slope)).sum(dim=0) % 2 == 1
    return torch.where(inside, -gap, gap)


def _thing(
    codes: dict[str, torch.Tensor], counts: torch.Tensor, number: int, dice: _Dice, side: int, clutter: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The number-th thing of each scene: paint (n, 3, S, S), cover and halo (n, 1, S, S), both 0 where it is absent."""
    present = (codes["shape"] >= 0).float().view(-1, 1, 1, 1)
    codes = {name: code.clamp(min=0) for name, code in codes.items()}
    count, x_y = len(counts), _axes(side)
    radius = torch.tensor(list(_RADII.values()))[codes["size"]] * torch.tensor(_CROWDED)[counts - 1]
    centre = torch.tensor(list(POSITIONS.values()))[codes["place"]] * torch.tensor(_REACH)[counts - 1].unsqueeze(1)
    angle = torch.zeros(count)
    aspect = torch.ones(count)
    if clutter:
        free = clutter * dice(f"pose{number}", count, -1, 1, 5)
        radius = radius * (1 + 0.12 * free[:, 0])
        centre = centre + 0.09 * free[:, 1:3]
        angle = 0.32 * free[:, 3]
        aspect = torch.exp(0.14 * free[:, 4])
    x = (x_y[0] - centre[:, 0].view(-1, 1, 1, 1)).squeeze(1)  # (n, S or 1, S or 1)
    y = (x_y[1] - centre[:, 1].view(-1, 1, 1, 1)).squeeze(1)
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    radius, aspect = radius.view(-1, 1, 1), aspect.view(-1, 1, 1)
    u = (x * cosine + y * sine) / (radius * aspect)  # (n, S, S), in radii
    v = (y * cosine - x * sine) / radius * aspect
    where = torch.stack([u, v], dim=-1) / _EXTENT
    gap = F.grid_sample(_atlas()[codes["shape"]].unsqueeze(1), where, padding_mode="border", align_corners=False)
    gap = gap * radius.unsqueeze(1)  # (n, 1, S, S) in half pictures
    cover = (0.5 - gap * side / 2).clamp(0, 1) if clutter else (gap < 0).float()
    halo = torch.exp(-gap.clamp(min=0) * 9) * present if clutter else torch.zeros_like(cover)
    paint = _paint(codes, u.unsqueeze(1), v.unsqueeze(1), gap, number, dice, side, clutter)
    return paint, cover * present, halo


def _paint(codes, u, v, gap, number, dice, side, clutter) -> torch.Tensor:
    """Colour and texture of a thing, (n, 3, S, S)."""
    count = len(u)
    colour = torch.tensor(list(COLOURS.values()))[codes["colour"]].view(count, 3, 1, 1)
    small = (codes["size"] == SIZES.index("small")).float().view(-1, 1, 1, 1)
    pitch = 0.62 + 0.18 * small  # of a texture, in radii
    texture = codes["texture"].view(-1, 1, 1, 1)
    wave_u, wave_v = torch.sin(math.pi * u / pitch + 0.7), torch.sin(math.pi * v / pitch + 0.7)
    stripes = torch.sin(math.pi * (0.8 * u + 0.6 * v) / (0.85 * pitch))
    dots = torch.cos(math.pi * u / (0.6 * pitch)) + torch.cos(math.pi * v / (0.6 * pitch)) - 0.75
    field = torch.where(texture == 1, stripes, torch.where(texture == 2, dots, wave_u * wave_v * 1.5))
    second = ((field * 2.5 + 0.5).clamp(0, 1) if clutter else (field > 0).float()) * (texture > 0)
    tone = 1 - (1 - DARK) * second
    if not clutter:
        return colour * tone
    free = clutter * dice(f"paint{number}", count, -1, 1, 6).view(count, 6, 1, 1)
    colour = colour * (1 + 0.10 * free[:, :3]) + 0.05 * free[:, 3:4]
    rim = 1 - 0.22 * clutter * (1 + gap * side / 5).clamp(0, 1)
    sheen = 1 + 0.18 * clutter * (free[:, 4:5] * u - 0.5 * v - 0.2).clamp(-1, 1)
    return (colour * tone * rim * sheen).clamp(0, 1)


def _hidden(picture: torch.Tensor, dice: _Dice, clutter: float) -> torch.Tensor:
    """Put a twig or a pole, bowed and of a dull colour, before some scenes."""
    count, side = len(picture), picture.shape[-1]
    x, y = _axes(side)
    free = dice("strip", count, 0, 1, 8, 1, 1, 1)
    angle = math.pi * free[:, 0]
    along, across = y * angle.cos() - x * angle.sin(), x * angle.cos() + y * angle.sin()
    bowed = across + 0.25 * (free[:, 1] - 0.5) * torch.sin(3 * along + 6 * free[:, 2])
    half = (0.03 + 0.11 * free[:, 3]) * clutter
    cover = ((half - (bowed - 1.4 * (free[:, 4] - 0.5)).abs()) * side / 2 + 0.5).clamp(0, 1)
    cover = cover * (free[:, 5] < 0.4 * clutter)
    grey = 0.2 + 0.5 * free[:, 6]
    dull = torch.cat([grey * 1.04, grey * (0.96 + 0.05 * free[:, 7]), grey * 0.9], dim=1)
    return picture * (1 - cover) + dull * (1 + 0.25 * (bowed - 0.7 * (free[:, 4] - 0.5))) * cover


def _lit(picture: torch.Tensor, dice: _Dice, clutter: float) -> torch.Tensor:
    """Light from one side, the edge of a shadow, gain, cast and gamma."""
    count, side = len(picture), picture.shape[-1]
    x, y = _axes(side)
    free = dice("light", count, -1, 1, 10, 1, 1, 1)
    slope = 1 + 0.22 * clutter * (free[:, 0] * x + free[:, 1] * y)
    edge = x * (3.2 * free[:, 2]).cos() + y * (3.2 * free[:, 2]).sin() - 0.6 * free[:, 3]
    shadow = (edge * (5 + 4 * free[:, 4]) + 0.5).clamp(0, 1) * (0.5 * clutter * free[:, 5]).clamp(min=0)
    gain = torch.exp(clutter * (0.28 * free[:, 6] - 0.06))
    cast = 1 + 0.07 * clutter * torch.cat([free[:, 7], 0 * free[:, 8], free[:, 8]], dim=1)
    lit = (picture * slope * (1 - shadow) * gain * cast).clamp(1e-3, 1)
    return lit ** torch.exp(0.22 * clutter * free[:, 9])


def _sensed(picture: torch.Tensor, dice: _Dice, clutter: float) -> torch.Tensor:
    """Defocus and a sensor's noise."""
    count = len(picture)
    free = dice("sensor", count, 0, 1, 2, 1, 1, 1)
    soft = F.avg_pool2d(F.pad(picture, [1] * 4, mode="replicate"), 3, stride=1)
    picture = picture + (soft - picture) * 0.75 * clutter * free[:, 0]
    level = clutter * (0.01 + 0.06 * free[:, 1] ** 2) * math.sqrt(3)
    return picture + dice("noise", count, -1, 1, *picture.shape[1:]) * level * (0.5 + picture)
