"""The recipe of the base model diffusion-scenes: one frozen text encoder and two generators that read it.

First the text encoder learns from captions and pictures alone (contrastive loss); then it and the main generator are
trained together, the contrastive loss staying on at a small weight; last, a smaller generator learns to read the text
encoder as it then is. Pictures and captions are drawn afresh for every batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from companion.multimodal.diffusion import (
    CHANNELS,
    GRID,
    ImageTower,
    TextSettings,
    UNetSettings,
    build_text_encoder,
    build_unet,
    guided,
    hidden_states,
    integrate,
    velocity_loss,
)
from companion.multimodal.initialising import initialised_from
from companion.multimodal.optimisers import AdamW
from companion.multimodal.prompts import (
    CONTEXT,
    END,
    GROUND_PHRASES,
    PLACE_PHRASES,
    Prompt,
    caption,
    encode,
    ends,
    word_ids,
)
from companion.multimodal.tile_reader import read
from companion.multimodal.tiles import COLOURS, PLACES, SHAPES, SIZES, Tile, draw_tiles, render
from companion.seeding import generator


@dataclass(frozen=True)
class Stage:
    """A stage of training: AdamW at `learning_rate`, which rises over `warmup` steps and falls over the last 40 %."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        left = (self.steps - step) / self.steps
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, max(0.02, left / 0.4))


@dataclass(frozen=True)
class DiffusionRecipe:
    """What decides the weights. dropped: share of captions replaced by the empty prompt, for guidance."""

    text: TextSettings = field(default_factory=lambda: TextSettings(context=CONTEXT))
    main: UNetSettings = field(default_factory=UNetSettings)
    small: UNetSettings = field(default_factory=lambda: UNetSettings(channels=(32, 64)))
    contrastive: Stage = Stage(320, 256, 1e-3, 50)
    joint: Stage = Stage(6000, 32, 1.5e-3)
    second: Stage = Stage(3500, 32, 2e-3)
    contrastive_weight: float = 0.05
    dropped: float = 0.1
    averaging: float = 0.995
    seed: int = 0


@dataclass(frozen=True)
class DiffusionEvaluation:
    """What decides the metrics: plain prompts about random tiles, sampled by both generators from the same noise."""

    images: int = 140
    guidance: float = 3.0
    steps: int = 10
    seed: int = 0


def construct(recipe: DiffusionRecipe, stream: torch.Generator) -> nn.ModuleDict:
    """Return the parts "text", "main", "small" and "tower" with initial weights drawn from `stream`."""
    with initialised_from(stream):
        tower = ImageTower(recipe.text.width)
    return nn.ModuleDict(
        {
            "text": build_text_encoder(len(word_ids()) + 2, recipe.text, END, stream),
            "main": build_unet(recipe.main, recipe.text.width, stream),
            "small": build_unet(recipe.small, recipe.text.width, stream),
            "tower": tower,
        }
    )


def train(recipe: DiffusionRecipe, device: torch.device) -> tuple[nn.ModuleDict, Mapping[str, object]]:
    """Return the trained parts and the losses at the end of every stage."""
    parts = construct(recipe, generator(recipe.seed, "diffusion", "weights")).to(device)
    draws = generator(recipe.seed, "diffusion", "training")
    report = {"contrastive": _pretrain(parts, recipe, draws)}
    report["joint"] = _fit(parts, "main", recipe, recipe.joint, draws)
    parts["text"].requires_grad_(False)
    report["second"] = _fit(parts, "small", recipe, recipe.second, draws)
    return parts, report


