"""Spectra: pure waves, white noise, and what cannot be measured."""

import math

import pytest
import torch

from companion.errors import CompanionError
from companion.seeding import generator
from companion.vision.spectrum import fine_share, radial_power


def wave(cycles, side=16):
    return torch.cos(2 * math.pi * cycles * torch.arange(side) / side).expand(side, side)


@pytest.mark.parametrize("cycles", [1, 3, 8])
def test_a_wave_has_one_frequency_in_every_direction(cycles):
    for maps in (wave(cycles), wave(cycles).T, wave(cycles) + 5):
        frequencies, shares = radial_power(maps)
        assert frequencies.tolist() == list(range(1, 9)) and shares.sum() == pytest.approx(1)
        assert shares[cycles - 1] == pytest.approx(1)


def test_power_adds_up_over_waves():
    _, shares = radial_power(2 * wave(1) + wave(4).T)
    assert shares[0] == pytest.approx(0.8) and shares[3] == pytest.approx(0.2)
    assert fine_share(2 * wave(1) + wave(6)) == pytest.approx(0.2)


def test_white_noise_is_fine_and_its_local_mean_is_not():
    noise = torch.randn(20, 3, 16, 16, generator=generator(0, "noise"))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    # coefficients with radius above 4.5 of 16 x 16, all but the mean: counted, not fitted
    axis = torch.fft.fftfreq(16) * 16
    expected = (torch.hypot(axis[:, None], axis[None, :]).round() > 4).sum() / 255
    assert fine_share(noise) == pytest.approx(float(expected), abs=0.02)
    assert fine_share(smooth) < 0.5 * fine_share(noise)


def test_refusals():
    with pytest.raises(CompanionError, match="expected"):
        radial_power(torch.zeros(3, 4, 5))
    with pytest.raises(CompanionError, match="constant"):
        radial_power(torch.ones(4, 4))
