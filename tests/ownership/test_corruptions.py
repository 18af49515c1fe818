"""Corruptions: form and range kept, worse with severity, noise from the generator alone, JPEG by quality."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from companion.data.signs import generate
from companion.errors import CompanionError
from companion.ownership.corruptions import CORRUPTIONS, JPEG_QUALITY, corrupt, jpeg
from companion.seeding import generator


@pytest.fixture(scope="module")
def images():
    return generate("test", 12).images


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_form_range_and_repeatability(images, name, channels):
    given = images[:, :channels].contiguous()
    before = given.clone()
    found = corrupt(given, name, 3, generator(0, name))
    assert found.shape == given.shape and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1 and not torch.equal(found, given)
    assert torch.equal(given, before)
    assert torch.equal(found, corrupt(given, name, 3, generator(0, name)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity(images, name):
    damage = [float((corrupt(images, name, s, generator(0, name)) - images).square().mean()) for s in range(1, 6)]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(damage))
    assert damage[4] > damage[0]


def test_jpeg_qualities_of_the_severities(images):
    assert JPEG_QUALITY == (25, 18, 15, 10, 7)
    for severity, quality in enumerate(JPEG_QUALITY, 1):
        found = corrupt(images[:2], "jpeg", severity, generator(0))
        assert torch.equal(found, jpeg(images[:2], quality))
        buffer = io.BytesIO()
        picture = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(buffer)).astype(np.float32) / 255
        np.testing.assert_array_equal(found[0].permute(1, 2, 0).numpy(), decoded)


def test_jpeg_works_on_each_image_alone(images):
    assert torch.equal(jpeg(images, 18)[5:7], jpeg(images[5:7], 18))


def test_jpeg_of_enlarged_images_damages_less(images):
    damage = [float((jpeg(images, 25, enlarge) - images).square().mean()) for enlarge in (1, 2, 4, 8)]
    assert damage == sorted(damage, reverse=True) and damage[-1] < damage[0] / 3
    assert jpeg(images, 25, 4).shape == images.shape
    with pytest.raises(CompanionError, match="0 times"):
        jpeg(images, 25, 0)


def test_noise_differs_between_generators_but_the_deterministic_ones_do_not_draw(images):
    for name in CORRUPTIONS:
        same = torch.equal(corrupt(images, name, 2, generator(0)), corrupt(images, name, 2, generator(1)))
        assert same == (name not in {"gaussian_noise", "shot_noise", "impulse_noise", "fog"}), name


def test_contrast_keeps_the_mean_and_scales_the_rest(images):
    found = corrupt(images, "contrast", 2, generator(0))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(found - mean, 0.5 * (images - mean), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: corrupt(x, "snow", 1, generator(0)), "unknown corruption 'snow'.*jpeg"),
        (lambda x: corrupt(x, "fog", 6, generator(0)), "severity 6 of fog"),
        (lambda x: corrupt(x + 1, "fog", 1, generator(0)), r"lie in .*expected \[0, 1\]"),
        (lambda x: jpeg(x * float("nan"), 10), "no NaN"),
        (lambda x: jpeg(x[:, :2], 10), "1 or 3"),
        (lambda x: jpeg(x.double(), 10), "float32"),
        (lambda x: jpeg(x, 0), "JPEG quality 0"),
    ],
)
def test_errors_name_the_value(images, call, message):
    with pytest.raises(CompanionError, match=message):
        call(images)
