"""The generated `tones` world: short sounds of eight kinds, drawn from a seed, of any number, as log-spectrograms.

A kind says how pitch and loudness move; pitch, speed, overtones, onset, length, noise and hum differ from sound to
sound, so that no band of frequencies gives a kind away. Sounds are drawn in blocks with a generator each, as in
`companion.data.signs`.
"""

import math

import torch

from companion.data.backdrops import uniform
from companion.data.imageset import ImageSet
from companion.data.spectrogram import log_spectrograms
from companion.errors import CompanionError
from companion.seeding import generator as seeded

KINDS = ("steady", "rising", "falling", "vibrato", "tremolo", "chord", "clicks", "hush")
SPLIT_SIZES = {"train": 2000, "test": 1000}
RATE, SAMPLES = 8000, 4096
_BLOCK = 200  # sounds that share a generator


def load(context: object, split: str, *, size: int | None = None, side: int = 16, seed: int = 0) -> ImageSet:
    """Return spectrograms (size, 1, side, side) of a split, as the catalogue asks for them.

    context: what the catalogue tells its loaders; not used. size: number of sounds; None takes the usual one of the
    split (`SPLIT_SIZES`). Labels go round 0 to 7, so that the kinds are balanced.
    Raises CompanionError for an unknown split and for size < 1.
    """
    waves, labels = sounds(split, SPLIT_SIZES.get(split, 1) if size is None else size, seed)
    return ImageSet(log_spectrograms(waves, side), labels, KINDS, "tones", split)


def sounds(split: str, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the first `size` sounds of a split: waves (size, 4096) float32 at 8 kHz, and kinds (size,) int64."""
    if split not in SPLIT_SIZES:
        raise CompanionError(f"tones has no split {split!r}; its splits are {', '.join(SPLIT_SIZES)}.")
    if size < 1:
        raise CompanionError(f"tones was asked for {size} sounds; size must be 1 or more.")
    labels = torch.arange(math.ceil(size / _BLOCK) * _BLOCK) % len(KINDS)
    waves = [_waves(part, seeded(seed, "tones", split, block)) for block, part in enumerate(labels.split(_BLOCK))]
    return torch.cat(waves)[:size], labels[:size]


def _waves(kinds: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Draw one sound of each kind of `kinds` (B,): (B, SAMPLES)."""
    count = len(kinds)
    time = torch.arange(SAMPLES) / RATE  # seconds, 0 to 0.51
    is_a = [(kinds == k).float().unsqueeze(1) for k in range(len(KINDS))]  # (B, 1) each
    base = 2 ** uniform(rng, count, math.log2(300), math.log2(1400), 1)  # Hz
    slide = uniform(rng, count, 0.6, 1.6, 1) * (is_a[1] - is_a[2])  # octaves over the sound
    slide = slide + uniform(rng, count, -0.12, 0.12, 1)
    sway = is_a[3] * uniform(rng, count, 0.08, 0.2, 1)  # octaves
    speed = uniform(rng, count, 5, 11, 1)  # Hz, of vibrato, tremolo and clicks
    turn = uniform(rng, count, 0, 2 * math.pi, 1)
    octaves = slide * (time / time[-1] - 0.5) + sway * torch.sin(2 * math.pi * speed * time + turn)
    phase = 2 * math.pi * torch.cumsum(base * 2**octaves, dim=1) / RATE  # (B, T)
    wave = torch.sin(phase)
    for overtone in (2, 3):
        wave = wave + uniform(rng, count, 0, 0.5, 1) * torch.sin(overtone * phase)
    for interval in (uniform(rng, count, 1.2, 1.45, 1), uniform(rng, count, 1.5, 1.9, 1)):
        wave = wave + is_a[5] * torch.sin(interval * phase)
    beat = torch.sin(2 * math.pi * speed * time + turn)
    wave = wave * (1 - is_a[4] * uniform(rng, count, 0.75, 1, 1) * (0.5 + 0.5 * beat))
    noise = torch.randn(count, SAMPLES, generator=rng)
    click = torch.exp(-((1 - beat) * uniform(rng, count, 15, 40, 1))) * noise * 2
    centre = torch.sin(phase / uniform(rng, count, 0.7, 1.0, 1))
    hush = centre * (noise.abs() > 0.3) * torch.randn(count, SAMPLES, generator=rng)
    voice = wave * (1 - is_a[6] - is_a[7]) + click * is_a[6] + hush * is_a[7]
    begin, length = uniform(rng, count, 0, 0.12, 1), uniform(rng, count, 0.28, 0.5, 1)
    envelope = torch.sigmoid((time - begin) * 150) * torch.sigmoid((begin + length - time) * 100)
    hum = torch.sin(2 * math.pi * uniform(rng, count, 80, 250, 1) * time + turn) * uniform(rng, count, 0, 0.4, 1)
    hiss = torch.randn(count, SAMPLES, generator=rng) * 10 ** uniform(rng, count, -1.6, -0.1, 1)
    return voice * envelope + hum + hiss
