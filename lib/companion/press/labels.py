"""Names beside the points of a scatter plot, moved apart so that they can be read."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

PLACES = [(4, 3), (4, -10), (-4, 3), (-4, -10), (0, 7), (0, -14), (12, 10), (-12, 10), (12, -17), (-12, -17), (0, 17)]
"""Offsets in points at which a name is tried, the nearest first."""


def name_points(
    ax: plt.Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], colours: Sequence, size: float = 7
) -> None:
    """Draw points in their colours, each with its name at the first place that is free, or the least covered one.

    x, y: (N,) in the axes' units; names, colours: (N,); size: of the letters in points. Call it when the limits of the
    axes are set, or leave them to the points; a long arm gets a thin line to its point.
    """
    ax.scatter(x, y, c=list(colours), s=22, zorder=3)
    ax.margins(0.08, 0.12)
    ax.figure.draw_without_rendering()
    scale = ax.figure.dpi / 72
    spots = ax.transData.transform(np.column_stack([x, y])) / scale  # in points
    frame = ax.bbox.extents / scale
    taken = [(left - 3, low - 3, left + 3, low + 3) for left, low in spots]
    for name, spot in zip(names, spots, strict=True):
        boxes = [_box(spot, place, name, size) for place in PLACES]
        best = min(range(len(PLACES)), key=lambda k: (round(_covered(boxes[k], taken, frame), 1), k))
        taken.append(boxes[best])
        across, up = PLACES[best]
        side = "left" if across > 0 else "right" if across < 0 else "center"
        arm = {"arrowstyle": "-", "color": "grey", "linewidth": 0.5, "shrinkB": 2} if best > 3 else None
        ax.annotate(
            name, ax.transData.inverted().transform(spot * scale), (across, up), textcoords="offset points", ha=side,
            fontsize=size, arrowprops=arm,
        )  # fmt: skip


def _box(spot, place, name, size) -> tuple[float, float, float, float]:
    """Where a name would stand, in points: left, low, right, high."""
    width = 0.62 * size * len(name)
    across, up = place
    left = spot[0] + across - (0 if across > 0 else width if across < 0 else width / 2)
    return left, spot[1] + up, left + width, spot[1] + up + 1.1 * size


def _covered(box, taken, frame) -> float:
    """How much of a box others cover, in square points; leaving the frame is worst."""
    left, low, right, high = box
    shared = [max(0, min(right, r) - max(left, a)) * max(0, min(high, t) - max(low, b)) for a, b, r, t in taken]
    outside = max(0, frame[0] - left) + max(0, right - frame[2]) + max(0, frame[1] - low) + max(0, high - frame[3])
    return sum(shared) + 1000 * (outside > 0)
