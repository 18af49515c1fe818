"""Detection and segmentation with one simple head on the maps of a backbone's stages, and how both are scored.

The detector is CenterNet's (Zhou et al. 2019): a heat map of centres for each class, and at a centre the box's size and
the offset that the grid swallowed. The segmenter predicts a class for every position of the finest map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError

OFFSET_AND_SIZE = 4


@dataclass(frozen=True)
class Targets:
    """What a dense network shall answer on maps of h x w positions.

    heat: (N, K, h, w), 1 at the centre of a sign of class k and less around it; boxes: (N, 4, h, w), offset and size at
    centres, in positions; centres: (N, h, w) float32, 1 at centres; masks: (N, h, w) int64, classes with 0 for none.
    """

    heat: torch.Tensor
    boxes: torch.Tensor
    centres: torch.Tensor
    masks: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return them in the order that `dense_loss` takes."""
        return self.heat, self.boxes, self.centres, self.masks


class DenseNet(nn.Module):
    """A backbone and the head: a 1x1 convolution a stage, all enlarged to the finest, added, 3x3, ReLU, 1x1.

    backbone: its `pyramid(images)` returns maps of stages from fine to coarse, each finer one twice as large or more;
    channels: of the maps; classes: K; width: of the head. The output is (B, K + 4 + K + 1, h, w): centres, offset and
    size, and scores of background and classes.
    """

    def __init__(self, pyramid: nn.Module, channels: list[int], classes: int, width: int = 32):
        super().__init__()
        self.pyramid, self.classes = pyramid, classes
        self.lateral = nn.ModuleList(nn.Conv2d(one, width, 1) for one in channels)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, classes + OFFSET_AND_SIZE + classes + 1, 1)
        nn.init.constant_(self.out.bias[:classes], -4.0)  # few positions are centres: start from a low share

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (B, 2K + 5, h, w) of images (B, C, H, W)."""
        maps = self.pyramid(images)
        sides = maps[0].shape[2:]
        total = sum(_enlarged(lateral(one), sides) for lateral, one in zip(self.lateral, maps, strict=True))
        return self.out(F.relu(self.smooth(F.relu(total))))

    def split(self, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (centre logits (B, K, h, w), offset and size (B, 4, h, w), mask logits (B, K + 1, h, w))."""
        return answers.split([self.classes, OFFSET_AND_SIZE, self.classes + 1], dim=1)


def encode(boxes: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor, classes: int, stride: int) -> Targets:
    """Return the targets at a stride of boxes (N, P, 4) in pixels, labels (N, P), -1 for none, and masks (N, S, S).

    A centre's bump is a Gaussian as wide as a sixth of its box; a mask's position takes the pixel at its middle.
    """
    count, side = len(masks), masks.shape[-1] // stride
    middle = (boxes[..., :2] + boxes[..., 2:]) / (2 * stride)  # (N, P, 2): x, y in positions
    sizes = (boxes[..., 2:] - boxes[..., :2]) / stride
    cell = middle.floor().clamp(0, side - 1)
    places = torch.arange(side, dtype=torch.float32)
    spread = (sizes / 6).clamp(min=0.5)
    bump_x = torch.exp(-0.5 * ((places - cell[..., :1]) / spread[..., :1]) ** 2)  # (N, P, w)
    bump_y = torch.exp(-0.5 * ((places - cell[..., 1:]) / spread[..., 1:]) ** 2)
    heat = torch.zeros(count, classes, side, side)
    targets, centres = torch.zeros(count, 4, side, side), torch.zeros(count, side, side)
    for place in range(labels.shape[1]):
        rows = (labels[:, place] >= 0).nonzero().squeeze(1)  # images that have a sign here
        kind = labels[rows, place]
        bump = bump_y[rows, place, :, None] * bump_x[rows, place, None, :]  # (R, h, w)
        heat[rows, kind] = torch.maximum(heat[rows, kind], bump)
        column, row = cell[rows, place].long().unbind(dim=1)
        values = torch.cat([middle[rows, place] - cell[rows, place], sizes[rows, place]], dim=1)
        targets[rows, :, row, column] = values
        centres[rows, row, column] = 1.0
    half = stride // 2
    return Targets(heat, targets, centres, masks[:, half::stride, half::stride].contiguous())


def dense_loss(model: DenseNet) -> Callable[..., torch.Tensor]:
    """Return the loss of a network's answers: CenterNet's focal loss, 0.2 x L1 of the boxes, cross-entropy of masks."""

    def loss(answers, heat, boxes, centres, masks):
        scores, found, mask_scores = model.split(answers)
        number = centres.sum().clamp(min=1)
        share = scores.sigmoid()
        at_centre = heat == 1
        hit = F.logsigmoid(scores) * (1 - share) ** 2
        miss = F.logsigmoid(-scores) * share**2 * (1 - heat) ** 4
        focal = -torch.where(at_centre, hit, miss).sum() / number
        distance = ((found - boxes).abs() * centres.unsqueeze(1)).sum() / number
        # the position-wise loss of masks by log-softmax and a choice, as 2-dimensional nll_loss is not deterministic
        chosen = F.one_hot(masks, mask_scores.shape[1]).permute(0, 3, 1, 2)
        segment = -(mask_scores.log_softmax(dim=1) * chosen).sum(dim=1).mean()
        return focal + 0.2 * distance + 2 * segment

    return loss


