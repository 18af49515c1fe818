"""The Free Spoken Digit Dataset as log-spectrograms: `<digit>_<speaker>_<take>.wav`, 8 kHz, 16 bit, mono."""

import wave
from pathlib import Path

import numpy as np
import torch

from companion.data.catalogue import Context
from companion.data.imageset import ImageSet
from companion.data.spectrogram import log_spectrograms
from companion.errors import CompanionError

SAMPLES = 5120  # 0.64 s: a longer recording keeps its middle, a shorter one gets silence on both sides
_TEST_TAKES = 5  # the official rule: takes 0 to 4 are the test set


def load(context: Context, split: str, *, side: int = 16) -> ImageSet:
    """Return spectrograms (N, 1, side, side) of a split, ordered by take, then speaker, then digit.

    Raises CompanionError for a file that is not such a recording.
    """
    (folder,) = context.files.values()
    chosen = []
    for path in folder.glob("*.wav"):
        try:
            digit, speaker, take = path.stem.split("_")
            key = int(take), speaker, int(digit)
        except ValueError:
            raise CompanionError(f"{path}: expected a name such as 3_theo_7.wav.") from None
        if (key[0] < _TEST_TAKES) == (split == "test"):
            chosen.append((key, path))
    chosen.sort()
    waves = torch.stack([_fitted(read_wave(path)) for _, path in chosen])
    labels = torch.tensor([digit for (_, _, digit), _ in chosen])
    return ImageSet(log_spectrograms(waves, side), labels, context.classes, context.name, split)


def read_wave(path: Path) -> torch.Tensor:
    """Return the samples (T,) float32 in [-1, 1) of a mono recording with 16 bits at 8 kHz."""
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise CompanionError(f"{path} is not a wav file: {error}. Lay the data set out again.") from None
    if form != (1, 2, 8000):
        raise CompanionError(f"{path} has {form} channels, bytes a sample and samples a second; expected (1, 2, 8000).")
    return torch.from_numpy(np.frombuffer(content, dtype="<i2").astype(np.float32) / 32768)


def _fitted(sound: torch.Tensor) -> torch.Tensor:
    extra = len(sound) - SAMPLES
    if extra >= 0:
        return sound[extra // 2 : extra // 2 + SAMPLES]
    return torch.nn.functional.pad(sound, (-extra // 2, -extra - (-extra // 2)))
