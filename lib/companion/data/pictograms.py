"""Pictograms of road signs: numbers and letters from lines, arrows, people and vehicles.

Each fits into the square from -1 to 1, with x to the right and y down.
"""

import math

from companion.data.drawing import Disc, Point, Polygon, Shape, Stroke, arc, moved

# Glyphs as lines in a box of half-width 0.5 and half-height 1.
_GLYPHS = {
    "0": [arc(0, 0, 0.5, 0, 360, 2.0, 24)],
    "1": [((-0.35, -0.6), (0.1, -1), (0.1, 1))],
    "2": [(*arc(0, -0.5, 0.5, -180, 30), (-0.5, 1), (0.55, 1))],
    "3": [arc(-0.05, -0.48, 0.5, -160, 90), arc(-0.05, 0.48, 0.55, -90, 160)],
    "5": [((0.45, -1), (-0.38, -1), (-0.45, -0.12), *arc(-0.05, 0.4, 0.58, -130, 150))],
    "6": [((0.35, -1), (-0.15, -0.45), *arc(0, 0.45, 0.52, -160, 200, 1.05, 24))],
    "7": [((-0.5, -1), (0.5, -1), (-0.15, 1))],
    "8": [arc(0, -0.52, 0.44, 0, 360, 1.05, 20), arc(0, 0.48, 0.52, 0, 360, 1.0, 20)],
    "S": [(*arc(0, -0.5, 0.48, -20, -270), *arc(0, 0.5, 0.48, -90, 160))],
    "T": [((-0.55, -1), (0.55, -1)), ((0, -1), (0, 1))],
    "O": [arc(0, 0, 0.52, 0, 360, 1.9, 24)],
    "P": [((-0.4, 1), (-0.4, -1), *arc(0.05, -0.48, 0.52, -90, 90), (-0.4, 0.04))],
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


def _arrow(start: Point, tip: Point, width: float = 0.2, head: float = 0.3) -> tuple[Shape, ...]:
    """A straight arrow from start to tip."""
    length = math.dist(start, tip)
    ux, uy = (tip[0] - start[0]) / length, (tip[1] - start[1]) / length
    neck = (tip[0] - head * ux, tip[1] - head * uy)
    left, right = (neck[0] + head * uy, neck[1] - head * ux), (neck[0] - head * uy, neck[1] + head * ux)
    return Stroke((start, neck), width), Polygon((left, tip, right))


def _turned(point: Point, degrees: float) -> Point:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return point[0] * c - point[1] * s, point[0] * s + point[1] * c


_WALKER = (
    Disc(0.05, -0.72, 0.17),
    Stroke(((0.02, -0.42), (-0.02, 0.1)), 0.26),
    Stroke(((0, 0.1), (0.28, 0.45), (0.3, 0.85)), 0.17),
    Stroke(((-0.04, 0.1), (-0.16, 0.5), (-0.42, 0.82)), 0.17),
    Stroke(((0.05, -0.4), (0.36, -0.02)), 0.13),
    Stroke(((0, -0.4), (-0.34, -0.1)), 0.13),
)
_WHEELS = tuple(Stroke(arc(x, 0.28, 0.32, 0, 360, steps=20), 0.11) for x in (-0.5, 0.5))
_FRAME = ((-0.5, 0.28), (-0.18, -0.28), (0.32, -0.28), (0, 0.28), (-0.5, 0.28))
_BICYCLE = (*_WHEELS, Stroke(_FRAME, 0.1), Stroke(((0.5, 0.28), (0.26, -0.5), (0.48, -0.54)), 0.1))
_BICYCLE += (Stroke(((0, 0.28), (-0.25, -0.46)), 0.09), Stroke(((-0.38, -0.48), (-0.12, -0.48)), 0.12))
_LORRY = (
    Polygon(((-0.8, -0.45), (0.2, -0.45), (0.2, 0.3), (-0.8, 0.3))),
    Polygon(((0.3, -0.2), (0.6, -0.2), (0.8, 0.05), (0.8, 0.3), (0.3, 0.3))),
    Disc(-0.5, 0.38, 0.19),
    Disc(0.5, 0.38, 0.19),
)
_CAR = (
    Polygon(((-0.45, -0.05), (0.45, -0.05), (0.5, 0.3), (-0.5, 0.3)), 0.05),
    Stroke(((-0.36, -0.1), (-0.25, -0.42), (0.25, -0.42), (0.36, -0.1)), 0.14),
    Polygon(((-0.48, 0.3), (-0.22, 0.3), (-0.22, 0.52), (-0.48, 0.52))),
    Polygon(((0.22, 0.3), (0.48, 0.3), (0.48, 0.52), (0.22, 0.52))),
)
_BEND = (Stroke(((0.3, 0.8), (0.3, 0.1), (-0.1, -0.28)), 0.24), *_arrow((-0.05, -0.23), (-0.42, -0.6), 0.2, 0.34))
_TURN = (Stroke(((0.35, 0.62), (0.35, -0.1), (0.1, -0.1)), 0.24), *_arrow((0.2, -0.1), (-0.62, -0.1), 0.24, 0.36))
_FORK = (*_arrow((0.12, 0.65), (0.12, -0.68), 0.2, 0.3), Stroke(((0.12, 0.35), (-0.2, 0.2)), 0.2))
_FORK += _arrow((-0.1, 0.2), (-0.66, 0.2), 0.2, 0.3)
_KEEP = _arrow((0.4, -0.45), (-0.48, 0.45), 0.24, 0.4)
_SNOW = tuple(
    Stroke(tuple((s * 0.75 * math.cos(a), s * 0.75 * math.sin(a)) for s in (-1, 1)), 0.13)
    for a in (math.pi / 2, math.pi / 6, -math.pi / 6)
)
_HEAD = ((0.2, -0.14), (0.72, -0.14), (0.46, 0.2))
_RING = (
    *(Stroke(arc(0, 0, 0.46, turn, turn + 70), 0.17) for turn in (0, 120, 240)),
    *(Polygon(tuple(_turned(point, turn + 80) for point in _HEAD)) for turn in (0, 120, 240)),
)
_STRIKING = tuple(Stroke(((-0.62 + o, 0.55 + o), (0.5 + o, -0.57 + o)), 0.07) for o in (-0.12, 0, 0.12))
_NUMBERS = {n: _text(n, 0.37, 0.54, 0.15) for n in ("30", "50", "60", "70", "80")}
_NUMBERS |= {n: _text(n, 0.33, 0.4, 0.12) for n in ("100", "120")}
PICTOGRAMS: dict[str, tuple[Shape, ...]] = _NUMBERS | {
    "nothing": (),
    "walker": _WALKER,
    "bicycle": _BICYCLE,
    "lorry": _LORRY,
    "two cars": (*moved(_CAR, 0.75, -0.38), *moved(_CAR, 0.75, 0.38)),
    "exclamation": (Stroke(((0, -0.7), (0, 0.25)), 0.26), Disc(0, 0.7, 0.17)),
    "crossing": (Stroke(((0, -0.75), (0, 0.75)), 0.24), Stroke(((-0.62, 0.05), (0.62, 0.05)), 0.24)),
    "bend left": _BEND,
    "bend right": moved(_BEND, mirror=True),
    "double bend": (
        Stroke(((0.2, 0.85), (0.2, 0.35), (-0.25, 0.05), (-0.25, -0.3)), 0.2),
        *_arrow((-0.25, -0.1), (0.1, -0.75), 0.2, 0.32),
    ),
    "bumps": (
        Stroke(((-0.85, 0.45), (0.85, 0.45)), 0.2),
        Polygon(arc(-0.4, 0.45, 0.36, 180, 360)),
        Polygon(arc(0.4, 0.45, 0.36, 180, 360)),
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
        *moved(_CAR, 0.8, 0.05, -0.42),
        *(Stroke(((x, 0.1), (x - 0.16, 0.35), (x + 0.1, 0.6), (x - 0.1, 0.88)), 0.11) for x in (-0.2, 0.36)),
    ),
    "snow": _SNOW,
    "turn left": _TURN,
    "turn right": moved(_TURN, mirror=True),
    "ahead": _arrow((0, 0.68), (0, -0.7), 0.24, 0.38),
    "ahead or left": _FORK,
    "ahead or right": moved(_FORK, mirror=True),
    "keep left": _KEEP,
    "keep right": moved(_KEEP, mirror=True),
    "ring": _RING,
    "strokes": _STRIKING,
    "80 struck": (*_NUMBERS["80"], *_STRIKING),
    "bar": (Stroke(((-0.5, 0), (0.5, 0)), 0.3),),
    "stop": _text("STOP", 0.3, 0.4, 0.12),
    "parking": _text("P", 0.55, 0, 0.24),
    "hospital": _text("H", 0.52, 0, 0.22),
    "zebra": (
        *moved(_WALKER, 0.7, 0, -0.12),
        *(Stroke(((x, 0.52), (1.25 * x, 0.72)), 0.16) for x in (-0.5, -0.17, 0.17, 0.5)),
    ),
    "dead end": (Stroke(((0, 0.62), (0, -0.4)), 0.24), Stroke(((-0.45, -0.4), (0.45, -0.4)), 0.24)),
}
