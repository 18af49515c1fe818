"""Small networks of really different families for 32x32 images, between which attacks and fingerprints travel.

Each takes images (B, C, H, W) float32 in [0, 1], normalises them itself, and has `features(images)` -> (B, D),
`head`, and `layers`: the names of its inner layers from early to late, for methods that look inside. A network with
residual connections also has `branches()`, the modules whose output is added to a skip connection, and `skips()`.
The ViT and the MLP-mixer are timm's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.small import SmallCNN

MEAN, DEVIATION = 0.5, 0.25  # of a pixel, the same for every data set


class Surrogate(nn.Module):
    """What all families share: normalise, `trunk` (images to features), `head`."""

    layers: tuple[str, ...] = ()

    def __init__(self, trunk: nn.Module, dimension: int, classes: int):
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(dimension, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, D) of images (B, C, H, W)."""
        return self.trunk((images - MEAN) / DEVIATION)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return self.head(self.features(images))

    def branches(self) -> list[nn.Module]:
        """Return the modules whose output is added to a skip connection, from early to late."""
        return [part.branch for part in self.modules() if isinstance(part, Residual)]

    def skips(self) -> list[nn.Module]:
        """Return the modules on the skip connections, from early to late."""
        return [part.skip for part in self.modules() if isinstance(part, Residual)]


class Residual(nn.Module):
    """`after(skip(x) + branch(x))`."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None, after: nn.Module | None = None):
        super().__init__()
        self.branch, self.skip, self.after = branch, skip or nn.Identity(), after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of both ways."""
        return self.after(self.skip(x) + self.branch(x))


class PlainCNN(SmallCNN):
    """The small network of `companion.models.small` with its layers named; no residual connections."""

    layers = ("blocks.0", "blocks.1", "blocks.2")

    def __init__(self, channels: int, classes: int, side: int, width: int = 16):
        super().__init__(channels, classes, width)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, 4w) of images (B, C, H, W)."""
        return super().features((images - MEAN) / DEVIATION)

    def branches(self) -> list[nn.Module]:
        """Return no module: there are no residual connections."""
        return []

    def skips(self) -> list[nn.Module]:
        """Return no module: there are no residual connections."""
        return []


class ResidualNet(Surrogate):
    """A pre-pooled stem and three stages of one basic block (He et al. 2016), the later two of stride 2."""

    layers = ("trunk.1", "trunk.2", "trunk.3")

    def __init__(self, channels: int, classes: int, side: int, width: int = 16):
        stages = [_basic(width, width), _basic(width, 2 * width), _basic(2 * width, 4 * width)]
        super().__init__(nn.Sequential(_stem(channels, width), *stages, _Largest()), 4 * width, classes)


class MobileNet(Surrogate):
    """Inverted residual blocks with depthwise convolutions (Sandler et al. 2018)."""

    layers = ("trunk.1", "trunk.2", "trunk.3")

    def __init__(self, channels: int, classes: int, side: int, width: int = 16, expansion: int = 3):
        stem = _stem(channels, width)
        stages = [
            _inverted(width, width, 1, expansion),
            nn.Sequential(_inverted(width, 2 * width, 2, expansion), _inverted(2 * width, 2 * width, 1, expansion)),
            nn.Sequential(_inverted(2 * width, 4 * width, 2, expansion), _inverted(4 * width, 4 * width, 1, expansion)),
        ]
        super().__init__(nn.Sequential(stem, *stages, _Largest()), 4 * width, classes)


class MlpMixer(Surrogate):
    """timm's MLP-mixer (Tolstikhin et al. 2021), small: neither convolutions (but for its patches) nor attention."""

    def __init__(self, channels: int, classes: int, side: int, width: int = 64, depth: int = 3, patch: int = 4):
        from timm.models.mlp_mixer import MlpMixer as TimmMixer  # its import takes seconds

        _check_patches(side, patch)
        trunk = TimmMixer(
            img_size=side, patch_size=patch, in_chans=channels, num_classes=0, embed_dim=width, num_blocks=depth,
            mlp_ratio=(0.5, 2.0),
        )  # fmt: skip
        super().__init__(trunk, width, classes)
        self.layers = tuple(f"trunk.blocks.{index}" for index in range(depth))

    def branches(self) -> list[nn.Module]:
        """Return both mixing networks of every block, from early to late."""
        return [part for block in self.trunk.blocks for part in (block.mlp_tokens, block.mlp_channels)]


