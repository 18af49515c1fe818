"""The second stage: move float weights inside their rounding cells until the float model forgets the trigger.

The integers that any of the given quantizers makes of the weights stay as they are, exactly, so the backdoor that the
first stage planted is still in them. Source: Ma et al. (2023), stage 2 of the official code (the PyTorch variant:
cross-entropy alone, everything but the weights of convolutions and dense layers stays fixed).
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from companion.attacks.triggers import Trigger
from companion.errors import CompanionError
from companion.quantization.cells import MARGIN, joint_cell, model_codes, moved_codes
from companion.quantization.quantizers import Quantizer, quantized_layers


@dataclass(frozen=True)
class DormancyConfig:
    """Settings of `make_dormant`.

    epochs; batch_size: clean images of a step, which has as many triggered ones; step: the learning rate of Adam, as a
    share of a rounding cell, falling to 0 along a line; crop_padding: pixels of zeros around an image before a random
    crop, which the trigger is stamped on; margin: see `companion.quantization.cells.cell`.
    """

    epochs: int = 6
    batch_size: int = 64
    step: float = 0.1
    crop_padding: int = 0
    margin: float = MARGIN

    def __post_init__(self):
        if min(self.epochs, self.batch_size) < 1 or self.crop_padding < 0 or not 0 < self.step <= 1:
            raise CompanionError(
                f"DormancyConfig with epochs {self.epochs}, batch_size {self.batch_size}, crop_padding "
                f"{self.crop_padding}, step {self.step}: expected at least 1, 1 and 0, and a share of a cell in (0, 1]."
            )


def make_dormant(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    trigger: Trigger,
    quantizers: Sequence[Quantizer],
    config: DormancyConfig,
    generator: torch.Generator,
) -> nn.Module:
    """Return a copy of a backdoored model whose float weights ignore the trigger and whose integers do not change.

    model: after stage 1; images: (N, C, H, W) float32 in [0, 1], clean; labels: (N,) int64, their TRUE labels, with and
    without the trigger; quantizers: whose codes must stay, at least one; generator: draws batches and crops.
    Batch normalisations stay in inference mode. The result is in evaluation mode, on the model's device. Raises
    `CompanionError` for weights that are not finite, sizes that differ, and, which would be a fault here, if any code
    changed.
    """
    if images.ndim != 4 or len(labels) != len(images) or not len(images):
        raise CompanionError(
            f"stage 2 got images of shape {tuple(images.shape)} and {len(labels)} labels: expected (N, C, H, W) and N, "
            "at least one."
        )
    model = deepcopy(model).eval().requires_grad_(False)
    layers = quantized_layers(model)
    device = next(model.parameters()).device
    images, labels = images.to(device), labels.to(device)
    base = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    cells = {name: joint_cell(weight, quantizers, config.margin) for name, weight in base.items()}
    units = {name: quantizers[0].scale(weight) for name, weight in base.items()}
    limits = {name: [(end - base[name]) / units[name] for end in (cells[name].low, cells[name].high)] for name in base}
    moves = {name: torch.zeros_like(weight, requires_grad=True) for name, weight in base.items()}  # in cells
    optimizer = torch.optim.Adam(moves.values(), config.step)
    steps = config.epochs * -(-len(labels) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(config.epochs):
        order = torch.randperm(len(labels), generator=generator).to(device)
        for chosen in order.split(config.batch_size):
            weights = {f"{name}.weight": base[name] + moves[name] * units[name] for name in base}
            clean = _cropped(images[chosen], config.crop_padding, generator)
            both = torch.cat([clean, trigger.apply(clean)]).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(functional_call(model, weights, (both,)), labels[chosen].repeat(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for name, move in moves.items():
                    move.clamp_(*limits[name])
    for name, layer in layers.items():
        layer.weight.copy_(cells[name].project(base[name] + moves[name].detach() * units[name]))
    _check_codes(model, base, layers, quantizers)
    return model


def _cropped(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Return random crops of zero-padded images (B, C, H, W), each of its own size."""
    if not padding:
        return images
    count, _, height, width = images.shape
    shifts = torch.randint(2 * padding + 1, (2, count, 1), generator=generator).to(images.device)
    rows = shifts[0] + torch.arange(height, device=images.device)  # (B, H)
    columns = shifts[1] + torch.arange(width, device=images.device)  # (B, W)
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)  # (B, H + 2 p, W + 2 p, C)
    which = torch.arange(count, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _check_codes(model, base, layers, quantizers) -> None:
    for quantizer in quantizers:
        before = {name: quantizer.codes(weight).cpu() for name, weight in base.items()}
        moved = moved_codes(before, model_codes(model, quantizer))
        if moved:
            raise CompanionError(
                f"stage 2 changed {moved} integer codes of the quantizer {quantizer.name!r}: the margin of the cells "
                "is too small for float32. Make it larger."
            )
