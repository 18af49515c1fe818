"""The spoken digits: the official split, the order, and files that are no such recordings."""

import wave

import numpy as np
import pytest
import torch

from companion.data import spoken
from companion.data.catalogue import Context
from companion.data.manifest import Split
from companion.errors import CompanionError


def record(path, samples, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture
def context(tmp_path):
    rng = np.random.default_rng(0)
    for digit in range(3):
        for speaker in ("ada", "bob"):
            for take in (0, 4, 5, 11):
                record(tmp_path / f"{digit}_{speaker}_{take}.wav", rng.normal(0, 3000, 2000 + 2000 * digit))
    return Context("fsdd", tuple("0123456789"), Split(("recordings",)), {"recordings": tmp_path})


def test_takes_up_to_four_are_the_test_set_and_digits_come_in_turn(context):
    train, test = (spoken.load(context, split, side=16) for split in ("train", "test"))
    assert len(train) == len(test) == 12 and train.images.shape == (12, 1, 16, 16)
    assert train.labels.tolist() == test.labels.tolist() == [0, 1, 2] * 4
    assert torch.equal(train.images, spoken.load(context, "train").images)
    assert not torch.equal(train.images, test.images)


def test_other_files_are_refused(context, tmp_path):
    record(tmp_path / "0_ada_6.wav", np.zeros(100), rate=16000)
    with pytest.raises(CompanionError, match=r"expected \(1, 2, 8000\)"):
        spoken.load(context, "train")
    (tmp_path / "0_ada_6.wav").write_bytes(b"no sound")
    with pytest.raises(CompanionError, match="is not a wav file"):
        spoken.load(context, "train")
    (tmp_path / "noise.wav").write_bytes(b"")
    with pytest.raises(CompanionError, match="a name such as 3_theo_7"):
        spoken.load(context, "train")
