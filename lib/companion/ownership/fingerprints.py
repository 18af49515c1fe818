"""Which samples a SAC fingerprint asks about, and what it takes from the answers.

SAC-normal asks about plain test images, SAC-w about images that the source model gets wrong, SAC-m about images with a
corner from another one (CutMix), SAC-JC about JPEG-compressed images. None needs a second model or a gradient.
Sources: Guan et al. 2022 (SAC-w, SAC-m), Guan et al. 2024 (SAC-JC, FRI), and what their code does.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.ownership.checks import check_images
from companion.ownership.corruptions import JPEG_QUALITY, jpeg

NEARLY_ZERO = 0.01  # of the other classes, in a label turned into a vector


def normal(held: ImageSet, count: int) -> torch.Tensor:
    """Return the first `count` held-out images (SAC-normal); raises CompanionError if there are fewer, or count < 2."""
    check_images(held.images)
    if not 2 <= count <= len(held):
        raise CompanionError(
            f"a fingerprint of {count} query samples from {len(held)} held-out images: expected 2 to {len(held)}. "
            "Take fewer samples or load more images."
        )
    return held.images[:count]


def misclassified(held: ImageSet, predicted: torch.Tensor, count: int) -> torch.Tensor:
    """Return the first `count` held-out images that the source model gets wrong (SAC-w), or all if there are fewer.

    predicted: (N,) int64, the source's predictions for the held-out images.
    Raises CompanionError if fewer than two are wrong, and if the shapes differ.
    """
    check_images(held.images)
    if predicted.shape != held.labels.shape:
        raise CompanionError(
            f"predictions of shape {tuple(predicted.shape)} for {len(held)} held-out images: expected one for each."
        )
    wrong = (predicted != held.labels).nonzero().flatten()[:count]
    if len(wrong) < 2:
        raise CompanionError(
            f"{len(wrong)} of {len(held)} held-out images are misclassified by the source: SAC-w needs at least 2. "
            "Hold out more images."
        )
    return held.images[wrong]


def cutmix_box(side: int, generator: torch.Generator, share: float = 0.2) -> tuple[slice, slice]:
    """Return rows and columns of SAC-m's box in an image of `side` pixels: int(share * side) long, in some corner.

    The centre is drawn until both of its coordinates lie in the outer sixth of the image; what sticks out is cut off.
    """
    length = int(share * side)
    if length < 1:
        raise CompanionError(f"a CutMix box of {share} of {side} pixels is empty: expected at least one pixel.")
    edge = side / 6
    while True:
        row, column = torch.randint(side, (2,), generator=generator).tolist()
        if all(place < edge or place >= side - edge for place in (row, column)):
            break
    start = [max(0, place - length // 2) for place in (row, column)]
    stop = [min(side, place - length // 2 + length) for place in (row, column)]
    return slice(start[0], stop[0]), slice(start[1], stop[1])


def cutmix(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images (N, C, S, S) in which one box, the same for all, comes from another image of the batch (SAC-m).

    generator: draws the box (`cutmix_box`) and the permutation that says from which image.
    """
    check_images(images)
    if len(images) < 2 or images.shape[2] != images.shape[3]:
        raise CompanionError(f"CutMix of images {tuple(images.shape)}: expected at least 2 square images.")
    rows, columns = cutmix_box(images.shape[2], generator)
    order = torch.randperm(len(images), generator=generator)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[order][:, :, rows, columns]
    return mixed


def label_only(logits: torch.Tensor) -> torch.Tensor:
    """Return what a model that tells labels alone gives to SAC: softmax of 1 at the answer and 0.01 elsewhere, (N, K).

    logits: (N, K). Only their argmax is used.
    """
    answer = F.one_hot(logits.argmax(1), logits.shape[1]).to(torch.float32)
    return (answer * (1 - NEARLY_ZERO) + NEARLY_ZERO).softmax(1)


def reference_features(embeddings: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Return features from reference images (FRI): cosines (N, M) of embeddings (N, D) with references (M, D).

    Both are of the same model, so that the result neither knows its dimension D nor a rotation of its space. This is
    our reading of the name FRI; the paper's definition was not available. Raises CompanionError if D differs.
    """
    if embeddings.ndim != 2 or references.ndim != 2 or embeddings.shape[1] != references.shape[1]:
        raise CompanionError(
            f"embeddings {tuple(embeddings.shape)} and reference embeddings {tuple(references.shape)}: expected (N, D) "
            "and (M, D) of the same model."
        )
    if not len(references):
        raise CompanionError("no reference image: features from reference images need at least one.")
    return F.normalize(embeddings, dim=1) @ F.normalize(references, dim=1).T


Predict = Callable[[torch.Tensor], torch.Tensor]
"""Gives the source's predicted labels (N,) of images (N, C, H, W); asked by SAC-w alone."""

VARIANTS: Mapping[str, Callable[[ImageSet, Predict, int, torch.Generator], torch.Tensor]] = {
    "normal": lambda held, predict, count, generator: normal(held, count),
    "wrong": lambda held, predict, count, generator: misclassified(held, predict(held.images), count),
    "cutmix": lambda held, predict, count, generator: cutmix(normal(held, count), generator),
    "jpeg": lambda held, predict, count, generator: jpeg(normal(held, count), JPEG_QUALITY[0]),
}
"""The variants of SAC, called with held-out images, the source's `predict`, a count and a generator."""
