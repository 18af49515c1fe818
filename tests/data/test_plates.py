"""The faces of signs: coverage, and that each class can be told from each other."""

import math

import pytest
import torch

from companion.data.plates import CLASS_NAMES, EXTENT, draw_plates


def test_faces_are_premultiplied_and_lie_inside_the_template():
    faces = draw_plates(43, 64)
    assert faces.shape == (43, 4, 64, 64) and faces.dtype == torch.float32
    colour, cover = faces[:, :3], faces[:, 3:]
    assert (colour >= 0).all() and (cover <= 1).all() and (colour <= cover + 1e-6).all()
    for edge in (faces[:, :, 0], faces[:, :, -1], faces[..., 0], faces[..., -1]):
        assert (edge == 0).all()
    assert (cover[:, 0, 32, 32] == 1).all()


def test_a_plates_area_is_right_at_any_resolution():
    for side in (64, 160):
        ring = draw_plates(1, side)[0, 3]  # the first sign is a disc of radius 1
        assert ring.mean().item() == pytest.approx(math.pi / (2 * EXTENT) ** 2, rel=0.005)


def test_no_two_classes_look_alike():
    faces = draw_plates(43, 64).flatten(1)
    gaps = torch.cdist(faces, faces, p=1) / 64**2
    gaps.fill_diagonal_(math.inf)
    assert gaps.min() > 0.02
    assert len(set(CLASS_NAMES)) == 43


def test_left_and_right_are_mirror_images():
    faces = dict(zip(CLASS_NAMES, draw_plates(43, 64), strict=True))
    for left in ("turn left", "keep left", "bend to the left"):
        right = left.replace("left", "right")
        torch.testing.assert_close(faces[left].flip(-1), faces[right], atol=1e-4, rtol=0)
