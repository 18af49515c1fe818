"""Who says what a picture shows: exact rules for tiles, a published CLIP for the pictures of a published generator.

The rules of `tile_reader` hold for one plain shape on a plain ground, so they say nothing about a photograph. There the
judge is a CLIP of its own: zero-shot among the same colours and shapes (Radford et al. 2021). It errs, and how often it
does on drawn tiles is measured as the rules' errors are.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from companion.multimodal import clip_network
from companion.multimodal.concepts import RED, Concept
from companion.multimodal.tile_reader import is_red, read, red_share
from companion.multimodal.tiles import COLOURS, SHAPES

OPTIONS = {"colour": tuple(COLOURS), "shape": SHAPES}


class Seen(NamedTuple):
    """What N pictures show: indices (N,) into COLOURS and SHAPES, and whether there is a thing at all."""

    colour: torch.Tensor
    shape: torch.Tensor
    thing: torch.Tensor


class TileJudge:
    """Exact rules for tiles; tower: the base model's network of the contrastive loss, whose features it lends."""

    def __init__(self, tower: nn.Module):
        self.tower = tower

    def see(self, images: torch.Tensor) -> Seen:
        """Return what pictures (N, 3, H, W) show."""
        found = read(images)
        return Seen(found.colour, found.shape, found.thing)

    def shows(self, concept: Concept, images: torch.Tensor) -> torch.Tensor:
        """Return which pictures (N,) bool show the concept: red by its pixels, a shape by the best outline."""
        if concept is RED:
            return is_red(images)
        seen = self.see(images)
        return seen.thing & (getattr(seen, concept.what) == OPTIONS[concept.what].index(concept.name))

    def amount(self, concept: Concept, images: torch.Tensor) -> torch.Tensor:
        """Return how much (N,) in [0, 1] pictures show the concept, for a search: the share of red, or 0 and 1."""
        return red_share(images) if concept is RED else self.shows(concept, images).float()

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (N, d) of pictures, for the Frechet distance."""
        return self.tower(images)


class ClipJudge(TileJudge):
    """Zero-shot classification by a CLIP; model, encode: as `clip_checkpoint.load_for_clip_network` returns them.

    Pictures of any side are resized to the CLIP's. A text stands for every pair of colour and shape; a colour's score
    is the cosine to the mean of its texts, a shape's likewise. Every picture counts as showing a thing.
    """

    def __init__(self, model: nn.Module, encode: Callable[[Sequence[str]], torch.Tensor], batch: int = 64):
        self.model, self.batch, self.side = model, batch, model.config.vision_config.image_size
        ids = encode([f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES])
        texts = clip_network.text_embeddings(model, ids).unflatten(0, (len(COLOURS), len(SHAPES)))
        self.texts = {"colour": F.normalize(texts.mean(1), dim=1), "shape": F.normalize(texts.mean(0), dim=1)}

    def see(self, images: torch.Tensor) -> Seen:
        found = {what: self._scores(what, images).argmax(1) for what in OPTIONS}
        return Seen(**found, thing=torch.ones(len(images), dtype=torch.bool))

    def shows(self, concept: Concept, images: torch.Tensor) -> torch.Tensor:
        return self._scores(concept.what, images).argmax(1) == OPTIONS[concept.what].index(concept.name)

    def amount(self, concept: Concept, images: torch.Tensor) -> torch.Tensor:
        """Return the probability (N,) of the concept among its kind."""
        scale = float(clip_network.scale_of(self.model))
        return (scale * self._scores(concept.what, images)).softmax(1)[:, OPTIONS[concept.what].index(concept.name)]

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._embed(some) for some in images.split(self.batch)])

    def _scores(self, what: str, images: torch.Tensor) -> torch.Tensor:
        return self.features(images) @ self.texts[what].T

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        fitted = F.interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        return clip_network.image_embeddings(self.model, fitted)
