"""Random views of a batch of images for contrastive learning, drawn for all images at once.

The chain of SimCLR (Chen et al., ICML 2020), which weighted contrastive hashing uses: a random crop scaled back to the
image's size, a flip, colour jitter, grey, blur. Every number comes from the generator that is passed in.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.errors import CompanionError

GREY = (0.299, 0.587, 0.114)
REFERENCE_SIDE = 224  # pixels: the blur's deviation is stated for images of this side


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn.

    smallest_area: of a crop, as a share of the image's; flip, jitter_share, grey_share, blur_share: probabilities;
    brightness, contrast, saturation: factors are drawn from 1 - value to 1 + value; hue: largest turn of the colours,
    as a share of a full turn; blur: largest deviation of the Gaussian, in pixels of a 224-pixel image.
    """

    smallest_area: float = 0.2
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_share: float = 0.8
    grey_share: float = 0.2
    blur_share: float = 0.5
    blur: float = 2.0

    def __post_init__(self):
        for name in ("flip", "jitter_share", "grey_share", "blur_share", "brightness", "contrast", "saturation", "hue"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise CompanionError(f"Augmentation.{name} is {value!r}: expected a number in [0, 1].")
        if not 0 < self.smallest_area <= 1 or not 0 < self.blur < math.inf:
            raise CompanionError(
                f"Augmentation.smallest_area is {self.smallest_area!r} and blur is {self.blur!r}: expected a share of "
                "the image in (0, 1] and a positive number of pixels."
            )


def random_views(images: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Return one random view of each image: (B, C, H, W) float32 in [0, 1], on the images' device.

    images: (B, C, H, W) float32 in [0, 1]; C is 1 or 3, and images of one channel keep their (missing) colour;
    generator: a CPU generator, so that CPU and GPU draw the same views.
    """
    batch = len(images)
    draws = torch.rand(16, batch, generator=generator).to(images.device)
    views = _crop(images, settings, draws)
    views = _jitter(views, settings, draws)
    if settings.blur_share:
        views = _blur(views, settings, draws)
    return views


def _crop(images: torch.Tensor, settings: Augmentation, draws: torch.Tensor) -> torch.Tensor:
    area = settings.smallest_area + (1 - settings.smallest_area) * draws[0]
    aspect = torch.exp((2 * draws[1] - 1) * math.log(4 / 3))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)  # (B,) in (0, 1]
    mirrored = torch.where(draws[2] < settings.flip, -1.0, 1.0)
    zero = torch.zeros_like(width)
    across = torch.stack([width * mirrored, zero, (2 * draws[3] - 1) * (1 - width)], 1)
    down = torch.stack([zero, height, (2 * draws[4] - 1) * (1 - height)], 1)
    boxes = torch.stack([across, down], 1)  # (B, 2, 3): from the view's coordinates to the image's, both in [-1, 1]
    grid = F.affine_grid(boxes, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp(0, 1)


def _jitter(images: torch.Tensor, settings: Augmentation, draws: torch.Tensor) -> torch.Tensor:
    channels = images.shape[1]
    weights = torch.tensor(GREY if channels == 3 else (1.0,), device=images.device).view(1, channels, 1, 1)

    def factor(number: int, reach: float) -> torch.Tensor:
        return (1 + reach * (2 * draws[number] - 1)).view(-1, 1, 1, 1)

    found = (images * factor(5, settings.brightness)).clamp(0, 1)
    mean = (found * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    found = (mean + (found - mean) * factor(6, settings.contrast)).clamp(0, 1)
    if channels == 3:
        grey = (found * weights).sum(1, keepdim=True)
        found = grey + (found - grey) * factor(7, settings.saturation)
        found = _turned(found, 2 * math.pi * settings.hue * (2 * draws[8] - 1)).clamp(0, 1)
    chosen = (draws[9] < settings.jitter_share).view(-1, 1, 1, 1)
    found = torch.where(chosen, found, images)
    grey = (found * weights).sum(1, keepdim=True)
    return torch.where((draws[10] < settings.grey_share).view(-1, 1, 1, 1), grey, found)


def _turned(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn colours (B, 3, H, W) by `angles` (B,) about the grey axis, a linear stand-in for a shift of the hue."""
    cosine, sine = angles.cos().view(-1, 1, 1), angles.sin().view(-1, 1, 1)
    one = torch.eye(3, device=images.device)
    third = torch.full((3, 3), 1 / 3, device=images.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=images.device) / math.sqrt(3)
    matrix = cosine * one + (1 - cosine) * third + sine * cross  # (B, 3, 3), Rodrigues' formula
    return (matrix @ images.flatten(2)).view_as(images)


def _blur(images: torch.Tensor, settings: Augmentation, draws: torch.Tensor) -> torch.Tensor:
    """Blur a share of the images (B, C, H, W) by separable Gaussians, each with a deviation of its own."""
    side = images.shape[-1]
    scale = side / REFERENCE_SIDE
    deviation = (0.1 + (settings.blur - 0.1) * draws[11]) * scale  # (B,) pixels
    reach = max(1, math.ceil(2.5 * settings.blur * scale))
    steps = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.softmax(-((steps / deviation[:, None]) ** 2) / 2, dim=1).view(-1, 1, 1, 1, 2 * reach + 1)
    found = images
    for dim in (3, 2):
        pads = (reach, reach, 0, 0) if dim == 3 else (0, 0, reach, reach)
        windows = F.pad(found, pads, mode="replicate").unfold(dim, 2 * reach + 1, 1)  # (B, C, H, W, taps)
        found = (windows * kernel).sum(-1)
    return torch.where((draws[12] < settings.blur_share).view(-1, 1, 1, 1), found, images)
