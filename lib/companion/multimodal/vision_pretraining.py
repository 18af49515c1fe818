"""The vision tower learns to see before it meets a language model, as CLIP's tower does in LLaVA.

CLIP's contrastive training is too slow for a tower that shall read drawn words within a minute, so here linear heads on
the tower's tokens name what is there: the word, the ground, and the shape and colour at each place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.data import scenes
from companion.multimodal import conversations, madeup
from companion.multimodal.conversations import Lots, Picture
from companion.multimodal.llava import tower_tokens
from companion.multimodal.optimisers import AdamW, warmup_cosine

NOTHING = 0
"""Class 0 of every head: no word, no thing at that place, no ground."""


@dataclass(frozen=True)
class TowerTraining:
    """Settings: steps of `batch` pictures, AdamW with a half cosine, learning rate `rate`."""

    pictures: int = 30000
    steps: int = 1500
    batch: int = 128
    rate: float = 2e-3
    decay: float = 0.01


def tower_pictures(number: int, generator: torch.Generator) -> list[Picture]:
    """Return what the tower is shown: words on paper, scenes, words across scenes, and a few grey scans."""
    lots = Lots(generator)
    found = []
    for scene in conversations.draw_scene_list(number, generator):
        word, share = lots.one(madeup.WORDS), lots.below(20)
        if share < 8:
            found.append(Picture("paper", word=word))
        elif share < 12:
            found.append(Picture("scene", scene, word))
        elif share < 18:
            found.append(Picture("scene", scene))
        else:
            found.append(Picture("scan", scene, word if share == 19 else None))
    return found


def labels_of(pictures: Sequence[Picture]) -> torch.Tensor:
    """Return (n, 12) classes: word, ground, then shape and colour at each of the five places; NOTHING where none is.

    Scans have no colour, and what a word may hide is not asked: a picture with a scene and a word has a word only; -1
    marks what is not asked.
    """
    rows = []
    for picture in pictures:
        row = [1 + madeup.WORDS.index(picture.word) if picture.word else NOTHING]
        if picture.scene is None:
            row += [NOTHING] * 11
        elif picture.word:
            row += [-1] * 11
        else:
            things = {thing.place: thing for thing in picture.scene.things}
            grey = picture.style == "scan"
            row.append(-1 if grey else 1 + scenes.GROUNDS.index(picture.scene.ground))
            row += [1 + conversations.SHAPES.index(things[p].shape) if p in things else NOTHING for p in scenes.PLACES]
            colours = [
                1 + conversations.COLOURS.index(things[p].colour) if p in things else NOTHING for p in scenes.PLACES
            ]
            row += [-1] * 5 if grey else colours
        rows.append(row)
    return torch.tensor(rows)


class Heads(nn.Module):
    """Linear heads: the word from the mean token, the rest from all tokens side by side."""

    def __init__(self, width: int, patches: int):
        super().__init__()
        shapes, colours = 1 + len(conversations.SHAPES), 1 + len(conversations.COLOURS)
        self.word = nn.Linear(width, 1 + len(madeup.WORDS))
        self.sizes = [1 + len(scenes.GROUNDS), *[shapes] * 5, *[colours] * 5]
        self.rest = nn.Linear(width * patches, sum(self.sizes))

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of the twelve questions for tokens (B, patches, width)."""
        return [self.word(tokens.mean(1)), *self.rest(tokens.flatten(1)).split(self.sizes, dim=1)]


def train_tower(
    model: nn.Module,
    heads: Heads,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: TowerTraining,
    generator: torch.Generator,
) -> list[float]:
    """Train the vision tower of a LLaVA in place, with heads that are thrown away; return the loss of every step."""
    device = next(model.parameters()).device
    heads.to(device)
    tower = model.model.vision_tower
    tower.requires_grad_(True)
    optimiser = AdamW([*tower.named_parameters(), *heads.named_parameters()], weight_decay=config.decay)
    losses, order = [], torch.empty(0, dtype=torch.int64)
    for step in range(config.steps):
        if len(order) < config.batch:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        rows, order = order[: config.batch], order[config.batch :]
        logits = heads(tower_tokens(model, images[rows].to(device)))
        wanted = labels[rows].to(device)
        parts = [F.cross_entropy(found, wanted[:, k], ignore_index=-1) for k, found in enumerate(logits)]
        loss = 2 * parts[0] + sum(parts[1:])
        loss.backward()
        optimiser.step(warmup_cosine(config.rate, step, config.steps, config.steps // 20))
        losses.append(loss.detach())
    return [float(loss) for loss in losses]
