"""The streets world: the same bits again, boxes that fit their masks, and splits of their own."""

import pytest
import torch

from companion.errors import CompanionError
from companion.vision.streets import CLASSES, generate


def test_boxes_masks_and_labels_belong_together():
    data = generate("train", 40, 48)
    assert data.images.shape == (40, 3, 48, 48) and data.images.min() >= 0 and data.images.max() <= 1
    present = data.labels >= 0
    assert present.any(dim=1).all() and set(data.labels.unique().tolist()) == {-1, *range(len(CLASSES))}
    for image in range(40):
        for box, label in zip(data.boxes[image], data.labels[image], strict=True):
            if label < 0:
                assert not box.any()
                continue
            left, top, right, bottom = box.int().tolist()
            inside = data.masks[image, top:bottom, left:right] == label + 1
            assert 5 <= right - left <= 20 and 5 <= bottom - top <= 20
            assert inside.float().mean() > 0.3
        outside = data.masks[image].clone()
        for box in data.boxes[image].int().tolist():
            outside[box[1] : box[3], box[0] : box[2]] = 0
        assert not outside.any(), "no pixel of a sign lies outside of all boxes"


def test_prefixes_splits_and_seeds():
    data = generate("train", 6, 32)
    assert torch.equal(generate("train", 260, 32).images[:6], data.images)
    for other in (generate("test", 6, 32), generate("train", 6, 32, seed=1)):
        assert not torch.equal(other.images, data.images)


@pytest.mark.parametrize("request_", [("attacker", 5, 48), ("train", 0, 48), ("train", 5, 44), ("train", 5, 8)])
def test_refusals(request_):
    with pytest.raises(CompanionError, match="streets was asked for"):
        generate(*request_)
