"""ABS (Liu et al., CCS 2019): stimulate single neurons, and reverse a trigger for those that can flip all images.

1. Stimulate: on a few seed images, set one neuron's whole map to a series of values and read the logits.
2. Rank: a neuron is compromised if one label rises far above all others, on nearly all images.
3. Invert: for each of the best neurons search a mask and a pattern that excite it, with a limit on the mask's size.
4. REASR: the attack success of each inverted trigger on all seed images; a model is flagged above a bound.

A neuron is a channel of an activation's output. "The neuron's map and the map of the next layer" are the activation's
input and output here: the official code counts a convolution and its ReLU as two layers. All neurons of a layer are
stimulated in batches, and all candidates are inverted in one. Written from the description of the official code; its
branch for triggers in feature space is not here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen

IMAGES_AT_ONCE = 4000  # that pass through the model together while neurons are stimulated


@dataclass(frozen=True)
class Config:
    """Settings of ABS; the defaults are those of the official code.

    levels: n, values a neuron is set to, {0, ..., n - 1} range / n times the largest activation of its layer; range: k;
    candidates: neurons that are inverted; early_candidates: of each layer in the first half of the network; steps,
    learning_rate: of Adam; max_size: pixels with a mask above 0.01 that go unpunished; slack: a square's side that is
    longer by so many pixels doubles the penalty; penalty: on the sum of the mask; other_weight: on all other neurons of
    the layer; logit_weight: on the target's logit, which the versions for TrojAI add; corner: side of the square at the
    top left where the mask starts open; share: of the seed images that the inversion sees; bound: on REASR.
    """

    levels: int = 5
    range: float = 8.0
    candidates: int = 20
    early_candidates: int = 3
    steps: int = 1000
    learning_rate: float = 0.1
    max_size: int = 64
    slack: int = 2
    penalty: float = 500.0
    other_weight: float = 1e-4
    logit_weight: float = 0.0
    corner: int = 8
    share: float = 1 / 3
    bound: float = 0.8


OFFICIAL = Config()
TROJAI = Config(logit_weight=1.0)
"""With the target's logit in the loss, as in the versions for the TrojAI rounds; its weight here is ours."""


@dataclass(frozen=True)
class Candidate:
    """A neuron that seems compromised: its layer's name, its channel, the label it raises, and by how much."""

    layer: str
    channel: int
    label: int
    elevation: float


@dataclass(frozen=True, eq=False)
class Report:
    """What ABS says of one model.

    candidates: the A neurons that were inverted, best first; reasr: (A,) float32 in [0, 1], share of the seed images of
    other labels that the inverted trigger turns into the candidate's label; sizes: (A,) float32, sums of the masks in
    pixels; masks: (A, H, W), patterns: (A, C, H, W) float32 in [0, 1]; bound: as in the settings.
    """

    candidates: tuple[Candidate, ...]
    reasr: torch.Tensor
    sizes: torch.Tensor
    masks: torch.Tensor
    patterns: torch.Tensor
    bound: float

    @property
    def best(self) -> float:
        """The largest REASR, 0 for a model without candidates."""
        return float(self.reasr.max()) if len(self.reasr) else 0.0

    @property
    def label(self) -> int | None:
        """The label of the best candidate, None without candidates."""
        return self.candidates[int(self.reasr.argmax())].label if len(self.reasr) else None

    @property
    def flagged(self) -> bool:
        """Whether the model counts as backdoored."""
        return self.best > self.bound


def inspect(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: Config = OFFICIAL,
    layers: Sequence[str] | None = None,
) -> Report:
    """Run ABS on a model with a few seed images. Nothing is random.

    model: images (B, C, H, W) to logits (B, K); images: (N, C, H, W) float32 in [0, 1], N >= 3, of at least two labels;
    labels: (N,) int64, their true classes; layers: names of the activations to probe, from early to late (default: the
    model's `activations`, else all its ReLU modules). Residual networks need their sums as layers.
    Raises CompanionError for other shapes and ranges, a model without activations, and weights that are not finite.
    """
    return sweep(model, images, labels, config, (config.max_size,), layers)[0]


def sweep(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: Config,
    sizes: Sequence[int],
    layers: Sequence[str] | None = None,
) -> list[Report]:
    """Run ABS for several values of `max_size`, whose inversions share one batch; as `inspect` otherwise."""
    _check(model, images, labels)
    images, labels = images.to(device_of(model)), labels.to(device_of(model))
    names = list(layers) if layers is not None else activations(model)
    with frozen(model):
        found = rank(model, images, labels, names, config)
        if not found:
            empty = images[:0]
            nothing = Report((), empty.sum((1, 2, 3)), empty.sum((1, 2, 3)), empty[:, 0], empty, config.bound)
            return [nothing for _ in sizes]
        limits = torch.tensor(sizes).repeat_interleave(len(found))
        masks, patterns = invert(model, images, found * len(sizes), names, limits, config)
        hits = []
        with torch.no_grad():
            for candidate, mask, pattern in zip(found * len(sizes), masks, patterns, strict=True):
                others = images[labels != candidate.label]
                answers = model(others * (1 - mask) + pattern * mask).argmax(1)
                hits.append((answers == candidate.label).float().mean())
    parts = [value.cpu().split(len(found)) for value in (torch.stack(hits), masks.sum((1, 2)), masks, patterns)]
    return [Report(tuple(found), *own, config.bound) for own in zip(*parts, strict=True)]


