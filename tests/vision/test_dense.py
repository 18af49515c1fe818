"""Dense prediction: targets and boxes there and back, average precision and overlap by hand, and a loss that falls."""

import pytest
import torch

from companion.errors import CompanionError
from companion.seeding import generator
from companion.vision.dense import (
    DenseNet,
    Detections,
    average_precision,
    decode,
    dense_loss,
    encode,
    mean_intersection_over_union,
    overlap,
)
from companion.vision.fitting import FitConfig, fit
from companion.vision.streets import CLASSES, generate


def test_boxes_come_back_from_their_targets():
    data = generate("test", 30, 48)
    targets = encode(data.boxes, data.labels, data.masks, len(CLASSES), 4)
    assert targets.heat.shape == (30, 4, 12, 12) and targets.centres.sum() == (data.labels >= 0).sum()
    assert (targets.heat == 1).sum() == targets.centres.sum()
    logits = torch.logit(targets.heat, eps=1e-6)
    found = decode(logits, targets.boxes, 4)
    for image in range(30):
        true = data.labels[image] >= 0
        best = found.scores[image] > 0.99
        assert best.sum() == true.sum()
        shared = overlap(found.boxes[image][best], data.boxes[image][true])
        assert (shared.max(dim=0).values > 0.99).all()
        matched = found.labels[image][best][shared.argmax(dim=0)]
        assert torch.equal(matched, data.labels[image][true])
    assert average_precision(found, data.boxes, data.labels) == [1.0] * 4


def test_overlap_by_hand():
    left, right = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]])
    torch.testing.assert_close(overlap(left, right), torch.tensor([[1 / 3, 0, 1]]))


def test_average_precision_by_hand():
    """Three true boxes of one class; detections by score: right, twice the same box, wrong place, right."""
    boxes = torch.tensor([[[0.0, 0, 4, 4], [10, 10, 14, 14]], [[0, 0, 4, 4], [0, 0, 0, 0]]])
    labels = torch.tensor([[0, 0], [0, -1]])
    found = Detections(
        torch.tensor(
            [[[0.0, 0, 4, 4], [0, 0, 4, 5], [20, 20, 24, 24]], [[0, 0, 4, 4], [9, 9, 10, 10], [9, 9, 10, 10]]]
        ),
        torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.1, 0.1]]),
        torch.zeros(2, 3, dtype=torch.int64),
    )
    # precision at the two hits: 1 and 2 / 4; recall steps of a third; the third box is never found
    assert average_precision(found, boxes, labels) == [pytest.approx((1 + 0.5) / 3)]
    wrong = Detections(found.boxes, found.scores, torch.ones(2, 3, dtype=torch.int64))
    assert average_precision(wrong, boxes, labels) == [0.0]
    with pytest.raises(CompanionError, match="no true box of class 0"):
        average_precision(found, boxes, torch.tensor([[1, 1], [1, -1]]))


def test_mean_overlap_by_hand():
    true, found = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]])
    mean, each = mean_intersection_over_union(found, true, 1)
    assert each == [pytest.approx(1 / 2), pytest.approx(2 / 3)] and mean == pytest.approx(7 / 12)


class _Maps(torch.nn.Module):
    """A pyramid of two layers, for the head alone."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 5, 4, 2)
        self.second = torch.nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, images):
        fine = torch.relu(self.first(images))
        return [fine, torch.relu(self.second(fine))]


def test_the_head_learns():
    data = generate("train", 64, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DenseNet(_Maps(), [8, 16], len(CLASSES), 16)
    assert model(data.images[:2]).shape == (2, 2 * 4 + 5, 8, 8)
    targets = encode(data.boxes, data.labels, data.masks, len(CLASSES), 4)
    config = FitConfig(epochs=6, batch_size=16, learning_rate=0.01)
    losses = fit(model, data.images, targets.tensors(), dense_loss(model), config, generator(0, "fit"))
    assert losses[-1] < 0.7 * losses[0]
