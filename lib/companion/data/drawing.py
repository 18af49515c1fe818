"""Flat drawings from signed distances: strokes, convex polygons and discs, with smooth edges at any resolution."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

Point = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Stroke:
    """A line of the given width through points, with round ends."""

    points: tuple[Point, ...]
    width: float

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the signed distance to the stroke, negative inside, of the shape of x and y."""
        pieces = [_to_segment(x, y, a, b) for a, b in itertools.pairwise(self.points)]
        return torch.stack(pieces).amin(dim=0) - self.width / 2


@dataclass(frozen=True)
class Polygon:
    """A convex polygon, its corners given clockwise on the screen, grown and rounded by `rounding`."""

    points: tuple[Point, ...]
    rounding: float = 0.0

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the signed distance to the polygon, negative inside, of the shape of x and y."""
        corners = (*self.points, self.points[0])
        sides = [_beyond_line(x, y, a, b) for a, b in itertools.pairwise(corners)]
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


def _to_segment(x: torch.Tensor, y: torch.Tensor, a: Point, b: Point) -> torch.Tensor:
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = (((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-12)).clamp(0, 1)
    return torch.hypot(x - a[0] - along * dx, y - a[1] - along * dy)


def _beyond_line(x: torch.Tensor, y: torch.Tensor, a: Point, b: Point) -> torch.Tensor:
    dx, dy = b[0] - a[0], b[1] - a[1]
    return ((x - a[0]) * dy - (y - a[1]) * dx) / math.hypot(dx, dy)


def arc(
    x: float, y: float, radius: float, start: float, stop: float, stretch: float = 1.0, steps: int = 12
) -> tuple[Point, ...]:
    """Return points on an arc from angle start to stop (degrees, clockwise from the right); stretch scales heights."""
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return tuple((x + radius * math.cos(a), y + radius * stretch * math.sin(a)) for a in angles)


def regular(corners: int, radius: float, turn: float = 0.0, y: float = 0.0) -> tuple[Point, ...]:
    """Return the corners of a regular polygon; the first one lies at `turn` degrees clockwise from the top."""
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    return tuple((radius * math.sin(a), y - radius * math.cos(a)) for a in angles)


def moved(
    shapes: Iterable[Shape], scale: float = 1.0, x: float = 0.0, y: float = 0.0, mirror: bool = False
) -> tuple[Shape, ...]:
    """Return shapes mirrored (left to right, if asked), scaled and then moved by (x, y)."""
    sign = -1 if mirror else 1

    def move(shape: Shape) -> Shape:
        if isinstance(shape, Disc):
            return Disc(sign * scale * shape.x + x, scale * shape.y + y, scale * shape.radius)
        points = tuple((sign * scale * px + x, scale * py + y) for px, py in shape.points)
        if isinstance(shape, Stroke):
            return Stroke(points, scale * shape.width)
        return Polygon(points[::-1] if mirror else points, scale * shape.rounding)

    return tuple(move(shape) for shape in shapes)


def paint(layers: Iterable[tuple[Shape, Colour]], x: torch.Tensor, y: torch.Tensor, pixel: float) -> torch.Tensor:
    """Paint layers over one another: premultiplied RGB and coverage, (4, H, W) float32.

    x, y: (H, W), coordinates of the pixels' centres; pixel: the distance between neighbours. A pixel's coverage
    follows from its distance to the edge, so that edges are smooth.
    """
    face = torch.zeros(4, *x.shape)
    for shape, colour in layers:
        cover = (0.5 - shape.distance(x, y) / pixel).clamp(0, 1)
        face = face * (1 - cover) + torch.tensor([*colour, 1.0]).view(4, 1, 1) * cover
    return face
