"""Sounds as pictures: log-spectrograms, low notes at the bottom, time from left to right."""

import torch
import torch.nn.functional as F

WINDOW, RANGE_DB = 256, 60.0


def log_spectrograms(waves: torch.Tensor, side: int) -> torch.Tensor:
    """Return pictures (N, 1, side, side) float32 in [0, 1] of sounds (N, T) float32, T >= 512.

    Powers of a short-time Fourier transform (Hann window of 256 samples, steps of 64) are averaged over `side` bands of
    the same width below three quarters of the highest frequency and over `side` stretches of time; then decibels below
    each sound's loudest point, 60 dB or more below it being black. The result has 256 levels.
    """
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(waves, WINDOW, WINDOW // 4, window=window, return_complex=True)  # (N, 129, frames)
    power = spectrum.abs()[:, 1 : 1 + 3 * WINDOW // 8] ** 2
    power = F.adaptive_avg_pool2d(power.unsqueeze(1), (side, side)).flip(2)
    decibels = 10 * torch.log10(power / power.amax(dim=(2, 3), keepdim=True).clamp(min=1e-20) + 1e-12)
    return torch.round((1 + decibels / RANGE_DB).clamp(0, 1) * 255) / 255
