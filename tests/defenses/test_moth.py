"""MOTH: distances of a network whose geometry is known, hardening, and bad input."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from companion.defenses import moth
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator

LABELS = torch.arange(12) % 3
IMAGES = torch.rand(12, 1, 8, 8, generator=generator(0)) * 0.2
FAST = replace(moth.QUICK, steps=120, images=4)


class Counter(nn.Module):
    """Label by how many of the first row's pixels are bright: below `near` 0, else 1; label 2 needs the whole image."""

    def __init__(self, near=2.0):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.near = near

    def forward(self, images):
        row, everything = images[:, 0, 0].sum(1), images.sum((1, 2, 3))
        zero = torch.zeros_like(row)
        return self.scale * torch.stack([zero, 4 * (row - self.near), 4 * (everything - 40)], 1)


def test_a_near_class_has_a_small_distance():
    source = [IMAGES, IMAGES]
    found = moth.smallest_triggers(Counter(), source, [1, 2], 150, 0.9, replace(FAST, images=32), generator(1))
    assert found.reached.all()
    assert found.sizes[0] < 6 < 30 < found.sizes[1]
    stamped = moth.stamp(IMAGES.unsqueeze(0), found.masks[:1].unsqueeze(1), found.patterns[:1])[0]
    assert (Counter()(stamped).argmax(1) == 1).float().mean() >= 0.8  # the bound, on 32 draws of the 12


def test_searches_share_a_batch_without_touching_each_other():
    source = [IMAGES[:4], IMAGES[4:8]]
    together = moth.smallest_triggers(Counter(), source, [1, 2], 20, 0.9, FAST, generator(1))
    again = moth.smallest_triggers(Counter(), source, [1, 2], 20, 0.9, FAST, generator(1))
    assert torch.equal(together.masks, again.masks)
    other = moth.smallest_triggers(Counter(), [source[0], source[1] * 0], [1, 2], 20, 0.9, FAST, generator(1))
    assert torch.equal(other.masks[0], together.masks[0])


def test_a_target_out_of_reach_counts_with_all_pixels():
    found = moth.smallest_triggers(Counter(near=100.0), [IMAGES], [1], 5, 0.9, FAST, generator(1))
    assert not found.reached.any() and found.sizes.tolist() == [64.0]


def test_distances_have_a_zero_diagonal_and_see_the_near_class():
    found = moth.class_distances(Counter(), IMAGES, LABELS, FAST, generator(2))
    assert found.shape == (3, 3) and (found.diagonal() == 0).all()
    assert found[0, 1] < found[0, 2]


def test_hardening_leaves_the_model_alone_and_changes_its_copy():
    model = build_model("small_cnn", 1, 3, generator(3), width=4).eval()
    images = torch.rand(30, 1, 16, 16, generator=generator(4))
    labels = torch.arange(30) % 3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = replace(moth.QUICK, warm_steps=5, first_steps=3, next_steps=2, images=2, batch=10, epochs=3, warm_epochs=1)
    first, again = (moth.harden(model, images, labels, config, generator(5)) for _ in range(2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(first.head.weight, again.head.weight) and not torch.equal(first.head.weight, model.head.weight)
    assert not first.training


def test_a_share_of_the_allowed_images_is_stamped():
    batch = torch.zeros(10, 1, 4, 4)
    mask, pattern = torch.zeros(1, 4, 4), torch.ones(1, 1, 4, 4)
    mask[:, 0, 0] = 1
    allowed = torch.arange(10) < 8
    moth._stamp_some(batch, allowed, (mask, pattern), 0.5, 0.25, generator(0))
    assert batch.sum() == 4 and batch[8:].sum() == 0
    moth._stamp_some(batch, allowed, (torch.ones(1, 4, 4), pattern), 0.5, 0.25, generator(0))
    assert batch.sum() == 4, "a mask over a quarter of the image is skipped"


def test_bad_input_is_named():
    with pytest.raises(CompanionError, match="none of label 1"):
        moth.harden(Counter(), IMAGES, LABELS * 2, FAST, generator(0))
    with pytest.raises(CompanionError, match="at least two labels"):
        moth.class_distances(Counter(), IMAGES, LABELS * 0, FAST, generator(0))
    with pytest.raises(CompanionError, match="expected \\(N, C, H, W\\)"):
        moth.class_distances(Counter(), IMAGES * 9, LABELS, FAST, generator(0))
    with pytest.raises(CompanionError, match="at least one image"):
        moth.smallest_triggers(Counter(), [IMAGES[:0]], [1], 1, 0.9, FAST, generator(0))
