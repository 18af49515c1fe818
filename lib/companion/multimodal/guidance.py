"""Guidance: which prompts a generator is asked about at every step, and how its answers become one prediction.

A guide holds for any U-Net, whether it predicts the noise, the picture or the velocity, as it only extrapolates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Guide:
    """texts: embeddings (N, L, d) of each prompt that is asked about; combine: the generator's answers to them, in
    order, to one prediction."""

    texts: tuple[torch.Tensor, ...]
    combine: Callable[..., torch.Tensor]

    def split(self, size: int) -> Iterator["Guide"]:
        """Yield the guides of at most `size` prompts each."""
        for texts in zip(*(one.split(size) for one in self.texts), strict=True):
            yield Guide(texts, self.combine)

    def predict(self, unet: nn.Module, latent: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        """Return the prediction for latents (N, C, h, w) at clock (N,), all prompts in one batch."""
        count, text = len(self.texts), torch.cat(self.texts)
        answers = unet(torch.cat([latent] * count), torch.cat([clock] * count), text, return_dict=False)[0]
        return self.combine(*answers.chunk(count))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Guide":
        """Return the guide with its embeddings elsewhere."""
        return Guide(tuple(one.to(device, dtype) for one in self.texts), self.combine)


def classifier_free(text: torch.Tensor, other: torch.Tensor, guidance: float) -> Guide:
    """Return x_other + guidance (x_text - x_other) (Ho and Salimans 2022); text (N, L, d), other (1, L, d).

    other: the empty prompt's embeddings, or those of a negative prompt.
    """
    return Guide((text, other.expand_as(text)), lambda with_text, without: without + guidance * (with_text - without))


def safe_guidance(
    text: torch.Tensor, empty: torch.Tensor, unsafe: torch.Tensor, guidance: float, scale: float, threshold: float
) -> Guide:
    """Return SLD-like guidance (Schramowski et al. 2023): guidance less scale * mask * (x_unsafe - x_empty).

    The mask has the elements in which the prompt's prediction lies closer to the concept's than `threshold`, so that
    unrelated prompts are steered less; text (N, L, d), empty and unsafe (1, L, d).
    """

    def combine(with_text: torch.Tensor, without: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        mask = (with_text - bad).abs() < threshold
        return without + guidance * (with_text - without - scale * mask * (bad - without))

    return Guide((text, empty.expand_as(text), unsafe.expand_as(text)), combine)
