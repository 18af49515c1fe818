"""FLBA, the few-shot learning backdoor attack (Liu et al., AAAI 2024): an optimised trigger hidden in a support set.

The extractor f is clean, frozen and known to the attacker, who changes support images by at most eps and no label:

1. trigger: t* = argmin_t mean_j cos(f(x_j + t), f(x_j)) over all support images, where x + t pastes the patch t;
2. centre of triggered features: v = mean_j f(x_j + t*);
3. attractive perturbation of the target's images: max cos(f(x + d), v) + l_a cos(f(x + d), f(x)); repulsive
   perturbation of all others: max -cos(f(x + d), v) + l_r cos(f(x + d), f(x)).

All steps follow the sign of the gradient. Source: the official code as described in the fact sheet, section 5.2. All
episodes are attacked together; none influences another, as the extractor is in evaluation mode.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.errors import CompanionError

Embed = Callable[[torch.Tensor], torch.Tensor]
"""Images (E, S, C, H, W) in [0, 1] -> features (E, S, D)."""


@dataclass(frozen=True)
class Settings:
    """Settings of FLBA. Pixels are in [0, 1], so 8 / 255 is eight grey levels.

    eps: largest change of a support image's value; steps, step: of the perturbation, with its size; attract_keep,
    repel_keep: l_a and l_r; trigger_steps, trigger_step: of the trigger; patch: its side in pixels, bottom right.
    attract, repel: whether that part of the perturbation is made at all (ablations).
    """

    eps: float = 8 / 255
    steps: int = 50
    step: float = 2 / 255
    attract_keep: float = 1.5
    repel_keep: float = 1.5
    trigger_steps: int = 80
    trigger_step: float = 0.02
    patch: int = 6
    attract: bool = True
    repel: bool = True

    def __post_init__(self):
        expected = {
            "eps": (0 <= self.eps <= 1, "in [0, 1]; 8 / 255 for eight grey levels"),
            "steps": (self.steps >= 1, "at least 1"),
            "step": (0 < self.step <= 1, "in (0, 1]"),
            "trigger_steps": (self.trigger_steps >= 0, "at least 0"),
            "trigger_step": (0 < self.trigger_step <= 1, "in (0, 1]"),
            "patch": (self.patch >= 1, "at least 1 pixel"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise CompanionError(f"FLBA's {name} is {getattr(self, name)!r}: expected {wanted}.")


OFFICIAL = {
    "baseline": Settings(steps=20, step=2 / 255, trigger_step=0.04),
    "baseline++": Settings(steps=20, step=4 / 255),
    "protonet": Settings(attract_keep=2, repel_keep=3),
    "matchingnet": Settings(),
    "anil": Settings(steps=20, attract_keep=0.5, repel_keep=0.5, trigger_step=0.04),
}
"""Settings by learner, as the released code has them; MatchingNet, which has none there, takes those of DN4."""


def patch_region(shape: tuple[int, ...], side: int) -> torch.Tensor:
    """Return (H, W) bool: a square of `side` pixels at the bottom right of images (..., H, W).

    Raises CompanionError for a side that does not fit.
    """
    height, width = shape[-2:]
    if not 1 <= side <= min(height, width):
        raise CompanionError(
            f"a patch of {side} pixels on images of {height} x {width}: expected 1 to the image's side."
        )
    region = torch.zeros(height, width, dtype=torch.bool)
    region[height - side :, width - side :] = True
    return region


def paste(images: torch.Tensor, trigger: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Return images (E, S, C, H, W) with each episode's trigger (E, C, H, W) on the region (H, W)."""
    return torch.where(region.to(images.device), trigger.unsqueeze(1), images)


def optimise_trigger(embed: Embed, support: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Return each episode's trigger (E, C, H, W) in [0, 1]; outside the patch it is never used.

    It starts as the mean colour of the episode's support images and is not bounded inside the patch.
    """
    check_support(support)
    region = patch_region(support.shape, settings.patch)
    trigger = support.mean(dim=(1, 3, 4), keepdim=True)[:, 0].expand(-1, -1, *support.shape[3:]).clone()
    with torch.no_grad():
        plain = embed(support)
    for _ in range(settings.trigger_steps):
        trigger.requires_grad_(True)
        with torch.enable_grad():
            alike = F.cosine_similarity(embed(paste(support, trigger, region)), plain, dim=-1).sum()
            slope = torch.autograd.grad(alike, trigger)[0]
        trigger = (trigger.detach() - settings.trigger_step * slope.sign()).clamp(0, 1)
    return trigger.detach()


def trigger_centre(embed: Embed, support: torch.Tensor, trigger: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Return the mean feature of the triggered support images, (E, D)."""
    with torch.no_grad():
        return embed(paste(support, trigger, region)).mean(1)


def hide(
    embed: Embed, support: torch.Tensor, labels: torch.Tensor, target: int, centre: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """Return perturbed support images (E, S, C, H, W), at most eps away and in [0, 1].

    labels: (E, S); target: the attacked label; centre: (E, D), see `trigger_centre`.
    Raises CompanionError when an episode has no image of the target.
    """
    check_support(support)
    wanted = (labels == target).to(support)  # (E, S)
    if not (wanted.sum(1) > 0).all():
        raise CompanionError(
            f"target class {target} has no support image in some episode, whose labels go from {int(labels.min())} to "
            f"{int(labels.max())}: expected a class of the episode."
        )
    pull = torch.where(wanted > 0, 1.0, -1.0)
    keep = torch.where(wanted > 0, settings.attract_keep, settings.repel_keep)
    moved = torch.where(wanted > 0, float(settings.attract), float(settings.repel))[..., None, None, None]
    with torch.no_grad():
        plain = embed(support)
    low, high = (support - settings.eps).clamp(0, 1), (support + settings.eps).clamp(0, 1)
    images = support.clone()
    for _ in range(settings.steps):
        images.requires_grad_(True)
        with torch.enable_grad():
            found = embed(images)
            towards = F.cosine_similarity(found, centre.unsqueeze(1), dim=-1)  # (E, S)
            same = F.cosine_similarity(found, plain, dim=-1)
            slope = torch.autograd.grad((pull * towards + keep * same).sum(), images)[0]
        images = (images.detach() + moved * settings.step * slope.sign()).clamp(low, high)
    return images.detach()


def check_support(support: torch.Tensor) -> None:
    """Raise CompanionError unless `support` is (E, S, C, H, W) in [0, 1]."""
    fits = support.ndim == 5 and support.numel() > 0
    low, high = (float(value) for value in support.aminmax()) if fits else (0.0, 0.0)
    if not (fits and low >= 0 and high <= 1):
        raise CompanionError(
            f"support images have shape {tuple(support.shape)} and values from {low:g} to {high:g}: expected "
            "(episodes, images, C, H, W) in [0, 1]."
        )
