"""Networks without batch normalisation, small enough that hundreds of them are trained side by side.

They have no buffers and no randomness of their own, so a stack of their parameters is all there is to know of many
(`companion.fleet`). The three depths are those on which detectors of backdoors are compared.
"""

import torch
from torch import nn
from torch.nn import functional as F

from companion.errors import CompanionError


class ConvNet(nn.Module):
    """Convolutions of 3x3 with ReLU, then a dense layer of `hidden` neurons with ReLU, and a linear head.

    channels, side: of the images (B, channels, side, side), float32 in [0, 1]; classes: K; widths: channels of each
    convolution; strides: of each; hidden: D. `features` gives (B, D), `activations` names the modules whose outputs are
    the network's neurons, from early to late.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        classes: int,
        widths: tuple[int, ...] = (8, 16),
        strides: tuple[int, ...] = (2, 2),
        hidden: int = 32,
    ):
        super().__init__()
        _check(side, strides)
        layers, inputs = [], channels
        for width, stride in zip(widths, strides, strict=True):
            layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.ReLU()]
            inputs, side = width, -(-side // stride)
        layers += [nn.Flatten(), nn.Linear(inputs * side * side, hidden), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(hidden, classes)

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the ReLU modules, from early to late."""
        return tuple(f"trunk.{i}" for i, layer in enumerate(self.trunk) if isinstance(layer, nn.ReLU))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, D), which are >= 0."""
        return self.trunk(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        return self.head(self.features(images))


class Sum(nn.Module):
    """ReLU of the sum of a block's branch and its shortcut, a module so that a probe can stand on it."""

    def forward(self, branch: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        """Return max(branch + shortcut, 0)."""
        return F.relu(branch + shortcut)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), without batch normalisation.

    The second convolution starts at a tenth of its usual size, so that a block starts near the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)
        self.sum = Sum()
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps (B, outputs, H / stride, W / stride)."""
        return self.sum(self.second(self.relu(self.first(maps))), self.shortcut(maps))


class ResidualNet(nn.Module):
    """A stem of stride 2 and three residual blocks, the second of stride 2, then as `ConvNet`."""

    def __init__(self, channels: int, side: int, classes: int, width: int = 8, hidden: int = 32):
        super().__init__()
        _check(side, (2, 2))
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU())
        sizes = [(width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        self.blocks = nn.Sequential(*[ResidualBlock(*size) for size in sizes])
        side = -(-side // 4)
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(2 * width * side * side, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, classes)

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the stem's ReLU, of the sums (the Add layers) and of the dense ReLU, from early to late."""
        return ("stem.1", *[f"blocks.{i}.sum" for i in range(len(self.blocks))], "dense.2")

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, D), which are >= 0."""
        return self.dense(self.blocks(self.stem(images)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        return self.head(self.features(images))


def _conv2(channels, side, classes, width=8, hidden=32) -> ConvNet:
    return ConvNet(channels, side, classes, (width, 2 * width), (2, 2), hidden)


def _conv4(channels, side, classes, width=8, hidden=32) -> ConvNet:
    return ConvNet(channels, side, classes, (width, width, 2 * width, 2 * width), (2, 1, 2, 1), hidden)


ARCHITECTURES = {"conv2": _conv2, "conv4": _conv4, "resnet": ResidualNet}
"""Two convolutions, four convolutions, and a residual network of seven; each takes `width` and `hidden`."""


def build_conv(
    name: str, shape: tuple[int, int, int], classes: int, generator: torch.Generator, **settings: int
) -> nn.Module:
    """Return the network `name` for images of `shape` (C, H, W), its weights drawn from `generator` (He's normal).

    name: a key of ARCHITECTURES; settings: `width` of the first convolution and `hidden` neurons of the dense layer.
    torch's global random state stays untouched. Raises CompanionError for an unknown name or setting, images that are
    not square or smaller than 8, and fewer than two classes.

    >>> build_conv("conv2", (1, 16, 16), 10, torch.Generator())(torch.zeros(3, 1, 16, 16)).shape
    torch.Size([3, 10])
    """
    channels, height, width = shape
    if name not in ARCHITECTURES:
        raise CompanionError(f'unknown network "{name}": expected one of {", ".join(ARCHITECTURES)}.')
    if height != width or classes < 2:
        raise CompanionError(f"a network for images {height} x {width} and {classes} classes: expected square images "
                             "and at least 2 classes.")  # fmt: skip
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(seed)
        try:
            model = ARCHITECTURES[name](channels, height, classes, **settings)
        except TypeError as error:
            raise CompanionError(f'network "{name}" with settings {settings}: {error}. Check the settings.') from error
    return model


def _check(side: int, strides: tuple[int, ...]) -> None:
    if side < 8 or any(stride not in (1, 2) for stride in strides):
        raise CompanionError(
            f"images of {side} pixels and strides {strides}: expected at least 8 pixels, strides 1 or 2."
        )
