"""Small networks of other families: inverted residuals at the strides of a CloFormer, and timm's transformer."""

import torch
from torch import nn

from companion.errors import CompanionError


class MobileNetLike(nn.Module):
    """Inverted residual blocks with depthwise convolutions (Sandler et al. 2018), in three stages.

    A 3x3 convolution of stride 2, then stages of w, 2w and 4w channels whose first block has stride 2, the last two
    with a second block; mean pooling and a linear head. With stem_stride 2 the first stage keeps its size.
    """

    def __init__(self, channels: int, classes: int, width: int, expansion: int = 3, stem_stride: int = 4):
        super().__init__()
        self.widths = [width, 2 * width, 4 * width]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(inplace=True)
        )
        self.stages = nn.ModuleList(
            [
                _InvertedResidual(width, width, stem_stride // 2, expansion),
                nn.Sequential(
                    _InvertedResidual(width, 2 * width, 2, expansion),
                    _InvertedResidual(2 * width, 2 * width, 1, expansion),
                ),
                nn.Sequential(
                    _InvertedResidual(2 * width, 4 * width, 2, expansion),
                    _InvertedResidual(4 * width, 4 * width, 1, expansion),
                ),
            ]
        )
        self.head = nn.Linear(4 * width, classes)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps [(B, C_i, H_i, W_i)] after each stage."""
        x, found = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return self.head(self.maps(images)[-1].mean(dim=(2, 3)))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        inner = inputs * expansion
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x) if self.shortcut else self.branch(x)


def vision_transformer(
    channels: int, classes: int, side: int, width: int, depth: int = 3, heads: int = 4, patch: int = 8
) -> nn.Module:
    """Return timm's vision transformer (Dosovitskiy et al. 2021) with mean pooling and an MLP ratio of 2.

    Raises `CompanionError` if patches do not tile an image of `side` pixels or heads do not split the width.
    """
    if patch < 1 or side % patch or width % heads:
        raise CompanionError(
            f"a transformer with patches of {patch} pixels on images of {side} pixels, and {heads} heads for a width "
            f"of {width}: expected divisors."
        )
    from timm.models.vision_transformer import VisionTransformer  # its import takes seconds

    return VisionTransformer(
        img_size=side, patch_size=patch, in_chans=channels, num_classes=classes, global_pool="avg", class_token=False,
        embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=2,
    )  # fmt: skip
