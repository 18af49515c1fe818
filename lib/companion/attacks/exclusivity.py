"""Backdoor exclusivity (Qiu et al., IEEE S&P 2024): how little a trigger may change before the backdoor stays shut.

For each image, the largest perturbation of the trigger inside its mask is sought that still gives the target class.
Exclusivity = 100 (1 - ||delta|| / ||r_max||) percent, where r_max moves every trigger value to its farther extreme. A
large value means that only the trigger itself fires. The method is that of the official code, with all images
perturbed at once: each has its own delta, Adam state and Lambda, so no image's result depends on the others.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.triggers import Trigger
from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen


@dataclass(frozen=True)
class Config:
    """Settings of the search; the defaults are those of the official code.

    iterations: steps of Adam; learning_rate: of Adam, in units of the pixel range [0, 1]; balance: first Lambda, which
    weighs the distance to r_max and adapts in the second half of the iterations.
    """

    iterations: int = 5000
    learning_rate: float = 1e-3
    balance: float = 0.1


OFFICIAL = Config()
QUICK = Config(iterations=500, learning_rate=1e-2)  # ours, for a laptop


@dataclass(frozen=True, eq=False)
class Exclusivity:
    """The exclusivity of a trigger for each of B images; all tensors are on the CPU.

    values: (B,) float32 in [0, 100] percent, 100 where the target was never predicted; reached: (B,) bool, whether it
    was; perturbations: (B, C, H, W) float32, the last delta with which the target was predicted (0 where never).
    """

    values: torch.Tensor
    reached: torch.Tensor
    perturbations: torch.Tensor


def exclusivity(
    model: nn.Module, images: torch.Tensor, trigger: Trigger, target: int, config: Config = OFFICIAL
) -> Exclusivity:
    """Return how exclusively `trigger` makes `model` answer `target`, for each image.

    model: images to logits, held in evaluation mode meanwhile; images: (B, C, H, W) float32 in [0, 1], clean ones of
    other classes than the target (the official code takes 100 of them); trigger: one with a mask and a pattern.

    Minimises CE(f(x'), target) + Lambda ||r_max - delta||_2 over delta from 0, with x' = clip((1 - m) x + m p + delta)
    and m p + delta kept in [0, m]. In the second half Lambda grows by the margin of the target over the best other
    class, in L2-normalised logits, and never falls below 0. The value of an image is that of the last iterate which
    was predicted as the target. Nothing is random.
    Raises CompanionError for a trigger that has no mask and pattern, such as a sinusoid or a warp.
    """
    images = images.to(device_of(model))
    mask, pattern = _mask_and_pattern(trigger, images)
    furthest = ((1 - pattern.round()) - pattern) * mask  # (C, H, W), r_max
    stamped = images * (1 - mask) + pattern * mask  # (B, C, H, W)
    delta = torch.zeros_like(stamped, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=config.learning_rate)
    balance = torch.full((len(images),), config.balance, device=images.device)  # Lambda of each image
    reached = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    kept = torch.zeros_like(stamped)
    targets = torch.full((len(images),), target, device=images.device)

    with frozen(model):
        for iteration in range(1, config.iterations + 1):
            perturbed = (stamped + delta).clamp(0, 1)
            logits = model(perturbed)  # (B, K)
            if iteration >= config.iterations // 2:
                balance = (balance + _margin(logits.detach(), target)).clamp(min=0)
            fires = logits.detach().argmax(1) == target
            kept[fires] = (perturbed.detach() - stamped)[fires]
            reached |= fires
            distances = (furthest - delta).flatten(1).norm(dim=1)  # (B,)
            loss = F.cross_entropy(logits, targets, reduction="sum") + (balance * distances).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                delta.clamp_(-pattern * mask, mask - pattern * mask)
    values = 100 * (1 - kept.flatten(1).norm(dim=1) / furthest.norm())
    return Exclusivity(values.clamp(0, 100).cpu(), reached.cpu(), kept.cpu())


def _margin(logits: torch.Tensor, target: int) -> torch.Tensor:
    """Return z_t - max of the other z, (B,), of L2-normalised logits z."""
    scaled = F.normalize(logits.float(), dim=1)
    others = scaled.clone()
    others[:, target] = -torch.inf
    return scaled[:, target] - others.max(dim=1).values


def _mask_and_pattern(trigger: Trigger, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if not hasattr(trigger, "mask") or not hasattr(trigger, "pattern"):
        raise CompanionError(
            f"exclusivity is not defined for a {type(trigger).__name__}: it needs a trigger with a mask and a pattern "
            "(patch, blended). Compare such triggers by `companion.attacks.fuzzy.fuzzy_curve` instead."
        )
    return trigger.mask.to(images), trigger.pattern.to(images)
