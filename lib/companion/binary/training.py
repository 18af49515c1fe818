"""Training of one set of binary weights for many tasks at once, and evaluation under any key."""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.binary.layers import KeyedConv, TaskBatchNorm
from companion.binary.networks import KeyedNetwork
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.statistics import Proportion


@dataclass(frozen=True)
class BinaryTraining:
    """Settings of `train_tasks`: Adam, its learning rate falling along a cosine; latent weights stay in [-1, 1]."""

    epochs: int = 12
    batch_size: int = 50
    learning_rate: float = 0.01

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.learning_rate < math.inf:
            raise CompanionError(
                f"{self}: expected at least 1 epoch, batches of at least 2 and a positive learning rate."
            )


class Adam:
    """Adam (Kingma and Ba, 2015) over all parameters that have a gradient, at their usual settings 0.9, 0.999, 1e-8.

    The same numbers as torch.optim.Adam, without the seconds that it needs to load torch's compiler.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]):
        self.parameters = list(parameters)
        self.first = [torch.zeros_like(one) for one in self.parameters]
        self.second = [torch.zeros_like(one) for one in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient, and drop the gradients."""
        self.steps += 1
        used = [index for index, one in enumerate(self.parameters) if one.grad is not None]
        values, gradients = [self.parameters[k] for k in used], [self.parameters[k].grad for k in used]
        first, second = [self.first[k] for k in used], [self.second[k] for k in used]
        torch._foreach_lerp_(first, gradients, 0.1)
        torch._foreach_mul_(second, 0.999)
        torch._foreach_addcmul_(second, gradients, gradients, 0.001)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, math.sqrt(1 - 0.999**self.steps))
        torch._foreach_add_(root, 1e-8)
        torch._foreach_addcdiv_(values, first, root, -learning_rate / (1 - 0.9**self.steps))
        for one in values:
            one.grad = None


def train_tasks(
    network: KeyedNetwork,
    data: Sequence[ImageSet],
    config: BinaryTraining,
    generators: Sequence[torch.Generator],
    *,
    tasks: Sequence[int] | None = None,
    steps: int | None = None,
) -> None:
    """Train a network in place on several tasks together; it is left in evaluation mode, on its device.

    data: training images of each task of `tasks` (default: all, in order); generators: one each, drawing that task's
    batches, so that a task sees the same batches alone and in company. A step takes one batch of every task and
    updates the weights once: dL/dW = sum_m (dL_m/dB_m * K_m) 1[|W| <= 1]. steps: of the whole training; None gives
    epochs times the batches of the largest task; a smaller task starts anew when it has run out of images.
    """
    tasks = list(range(network.tasks)) if tasks is None else list(tasks)
    if not len(data) == len(generators) == len(tasks) >= 1:
        raise CompanionError(
            f"{len(data)} data sets and {len(generators)} generators for {len(tasks)} tasks: expected one each."
        )
    device = next(network.parameters()).device
    steps = steps or config.epochs * max(math.ceil(len(one) / config.batch_size) for one in data)
    streams = [_batches(one, config.batch_size, rng, device) for one, rng in zip(data, generators, strict=True)]
    latent = [layer.weight for layer in network.layers().values()]
    optimizer = Adam(network.parameters())
    network.train()
    for step in range(steps):
        for task, stream in zip(tasks, streams, strict=True):
            images, labels = next(stream)
            F.cross_entropy(network(images, task), labels).backward()
        optimizer.step(config.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2)
        with torch.no_grad():
            torch._foreach_clamp_min_(latent, -1.0)
            torch._foreach_clamp_max_(latent, 1.0)
    if not all(torch.isfinite(weight).all() for weight in latent):
        raise CompanionError(f"weights are not finite after {steps} steps; lower learning_rate {config.learning_rate}.")
    network.eval()


def _batches(data: ImageSet, size: int, generator: torch.Generator, device: torch.device):
    """Yield batches for ever, in a new order each time around; all have the same size."""
    images, labels = data.images.to(device), data.labels.to(device)
    size = min(size, len(data))
    while True:
        order = torch.randperm(len(data), generator=generator).to(device)
        for chosen in order.split(size):
            if len(chosen) == size:
                yield images[chosen], labels[chosen]


def predict(network: KeyedNetwork, images: torch.Tensor, task: int, batch_size: int = 250) -> torch.Tensor:
    """Return logits (N, classes of the task) in evaluation mode, without gradients, on the images' device."""
    device, mode = next(network.parameters()).device, network.training
    network.eval()
    try:
        with torch.no_grad():
            return torch.cat([network(part.to(device), task).to(images.device) for part in images.split(batch_size)])
    finally:
        network.train(mode)


def accuracy(network: KeyedNetwork, data: ImageSet, task: int) -> Proportion:
    """Return the share of images whose predicted class is their label."""
    predicted = predict(network, data.images, task).argmax(1)
    return Proportion(int((predicted == data.labels).sum()), len(data))


def recalibrated(network: KeyedNetwork, images: torch.Tensor, task: int, rounds: int = 3) -> KeyedNetwork:
    """Return a copy whose batch-norm statistics of one task are those of `images` under the task's present key.

    images: (N, 1, S, S), no labels needed. Each round computes with the statistics of whole batches layer by layer;
    one batch holds all images, so `rounds` only lets the running averages settle.
    """
    copy = deepcopy(network)
    norms = [module for module in copy.modules() if isinstance(module, TaskBatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the running statistics become the batch's
    copy.train()
    with torch.no_grad():
        for _ in range(rounds):
            copy(images.to(next(copy.parameters()).device), task)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return copy.eval()


def as_stored(network: KeyedNetwork, magnitude: float) -> KeyedNetwork:
    """Return a copy whose latent weights are the stored bits times a magnitude: all that a thief can know of W."""
    copy = deepcopy(network)
    for layer in copy.modules():
        if isinstance(layer, KeyedConv):
            layer.freeze_scale()
            layer.weight.data = torch.where(layer.weight.data >= 0, magnitude, -magnitude)
    return copy
