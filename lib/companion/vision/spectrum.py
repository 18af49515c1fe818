"""How fine the pattern of a map is: its power by spatial frequency, averaged over directions, channels and images."""

import torch

from companion.errors import CompanionError


def radial_power(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (frequencies (R,), shares (R,)): how the variance of maps (..., S, S) spreads over spatial frequency.

    Frequencies are whole cycles a map, 1 to S / 2, each collecting the Fourier coefficients whose distance from the
    origin rounds to it; what lies farther out, in the corners of the spectrum, counts to the last. The mean of a map
    (frequency 0) is left out, so the shares sum to 1. Raises `CompanionError` for maps that are not square, smaller
    than 2, or constant.

    >>> x = torch.arange(8) * torch.pi / 2  # two cycles in eight positions
    >>> radial_power(x.cos().expand(8, 8))[1].round().tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    side = maps.shape[-1]
    if maps.ndim < 2 or maps.shape[-2] != side or side < 2:
        raise CompanionError(f"radial power of maps of shape {tuple(maps.shape)}: expected (..., S, S) with S >= 2.")
    power = torch.fft.fft2(maps.double()).abs().square().reshape(-1, side, side).sum(dim=0)  # (S, S)
    axis = torch.fft.fftfreq(side, dtype=torch.float64) * side
    radius = torch.hypot(axis[:, None], axis[None, :]).round().clamp(max=side // 2)
    frequencies = torch.arange(1, side // 2 + 1)
    found = torch.stack([power[radius == one].sum() for one in frequencies])
    power[0, 0] = 0
    if not found.sum() > 0:
        raise CompanionError("radial power of constant maps: they have none. Pass maps that vary.")
    return frequencies, found / found.sum()


def fine_share(maps: torch.Tensor) -> float:
    """Return the share of a map's variance, in [0, 1], at frequencies above half of the highest one."""
    frequencies, shares = radial_power(maps)
    return float(shares[frequencies > frequencies[-1] / 2].sum())
