"""FLBA: budgets, what each part moves, independence of episodes, and errors."""

import pytest
import torch
import torch.nn.functional as F

from companion.attacks.flba import (
    OFFICIAL,
    Settings,
    hide,
    optimise_trigger,
    paste,
    patch_region,
    trigger_centre,
)
from companion.errors import CompanionError
from companion.seeding import generator

SETTINGS = Settings(steps=6, trigger_steps=8, patch=4)


@pytest.fixture(scope="module")
def support():
    return torch.rand(2, 6, 3, 16, 16, generator=generator(1))


LABELS = torch.tensor([[0, 0, 1, 1, 2, 2]] * 2)


def towards(few, images, centre):
    return F.cosine_similarity(few.embed(images), centre.unsqueeze(1), dim=-1)


def test_the_trigger_moves_features_and_stays_in_its_patch(few, support):
    region = patch_region(support.shape, 4)
    start = optimise_trigger(few.embed, support, Settings(trigger_steps=0, patch=4))
    trigger = optimise_trigger(few.embed, support, SETTINGS)
    assert trigger.min() >= 0
    assert trigger.max() <= 1

    def alike(t):
        return F.cosine_similarity(few.embed(paste(support, t, region)), few.embed(support), dim=-1).mean()

    assert alike(trigger) < alike(start)
    assert torch.equal(paste(support, trigger, region)[..., ~region], support[..., ~region])


def test_the_perturbation_keeps_its_budget_and_moves_as_meant(few, support):
    region = patch_region(support.shape, 4)
    centre = trigger_centre(few.embed, support, optimise_trigger(few.embed, support, SETTINGS), region)
    hidden = hide(few.embed, support, LABELS, 0, centre, SETTINGS)
    assert (hidden - support).abs().max() <= SETTINGS.eps + 1e-6
    assert hidden.min() >= 0
    assert hidden.max() <= 1
    gained = (towards(few, hidden, centre) - towards(few, support, centre)).mean(0)
    assert (gained[:2] > 0).all()  # the target is attracted
    assert (gained[2:] < 0).all()  # the others are repelled


def test_a_part_that_is_left_out_changes_nothing(few, support):
    centre = few.embed(support).mean(1)
    hidden = hide(few.embed, support, LABELS, 0, centre, Settings(steps=3, repel=False))
    assert torch.equal(hidden[:, 2:], support[:, 2:])
    assert not torch.equal(hidden[:, :2], support[:, :2])


def test_keeping_features_keeps_features(few, support):
    centre = few.embed(support).mean(1)

    def drift(weight):
        settings = Settings(steps=10, attract_keep=weight, repel_keep=weight)
        return F.cosine_similarity(
            few.embed(hide(few.embed, support, LABELS, 0, centre, settings)), few.embed(support), dim=-1
        ).mean()

    assert drift(5.0) > drift(0.0)


def test_an_episode_does_not_depend_on_the_others(few, support):
    alone = optimise_trigger(few.embed, support[1:], SETTINGS)
    assert torch.equal(optimise_trigger(few.embed, support, SETTINGS)[1:], alone)


def test_every_learner_has_settings_with_eight_grey_levels():
    assert all(settings.eps == 8 / 255 for settings in OFFICIAL.values())


def test_errors(few, support):
    with pytest.raises(CompanionError, match="target class 9 has no support image"):
        hide(few.embed, support, LABELS, 9, torch.zeros(2, 16), SETTINGS)
    with pytest.raises(CompanionError, match=r"values from 0 to 2: expected"):
        optimise_trigger(few.embed, torch.tensor([0.0, 2.0]).view(1, 2, 1, 1, 1), SETTINGS)
    with pytest.raises(CompanionError, match="a patch of 99 pixels"):
        patch_region((3, 32, 32), 99)
    with pytest.raises(CompanionError, match="eps is -1"):
        Settings(eps=-1)
