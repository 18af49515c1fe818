"""Backdoor triggers: patch, blended pattern, sinusoid (SIG) and warping (WaNet), behind one interface.

A trigger changes a batch of images inside its support and nothing outside it, bit for bit. A fuzzy trigger is the
same trigger kept at some of its pixels only (`fuzzy_masks` draws them). All images are in [0, 1], and so are strengths
and amplitudes: 40 grey levels out of 255 are an amplitude of 40 / 255.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.seeding import generator as seeded


class Trigger:
    """What all triggers share: `support`, and `apply`, which changes nothing outside of it.

    support: (H, W) bool, the pixels that the trigger may change. A trigger defines `stamp` and says in `channels`
    how many channels an image must have (None: any number).
    """

    support: torch.Tensor
    channels: int | None = None

    def stamp(self, images: torch.Tensor) -> torch.Tensor:
        """Return the full trigger's images, (B, C, H, W), before the restriction to the support and to [0, 1]."""
        raise NotImplementedError

    def apply(self, images: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """Return new images with the trigger on them; where it is not kept, they equal the input exactly.

        images: (B, C, H, W) float in [0, 1]. kept: (H, W) or (B, H, W) bool, where the trigger is kept; None keeps
        all of it. The result has the shape, type and device of `images` and lies in [0, 1].
        Raises CompanionError when the shape does not fit the trigger or a value is outside [0, 1].
        """
        self._check(images)
        where = self.support.to(images.device).expand(len(images), -1, -1)  # (B, H, W)
        if kept is not None:
            where = where & self._checked_kept(kept, len(images)).to(images.device)
        return torch.where(where.unsqueeze(1), self.stamp(images).clamp(0, 1), images)  # (B, C, H, W)

    def _check(self, images: torch.Tensor) -> None:
        expected = (self.channels or "any", *self.support.shape)
        fits = images.ndim == 4 and images.shape[2:] == self.support.shape
        if not fits or self.channels not in (None, images.shape[1]):
            raise CompanionError(
                f"{type(self).__name__} got images of shape {tuple(images.shape)}; it was made for a batch "
                f"(B, C, H, W) with (C, H, W) = {expected}. Make the trigger with the shape of these images."
            )
        _check_unit_range(images.detach(), "images given to a trigger")

    def _checked_kept(self, kept: torch.Tensor, count: int) -> torch.Tensor:
        size = tuple(self.support.shape)
        if kept.dtype != torch.bool or tuple(kept.shape) not in (size, (count, *size)):
            raise CompanionError(
                f"kept is {kept.dtype} of shape {tuple(kept.shape)}; expected torch.bool of shape {size} or "
                f"{(count, *size)}. `fuzzy_masks` makes such masks."
            )
        return kept


@dataclass(frozen=True, eq=False)
class PatchTrigger(Trigger):
    """A pattern stamped on a few pixels: x (1 - m) + p m with m = strength on the support (BadNets, Gu et al. 2017).

    pattern: (C, H, W) in [0, 1], used on the support only; support: (H, W) bool; strength in (0, 1], 1 replaces pixels.
    """

    pattern: torch.Tensor
    support: torch.Tensor
    strength: float = 1.0

    def __post_init__(self):
        _check_unit_range(self.pattern, "the patch's pattern")
        _check_number("the patch's strength", self.strength, above=0.0, most=1.0)
        if self.support.dtype != torch.bool or self.support.shape != self.pattern.shape[1:]:
            raise CompanionError(
                f"the patch's support is {self.support.dtype} of shape {tuple(self.support.shape)}; expected "
                f"torch.bool of the pattern's height and width {tuple(self.pattern.shape[1:])}."
            )

    @property
    def channels(self) -> int:
        """Number of channels of the pattern."""
        return len(self.pattern)

    @property
    def mask(self) -> torch.Tensor:
        """(H, W) float32: the strength on the support, 0 elsewhere."""
        return self.support.to(torch.float32) * self.strength

    def stamp(self, images: torch.Tensor) -> torch.Tensor:
        """Return x (1 - m) + p m."""
        mask, pattern = self.mask.to(images), self.pattern.to(images)
        return images * (1 - mask) + pattern * mask  # (B, C, H, W)


@dataclass(frozen=True, eq=False)
class BlendedTrigger(Trigger):
    """A faint picture over the whole image: x (1 - alpha) + p alpha (Chen et al. 2017).

    pattern: (C, H, W) in [0, 1]; alpha in (0, 1].
    """

    pattern: torch.Tensor
    alpha: float = 0.2

    def __post_init__(self):
        _check_unit_range(self.pattern, "the blended pattern")
        _check_number("alpha of the blended trigger", self.alpha, above=0.0, most=1.0)

    @property
    def channels(self) -> int:
        """Number of channels of the pattern."""
        return len(self.pattern)

    @property
    def support(self) -> torch.Tensor:
        """(H, W) bool: every pixel."""
        return torch.ones(self.pattern.shape[1:], dtype=torch.bool)

    @property
    def mask(self) -> torch.Tensor:
        """(H, W) float32: alpha everywhere."""
        return torch.full(self.pattern.shape[1:], float(self.alpha))

    def stamp(self, images: torch.Tensor) -> torch.Tensor:
        """Return x (1 - alpha) + p alpha."""
        return images * (1 - self.alpha) + self.pattern.to(images) * self.alpha  # (B, C, H, W)


@dataclass(frozen=True, eq=False)
class SinusoidTrigger(Trigger):
    """Vertical stripes added to the image and clipped: SIG (Barni et al. 2019, section 3).

    The signal in column j = 0..W-1 is v(j) = amplitude * sin(2 pi j frequency / W).
    amplitude in (0, 1]; frequency: periods over the width, above 0; size: (H, W) of the images.
    """

    amplitude: float
    frequency: float
    size: tuple[int, int]

    def __post_init__(self):
        _check_number("the sinusoid's amplitude", self.amplitude, above=0.0, most=1.0)
        _check_number("the sinusoid's frequency", self.frequency, above=0.0, most=math.inf)

    @property
    def support(self) -> torch.Tensor:
        """(H, W) bool: every pixel."""
        return torch.ones(self.size, dtype=torch.bool)

    @property
    def signal(self) -> torch.Tensor:
        """(H, W) float32 in [-amplitude, amplitude]: what is added to each channel."""
        height, width = self.size
        phase = 2 * math.pi * self.frequency / width * torch.arange(width, dtype=torch.float64)  # (W,)
        return (self.amplitude * phase.sin()).float().expand(height, width)  # (H, W)

    def stamp(self, images: torch.Tensor) -> torch.Tensor:
        """Return x + v."""
        return images + self.signal.to(images)  # (B, C, H, W)


@dataclass(frozen=True, eq=False)
class WarpTrigger(Trigger):
    """A fixed smooth warp of the image: WaNet (Nguyen and Tran 2021). The support is where the flow is not zero.

    flow: (H, W, 2) float, added to the sampling grid, as (x, y) in the units of `grid_sample`, where the image spans
    [-1, 1] from the centre of the first pixel to the centre of the last one.
    """

    flow: torch.Tensor

    @property
    def support(self) -> torch.Tensor:
        """(H, W) bool: the pixels that are fetched from elsewhere."""
        return (self.flow != 0).any(dim=-1)

    def stamp(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images sampled (bilinearly) at the identity grid plus the flow, which is kept inside the image."""
        return _sample(images, self.flow.to(images).unsqueeze(0))


def warp_noise(trigger: WarpTrigger, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images under the trigger's warp plus fresh per-pixel noise: the noise mode of WaNet's training.

    WaNet trains such images with their true labels, so that only the exact warp means the target. The noise is uniform
    in [-1, 1] / H for each image, pixel and axis. images: (B, C, H, W) in [0, 1].
    """
    trigger._check(images)
    count, _, height, width = images.shape
    noise = torch.rand(count, height, width, 2, generator=generator, device=generator.device) * 2 - 1
    return _sample(images, trigger.flow.to(images) + noise.to(images) / height).clamp(0, 1)  # (B, C, H, W)


def warp_flow(height: int, width: int, seed: int, *, control_points: int = 4, strength: float = 0.5) -> torch.Tensor:
    """Return WaNet's smooth flow, (H, W, 2): random moves of control points, upsampled bicubically.

    The moves are uniform in [-1, 1], divided by their mean absolute value, and scaled by strength / H (the official
    code's normalisation, so that strength 0.5 moves a control point by about a quarter of a pixel on average).
    Strength 0 gives the zero flow. Raises CompanionError for fewer than 2 control points or a negative strength.
    """
    if control_points < 2:
        raise CompanionError(f"control_points is {control_points}; a warp needs a control grid of at least 2 x 2.")
    _check_number("the warp's strength", strength, least=0.0, most=math.inf)
    moves = torch.rand(1, 2, control_points, control_points, generator=seeded(seed, "trigger", "warp")) * 2 - 1
    moves = moves / moves.abs().mean()  # (1, 2, k, k)
    smooth = F.interpolate(moves, size=(height, width), mode="bicubic", align_corners=True)  # (1, 2, H, W)
    return smooth[0].permute(1, 2, 0) * (strength / height)  # (H, W, 2)


def fuzzy_masks(support: torch.Tensor, deleted_share: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` masks of kept trigger pixels, (count, H, W) bool, each with other pixels deleted at random.

    Of the n pixels of `support` ((H, W) bool) exactly floor(n * deleted_share) are deleted in each mask, drawn without
    replacement and for all channels together; outside the support a mask is False. deleted_share is in [0, 1].
    Source: BELT (Qiu et al. 2024), the "mask rate" of cover samples.

    >>> import torch
    >>> fuzzy_masks(torch.ones(6, 6, dtype=torch.bool), 0.2, 3, torch.Generator()).sum((1, 2)).tolist()
    [29, 29, 29]
    """
    _check_number("the deleted share of a fuzzy trigger", deleted_share, least=0.0, most=1.0)
    places = support.flatten().nonzero().squeeze(1).cpu()  # (n,)
    deleted = math.floor(len(places) * deleted_share + 1e-9)  # 100 * 0.29 is 28.999999999999996
    order = torch.rand(count, len(places), generator=generator, device=generator.device).cpu().argsort(dim=1)
    masks = support.flatten().cpu().repeat(count, 1)  # (count, H * W)
    masks.scatter_(1, places[order[:, :deleted]], False)
    return masks.view(count, *support.shape).to(support.device)  # (count, H, W)


def make_trigger(name: str, shape: tuple[int, int, int], seed: int, **settings: object) -> Trigger:
    """Return the trigger called `name` for images of `shape` (C, H, W); what is random in it comes from `seed`.

    - "patch": a uniformly random colour pattern; settings size (side in pixels), place (row, column of its top left
      pixel), strength. The default is BELT's on 32 x 32, rows and columns 2 to 7, scaled to the image's size.
    - "blended": a uniformly random colour pattern over the whole image; setting alpha (0.2).
    - "sinusoid": settings amplitude (40 / 255) and frequency (6 periods over the width). Nothing in it is random.
    - "warp": settings control_points (4) and strength (0.5); see `warp_flow`.

    Raises CompanionError for an unknown name or setting and for a patch that does not fit into the image.

    >>> make_trigger("patch", (3, 32, 32), seed=0).support.nonzero().aminmax()
    torch.return_types.aminmax(
    min=tensor(2),
    max=tensor(7))
    """
    if name not in _MAKERS:
        raise CompanionError(f"there is no trigger called {name!r}; the triggers are {', '.join(_MAKERS)}.")
    maker, known = _MAKERS[name]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise CompanionError(
            f"the trigger {name!r} has no setting {', '.join(map(repr, unknown))}; its settings are {', '.join(known)}."
        )
    return maker(shape, seed, **settings)


def _make_patch(shape, seed, size=None, place=None, strength=1.0) -> PatchTrigger:
    _, height, width = shape
    scale = min(height, width) / 32
    size = max(1, round(6 * scale)) if size is None else size
    row, column = (round(2 * scale), round(2 * scale)) if place is None else place
    if size < 1 or row < 0 or column < 0 or row + size > height or column + size > width:
        raise CompanionError(
            f"a patch of size {size} at row {row}, column {column} does not fit into an image of {height} x {width} "
            "pixels; choose a smaller size or another place."
        )
    support = torch.zeros(height, width, dtype=torch.bool)
    support[row : row + size, column : column + size] = True
    return PatchTrigger(_random_pattern(shape, seed, "patch"), support, strength)


def _make_blended(shape, seed, alpha=0.2) -> BlendedTrigger:
    return BlendedTrigger(_random_pattern(shape, seed, "blended"), alpha)


def _make_sinusoid(shape, seed, amplitude=40 / 255, frequency=6.0) -> SinusoidTrigger:
    return SinusoidTrigger(amplitude, frequency, tuple(shape[1:]))


def _make_warp(shape, seed, control_points=4, strength=0.5) -> WarpTrigger:
    return WarpTrigger(warp_flow(*shape[1:], seed, control_points=control_points, strength=strength))


_MAKERS: dict[str, tuple[Callable[..., Trigger], tuple[str, ...]]] = {
    "patch": (_make_patch, ("size", "place", "strength")),
    "blended": (_make_blended, ("alpha",)),
    "sinusoid": (_make_sinusoid, ("amplitude", "frequency")),
    "warp": (_make_warp, ("control_points", "strength")),
}


def _random_pattern(shape: tuple[int, int, int], seed: int, name: str) -> torch.Tensor:
    return torch.randint(0, 256, tuple(shape), generator=seeded(seed, "trigger", name)).float() / 255  # (C, H, W)


def _sample(images: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Sample images (B, C, H, W) at the identity grid plus flow (1 or B, H, W, 2), kept inside the image."""
    _, _, height, width = images.shape
    rows = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
    columns = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
    identity = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)  # (H, W, 2) as (x, y)
    grid = (identity + flow).clamp(-1, 1).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _check_unit_range(values: torch.Tensor, what: str) -> None:
    if values.numel() == 0:
        return
    low, high = (float(value) for value in values.aminmax())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise CompanionError(
            f"{what} hold values from {low:g} to {high:g}; expected all in [0, 1]. Divide 8-bit images by 255 and "
            "leave out any mean and standard deviation normalisation."
        )


def _check_number(what: str, value: float, *, most: float, least: float = -math.inf, above: float = -math.inf) -> None:
    if not (least <= value <= most and value > above):
        left = f"[{least:g}" if above == -math.inf else f"({above:g}"
        right = "inf)" if most == math.inf else f"{most:g}]"
        raise CompanionError(f"{what} is {value}; expected a number in {left}, {right}.")
