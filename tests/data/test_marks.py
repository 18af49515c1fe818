"""The marks world: three tasks, balanced and reproducible, whose classes can be told apart."""

import pytest
import torch

from companion.data import catalogue
from companion.data.marks import CLASSES
from companion.errors import CompanionError


@pytest.mark.parametrize("task", CLASSES)
def test_each_task_is_balanced_reproducible_and_in_range(task):
    few, many = (catalogue.load("marks", "train", size=size, task=task) for size in (12, 220))
    assert torch.equal(few.images, many.images[:12]) and many.images.shape == (220, 1, 32, 32)
    counts = many.labels.bincount()
    assert counts.max() - counts.min() <= 1 and many.classes == CLASSES[task] and len(counts) == len(CLASSES[task])
    levels = many.images * 255
    assert torch.equal(levels, levels.round()) and many.images.amin() >= 0 and many.images.amax() <= 1
    test = catalogue.load("marks", "test", size=12, task=task)
    assert not torch.equal(few.images, test.images)


def test_rings_vary_more_between_pixels_than_clouds():
    found = catalogue.load("marks", "train", size=200, task="textures")
    grain, clouds = (found.images[found.labels == CLASSES["textures"].index(k)] for k in ("grain", "clouds"))
    steps = [float((one[..., 1:] - one[..., :-1]).abs().mean() / one.std()) for one in (grain, clouds)]
    assert steps[0] > 1.5 * steps[1]


def test_what_it_cannot_draw():
    for options, message in (({"task": "cats"}, "no task 'cats'"), ({"size": 0}, "0 images")):
        with pytest.raises(CompanionError, match=message):
            catalogue.load("marks", "train", **options)
    with pytest.raises(CompanionError, match="no split 'defender'"):
        catalogue.load("marks", "defender")
