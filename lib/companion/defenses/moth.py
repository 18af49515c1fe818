"""MOTH (Tao et al., IEEE S&P 2022): measure how small a trigger turns one class into another, and push them apart.

The distance d(s -> t) is the size (sum of the mask) of the smallest trigger that turns images of class s into t. A
backdoor is a class that is near to all others. Hardening trains on triggered images with their true labels: first one
universal trigger for each target, then triggers of pairs of classes, in both directions at once, preferring the pair
whose last visit widened its distance most. All targets, and both directions of a pair, are searched in one batch.
Written from the description of the official code.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen


@dataclass(frozen=True)
class Config:
    """Settings of MOTH; the defaults are those of the official code.

    steps: of a class distance; bound: success that its trigger needs; search_rate, betas: of Adam; initial_cost,
    raise_factor, lower_factor, patience: of the weight of the mask's size, which moves after so many steps in a row
    above or below the bound; images: of a search's step, for each trigger.
    warm_steps, universal_bound: of the universal triggers; universal_share: of a batch's images of other classes that
    get one; first_steps, next_steps: of a pair's first and later visits; updates: of the model for each visit;
    pair_share: of the images of both classes in a batch that get the pair's trigger; random_share: of visits to a
    random pair; largest: masks above this share of all pixels are not used; learning_rate, momentum, batch, epochs:
    of the hardening, whose first `warm_epochs` use universal triggers.
    """

    steps: int = 1000
    bound: float = 0.9
    search_rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    initial_cost: float = 1e-3
    raise_factor: float = 1.5
    lower_factor: float = 1.5**1.5
    patience: int = 10
    images: int = 64
    warm_steps: int = 500
    universal_bound: float = 0.99
    universal_share: float = 0.5
    first_steps: int = 200
    next_steps: int = 50
    updates: int = 3
    pair_share: float = 0.1
    random_share: float = 0.3
    largest: float = 0.25
    learning_rate: float = 1e-4
    momentum: float = 0.9
    batch: int = 128
    epochs: int = 2
    warm_epochs: int = 1


OFFICIAL = Config()
QUICK = Config(
    steps=150, patience=5, images=16, warm_steps=100, first_steps=40, next_steps=20, pair_share=0.5,
    learning_rate=2e-3, batch=32, epochs=6, warm_epochs=2,
)  # fmt: skip
"""Ours, for small networks and some hundred images on a CPU."""


@dataclass(frozen=True, eq=False)
class Triggers:
    """The smallest triggers found for P searches: masks (P, H, W), patterns (P, C, H, W), sizes (P,) in pixels, and
    whether the bound was ever met, (P,) bool; where not, the size is the number of pixels."""

    masks: torch.Tensor
    patterns: torch.Tensor
    sizes: torch.Tensor
    reached: torch.Tensor


def smallest_triggers(
    model: nn.Module,
    sources: Sequence[torch.Tensor],
    targets: Sequence[int],
    steps: int,
    bound: float,
    config: Config,
    generator: torch.Generator,
) -> Triggers:
    """Search for each p a small mask and pattern that turn the images `sources[p]` into `targets[p]`, all in a batch.

    sources: P tensors (n_p, C, H, W) in [0, 1], n_p >= 1; targets: P labels; generator: on the CPU, draws starts and
    the images of each step. Minimises CE + cost * size by Adam, mask and pattern each tanh(v) / 2 + 0.5.
    """
    if not len(sources) or any(one.ndim != 4 or not len(one) for one in sources) or len(sources) != len(targets):
        raise CompanionError(
            f"MOTH got sources of shapes {[tuple(one.shape) for one in sources]} for {len(targets)} targets; expected "
            "at least one image (n, C, H, W) for each target."
        )
    device, count, (channels, height, width) = device_of(model), len(sources), sources[0].shape[1:]
    drawn = torch.rand(count, channels + 1, height, width, generator=generator).clamp(0.001, 0.999)
    inner = torch.atanh((drawn - 0.5) * 2).to(device)
    mask, pattern = inner[:, :1].clone().requires_grad_(), inner[:, 1:].clone().requires_grad_()
    optimizer = torch.optim.Adam([mask, pattern], config.search_rate, config.betas)
    wanted = torch.tensor(list(targets), device=device)
    cost = torch.full((count,), config.initial_cost, device=device)
    best = torch.full((count,), math.inf, device=device)
    above, below = torch.zeros(2, count, dtype=torch.int64, device=device)
    kept_mask, kept_pattern = _unit(mask.detach()), _unit(pattern.detach())
    with frozen(model):
        for _ in range(steps):
            picks = [torch.randint(len(one), (config.images,), generator=generator) for one in sources]
            images = torch.stack([one[pick] for one, pick in zip(sources, picks, strict=True)]).to(device)
            opened, colours = _unit(mask), _unit(pattern)
            logits = model(stamp(images, opened, colours).flatten(0, 1)).unflatten(0, (count, -1))  # (P, b, K)
            labels = wanted.unsqueeze(1).expand(-1, config.images)
            sizes = opened.sum((1, 2, 3))
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / config.images
            loss = loss + (cost * sizes).sum()
            if not torch.isfinite(loss):
                raise CompanionError("MOTH's loss is not finite; look at the network's weights.")
            optimizer.zero_grad()
            loss.backward()
            success = (logits.detach().argmax(2) == labels).float().mean(1)
            better = (success >= bound) & (sizes.detach() < best)
            best = torch.where(better, sizes.detach(), best)
            place = better.view(-1, 1, 1, 1)
            kept_mask = torch.where(place, opened.detach(), kept_mask)
            kept_pattern = torch.where(place, colours.detach(), kept_pattern)
            optimizer.step()
            above = torch.where(success >= bound, above + 1, 0)
            below = torch.where(success >= bound, 0, below + 1)
            cost = torch.where(above >= config.patience, cost * config.raise_factor, cost)
            cost = torch.where(below >= config.patience, cost / config.lower_factor, cost)
            above, below = (torch.where(one >= config.patience, 0, one) for one in (above, below))
    reached = torch.isfinite(best)
    return Triggers(kept_mask.squeeze(1), kept_pattern, torch.where(reached, best, float(height * width)), reached)


def stamp(images: torch.Tensor, masks: torch.Tensor, patterns: torch.Tensor) -> torch.Tensor:
    """Return images (P, b, C, H, W) with masks (P, 1, H, W) and patterns (P, C, H, W) on them."""
    return images * (1 - masks).unsqueeze(1) + (masks * patterns).unsqueeze(1)


def class_distances(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: Config, generator: torch.Generator
) -> torch.Tensor:
    """Return d(s -> t) in pixels, (K, K) float32 on the CPU with 0 on the diagonal, for labels 0 to K - 1.

    images: (N, C, H, W) in [0, 1]; labels: (N,) int64 with at least one image of each label.
    """
    groups = _groups(images, labels)
    classes = len(groups)
    found = torch.zeros(classes, classes)
    for target in range(classes):  # a batch for each target keeps memory small
        others = [label for label in range(classes) if label != target]
        triggers = smallest_triggers(
            model,
            [groups[label] for label in others],
            [target] * len(others),
            config.steps,
            config.bound,
            config,
            generator,
        )
        found[others, target] = triggers.sizes.cpu()
    return found


def harden(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: Config, generator: torch.Generator
) -> nn.Module:
    """Return a hardened copy of a network, in evaluation mode.

    images: (N, C, H, W) clean ones in [0, 1]; labels: (N,) int64, with at least one image of each label; generator: on
    the CPU. Training uses stochastic gradient descent with Nesterov momentum on cross-entropy with true labels.
    """
    groups = _groups(images, labels)
    classes, device = len(groups), device_of(model)
    model = deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum, nesterov=True)
    others = [torch.cat([groups[k] for k in range(classes) if k != target]) for target in range(classes)]
    universal = smallest_triggers(
        model, others, range(classes), config.warm_steps, config.universal_bound, config, generator
    )
    pairs = _Pairs(groups, config, generator)
    for epoch in range(config.epochs):
        order = torch.randperm(len(images), generator=generator)
        for number, chosen in enumerate(order.split(config.batch)):
            if len(chosen) < 2:
                continue
            batch, wanted = images[chosen].to(device), labels[chosen].to(device)
            if epoch < config.warm_epochs:
                target = number % classes
                trigger = (universal.masks[[target]], universal.patterns[[target]])
                _stamp_some(batch, wanted != target, trigger, config.universal_share, config.largest, generator)
            else:
                for label, trigger in pairs.visit(model).items():
                    _stamp_some(batch, wanted == label, trigger, config.pair_share, config.largest, generator)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(batch), wanted).backward()
            optimizer.step()
            model.eval()
    return model.eval()


class _Pairs:
    """Which pair of classes is visited, and its two triggers."""

    def __init__(self, groups: list[torch.Tensor], config: Config, generator: torch.Generator):
        self.groups, self.config, self.generator = groups, config, generator
        every = torch.combinations(torch.arange(len(groups)))
        self.pairs = [tuple(pair) for pair in every.tolist()]
        self.gain = dict.fromkeys(self.pairs, math.inf)  # a pair that was never visited comes first
        self.size: dict[tuple[int, int], float] = {}
        self.left = 0

    def visit(self, model: nn.Module) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Return {source label: (mask, pattern)} of the current pair, which changes after `updates` calls."""
        if self.left == 0:
            self._choose(model)
            self.left = self.config.updates
        self.left -= 1
        return self.triggers

    def _choose(self, model: nn.Module) -> None:
        if float(torch.rand((), generator=self.generator)) < self.config.random_share:
            pair = self.pairs[int(torch.randint(len(self.pairs), (), generator=self.generator))]
        else:
            pair = max(self.pairs, key=lambda one: self.gain[one])
        steps = self.config.next_steps if pair in self.size else self.config.first_steps
        first, second = pair
        found = smallest_triggers(
            model, [self.groups[first], self.groups[second]], [second, first], steps, self.config.bound, self.config,
            self.generator,
        )  # fmt: skip
        size = float(found.sizes.mean())
        self.gain[pair] = size - self.size.get(pair, size)
        self.size[pair] = size
        self.triggers = {label: (found.masks[[k]], found.patterns[[k]]) for k, label in enumerate(pair)}