@dataclass(frozen=True)
class Detections:
    """The best boxes of every image: boxes (N, D, 4) in pixels, scores (N, D) in [0, 1], labels (N, D)."""

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def decode(scores: torch.Tensor, found: torch.Tensor, stride: int, most: int = 12) -> Detections:
    """Return the `most` highest peaks of heat maps (N, K, h, w) logits with their boxes, from (N, 4, h, w)."""
    share = scores.sigmoid()
    peak = share * (share == F.max_pool2d(share, 3, 1, 1))
    height, width = share.shape[2:]
    best, where = peak.flatten(1).topk(most, dim=1)  # (N, D)
    labels, cell = where // (height * width), where % (height * width)
    values = found.flatten(2).gather(2, cell.unsqueeze(1).expand(-1, 4, -1)).transpose(1, 2)  # (N, D, 4)
    middle = torch.stack([cell % width, cell // width], dim=2) + values[..., :2]
    half = values[..., 2:].clamp(min=0) / 2
    boxes = torch.cat([middle - half, middle + half], dim=2) * stride
    return Detections(boxes, best, labels)


def overlap(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of boxes (..., A, 4) with boxes (..., B, 4), as (..., A, B)."""
    low = torch.maximum(left[..., :, None, :2], right[..., None, :, :2])
    high = torch.minimum(left[..., :, None, 2:], right[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(one[..., 2:] - one[..., :2]).clamp(min=0).prod(dim=-1) for one in (left, right)]
    return shared / (areas[0][..., :, None] + areas[1][..., None, :] - shared).clamp(min=1e-9)


def average_precision(found: Detections, boxes: torch.Tensor, labels: torch.Tensor, threshold: float = 0.5) -> list:
    """Return the average precision of each class, in [0, 1], over true boxes (N, P, 4) with labels (N, P), -1 for none.

    Detections go by falling score; one is right if it overlaps a true box of its class by `threshold` that no better
    one took. The area under the precision-recall curve is that of its upper envelope (all points, as in VOC 2010).
    Raises `CompanionError` if a class has no true box.
    """
    shared = overlap(found.boxes, boxes)  # (N, D, P)
    same = found.labels[:, :, None] == labels[:, None, :]
    values = torch.where(same, shared, torch.zeros(()))
    taken, right = torch.zeros(labels.shape, dtype=torch.bool), torch.zeros(found.scores.shape, dtype=torch.bool)
    images = torch.arange(len(labels))
    ranks = found.scores.argsort(dim=1, descending=True, stable=True)  # (N, D)
    for rank in ranks.T:  # the k-th best detection of every image at once
        best, which = values[images, rank].masked_fill(taken, -1.0).max(dim=1)
        hit = best >= threshold
        right[images, rank] = hit
        taken[images[hit], which[hit]] = True
    return [_class_precision(found, right, labels, k) for k in range(int(labels.max()) + 1)]


def _class_precision(found: Detections, right: torch.Tensor, labels: torch.Tensor, kind: int) -> float:
    total = int((labels == kind).sum())
    if not total:
        raise CompanionError(f"average precision: no true box of class {kind}; draw more pictures.")
    mine = found.labels == kind
    scores, hits = found.scores[mine], right[mine].double()
    order = scores.argsort(descending=True, stable=True)
    caught = hits[order].cumsum(0)
    precision = caught / torch.arange(1, len(caught) + 1, dtype=torch.float64)
    recall = torch.cat([torch.zeros(1, dtype=torch.float64), caught / total])
    envelope = precision.flip(0).cummax(0).values.flip(0) if len(caught) else precision
    return float((recall.diff() * envelope).sum())


def mean_intersection_over_union(predicted: torch.Tensor, masks: torch.Tensor, classes: int) -> tuple[float, list]:
    """Return the mean and each class's intersection over union of masks (N, H, W) int64, background (0) included."""
    shares = []
    for kind in range(classes + 1):
        mine, true = predicted == kind, masks == kind
        shares.append(float((mine & true).sum()) / max(1, int((mine | true).sum())))
    return sum(shares) / len(shares), shares


def _enlarged(maps: torch.Tensor, sides: torch.Size) -> torch.Tensor:
    """Repeat every position until the maps (B, C, h, w) have the given sides (their multiples)."""
    rows, columns = sides[0] // maps.shape[2], sides[1] // maps.shape[3]
    if rows == columns == 1:
        return maps
    wide = maps[:, :, :, None, :, None].expand(-1, -1, -1, rows, -1, columns)
    return wide.reshape(*maps.shape[:2], *sides)
