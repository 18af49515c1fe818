"""Names beside points stand apart, and where nothing is in the way beside their point."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from companion.press.labels import PLACES, name_points


@pytest.fixture
def ax():
    figure, ax = plt.subplots(figsize=(7.2, 4.2))
    yield ax
    plt.close(figure)


def test_a_lonely_name_stands_at_the_first_place(ax):
    name_points(ax, [0.0, 1.0], [0.0, 1.0], ["a", "b"], ["red", "blue"])
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    assert [text.get_position() for text in ax.texts] == [PLACES[0], PLACES[0]]
    assert [tuple(text.xy) for text in ax.texts] == [pytest.approx((0, 0)), pytest.approx((1, 1))]


def test_names_of_crowded_points_do_not_cover_each_other(ax):
    x, y = [0.0, 0.5, 0.5, 0.51, 0.52, 1.0], [0.0, 0.5, 0.505, 0.5, 0.49, 1.0]
    name_points(ax, x, y, ["low", "one", "two", "three", "four", "high"], ["black"] * 6)
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the line to the point
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(6) for j in range(i))
    assert all(ax.get_window_extent().contains(*corner) for box in boxes for corner in box.corners())