def _stamp_some(batch, allowed, trigger, share, largest, generator) -> None:
    """Stamp a share of the allowed images of a batch in place, unless the mask is too large."""
    mask, pattern = trigger
    places = allowed.nonzero().flatten()
    count = round(share * len(places))
    if not count or float(mask.mean()) > largest:
        return
    chosen = places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]
    batch[chosen] = stamp(batch[chosen].unsqueeze(0), mask.unsqueeze(1), pattern)[0]


def _unit(values: torch.Tensor) -> torch.Tensor:
    return values.tanh() / (2 + 1e-7) + 0.5


def _groups(images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    low, high = images.aminmax() if images.numel() else (torch.tensor(math.nan),) * 2
    if (
        images.ndim != 4
        or labels.shape != (len(images),)
        or labels.dtype != torch.int64
        or not (low >= 0 and high <= 1)
    ):
        raise CompanionError(
            f"MOTH got images {tuple(images.shape)} in [{low:.4g}, {high:.4g}] and labels {tuple(labels.shape)} "
            f"{labels.dtype}; expected (N, C, H, W) in [0, 1] and (N,) int64."
        )
    classes = int(labels.max()) + 1
    groups = [images[labels == label] for label in range(classes)]
    empty = [label for label, group in enumerate(groups) if not len(group)]
    if empty or classes < 2:
        raise CompanionError(
            f"MOTH got {len(images)} clean images for {classes} labels, none of label {empty[0] if empty else 1}; "
            "expected at least one of each of at least two labels."
        )
    return groups
