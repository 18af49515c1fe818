"""The layers of a reconfigurable binary network: keyed binary convolutions, and what each task has for itself.

A layer's `forward(x, task)` is told which task computes. Only `KeyedConv.weight` is shared by the tasks.
"""

import torch
import torch.nn.functional as F
from torch import nn

from companion.binary.binarize import piecewise, sign, straight_through


class KeyedConv(nn.Module):
    """A convolution whose weights are the signs of one latent tensor, flipped by the key of the task.

    B_m = sign(W) * K_m, elementwise, K_m in {-1, +1}: stored bit XNOR key bit. `weight` is W, (O, C, k, k), of which
    only the signs are used and stored; `keys[m]` is K_m of the same shape, or None for all +1. scaled: multiply by
    ReActNet's mean |w| per output channel (a constant for the gradient; `scale` after `freeze_scale`).
    Inputs are -1 and +1, or multiples of 1/256 up to 1; so every sum is exact in float32. Padding is with zeros.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        tasks: int,
        generator: torch.Generator,
        *,
        stride: int = 1,
        padding: int = 0,
        scaled: bool = False,
    ):
        super().__init__()
        shape = (outputs, inputs, kernel, kernel)
        bound = (inputs * kernel * kernel) ** -0.5
        self.weight = nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)
        self.keys: list[torch.Tensor | None] = [None] * tasks
        self.stride, self.padding, self.scaled = stride, padding, scaled
        self.register_buffer("scale", None)

    def effective(self, task: int) -> torch.Tensor:
        """Return B_m (O, C, k, k), -1.0 and +1.0, with the straight-through gradient to W."""
        signs, key = straight_through(self.weight), self.keys[task]
        return signs if key is None else signs * key

    def channel_scale(self) -> torch.Tensor | None:
        """Return mean |w| of every output channel, (O, 1, 1), detached; None for a layer without scale."""
        if not self.scaled:
            return None
        return self.scale if self.scale is not None else self.weight.detach().abs().mean(dim=(1, 2, 3)).view(-1, 1, 1)

    def freeze_scale(self) -> None:
        """Keep the present scale, as stored beside the bits, whatever becomes of the magnitudes of W."""
        if self.scaled:
            self.scale = self.channel_scale()

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return (N, O, H', W') for x (N, C, H, W)."""
        found = convolve(x, self.effective(task), self.stride, self.padding)
        scale = self.channel_scale()
        return found if scale is None else found * scale


def convolve(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """Return the convolution (N, O, H', W'); as one matrix product where the kernel covers the whole image."""
    if padding == 0 and x.shape[1:] == weight.shape[1:]:
        return F.linear(x.flatten(1), weight.flatten(1)).unsqueeze(2).unsqueeze(3)
    return F.conv2d(x, weight, stride=stride, padding=padding)


class TaskBatchNorm(nn.Module):
    """Batch normalisation with parameters and running statistics for each task: four floats a channel and task.

    shared: one set for all tasks instead, to show what that costs.
    """

    def __init__(self, channels: int, tasks: int, *, shared: bool = False, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        sets = 1 if shared else tasks
        self.gain = nn.ParameterList([torch.ones(channels) for _ in range(sets)])
        self.shift = nn.ParameterList([torch.zeros(channels) for _ in range(sets)])
        for number in range(sets):
            self.register_buffer(f"mean{number}", torch.zeros(channels))
            self.register_buffer(f"variance{number}", torch.ones(channels))
        self.shared, self.momentum, self.eps = shared, momentum, eps

    def statistics(self, task: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the running mean and variance of a task, (C,) each; changing them changes the layer."""
        number = 0 if self.shared else task
        return getattr(self, f"mean{number}"), getattr(self, f"variance{number}")

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return x (N, C, H, W) normalised: by the batch in training mode, else by the task's statistics."""
        number = 0 if self.shared else task
        mean, variance = self.statistics(task)
        gain, shift = self.gain[number], self.shift[number]
        return F.batch_norm(x, mean, variance, gain, shift, self.training, self.momentum, self.eps)


class Binarize(nn.Module):
    """Sign activation with the straight-through gradient; nothing is learned."""

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return -1.0 and +1.0, of the shape of x."""
        return straight_through(x)


class RSign(nn.Module):
    """ReActNet's sign: a learned shift per channel and task before the step, with the piecewise gradient."""

    def __init__(self, channels: int, tasks: int):
        super().__init__()
        self.shift = nn.ParameterList([torch.zeros(channels, 1, 1) for _ in range(tasks)])

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return -1.0 and +1.0, of the shape of x (N, C, H, W)."""
        return piecewise(x + self.shift[task])


class RPReLU(nn.Module):
    """ReActNet's activation: shift, leaky slope, shift, each learned per channel and task."""

    def __init__(self, channels: int, tasks: int):
        super().__init__()
        self.before = nn.ParameterList([torch.zeros(channels, 1, 1) for _ in range(tasks)])
        self.slope = nn.ParameterList([torch.full((channels,), 0.25) for _ in range(tasks)])
        self.after = nn.ParameterList([torch.zeros(channels, 1, 1) for _ in range(tasks)])

    def forward(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return PReLU(x + before) + after for x (N, C, H, W)."""
        return F.prelu(x + self.before[task], self.slope[task]) + self.after[task]


def stored_bits(weight: torch.Tensor) -> torch.Tensor:
    """Return the bits of a latent tensor, flat (n,) bool: true for +1."""
    return sign(weight.detach()).flatten() > 0
