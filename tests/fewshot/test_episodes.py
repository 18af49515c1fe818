"""Episodes: sizes, no image twice, the target first, independent of later draws, and errors."""

import pytest
import torch

from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.fewshot.episodes import draw_episodes
from companion.seeding import generator


def numbered(per_class=12, classes=7):
    """Images whose pixel tells their number, so that a test can follow them."""
    count = per_class * classes
    images = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 1, 2, 2) / count
    names = tuple(f"c{k}" for k in range(classes))
    return ImageSet(images, torch.arange(count) % classes, names, "toy", "train")


def test_sizes_classes_and_no_image_twice():
    data = numbered()
    drawn = draw_episodes(data, 9, ways=4, shots=3, queries=5, generator=generator(0))
    assert drawn.support.shape == (9, 12, 1, 2, 2)
    assert drawn.query.shape == (9, 20, 1, 2, 2)
    assert drawn.labels[0].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for episode in range(9):
        both = torch.cat([drawn.support[episode], drawn.query[episode]])[:, 0, 0, 0]
        numbers = (both * len(data)).round().long()
        assert len(numbers.unique()) == len(numbers)
        told = torch.cat([drawn.labels[episode], drawn.answers[episode]])
        for way in range(4):  # one label, one class
            assert len(data.labels[numbers[told == way]].unique()) == 1


def test_the_first_episodes_do_not_depend_on_how_many_follow():
    few, many = (draw_episodes(numbered(), count, 3, 1, 2, generator(4)) for count in (2, 6))
    assert torch.equal(few.support, many.first(2).support)


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "message"),
    [
        (5, 0, 3, "shots = 0: expected at least 1"),
        (1, 1, 3, "ways = 1: expected at least 2"),
        (8, 1, 1, "7 of the 7 classes"),
        (5, 10, 3, "0 of the 7 classes"),
    ],
)
def test_errors(ways, shots, queries, message):
    with pytest.raises(CompanionError, match=message):
        draw_episodes(numbered(), 2, ways, shots, queries, generator(0))


def test_more_episodes_than_there_are():
    with pytest.raises(CompanionError, match="expected 1 to 2"):
        draw_episodes(numbered(), 2, 3, 1, 1, generator(0)).first(3)
