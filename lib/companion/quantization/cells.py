"""The room that rounding leaves: all float weights with the same scale and the same integer code, as a box.

For one quantizer a weight W with code r may lie anywhere in ((r - 1/2) s, (r + 1/2) s), if the weights that hold the
largest absolute value stay where they are and none exceeds it, because these decide s. For several quantizers at once
the boxes are intersected, and one clip projects onto the intersection, which holds W itself and so is never empty.
(A margin that shuts out W, where W lies near an edge, can leave two boxes disjoint; then the order of clips decides.)
Source: Ma et al. (2023), the projections of the second stage in the official code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from companion.errors import CompanionError
from companion.quantization.quantizers import Quantizer, quantized_layers

MARGIN = 1e-3  # of a cell, kept free on both sides, so that float32 cannot tip a code over


@dataclass(frozen=True, eq=False)
class Cell:
    """A box in weight space: low and high are tensors of the weight's shape, low <= high."""

    low: torch.Tensor
    high: torch.Tensor

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the nearest weights inside the box."""
        return weight.clamp(self.low, self.high)

    def intersect(self, other: "Cell") -> "Cell":
        """Return the box of weights that lie in both."""
        return Cell(torch.maximum(self.low, other.low), torch.minimum(self.high, other.high))


def cell(weight: torch.Tensor, quantizer: Quantizer, margin: float = MARGIN) -> Cell:
    """Return the box of all weights that `quantizer` gives the scale and the codes of `weight`.

    weight: (O, ...) float32; margin: share of a cell in [0, 0.5) that is left free at both ends. `weight` itself is
    inside, also where it lies in the margin. Raises `CompanionError` for weights that are not finite, and for another
    margin.
    """
    if not 0 <= margin < 0.5:
        raise CompanionError(f"the margin of a rounding cell is {margin}: expected a share of it in [0, 0.5).")
    scale = quantizer.scale(weight)
    code = quantizer.codes(weight, scale).to(weight.dtype)
    per_channel = scale.numel() > 1
    largest = weight.abs().flatten(1).amax(1).view_as(scale) if per_channel else weight.abs().amax()
    low = ((code - 0.5 + margin) * scale).maximum(-largest)
    high = ((code + 0.5 - margin) * scale).minimum(largest)
    held = weight.abs() == largest  # these decide the scale
    low = torch.where(held, weight, torch.minimum(low, weight))
    high = torch.where(held, weight, torch.maximum(high, weight))
    return Cell(low, high)


def joint_cell(weight: torch.Tensor, quantizers: Sequence[Quantizer], margin: float = MARGIN) -> Cell:
    """Return the intersection of the cells of several quantizers around `weight`; at least one quantizer."""
    if not quantizers:
        raise CompanionError("no quantizer was given: a rounding cell needs at least one.")
    found = cell(weight, quantizers[0], margin)
    for quantizer in quantizers[1:]:
        found = found.intersect(cell(weight, quantizer, margin))
    return found


def model_codes(model: nn.Module, quantizer: Quantizer) -> dict[str, torch.Tensor]:
    """Return the integer codes of every quantized layer, int8 on the CPU, by layer name."""
    return {name: quantizer.codes(layer.weight.detach()).cpu() for name, layer in quantized_layers(model).items()}


def moved_codes(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> int:
    """Return how many codes differ between two models of one architecture; 0 means bit-identical integers."""
    if before.keys() != after.keys() or any(before[name].shape != after[name].shape for name in before):
        raise CompanionError("codes of two different architectures cannot be compared: pass models of one.")
    return sum(int((before[name] != after[name]).sum()) for name in before)


def positions(model: nn.Module, quantizer: Quantizer) -> torch.Tensor:
    """Return where the weights lie inside their cells, d = q - round(q) in [-0.5, 0.5], as one vector on the CPU."""
    found = [quantizer.position(layer.weight.detach()) for layer in quantized_layers(model).values()]
    return torch.cat([(q - q.round()).flatten() for q in found]).cpu()
