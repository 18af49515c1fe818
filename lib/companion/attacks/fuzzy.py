"""What a backdoored model makes of incomplete triggers: the fuzzy-trigger curve and cover accuracy."""

from collections.abc import Sequence

import torch
from torch import nn

from companion.attacks.triggers import Trigger, fuzzy_masks
from companion.errors import CompanionError
from companion.metrics import clean_accuracy
from companion.statistics import Proportion
from companion.training import logits


def fuzzy_curve(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    trigger: Trigger,
    target: int,
    kept_shares: Sequence[float],
    repeats: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, int]:
    """Return in how many trials a trigger of which only a share is kept still gives the target.

    images: (N, C, H, W) float32 in [0, 1], clean; labels: (N,) int64; images of the target class are left out;
    kept_shares: S shares in [0, 1] of the trigger's pixels (floor(n (1 - share)) of n pixels are deleted);
    repeats: how often each image is tried with other pixels deleted, >= 1; generator: draws them.
    Returns (successes (S,) int64, n), n = repeats times the number of images: the trials behind each share.
    Raises CompanionError when every image has the target class.
    """
    others = images[labels != target]
    if not len(others) or repeats < 1:
        raise CompanionError(
            f"a fuzzy-trigger curve of {len(others)} images outside the target class {target}, {repeats} times; "
            "expected at least one of each."
        )
    successes = torch.zeros(len(kept_shares), dtype=torch.int64)
    for s, share in enumerate(kept_shares):
        for _ in range(repeats):
            kept = fuzzy_masks(trigger.support, 1 - share, len(others), generator)  # (N', H, W)
            successes[s] += int((logits(model, trigger.apply(others, kept)).argmax(1) == target).sum())
    return successes, repeats * len(others)


def cover_accuracy(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    trigger: Trigger,
    deleted_share: float,
    generator: torch.Generator,
) -> Proportion:
    """Return the share of images with a fuzzy trigger that are predicted as their true class.

    images: (N, C, H, W) float32 in [0, 1], clean; labels: (N,) int64, true, of all classes as in the official code;
    deleted_share: of the trigger's pixels, in [0, 1], drawn anew for each image. Source: BELT, "cover accuracy".
    """
    kept = fuzzy_masks(trigger.support, deleted_share, len(images), generator)  # (N, H, W)
    return clean_accuracy(logits(model, trigger.apply(images, kept)), labels)
