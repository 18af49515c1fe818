"""Images of each class drawn out of a trained network, for a defender who has none (model inversion).

From noise, pixels are moved until the network is sure of the class, the image is smooth, and the means and variances
that its batch normalisations see are near the ones they remember from training. That is the recipe of Yin et al.
(CVPR 2020) without a teacher and student; how Guan et al. (CVPR 2022) invert models was not read.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen


@dataclass(frozen=True)
class Config:
    """Settings of the inversion.

    steps, learning_rate: Adam on the pixels before a sigmoid; variation: weight of the mean absolute difference of
    neighbouring pixels; magnitude: of the mean squared distance from grey; statistics: of the batch statistics; shift:
    images are rolled by up to this many pixels in each step, so that no structure depends on its exact place.
    """

    steps: int = 200
    learning_rate: float = 0.1
    variation: float = 0.5
    magnitude: float = 0.1
    statistics: float = 0.3
    shift: int = 2


def invert(
    model: nn.Module, shape: tuple[int, int, int], labels: torch.Tensor, config: Config, generator: torch.Generator
) -> torch.Tensor:
    """Return images (N, C, H, W) float32 in [0, 1], on the CPU, that `model` takes for `labels` (N,) int64.

    model: held in evaluation mode; shape: (C, H, W); generator: draws the noise and the shifts.
    Raises CompanionError for no label, and when the loss is not finite.
    """
    if labels.ndim != 1 or not len(labels):
        raise CompanionError(f"labels of shape {tuple(labels.shape)} to invert; expected (N,) with N >= 1.")
    device = device_of(model)
    labels = labels.to(device)
    free = torch.randn(len(labels), *shape, generator=generator, device=generator.device).to(device)
    free.requires_grad_()
    optimizer = torch.optim.Adam([free], config.learning_rate)
    with frozen(model), _Statistics(model) as statistics:
        for step in range(config.steps):
            images = free.sigmoid()
            shifts = torch.randint(-config.shift, config.shift + 1, (2,), generator=generator).tolist()
            loss = F.cross_entropy(model(images.roll(shifts, (2, 3))), labels)
            loss = loss + config.statistics * statistics.distance() + config.variation * total_variation(images)
            loss = loss + config.magnitude * (images - 0.5).square().mean()
            if not torch.isfinite(loss):
                raise CompanionError(
                    f"the loss of the inversion is {loss.item()} after {step} steps; check that the model gives "
                    "finite logits for images in [0, 1]."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return free.detach().sigmoid().cpu()


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of neighbouring pixels of images (N, C, H, W), a scalar."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    return down + (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()


class _Statistics:
    """Sees what enters each batch normalisation and says how far its moments are from the remembered ones."""

    def __init__(self, model: nn.Module):
        self.layers = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        self.seen: dict[nn.Module, torch.Tensor] = {}

    def __enter__(self) -> "_Statistics":
        self.handles = [layer.register_forward_pre_hook(self._see) for layer in self.layers]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _see(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.seen[layer] = inputs[0]

    def distance(self) -> torch.Tensor:
        """Return the mean squared distance of means and deviations, in remembered deviations, over channels and layers.

        It is 0 for a network without batch normalisation.
        """
        found = [torch.zeros(())]
        for layer, values in self.seen.items():
            deviation = (layer.running_var + layer.eps).sqrt()
            mean = (values.mean((0, 2, 3)) - layer.running_mean) / deviation
            spread = (values.var((0, 2, 3), correction=0) + layer.eps).sqrt() / deviation - 1
            found.append((mean.square().mean() + spread.square().mean()) / len(self.layers))
        return torch.stack([part.to(found[-1].device) for part in found]).sum()
