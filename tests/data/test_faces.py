"""The faces world: same bits each time, balanced, persons that stay themselves, neither trivial nor impossible."""

import hashlib
import subprocess
import sys

import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from companion.data.faces import EMOTIONS, SPLIT_SIZES, generate, load
from companion.errors import CompanionError


@pytest.fixture(scope="module")
def train():
    return generate("train", 1000, people=10)


def test_the_same_arguments_give_the_same_bits_in_another_process(train):
    code = (
        "import hashlib; from companion.data.faces import generate; "
        "print(hashlib.sha256(generate('train', 250, people=10)[0].numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(train[0][:250].numpy().tobytes()).hexdigest()


def test_fewer_images_are_the_first_of_more(train):
    for few, many in zip(generate("train", 263, people=10), train, strict=True):
        assert torch.equal(few, many[:263])


def test_shape_type_range_and_levels(train):
    images = train[0]
    assert images.shape == (1000, 1, 32, 32) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal((images * 255).round() / 255, images)
    assert images.flatten(1).std(dim=1).min() > 0.01  # no blank image
    assert len(torch.unique(images.flatten(1), dim=0)) == len(images)


@pytest.mark.parametrize("people", [2, 6, 7, 10, 13, 14])
def test_persons_and_emotions_are_balanced_and_independent(people):
    number = 7 * people * 2
    _, persons, emotions = generate("test", number, people=people, first_person=3)
    together = (persons - 3) * 7 + emotions
    assert torch.equal(together.bincount(minlength=7 * people), torch.full((7 * people,), 2))


def test_a_person_does_not_depend_on_who_else_is_asked_for():
    """Two images of one person with the pose's randomness taken out: the traits alone are compared."""
    from companion.data import faces

    few, many = faces._traits(2, 4, 0), faces._traits(9, 0, 0)
    for name in few:
        assert torch.equal(few[name], many[name][4:6])
    assert not torch.equal(few["width"], faces._traits(2, 4, 1)["width"])


def test_splits_and_seeds_are_independent_streams():
    flat = torch.cat([generate(split, 20, 10, 0, seed)[0] for split in SPLIT_SIZES for seed in (0, 1)]).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 20 * 2 * len(SPLIT_SIZES)


def test_tasks_label_the_same_images_by_emotion_or_by_person():
    emotion, identity = (
        load(None, "test", size=50, task=task, people=5, first_person=8) for task in ("emotion", "identity")
    )
    assert torch.equal(emotion.images, identity.images)
    assert emotion.classes == EMOTIONS and emotion.labels.max() == 6
    assert identity.classes == tuple(f"person {number}" for number in range(8, 13))
    assert torch.equal(identity.labels, torch.arange(50) % 5)


def test_raw_pixels_tell_persons_better_than_chance_and_emotions_hardly(train):
    images, persons, emotions = train
    test_images, test_persons, test_emotions = generate("test", 700, people=10)
    rates = []
    for labels, wanted in ((persons, test_persons), (emotions, test_emotions)):
        model = RidgeClassifier(alpha=300).fit(images.flatten(1), labels)
        rates.append(float((torch.from_numpy(model.predict(test_images.flatten(1))) == wanted).float().mean()))
    assert 0.2 < rates[0] < 0.9 and 0.17 < rates[1] < 0.55


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate("validation", 5), "'validation'.*train, test"),
        (lambda: generate("train", 0), "0 images"),
        (lambda: generate("train", 5, people=1), "1 people"),
        (lambda: generate("train", 5, first_person=-1), "from number -1"),
        (lambda: load(None, "train", size=5, task="age"), "'age'.*emotion, identity"),
    ],
)
def test_errors_name_the_value_and_what_was_expected(call, message):
    with pytest.raises(CompanionError, match=message):
        call()
