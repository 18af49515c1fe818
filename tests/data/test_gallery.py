"""The contact sheet: each tile in its place, separators, and errors."""

import pytest
import torch

from companion.data.gallery import SEPARATOR, gallery
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.seeding import generator


def toy_set():
    images = torch.rand(30, 3, 6, 8, generator=generator(0)) * 0.9
    return ImageSet(images, torch.arange(30) % 3, ("a", "b", "c"), "toy", "train")


def test_each_tile_is_the_next_image_of_its_class():
    data = toy_set()
    picture = gallery(data, per_class=4, classes=2)
    assert picture.shape == (3, 2 * (6 + SEPARATOR) + SEPARATOR, 4 * (8 + SEPARATOR) + SEPARATOR)
    covered = torch.zeros(picture.shape[1:], dtype=torch.bool)
    for label in range(2):
        for i in range(4):
            rows = slice(SEPARATOR + label * (6 + SEPARATOR), (label + 1) * (6 + SEPARATOR))
            columns = slice(SEPARATOR + i * (8 + SEPARATOR), (i + 1) * (8 + SEPARATOR))
            assert torch.equal(picture[:, rows, columns], data.images[label + 3 * i])
            covered[rows, columns] = True
    assert (picture[:, ~covered] == 1).all()


@pytest.mark.parametrize(
    ("per_class", "classes", "message"),
    [(4, 4, "4 classes.*1 to 3"), (0, 2, "0 images"), (11, 3, "toy/train has 10 images of the class 'a'")],
)
def test_errors_name_the_value_and_what_was_expected(per_class, classes, message):
    with pytest.raises(CompanionError, match=message):
        gallery(toy_set(), per_class, classes)
