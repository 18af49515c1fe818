"""The signs world: same bits each time, balanced, in range, and neither trivial nor impossible."""

import hashlib
import subprocess
import sys

import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from companion.data.signs import SPLIT_SIZES, generate, load
from companion.errors import CompanionError


@pytest.fixture(scope="module")
def train():
    return generate("train", 1500, classes=10, seed=0)


def test_the_same_arguments_give_the_same_bits_in_another_process(train):
    code = (
        "import hashlib; from companion.data.signs import generate; "
        "print(hashlib.sha256(generate('train', 300, 10, 0).images.numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(train.images[:300].numpy().tobytes()).hexdigest()


def test_fewer_images_are_the_first_of_more(train):
    few = generate("train", 263, classes=10, seed=0)
    assert torch.equal(few.images, train.images[:263]) and torch.equal(few.labels, train.labels[:263])


def test_shape_type_range_and_levels(train):
    assert train.images.shape == (1500, 3, 32, 32) and train.images.dtype == torch.float32
    assert train.labels.dtype == torch.int64 and (train.name, train.split) == ("signs", "train")
    assert train.images.min() >= 0 and train.images.max() <= 1
    assert torch.equal((train.images * 255).round() / 255, train.images)
    assert train.images.flatten(1).std(dim=1).min() > 0.01  # no blank image


def test_labels_are_balanced_and_named():
    data = generate("test", 100, classes=43, seed=1)
    counts = data.labels.bincount(minlength=43)
    assert counts.max() - counts.min() == 1
    assert len(set(data.classes)) == 43
    assert generate("test", 10, classes=5).classes == data.classes[:5]


def test_splits_and_seeds_are_independent_streams(train):
    images = [generate(split, 20, 10, seed).images for split in SPLIT_SIZES for seed in (0, 1)]
    flat = torch.cat(images).flatten(1)
    assert len(flat) == 20 * 2 * len(SPLIT_SIZES)
    assert len(torch.unique(flat, dim=0)) == len(flat)
    # images of different streams at the same place are as unlike as any two images of the class
    same_place = (images[0] - images[2]).abs().mean()
    anywhere = (train.images[:500] - train.images[500:1000]).abs().mean()
    assert same_place > 0.7 * anywhere


def test_all_images_of_a_set_differ(train):
    assert len(torch.unique(train.images.flatten(1), dim=0)) == len(train)


def test_load_takes_the_splits_usual_size_unless_told():
    assert len(load(None, "defender")) == SPLIT_SIZES["defender"]
    few = load(None, "defender", size=7, classes=4, seed=3)
    assert torch.equal(few.images, generate("defender", 7, 4, 3).images)


def test_raw_pixels_tell_the_families_but_not_the_pictograms(train):
    test = generate("test", 1000, classes=10, seed=0)
    model = RidgeClassifier(alpha=300).fit(train.images.flatten(1), train.labels)
    guesses = torch.from_numpy(model.predict(test.images.flatten(1)))
    accuracy = (guesses == test.labels).float().mean().item()
    family = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])  # red rings, warning triangles, blue discs, stop
    family_accuracy = (family[guesses] == family[test.labels]).float().mean().item()
    assert 0.15 < accuracy < 0.6
    assert family_accuracy > accuracy + 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate("train", 10, classes=44), "44 classes.*2 to 43"),
        (lambda: generate("train", 10, classes=1), "1 classes"),
        (lambda: generate("train", 0), "0 images"),
        (lambda: load(None, "train", size=-5), "-5 images"),
        (lambda: load(None, "validation"), "'validation'.*train, test, attacker, defender"),
    ],
)
def test_errors_name_the_value_and_what_was_expected(call, message):
    with pytest.raises(CompanionError, match=message):
        call()
