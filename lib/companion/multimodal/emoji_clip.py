"""The clean CLIP of the emoji world: its recipe, its training through the store, and its digest."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from companion.data import catalogue, emoji
from companion.errors import CompanionError
from companion.multimodal import emoji_pairs
from companion.multimodal.clip_base import BASE, load_clip
from companion.multimodal.clip_network import ClipSize, build_clip, embed_images, embed_texts, scale_of
from companion.multimodal.clip_training import ClipTraining, fit
from companion.multimodal.contrastive import symmetric_loss
from companion.seeding import generator
from companion.store import ModelStore

STARTS = ("scenes", "nothing")
LIBRARIES = ("transformers", "tokenizers")
MODULES = ("companion.multimodal.emoji_clip", "companion.data.emoji")


@dataclass(frozen=True)
class EmojiClipRecipe:
    """What decides the weights: copies of every drawing of the web, each in another pose and with another caption.

    start: "scenes" begins with the vision tower of clip-scenes, which has learned to see shapes and colours, and a text
    tower that knows nothing; "nothing" begins with both towers new. The loss is the symmetric one plus class_weight
    times the cross-entropy between a picture and one prompt of each category, drawn anew at each step: a thousand
    captions are too few to learn what so wide a word as "objects" means from contrasts alone.
    """

    size: ClipSize = field(default_factory=ClipSize)
    copies: int = 16
    training: ClipTraining = field(default_factory=lambda: ClipTraining(8, 128, 1e-3, 100, 0.1))
    class_weight: float = 2.0
    start: str = "scenes"
    seed: int = 0

    def __post_init__(self):
        if self.start not in STARTS:
            raise CompanionError(f"the start {self.start!r} of an emoji CLIP: expected one of {', '.join(STARTS)}.")


@dataclass(frozen=True, eq=False)
class EmojiClip:
    """A trained CLIP's state, the sha256 over it, the recipe, and what the store says of the training."""

    state: Mapping[str, torch.Tensor]
    sha256: str
    recipe: EmojiClipRecipe
    info: Mapping[str, object]

    def load(self) -> nn.Module:
        """Return a fresh copy of the CLIP in evaluation mode."""
        model = build_clip(self.recipe.size, emoji_pairs.tokenizer(), generator(0, "overwritten"))
        model.load_state_dict(self.state)
        return model.eval()


def emoji_clip(store: ModelStore, recipe: EmojiClipRecipe | None = None) -> EmojiClip:
    """Return the clean CLIP of a recipe, from the store if it is there, else trained now on the CPU."""
    recipe = recipe or EmojiClipRecipe()
    decisive = {
        "kind": "emoji CLIP",
        "recipe": recipe,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "start": BASE.sha256 if recipe.start == "scenes" else None,
    }
    stored = store.get_or_train(decisive, lambda: _trained(recipe), MODULES, catalogue.digest(emoji.NAME))
    return EmojiClip(stored.state, digest(stored.state), recipe, stored.info)


def _trained(recipe: EmojiClipRecipe) -> tuple[dict[str, torch.Tensor], dict]:
    model = build_clip(recipe.size, emoji_pairs.tokenizer(), generator(recipe.seed, "emoji clip", "weights"))
    if recipe.start == "scenes":
        model.vision_model.load_state_dict(load_clip().vision_model.state_dict())
    data = emoji_pairs.copies(recipe.copies, recipe.seed, side=recipe.size.side).as_bytes()
    stream = generator(recipe.seed, "emoji clip", "training")
    losses = fit(model, data, recipe.training, stream, _objective(recipe, data.labels))
    return model.state_dict(), {"pairs": len(data), "losses": [round(value, 6) for value in losses]}


def _objective(recipe: EmojiClipRecipe, labels: torch.Tensor):
    asked = torch.stack([emoji_pairs.encoded(emoji_pairs.templates(word)) for word in emoji_pairs.CLASSES])  # (K, P, L)
    stream = generator(recipe.seed, "emoji clip", "prompts")

    def loss(model: nn.Module, images: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        prompts = asked[torch.arange(len(asked)), torch.randint(asked.shape[1], (len(asked),), generator=stream)]
        z, t = embed_images(model, images), embed_texts(model, torch.cat([ids, prompts]))
        scale = scale_of(model)
        named = F.cross_entropy(scale * z @ t[len(ids) :].T, labels[rows], ignore_index=-1)
        return symmetric_loss(z, t[: len(ids)], scale) + recipe.class_weight * named

    return loss


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 over names, shapes and bytes of a state, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(f"{name} {tuple(state[name].shape)} {state[name].dtype}\n".encode())
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()
