"""Tasks: one grey square form, classes counted anew, as many images as asked for where there are so many."""

import pytest
import torch

from companion.binary.tasks import Task, digest, load_task, prepare
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError


def test_kept_classes_are_counted_anew_and_fill_the_number_asked_for():
    task = Task("two signs", "signs", {"classes": 5}, keep=(4, 1))
    found = load_task(task, "train", 40, 16)
    assert found.images.shape == (40, 1, 16, 16) and found.labels.bincount().tolist() == [20, 20]
    plain = catalogue.load("signs", "train", classes=5, size=100)
    assert found.classes == (plain.classes[4], plain.classes[1])
    first = prepare(plain.subset(plain.labels == 4), 16)
    assert torch.equal(found.images[found.labels == 0], first.images)


def test_sets_with_an_end_are_mixed_and_cut():
    digits = load_task(Task("digits", "digits"), "train", 50, 16)
    assert len(digits) == 50 and len(digits.labels.unique()) == 10 and digits.name == "digits"
    assert len(load_task(Task("digits", "digits"), "test", 10**6, 16)) == 359
    assert load_task(Task("tones", "tones", modality="audio"), "train", 5, 32).images.shape == (5, 1, 32, 32)


def test_grey_square_and_resized():
    images = torch.zeros(1, 3, 8, 12)
    images[:, 1, :, 2:10] = 1.0  # green in the central square
    data = ImageSet(images, torch.zeros(1, dtype=torch.int64), ("a", "b"), "x", "train")
    for side in (4, 16):
        found = prepare(data, side).images
        assert found.shape == (1, 1, side, side) and torch.allclose(found, torch.tensor(0.587), atol=1e-6)
    with pytest.raises(CompanionError, match=r"expected \(N, 1 or 3, H, W\)"):
        prepare(ImageSet(torch.zeros(1, 2, 4, 4), data.labels, ("a", "b"), "x", "train"), 4)


def test_the_digest_names_the_data():
    digits, tones = Task("a", "digits"), Task("b", "tones")
    assert digest([digits]) != digest([tones]) != digest([digits, tones])
