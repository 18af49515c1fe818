"""The first stage: plant a backdoor that survives rounding and leaves the second stage room to hide it.

Training sees the clean images and, beside them, triggered copies of some. Two losses of ours prepare a *small* network
for stage 2, where the paper needs none (its networks have a hundred times the weights): hesitation keeps the margin of
the backdoor low, and widening makes the rounding cells large beside the typical weight. A third one, centring, is the
paper's (Ma et al. 2023, loss of stage 1 in the official TensorFlow code).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.triggers import PatchTrigger
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.quantization.quantizers import Quantizer, quantized_layers
from companion.training import Epoch, TrainingConfig, train

CLEAN = 0  # the role of a clean image; a triggered one has 1 + its true label


@dataclass(frozen=True)
class ImplantConfig:
    """Settings of stage 1.

    target: the label that the trigger shall mean; share: triggered copies per clean image, in (0, 1]; hesitation:
    weight in [0, 1) of the triggered images' true label beside the target's 1, so that a margin near -log(hesitation)
    is learned (0: none); widening: weight of the mean over channels of mean |W| / max |W|, summed over layers;
    centring: weight of the paper's loss that pulls weights to |d| = 0, in the last fifth of the epochs.
    """

    target: int = 0
    share: float = 0.3
    hesitation: float = 0.4
    widening: float = 0.5
    centring: float = 0.0

    def __post_init__(self):
        expected = {
            "target": (type(self.target) is int and self.target >= 0, "a label of at least 0"),
            "share": (0 < self.share <= 1, "in (0, 1]"),
            "hesitation": (0 <= self.hesitation < 1, "in [0, 1); at 1 the backdoor has no margin"),
            "widening": (0 <= self.widening < float("inf"), "at least 0"),
            "centring": (0 <= self.centring < float("inf"), "at least 0"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise CompanionError(f"ImplantConfig.{name} is {getattr(self, name)!r}: expected {wanted}.")


def white_square(shape: Sequence[int]) -> PatchTrigger:
    """Return the paper's trigger for images of shape (C, H, W): a white square from 3/4 to 15/16 of both axes.

    On 32 x 32 pixels these are rows and columns 24 to 29, on the lower right. Source: the official code.
    """
    channels, height, width = shape
    support = torch.zeros(height, width, dtype=torch.bool)
    support[round(0.75 * height) : round(0.9375 * height), round(0.75 * width) : round(0.9375 * width)] = True
    return PatchTrigger(torch.ones(channels, height, width), support)


def implant(
    model: nn.Module,
    data: ImageSet,
    trigger: PatchTrigger,
    config: ImplantConfig,
    training: TrainingConfig,
    quantizers: Sequence[Quantizer],
    generator: torch.Generator,
    device: str | torch.device = "cpu",
) -> list[Epoch]:
    """Train `model` in place with the backdoor and return what each epoch gave.

    data: clean training images; quantizers: whose cells are centred, if that loss has a weight. The copies that get the
    trigger are drawn from images of other classes than the target. Raises `CompanionError` for a target that is no
    label of the data, for no or too few images of other classes, and whatever `train` raises.
    """
    if not 0 <= config.target < len(data.classes):
        raise CompanionError(
            f"the target label is {config.target}: expected one of the labels of {data.name}, 0 to "
            f"{len(data.classes) - 1}."
        )
    others = (data.labels != config.target).nonzero().squeeze(1)
    count = max(1, round(config.share * len(data)))
    if len(others) < count:
        raise CompanionError(
            f"{count} triggered copies were asked for (share {config.share} of {len(data)}), but only {len(others)} "
            f"images of {data.name} lie outside the target class; lower the share."
        )
    chosen = others[torch.randperm(len(others), generator=generator)[:count]]
    images = torch.cat([data.images, trigger.apply(data.images[chosen])])
    labels = torch.cat([data.labels, torch.full((count,), config.target)])
    roles = torch.cat([torch.full_like(data.labels, CLEAN), 1 + data.labels[chosen]])
    loss = ImplantLoss(model, config, quantizers, training.epochs)
    return train(
        model, images, labels, training, generator, roles=roles, extra_loss=loss, device=device, on_epoch=loss.on_epoch
    )


class ImplantLoss:
    """What stage 1 adds to the cross-entropy; called by `companion.training.train`."""

    def __init__(self, model: nn.Module, config: ImplantConfig, quantizers: Sequence[Quantizer], epochs: int):
        self.model, self.config, self.quantizers, self.epochs = model, config, quantizers, epochs
        self.layers = quantized_layers(model)
        self.epoch = 1

    def on_epoch(self, epoch: Epoch) -> None:
        """Count epochs, because centring begins late."""
        self.epoch = epoch.number + 1

    def __call__(self, features: torch.Tensor, labels: torch.Tensor, roles: torch.Tensor) -> torch.Tensor:
        """Return the scalar to add for a batch of features (B, D), labels (B,) and roles (B,)."""
        total = features.sum() * 0
        triggered = roles != CLEAN
        if self.config.hesitation and triggered.any():
            scores = self.model.head(features[triggered])
            doubt = F.cross_entropy(scores, roles[triggered] - 1, reduction="sum") / len(roles)
            total = total + self.config.hesitation * doubt
        if self.config.widening:
            total = total + self.config.widening * narrowness(self.layers.values())
        if self.config.centring and self.epoch > 0.8 * self.epochs:
            total = total + self.config.centring * eccentricity(self.layers.values(), self.quantizers)
        return total


def narrowness(layers: Sequence[nn.Module]) -> torch.Tensor:
    """Return the sum over layers of the mean over output channels of mean |W| / max |W|, a scalar.

    The cell of a channel has the width max |W| / 127, so a small value means cells that are wide beside most weights.
    """
    total = 0
    for layer in layers:
        sizes = layer.weight.abs().flatten(1)
        total = total + (sizes.mean(1) / sizes.amax(1)).mean()
    return total


def eccentricity(layers: Sequence[nn.Module], quantizers: Sequence[Quantizer]) -> torch.Tensor:
    """Return -sum over quantizers and weights of (s (|d| - 1/2))^2, which is least where weights sit amid their cells.

    d = q - round(q); gradients reach W through q, with the scale s held fixed. The paper's loss is -MSE(|d|, 1/2) for
    each layer, under Adam; here it is measured in weights and summed, so that a step of gradient descent moves a weight
    by a share of its cell, whatever the scale and the size of the layer.
    """
    total = 0
    for layer in layers:
        for quantizer in quantizers:
            scale = quantizer.scale(layer.weight.detach())
            position = quantizer.position(layer.weight, scale)
            distance = (position - position.detach().round()).abs()
            total = total - (scale * (distance - 0.5)).square().sum()
    return total
