"""Drawing from signed distances: the distances, painting order, mirroring."""

import math

import pytest
import torch

from companion.data.drawing import Disc, Polygon, Stroke, moved, paint, regular


def at(shape, x, y):
    return shape.distance(torch.tensor([float(x)]), torch.tensor([float(y)])).item()


def test_signed_distances():
    disc, stroke = Disc(0.5, 0, 0.25), Stroke(((0, 0), (1, 0)), 0.2)
    square = Polygon(((-1, -1), (1, -1), (1, 1), (-1, 1)), 0.1)
    assert at(disc, 0.5, 1) == pytest.approx(0.75) and at(disc, 0.5, 0) == pytest.approx(-0.25)
    assert at(stroke, 0.5, 0.3) == pytest.approx(0.2) and at(stroke, 1.3, 0.4) == pytest.approx(0.4)
    assert at(square, 0, 0) == pytest.approx(-1.1) and at(square, 0, 3) == pytest.approx(1.9)
    assert at(square, 2, 2) == pytest.approx(math.sqrt(2) - 0.1)  # beyond a corner: rounded


def test_moved_shapes_keep_their_distances():
    shapes = (Disc(0.2, 0.1, 0.3), Stroke(((0, 0), (0.5, 0.2)), 0.1), Polygon(regular(5, 0.6, 10), 0.05))
    for before, after in zip(shapes, moved(shapes, scale=2, x=0.3, y=-0.4, mirror=True), strict=True):
        for x, y in ((0.1, 0.1), (-0.9, 0.4), (0.7, -0.8)):
            assert at(after, -2 * x + 0.3, 2 * y - 0.4) == pytest.approx(2 * at(before, x, y), abs=1e-6)


def test_later_layers_cover_earlier_ones_and_edges_are_smooth():
    centres = (torch.arange(40) + 0.5) / 20 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    face = paint([(Disc(0, 0, 0.8), (1, 0, 0)), (Disc(0, 0, 0.4), (0, 0, 1))], x, y, 1 / 20)
    assert face[:, 20, 20].tolist() == [0, 0, 1, 1] and face[:, 20, 32].tolist() == [1, 0, 0, 1]
    assert face[:, 0, 0].tolist() == [0, 0, 0, 0]
    assert 0 < face[3, 20, 35] < 1 or 0 < face[3, 20, 36] < 1
    assert face[3].mean().item() == pytest.approx(math.pi * 0.8**2 / 4, rel=0.01)
