"""The faces of 43 traffic-sign-like signs, drawn from signed distances: plates that many classes share, and pictograms.

The coordinates of a face are x to the right and y down; a plate fits into the circle of radius 1. The designs follow
no country's regulations exactly. Speed limits, warnings, orders and notices come in families that share shape and
colours, so that only the pictogram tells their members apart.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

EXTENT = 1.1  # a template shows the face from -EXTENT to EXTENT
RED, BLUE, YELLOW = (0.76, 0.09, 0.12), (0.07, 0.27, 0.64), (0.95, 0.74, 0.12)
WHITE, BLACK, GREY = (0.93, 0.93, 0.91), (0.07, 0.07, 0.08), (0.45, 0.45, 0.46)


@dataclass(frozen=True)
class Stroke:
    """A line of the given width through points, with round ends."""

    points: tuple[tuple[float, float], ...]
    width: float

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the signed distance to the stroke, negative inside, of the shape of x and y."""
        pieces = [_to_segment(x, y, a, b) for a, b in zip(self.points, self.points[1:], strict=False)]
        return torch.stack(pieces).amin(dim=0) - self.width / 2


@dataclass(frozen=True)
class Polygon:
    """A convex polygon, its corners given clockwise on the screen, grown and rounded by `rounding`."""

    points: tuple[tuple[float, float], ...]
    rounding: float = 0.0

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the signed distance to the polygon, negative inside, of the shape of x and y."""
        corners = (*self.points, self.points[0])
        sides = [_beyond_line(x, y, a, b) for a, b in zip(corners, corners[1:], strict=False)]
        inside = torch.stack(sides).amax(dim=0)
        outline = Stroke(corners, 0.0).distance(x, y)
        return torch.where(inside > 0, outline, inside) - self.rounding


@dataclass(frozen=True)
class Disc:
    """A disc around (x, y)."""

    x: float
    y: float
    radius: float

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the signed distance to the disc, negative inside, of the shape of x and y."""
        return torch.hypot(x - self.x, y - self.y) - self.radius


Shape = Stroke | Polygon | Disc
Colour = tuple[float, float, float]


