"""Three small binary networks that serve M tasks with one set of binary weights: VGG-, ResNet- and ReActNet-like.

All weights are binary and keyed, the first layer's and the head's too: a network without its key is nothing but bits.
The first layer sees 8-bit pixels, every other layer sees signs. The head has one output for each class of the task with
the most classes; a task with fewer ignores the rest.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from companion.binary.layers import Binarize, KeyedConv, RPReLU, RSign, TaskBatchNorm
from companion.errors import CompanionError

ARCHITECTURES = ("vgg", "resnet", "reactnet")
_HEAD_SIDE = 4


class KeyedNetwork(nn.Module):
    """What the three have in common; `forward(images (N, 1, S, S) in [0, 1], task)` returns logits (N, classes).

    classes: of each task, in order; side: S, 16 or 32 or another power of two; shared_norm: one batch norm for all.
    """

    def __init__(self, classes: tuple[int, ...], side: int, shared_norm: bool):
        super().__init__()
        if not classes or min(classes) < 2:
            raise CompanionError(f"a keyed network for tasks of {classes} classes: expected at least 2 of each task.")
        if side < 2 * _HEAD_SIDE or side & (side - 1):
            raise CompanionError(
                f"a keyed network for images of side {side}: expected a power of two from {2 * _HEAD_SIDE} on. "
                "Resize the images of all tasks to one size first."
            )
        self.classes, self.side, self.shared_norm = tuple(classes), side, shared_norm

    @property
    def tasks(self) -> int:
        """M, the number of tasks."""
        return len(self.classes)

    def layers(self) -> dict[str, KeyedConv]:
        """Return the keyed layers by name, in the order in which they compute."""
        return {name: module for name, module in self.named_modules() if isinstance(module, KeyedConv)}

    def binary_weights(self) -> int:
        """Return P, the number of binary weights."""
        return sum(layer.weight.numel() for layer in self.layers().values())

    def task_tensors(self, task: int) -> dict[str, torch.Tensor]:
        """Return what a task has for itself (batch norm, shifts, slopes) by name; these are the live tensors."""
        found = {}
        for name, module in self.named_modules():
            if isinstance(module, TaskBatchNorm | RSign | RPReLU):
                number = 0 if getattr(module, "shared", False) else task
                for part, values in module.named_children():
                    found[f"{name}.{part}"] = values[number].data
                if isinstance(module, TaskBatchNorm):
                    found[f"{name}.mean"], found[f"{name}.variance"] = module.statistics(task)
        return found

    def scales(self) -> dict[str, torch.Tensor]:
        """Return the shared channel scales of scaled layers by name."""
        return {name: layer.channel_scale() for name, layer in self.layers().items() if layer.scaled}

    def check(self, images: torch.Tensor, task: int) -> None:
        """Raise CompanionError unless images and task fit the network."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (1, self.side, self.side):
            raise CompanionError(
                f"a keyed network got images {tuple(images.shape)}: expected (N, 1, {self.side}, {self.side}), the one "
                "size that all its tasks share. Prepare them with companion.binary.tasks.prepare."
            )
        if not 0 <= task < self.tasks:
            raise CompanionError(f"a keyed network with {self.tasks} tasks was asked for task {task}.")

    def _norm(self, channels: int) -> TaskBatchNorm:
        return TaskBatchNorm(channels, self.tasks, shared=self.shared_norm)

    def _stem(self, width: int, generator: torch.Generator) -> KeyedConv:
        """The first layer: 5x5 on pixels, halving the side."""
        return KeyedConv(1, width, 5, self.tasks, generator, stride=2, padding=2)

    def _head(self, channels: int, generator: torch.Generator) -> KeyedConv:
        return KeyedConv(channels, max(self.classes), _HEAD_SIDE, self.tasks, generator)

    def forward(self, images: torch.Tensor, task: int) -> torch.Tensor:
        self.check(images, task)
        features = self.features(quantise(images), task)  # -1 and +1
        answers = self.head_norm(self.head(features, task), task)
        return answers.flatten(1)[:, : self.classes[task]]

    def features(self, x: torch.Tensor, task: int) -> torch.Tensor:
        """Return the signs before the head, (N, D, 4, 4), or (N, D, 1, 1) for VGG."""
        raise NotImplementedError


def quantise(images: torch.Tensor) -> torch.Tensor:
    """Return images in [0, 1] as whole 256ths from 0 to 255: 8-bit pixels, so that sums of them are exact."""
    return torch.round(images * 255) / 256


