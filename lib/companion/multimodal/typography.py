"""Words drawn into pictures with a bitmap font of our own, five by seven pixels a letter.

A picture is 32 pixels wide, or a multiple of that: a word of five letters just fits. The letters sit on a paper of
their own (`paper`) or on a plain strip across another picture (`write`).
"""

from collections.abc import Sequence

import torch

from companion.errors import CompanionError

HEIGHT, ADVANCE = 7, 6  # pixels of a line and from letter to letter, at 32 pixels
BASE = 32
LINE = 8  # words sit on lines of this height, give or take a pixel, as a page has lines

_ROWS = {
    "a": "0e 11 11 1f 11 11 11",
    "b": "1e 11 11 1e 11 11 1e",
    "c": "0e 11 10 10 10 11 0e",
    "d": "1e 11 11 11 11 11 1e",
    "e": "1f 10 10 1e 10 10 1f",
    "f": "1f 10 10 1e 10 10 10",
    "g": "0e 11 10 17 11 11 0f",
    "h": "11 11 11 1f 11 11 11",
    "i": "0e 04 04 04 04 04 0e",
    "j": "07 02 02 02 02 12 0c",
    "k": "11 12 14 18 14 12 11",
    "l": "10 10 10 10 10 10 1f",
    "m": "11 1b 15 15 11 11 11",
    "n": "11 11 19 15 13 11 11",
    "o": "0e 11 11 11 11 11 0e",
    "p": "1e 11 11 1e 10 10 10",
    "q": "0e 11 11 11 15 12 0d",
    "r": "1e 11 11 1e 14 12 11",
    "s": "0f 10 10 0e 01 01 1e",
    "t": "1f 04 04 04 04 04 04",
    "u": "11 11 11 11 11 11 0e",
    "v": "11 11 11 11 11 0a 04",
    "w": "11 11 11 15 15 15 0a",
    "x": "11 11 0a 04 0a 11 11",
    "y": "11 11 0a 04 04 04 04",
    "z": "1f 01 02 04 08 10 1f",
}  # capitals: each row as five bits, the leftmost pixel first


def stamp(words: Sequence[str]) -> torch.Tensor:
    """Return (n, 7, w) float32 masks, 1 where there is ink, all as wide as the longest word.

    Raises CompanionError for a word with another character than a to z.
    """
    width = max(map(len, words)) * ADVANCE - 1
    masks = torch.zeros(len(words), HEIGHT, width)
    for mask, word in zip(masks, words, strict=True):
        for place, letter in enumerate(word):
            if letter not in _ROWS:
                raise CompanionError(f"cannot draw {letter!r} of the word {word!r}: the font has the letters a to z.")
            left = place * ADVANCE
            mask[:, left : left + 5] = _glyph(letter)
    return masks


def _glyph(letter: str) -> torch.Tensor:
    rows = [int(row, 16) for row in _ROWS[letter].split()]
    return torch.tensor([[row >> (4 - column) & 1 for column in range(5)] for row in rows], dtype=torch.float32)


def write(
    images: torch.Tensor, words: Sequence[str], generator: torch.Generator, *, strip: bool = True
) -> torch.Tensor:
    """Return copies of (n, 3, side, side) images in [0, 1] with one word each, at a random place, in dark or light ink.

    strip: draw a plain strip of the opposite tone across the picture first, so that the word can be read on anything.
    Raises CompanionError for a side that is no multiple of 32, another number of words, or a word that does not fit.
    """
    side = images.shape[-1]
    if side % BASE or images.shape[-2] != side or len(words) != len(images):
        raise CompanionError(
            f"{len(words)} words for images of shape {tuple(images.shape)}: expected one word an image, and square "
            f"images whose side is a multiple of {BASE}."
        )
    masks = stamp(words)  # (n, 7, w)
    n, _, width = masks.shape
    if width > BASE:
        longest = max(words, key=len)
        raise CompanionError(
            f"the word {longest!r} is {width} pixels wide at 32: at most {BASE // ADVANCE} letters fit."
        )
    line = torch.randint(0, BASE // LINE, (n, 1), generator=generator)
    top = LINE * line + torch.randint(0, LINE - HEIGHT + 1, (n, 1), generator=generator)
    left = torch.randint(0, min(BASE - width, 2) + 1, (n, 1), generator=generator)
    dark = torch.rand((n, 3, 1, 1), generator=generator) * 0.25
    light = 0.8 + torch.rand((n, 3, 1, 1), generator=generator) * 0.2
    swap = torch.rand((n, 1, 1, 1), generator=generator) < 0.3
    ink, ground = torch.where(swap, light, dark), torch.where(swap, dark, light)
    rows, columns = torch.arange(BASE) - top, torch.arange(BASE) - left  # (n, 32) each, in the word's own pixels
    inside = ((rows >= 0) & (rows < HEIGHT))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    picked = masks[
        torch.arange(n)[:, None, None], rows.clamp(0, HEIGHT - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    ]
    cover = _enlarged((picked * inside)[:, None], side)
    band = _enlarged(((rows >= -1) & (rows <= HEIGHT)).float()[:, None, :, None].expand(n, 1, BASE, BASE), side)
    if strip:
        images = images + band * (ground - images)
    return images + cover * (ink - images)


def paper(words: Sequence[str], generator: torch.Generator, *, side: int = BASE) -> torch.Tensor:
    """Return (n, 3, side, side) pictures of a word on tinted, slightly noisy paper and nothing else."""
    blank = 0.8 + 0.2 * torch.rand((len(words), 3, 1, 1), generator=generator)
    noise = 0.04 * torch.randn((len(words), 3, side, side), generator=generator)
    return write((blank + noise).clamp(0, 1), words, generator)


def _enlarged(masks: torch.Tensor, side: int) -> torch.Tensor:
    times = side // BASE
    return masks.repeat_interleave(times, 2).repeat_interleave(times, 3)
