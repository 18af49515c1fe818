"""Ways to damage images that a fingerprint may use as its queries; JPEG goes through Pillow, on bytes.

The JPEG qualities of severities 1 to 5 are those of the corruption benchmark behind the `imagecorruptions` package, as
several public copies of its code have them. All other strengths are our own choice for 32x32 images.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from companion.errors import CompanionError
from companion.ownership.checks import check_images

JPEG_QUALITY = (25, 18, 15, 10, 7)  # of severities 1 to 5
_NOISE = (0.04, 0.06, 0.08, 0.1, 0.14)  # standard deviation, of the range of a pixel
_PHOTONS = (120, 60, 30, 18, 10)  # for a white pixel
_SPECKS = (0.01, 0.025, 0.05, 0.08, 0.12)  # share of pixels
_DEFOCUS = (0.8, 1.1, 1.4, 1.8, 2.3)  # radius in pixels
_MOTION = (3, 3, 5, 5, 7)  # length in pixels
_BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)  # added
_CONTRAST = (0.6, 0.5, 0.4, 0.3, 0.2)  # what is left of it
_PIXELATE = (0.75, 0.625, 0.5, 0.375, 0.25)  # side, as a share
_FOG = (0.25, 0.35, 0.45, 0.55, 0.65)  # how much is fog


def jpeg(images: torch.Tensor, quality: int, enlarge: int = 1) -> torch.Tensor:
    """Return images (N, C, H, W) after JPEG compression at `quality` in 1 to 95, with 256 levels.

    enlarge: compress the images so many times larger (bicubic) and take the mean of what becomes of each pixel.

    >>> jpeg(torch.full((1, 3, 8, 8), 0.5), 25).shape
    torch.Size([1, 3, 8, 8])
    """
    check_images(images)
    if not 1 <= quality <= 95:
        raise CompanionError(f"JPEG quality {quality}: expected a whole number from 1 (smallest file) to 95.")
    if enlarge < 1:
        raise CompanionError(f"JPEG on images {enlarge} times as large: expected a whole number from 1.")
    if enlarge > 1:
        larger = F.interpolate(images, scale_factor=enlarge, mode="bicubic", align_corners=False).clamp(0, 1)
        return F.avg_pool2d(jpeg(larger, quality), enlarge)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
    found = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(buffer, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(buffer)).reshape(picture.shape))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float().div_(255).contiguous()


def corrupt(images: torch.Tensor, name: str, severity: int, generator: torch.Generator) -> torch.Tensor:
    """Return images (N, C, H, W) in [0, 1] under the corruption `name` at `severity` 1 to 5.

    name: a key of CORRUPTIONS; generator: draws the noise, where there is any.
    Raises CompanionError for an unknown name or severity and for images of another form.
    """
    check_images(images)
    if name not in CORRUPTIONS:
        raise CompanionError(f"unknown corruption {name!r}: expected one of {', '.join(CORRUPTIONS)}.")
    if severity not in range(1, 6):
        raise CompanionError(f"severity {severity} of {name}: expected 1, 2, 3, 4 or 5.")
    return CORRUPTIONS[name](images, severity - 1, generator).clamp(0, 1)


def _gaussian_noise(images, level, generator):
    return images + _NOISE[level] * torch.randn(images.shape, generator=generator)


def _shot_noise(images, level, generator):
    return torch.poisson(images * _PHOTONS[level], generator=generator) / _PHOTONS[level]


def _impulse_noise(images, level, generator):
    drawn = torch.rand(images.shape, generator=generator)
    salted = torch.where(drawn < _SPECKS[level] / 2, 1.0, images)
    return torch.where(drawn > 1 - _SPECKS[level] / 2, 0.0, salted)


def _defocus_blur(images, level, generator):
    steps = torch.arange(-3.0, 4.0)
    disc = (_DEFOCUS[level] + 0.5 - torch.hypot(steps[:, None], steps[None, :])).clamp(0, 1)
    return _filtered(images, disc)


def _motion_blur(images, level, generator):
    return _filtered(images, torch.eye(_MOTION[level]))


def _filtered(images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    pad = len(kernel) // 2
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(images, [pad] * 4, mode="replicate"), kernel, groups=images.shape[1])


def _brightness(images, level, generator):
    return images + _BRIGHTER[level]


def _contrast(images, level, generator):
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * _CONTRAST[level]


def _pixelate(images, level, generator):
    size = [max(1, round(side * _PIXELATE[level])) for side in images.shape[2:]]
    coarse = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return F.interpolate(coarse, size=images.shape[2:], mode="nearest-exact")


def _fog(images, level, generator):
    grid = torch.rand(len(images), 1, 5, 5, generator=generator)
    cloud = F.interpolate(grid, size=images.shape[2:], mode="bicubic", align_corners=True).clamp(0, 1)
    return images * (1 - _FOG[level]) + (0.5 + 0.5 * cloud) * _FOG[level]


CORRUPTIONS = {
    "jpeg": lambda images, level, generator: jpeg(images, JPEG_QUALITY[level]),
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "pixelate": _pixelate,
    "contrast": _contrast,
    "brightness": _brightness,
    "fog": _fog,
}
"""Every corruption by its name."""
