"""Pruning a backdoored network: which neurons to switch off first, how many, and what that costs.

A ranking is an order of all neurons of a chain, (n,) int64, the first to be pruned first. Shapley values rank in
`companion.defenses.shapley`; here are the rankings they are compared with, and the rule that says where to stop.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from companion.data.imageset import ImageSet
from companion.defenses.shapley import Value
from companion.errors import CompanionError
from companion.models.frozen import device_of
from companion.models.prunable import Chain, Masked, chain_of


def few_shot(data: ImageSet, per_class: int) -> ImageSet:
    """Return the first `per_class` images of every class, ordered by class, all the clean data that a defender has.

    Raises CompanionError when `per_class` is below 1 or a class has fewer images.
    """
    if per_class < 1:
        raise CompanionError(f"{per_class} images a class for the defender; expected at least 1.")
    chosen = [(data.labels == label).nonzero().squeeze(1)[:per_class] for label in range(len(data.classes))]
    short = [data.classes[label] for label, found in enumerate(chosen) if len(found) < per_class]
    if short:
        raise CompanionError(
            f"{len(data)} clean images of {data.name} are too few for {per_class} of each of {len(data.classes)} "
            f"classes: {', '.join(short[:3])} {'and others have' if len(short) > 3 else 'have'} less. Give the "
            "defender more images, or use the data-free variant."
        )
    return data.subset(torch.cat(chosen))


def by_leaving_one_out(value: Value, count: int) -> torch.Tensor:
    """Rank by V(all) - V(all but one), the drop when a neuron alone is switched off: importance without interactions.

    value: the game of `companion.defenses.shapley`; count: its players. It costs count + 1 evaluations.
    """
    coalitions = torch.cat([torch.ones(1, count, dtype=torch.bool), ~torch.eye(count, dtype=torch.bool)])
    values = value(coalitions)
    return (values[:1] - values[1:]).argsort(descending=True, stable=True)


def by_activation_difference(chain: Chain, clean: torch.Tensor, triggered: torch.Tensor) -> torch.Tensor:
    """Rank by how much more a neuron fires on triggered images than on the same images without the trigger.

    clean, triggered: (N, C, H, W). The difference of the mean activations is divided by the mean activation of the
    neuron's stage on clean images, because stages differ in scale.
    """
    device = device_of(chain)
    with torch.no_grad():
        pairs = zip(chain.eval().activations(clean.to(device)), chain.activations(triggered.to(device)), strict=True)
        found = [(dirty.mean(0) - pure.mean(0)) / pure.mean().clamp(min=1e-12) for pure, dirty in pairs]
    return torch.cat(found).cpu().argsort(descending=True, stable=True)


def by_silence(chain: Chain, clean: torch.Tensor, last_only: bool = True) -> torch.Tensor:
    """Rank by the smallest mean activation on clean images (N, C, H, W): the pruning half of fine-pruning.

    With `last_only` the neurons of the last stage come first, as in Liu et al. (RAID 2018), who prune the last
    convolution; otherwise activations are divided by the mean of their stage and all neurons compete.
    """
    with torch.no_grad():
        means = [found.mean(0) for found in chain.eval().activations(clean.to(device_of(chain)))]
    scaled = [mean / mean.mean().clamp(min=1e-12) for mean in means]
    if last_only:
        scaled = [part + (torch.inf if k < len(scaled) - 1 else 0) for k, part in enumerate(scaled)]
    return torch.cat(scaled).cpu().argsort(stable=True)


def nested_masks(order: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return masks (len(counts), n) bool with the first `count` neurons of `order` switched off, for each count.

    Raises CompanionError for a count that is negative or above the number of neurons.
    """
    if not counts or min(counts) < 0 or max(counts) > len(order):
        raise CompanionError(f"pruning {list(counts)} of {len(order)} neurons; expected counts from 0 to that many.")
    masks = torch.ones(len(counts), len(order), dtype=torch.bool)
    for row, count in enumerate(counts):
        masks[row, order[:count]] = False
    return masks


def predictions_along(
    chain: Chain, images: torch.Tensor, order: torch.Tensor, counts: Sequence[int], batch: int = 250
) -> torch.Tensor:
    """Return the predicted classes (len(counts), N) int64 of images after pruning that many neurons of `order`."""
    masks = nested_masks(order, counts)
    return torch.cat([Masked(chain, part).logits(masks).argmax(2).cpu() for part in images.split(batch)], 1)


@dataclass(frozen=True)
class Stopping:
    """When the defender stops pruning.

    success: prune until at most this share of the few images with the reversed trigger goes to the target; patience:
    and this share of the few clean images, in [0, 1], may be lost to wrong answers; most: share of all neurons that
    may go.
    """

    success: float = 0.1
    patience: float = 0.2
    most: float = 0.5


@dataclass(frozen=True, eq=False)
class Pruned:
    """Where the defender stopped.

    count: how many neurons of the order are off; neurons: which, (count,) int64; success: share of reversed-trigger
    images that still go to the target; accuracy: share of the few clean images answered right; reached: whether the
    target success was met within the accuracy budget.
    """

    count: int
    neurons: torch.Tensor
    success: float
    accuracy: float
    reached: bool


def prune(
    chain: Chain,
    order: torch.Tensor,
    clean: torch.Tensor,
    labels: torch.Tensor,
    triggered: torch.Tensor,
    target: int,
    stopping: Stopping,
) -> Pruned:
    """Prune along `order` until the reversed trigger works no more, and return where that was.

    clean: (N, C, H, W) with labels (N,), the defender's images; triggered: (T, C, H, W), images of other classes with
    the reversed trigger. If the success wanted is not met before the accuracy budget or `most` is used up, the
    defender keeps the count with the lowest success inside the budget (the smallest such count).
    """
    counts = list(range(int(stopping.most * len(order)) + 1))
    accuracy = (predictions_along(chain, clean, order, counts) == labels).double().mean(1)  # (counts,)
    success = (predictions_along(chain, triggered, order, counts) == target).double().mean(1)
    affordable = accuracy >= accuracy[0] - stopping.patience - 1e-9
    met = affordable & (success <= stopping.success + 1e-9)
    best = torch.where(affordable, success, torch.inf)
    count = int(met.long().argmax()) if met.any() else int(best.argmin())
    return Pruned(count, order[:count], float(success[count]), float(accuracy[count]), bool(met.any()))


class _SwitchOff:
    """A forward hook that sets channels of a stage's output to zero."""

    def __init__(self, mask: torch.Tensor):
        self.mask = mask

    def __call__(self, module: nn.Module, inputs: object, maps: torch.Tensor) -> torch.Tensor:
        mask = self.mask.to(maps)
        return maps * mask.view(1, -1, *[1] * (maps.ndim - 2))


def switched_off(model: nn.Module, neurons: torch.Tensor) -> nn.Module:
    """Return a copy of `model` in which `neurons` ((k,) int64, as its chain numbers them) give zero for good.

    It can be used and trained like the model itself.
    """
    model = deepcopy(model)
    chain = chain_of(model)
    mask = torch.ones(chain.neurons)
    mask[neurons] = 0
    for stage, part in zip(chain.stages, mask.split(chain.sizes), strict=True):
        last = stage[-1] if isinstance(stage, nn.Sequential) else stage
        last.register_forward_hook(_SwitchOff(part))
    return model
