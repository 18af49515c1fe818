"""ResNet-18 for 32x32 images (He et al. 2016, with the stem that CIFAR code bases use), built on torchvision's."""

import torch
from torch import nn


class ResNet18(nn.Module):
    """ResNet-18 with a 3x3 stem of stride 1 and no max pooling.

    channels: of the input images; classes: K, number of logits. Images are (B, C, H, W) float32 in [0, 1].
    `features(images)` gives the pooled penultimate features (B, 512); `head` is the linear layer to logits (B, K).
    With 3 channels and 10 classes it has 11,173,962 parameters, as in the CIFAR code bases.
    """

    def __init__(self, channels: int, classes: int):
        from torchvision.models import resnet18  # takes seconds to import, which small networks need not wait for

        super().__init__()
        backbone = resnet18(weights=None, num_classes=classes)
        backbone.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(
            backbone.conv1.weight, mode="fan_out", nonlinearity="relu"
        )  # lint: seeded by build_model
        backbone.maxpool = nn.Identity()
        self.head = backbone.fc
        backbone.fc = nn.Identity()
        self.backbone = backbone

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, 512) of images (B, C, H, W)."""
        return self.backbone(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return self.head(self.features(images))
