"""The one form in which images and labels travel through the library."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    images: (N, C, H, W) float32 in [0, 1]; labels: (N,) int64 in [0, len(classes)); classes: a name for each label.
    name and split say where the images came from ("signs", "train").
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.images.shape[1:])

    def subset(self, indices: torch.Tensor) -> "ImageSet":
        """Return the images and labels at `indices` ((M,) int64 or (N,) bool), in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])