def _to_segment(x, y, a, b):
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = (((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-12)).clamp(0, 1)
    return torch.hypot(x - a[0] - along * dx, y - a[1] - along * dy)


def _beyond_line(x, y, a, b):
    dx, dy = b[0] - a[0], b[1] - a[1]
    return ((x - a[0]) * dy - (y - a[1]) * dx) / math.hypot(dx, dy)


def _arc(x, y, radius, start, stop, stretch=1.0, steps=12):
    """Points on an arc from angle start to stop, in degrees, clockwise from the right; `stretch` scales its height."""
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return tuple((x + radius * math.cos(a), y + radius * stretch * math.sin(a)) for a in angles)


def _regular(corners, radius, turn=0.0, y=0.0):
    """Corners of a regular polygon; the first one lies at `turn` degrees clockwise from the top."""
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    return tuple((radius * math.sin(a), y - radius * math.cos(a)) for a in angles)


def _moved(shapes: Iterable[Shape], scale=1.0, x=0.0, y=0.0, mirror=False) -> tuple[Shape, ...]:
    sign = -1 if mirror else 1

    def move(shape: Shape) -> Shape:
        if isinstance(shape, Disc):
            return Disc(sign * scale * shape.x + x, scale * shape.y + y, scale * shape.radius)
        points = tuple((sign * scale * px + x, scale * py + y) for px, py in shape.points)
        if isinstance(shape, Stroke):
            return Stroke(points, scale * shape.width)
        return Polygon(points[::-1] if mirror else points, scale * shape.rounding)

    return tuple(move(shape) for shape in shapes)


# Glyphs as lines in a box of half-width 0.5 and half-height 1.
_GLYPHS = {
    "0": [_arc(0, 0, 0.5, 0, 360, 2.0, 24)],
    "1": [((-0.35, -0.6), (0.1, -1), (0.1, 1))],
    "2": [(*_arc(0, -0.5, 0.5, -180, 30), (-0.5, 1), (0.55, 1))],
    "3": [_arc(-0.05, -0.48, 0.5, -160, 90), _arc(-0.05, 0.48, 0.55, -90, 160)],
    "5": [((0.45, -1), (-0.38, -1), (-0.45, -0.12), *_arc(-0.05, 0.4, 0.58, -130, 150))],
    "6": [((0.35, -1), (-0.15, -0.45), *_arc(0, 0.45, 0.52, -160, 200, 1.05, 24))],
    "7": [((-0.5, -1), (0.5, -1), (-0.15, 1))],
    "8": [_arc(0, -0.52, 0.44, 0, 360, 1.05, 20), _arc(0, 0.48, 0.52, 0, 360, 1.0, 20)],
    "S": [(*_arc(0, -0.5, 0.48, -20, -270), *_arc(0, 0.5, 0.48, -90, 160))],
    "T": [((-0.55, -1), (0.55, -1)), ((0, -1), (0, 1))],
    "O": [_arc(0, 0, 0.52, 0, 360, 1.9, 24)],
    "P": [((-0.4, 1), (-0.4, -1), *_arc(0.05, -0.48, 0.52, -90, 90), (-0.4, 0.04))],
    "H": [((-0.5, -1), (-0.5, 1)), ((0.5, -1), (0.5, 1)), ((-0.5, 0), (0.5, 0))],
}


def _text(text: str, height: float, advance: float, width: float) -> tuple[Shape, ...]:
    """The glyphs of `text` in a row, with the half-height `height`; neighbours are `advance` apart."""
    shapes: list[Shape] = []
    for i, character in enumerate(text):
        x = (i - (len(text) - 1) / 2) * advance
        for line in _GLYPHS[character]:
            shapes.append(Stroke(tuple((x + height * px, height * py) for px, py in line), width))
    return tuple(shapes)


def _arrow(start, tip, width=0.2, head=0.3) -> tuple[Shape, ...]:
    """A straight arrow from start to tip."""
    length = math.dist(start, tip)
    ux, uy = (tip[0] - start[0]) / length, (tip[1] - start[1]) / length
    neck = (tip[0] - head * ux, tip[1] - head * uy)
    left, right = (neck[0] + head * uy, neck[1] - head * ux), (neck[0] - head * uy, neck[1] + head * ux)
    return Stroke((start, neck), width), Polygon((left, tip, right))


def _pictograms() -> dict[str, tuple[Shape, ...]]:
    walker = (
        Disc(0.05, -0.72, 0.17),
        Stroke(((0.02, -0.42), (-0.02, 0.1)), 0.26),
        Stroke(((0, 0.1), (0.28, 0.45), (0.3, 0.85)), 0.17),
        Stroke(((-0.04, 0.1), (-0.16, 0.5), (-0.42, 0.82)), 0.17),
        Stroke(((0.05, -0.4), (0.36, -0.02)), 0.13),
        Stroke(((0, -0.4), (-0.34, -0.1)), 0.13),
    )
    wheels = tuple(Stroke(_arc(x, 0.28, 0.32, 0, 360, steps=20), 0.11) for x in (-0.5, 0.5))
    frame = ((-0.5, 0.28), (-0.18, -0.28), (0.32, -0.28), (0, 0.28), (-0.5, 0.28))
    bicycle = (*wheels, Stroke(frame, 0.1), Stroke(((0.5, 0.28), (0.26, -0.5), (0.48, -0.54)), 0.1))
    bicycle += (Stroke(((0, 0.28), (-0.25, -0.46)), 0.09), Stroke(((-0.38, -0.48), (-0.12, -0.48)), 0.12))
    lorry = (
        Polygon(((-0.8, -0.45), (0.2, -0.45), (0.2, 0.3), (-0.8, 0.3))),
        Polygon(((0.3, -0.2), (0.6, -0.2), (0.8, 0.05), (0.8, 0.3), (0.3, 0.3))),
        Disc(-0.5, 0.38, 0.19),
        Disc(0.5, 0.38, 0.19),
    )
    car = (
        Polygon(((-0.45, -0.05), (0.45, -0.05), (0.5, 0.3), (-0.5, 0.3)), 0.05),
        Stroke(((-0.36, -0.1), (-0.25, -0.42), (0.25, -0.42), (0.36, -0.1)), 0.14),
        Polygon(((-0.48, 0.3), (-0.22, 0.3), (-0.22, 0.52), (-0.48, 0.52))),
        Polygon(((0.22, 0.3), (0.48, 0.3), (0.48, 0.52), (0.22, 0.52))),
    )
    bend = (Stroke(((0.3, 0.8), (0.3, 0.1), (-0.1, -0.28)), 0.24), *_arrow((-0.05, -0.23), (-0.42, -0.6), 0.2, 0.34))
    turn = (Stroke(((0.35, 0.62), (0.35, -0.1), (0.1, -0.1)), 0.24), *_arrow((0.2, -0.1), (-0.62, -0.1), 0.24, 0.36))
    fork = (*_arrow((0.12, 0.65), (0.12, -0.68), 0.2, 0.3), Stroke(((0.12, 0.35), (-0.2, 0.2)), 0.2))
    fork += _arrow((-0.1, 0.2), (-0.66, 0.2), 0.2, 0.3)
    keep = _arrow((0.4, -0.45), (-0.48, 0.45), 0.24, 0.4)
    snow = tuple(
        Stroke(tuple((s * 0.75 * math.cos(a), s * 0.75 * math.sin(a)) for s in (-1, 1)), 0.13)
        for a in (math.pi / 2, math.pi / 6, -math.pi / 6)
    )
    ring = [Stroke(_arc(0, 0, 0.46, a, a + 70), 0.17) for a in (0, 120, 240)]
    heads = [Polygon(tuple(_turned(p, a + 84)) for a in ()) for p in ()]
    for a in (0, 120, 240):
        corners = ((0.2, -0.14), (0.72, -0.14), (0.46, 0.2))
        heads.append(Polygon(tuple(_turned(p, a + 80) for p in corners)))
    striking = tuple(Stroke(((-0.62 + o, 0.55 + o), (0.5 + o, -0.57 + o)), 0.07) for o in (-0.12, 0, 0.12))
    numbers = {n: _text(n, 0.37, 0.54, 0.15) for n in ("30", "50", "60", "70", "80")}
    numbers |= {n: _text(n, 0.33, 0.4, 0.12) for n in ("100", "120")}
    return numbers | {
        "nothing": (),
        "walker": walker,
        "bicycle": bicycle,
        "lorry": lorry,
        "two cars": (*_moved(car, 0.75, -0.38), *_moved(car, 0.75, 0.38)),
        "exclamation": (Stroke(((0, -0.7), (0, 0.25)), 0.26), Disc(0, 0.7, 0.17)),
        "crossing": (Stroke(((0, -0.75), (0, 0.75)), 0.24), Stroke(((-0.62, 0.05), (0.62, 0.05)), 0.24)),
        "bend left": bend,
        "bend right": _moved(bend, mirror=True),
        "double bend": (
            Stroke(((0.2, 0.85), (0.2, 0.35), (-0.25, 0.05), (-0.25, -0.3)), 0.2),
            *_arrow((-0.25, -0.1), (0.1, -0.75), 0.2, 0.32),
        ),
        "bumps": (
            Stroke(((-0.85, 0.45), (0.85, 0.45)), 0.2),
            Polygon(_arc(-0.4, 0.45, 0.36, 180, 360)),
            Polygon(_arc(0.4, 0.45, 0.36, 180, 360)),
        ),
        "narrowing": (
            Stroke(((-0.45, 0.8), (-0.45, 0.25), (-0.14, -0.15), (-0.14, -0.75)), 0.16),
            Stroke(((0.45, 0.8), (0.45, 0.25), (0.14, -0.15), (0.14, -0.75)), 0.16),
        ),
        "lights": (
            *(Disc(0, y, 0.2) for y in (-0.5, 0.05, 0.6)),
            Stroke(((-0.36, -0.85), (0.36, -0.85), (0.36, 0.92), (-0.36, 0.92), (-0.36, -0.85)), 0.1),
        ),
        "skid": (
            *_moved(car, 0.8, 0.05, -0.42),
            *(Stroke(((x, 0.1), (x - 0.16, 0.35), (x + 0.1, 0.6), (x - 0.1, 0.88)), 0.11) for x in (-0.2, 0.36)),
        ),
        "snow": snow,
        "turn left": turn,
        "turn right": _moved(turn, mirror=True),
        "ahead": _arrow((0, 0.68), (0, -0.7), 0.24, 0.38),
        "ahead or left": fork,
        "ahead or right": _moved(fork, mirror=True),
        "keep left": keep,
        "keep right": _moved(keep, mirror=True),
        "ring": (*ring, *heads),
        "strokes": striking,
        "80 struck": (*numbers["80"], *striking),
        "bar": (Stroke(((-0.5, 0), (0.5, 0)), 0.3),),
        "stop": _text("STOP", 0.3, 0.4, 0.12),
        "parking": _text("P", 0.55, 0, 0.24),
        "hospital": _text("H", 0.52, 0, 0.22),
        "zebra": (
            *_moved(walker, 0.7, 0, -0.12),
            *(Stroke(((x, 0.52), (1.25 * x, 0.72)), 0.16) for x in (-0.5, -0.17, 0.17, 0.5)),
        ),
        "dead end": (Stroke(((0, 0.62), (0, -0.4)), 0.24), Stroke(((-0.45, -0.4), (0.45, -0.4)), 0.24)),
    }


def _turned(point, degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return point[0] * c - point[1] * s, point[0] * s + point[1] * c


@dataclass(frozen=True)
class Plate:
    """A plate: layers from the outside in, then the colour, scale and height of the pictogram on it."""

    layers: tuple[tuple[Shape, Colour], ...]
    ink: Colour
    scale: float = 1.0
    y: float = 0.0


def _square(half, rounding):
    return Polygon(((-half, -half), (half, -half), (half, half), (-half, half)), rounding)


_PLATES = {
    "prohibition": Plate(((Disc(0, 0, 1), RED), (Disc(0, 0, 0.76), WHITE)), BLACK, 0.78),
    "end": Plate(((Disc(0, 0, 1), GREY), (Disc(0, 0, 0.9), WHITE)), BLACK, 0.9),
    "warning": Plate(
        ((Polygon(_regular(3, 0.98, y=0.16), 0.12), RED), (Polygon(_regular(3, 0.72, y=0.16), 0.03), WHITE)),
        BLACK,
        0.44,
        0.2,
    ),
    "order": Plate(((Disc(0, 0, 1), WHITE), (Disc(0, 0, 0.94), BLUE)), WHITE),
    "notice": Plate(((_square(0.78, 0.1), WHITE), (_square(0.74, 0.08), BLUE)), WHITE),
    "stop": Plate(((Polygon(_regular(8, 1.0, 22.5)), WHITE), (Polygon(_regular(8, 0.93, 22.5)), RED)), WHITE),
    "no entry": Plate(((Disc(0, 0, 1), WHITE), (Disc(0, 0, 0.95), RED)), WHITE),
    "priority": Plate(
        (
            (Polygon(_regular(4, 0.96), 0.04), WHITE),
            (Polygon(_regular(4, 0.9), 0.03), BLACK),
            (Polygon(_regular(4, 0.86), 0.03), WHITE),
            (Polygon(_regular(4, 0.62), 0.02), YELLOW),
        ),
        BLACK,
    ),
    "give way": Plate(
        ((Polygon(_regular(3, 0.98, 180, -0.16), 0.12), RED), (Polygon(_regular(3, 0.66, 180, -0.16), 0.03), WHITE)),
        BLACK,
    ),
}

# (class name, plate, pictogram). A world of K classes has the first K; the first ten lie on four plates.
_CLASSES = (
    ("speed limit 30", "prohibition", "30"),
    ("speed limit 50", "prohibition", "50"),
    ("speed limit 80", "prohibition", "80"),
    ("pedestrians", "warning", "walker"),
    ("bicycles", "warning", "bicycle"),
    ("crossroads", "warning", "crossing"),
    ("turn left", "order", "turn left"),
    ("turn right", "order", "turn right"),
    ("ahead only", "order", "ahead"),
    ("stop", "stop", "stop"),
    ("give way", "give way", "nothing"),
    ("no entry", "no entry", "bar"),
    ("priority road", "priority", "nothing"),
    ("speed limit 60", "prohibition", "60"),
    ("speed limit 70", "prohibition", "70"),
    ("speed limit 100", "prohibition", "100"),
    ("speed limit 120", "prohibition", "120"),
    ("no vehicles", "prohibition", "nothing"),
    ("no lorries", "prohibition", "lorry"),
    ("no overtaking", "prohibition", "two cars"),
    ("danger", "warning", "exclamation"),
    ("bend to the left", "warning", "bend left"),
    ("bend to the right", "warning", "bend right"),
    ("double bend", "warning", "double bend"),
    ("bumpy road", "warning", "bumps"),
    ("slippery road", "warning", "skid"),
    ("road narrows", "warning", "narrowing"),
    ("traffic lights", "warning", "lights"),
    ("snow", "warning", "snow"),
    ("ahead or left", "order", "ahead or left"),
    ("ahead or right", "order", "ahead or right"),
    ("keep left", "order", "keep left"),
    ("keep right", "order", "keep right"),
    ("roundabout", "order", "ring"),
    ("end of all limits", "end", "strokes"),
    ("end of limit 80", "end", "80 struck"),
    ("no bicycles", "prohibition", "bicycle"),
    ("no pedestrians", "prohibition", "walker"),
    ("parking", "notice", "parking"),
    ("hospital", "notice", "hospital"),
    ("pedestrian crossing", "notice", "zebra"),
    ("one-way road", "notice", "ahead"),
    ("dead end", "notice", "dead end"),
)

CLASS_NAMES: tuple[str, ...] = tuple(name for name, _, _ in _CLASSES)


def draw_plates(classes: int, side: int) -> torch.Tensor:
    """Return the faces of the first `classes` signs, (classes, 4, side, side) float32: premultiplied RGB and coverage.

    Each face spans [-EXTENT, EXTENT] in both directions; outside of its plate all four channels are 0.
    """
    centres = (torch.arange(side) + 0.5) / side * 2 * EXTENT - EXTENT
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    pictograms = _pictograms()
    faces = []
    for _, plate_name, pictogram in _CLASSES[:classes]:
        plate = _PLATES[plate_name]
        ink = [(shape, plate.ink) for shape in _moved(pictograms[pictogram], plate.scale, y=plate.y)]
        faces.append(_draw([*plate.layers, *ink], x, y, 2 * EXTENT / side))
    return torch.stack(faces)  # (classes, 4, side, side)


def _draw(layers: Iterable[tuple[Shape, Colour]], x: torch.Tensor, y: torch.Tensor, pixel: float) -> torch.Tensor:
    """Paint layers over one another; a pixel's coverage follows from its distance to the edge, in pixels."""
    face = torch.zeros(4, *x.shape)
    for shape, colour in layers:
        cover = (0.5 - shape.distance(x, y) / pixel).clamp(0, 1)
        face = face * (1 - cover) + torch.tensor([*colour, 1.0]).view(4, 1, 1) * cover
    return face
