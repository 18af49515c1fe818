"""Integer inference emulated in float: rounded weights, and activations rounded on their way into every layer.

The arithmetic of a real toolkit differs in where activations are rounded and in how wide its accumulators are; the
tests and the chapter hold the emulators against PyTorch's integer kernels. Gradients pass the rounding of activations
unchanged inside their range (straight through), so defences that optimise an input can be run on an integer model.
"""

from copy import deepcopy

import torch
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of
from companion.quantization.quantizers import Quantizer, affine, check_bits, quantized_layers

REDUCED = {"fbgemm": 7}  # PyTorch's server kernels get activations of 7 bits, so that 16-bit sums cannot overflow


class RoundedInput(nn.Module):
    """A layer behind the rounding of its input to affine codes of `bits` bits with a fixed scale and zero point."""

    def __init__(self, layer: nn.Module, low: float, high: float, bits: int):
        super().__init__()
        self.layer = layer
        self.scale, self.zero_point = affine(low, high, bits)
        self.top = 2**bits - 1

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return layer(rounded values)."""
        rounded = torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, 0, self.top)
        return self.layer(rounded)


def calibrate(model: nn.Module, images: torch.Tensor, batch_size: int = 250) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest input of every quantized layer over images (N, C, H, W), by layer name."""
    if images.ndim != 4 or not len(images):
        raise CompanionError(
            f"calibration images have shape {tuple(images.shape)}: expected (N, C, H, W) with N >= 1, for example 100 "
            "training images."
        )
    found: dict[str, tuple[float, float]] = {}

    def observe(name):
        def hook(_, inputs):
            low, high = (float(value) for value in inputs[0].aminmax())
            least, most = found.get(name, (low, high))
            found[name] = min(low, least), max(high, most)

        return hook

    hooks = [layer.register_forward_pre_hook(observe(name)) for name, layer in quantized_layers(model).items()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            for batch in images.to(device_of(model)).split(batch_size):
                model(batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def emulate(
    model: nn.Module, quantizer: Quantizer, calibration: torch.Tensor, activation_bits: int | None = 8
) -> nn.Module:
    """Return a copy of a model that computes as the integer model would.

    quantizer: for the weights; calibration: images (N, C, H, W) that give the ranges of activations; activation_bits: 2
    to 8, or None to leave activations in float, so that the weights' rounding can be seen alone. The model "fbgemm"
    gets one bit less than 8, as PyTorch does. Raises `CompanionError` for bits outside 2 to 8 and non-finite weights.
    """
    if activation_bits is not None:
        check_bits(activation_bits, "activations")
        activation_bits = min(activation_bits, REDUCED.get(quantizer.name, 8))
    weights = {name: quantizer.rounded(layer.weight.detach()) for name, layer in quantized_layers(model).items()}
    return emulate_weights(model, weights, calibration, activation_bits)


def emulate_weights(
    model: nn.Module, weights: dict[str, torch.Tensor], calibration: torch.Tensor, activation_bits: int | None = 8
) -> nn.Module:
    """Return a copy of a model with the given float weights of its quantized layers, by name; see `emulate`."""
    if activation_bits is not None:
        check_bits(activation_bits, "activations")
    ranges = calibrate(model, calibration) if activation_bits is not None else {}
    copy = deepcopy(model).eval()
    for name, layer in quantized_layers(copy).items():
        layer.weight.data.copy_(weights[name])
        if activation_bits is not None:
            parent, _, own = name.rpartition(".")
            setattr(copy.get_submodule(parent), own, RoundedInput(layer, *ranges[name], activation_bits))
    return copy.requires_grad_(False)
