"""Random views: same generator, same views; each part of the chain can be switched off; colours stay in range."""

import pytest
import torch

from companion.errors import CompanionError
from companion.hashing.views import GREY, Augmentation, random_views
from companion.seeding import generator

NOTHING = Augmentation(smallest_area=1.0, flip=0.0, jitter_share=0.0, grey_share=0.0, blur_share=0.0)


def pictures(channels: int = 3, count: int = 6, side: int = 16) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=generator(0, "pictures"))


@pytest.mark.parametrize("channels", [1, 3])
def test_views_depend_on_the_generator_alone_and_stay_in_range(channels):
    images = pictures(channels)
    views = [random_views(images, Augmentation(), generator(seed, "views")) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1]) and not torch.allclose(views[0], views[2])
    assert views[0].shape == images.shape and views[0].min() >= 0 and views[0].max() <= 1


def test_a_view_without_any_change_is_the_image_but_for_its_aspect():
    square = random_views(pictures(), NOTHING, generator(0, "views"))
    flat = torch.full((3, 3, 16, 16), 0.3)
    assert torch.allclose(random_views(flat, NOTHING, generator(0, "v")), flat, atol=1e-6)
    assert square.shape == (6, 3, 16, 16)


def test_a_flip_mirrors_the_crop():
    flipped = random_views(pictures(), Augmentation(1.0, 1.0, jitter_share=0, grey_share=0, blur_share=0), generator(0))
    plain = random_views(pictures(), NOTHING, generator(0))
    left, right = (found.mean((1, 2))[:, :8].mean(1) for found in (flipped, plain.flip(-1)))
    assert torch.allclose(left, right, atol=0.03) and not torch.allclose(flipped, plain, atol=0.03)


def test_grey_views_have_three_equal_channels_and_keep_their_luminance():
    settings = Augmentation(1.0, 0.0, jitter_share=0.0, grey_share=1.0, blur_share=0.0)
    views, plain = (random_views(pictures(), s, generator(0)) for s in (settings, NOTHING))
    assert torch.allclose(views[:, 0], views[:, 2])
    luminance = (plain * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1)
    assert torch.allclose(views[:, 1], luminance, atol=1e-5)


def test_a_turn_of_colours_keeps_grey_grey():
    grey = torch.rand(5, 1, 8, 8, generator=generator(0)).expand(5, 3, 8, 8)
    settings = Augmentation(1.0, 0.0, 0, 0, 0, hue=0.5, jitter_share=1.0, grey_share=0.0, blur_share=0.0)
    views = random_views(grey, settings, generator(1))
    assert torch.allclose(views[:, 0], views[:, 1], atol=1e-5)


def test_blur_takes_contrast_and_keeps_the_mean():
    images = pictures(side=224, count=2)
    settings = Augmentation(1.0, 0.0, jitter_share=0.0, grey_share=0.0, blur_share=1.0)
    sharp, soft = (random_views(images, s, generator(0)) for s in (NOTHING, settings))
    assert (soft.std((2, 3)) <= sharp.std((2, 3))).all() and soft.std() < 0.9 * sharp.std()
    assert torch.allclose(soft.mean((2, 3)), sharp.mean((2, 3)), atol=5e-3)


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"smallest_area": 0.0}, {"blur": 0.0}, {"hue": -0.1}])
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(CompanionError, match=next(iter(wrong))):
        Augmentation(**wrong)
