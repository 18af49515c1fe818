"""The warm start of a backbone without labels: SimCLR (Chen et al., ICML 2020) on the training images.

It stands in for the ImageNet weights that the paper starts from.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.hashing.backbone import BackboneConfig, build_backbone
from companion.hashing.views import Augmentation, random_views
from companion.seeding import generator


@dataclass(frozen=True)
class WarmupConfig:
    """Epochs, batch size, highest learning rate (AdamW, one tenth of the steps rising, then a cosine), temperature of
    the contrastive loss, and width of its projection."""

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 2e-3
    temperature: float = 0.2
    projection: int = 64

    def __post_init__(self):
        if self.epochs < 0 or self.batch_size < 2 or not self.learning_rate > 0 or not self.temperature > 0:
            raise CompanionError(
                f"{self}: expected epochs >= 0, at least two images a batch, and a positive learning rate and "
                "temperature."
            )


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the contrastive loss of two views' vectors, each (..., B, D): every vector must find its partner among
    the 2 B - 1 others by cosine similarity. Leading dimensions are kept: (...)."""
    both = F.normalize(torch.cat([first, second], dim=-2), dim=-1)  # (..., 2B, D)
    logits = both @ both.transpose(-2, -1) / temperature
    count = both.shape[-2]
    itself = torch.eye(count, dtype=torch.bool, device=both.device)
    scores = logits.masked_fill(itself, -math.inf).log_softmax(-1)
    partner = torch.arange(count, device=both.device).roll(count // 2)
    return -scores[..., torch.arange(count, device=both.device), partner].mean(-1)


def warm_start(
    config: BackboneConfig,
    images: torch.Tensor,
    settings: WarmupConfig,
    views: Augmentation,
    seed: int,
    device: torch.device,
) -> tuple[nn.Module, list[float]]:
    """Return a backbone trained on `images` (N, C, side, side) without labels, in evaluation mode, and each epoch's
    loss; zero epochs return it untrained. Raises CompanionError for fewer images than a batch."""
    if len(images) < settings.batch_size:
        raise CompanionError(
            f"a warm start with batches of {settings.batch_size} was asked for on {len(images)} images: expected at "
            "least one full batch. Lower `batch_size` or train on more images."
        )
    backbone = build_backbone(config, generator(seed, "backbone")).to(device)
    projector = _projector(config.width, settings.projection, generator(seed, "projector")).to(device)
    parameters = [*backbone.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=0.05)
    draw = generator(seed, "warm start")
    images = images.to(device)
    per_epoch, history = len(images) // settings.batch_size, []
    for epoch in range(settings.epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=draw).to(device)
        for index in range(per_epoch):
            batch = images[order[index * settings.batch_size : (index + 1) * settings.batch_size]]
            rate = _rate(settings, epoch * per_epoch + index, settings.epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            pair = torch.cat([random_views(batch, views, draw), random_views(batch, views, draw)])
            first, second = projector(backbone(pair).mean(1)).chunk(2)
            loss = nt_xent(first, second, settings.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        history.append(total / per_epoch)
    if history and not math.isfinite(history[-1]):
        raise CompanionError(f"the warm start's loss is {history[-1]}: lower its learning rate.")
    return backbone.eval(), history


def _projector(width: int, projection: int, rng: torch.Generator) -> nn.Module:
    seed = int(torch.randint(2**62, (), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers = [nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 2 * width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(2 * width, projection))


def _rate(settings: WarmupConfig, step: int, steps: int) -> float:
    rising = max(1, steps // 10)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2
