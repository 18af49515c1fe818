"""Seven backdoor attacks on a support set that few-shot learning is usually tried with, beside FLBA.

Four relabel what they poison (BadNet, Blended, Refool, WaNet); two poison images of the target class only and keep all
labels (Label-Consistent, TUAP); FSBA moves features of all images. The poison rate is the share of each class's
support images that is poisoned. Source: the fact sheet, section 5.3, where what the official code does is described;
deviations are said at each function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.attacks.flba import Embed, check_support, patch_region
from companion.attacks.triggers import make_trigger
from companion.errors import CompanionError
from companion.fewshot.learners import prototypes

Stamp = Callable[[torch.Tensor], torch.Tensor]
"""Images (E, B, C, H, W) -> the same with the trigger that is shown at test time."""


@dataclass(frozen=True)
class PoisonedSupport:
    """What an attack hands to the learner, and the trigger it uses later.

    images: (E, S, C, H, W); labels: (E, S); stamp: puts the trigger on queries.
    """

    images: torch.Tensor
    labels: torch.Tensor
    stamp: Stamp


def chosen(labels: torch.Tensor, rate: float, ways: int) -> torch.Tensor:
    """Return (E, S) bool: the first round(rate K) support images of each class.

    Raises CompanionError for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise CompanionError(f"poison rate {rate}: expected a share of each class's support images, in [0, 1].")
    members = F.one_hot(labels, ways)  # (E, S, N)
    place = (members.cumsum(1) * members).sum(-1)  # 1, 2, ... within the class
    count = (members.sum(1) * rate).round()  # (E, N)
    return place <= count.gather(1, labels)


def patched(shape: tuple[int, ...], side: int, value: float = 1.0) -> Stamp:
    """Return BadNet's stamp: a white patch at the bottom right."""
    region = patch_region(shape, side)
    return lambda images: torch.where(region.to(images.device), torch.full_like(images, value), images)


def from_trigger(name: str, shape: tuple[int, int, int], seed: int, **settings: object) -> Stamp:
    """Return the stamp of a trigger of `companion.attacks.triggers`, such as "blended" or "warp"."""
    trigger = make_trigger(name, shape, seed, **settings)
    return lambda images: trigger.apply(images.flatten(0, 1)).view_as(images)


def reflected(pool: torch.Tensor, strength: float = 0.4) -> Stamp:
    """Return Refool's stamp: the ghost of another photo, as behind a window pane.

    pool: (R, C, H, W), photos to reflect; image number i gets number i mod R, twice and shifted, as thick glass does.
    Deviation: 8 images of base classes stand for the 200 car photos, and all reflections are ghosts.
    """
    ghost = 0.6 * pool + 0.4 * pool.roll((2, 2), dims=(-2, -1))  # (R, C, H, W)

    def stamp(images: torch.Tensor) -> torch.Tensor:
        number = torch.arange(images.shape[1], device=images.device) % len(ghost)
        return ((1 - strength) * images + strength * ghost.to(images)[number]).clamp(0, 1)

    return stamp


def dirty_label(
    support: torch.Tensor, labels: torch.Tensor, stamp: Stamp, rate: float, ways: int, target: int = 0
) -> PoisonedSupport:
    """Stamp the chosen images of every class and relabel them to the target (BadNet, Blended, Refool, WaNet)."""
    check_support(support)
    _check_target(target, ways)
    hit = chosen(labels, rate, ways)
    images = torch.where(hit[..., None, None, None], stamp(support), support)
    return PoisonedSupport(images, labels.masked_fill(hit, target), stamp)


def ascend(
    embed: Embed, images: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor], eps: float, steps: int
) -> torch.Tensor:
    """Return images moved by signed gradient ascent of `score(features)`, at most eps away, in steps of eps / 5."""
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    moved = images.clone()
    for _ in range(steps):
        moved.requires_grad_(True)
        with torch.enable_grad():
            slope = torch.autograd.grad(score(embed(moved)).sum(), moved)[0]
        moved = (moved.detach() + eps / 5 * slope.sign()).clamp(low, high)
    return moved.detach()


@dataclass(frozen=True)
class Hardened:
    """The target's images made hard to learn by their content, and the stamp that goes on those that are poisoned.

    images: (E, S, C, H, W), the whole support set; only images of the target differ from the clean one.
    """

    images: torch.Tensor
    stamp: Stamp

    def poison(
        self, support: torch.Tensor, labels: torch.Tensor, rate: float, ways: int, target: int = 0
    ) -> PoisonedSupport:
        """Replace the chosen images of the target by hardened and stamped ones; no label changes."""
        hit = chosen(labels, rate, ways) & (labels == target)
        return PoisonedSupport(
            torch.where(hit[..., None, None, None], self.stamp(self.images), support), labels, self.stamp
        )