def activations(model: nn.Module) -> list[str]:
    """Return the names of the modules whose outputs are a model's neurons: its `activations`, or all ReLU modules."""
    names = getattr(model, "activations", None)
    if names is None:
        names = [name for name, part in model.named_modules() if isinstance(part, nn.ReLU)]
    if not names:
        raise CompanionError(
            f"{type(model).__name__} has no ReLU modules for ABS to probe; name its activations in `layers`."
        )
    return list(names)


def rank(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, layers: Sequence[str], config: Config
) -> list[Candidate]:
    """Return the candidates of all layers, largest elevation first, as `config` limits them.

    A neuron counts if at least N - 2 images agree on the label that rises most (between value 0 and the best of the
    others) above the second; its elevation is the smallest over agreeing images of other classes.
    """
    found = []
    for depth, layer in enumerate(layers):
        rise = stimulate(model, images, layer, config)  # (neurons, N, K)
        top = rise.topk(2, dim=2)
        margin, winner = top.values[..., 0] - top.values[..., 1], top.indices[..., 0]  # (neurons, N)
        label = winner.mode(1).values  # (neurons,)
        agrees = winner == label.unsqueeze(1)
        counted = agrees & (labels != label.unsqueeze(1))
        elevation = torch.where(counted, margin, math.inf).amin(1)
        valid = (agrees.sum(1) >= len(images) - 2) & counted.any(1) & (elevation > 0)
        own = [Candidate(layer, int(c), int(label[c]), float(elevation[c])) for c in valid.nonzero().flatten()]
        own.sort(key=lambda one: -one.elevation)
        found += own[: config.early_candidates] if depth < len(layers) // 2 else own
    return sorted(found, key=lambda one: -one.elevation)[: config.candidates]


