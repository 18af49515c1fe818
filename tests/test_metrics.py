import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score

from companion.errors import CompanionError
from companion.metrics import attack_success_rate, clean_accuracy, predictions
from companion.seeding import generator
from companion.statistics import Proportion


def drawn(seed, n=200, classes=10):
    logits = torch.randn(n, classes, generator=generator(seed, "logits"))
    return logits, torch.randint(classes, (n,), generator=generator(seed, "labels"))


@pytest.mark.parametrize("seed", range(3))
def test_clean_accuracy_equals_scikit_learn(seed):
    logits, labels = drawn(seed)
    found = clean_accuracy(logits, labels)
    assert found.rate == pytest.approx(accuracy_score(labels.numpy(), logits.argmax(1).numpy()))
    assert found.n == 200


@pytest.mark.parametrize("seed", range(3))
def test_attack_success_rate_equals_scikit_learn_on_the_other_classes(seed):
    logits, labels = drawn(seed)
    others = labels != 4
    expected = accuracy_score([4] * int(others.sum()), logits[others].argmax(1).numpy())
    assert attack_success_rate(logits, labels, target=4).rate == pytest.approx(expected)
    every = recall_score([True] * 200, (logits.argmax(1) == 4).numpy())
    assert attack_success_rate(logits, labels, target=4, exclude_target=False).rate == pytest.approx(every)


def test_the_target_class_is_left_out_by_hand():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    predicted = torch.tensor([0, 0, 0, 0, 1, 2])
    assert attack_success_rate(predicted, labels, target=0) == Proportion(2, 4)
    assert attack_success_rate(predicted, labels, target=0, exclude_target=False) == Proportion(4, 6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30), st.integers(0, 3))
def test_answers_on_the_target_class_never_move_the_rate(pairs, target):
    labels, predicted = torch.tensor(pairs).unbind(1)
    if (labels == target).all():
        return
    changed = torch.where(labels == target, (predicted + 1) % 4, predicted)
    assert attack_success_rate(predicted, labels, target) == attack_success_rate(changed, labels, target)


def test_no_image_outside_the_target_class_is_an_error():
    with pytest.raises(CompanionError, match="all 3 images have the target class 1"):
        attack_success_rate(torch.tensor([0, 1, 1]), torch.tensor([1, 1, 1]), target=1)


def test_no_image_at_all_is_an_error():
    with pytest.raises(CompanionError, match="no image to count"):
        clean_accuracy(torch.zeros(0, 10), torch.zeros(0, dtype=torch.int64))


def test_logits_that_are_not_finite_are_refused():
    logits, labels = drawn(0)
    logits[3, 5] = float("nan")
    with pytest.raises(CompanionError, match="1 of 200 images are not finite"):
        clean_accuracy(logits, labels)


@pytest.mark.parametrize("labels", [torch.zeros(199, dtype=torch.int64), torch.zeros(200), torch.zeros(200, 1).long()])
def test_labels_of_another_form_are_refused(labels):
    with pytest.raises(CompanionError, match=r"expected \(200,\) int64"):
        clean_accuracy(drawn(0)[0], labels)


@pytest.mark.parametrize("answers", [torch.zeros(5), torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 2, 2)])
def test_answers_of_another_form_are_refused(answers):
    with pytest.raises(CompanionError, match="expected logits"):
        predictions(answers)
