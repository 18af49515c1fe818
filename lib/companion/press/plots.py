"""The look that the figures of all chapters share: sizes, a colour-blind-safe palette, and a few common drawings."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

PALETTE = sns.color_palette("colorblind")
WIDTH = 7.2  # inches: the book's text column


def style() -> None:
    """Set the look of every figure that is drawn after this call."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.1)
    plt.rcParams.update(
        {"figure.constrained_layout.use": True, "axes.titlesize": "medium", "svg.hashsalt": "companion"}
    )


def panels(columns: int, rows: int = 1, height: float = 2.8, **settings: Any) -> tuple[plt.Figure, np.ndarray]:
    """Return a figure of the book's width with (rows, columns) axes, always as a 2-dimensional array."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, **settings)


def picture_rows(rows: Sequence[Sequence[Any]], columns: Sequence[str], labels: Sequence[str]) -> plt.Figure:
    """Return a figure of images: rows of (C, H, W) tensors in [0, 1], a title over each column, a label at each row."""
    figure, axes = panels(len(columns), len(rows), height=WIDTH / len(columns) + 0.15)
    for images, line, label in zip(rows, axes, labels, strict=True):
        for image, ax in zip(images, line, strict=True):
            picture = np.asarray(image).transpose(1, 2, 0)  # (H, W, C)
            ax.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        line[0].set_ylabel(label)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title)
    return figure


def share_with_band(ax: plt.Axes, x: Sequence[float], successes: Any, n: int, **line: Any) -> None:
    """Draw shares in percent with their 95 % Wilson band over `x`; successes: counts out of `n` at each x."""
    from companion.statistics import wilson

    bands = [wilson(int(k), n) for k in successes]
    (drawn,) = ax.plot(x, [100 * int(k) / n for k in successes], **line)
    low, high = [100 * band.low for band in bands], [100 * band.high for band in bands]
    ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
