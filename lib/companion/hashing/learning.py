"""Training hash heads on a token backbone: weighted contrastive hashing, its ablations, and its trained rivals."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from companion.errors import CompanionError
from companion.hashing import objectives
from companion.hashing.heads import HeadBank, check_length
from companion.hashing.views import Augmentation, random_views
from companion.hashing.weights import SIMILARITIES, mutual_attention, weights_of
from companion.seeding import generator

OBJECTIVES = ("contrastive", "cibhash", "greedyhash", "bihalf")
SINGLE = ("greedyhash", "bihalf")
"""Objectives that look at the images themselves and keep their features' similarities; the others compare views."""


@dataclass(frozen=True)
class HashSpec:
    """What one head learns.

    bits: code length, a multiple of 8; objective: one of OBJECTIVES; for "contrastive" further: weights: where W comes
    from (`weights.SIMILARITIES`); mutual: whether tokens pass mutual attention first; attention_temperature: its T;
    balance: whether the balance and energy terms are added; detach: whether W is held constant in the gradient;
    normalise: whether every row of W is divided by its sum.
    """

    bits: int
    objective: str = "contrastive"
    weights: str = "identity"
    mutual: bool = False
    attention_temperature: float = 1.0
    balance: bool = True
    detach: bool = False
    normalise: bool = False

    def __post_init__(self):
        check_length(self.bits)
        if self.objective not in OBJECTIVES or self.weights not in SIMILARITIES:
            raise CompanionError(
                f"a head with objective {self.objective!r} and weights {self.weights!r}: expected one of "
                f"{', '.join(OBJECTIVES)}, and one of {', '.join(SIMILARITIES)}."
            )


@dataclass(frozen=True)
class HashingConfig:
    """Settings that all heads of a bank share.

    epochs, batch_size; learning_rate: of Adam, falling to 0 along a cosine; hidden: numbers of the head's middle layer;
    temperature, weight_temperature: tau and tau_w; backbone_rate: learning rate of the backbone, 0 to keep it frozen;
    penalty: weight of the quantisation term of the GreedyHash-like and Bi-half-like heads.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    hidden: int = 256
    temperature: float = 0.3
    weight_temperature: float = 0.2
    backbone_rate: float = 0.0
    penalty: float = 0.1

    def __post_init__(self):
        rates = self.learning_rate > 0 and self.backbone_rate >= 0
        if self.epochs < 1 or self.batch_size < 2 or not rates or self.temperature <= 0 or self.weight_temperature <= 0:
            raise CompanionError(
                f"{self}: expected at least one epoch, two images a batch, and positive learning rate and temperatures."
            )


@dataclass(frozen=True)
class Trained:
    """A bank of trained heads, the backbone they sit on, and each epoch's mean loss (epochs, S)."""

    bank: HeadBank
    backbone: nn.Module
    losses: torch.Tensor


def new_bank(width: int, specs: Sequence[HashSpec], config: HashingConfig, seed: int) -> HeadBank:
    """Return untrained heads; those of one code length start from the same weights, whatever they will learn."""
    generators = [generator(seed, "head", spec.bits) for spec in specs]
    return HeadBank(width, config.hidden, [spec.bits for spec in specs], generators)


def train_heads(
    backbone: nn.Module,
    images: torch.Tensor,
    specs: Sequence[HashSpec],
    config: HashingConfig,
    views: Augmentation,
    seed: int,
) -> Trained:
    """Train one head for every spec, all on the same batches and views, and return them.

    backbone: images to tokens (B, L, D), on the device to use; it is left as it was. If `config.backbone_rate` > 0 a
    copy is trained with the heads and returned; heads that share it must learn the same but for their code length.
    images: (N, C, side, side) float32 in [0, 1] with N >= the batch size; no labels.
    Raises CompanionError for other calls, and if a loss stops being finite.
    """
    tuned = config.backbone_rate > 0
    _check(specs, len(images), config)
    device = next(backbone.parameters()).device
    images = images.to(device)
    if tuned:
        backbone = deepcopy(backbone).train()
    with torch.no_grad():
        width = backbone(images[:1]).shape[-1]
    bank = new_bank(width, specs, config, seed).to(device)
    groups = [{"params": list(bank.parameters()), "lr": config.learning_rate}]
    if tuned:
        groups.append({"params": list(backbone.parameters()), "lr": config.backbone_rate})
    optimizer = torch.optim.Adam(groups)
    rates = [group["lr"] for group in groups]
    draw, samples = generator(seed, "hashing"), generator(seed, "sampled codes")
    per_epoch, history = len(images) // config.batch_size, []
    for epoch in range(config.epochs):
        total = torch.zeros(len(specs), device=device)
        order = torch.randperm(len(images), generator=draw).to(device)
        for index in range(per_epoch):
            batch = images[order[index * config.batch_size : (index + 1) * config.batch_size]]
            done = (epoch * per_epoch + index) / (config.epochs * per_epoch)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
            pair = [random_views(batch, views, draw) for _ in range(2)]
            with torch.set_grad_enabled(tuned):
                seen = _see(backbone, batch, pair, specs)
            losses = _losses(bank, seen, specs, config, samples)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            total += losses.detach()
        history.append(total.cpu() / per_epoch)
    if not torch.stack(history).isfinite().all():
        raise CompanionError(f"a hashing loss is not finite: lower the learning rate (now {config.learning_rate}).")
    return Trained(bank.eval(), backbone.eval(), torch.stack(history))


