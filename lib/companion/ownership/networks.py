"""The networks of the zoo: small ones (`companion.models.zoo`), and torchvision's that the authors trained.

torchvision's are changed for 32x32 images only in that they take any number of channels; like the small ones they have
`features` and a linear `head`. Their dropout is kept.
"""

import torch
from torch import nn

from companion.errors import CompanionError
from companion.models.zoo import FAMILIES, build_surrogate


class Large(nn.Module):
    """A torchvision network, cut before its last linear layer.

    name: a key of LARGE; channels: of the images; classes: K. Images are (B, C, H, W) float32 in [0, 1].
    """

    def __init__(self, name: str, channels: int, classes: int):
        super().__init__()
        import torchvision.models as factory  # takes a while, and only the paper's profile needs it

        self.trunk = getattr(factory, name)(weights=None, num_classes=classes)
        last = "fc" if name.startswith("resnet") else "classifier"
        block = getattr(self.trunk, last)
        if isinstance(block, nn.Sequential):
            self.head, block[-1] = block[-1], nn.Identity()
        else:
            self.head = block
            setattr(self.trunk, last, nn.Identity())
        if channels != 3:
            _replace_first(self.trunk, channels)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (B, D) of images (B, C, H, W)."""
        return self.trunk((images - 0.5) / 0.25)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return self.head(self.features(images))


LARGE = ("vgg16_bn", "vgg13_bn", "resnet18", "densenet121", "mobilenet_v2")


def build(
    architecture: tuple[str, int], channels: int, classes: int, side: int, generator: torch.Generator
) -> nn.Module:
    """Return a network for images (B, channels, side, side), its weights drawn from `generator`.

    architecture: a family of `companion.models.zoo` with its width, or one of LARGE, whose width is not read.
    Raises CompanionError for an unknown family.
    """
    family, width = architecture
    if family in FAMILIES:
        return build_surrogate(family, channels, classes, side, generator, width=width)
    if family not in LARGE:
        raise CompanionError(f"unknown network {family!r}: expected one of {', '.join([*FAMILIES, *LARGE])}.")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):  # torch.nn can only initialise from the global generator
        torch.default_generator.manual_seed(seed)
        return Large(family, channels, classes).to(memory_format=torch.channels_last)


def _replace_first(trunk: nn.Module, channels: int) -> None:
    """Let the first convolution take `channels` instead of three."""
    name, old = next((name, part) for name, part in trunk.named_modules() if isinstance(part, nn.Conv2d))
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    parent, _, leaf = name.rpartition(".")
    setattr(trunk.get_submodule(parent), leaf, new)
