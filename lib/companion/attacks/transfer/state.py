"""What every part of a transfer attack is told: the budget, the images with their goal, and where the attack stands."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from companion.attacks.transfer.draws import Draws
from companion.data.imageset import ImageSet
from companion.errors import CompanionError

TINY = 1e-12  # keeps an all-zero gradient from dividing by zero


@dataclass(frozen=True)
class Budget:
    """How far and for how long an attack may go.

    eps: the largest change of a pixel, in [0, 1]; steps: T, at least 1; step: the size alpha of one step in pixels,
    None takes eps / steps, as the untargeted protocol does.
    Raises `CompanionError` for a value outside these.
    """

    eps: float
    steps: int = 10
    step: float | None = None

    def __post_init__(self):
        if not (math.isfinite(self.eps) and 0 < self.eps <= 1):
            raise CompanionError(f"Budget.eps is {self.eps}: expected pixels in (0, 1], such as 8 / 255.")
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise CompanionError(f"Budget.steps is {self.steps!r}: expected a whole number of at least 1.")
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise CompanionError(f"Budget.step is {self.step}: expected a positive number of pixels, or None.")

    @property
    def size(self) -> float:
        """The size of one step, in pixels."""
        return self.eps / self.steps if self.step is None else self.step


@dataclass(frozen=True)
class Scene:
    """The images under attack and all that a method may use beside the networks.

    images: (B, C, H, W) clean, in [0, 1]; labels: (B,) int64, true classes; targets: (B,) int64, the classes to reach,
    or None for an untargeted attack; draws: one random stream an image; partners: labelled images to mix in, the same
    for every image under attack; generator: a trained network that makes perturbations; run: attacks the same images
    by another method, for methods that start from an attack.
    """

    images: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor | None
    budget: Budget
    draws: Draws
    partners: ImageSet | None = None
    generator: nn.Module | None = None
    run: Callable[[Any], torch.Tensor] | None = None


@dataclass
class State:
    """Where an attack stands: the current images, the step from 0, and what its parts remember, by name."""

    scene: Scene
    images: torch.Tensor
    step: int = 0
    memory: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        """The scene's budget."""
        return self.scene.budget

    def recall(self, name: str) -> torch.Tensor:
        """Return what is remembered under `name`, (B, C, H, W); zeros before the first time."""
        return self.memory.get(name, torch.zeros_like(self.images))


def project(points: torch.Tensor, clean: torch.Tensor, eps: float) -> torch.Tensor:
    """Return `points` (B, C, H, W) moved to the nearest place within `eps` of `clean` and inside [0, 1]."""
    return torch.minimum(torch.maximum(points, clean - eps), clean + eps).clamp(0, 1)


def normalised(gradient: torch.Tensor) -> torch.Tensor:
    """Return gradients (B, ...) divided by the mean of their absolute values, image by image."""
    return gradient / (gradient.abs().flatten(1).mean(1).view(-1, *[1] * (gradient.ndim - 1)) + TINY)
