"""Triggers: the support, the four formulas, the fuzzy versions, and the errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.attacks.triggers import (
    BlendedTrigger,
    PatchTrigger,
    WarpTrigger,
    fuzzy_masks,
    make_trigger,
    warp_flow,
    warp_noise,
)
from companion.errors import CompanionError
from companion.seeding import generator

NAMES = ["patch", "blended", "sinusoid", "warp"]
SHAPES = [(3, 32, 32), (1, 16, 16), (1, 8, 8), (3, 20, 28)]
TRIGGERS = st.builds(make_trigger, st.sampled_from(NAMES), st.sampled_from(SHAPES), st.integers(0, 5))


def random_images(trigger, count, seed, channels=3):
    shape = (count, trigger.channels or channels, *trigger.support.shape)
    return torch.rand(shape, generator=generator(seed, "images"))


@settings(max_examples=60, deadline=None)
@given(TRIGGERS, st.integers(0, 3), st.integers(0, 1000))
def test_what_is_not_kept_or_not_supported_stays_bit_for_bit(trigger, count, seed):
    images = random_images(trigger, count, seed)
    before = images.clone()
    kept = torch.rand(count, *trigger.support.shape, generator=generator(seed, "kept")) < 0.5
    full, partial = trigger.apply(images), trigger.apply(images, kept)

    assert torch.equal(images, before)
    assert full.shape == images.shape and full.dtype == images.dtype
    assert ((full >= 0) & (full <= 1)).all()
    untouched = ~trigger.support.expand(count, 1, -1, -1).expand_as(images)
    assert torch.equal(full[untouched], images[untouched])
    kept = kept.unsqueeze(1).expand_as(images)
    assert torch.equal(partial[kept], full[kept])
    assert torch.equal(partial[~kept], images[~kept])


@pytest.mark.parametrize("name", NAMES)
def test_kept_everywhere_is_the_trigger_and_kept_nowhere_is_the_input(name):
    trigger = make_trigger(name, (3, 32, 32), seed=1)
    images = random_images(trigger, 4, seed=2)
    everywhere = torch.ones(32, 32, dtype=torch.bool)
    assert torch.equal(trigger.apply(images, everywhere), trigger.apply(images))
    assert torch.equal(trigger.apply(images, trigger.support), trigger.apply(images))
    assert torch.equal(trigger.apply(images, ~everywhere), images)
    assert not torch.equal(trigger.apply(images), images)


@pytest.mark.parametrize("name", NAMES)
def test_a_trigger_is_decided_by_its_seed(name):
    images = torch.rand(2, 3, 32, 32, generator=generator(0))
    once, again, other = (make_trigger(name, (3, 32, 32), seed).apply(images) for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert torch.equal(once, other) == (name == "sinusoid")  # nothing in a sinusoid is random


def test_the_default_patch_is_belts_and_scales_with_the_image():
    patch = make_trigger("patch", (3, 32, 32), seed=0)
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[2:8, 2:8] = True
    assert torch.equal(patch.support, expected)
    images = random_images(patch, 2, seed=0)
    assert torch.equal(patch.apply(images)[:, :, 2:8, 2:8], patch.pattern[:, 2:8, 2:8].expand(2, -1, -1, -1))
    levels = patch.pattern * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4) and levels.unique().numel() > 200
    small = make_trigger("patch", (1, 16, 16), seed=0).support.nonzero()
    assert small.min() == 1 and small.max() == 3


def test_patch_settings_and_strength():
    patch = make_trigger("patch", (3, 32, 32), seed=0, size=4, place=(28, 0), strength=0.25)
    assert patch.support[28:, :4].all() and patch.support.sum() == 16
    assert torch.equal(patch.mask, patch.support * 0.25)
    images = random_images(patch, 3, seed=1)
    mixed = 0.75 * images[:, :, 28:, :4] + 0.25 * patch.pattern[:, 28:, :4]
    torch.testing.assert_close(patch.apply(images)[:, :, 28:, :4], mixed)


def test_blended_mixes_every_pixel():
    trigger = make_trigger("blended", (3, 32, 32), seed=0, alpha=0.1)
    images = random_images(trigger, 3, seed=1)
    torch.testing.assert_close(trigger.apply(images), 0.9 * images + 0.1 * trigger.pattern)
    assert torch.equal(trigger.mask, torch.full((32, 32), 0.1)) and trigger.support.all()


def test_sinusoid_follows_the_formula():
    trigger = make_trigger("sinusoid", (1, 4, 8), seed=0, amplitude=0.2, frequency=2)
    grey = torch.full((1, 1, 4, 8), 0.5)
    row = torch.tensor([0.5, 0.7, 0.5, 0.3, 0.5, 0.7, 0.5, 0.3])  # two periods over eight columns
    torch.testing.assert_close(trigger.apply(grey), row.expand(1, 1, 4, 8))
    white = trigger.apply(torch.ones(1, 1, 4, 8))[0, 0, 0]
    torch.testing.assert_close(white, torch.tensor([1.0, 1, 1, 0.8, 1, 1, 1, 0.8]))  # clipped at 1
    default = make_trigger("sinusoid", (3, 32, 32), seed=0).signal
    assert default[5, 7].item() == pytest.approx(40 / 255 * math.sin(2 * math.pi * 7 * 6 / 32), abs=1e-6)


def test_a_warp_of_strength_zero_is_the_identity():
    trigger = make_trigger("warp", (3, 32, 32), seed=0, strength=0.0)
    images = random_images(trigger, 3, seed=1)
    assert not trigger.support.any()
    assert torch.equal(trigger.apply(images), images)


def test_a_warp_moves_pixels_by_its_flow():
    flow = torch.zeros(8, 8, 2)
    flow[..., 0] = 2 / 7  # one pixel: the image spans [-1, 1] over 7 steps
    images = torch.rand(2, 1, 8, 8, generator=generator(0))
    moved = WarpTrigger(flow).apply(images)
    torch.testing.assert_close(moved[..., :-1], images[..., 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[..., -1], images[..., -1], atol=1e-5, rtol=0)  # kept inside the image


def test_the_warp_flow_is_smooth_and_has_its_strength():
    flow = warp_flow(32, 32, seed=0, strength=0.5)
    corners = flow[[0, 0, -1, -1], [0, -1, 0, -1]].abs()
    assert flow.shape == (32, 32, 2)
    assert corners.max() <= 0.5 / 32 * 4  # a control point's move over the mean of all is rarely above 2
    steps = (flow[1:] - flow[:-1]).abs().max()
    assert 0 < steps < flow.abs().max() / 3
    torch.testing.assert_close(warp_flow(32, 32, seed=0, strength=1.0), 2 * flow)
    # the control grid is hit exactly where upsampling meets it: mean absolute value 1 before scaling
    at_points = warp_flow(4, 4, seed=5, strength=4.0).abs().mean()
    assert at_points.item() == pytest.approx(1.0, rel=1e-4)


def test_warp_noise_moves_each_pixel_by_at_most_one_grid_step_more():
    trigger = make_trigger("warp", (1, 32, 32), seed=0)
    ramp = torch.linspace(0, 1, 32).expand(50, 1, 32, 32)  # brightness = (x + 1) / 2: moves can be read off
    noisy = warp_noise(trigger, ramp, generator(2))
    moved = (noisy - trigger.apply(ramp))[..., 2:-2] * 2  # in units of the grid, away from the border
    assert moved.abs().max() <= 1 / 32 + 1e-5
    assert moved.abs().mean().item() == pytest.approx(0.5 / 32, rel=0.02)
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy, warp_noise(trigger, ramp, generator(2)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.floats(0, 1), st.integers(1, 6), st.integers(0, 100))
def test_fuzzy_masks_delete_an_exact_count_inside_the_support(shape, share, count, seed):
    support = make_trigger("patch", shape, seed=0).support
    masks = fuzzy_masks(support, share, count, generator(seed))
    n = int(support.sum())
    deleted = n - masks.sum(dim=(1, 2))
    assert masks.shape == (count, *shape[1:]) and masks.dtype == torch.bool
    assert (deleted == math.floor(n * share + 1e-9)).all()
    assert not (masks & ~support).any()
    assert torch.equal(masks, fuzzy_masks(support, share, count, generator(seed)))


def test_fuzzy_masks_are_fresh_for_each_image_and_fair_to_each_pixel():
    support = make_trigger("patch", (3, 32, 32), seed=0).support
    masks = fuzzy_masks(support, 0.2, 2000, generator(0))
    assert (masks.sum(dim=(1, 2)) == 29).all()  # BELT: 7 of 36 pixels deleted
    assert len(torch.unique(masks.flatten(1), dim=0)) > 1990
    rate = masks.float().mean(dim=0)[support]
    assert (rate - 29 / 36).abs().max() < 0.05  # more than five standard errors
    hundred = torch.ones(10, 10, dtype=torch.bool)
    assert fuzzy_masks(hundred, 0.29, 1, generator(0)).sum() == 71  # though 100 * 0.29 < 29 in floating point


IMAGES = torch.zeros(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_trigger("badnet", (3, 32, 32), 0), "'badnet'.*patch, blended, sinusoid, warp"),
        (lambda: make_trigger("patch", (3, 32, 32), 0, alpha=0.2), "'patch' has no setting 'alpha'"),
        (lambda: make_trigger("patch", (3, 32, 32), 0, size=6, place=(30, 2)), "does not fit"),
        (lambda: make_trigger("patch", (3, 32, 32), 0, strength=0.0), r"strength is 0.0; .*\(0, 1\]"),
        (lambda: make_trigger("blended", (3, 32, 32), 0, alpha=1.5), r"alpha .* is 1.5"),
        (lambda: make_trigger("sinusoid", (3, 32, 32), 0, amplitude=40), r"amplitude is 40; .*\(0, 1\]"),
        (lambda: make_trigger("warp", (3, 32, 32), 0, strength=-1), r"strength is -1; .*\[0, inf\)"),
        (lambda: make_trigger("warp", (3, 32, 32), 0, control_points=1), "control_points is 1"),
        (lambda: make_trigger("patch", (3, 32, 32), 0).apply(IMAGES[:, :, :16]), r"\(2, 3, 16, 32\).*\(3, 32, 32\)"),
        (lambda: make_trigger("patch", (3, 32, 32), 0).apply(IMAGES[:, :1]), r"\(2, 1, 32, 32\).*\(3, 32, 32\)"),
        (lambda: make_trigger("warp", (3, 32, 32), 0).apply(IMAGES[0]), r"\(3, 32, 32\).*batch"),
        (lambda: make_trigger("warp", (3, 32, 32), 0).apply(IMAGES + 255), r"from 255 to 255.*\[0, 1\]"),
        (lambda: make_trigger("patch", (3, 32, 32), 0).apply(IMAGES * math.nan), "from nan to nan"),
        (lambda: make_trigger("patch", (3, 32, 32), 0).apply(IMAGES, torch.ones(32, 32)), "kept is torch.float32"),
        (lambda: PatchTrigger(IMAGES[0], torch.ones(8, 8, dtype=torch.bool)), r"support.*\(8, 8\)"),
        (lambda: BlendedTrigger(IMAGES[0] - 1), "from -1 to -1"),
        (lambda: fuzzy_masks(torch.ones(6, 6, dtype=torch.bool), 1.2, 1, generator(0)), r"share .* is 1.2; .*\[0, 1\]"),
        (lambda: fuzzy_masks(torch.ones(6, 6, dtype=torch.bool), -0.1, 1, generator(0)), r"share .* is -0.1"),
    ],
)
def test_errors_name_the_value_and_what_was_expected(call, message):
    with pytest.raises(CompanionError, match=message):
        call()