def stimulate(model: nn.Module, images: torch.Tensor, layer: str, config: Config) -> torch.Tensor:
    """Return how far each label rises when a neuron is excited, (neurons, N, K): max over values > 0 minus at 0."""
    module = _module(model, layer)
    with torch.no_grad():
        seen = _Capture({layer: module}, [layer])
        with seen:
            model(images)
        maps = seen.outputs[layer]  # (N, neurons, ...)
        values = maps.max() * config.range * torch.arange(config.levels, device=maps.device) / config.levels
        neurons, count = maps.shape[1], len(images)
        together = max(1, IMAGES_AT_ONCE // (count * config.levels))
        found = []
        for start in range(0, neurons, together):
            chosen = torch.arange(start, min(start + together, neurons), device=maps.device)
            rows = chosen.repeat_interleave(config.levels * count)  # (B,)
            level = values.repeat_interleave(count).repeat(len(chosen))  # (B,)
            with _Replaced(module, rows, level):
                logits = model(images.repeat(len(chosen) * config.levels, 1, 1, 1))
            logits = logits.view(len(chosen), config.levels, count, -1)
            found.append(logits[:, 1:].amax(1) - logits[:, 0])
    return torch.cat(found)


def invert(
    model: nn.Module,
    images: torch.Tensor,
    candidates: Sequence[Candidate],
    layers: Sequence[str],
    sizes: torch.Tensor,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return masks (A, H, W) and patterns (A, C, H, W) in [0, 1] that excite each candidate's neuron.

    The masks and patterns of all candidates are optimised in one batch, on the first `share` of the images. sizes:
    (A,), in place of `config.max_size`.
    """
    few = images[: max(1, math.ceil(config.share * len(images)))]  # (b, C, H, W)
    count, (channels, height, width) = len(candidates), images.shape[1:]
    mask = torch.full((count, 1, height, width), -4.0, device=images.device)
    mask[:, :, : config.corner, : config.corner] = 4.0
    mask.requires_grad_()
    delta = torch.zeros(count, channels, height, width, device=images.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask, delta], config.learning_rate)
    targets = torch.tensor([one.label for one in candidates], device=images.device)
    groups = [_Group(name, candidates, images.device) for name in layers]
    groups = [group for group in groups if len(group.rows)]
    names = [group.layer for group in groups]
    capture = _Capture({name: _module(model, name) for name in names}, names)
    for _ in range(config.steps):
        opened, pattern = _unit(mask), _unit(delta)  # (A, 1, H, W), (A, C, H, W)
        stamped = (1 - opened).unsqueeze(1) * few + (opened * pattern).unsqueeze(1)  # (A, b, C, H, W)
        with capture:
            logits = model(stamped.flatten(0, 1)).unflatten(0, (count, -1))  # (A, b, K)
        excess = _excess(opened, sizes.to(mask.device), config.slack)
        loss = (config.penalty * excess * opened.sum((1, 2, 3))).sum()
        for group in groups:
            for maps in (capture.inputs[group.layer], capture.outputs[group.layer]):
                loss = loss + group.loss(maps.unflatten(0, (count, -1)), config.other_weight)
        if config.logit_weight:
            loss = loss - config.logit_weight * logits[torch.arange(count, device=logits.device), :, targets].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _unit(mask.detach()).squeeze(1), _unit(delta.detach())


class _Group:
    """The candidates of one layer: their rows among all candidates, and their channels."""

    def __init__(self, layer: str, candidates: Sequence[Candidate], device: torch.device):
        self.layer = layer
        rows = [a for a, one in enumerate(candidates) if one.layer == layer]
        self.rows = torch.tensor(rows, dtype=torch.int64, device=device)
        self.channels = torch.tensor([candidates[a].channel for a in rows], dtype=torch.int64, device=device)

    def loss(self, maps: torch.Tensor, other_weight: float) -> torch.Tensor:
        """Return minus the sum of the candidates' own maps (A, b, n, ...), plus `other_weight` times all others."""
        sums = maps[self.rows].flatten(2 if maps.ndim == 3 else 3)
        sums = sums if maps.ndim == 3 else sums.sum(3)  # (rows, b, neurons)
        mine = sums[torch.arange(len(self.rows), device=sums.device), :, self.channels].sum()
        return other_weight * (sums.sum() - mine) - mine


def _excess(opened: torch.Tensor, sizes: torch.Tensor, slack: int) -> torch.Tensor:
    """Return 0, 1 or 2 for each mask (A, 1, H, W): within its size (A,), above it, or above the square with slack."""
    used = (opened.detach() > 0.01).sum((1, 2, 3))
    limits = (sizes.double().sqrt() + slack).square()
    return (used > sizes).float() + (used > limits).float()


def _unit(values: torch.Tensor) -> torch.Tensor:
    return values.tanh() / 2 + 0.5


def _module(model: nn.Module, name: str) -> nn.Module:
    found = dict(model.named_modules()).get(name)
    if found is None:
        raise CompanionError(f"{type(model).__name__} has no module {name!r} for ABS to probe.")
    return found


class _Capture:
    """While entered, keeps the input (the sum of several) and the output of modules at each call."""

    def __init__(self, modules: dict[str, nn.Module], names: list[str]):
        self.modules, self.names = modules, names
        self.inputs, self.outputs = {}, {}

    def __enter__(self):
        self.handles = [self.modules[name].register_forward_hook(self._keep(name)) for name in self.names]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def _keep(self, name: str):
        def hook(_module, inputs, output):
            self.inputs[name] = sum(inputs[1:], inputs[0])
            self.outputs[name] = output

        return hook


class _Replaced:
    """While entered, a module's output has channel rows[i] of image i set to values[i] everywhere."""

    def __init__(self, module: nn.Module, rows: torch.Tensor, values: torch.Tensor):
        self.module, self.rows, self.values = module, rows, values

    def __enter__(self):
        self.handle = self.module.register_forward_hook(self._hook)

    def __exit__(self, *_):
        self.handle.remove()

    def _hook(self, _module, _inputs, output):
        changed = output.clone()
        every = torch.arange(len(output), device=output.device)
        changed[every, self.rows] = self.values.to(output).view(-1, *[1] * (output.ndim - 2))
        return changed


def _check(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    low, high = (float(value) for value in images.aminmax()) if images.numel() else (math.nan, math.nan)
    if images.ndim != 4 or len(images) < 3 or not (low >= 0 and high <= 1):
        raise CompanionError(
            f"ABS got images of shape {tuple(images.shape)} with values from {low:g} to {high:g}; expected at least 3 "
            "images (N, C, H, W) in [0, 1]."
        )
    if labels.shape != (len(images),) or labels.dtype != torch.int64 or len(labels.unique()) < 2:
        raise CompanionError(
            f"ABS got labels of shape {tuple(labels.shape)} {labels.dtype} for {len(images)} images; expected int64 "
            "labels of at least two classes, as a trigger is judged by images of other classes."
        )
    bad = next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), None)
    if bad is not None:
        raise CompanionError(f"the model's weights {bad} are not finite; there is nothing for ABS to stimulate.")
