"""What is counted of a classifier's answers. Every metric takes logits or predictions, never a model."""

import torch

from companion.errors import CompanionError
from companion.statistics import Proportion


def predictions(answers: torch.Tensor) -> torch.Tensor:
    """Return predicted classes (N,) int64 from logits (N, K) float, or from predictions (N,) int64 unchanged.

    Raises `CompanionError` for another shape or dtype, and for logits that are not finite.
    """
    if answers.ndim == 1 and answers.dtype == torch.int64:
        return answers
    if answers.ndim != 2 or not answers.is_floating_point():
        raise CompanionError(
            f"answers with shape {tuple(answers.shape)} and dtype {answers.dtype}: expected logits (N, K) float "
            "or predictions (N,) int64."
        )
    if not torch.isfinite(answers).all():
        bad = int((~torch.isfinite(answers)).any(1).sum())
        raise CompanionError(
            f"logits of {bad} of {len(answers)} images are not finite: a prediction from them means nothing. "
            "Look at the training of the model that gave them."
        )
    return answers.argmax(1)


def clean_accuracy(answers: torch.Tensor, labels: torch.Tensor) -> Proportion:
    """Return the share of images whose predicted class is their label.

    answers: logits (N, K) or predictions (N,) on clean images; labels: (N,) int64.
    Raises `CompanionError` when sizes differ or there is no image.

    >>> clean_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2])).successes
    2
    """
    predicted = predictions(answers)
    _check_labels(predicted, labels)
    return Proportion(int((predicted == labels).sum()), len(labels))


def attack_success_rate(
    answers: torch.Tensor, labels: torch.Tensor, target: int, exclude_target: bool = True
) -> Proportion:
    """Return the share of triggered images that are predicted as the target class.

    answers: logits (N, K) or predictions (N,) on images that carry the trigger; labels: (N,) int64, the true classes
    before poisoning; target: the attack's class. Images whose true class is the target are left out, because a clean
    model "succeeds" on them too; `exclude_target=False` counts all images, as some papers do.
    Raises `CompanionError` when sizes differ or no image remains.

    >>> attack_success_rate(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0]), target=1)
    Proportion(successes=1, n=2)
    """
    predicted = predictions(answers)
    _check_labels(predicted, labels)
    counted = labels != target if exclude_target else torch.ones_like(labels, dtype=torch.bool)
    if not counted.any():
        raise CompanionError(
            f"no image remains for the attack success rate: all {len(labels)} images have the target class {target}. "
            "Pass images of other classes."
        )
    return Proportion(int((predicted[counted] == target).sum()), int(counted.sum()))


def _check_labels(predicted: torch.Tensor, labels: torch.Tensor) -> None:
    if labels.shape != predicted.shape or labels.dtype != torch.int64:
        raise CompanionError(
            f"labels with shape {tuple(labels.shape)} and dtype {labels.dtype} for {len(predicted)} predictions: "
            f"expected ({len(predicted)},) int64."
        )
    if not len(labels):
        raise CompanionError("no image to count over: expected at least one. Check how the images were selected.")
