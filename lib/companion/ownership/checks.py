"""What every function here expects of images."""

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