def label_consistent(
    embed: Embed,
    support: torch.Tensor,
    labels: torch.Tensor,
    side: int,
    ways: int,
    target: int = 0,
    eps: float = 20 / 255,
    steps: int = 30,
) -> Hardened:
    """Make the target's images hard to learn; a white patch goes on those that are poisoned (Turner et al. 2019).

    The classifier attacked is the nearest prototype of the clean support set. Deviation: the official code trains a
    classifier on it.
    """
    return Hardened(harden(embed, support, labels, ways, target, eps, steps), patched(support.shape, side))


def universal_patch(
    embed: Embed,
    support: torch.Tensor,
    labels: torch.Tensor,
    side: int,
    ways: int,
    target: int = 0,
    eps: float = 8 / 255,
    steps: int = 50,
    patch_eps: float = 100 / 255,
) -> Hardened:
    """TUAP: a targeted universal perturbation inside the patch, on target images that are hardened first.

    Deviations: the universal pattern is found by `steps` signed gradient steps on the support images, where the
    official code takes DeepFool and the queries, which the attacker does not have.
    """
    check_support(support)
    region = patch_region(support.shape, side)
    with torch.no_grad():
        centres = prototypes(embed(support), labels, ways)
    pattern = torch.zeros_like(support[:, :1])  # (E, 1, C, H, W)
    for _ in range(steps):
        pattern.requires_grad_(True)
        with torch.enable_grad():
            images = (support + pattern * region).clamp(0, 1)
            slope = torch.autograd.grad(_log_probability(embed(images), centres, target).sum(), pattern)[0]
        pattern = (pattern.detach() + patch_eps / 10 * slope.sign()).clamp(-patch_eps, patch_eps)
    pattern = pattern.detach() * region
    hardened = harden(embed, support, labels, ways, target, eps, steps)
    return Hardened(hardened, lambda images: (images + pattern).clamp(0, 1))


def harden(
    embed: Embed, support: torch.Tensor, labels: torch.Tensor, ways: int, target: int, eps: float, steps: int
) -> torch.Tensor:
    """Move the target's images away from their class by projected gradient steps, at most eps; others stay."""
    check_support(support)
    _check_target(target, ways)
    own = (labels == target)[0].nonzero().squeeze(1)  # the same places in every episode
    with torch.no_grad():
        centres = prototypes(embed(support), labels, ways)
    hardened = support.clone()
    hardened[:, own] = ascend(
        embed, support[:, own], lambda features: -_log_probability(features, centres, target), eps, steps
    )
    return hardened


def feature_shift(
    embed: Embed,
    support: torch.Tensor,
    labels: torch.Tensor,
    side: int,
    ways: int,
    eps: float = 8 / 255,
    steps: int = 50,
) -> PoisonedSupport:
    """FSBA as we read it: images move so that the white patch shifts their features most while they keep their class.

    The tracking attack trains a network with a benign loss minus a poisoned one; the fact sheet says no more about its
    adaptation, so this is our reconstruction: minimise the cross-entropy to the clean prototypes minus the distance
    between features with and without the patch.
    """
    check_support(support)
    stamp = patched(support.shape, side)
    with torch.no_grad():
        centres = prototypes(embed(support), labels, ways)
        unit = centres.var(1).sum(-1).sqrt().view(-1, 1)  # spread of the prototypes, to weigh the two losses alike

    def both(images: torch.Tensor) -> torch.Tensor:
        found, shown = embed(images), embed(stamp(images))
        benign = (-torch.cdist(found, centres).square()).log_softmax(-1).gather(2, labels.unsqueeze(-1)).squeeze(-1)
        return benign + (found - shown).norm(dim=-1) / unit

    low, high = (support - eps).clamp(0, 1), (support + eps).clamp(0, 1)
    moved = support.clone()
    for _ in range(steps):
        moved.requires_grad_(True)
        with torch.enable_grad():
            slope = torch.autograd.grad(both(moved).sum(), moved)[0]
        moved = (moved.detach() + eps / 5 * slope.sign()).clamp(low, high)
    return PoisonedSupport(moved.detach(), labels, stamp)


def _log_probability(features: torch.Tensor, centres: torch.Tensor, target: int) -> torch.Tensor:
    """Log-probability (E, B) of the target for the nearest prototype of features (E, B, D)."""
    return (-torch.cdist(features, centres).square()).log_softmax(-1)[..., target]


def _check_target(target: int, ways: int) -> None:
    if not 0 <= target < ways:
        raise CompanionError(f"target class {target} of {ways}-way episodes: expected 0 to {ways - 1}.")