def batches(stage: Stage, draws: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (pictures (B, 3, 16, 16), token ids (B, L)) for every step of a stage, never the same twice."""
    for start in range(0, stage.steps, 50):
        count = min(50, stage.steps - start) * stage.batch_size
        tiles = draw_tiles(count, draws)
        images, ids = render(tiles, draws), encode([caption(tile, draws).text for tile in tiles])
        yield from zip(images.split(stage.batch_size), ids.split(stage.batch_size), strict=True)


def _pretrain(parts: nn.ModuleDict, recipe: DiffusionRecipe, draws: torch.Generator) -> float:
    optimiser = AdamW([*parts["text"].named_parameters(), *parts["tower"].named_parameters()], weight_decay=0.01)
    stage, device = recipe.contrastive, next(parts.parameters()).device
    for step, (images, ids) in enumerate(batches(stage, draws)):
        loss = parts["tower"].contrastive_loss(images.to(device), pooled(parts["text"], ids.to(device))[1])
        loss.backward()
        optimiser.step(stage.rate(step))
    return loss.item()


def pooled(text_encoder: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all token outputs (N, L, d) and those at the first end token (N, d)."""
    hidden = hidden_states(text_encoder, ids)
    return hidden, hidden[torch.arange(len(ids), device=ids.device), ends(ids)]


def _fit(parts: nn.ModuleDict, name: str, recipe: DiffusionRecipe, stage: Stage, draws: torch.Generator) -> float:
    """Train one generator, and with it the text encoder and the tower unless the text encoder is frozen."""
    unet, text, tower = parts[name], parts["text"], parts["tower"]
    device, empty = next(unet.parameters()).device, encode([""])
    together = next(text.parameters()).requires_grad
    trained = [*unet.named_parameters()]
    if together:
        trained += [*text.named_parameters(), *tower.named_parameters()]
    optimiser = AdamW(trained, weight_decay=0.01, betas=(0.9, 0.99))
    weights = [one.detach() for one in unet.parameters()]
    average = [one.clone() for one in weights]
    running = 0.0
    for step, (images, ids) in enumerate(batches(stage, draws)):
        kept = torch.rand(len(ids), generator=draws) >= recipe.dropped
        images, ids = images.to(device), torch.where(kept[:, None], ids, empty).to(device)
        hidden, end = pooled(text, ids)
        loss = generation = velocity_loss(unet, images, hidden, draws)
        if together:
            loss = loss + recipe.contrastive_weight * tower.contrastive_loss(images[kept], end[kept])
        loss.backward()
        optimiser.step(stage.rate(step))
        torch._foreach_lerp_(average, weights, max(1 - recipe.averaging, 1 / (step + 1)))
        running += (generation.item() - running) * max(0.01, 1 / (step + 1))
    torch._foreach_copy_(weights, average)
    return running


def plain_prompt(tile: Tile) -> Prompt:
    """Return the prompt that says every property of a tile in its plainest words."""
    return Prompt(
        noun=tile.shape,
        size=tile.size,
        colour=("adjective", tile.colour),
        place=PLACE_PHRASES[tile.place][0],
        ground=GROUND_PHRASES[tile.ground][0],
    )


def evaluate(parts: nn.ModuleDict, evaluation: DiffusionEvaluation) -> dict[str, float]:
    """Return for either generator the share of pictures with the right colour, shape, size and place."""
    stream = generator(evaluation.seed, "diffusion", "evaluation")
    tiles = draw_tiles(evaluation.images, stream)
    noise = torch.randn(len(tiles), CHANNELS, GRID, GRID, generator=stream)
    with torch.no_grad():
        hidden = hidden_states(parts["text"], encode([plain_prompt(tile).text for tile in tiles]))
        empty = hidden_states(parts["text"], encode([""]))
    known = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "place": tuple(PLACES)}
    metrics = {}
    for name in ("main", "small"):
        found = read(integrate(guided(parts[name], hidden, empty, evaluation.guidance), noise, evaluation.steps))
        for what, options in known.items():
            truth = torch.tensor([options.index(getattr(tile, what)) for tile in tiles])
            metrics[f"{name}.{what}"] = float((getattr(found, what) == truth).double().mean())
        metrics[f"{name}.thing"] = float(found.thing.double().mean())
    return metrics
