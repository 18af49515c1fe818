"""What every function here expects of images, and of networks that it follows downhill."""

import torch

from companion.errors import CompanionError


def check_images(images: torch.Tensor, name: str = "query images") -> None:
    """Raise CompanionError unless `images` is (N, C, H, W) float32 in [0, 1] with 1 or 3 channels."""
    if images.ndim != 4 or images.dtype != torch.float32 or images.shape[1] not in (1, 3) or not len(images):
        raise CompanionError(
            f"{name} have shape {tuple(images.shape)} and dtype {images.dtype}: expected (N, 1 or 3, H, W) float32."
        )
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise CompanionError(
            f"{name} lie in [{low:.4g}, {high:.4g}]: expected [0, 1] and no NaN. Divide bytes by 255; the networks "
            "normalise for themselves."
        )


def check_ball(eps: float, step: float, steps: int) -> None:
    """Raise CompanionError for a radius, step length or number of steps that is negative."""
    if eps < 0 or step < 0 or steps < 0:
        raise CompanionError(
            f"an attack with eps {eps}, step {step}, {steps} steps: expected numbers that are not negative."
        )


def check_gradient(outputs: torch.Tensor) -> None:
    """Raise CompanionError unless gradients flow from a network's `outputs` back to the images it was asked about."""
    if not outputs.requires_grad:
        raise CompanionError(
            "the network's outputs carry no gradient with respect to the images, so no adversarial point can be found. "
            "Is it wrapped in torch.no_grad(), or only reachable by queries? SAC needs no gradient."
        )
