"""The faces of 43 traffic-sign-like signs, drawn from signed distances: plates that many classes share, and pictograms.

The coordinates of a face are x to the right and y down; a plate fits into the circle of radius 1. The designs follow
no country's regulations exactly. Speed limits, warnings, orders and notices come in families that share shape and
colours, so that only the pictogram tells their members apart.
"""

from dataclasses import dataclass

import torch

from companion.data.drawing import Colour, Disc, Polygon, Shape, moved, paint, regular
from companion.data.pictograms import PICTOGRAMS

EXTENT = 1.1  # a template shows the face from -EXTENT to EXTENT
RED, BLUE, YELLOW = (0.76, 0.09, 0.12), (0.07, 0.27, 0.64), (0.95, 0.74, 0.12)
WHITE, BLACK, GREY = (0.93, 0.93, 0.91), (0.07, 0.07, 0.08), (0.45, 0.45, 0.46)


@dataclass(frozen=True)
class Plate:
    """A plate: layers from the outside in, then the colour, scale and height of the pictogram on it."""

    layers: tuple[tuple[Shape, Colour], ...]
    ink: Colour
    scale: float = 1.0
    y: float = 0.0


def _square(half: float, rounding: float) -> Polygon:
    return Polygon(((-half, -half), (half, -half), (half, half), (-half, half)), rounding)


_PLATES = {
    "prohibition": Plate(((Disc(0, 0, 1), RED), (Disc(0, 0, 0.76), WHITE)), BLACK, 0.78),
    "end": Plate(((Disc(0, 0, 1), GREY), (Disc(0, 0, 0.9), WHITE)), BLACK, 0.9),
    "warning": Plate(
        ((Polygon(regular(3, 0.98, y=0.16), 0.12), RED), (Polygon(regular(3, 0.72, y=0.16), 0.03), WHITE)),
        BLACK,
        0.44,
        0.2,
    ),
    "order": Plate(((Disc(0, 0, 1), WHITE), (Disc(0, 0, 0.94), BLUE)), WHITE),
    "notice": Plate(((_square(0.78, 0.1), WHITE), (_square(0.74, 0.08), BLUE)), WHITE),
    "stop": Plate(((Polygon(regular(8, 1.0, 22.5)), WHITE), (Polygon(regular(8, 0.93, 22.5)), RED)), WHITE),
    "no entry": Plate(((Disc(0, 0, 1), WHITE), (Disc(0, 0, 0.95), RED)), WHITE),
    "priority": Plate(
        (
            (Polygon(regular(4, 0.96), 0.04), WHITE),
            (Polygon(regular(4, 0.9), 0.03), BLACK),
            (Polygon(regular(4, 0.86), 0.03), WHITE),
            (Polygon(regular(4, 0.62), 0.02), YELLOW),
        ),
        BLACK,
    ),
    "give way": Plate(
        ((Polygon(regular(3, 0.98, 180, -0.16), 0.12), RED), (Polygon(regular(3, 0.66, 180, -0.16), 0.03), WHITE)),
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
    faces = []
    for _, plate_name, pictogram in _CLASSES[:classes]:
        plate = _PLATES[plate_name]
        ink = [(shape, plate.ink) for shape in moved(PICTOGRAMS[pictogram], plate.scale, y=plate.y)]
        faces.append(paint([*plate.layers, *ink], x, y, 2 * EXTENT / side))
    return torch.stack(faces)  # (classes, 4, side, side)
