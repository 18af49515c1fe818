"""What CleanCLIP changes in a pair: the picture, anew each time, and the text, once, as Easy Data Augmentation does."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from companion.errors import CompanionError


def changed_images(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return augmented pictures (B, 3, H, W): each gets a geometric and a colour change, drawn from `generator`.

    Geometric: rotation up to 15 degrees, shear up to 0.2, shift up to 4 pixels. Colour: one of brightness, contrast,
    saturation, posterising to 8 levels and solarising. It stands in for torchvision's AutoAugment, whose operations
    these are, drawn for a whole batch at once. No mirror image, as captions say left and right.
    """
    count, _, height, width = images.shape
    draws = torch.rand(count, 7, generator=generator).to(images.device)
    angle = (draws[:, 0] - 0.5) * 2 * math.radians(15)
    shear = (draws[:, 1] - 0.5) * 0.4
    shift = (draws[:, 2:4] - 0.5) * 2 * 4 / torch.tensor([width / 2, height / 2], device=images.device)  # (B, 2)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cos, shear - sin], 1), torch.stack([sin, cos], 1)], 1)  # (B, 2, 2)
    grid = F.affine_grid(torch.cat([matrix, shift[:, :, None]], 2), images.shape, align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return _recoloured(moved, (draws[:, 4] * 5).long(), draws[:, 5] * 2 - 1).clamp(0, 1)


def _recoloured(images: torch.Tensor, kind: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Apply to each picture the change `kind` (B,) in 0..4 with `strength` (B,) in [-1, 1]."""
    by = strength[:, None, None, None]
    grey, mean = images.mean(1, keepdim=True), images.mean((1, 2, 3), keepdim=True)
    changes = [
        images + 0.3 * by,  # brightness
        mean + (images - mean) * (1 + 0.5 * by),  # contrast
        grey + (images - grey) * (1 + 0.6 * by),  # saturation
        (images * 7).round() / 7,  # posterise
        torch.where(images > 0.75 + 0.2 * by, 1 - images, images),  # solarise
    ]
    result = images
    for number, changed in enumerate(changes):
        result = torch.where((kind == number)[:, None, None, None], changed, result)
    return result


def changed_words(
    words: Sequence[str], synonyms: Mapping[str, Sequence[str]], generator: torch.Generator, strength: float = 0.1
) -> list[str]:
    """Return a text after one random operation of Easy Data Augmentation (Wei and Zou 2019).

    One of: a synonym for, insertion of a synonym of, a swap of, and deletion of, max(1, strength * length) words. Where
    no word has a synonym, words are swapped. A text of one word is returned as it is. strength: in (0, 1].
    """
    if not 0 < strength <= 1:
        raise CompanionError(f"strength {strength} of the text augmentation: expected a number in (0, 1].")
    result = list(words)
    if len(result) < 2:
        return result
    operation = _draw(4, generator)
    for _ in range(max(1, round(strength * len(result)))):
        known = [k for k, word in enumerate(result) if synonyms.get(word)]
        place = known[_draw(len(known), generator)] if known else 0
        if operation == 3 and len(result) > 2:
            del result[_draw(len(result), generator)]
        elif operation < 2 and known:
            near = synonyms[result[place]]
            other = near[_draw(len(near), generator)]
            if operation == 0:
                result[place] = other
            else:
                result.insert(_draw(len(result) + 1, generator), other)
        else:
            first, second = _draw(len(result), generator), _draw(len(result), generator)
            result[first], result[second] = result[second], result[first]
    return result


def _draw(number: int, generator: torch.Generator) -> int:
    return int(torch.randint(number, (), generator=generator))