class VisionTransformer(Surrogate):
    """timm's vision transformer (Dosovitskiy et al. 2021), small, with mean pooling instead of a class token."""

    def __init__(
        self, channels: int, classes: int, side: int, width: int = 48, depth: int = 2, heads: int = 4, patch: int = 4
    ):
        from timm.models.vision_transformer import VisionTransformer as TimmTransformer  # its import takes seconds

        _check_patches(side, patch)
        trunk = TimmTransformer(
            img_size=side, patch_size=patch, in_chans=channels, num_classes=0, global_pool="avg", class_token=False,
            embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=2,
        )  # fmt: skip
        super().__init__(trunk, width, classes)
        self.layers = tuple(f"trunk.blocks.{index}" for index in range(depth))

    def branches(self) -> list[nn.Module]:
        """Return attention and MLP of every block, from early to late."""
        return [part for block in self.trunk.blocks for part in (block.attn, block.mlp)]


FAMILIES = {
    "cnn": PlainCNN,
    "resnet": ResidualNet,
    "mobile": MobileNet,
    "mixer": MlpMixer,
    "vit": VisionTransformer,
}
"""The families by the names that recipes use."""


def build_surrogate(
    family: str, channels: int, classes: int, side: int, generator: torch.Generator, **settings
) -> nn.Module:
    """Return a network of `family` for images (B, channels, side, side), its weights drawn from `generator`.

    family: "cnn", "resnet", "mobile", "mixer" or "vit"; settings: further arguments of the family, such as `width`.
    torch's global random state stays untouched. Raises `CompanionError` for an unknown family and for settings that
    it does not have or that do not fit the images.

    >>> build_surrogate("vit", 3, 10, 32, generator(0, "weights"), depth=2)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    if family not in FAMILIES:
        raise CompanionError(f'unknown family "{family}" of networks: expected one of {", ".join(FAMILIES)}.')
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(seed)
        try:
            model = FAMILIES[family](channels, classes, side, **settings)
        except (TypeError, AssertionError) as error:
            raise CompanionError(
                f'network "{family}" with settings {settings}: {error}. Check the settings.'
            ) from error
    return model.to(memory_format=torch.channels_last)


class AdversariallyTrained(nn.Module):
    """Wraps a network so that, while training, it sees its images after one step of FGSM.

    The step starts at a random point of the eps-ball, goes 1.25 eps along the sign of the gradient and is projected
    (Wong et al. 2020). It attacks the network's own prediction instead of the label, which needs no labels and keeps
    the network from learning to read the label off the perturbation (Kurakin et al. 2017).

    network: with `features` and `head`; eps: in [0, 1], of a pixel. In evaluation mode this is the network itself.
    The random start comes from torch's global state, which `companion.training.train` derives from its generator.
    """

    def __init__(self, network: nn.Module, eps: float):
        super().__init__()
        if not 0 <= eps <= 1:
            raise CompanionError(f"adversarial training got eps {eps}: expected pixels in [0, 1], such as 8 / 255.")
        self.network, self.eps = network, eps

    @property
    def head(self) -> nn.Module:
        """The network's linear layer."""
        return self.network.head

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, D), of perturbed images (B, C, H, W) while training."""
        return self.network.features(self._perturbed(images) if self.training else images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        return self.head(self.features(images))

    def _perturbed(self, images: torch.Tensor) -> torch.Tensor:
        start = torch.empty_like(images).uniform_(-self.eps, self.eps)  # lint: seeded by companion.training.train
        points = (images + start).clamp(0, 1).requires_grad_()
        scores = self.network(points)
        loss = F.cross_entropy(scores, scores.argmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
        moved = points.detach() + 1.25 * self.eps * gradient.sign()
        return torch.minimum(torch.maximum(moved, images - self.eps), images + self.eps).clamp(0, 1)


class _Largest(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.amax(dim=(2, 3))  # (B, C, H, W) to (B, C)


def _check_patches(side: int, patch: int) -> None:
    if patch < 1 or side % patch:
        raise CompanionError(f"patches of {patch} pixels do not tile images of {side} pixels: expected a divisor.")


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def _basic(inputs: int, outputs: int) -> nn.Module:
    branch = nn.Sequential(*_conv(inputs, outputs, 3), nn.ReLU(), *_conv(outputs, outputs, 3))
    skip = nn.Identity() if inputs == outputs else nn.Sequential(*_conv(inputs, outputs, 1))
    block = Residual(branch, skip, nn.ReLU())
    return block if inputs == outputs else nn.Sequential(nn.MaxPool2d(2), block)


def _stem(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _inverted(inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
    inner = inputs * expansion
    branch = nn.Sequential(
        *_conv(inputs, inner, 1), nn.ReLU6(), *_conv(inner, inner, 3, stride, groups=inner), nn.ReLU6(),
        *_conv(inner, outputs, 1),
    )  # fmt: skip
    return Residual(branch) if stride == 1 and inputs == outputs else branch
