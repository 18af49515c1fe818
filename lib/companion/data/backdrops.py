"""Photo-like backgrounds: a sky over foliage, a building's wall or bare ground, drawn in batches from a generator."""

import math

import torch
import torch.nn.functional as F


def uniform(generator: torch.Generator, count: int, low: float, high: float, *shape: int) -> torch.Tensor:
    """Return (count, *shape) float32 numbers that are uniform in [low, high)."""
    return torch.rand(count, *shape, generator=generator) * (high - low) + low


def smooth_noise(count: int, channels: int, side: int, cells: tuple[int, ...], generator: torch.Generator):
    """Return multi-octave noise (count, channels, side, side), about -1 to 1: the finer the grid, the fainter.

    cells: for each octave, the number of cells along a side of its random grid, which is upsampled bicubically.
    """
    total, weight = torch.zeros(count, channels, side, side), 1.0
    for number in cells:
        grid = uniform(generator, count, -1, 1, channels, number + 1, number + 1)
        total += weight * F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=True)
        weight *= 0.65
    return total  # (B, C, side, side)


def backdrops(count: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` backgrounds, (count, 3, side, side) float32 in [0, 1].

    In each, a rough and tilted skyline parts a sky (blue to overcast, with clouds) from one kind of surroundings:
    foliage, a wall with rows of windows, or bare ground. Often only one of the two is in view.
    """
    noise = smooth_noise(count, 1, side, (3, 7, 15), generator)  # (B, 1, S, S), shared by all kinds: one is seen
    tint = 0.05 * smooth_noise(count, 3, side, (4,), generator)
    kind = torch.randint(0, 3, (count,), generator=generator).view(-1, 1, 1, 1)
    foliage, wall, ground = _foliage(noise, generator), _wall(noise, generator), _ground(noise, generator)
    surroundings = torch.where(kind == 0, foliage, torch.where(kind == 1, wall, ground))
    below = _below_skyline(count, side, generator)
    return (_sky(noise, generator) * (1 - below) + surroundings * below + tint).clamp(0, 1)  # (B, 3, S, S)


def _colours(count: int, generator: torch.Generator, *anchors: tuple[float, float, float]) -> torch.Tensor:
    """Random mixtures of a few colours, (count, 3, 1, 1)."""
    shares = torch.rand(count, len(anchors), generator=generator) ** 3 + 1e-3
    mixed = (shares / shares.sum(dim=1, keepdim=True)) @ torch.tensor(anchors)
    return mixed.view(count, 3, 1, 1)


def _axes(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    return centres.view(1, 1, 1, side), centres.view(1, 1, side, 1)  # x, y


def _below_skyline(count: int, side: int, generator: torch.Generator) -> torch.Tensor:
    x, y = _axes(side)
    height, tilt = uniform(generator, count, -1.8, 1.2, 1, 1, 1), uniform(generator, count, -0.3, 0.3, 1, 1, 1)
    ridge = F.interpolate(uniform(generator, count, -1, 1, 1, 9), size=side, mode="linear", align_corners=True)
    rough = uniform(generator, count, 0, 0.35, 1, 1, 1) * ridge.view(count, 1, 1, side)
    return ((y - height - tilt * x - rough) * side / 2 + 0.5).clamp(0, 1)  # (B, 1, S, S), soft over one pixel


def _sky(noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, side = len(noise), noise.shape[-1]
    top = _colours(count, generator, (0.25, 0.48, 0.82), (0.62, 0.68, 0.74), (0.86, 0.88, 0.9), (0.4, 0.45, 0.52))
    paler = top + (1 - top) * uniform(generator, count, 0.1, 0.6, 1, 1, 1)
    _, y = _axes(side)
    clouds = (noise * 0.25 + 0.05).clamp(0, 1) * uniform(generator, count, 0, 1.2, 1, 1, 1)
    return top + (paler - top) * (y + 1) / 2 + (1 - top) * clouds


def _foliage(noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count = len(noise)
    leaf = _colours(count, generator, (0.2, 0.34, 0.12), (0.38, 0.44, 0.16), (0.36, 0.28, 0.16), (0.12, 0.22, 0.13))
    light = (0.75 + uniform(generator, count, 0.3, 0.8, 1, 1, 1) * noise).clamp(0.1, 2.2)
    gaps = (noise - 1.0).clamp(0, 0.5) * uniform(generator, count, 0, 1.5, 1, 1, 1)  # sky between the leaves
    return leaf * light + gaps


def _wall(noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, side = len(noise), noise.shape[-1]
    plaster = _colours(count, generator, (0.62, 0.56, 0.46), (0.55, 0.32, 0.24), (0.5, 0.5, 0.52), (0.8, 0.78, 0.72))
    glass = _colours(count, generator, (0.1, 0.12, 0.15), (0.3, 0.38, 0.46), (0.75, 0.78, 0.8))
    x, y = _axes(side)
    lean, fall = uniform(generator, count, -0.15, 0.15, 1, 1, 1), uniform(generator, count, -0.4, 0.4, 1, 1, 1)
    across, down = x + lean * y, y + fall * x
    columns = _bands(across, uniform(generator, count, 0.35, 1.0, 1, 1, 1), side, generator)
    rows = _bands(down, uniform(generator, count, 0.4, 1.1, 1, 1, 1), side, generator)
    windows = columns * rows
    return plaster * (1 + 0.08 * noise) * (1 - windows) + glass * windows


def _bands(position: torch.Tensor, period: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Periodic bands, 1 inside and 0 outside, with edges that are soft over about one pixel."""
    phase = uniform(generator, len(position), 0, 2 * math.pi, 1, 1, 1)
    wave = torch.sin(2 * math.pi * position / period + phase)
    return (wave * period * side / (4 * math.pi) + 0.5).clamp(0, 1)


def _ground(noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, side = len(noise), noise.shape[-1]
    soil = _colours(count, generator, (0.36, 0.36, 0.38), (0.5, 0.44, 0.34), (0.58, 0.58, 0.58), (0.3, 0.26, 0.2))
    _, y = _axes(side)
    slope = uniform(generator, count, -0.3, 0.3, 1, 1, 1)
    return soil * (1 + slope * y + uniform(generator, count, 0.05, 0.3, 1, 1, 1) * noise)
