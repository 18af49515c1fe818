"""Drawn words: each has its own ink, sits inside the picture, and leaves the rest of the picture as it was."""

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal import typography
from companion.multimodal.madeup import WORDS
from companion.seeding import generator


def test_a_stamp_is_the_letter_that_one_reads():
    rows = ["".join("#" if pixel else "." for pixel in row) for row in typography.stamp(["t"])[0]]
    assert rows == ["#####", *["..#.."] * 6]


def test_every_letter_and_every_word_looks_different():
    letters = typography.stamp([chr(code) for code in range(ord("a"), ord("z") + 1)]).flatten(1)
    assert len({tuple(letter.tolist()) for letter in letters}) == 26
    words = typography.stamp(WORDS).flatten(1)
    apart = (words[:, None] != words[None]).sum(-1) + 1000 * torch.eye(len(WORDS)).long()
    assert int(apart.min()) >= 4, "two words that differ in fewer pixels cannot be told apart under noise"


def test_writing_changes_a_strip_only_and_is_the_same_again():
    images = torch.rand(6, 3, 32, 32, generator=generator(0, "images"))
    words = list(WORDS[:6])
    once, again = (typography.write(images, words, generator(1, "ink")) for _ in range(2))
    assert torch.equal(once, again) and once.min() >= 0 and once.max() <= 1
    changed = (once != images).any(1).any(2)  # (n, rows)
    assert ((changed.sum(1) >= 7) & (changed.sum(1) <= 9)).all()
    bare = typography.write(images, words, generator(1, "ink"), strip=False)
    ink = (bare != images).any(1).flatten(1).sum(1)
    assert torch.equal(ink, typography.stamp(words).flatten(1).sum(1).long())


def test_at_twice_the_side_every_pixel_is_four():
    large = typography.write(torch.zeros(1, 3, 64, 64), ["bofat"], generator(2, "ink"))
    small = typography.write(torch.zeros(1, 3, 32, 32), ["bofat"], generator(2, "ink"))
    assert torch.equal(large, small.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(
    ("shape", "words", "message"),
    [
        ((1, 3, 30, 30), ["bofat"], "multiple of 32"),
        ((2, 3, 32, 32), ["bofat"], "one word an image"),
        ((1, 3, 32, 32), ["bofatbofat"], "at most 5 letters fit"),
        ((1, 3, 32, 32), ["b5fat"], "cannot draw '5'"),
    ],
)
def test_what_cannot_be_drawn_says_so(shape, words, message):
    with pytest.raises(CompanionError, match=message):
        typography.write(torch.zeros(shape), words, generator(0, "ink"))