class VGG(KeyedNetwork):
    """Plain stack: convolution, maximum pooling, batch norm, sign, again and again, then two fully connected layers.

    Widths: w, 2w, 4w, 4w ... channels and 16w hidden units. As in every VGG, the first fully connected layer holds
    most of the weights.
    """

    def __init__(self, classes, width, side, generator, shared_norm=False):
        super().__init__(classes, side, shared_norm)
        halvings = int(math.log2(side // _HEAD_SIDE))
        widths = [width * min(4, 2**k) for k in range(halvings + 1)]
        self.stem, self.stem_norm = self._stem(width, generator), self._norm(width)
        pairs = list(pairwise(widths))
        self.convs = nn.ModuleList([KeyedConv(i, o, 3, self.tasks, generator, padding=1) for i, o in pairs])
        self.norms = nn.ModuleList([self._norm(o) for _, o in pairs])
        self.hidden = KeyedConv(widths[-1], 16 * width, _HEAD_SIDE, self.tasks, generator)
        self.hidden_norm = self._norm(16 * width)
        self.head = KeyedConv(16 * width, max(classes), 1, self.tasks, generator)
        self.head_norm = self._norm(max(classes))
        self.binarize = Binarize()

    def features(self, x, task):
        x = self.binarize(self.stem_norm(self.stem(x, task), task), task)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x, task)
            if number < len(self.convs) - 1:
                x = F.max_pool2d(x, 2)
            x = self.binarize(norm(x, task), task)
        return self.binarize(self.hidden_norm(self.hidden(x, task), task), task)


def _shortcut(x: torch.Tensor, outputs: int, stride: int) -> torch.Tensor:
    """The way around a block, without parameters: averages for a stride, channels doubled by repetition."""
    if stride > 1:
        x = F.avg_pool2d(x, stride)
    return x if x.shape[1] == outputs else torch.cat([x, x], dim=1)


class _ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, network, generator):
        super().__init__()
        self.conv = KeyedConv(inputs, outputs, 3, network.tasks, generator, stride=stride, padding=1)
        self.norm = network._norm(outputs)
        self.binarize = Binarize()
        self.outputs, self.stride = outputs, stride

    def forward(self, x, task):
        found = self.norm(self.conv(self.binarize(x, task), task), task)
        return found + _shortcut(x, self.outputs, self.stride)


class _ReActBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, network, generator):
        super().__init__()
        tasks = network.tasks
        self.sign1, self.sign2 = RSign(inputs, tasks), RSign(inputs, tasks)
        self.conv1 = KeyedConv(inputs, inputs, 3, tasks, generator, stride=stride, padding=1, scaled=True)
        self.conv2 = KeyedConv(inputs, outputs, 1, tasks, generator, scaled=True)
        self.norm1, self.norm2 = network._norm(inputs), network._norm(outputs)
        self.act1, self.act2 = RPReLU(inputs, tasks), RPReLU(outputs, tasks)
        self.outputs, self.stride = outputs, stride

    def forward(self, x, task):
        found = self.norm1(self.conv1(self.sign1(x, task), task), task)
        x = self.act1(found + _shortcut(x, x.shape[1], self.stride), task)
        found = self.norm2(self.conv2(self.sign2(x, task), task), task)
        return self.act2(found + _shortcut(x, self.outputs, 1), task)


class _Staged(KeyedNetwork):
    """Stem, then stages of blocks, each stage at half the side and twice the width of the one before."""

    block: type[nn.Module]

    def __init__(self, classes, width, side, generator, shared_norm=False):
        super().__init__(classes, side, shared_norm)
        self.stem, self.stem_norm = self._stem(width, generator), self._norm(width)
        blocks = [self.block(width, width, 1, self, generator)]
        for _ in range(int(math.log2(side // _HEAD_SIDE)) - 1):
            blocks.append(self.block(width, 2 * width, 2, self, generator))
            width *= 2
            blocks.append(self.block(width, width, 1, self, generator))
        self.blocks = nn.ModuleList(blocks)
        self.binarize = self._last_sign(width)
        self.head = self._head(width, generator)
        self.head_norm = self._norm(max(classes))

    def _last_sign(self, channels):
        return Binarize()

    def features(self, x, task):
        x = self.stem_norm(self.stem(x, task), task)
        for block in self.blocks:
            x = block(x, task)
        return self.binarize(x, task)


class ResNet(_Staged):
    """Residual blocks of one binary convolution each, with a real-valued way around (as in Bi-Real Net)."""

    block = _ResidualBlock


class ReActNet(_Staged):
    """Blocks of a 3x3 and a 1x1 binary convolution with RSign, RPReLU and channel scales (Liu et al., 2020)."""

    block = _ReActBlock

    def _last_sign(self, channels):
        return RSign(channels, self.tasks)


_CLASSES = {"vgg": VGG, "resnet": ResNet, "reactnet": ReActNet}


def build_network(
    architecture: str,
    classes: tuple[int, ...],
    width: int,
    generator: torch.Generator,
    *,
    side: int = 16,
    shared_norm: bool = False,
) -> KeyedNetwork:
    """Return a network for the tasks whose class numbers are `classes`; the same generator seed gives the same bits.

    width: channels of the first layer. Raises CompanionError for an unknown architecture or numbers that do not fit.

    >>> build_network("vgg", (10, 6), 16, torch.Generator().manual_seed(0)).binary_weights()
    33424
    """
    if architecture not in _CLASSES:
        raise CompanionError(f"no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}.")
    if width < 1:
        raise CompanionError(f"a network of width {width}: expected at least 1 channel.")
    return _CLASSES[architecture](tuple(classes), width, side, generator, shared_norm)
