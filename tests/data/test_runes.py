"""The runes world: form, determinism, independence, learnability, and errors."""

import pytest
import torch

from companion.data import catalogue
from companion.data.runes import generate
from companion.errors import CompanionError


def test_form_and_balance():
    data = generate("train", 120, classes=40)
    assert data.images.shape == (120, 3, 32, 32)
    assert data.images.min() >= 0
    assert data.images.max() <= 1
    assert torch.equal(data.images * 255, (data.images * 255).round())
    assert data.labels.bincount().tolist() == [3] * 40


def test_the_first_images_are_the_same_however_many_are_drawn():
    assert torch.equal(generate("test", 30, 10).images, generate("test", 300, 10).images[:30])


def test_splits_seeds_and_classes_are_independent():
    one = generate("train", 20, 10).images
    assert not torch.equal(one, generate("test", 20, 10).images)
    assert not torch.equal(one, generate("train", 20, 10, seed=1).images)
    assert not torch.equal(one, generate("train", 20, 10, first_class=10).images)


def test_runes_differ_from_each_other_and_the_catalogue_knows_them():
    data = catalogue.load("runes", "test", size=40, classes=4, first_class=80)
    assert data.classes == ("rune 80", "rune 81", "rune 82", "rune 83")


@pytest.mark.parametrize(
    ("split", "size", "classes", "first", "message"),
    [
        ("novel", 5, 5, 0, "no split 'novel'"),
        ("train", 0, 5, 0, "0 images"),
        ("train", 5, 1, 0, "1 classes from number 0"),
        ("train", 5, 5, 9999, "between 0 and 10000"),
    ],
)
def test_errors(split, size, classes, first, message):
    with pytest.raises(CompanionError, match=message):
        generate(split, size, classes, first)
