"""Poisoned support sets: which images, which labels, which budgets."""

import pytest
import torch

from companion.attacks import support_poisoning as poisons
from companion.errors import CompanionError
from companion.seeding import generator

LABELS = torch.arange(3).repeat_interleave(5).expand(2, -1)


@pytest.fixture(scope="module")
def support():
    return torch.rand(2, 15, 3, 16, 16, generator=generator(1))


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.2, 1), (0.6, 3), (1.0, 5)])
def test_the_rate_is_a_share_of_each_class(rate, count):
    hit = poisons.chosen(LABELS, rate, 3)
    assert hit.view(2, 3, 5).sum(-1).eq(count).all()


def test_dirty_labels_go_to_the_target_and_clean_ones_stay(support):
    stamp = poisons.patched(support.shape, 4)
    found = poisons.dirty_label(support, LABELS, stamp, 0.4, 3)
    hit = poisons.chosen(LABELS, 0.4, 3)
    assert (found.labels[hit] == 0).all()
    assert torch.equal(found.labels[~hit], LABELS[~hit])
    assert torch.equal(found.images[hit], stamp(support)[hit])
    assert torch.equal(found.images[~hit], support[~hit])


def test_label_consistent_touches_the_target_only_and_keeps_labels(few, support):
    made = poisons.label_consistent(few.embed, support, LABELS, 4, 3, steps=4)
    found = made.poison(support, LABELS, 0.6, 3)
    assert torch.equal(found.labels, LABELS)
    changed = (found.images != support).flatten(2).any(-1)
    assert torch.equal(changed, poisons.chosen(LABELS, 0.6, 3) & (LABELS == 0))
    assert (made.images - support).abs().max() <= 20 / 255 + 1e-6
    assert (found.images[:, 0, :, -4:, -4:] == 1).all()


def test_tuap_keeps_both_budgets(few, support):
    made = poisons.universal_patch(few.embed, support, LABELS, 4, 3, steps=4)
    added = made.stamp(support) - support
    assert (added[..., :-4, :] == 0).all()
    assert added.abs().max() <= 100 / 255 + 1e-6
    assert (made.images - support).abs().max() <= 8 / 255 + 1e-6


def test_tuap_raises_the_targets_probability(few, support):
    made = poisons.universal_patch(few.embed, support, LABELS, 4, 3, steps=10)
    centres = poisons.prototypes(few.embed(support), LABELS, 3)

    def likely(images):
        return (-torch.cdist(few.embed(images), centres).square()).softmax(-1)[..., 0].mean()

    assert likely(made.stamp(support)) > likely(support)


def test_feature_shift_shifts_features(few, support):
    found = poisons.feature_shift(few.embed, support, LABELS, 4, 3, steps=6)

    def shift(images):
        return (few.embed(found.stamp(images)) - few.embed(images)).norm(dim=-1).mean()

    assert shift(found.images) > shift(support)
    assert (found.images - support).abs().max() <= 8 / 255 + 1e-6


def test_reflections_differ_between_neighbours(support):
    stamp = poisons.reflected(support[0, :4])
    shown = stamp(support)
    assert not torch.allclose(shown[:, 0] - support[:, 0], shown[:, 1] - support[:, 1])
    assert torch.equal(stamp(support[:1]), shown[:1])


def test_errors(support):
    stamp = poisons.patched(support.shape, 4)
    with pytest.raises(CompanionError, match=r"poison rate 1\.5"):
        poisons.dirty_label(support, LABELS, stamp, 1.5, 3)
    with pytest.raises(CompanionError, match="target class 3 of 3-way"):
        poisons.dirty_label(support, LABELS, stamp, 0.2, 3, target=3)
