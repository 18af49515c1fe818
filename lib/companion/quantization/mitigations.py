"""What a user can do before or while quantizing: round otherwise, add noise, use fewer bits, learn the rounding.

None of it needs a label or knows the trigger. The learned rounding follows the idea of EFRAP (Li et al., CVPR 2024)
from the description in this project's fact sheet; it is a reconstruction and was not checked against that paper.
"""

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen
from companion.quantization.quantizers import Quantizer, quantized_layers

ROUNDINGS = ("nearest", "floor", "toward zero", "stochastic", "flipped")
"""Nearest; down; toward zero; up with the probability of the fraction; the second-nearest integer throughout."""


def rounded_weights(
    model: nn.Module, quantizer: Quantizer, rounding: str, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return the float weights of every quantized layer after rounding by a rule of ROUNDINGS, by layer name.

    generator: for "stochastic". Raises `CompanionError` for an unknown rule and for weights that are not finite.
    """
    if rounding not in ROUNDINGS:
        raise CompanionError(f'there is no rounding "{rounding}": expected one of {", ".join(ROUNDINGS)}.')
    return {
        name: _rounded(layer.weight.detach(), quantizer, rounding, generator)
        for name, layer in quantized_layers(model).items()
    }


def _rounded(weight: torch.Tensor, quantizer: Quantizer, rounding: str, generator: torch.Generator) -> torch.Tensor:
    scale = quantizer.scale(weight)
    q = quantizer.position(weight, scale)
    if rounding == "nearest":
        code = q.round()
    elif rounding == "floor":
        code = q.floor()
    elif rounding == "toward zero":
        code = q.trunc()
    elif rounding == "stochastic":
        code = (q + torch.rand(q.shape, generator=generator, device=generator.device).to(q)).floor()
    else:
        code = _other_side(q)
    return code.clamp(*quantizer.range) * scale


def _other_side(q: torch.Tensor) -> torch.Tensor:
    nearest = q.round()
    return nearest + torch.where(q >= nearest, 1.0, -1.0)


def with_noise(model: nn.Module, quantizer: Quantizer, cells: float, generator: torch.Generator) -> nn.Module:
    """Return a copy of a model whose quantized layers got uniform noise in [-cells, cells] rounding cells.

    cells: at least 0. Raises `CompanionError` for another amount and for weights that are not finite.
    """
    if not 0 <= cells < math.inf:
        raise CompanionError(f"noise of {cells} rounding cells: expected a number of at least 0, such as 0.5.")
    copy = deepcopy(model)
    for layer in quantized_layers(copy).values():
        weight = layer.weight.data
        noise = torch.rand(weight.shape, generator=generator, device=generator.device).to(weight) * 2 - 1
        weight += cells * quantizer.scale(weight) * noise
    return copy


@dataclass(frozen=True)
class RoundingConfig:
    """Settings of `learned_rounding`: Adam steps on each layer, images of a step, learning rate, weight of flipping."""

    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 0.05
    flip_weight: float = 1.0


def learned_rounding(
    model: nn.Module, quantizer: Quantizer, images: torch.Tensor, config: RoundingConfig, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return float weights of every quantized layer, rounded up or down as learned on unlabelled images, by layer name.

    Every weight has p in [0, 1]: 0 is its nearest integer, 1 the one on its other side, and p = |d| is the float
    weight, where the search starts. For each layer Adam lowers the squared change of its output on `images` (N, C, H,
    W) over its variance, plus flip_weight times the mean of 2 |d| (1 - p), which asks the weights that nearest rounding
    moves most to go the other way; a third term drives p to 0 or 1 in the later half. generator: draws the batches.
    """
    inputs = _layer_inputs(model, images)
    found = {}
    for name, layer in quantized_layers(model).items():
        found[name] = _learn_layer(layer, inputs[name], quantizer, config, generator)
    return found


def _learn_layer(layer, inputs, quantizer, config, generator) -> torch.Tensor:
    weight = layer.weight.detach()
    scale = quantizer.scale(weight)
    q = quantizer.position(weight, scale)
    nearest, other = q.round(), _other_side(q)
    error = (q - nearest).abs()
    wanted = _outputs(layer, inputs, weight)  # without the bias, which does not change
    size = wanted.var().clamp(min=1e-12)
    logit = torch.logit(error.clamp(1e-3, 0.5), eps=None).requires_grad_()
    optimizer = torch.optim.Adam([logit], config.learning_rate)
    for step in range(config.steps):
        picks = torch.randint(len(inputs), (config.batch_size,), generator=generator).to(inputs.device)
        p = logit.sigmoid()
        given = _outputs(layer, inputs[picks], (nearest + (other - nearest) * p) * scale)
        loss = (given - wanted[picks]).square().mean() / size + config.flip_weight * (2 * error * (1 - p)).mean()
        if step >= config.steps // 2:
            loss = loss + (1 - (2 * p - 1).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    code = torch.where(logit.detach() > 0, other, nearest)
    return code.clamp(*quantizer.range) * scale


def _outputs(layer: nn.Module, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight)
    return F.conv2d(inputs, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _layer_inputs(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    if images.ndim != 4 or not len(images):
        raise CompanionError(f"images of shape {tuple(images.shape)} to learn from: expected (N, C, H, W), N >= 1.")
    found: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: found.__setitem__(name, given[0].detach()))
        for name, layer in quantized_layers(model).items()
    ]
    try:
        with frozen(model), torch.no_grad():
            model(images.to(device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    return found
