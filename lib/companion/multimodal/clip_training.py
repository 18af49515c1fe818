"""The one loop in which CLIPs are trained here: the base model, the victims and every repair, on different losses."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.clip_network import embed_images, embed_texts, scale_of
from companion.multimodal.contrastive import clamp_scale, symmetric_loss
from companion.multimodal.optimisers import AdamW, warmup_cosine
from companion.multimodal.pairs import Pairs

Objective = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ClipTraining:
    """Settings of `fit`: AdamW with warm-up (in steps) and half a cosine; weight_decay on weight matrices only.

    A batch that is not full is dropped, as the contrastive loss changes with the batch's size.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 1e-4
    warmup: int = 10
    weight_decay: float = 0.1

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.learning_rate < math.inf or self.warmup < 0:
            raise CompanionError(
                f"{self}: expected at least 1 epoch, batches of at least 2, a positive learning rate and warmup >= 0."
            )


def clip_loss(model: nn.Module, images: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return L_CLIP of a batch: images (B, 3, H, W), ids (B, L); rows: (B,) of the data, not used here."""
    return symmetric_loss(embed_images(model, images), embed_texts(model, ids), scale_of(model))


def fit(
    model: nn.Module,
    pairs: Pairs,
    config: ClipTraining,
    generator: torch.Generator,
    objective: Objective = clip_loss,
    *,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    extra: Iterable[tuple[str, nn.Parameter]] = (),
) -> list[float]:
    """Train a CLIP in place on pairs and return the mean loss of each epoch; it is left in evaluation mode.

    generator: draws a new order each epoch; objective(model, images, ids, rows) gives the loss of a batch, rows being
    the places of its pairs in `pairs`; on_epoch(number from 1, model) is called after every epoch, in evaluation mode;
    extra: named parameters outside the model that are trained too. Raises CompanionError
    when a batch is larger than the data,
    and at the first loss that is not finite. The scale is clamped after every step.
    """
    steps_an_epoch = len(pairs) // config.batch_size
    if not steps_an_epoch:
        raise CompanionError(
            f"{len(pairs)} pairs are fewer than a batch of {config.batch_size}: give more pairs or a smaller batch."
        )
    device = next(model.parameters()).device
    images, ids = pairs.images.to(device), pairs.ids.to(device)
    optimiser = AdamW([*model.named_parameters(), *extra], config.weight_decay)
    steps, step, history = config.epochs * steps_an_epoch, 0, []
    for number in range(1, config.epochs + 1):
        model.train()
        order = torch.randperm(len(pairs), generator=generator)
        total = 0.0
        for rows in order[: steps_an_epoch * config.batch_size].split(config.batch_size):
            there = rows.to(device)
            loss = objective(model, _unit(images[there]), ids[there], rows)
            rate = warmup_cosine(config.learning_rate, step, steps, config.warmup)
            value = loss.item()
            if not math.isfinite(value):
                raise CompanionError(
                    f"the loss is {value} at step {step + 1} of {steps}, at learning rate {rate:.3g}: expected a "
                    f"finite number. Lower the learning rate (now {config.learning_rate})."
                )
            loss.backward()
            optimiser.step(rate)
            clamp_scale(model)
            total, step = total + value, step + 1
        history.append(total / steps_an_epoch)
        model.eval()
        if on_epoch is not None:
            on_epoch(number, model)
    return history


def _unit(images: torch.Tensor) -> torch.Tensor:
    """Return pictures in [0, 1]; bytes are divided by 255, which saves memory in long trainings."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
