"""The small network of the laptop profile: three convolution blocks, trained in seconds on one core.

A block pools before it normalises, as in D. Page, "How to train your ResNet" (2019, part 8), which takes a fifth off a
training step on a CPU: batch normalisation and ReLU then see a quarter of the values.
"""

import torch
from torch import nn


class SmallCNN(nn.Module):
    """Three blocks of 3x3 convolution, 2x2 max pooling, batch normalisation and ReLU, then a global max pool.

    channels: of the input images; classes: K, number of logits; width: channels w of the first block (then 2w and 4w).
    Images are (B, C, H, W) float32 in [0, 1] with H and W at least 8. `features(images)` gives the penultimate
    features (B, 4w), which are >= 0; `head` is the linear layer from them to logits (B, K).
    """

    def __init__(self, channels: int, classes: int, width: int = 24):
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        blocks = [_block(widths[i], widths[i + 1]) for i in range(3)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(4 * width, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, 4w) of images (B, C, H, W)."""
        maps = self.blocks(images)  # (B, 4w, H/8, W/8)
        return maps.amax(dim=(2, 3))  # (B, 4w)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return self.head(self.features(images))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()
    )
