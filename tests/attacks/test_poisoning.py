"""Poisoning: exact counts, roles, labels, and a clean set that stays clean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.attacks.poisoning import CLEAN, COVER, POISON, PoisonPlan, plan_clean_label, plan_dirty_label, poison
from companion.attacks.triggers import make_trigger
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.seeding import generator

TRIGGER = make_trigger("patch", (1, 8, 8), seed=0, size=4)


def toy_set(count=60, classes=4):
    images = torch.rand(count, 1, 8, 8, generator=generator(0, "toy"))
    names = tuple(f"class {k}" for k in range(classes))
    return ImageSet(images, torch.arange(count) % classes, names, "toy", "train")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 3), st.floats(0, 1), st.integers(0, 100))
def test_dirty_label_poisoning(poison_count, cover_count, target, share, seed):
    data = toy_set()
    images, labels = data.images.clone(), data.labels.clone()
    plan = plan_dirty_label(data.labels, target, poison_count, cover_count, generator(seed, "plan"))
    done = poison(data, plan, TRIGGER, share, generator(seed, "fuzzy"))

    assert torch.equal(data.images, images) and torch.equal(data.labels, labels)
    touched = torch.cat([plan.poison, plan.cover])
    assert len(plan.poison) == poison_count and len(plan.cover) == cover_count
    assert len(touched.unique()) == poison_count + cover_count
    assert torch.equal((done.roles == POISON).nonzero().squeeze(1), plan.poison.sort().values)
    assert torch.equal((done.roles == COVER).nonzero().squeeze(1), plan.cover.sort().values)
    clean = done.roles == CLEAN
    assert torch.equal(done.images[clean], images[clean])
    kept_labels = done.roles != POISON
    assert torch.equal(done.labels[kept_labels], labels[kept_labels])
    assert (done.labels[plan.poison] == target).all()
    assert torch.equal(done.images[plan.poison], TRIGGER.apply(images[plan.poison]))


def test_cover_images_lack_a_different_part_of_the_trigger_each():
    data = toy_set()
    plan = plan_dirty_label(data.labels, 1, 10, 20, generator(0))
    done = poison(data, plan, TRIGGER, 0.25, generator(1))
    changed = (done.images[plan.cover] != data.images[plan.cover]).any(dim=1)
    assert (changed.sum(dim=(1, 2)) == 12).all()  # 4 of 16 pixels deleted
    assert len(torch.unique(changed.flatten(1), dim=0)) == 20
    again = poison(data, plan, TRIGGER, 0.25, generator(1))
    assert torch.equal(done.images, again.images)


def test_all_images_may_be_poisoned_and_all_classes_are_drawn_from():
    data = toy_set()
    plan = plan_dirty_label(data.labels, 2, 40, 20, generator(0))
    assert torch.equal(torch.cat([plan.poison, plan.cover]).sort().values, torch.arange(60))
    other = plan_dirty_label(data.labels, 2, 40, 20, generator(1))
    assert not torch.equal(plan.poison, other.poison)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 15), st.integers(0, 3), st.integers(0, 100))
def test_clean_label_poisoning_changes_no_label(poison_count, target, seed):
    data = toy_set()
    plan = plan_clean_label(data.labels, target, poison_count, generator(seed))
    done = poison(data, plan, TRIGGER, 0.2, generator(seed))
    assert len(plan.poison.unique()) == poison_count and len(plan.cover) == 0
    assert (data.labels[plan.poison] == target).all()
    assert torch.equal(done.labels, data.labels)
    assert (done.roles == POISON).sum() == poison_count and (done.roles == COVER).sum() == 0
    assert torch.equal(done.images[plan.poison], TRIGGER.apply(data.images[plan.poison]))


def plan_of(poisoned, cover, target=0):
    return PoisonPlan(torch.tensor(poisoned, dtype=torch.int64), torch.tensor(cover, dtype=torch.int64), target)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, g: plan_dirty_label(d.labels, 1, 50, 11, g), "50 poison and 11 cover.*there are 60 images"),
        (lambda d, g: plan_dirty_label(d.labels, 1, -1, 0, g), "poison_count is -1"),
        (lambda d, g: plan_dirty_label(d.labels, 4, 5, 5, g), "target label is 4.*0 to 3"),
        (lambda d, g: plan_dirty_label(d.labels, -1, 5, 5, g), "target label is -1"),
        (lambda d, g: plan_clean_label(d.labels, 4, 5, g), "target label is 4"),
        (lambda d, g: plan_clean_label(d.labels, 1, 16, g), "15 images of the target class 1"),
        (lambda d, g: poison(d, plan_of([1, 2], [2, 3]), TRIGGER, 0.2, g), "twice"),
        (lambda d, g: poison(d, plan_of([1, 60], []), TRIGGER, 0.2, g), "image 60.*toy/train has 60 images"),
        (lambda d, g: poison(d, plan_of([1], [], target=9), TRIGGER, 0.2, g), "target label is 9.*0 to 3"),
        (lambda d, g: poison(d, plan_of([1], [2]), TRIGGER, 1.5, g), r"share .* is 1.5; .*\[0, 1\]"),
        (lambda d, g: poison(d, plan_of([1], []), make_trigger("patch", (1, 9, 9), 0), 0.2, g), "PatchTrigger.*shape"),
    ],
)
def test_errors_name_the_value_and_what_was_expected(call, message):
    with pytest.raises(CompanionError, match=message):
        call(toy_set(), generator(0))
