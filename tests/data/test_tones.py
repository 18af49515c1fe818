"""The tones world and spectrograms: bits, balance, independence, and that a spectrogram shows pitch and time."""

import math

import pytest
import torch

from companion.data import catalogue
from companion.data.spectrogram import log_spectrograms
from companion.data.tones import KINDS, RATE, SAMPLES
from companion.errors import CompanionError


def test_the_first_sounds_are_the_same_however_many_are_drawn():
    few, many = (catalogue.load("tones", "train", size=size) for size in (10, 210))
    assert torch.equal(few.images, many.images[:10]) and few.images.shape == (10, 1, 16, 16)
    assert many.labels.bincount().tolist() == [27, 27, 26, 26, 26, 26, 26, 26] and few.classes == KINDS
    assert few.images.min() >= 0 and few.images.max() <= 1
    assert not torch.equal(few.images, catalogue.load("tones", "test", size=10).images)


def test_a_tone_is_a_row_and_a_click_a_column():
    time = torch.arange(SAMPLES) / RATE
    tone = torch.sin(2 * math.pi * 1000 * time)
    click = torch.zeros(SAMPLES)
    click[SAMPLES * 9 // 32] = 1  # in the middle of the fifth of sixteen columns
    pictures = log_spectrograms(torch.stack([tone, click]), 16)[:, 0]
    row = pictures[0].mean(1).argmax()
    assert int(row) == 15 - int(1000 / (RATE / 2 * 0.75) * 16), "low notes are at the bottom"
    assert int(pictures[1].mean(0).argmax()) == 4


def test_silence_is_black_and_finite():
    assert torch.isfinite(log_spectrograms(torch.zeros(1, SAMPLES), 16)).all()


def test_what_it_cannot_draw():
    with pytest.raises(CompanionError, match="no split 'defender'"):
        catalogue.load("tones", "defender")
    with pytest.raises(CompanionError, match="0 sounds"):
        catalogue.load("tones", "train", size=0)
