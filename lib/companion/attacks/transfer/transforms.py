"""Input transforms: each point of an attack becomes some random copies, over which the gradient is averaged.

A transform has `copies`, their number m, and is called as `transform(points (P, C, H, W), draws, scene)`, which gives
(P, m, C, H, W), differentiable in `points`. Points are grouped by image, and `draws` serves all of them.
"""

import math
from dataclasses import dataclass

import torch

from companion.attacks.transfer.draws import Draws
from companion.attacks.transfer.state import Scene
from companion.errors import CompanionError


@dataclass(frozen=True)
class Identity:
    """The point itself."""

    copies: int = 1

    def __call__(self, points: torch.Tensor, draws: Draws, scene: Scene) -> torch.Tensor:
        """Return points (P, 1, C, H, W)."""
        return points.unsqueeze(1)


@dataclass(frozen=True)
class ResizePad:
    """DI: resized by a random factor in [1, rate), padded with zeros to rate at a random place, resized back.

    The three are one bilinear resampling, which blurs less than one after the other, and sizes are not rounded to
    whole pixels: at 16 or 32 pixels a rate of 1.1 would leave two or three of them.
    rates: one for each copy (DEM has several); probability: of being changed at all.
    Source: Xie et al. 2019; several rates: Zou et al. 2020.
    """

    rates: tuple[float, ...] = (1.1,)
    probability: float = 0.5

    def __post_init__(self):
        if not self.rates or min(self.rates) < 1 or not 0 <= self.probability <= 1:
            raise CompanionError(
                f"ResizePad got rates {self.rates} and probability {self.probability}: expected rates of at least 1 "
                "and a probability in [0, 1]."
            )

    @property
    def copies(self) -> int:
        """One for each rate."""
        return len(self.rates)

    def __call__(self, points: torch.Tensor, draws: Draws, scene: Scene) -> torch.Tensor:
        """Return (P, m, C, H, W)."""
        canvas = torch.tensor(self.rates, dtype=points.dtype, device=points.device)  # (m,) in sides of the image
        size = 1 + draws.uniform(0, 1, self.copies) * (canvas - 1)  # (P, m)
        place = draws.uniform(0, 1, self.copies, 2) * (canvas - size).unsqueeze(-1)  # (P, m, 2)
        changed = draws.uniform(0, 1, self.copies) < self.probability  # (P, m)
        rows = _resampling(points.shape[2], canvas, size, place[..., 0])  # (P, m, H, H)
        columns = _resampling(points.shape[3], canvas, size, place[..., 1])  # (P, m, W, W)
        resized = rows.unsqueeze(2) @ points.unsqueeze(1) @ columns.unsqueeze(2).transpose(-1, -2)
        return torch.where(changed[..., None, None, None], resized, points.unsqueeze(1))


@dataclass(frozen=True)
class Scales:
    """SI: the point divided by 1, 2, 4, ..., 2^(m - 1) (Lin et al. 2020)."""

    copies: int = 5

    def __call__(self, points: torch.Tensor, draws: Draws, scene: Scene) -> torch.Tensor:
        """Return (P, m, C, H, W)."""
        return points.unsqueeze(1) * _halvings(self.copies, points)


@dataclass(frozen=True)
class Admix:
    """Some of another class's image is added, and each sum is seen at the scales of SI (Wang et al. 2021).

    Partners come from `scene.partners`, not from the batch, and never have the image's own class.
    share: eta, of the other image; partners: how many; scales: SI's m.
    """

    share: float = 0.2
    partners: int = 3
    scales: int = 5

    @property
    def copies(self) -> int:
        """Partners times scales."""
        return self.partners * self.scales

    def __call__(self, points: torch.Tensor, draws: Draws, scene: Scene) -> torch.Tensor:
        """Return (P, m, C, H, W). Raises `CompanionError` without partners of another class."""
        others = _others(scene, points, draws, self.partners)  # (P, n, C, H, W)
        mixed = (points.unsqueeze(1) + self.share * others).unsqueeze(2)  # (P, n, 1, C, H, W)
        return (mixed * _halvings(self.scales, points)).flatten(1, 2)


@dataclass(frozen=True)
class Spectrum:
    """SSM: noise is added and every frequency of the cosine transform is scaled at random (Long et al. 2022).

    The noise has deviation eps, the scales lie in [1 - spread, 1 + spread). The form is our reconstruction.
    """

    copies: int = 20
    spread: float = 0.5

    def __call__(self, points: torch.Tensor, draws: Draws, scene: Scene) -> torch.Tensor:
        """Return (P, m, C, H, W)."""
        shape = (self.copies, *points.shape[1:])
        noisy = points.unsqueeze(1) + draws.normal(scene.budget.eps, *shape)
        scale = draws.uniform(1 - self.spread, 1 + self.spread, *shape)
        down, across = cosine_matrix(points.shape[2], points), cosine_matrix(points.shape[3], points)
        return down.T @ ((down @ noisy @ across.T) * scale) @ across


def cosine_matrix(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return the orthonormal cosine transform (type II) as a matrix (side, side) of the dtype and device of `like`."""
    place = torch.arange(side, dtype=torch.float64)
    matrix = torch.cos(math.pi / side * (place + 0.5) * place[:, None]) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def _halvings(count: int, like: torch.Tensor) -> torch.Tensor:
    powers = torch.arange(count, device=like.device, dtype=like.dtype)
    return (0.5**powers).view(-1, 1, 1, 1)


def _resampling(side: int, canvas: torch.Tensor, size: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Bilinear weights (P, m, side, side) from pixels of the image to pixels of the canvas, resized to `side`."""
    centres = (torch.arange(side, dtype=size.dtype, device=size.device) + 0.5) / side
    inside = (centres * canvas[:, None] - place[..., None]) / size[..., None]  # (P, m, side), in sides of the image
    source = inside * side - 0.5
    pixels = torch.arange(side, dtype=size.dtype, device=size.device)
    held = source.clamp(0, side - 1)  # half a pixel of the image's edge is repeated, beyond it lies the padding
    weights = (1 - (held[..., None] - pixels).abs()).clamp(min=0)  # (P, m, side, side)
    return weights * ((inside > 0) & (inside < 1)).unsqueeze(-1)


def _others(scene: Scene, points: torch.Tensor, draws: Draws, count: int) -> torch.Tensor:
    if scene.partners is None:
        raise CompanionError("Admix has no images to mix in: expected partners. Pass partners= with labelled images.")
    pool = scene.partners
    order = pool.labels.argsort(stable=True)
    classes = pool.labels[order]
    low = torch.searchsorted(classes, scene.labels.cpu(), right=False)
    high = torch.searchsorted(classes, scene.labels.cpu(), right=True)
    left = len(classes) - (high - low)  # (B,) partners of other classes
    if (left == 0).any():
        raise CompanionError(
            f"Admix found no partner of another class: all {len(classes)} partners have class {int(classes[0])}. "
            "Pass partners of several classes."
        )
    low, high, left = (part.repeat_interleave(draws.points)[:, None] for part in (low, high, left))  # (P, 1)
    pick = (draws.uniform(0, 1, count).cpu() * left).long()  # (P, n)
    pick = torch.where(pick >= low, pick + high - low, pick)  # step over the image's own class
    return pool.images[order[pick]].to(points)
