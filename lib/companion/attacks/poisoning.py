"""Data poisoning with exact counts: which images carry the trigger, which of them keep their label, and the result."""

from dataclasses import dataclass

import torch

from companion.attacks.triggers import Trigger, fuzzy_masks
from companion.data.imageset import ImageSet
from companion.errors import CompanionError

CLEAN, POISON, COVER = 0, 1, 2  # the roles of training images


@dataclass(frozen=True, eq=False)
class PoisonPlan:
    """Which training images are touched.

    poison: (P,) int64, indices of images that get the full trigger and the target label; cover: (Q,) int64, indices
    of images that get a fuzzy trigger and keep their label; target: the label that the trigger shall mean.
    """

    poison: torch.Tensor
    cover: torch.Tensor
    target: int


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """A poisoned training set, in the order of the clean one.

    images: (N, C, H, W) float32 in [0, 1]; labels: (N,) int64, what the victim is trained with;
    roles: (N,) int64, one of CLEAN = 0, POISON = 1 and COVER = 2.
    """

    images: torch.Tensor
    labels: torch.Tensor
    roles: torch.Tensor


def plan_dirty_label(
    labels: torch.Tensor, target: int, poison_count: int, cover_count: int, generator: torch.Generator
) -> PoisonPlan:
    """Draw `poison_count` images to be relabelled and `cover_count` others to be cover, from all classes.

    labels: (N,) int64. Images of the target class may be drawn too, as in the official code of BELT (Qiu et al. 2024),
    where the poison rate counts poison and cover together: 0.02 of 50,000 images with a cover rate of 0.5 is
    poison_count = cover_count = 500. Raises CompanionError when more images are asked for than there are, for a
    negative count, and for a target that is not a label.

    >>> import torch
    >>> plan = plan_dirty_label(torch.arange(100) % 10, 1, 5, 5, torch.Generator().manual_seed(0))
    >>> len(plan.poison), len(plan.cover)
    (5, 5)
    """
    _check_target(labels, target)
    _check_counts(poison_count, cover_count, len(labels), "images")
    order = torch.randperm(len(labels), generator=generator, device=generator.device).cpu()
    return PoisonPlan(order[cover_count : cover_count + poison_count], order[:cover_count], target)


def plan_clean_label(labels: torch.Tensor, target: int, poison_count: int, generator: torch.Generator) -> PoisonPlan:
    """Draw `poison_count` images of the target class; they get the trigger, and no label changes.

    labels: (N,) int64. There is no cover. Source: the clean-label setting of SIG (Barni et al. 2019).
    Raises CompanionError when the class has fewer images, for a negative count and for a target that is not a label.
    """
    _check_target(labels, target)
    candidates = (labels == target).nonzero().squeeze(1).cpu()
    _check_counts(poison_count, 0, len(candidates), f"images of the target class {target}")
    order = torch.randperm(len(candidates), generator=generator, device=generator.device).cpu()
    return PoisonPlan(candidates[order[:poison_count]], torch.empty(0, dtype=torch.int64), target)


def poison(
    data: ImageSet, plan: PoisonPlan, trigger: Trigger, deleted_share: float, generator: torch.Generator
) -> PoisonedSet:
    """Return a poisoned copy of `data`; `data` itself is not changed.

    Poison images get the full trigger and the target label. Cover images get the trigger with `deleted_share` of its
    pixels deleted, other ones in each image, and keep their label. All other images stay as they are.
    Raises CompanionError when the plan does not fit the data or the trigger does not fit the images.
    """
    _check_plan(plan, data)
    images, labels = data.images.clone(), data.labels.clone()
    roles = torch.full_like(labels, CLEAN)
    kept = fuzzy_masks(trigger.support, deleted_share, len(plan.cover), generator)  # (Q, H, W)
    images[plan.poison] = trigger.apply(data.images[plan.poison])
    images[plan.cover] = trigger.apply(data.images[plan.cover], kept)
    labels[plan.poison] = plan.target
    roles[plan.poison], roles[plan.cover] = POISON, COVER
    return PoisonedSet(images, labels, roles)


def _check_target(labels: torch.Tensor, target: int) -> None:
    classes = int(labels.max()) + 1 if len(labels) else 0
    if not 0 <= target < classes:
        raise CompanionError(f"the target label is {target}; expected one of the labels, 0 to {classes - 1}.")


def _check_counts(poison_count: int, cover_count: int, available: int, what: str) -> None:
    if poison_count < 0 or cover_count < 0:
        raise CompanionError(f"poison_count is {poison_count} and cover_count is {cover_count}; neither may be < 0.")
    if poison_count + cover_count > available:
        raise CompanionError(
            f"{poison_count} poison and {cover_count} cover images were asked for, but there are {available} {what}; "
            "ask for fewer or give more data."
        )


def _check_plan(plan: PoisonPlan, data: ImageSet) -> None:
    touched = torch.cat([plan.poison, plan.cover])
    if len(touched.unique()) != len(touched):
        raise CompanionError("the poison plan names an image twice; poison and cover must be distinct images.")
    stray = touched[(touched < 0) | (touched >= len(data))]
    if len(stray):
        raise CompanionError(
            f"the poison plan names the image {int(stray[0])}, but the set "
            f"{data.name}/{data.split} has {len(data)} images; make the plan with the labels of this set."
        )
    if not 0 <= plan.target < len(data.classes):
        raise CompanionError(
            f"the poison plan's target label is {plan.target}; {data.name} has the labels 0 to {len(data.classes) - 1}."
        )
