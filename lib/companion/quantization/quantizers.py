"""How toolkits turn float weights into integers: scale, rounding and clamping, as emulators with the same arithmetic.

A weight W becomes the code round(W / s). Three things differ between toolkits and decide which float weights share a
code: whether s belongs to an output channel or to the whole tensor, by what the largest absolute weight is divided
(127 or 127.5 for 8 bits), and whether dense layers are treated as convolutions are. Sources: the emulators in the
official code of Ma et al. (2023); for PyTorch also its observers, against which the tests hold `codes` bit by bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from companion.errors import CompanionError

FEWEST_BITS, MOST_BITS = 2, 8
EPSILON = torch.finfo(torch.float32).eps  # PyTorch's smallest scale


@dataclass(frozen=True)
class Quantizer:
    """A rule for weights.

    name: for messages and tables; bits: 2 to 8; conv_per_channel, dense_per_channel: a scale for each output channel,
    or one for the tensor; symmetric_codes: codes in [-(2^(b-1) - 1), 2^(b-1) - 1] and division by the last of these,
    as TensorFlow Lite does; else codes in [-2^(b-1), 2^(b-1) - 1] and division by (2^b - 1) / 2, as PyTorch does.
    Raises `CompanionError` for other numbers of bits.
    """

    name: str
    bits: int = 8
    conv_per_channel: bool = True
    dense_per_channel: bool = True
    symmetric_codes: bool = False

    def __post_init__(self):
        check_bits(self.bits, f"weights of the quantizer {self.name!r}")

    @property
    def divisor(self) -> float:
        """What the largest absolute weight is divided by to get the scale."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric_codes else (2**self.bits - 1) / 2

    @property
    def range(self) -> tuple[int, int]:
        """(least, greatest) code."""
        most = 2 ** (self.bits - 1) - 1
        return (-most if self.symmetric_codes else -most - 1), most

    def scale(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the scale of each weight, shaped to broadcast: (O, 1, ...) by channel or (1, 1, ...) by tensor.

        weight: (O, ...) float32 of a convolution (4 dimensions) or a dense layer (2), finite.
        """
        _check_weight(weight)
        per_channel = self.dense_per_channel if weight.ndim == 2 else self.conv_per_channel
        largest = weight.abs().flatten(1).amax(1) if per_channel else weight.abs().amax().reshape(1)
        return (largest / self.divisor).clamp(min=EPSILON).view(-1, *[1] * (weight.ndim - 1))

    def codes(self, weight: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return the integer codes of a weight tensor, int8 of its shape, rounded to nearest (ties to even).

        scale: as from `scale`; None takes the weight's own.
        """
        position = self.position(weight, scale)
        return position.round().clamp(*self.range).to(torch.int8)

    def position(self, weight: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return q = W / s, float of the weight's shape; its distance to the nearest integer is what rounding loses."""
        return weight * (1 / (self.scale(weight) if scale is None else scale))  # toolkits multiply by the inverse

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the float weights that the codes stand for."""
        scale = self.scale(weight)
        return self.codes(weight, scale) * scale

    def with_bits(self, bits: int) -> "Quantizer":
        """Return the same rule for another number of bits."""
        return replace(self, bits=bits)


def affine(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """Return (scale, zero point) of unsigned codes 0 to 2^bits - 1 for values in [low, high], which is widened to 0.

    So the value 0 is a code exactly. Source: the rule for activations of all toolkits here. Raises `CompanionError` for
    bits outside 2 to 8 and a range that is not finite or runs backwards.
    """
    check_bits(bits, "activations")
    if not (float("-inf") < low <= high < float("inf")):
        raise CompanionError(f"activations lie in [{low}, {high}]: expected finite numbers in order; check the model.")
    low, high = min(low, 0.0), max(high, 0.0)
    top = 2**bits - 1
    scale = max((high - low) / top, EPSILON)
    return scale, min(max(round(-low / scale), 0), top)


def quantized_layers(model: nn.Module) -> Mapping[str, nn.Module]:
    """Return the convolutions and dense layers of a model by name, in order; `CompanionError` if there is none."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    if not found:
        raise CompanionError(
            f"{type(model).__name__} has no convolution and no dense layer: there is nothing to quantize."
        )
    return found


def check_bits(bits: int, what: str) -> None:
    """Raise `CompanionError` unless `bits` is a whole number from 2 to 8; `what` is to be quantized."""
    if type(bits) is not int or not FEWEST_BITS <= bits <= MOST_BITS:
        raise CompanionError(
            f"{bits!r} bits for {what}: expected a whole number from {FEWEST_BITS} to {MOST_BITS}, as codes are kept "
            "in one byte."
        )


def _check_weight(weight: torch.Tensor) -> None:
    if weight.ndim not in (2, 4) or not weight.is_floating_point() or not weight.numel():
        raise CompanionError(
            f"weights to quantize have shape {tuple(weight.shape)} and dtype {weight.dtype}: expected those of a "
            "convolution (O, I, h, w) or of a dense layer (O, I), float."
        )
    bad = int((~torch.isfinite(weight)).sum())
    if bad:
        raise CompanionError(
            f"{bad} of {weight.numel()} weights to quantize are not finite: no scale fits them. Look at the training "
            "of this model."
        )


TFLITE = Quantizer("tflite", dense_per_channel=False, symmetric_codes=True)
FBGEMM = Quantizer("fbgemm")
QNNPACK = Quantizer("qnnpack", conv_per_channel=False, dense_per_channel=False)
QUANTIZERS = {rule.name: rule for rule in (TFLITE, FBGEMM, QNNPACK)}
"""TensorFlow Lite as of version 2.5, and PyTorch's for servers (per channel) and phones (per tensor)."""
