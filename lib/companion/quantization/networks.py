"""Networks that every quantizer here can take apart: convolutions, batch normalisations, ReLUs and sums as modules.

Post-training quantization swaps modules, so nothing that computes on maps may hide in a function: a sum is a `Sum`. All
networks take images (B, C, H, W) float32 in [0, 1], have `features(images)` -> (B, D) and `head`, and normalise
nothing. Only the head has a bias; those of convolutions would be redundant before a batch normalisation. "vgg" and
"resnet" are small; "vgg16", "resnet18" and "resnet50" are those of the paper with a stem for 32 x 32 images.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError

POOL = 0  # in a plan of VggLike


class Sum(nn.Module):
    """The sum of two maps of one shape, as a module that a toolkit can replace by its quantized sum."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Return left + right."""
        return left + right


class Features(nn.Module):
    """What all networks here share: `trunk` (images to maps), the largest value of each map, `head`."""

    def __init__(self, trunk: nn.Module, dimension: int, classes: int):
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(dimension, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, D) of images (B, C, H, W)."""
        maps = self.trunk(images)
        return F.max_pool2d(maps, maps.shape[2:]).flatten(1)  # unlike amax, quantized kernels have it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return self.head(self.features(images))


class VggLike(Features):
    """Plain 3x3 convolutions whose width doubles as the map shrinks, after VGG (Simonyan and Zisserman 2015).

    channels: of the images; classes: K; width: channels that the numbers of `plan` multiply; 0 there is a 2x2 pooling.
    With 3 channels, 10 classes and the defaults there are 133,000 weights, and H, W must be at least 8.
    """

    def __init__(self, channels: int, classes: int, width: int = 8, plan: Sequence[int] = (1, 0, 4, 0, 8, 8, 0, 16)):
        layers, wide = [], channels
        for step in plan:
            layers += [nn.MaxPool2d(2)] if step == POOL else _unit(wide, step * width)
            wide = wide if step == POOL else step * width
        super().__init__(nn.Sequential(*layers), wide, classes)


class Residual(nn.Module):
    """relu(branch + skip) of He et al. (2016); the skip is projected where the shape changes."""

    def __init__(self, branch: Sequence[nn.Module], inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(*branch)
        projected = stride != 1 or inputs != outputs
        self.skip = nn.Sequential(*_unit(inputs, outputs, stride, 1)[:2]) if projected else nn.Identity()
        self.sum, self.relu = Sum(), nn.ReLU()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return relu(branch + skip)."""
        return self.relu(self.sum(self.branch(maps), self.skip(maps)))


class ResNetLike(Features):
    """A stem and stages of residual blocks, all but the first of stride 2, after ResNet (He et al. 2016).

    channels: of the images; classes: K; width: channels of the first stage, doubled in each next one; blocks: how many
    in each stage; pool: halve the maps behind the stem; bottleneck: blocks of three convolutions with four times the
    channels at their ends, as in ResNet-50. With 3 channels, 10 classes and the defaults there are 78,000 weights.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1),
        pool: bool = True,
        bottleneck: bool = False,
    ):
        layers = [*_unit(channels, width), *([nn.MaxPool2d(2)] if pool else [])]
        inputs = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage and not block else 1
                wide = width * 2**stage
                layers.append(_bottleneck(inputs, wide, stride) if bottleneck else _basic(inputs, wide, stride))
                inputs = 4 * wide if bottleneck else wide
        super().__init__(nn.Sequential(*layers), inputs, classes)


_VGG16 = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8)
NETWORKS = {
    "vgg": VggLike,
    "resnet": ResNetLike,
    "vgg16": partial(VggLike, width=64, plan=_VGG16),
    "resnet18": partial(ResNetLike, width=64, blocks=(2, 2, 2, 2), pool=False),
    "resnet50": partial(ResNetLike, width=64, blocks=(3, 4, 6, 3), pool=False, bottleneck=True),
}


def build_network(name: str, channels: int, classes: int, generator: torch.Generator, **settings) -> nn.Module:
    """Return the network `name` of NETWORKS with initial weights from `generator` alone, as channels_last.

    settings: further arguments of the network, such as `width`. Raises `CompanionError` for an unknown name and for
    settings that the network does not have.
    """
    if name not in NETWORKS:
        raise CompanionError(f'unknown network "{name}" to quantize: expected one of {", ".join(NETWORKS)}.')
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(seed)
        try:
            model = NETWORKS[name](channels, classes, **settings)
        except TypeError as error:
            raise CompanionError(f'network "{name}" with settings {settings}: {error}. Check the settings.') from error
    return model.to(memory_format=torch.channels_last)


def _unit(inputs: int, outputs: int, stride: int = 1, side: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _basic(inputs: int, outputs: int, stride: int) -> Residual:
    branch = [*_unit(inputs, outputs, stride), *_unit(outputs, outputs)[:2]]
    return Residual(branch, inputs, outputs, stride)


def _bottleneck(inputs: int, width: int, stride: int) -> Residual:
    branch = [*_unit(inputs, width, side=1), *_unit(width, width, stride), *_unit(width, 4 * width, side=1)[:2]]
    return Residual(branch, inputs, 4 * width, stride)