def _check(specs: Sequence[HashSpec], count: int, config: HashingConfig) -> None:
    if not specs or count < config.batch_size:
        raise CompanionError(
            f"training of {len(specs)} heads on {count} images: expected at least one head, and one full batch of "
            f"{config.batch_size} images. Lower `batch_size` or take more images."
        )
    if config.backbone_rate > 0 and len({replace(spec, bits=8) for spec in specs}) > 1:
        raise CompanionError(
            f"{len(specs)} heads that learn different things were to share a tuned backbone (backbone_rate "
            f"{config.backbone_rate}): each would change the others. Train them one by one; code lengths may differ."
        )


class _Seen(NamedTuple):
    """What the heads get of a batch: the views' tokens (B, L, D) by temperature of mutual attention (0: none), and the
    mean tokens (B, D) of the images themselves, each None if no head asks for it."""

    views: dict[float, tuple[torch.Tensor, torch.Tensor]] | None
    clean: torch.Tensor | None


def _see(backbone, batch, pair, specs) -> _Seen:
    clean, views = None, None
    if any(spec.objective in SINGLE for spec in specs):
        clean = backbone(batch).mean(1)
    wanted = dict.fromkeys(_attention(spec) for spec in specs if spec.objective not in SINGLE)
    if wanted:
        sides = backbone(torch.cat(pair)).chunk(2)
        views = {key: mutual_attention(*sides, key) if key else sides for key in wanted}
    return _Seen(views, clean)


def _losses(bank: HeadBank, seen: _Seen, specs, config: HashingConfig, samples: torch.Generator) -> torch.Tensor:
    """Return the loss of every head (S,) on one batch."""
    inputs = []
    for spec in specs:
        single = spec.objective in SINGLE
        sides = (seen.clean, seen.clean) if single else [side.mean(1) for side in seen.views[_attention(spec)]]
        inputs.append(torch.cat(sides))
    soft = bank(torch.stack(inputs))  # (S, 2B, longest)
    device, losses = soft.device, torch.zeros(len(specs), device=soft.device)
    for objective in dict.fromkeys(spec.objective for spec in specs):
        chosen = [index for index, spec in enumerate(specs) if spec.objective == objective]
        lengths, mask = bank.lengths[chosen], bank.mask[chosen]
        first, second = soft[chosen].chunk(2, dim=1)  # (S', B, longest)
        if objective == "contrastive":
            found = _contrastive(first, second, mask, lengths, [specs[index] for index in chosen], seen.views, config)
        elif objective == "cibhash":
            draws = torch.rand(2, 1, *first.shape[1:], generator=samples).to(device)
            codes = objectives.sampled_codes(first, draws[0]), objectives.sampled_codes(second, draws[1])
            found = objectives.information_bottleneck(first, second, lengths, codes, config.temperature)
        else:
            greedy = objective == "greedyhash"
            codes = (objectives.straight_through_sign if greedy else objectives.bi_half)(first) * mask
            penalty = objectives.greedy_penalty if greedy else objectives.distance_to_half
            found = objectives.similarity_preserving(codes, seen.clean.detach(), lengths)
            found = found + config.penalty * penalty(first, lengths)
        losses = losses.index_put((torch.tensor(chosen, device=device),), found)
    return losses


def _attention(spec: HashSpec) -> float:
    """The temperature of a head's mutual attention; 0 where it has none."""
    return spec.attention_temperature if spec.mutual else 0.0


def _contrastive(first, second, mask, lengths, specs, mixed, config) -> torch.Tensor:
    cache, weights = {}, []
    for spec in specs:
        key = (spec.weights, _attention(spec))
        if key not in cache:
            cache[key] = weights_of(spec.weights, *mixed[_attention(spec)], config.weight_temperature)
        found = cache[key].detach() if spec.detach else cache[key]
        weights.append(found / found.sum(1, keepdim=True) if spec.normalise else found)
    codes = [objectives.straight_through_sign(soft) * mask for soft in (first, second)]
    found = objectives.weighted_contrastive(*codes, torch.stack(weights), lengths, config.temperature)
    balanced = torch.tensor([float(spec.balance) for spec in specs], device=first.device)
    return found + balanced * objectives.balance_and_energy(codes[0], lengths)
