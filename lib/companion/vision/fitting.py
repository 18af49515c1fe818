"""Training with AdamW, which networks with attention need: one function for classification and dense prediction.

Batches, crops and whatever the layers draw come from the generator passed in; torch's global state stays untouched.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class FitConfig:
    """Settings of `fit`: AdamW (betas 0.9 and 0.999) under a one-cycle schedule.

    learning_rate is the highest: it is reached linearly after the `warmup` share of all steps and falls to 0 along a
    cosine. weight_decay spares parameters of one dimension, as the paper's recipe does; clip: largest norm of the
    gradient; crop_padding: pixels of zeros around an image before a random crop of its own size (0: none; for targets
    that do not move with the image only).
    """

    epochs: int = 20
    batch_size: int = 50
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.2
    clip: float = 5.0
    crop_padding: int = 0

    def __post_init__(self):
        expected = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2, because batch normalisation needs two images"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a positive number"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "warmup": (0 <= self.warmup < 1, "a share of all steps, in [0, 1)"),
            "clip": (self.clip > 0, "a positive number"),
            "crop_padding": (self.crop_padding >= 0, "at least 0 pixels"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise CompanionError(f"FitConfig.{name} is {getattr(self, name)!r}: expected {wanted}.")


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) after clipping the gradient to a norm, on all parameters as one vector.

    The same as `torch.optim.AdamW` with betas 0.9 and 0.999 and eps 1e-8, where parameters of one dimension do not
    decay. One vector makes a step of a small network two to three times faster, and importing PyTorch's optimisers
    takes seconds, because they load its compiler.
    """

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float, clip: float):
        self.parameters, self.clip, self.steps = parameters, clip, 0
        decays = [torch.full_like(one, weight_decay if one.ndim > 1 else 0.0).flatten() for one in parameters]
        self.decay = torch.cat(decays)  # (P,)
        self.mean, self.square = torch.zeros_like(self.decay), torch.zeros_like(self.decay)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters against their gradients, which are then taken away."""
        self.steps += 1
        gradient = torch.cat([one.grad.flatten() for one in self.parameters])
        gradient *= (self.clip / (gradient.norm() + 1e-6)).clamp(max=1)
        self.mean.lerp_(gradient, 0.1)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (self.square / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        values = torch.cat([one.flatten() for one in self.parameters])
        values.mul_(1 - rate * self.decay).addcdiv_(self.mean, root, value=-rate / (1 - 0.9**self.steps))
        pieces = values.split([one.numel() for one in self.parameters])
        for one, piece in zip(self.parameters, pieces, strict=True):
            one.copy_(piece.view(one.shape))  # keeps the layout in memory
            one.grad = None


def fit(
    model: nn.Module,
    images: torch.Tensor,
    targets: tuple[torch.Tensor, ...],
    loss: Loss,
    config: FitConfig,
    generator: torch.Generator,
    device: str | torch.device = "cpu",
) -> list[float]:
    """Train `model` in place and return the mean loss of each epoch; it is left in evaluation mode on `device`.

    images: (N, C, H, W) float32; targets: tensors (N, ...); loss: called as `loss(model(batch), *targets of the
    batch)`, returns a scalar; generator: on the CPU, draws order, crops and the seed of the layers' own randomness.
    Images that do not fill a batch are left out of an epoch, other ones each time.
    Raises `CompanionError` for targets of another length, fewer images than a batch, and a loss that is not finite.
    """
    if len(images) < config.batch_size or any(len(one) != len(images) for one in targets):
        raise CompanionError(
            f"fit got {len(images)} images, targets of {[len(one) for one in targets]} and batches of "
            f"{config.batch_size}: expected as many targets as images, and at least one batch."
        )
    model.to(device=device, memory_format=torch.channels_last).train()
    padded = F.pad(images, [config.crop_padding] * 4).permute(0, 2, 3, 1).contiguous().to(device)  # (N, H', W', C)
    targets = tuple(one.to(device) for one in targets)
    optimizer = AdamW([one for one in model.parameters() if one.requires_grad], config.weight_decay, config.clip)
    per_epoch = len(images) // config.batch_size
    history, step = [], 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for _ in range(config.epochs):
            total = 0.0
            order = torch.randperm(len(images), generator=generator)
            for chosen in order.split(config.batch_size)[:per_epoch]:
                rate = config.learning_rate * one_cycle(step, per_epoch * config.epochs, config.warmup)
                batch = _cropped(padded, chosen, config.crop_padding, generator)
                value = loss(model(batch), *(one[chosen.to(one.device)] for one in targets))
                value.backward()
                optimizer.step(rate)
                total += _checked(value.item(), rate)
                step += 1
            history.append(total / per_epoch)
    model.eval()
    return history


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Return the share of the highest learning rate at `step` in [0, steps).

    >>> [round(one_cycle(step, 4, 0.5), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rising = math.floor(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def smoothed_cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits (B, K) with labels (B,) smoothed by 0.1, as in the paper's recipe."""
    return F.cross_entropy(scores, labels, label_smoothing=0.1)


def _cropped(padded: torch.Tensor, chosen: torch.Tensor, pad: int, generator: torch.Generator) -> torch.Tensor:
    """Return a batch (B, C, H, W) of the padded images (N, H', W', C), each shifted by up to `pad` pixels."""
    if not pad:
        return padded[chosen.to(padded.device)].permute(0, 3, 1, 2)
    height, width = padded.shape[1] - 2 * pad, padded.shape[2] - 2 * pad
    shifts = torch.randint(2 * pad + 1, (2, len(chosen), 1), generator=generator)
    rows = (shifts[0] + torch.arange(height)).to(padded.device)  # (B, H)
    columns = (shifts[1] + torch.arange(width)).to(padded.device)  # (B, W)
    batch = padded[chosen.to(padded.device)[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return batch.permute(0, 3, 1, 2)


def _checked(value: float, rate: float) -> float:
    if not math.isfinite(value):
        raise CompanionError(
            f"the training loss is {value} at learning rate {rate:.3g}: expected a finite number. Lower "
            "FitConfig.learning_rate."
        )
    return value
