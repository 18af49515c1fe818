"""Neural Cleanse (Wang et al., IEEE S&P 2019): reverse a trigger for each class, then look for one that is too small.

For each class t, a mask m in [0, 1]^(H x W) and a pattern p in [0, 1]^(C x H x W), each tanh(v) / (2 + 1e-7) + 0.5,
minimise CE(f((1 - m) x + m p), t) + c ||m||_1 by Adam, while c follows the rule of the official code. Here all classes
are optimised in one batch: a step draws b images, which the classes share, and passes K b images through the model. A
class that stops early leaves the batch.

Two deviations from the official code. The batches are full ones of reshuffled epochs, where the official ones may end
with a smaller batch. And a check, which decides about c, the best mask and early stopping, takes `check_every` steps
in every preset; the success rate and the norm that it decides on are running averages over these steps, as in the
official code, so they belong to the masks just before it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen
from companion.seeding import generator as seeded


@dataclass(frozen=True)
class Config:
    """Settings of the search; the defaults are those of the official code.

    steps: gradient steps, at most; check_every: steps between two checks; batch: images of a step, for each class;
    learning_rate, betas: of Adam; initial_cost: first c > 0; warm_up: c stays 0 until `patience` checks in a row
    succeeded; threshold: success rate that a check needs; patience: checks in a row that raise or lower c;
    raise_factor, lower_factor: what c is multiplied with and divided by; stop_patience: checks without a better mask
    that end a search in which c has risen and fallen; stop_ratio: a mask is better when its norm is below this share of
    the best one; start: first value of v, or None to start from a uniformly random mask and pattern.
    """

    steps: int = 31_000
    check_every: int = 31
    batch: int = 32
    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    initial_cost: float = 1e-3
    warm_up: bool = True
    threshold: float = 0.99
    patience: int = 5
    raise_factor: float = 2.0
    lower_factor: float = 2.0**1.5
    stop_patience: int = 25
    stop_ratio: float = 1.0
    start: float | None = None


OFFICIAL = Config()  # 1,000 checks of 1,000 images in batches of 32
BACKDOORBENCH = Config(  # 80 epochs over 2,500 images (5 % of CIFAR-10) in batches of 256
    steps=800, check_every=10, batch=256, warm_up=False, threshold=0.98, stop_ratio=0.99, start=1.0
)
QUICK = Config(steps=300, check_every=10, batch=16, warm_up=False, patience=2, stop_patience=8)  # ours, for a laptop


@dataclass(frozen=True, eq=False)
class Reversed:
    """The smallest trigger found for each of K classes; all tensors are on the CPU.

    classes: the K labels; masks: (K, H, W) and patterns: (K, C, H, W) float32 in [0, 1]; norms: (K,) float32, the sum
    of each mask in pixels; success: (K,) float32 in [0, 1], the success rate of the check that kept the mask;
    reached: (K,) bool, whether any check met the threshold; steps: (K,) int64, gradient steps that the class took.
    For a class that never met the threshold, mask and pattern are the last ones, success is that of the last check,
    and the norm is the number of pixels H W: such a class needs a large trigger, never a small one.
    """

    classes: tuple[int, ...]
    masks: torch.Tensor
    patterns: torch.Tensor
    norms: torch.Tensor
    success: torch.Tensor
    reached: torch.Tensor
    steps: torch.Tensor


@dataclass(frozen=True, eq=False)
class Anomaly:
    """What the norms of the reversed masks say.

    index: the anomaly index of the smallest norm, above 2 for a model that counts as backdoored; flagged: positions in
    the norms (the labels, when all classes were reversed in order) that are below the median with an index above 2;
    median and mad (scaled by 1.4826): of the norms, in pixels; indices: (K,) float64, the index of each norm.
    """

    index: float
    flagged: tuple[int, ...]
    median: float
    mad: float
    indices: torch.Tensor


def reverse_triggers(
    model: nn.Module, images: torch.Tensor, classes: Sequence[int], config: Config, generator: torch.Generator
) -> Reversed:
    """Search the smallest mask and pattern that make `model` answer with each of `classes`.

    model: images (B, C, H, W) to logits (B, number of classes), held in evaluation mode meanwhile; images: (N, C, H, W)
    float32 in [0, 1], clean ones of any class, N >= 1, on any device; classes: distinct labels; generator: draws the
    batches and the starts. The start of a class and the batches depend on the generator and the label alone,
    so the result of a class does not depend on which other classes are searched beside it.
    Raises CompanionError for images outside [0, 1], for no or repeated classes, and when the loss is not finite.
    Source: Wang et al. (2019), section IV; settings and control of c from the official code.
    """
    _check_inputs(images, classes)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    images = images.to(device_of(model))
    search = _Search(tuple(int(label) for label in classes), images, config, seed)
    with frozen(model):
        batches = _batches(len(images), config.batch, seeded(seed, "batches"))
        for step in range(1, config.steps + 1):
            search.step(model, images[next(batches).to(images.device)])
            if step % config.check_every == 0 and search.check():
                break
    return search.result()


def anomaly_index(norms: torch.Tensor, reached: torch.Tensor) -> Anomaly:
    """Return how far the smallest mask norm lies from the median, in units of the median absolute deviation.

    norms: (K,) in pixels; reached: (K,) bool. A class that was not reached counts with the largest of the norms (which
    `reverse_triggers` sets to the number of pixels) and is never flagged. The index of a norm n is
    |n - median| / MAD with MAD = 1.4826 median |n - median|; if the MAD is 0, it is 0 for the median itself and
    infinite for every other norm. With two classes the index is always 0.6745: it needs more classes to mean anything.
    Raises CompanionError when the shapes differ, or a norm is negative or not finite.

    >>> anomaly_index(torch.tensor([2.0, 40, 44, 50, 38]), torch.ones(5, dtype=torch.bool)).flagged
    (0,)
    """
    _check_norms(norms, reached)
    norms, reached = norms.double().cpu(), reached.cpu()
    values = torch.where(reached, norms, norms.max())  # (K,)
    median = values.quantile(0.5)
    distances = (values - median).abs()
    mad = 1.4826 * distances.quantile(0.5)
    indices = torch.where(distances == 0, 0.0, distances / mad)  # (K,); a distance over 0 is infinite
    suspicious = (values < median) & (indices > 2) & reached
    flagged = tuple(suspicious.nonzero().squeeze(1).tolist())
    return Anomaly(float(indices[values.argmin()]), flagged, float(median), float(mad), indices)


class _Search:
    """The masks and patterns of all classes, with Adam's state and the control of c for each."""

    def __init__(self, classes: tuple[int, ...], images: torch.Tensor, config: Config, seed: int):
        self.classes, self.config, self.device = classes, config, images.device
        starts = [_start(images.shape[1:], config.start, seeded(seed, "start", label)) for label in classes]
        self.masks = [mask.to(images).requires_grad_() for mask, _ in starts]  # K times (1, H, W), before tanh
        self.patterns = [pattern.to(images).requires_grad_() for _, pattern in starts]  # K times (C, H, W)
        self.optimizer = torch.optim.Adam([*self.masks, *self.patterns], config.learning_rate, config.betas)
        self.control = _Control(len(classes), config)
        self.active = list(range(len(classes)))
        self.hits, self.size = torch.zeros(len(classes)), torch.zeros(len(classes))  # sums since the last check
        self.success = torch.zeros(len(classes))
        self.steps = torch.zeros(len(classes), dtype=torch.int64)
        self.best = [self._trigger(k) for k in range(len(classes))]

    def step(self, model: nn.Module, batch: torch.Tensor) -> None:
        """Move the masks and patterns of the active classes by one step of Adam on `batch` (b, C, H, W)."""
        masks = _unit(torch.stack([self.masks[k] for k in self.active])).unsqueeze(1)  # (A, 1, 1, H, W)
        patterns = _unit(torch.stack([self.patterns[k] for k in self.active])).unsqueeze(1)  # (A, 1, C, H, W)
        stamped = (1 - masks) * batch + masks * patterns  # (A, b, C, H, W)
        logits = model(stamped.flatten(0, 1))  # (A b, number of classes)
        targets = torch.tensor([self.classes[k] for k in self.active], device=self.device)
        targets = targets.repeat_interleave(len(batch))  # (A b,)
        norms = masks.sum((1, 2, 3, 4))  # (A,)
        costs = self.control.cost[self.active].to(norms)
        # Every class has its own parameters, so the gradient of the sum is the gradient of each class's own loss.
        loss = F.cross_entropy(logits, targets, reduction="sum") / len(batch) + (costs * norms).sum()
        if not torch.isfinite(loss):
            raise CompanionError(
                f"Neural Cleanse's loss is {loss.item()} after {int(self.steps.max())} steps. Check that the model "
                "gives finite logits for images in [0, 1]."
            )
        self.optimizer.zero_grad()  # sets to None: Adam leaves the finished classes alone
        loss.backward()
        self.optimizer.step()
        hits = (logits.detach().argmax(1) == targets).view(len(self.active), -1).float().mean(1)
        self.hits[self.active] += hits.cpu()
        self.size[self.active] += norms.detach().float().cpu()
        self.steps[self.active] += 1

    def check(self) -> bool:
        """Decide on c, the best mask and stopping of each active class; True when no class is left."""
        rates, norms = self.hits / self.config.check_every, self.size / self.config.check_every
        improved, stopped = self.control.check(rates, norms)
        for k in self.active:
            if improved[k]:
                self.best[k] = self._trigger(k)
            if improved[k] or not self.control.reached[k]:
                self.success[k] = rates[k]
        self.active = [k for k in self.active if not stopped[k]]
        self.hits.zero_()
        self.size.zero_()
        return not self.active

    def result(self) -> Reversed:
        """Return the best masks and patterns, and the last ones of classes that never met the threshold."""
        reached = self.control.reached
        best = [self.best[k] if reached[k] else self._trigger(k) for k in range(len(self.classes))]
        masks = torch.stack([mask for mask, _ in best]).cpu()  # (K, H, W)
        patterns = torch.stack([pattern for _, pattern in best]).cpu()  # (K, C, H, W)
        norms = torch.where(reached, masks.sum((1, 2)), float(masks[0].numel()))
        return Reversed(self.classes, masks, patterns, norms, self.success, reached, self.steps)

    def _trigger(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _unit(self.masks[k].detach())[0], _unit(self.patterns[k].detach())  # (H, W), (C, H, W)


class _Control:
    """The official rule for c, the best mask and early stopping, as vectors over the K classes."""

    def __init__(self, count: int, config: Config):
        self.config = config
        self.cost = torch.full((count,), 0.0 if config.warm_up else config.initial_cost, dtype=torch.float64)
        self.best = torch.full((count,), math.inf)
        self.compared = torch.full((count,), math.inf)  # the best norm that early stopping compares with
        self.successes, self.failures, self.stale = torch.zeros(3, count, dtype=torch.int64)
        self.rose, self.fell = torch.zeros(2, count, dtype=torch.bool)

    @property
    def reached(self) -> torch.Tensor:
        return torch.isfinite(self.best)

    def check(self, rates: torch.Tensor, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take success rates and norms (K,) of the last steps; return which masks are the best so far, which stop."""
        succeeded = rates >= self.config.threshold
        improved = succeeded & (norms < self.best)
        self.best = torch.where(improved, norms, self.best)
        no_better = self.best >= self.config.stop_ratio * self.compared
        self.stale = torch.where(self.reached, torch.where(no_better, self.stale + 1, 0), self.stale)
        self.compared = torch.minimum(self.compared, self.best)
        stopped = self.rose & self.fell & (self.stale >= self.config.stop_patience)
        self._adapt_cost(succeeded)
        return improved, stopped

    def _adapt_cost(self, succeeded: torch.Tensor) -> None:
        config = self.config
        begins = (self.cost == 0) & succeeded & (self.successes + 1 >= config.patience)  # the end of the warm-up
        self.cost = torch.where(begins, config.initial_cost, self.cost)
        self.successes = torch.where(begins, 0, self.successes)
        self.rose, self.fell = self.rose & ~begins, self.fell & ~begins

        self.successes = torch.where(succeeded, self.successes + 1, 0)
        self.failures = torch.where(succeeded, 0, self.failures + 1)
        rises, falls = self.successes >= config.patience, self.failures >= config.patience
        self.cost = torch.where(rises, self.cost * config.raise_factor, self.cost)
        self.cost = torch.where(falls, self.cost / config.lower_factor, self.cost)
        self.successes = torch.where(rises, 0, self.successes)
        self.failures = torch.where(falls, 0, self.failures)
        self.rose, self.fell = self.rose | rises, self.fell | falls


def _unit(values: torch.Tensor) -> torch.Tensor:
    return values.tanh() / (2 + 1e-7) + 0.5


def _start(shape: torch.Size, value: float | None, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first mask (1, H, W) and pattern (C, H, W), before tanh."""
    channels, height, width = shape
    if value is not None:
        return torch.full((1, height, width), value), torch.full((channels, height, width), value)
    drawn = torch.rand(channels + 1, height, width, generator=generator, device=generator.device).cpu()
    inner = torch.atanh((drawn.clamp(0.001, 0.999) - 0.5) * 2)  # atanh is infinite at the ends
    return inner[:1].clone(), inner[1:].clone()


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield full batches of image numbers, (size,) int64, from one reshuffled epoch after the other."""
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(count, generator=generator)])
        yield queue[:size]
        queue = queue[size:]


def _check_inputs(images: torch.Tensor, classes: Sequence[int]) -> None:
    low, high = (float(value) for value in images.aminmax()) if images.numel() else (math.nan, math.nan)
    if images.ndim != 4 or not (low >= 0 and high <= 1):
        raise CompanionError(
            f"Neural Cleanse got images of shape {tuple(images.shape)} with values from {low:g} to {high:g}; expected "
            "(N, C, H, W) with N >= 1 in [0, 1], the range in which the trigger was injected."
        )
    if not classes or len(set(classes)) != len(classes):
        raise CompanionError(f"Neural Cleanse got the classes {list(classes)}; expected one or more distinct labels.")


def _check_norms(norms: torch.Tensor, reached: torch.Tensor) -> None:
    if norms.ndim != 1 or not len(norms) or norms.shape != reached.shape or reached.dtype != torch.bool:
        raise CompanionError(
            f"norms have shape {tuple(norms.shape)}, reached has shape {tuple(reached.shape)} and type "
            f"{reached.dtype}; expected (K,) and (K,) torch.bool with K >= 1."
        )
    if not (torch.isfinite(norms) & (norms >= 0)).all():
        raise CompanionError(f"the mask norms are {norms.tolist()}; expected finite numbers >= 0.")
