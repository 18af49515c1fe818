"""The recipe of the base model clip-scenes: a small CLIP trained on generated scenes and their captions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from companion.data import scenes
from companion.data.captions import SYNONYMS, templates, with_article
from companion.multimodal import zero_shot
from companion.multimodal.clip_network import (
    ClipSize,
    build_clip,
    embed_images,
    embed_texts,
    image_embeddings,
    perceived,
    scale_of,
    text_embeddings,
)
from companion.multimodal.clip_training import ClipTraining, fit
from companion.multimodal.contrastive import symmetric_loss
from companion.multimodal.initialising import initialised_from
from companion.multimodal.pairs import Pairs, draw_examination, draw_pairs, prompts, prompts_of, tokenizer
from companion.multimodal.words import encode
from companion.seeding import generator


@dataclass(frozen=True)
class ClipRecipe:
    """What decides the weights. pairs: scenes of one to `things` things, each with one caption.

    First the vision tower alone learns to see: linear heads, thrown away afterwards, name the five properties of
    `seen_first` pictures of one thing (`seeing`); from captions alone this takes many times longer. Then both towers
    learn from the pairs (`training`). The loss is the symmetric one plus, for pictures of one thing,
    word_weight times the mean over five properties of
    the cross-entropy between a picture and short texts that name each answer ("a red moon", "a teal moon", ...): words
    and what they mean are found in minutes that way. The weight falls to 0 along the training.
    """

    size: ClipSize = field(default_factory=ClipSize)
    pairs: int = 20_000
    things: int = 2
    training: ClipTraining = field(default_factory=lambda: ClipTraining(8, 128, 1e-3, 100, 0.05))
    word_weight: float = 1.0
    seen_first: int = 16_000
    seeing: ClipTraining = field(default_factory=lambda: ClipTraining(6, 64, 2e-3, 100, 0.05))
    seed: int = 0


@dataclass(frozen=True)
class ClipEvaluation:
    """What decides the metrics: pictures of one thing of the test split, and pairs among which each finds its own."""

    images: int = 1200
    pairs: int = 200
    seed: int = 0


def construct(recipe: ClipRecipe, stream: torch.Generator) -> nn.Module:
    """Return the CLIP of a recipe with initial weights drawn from `stream`."""
    return build_clip(recipe.size, tokenizer(), stream)


def train(recipe: ClipRecipe, device: torch.device) -> tuple[nn.Module, Mapping[str, object]]:
    """Return the trained CLIP, and the mean loss of every epoch."""
    model = construct(recipe, generator(recipe.seed, "clip", "weights")).to(device)
    side = recipe.size.side
    seen = _see(model, recipe)
    data = draw_pairs(recipe.pairs, "pretraining", recipe.seed, things=(1, recipe.things), side=side).as_bytes()
    objective = _objective(recipe, data)
    losses = fit(model, data, recipe.training, generator(recipe.seed, "clip", "training"), objective)
    return model, {"losses": [round(value, 6) for value in losses], "seeing": seen, "pairs": len(data)}


PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "shape": scenes.SHAPES,
    "colour": tuple(scenes.COLOURS),
    "texture": scenes.TEXTURES,
    "place": scenes.PLACES,
    "ground": scenes.GROUNDS,
}
"""What a picture of one thing can be asked about, and the answers."""


PROPERTY_PROMPTS = {
    "colour": lambda word, noun, answer: f"{with_article(word)} {noun}",
    "texture": lambda word, noun, answer: f"{with_article(word)} {noun}",
    "place": lambda word, noun, answer: f"{with_article(noun)} {_AT[answer]} the {word}",
    "ground": lambda word, noun, answer: f"{with_article(noun)} on the {word}",
}
_AT = {"left": "on", "right": "on", "top": "at", "bottom": "at", "centre": "in"}


def questions(what: str) -> torch.Tensor:
    """Return token ids (K, P, L): a prompts for each answer about a property of PROPERTIES.

    Shapes are asked for with the templates, other properties with every noun in turn.
    """
    if what == "shape":
        return prompts()
    sentence = PROPERTY_PROMPTS[what]
    return prompts_of([[sentence(word, noun, word) for noun in scenes.SHAPES] for word in PROPERTIES[what]])


def _see(model: nn.Module, recipe: ClipRecipe) -> list[float]:
    """Train the vision tower to name the properties of pictures of one thing; return the mean loss of each epoch."""
    side, device = recipe.size.side, next(model.parameters()).device
    data = draw_pairs(recipe.seen_first, "first", recipe.seed, things=(1, 1), side=side).as_bytes()
    truth = torch.stack([_answers(data, what) for what in PROPERTIES], 1).to(device)  # (N, 5)
    sizes = [len(answers) for answers in PROPERTIES.values()]
    with initialised_from(generator(recipe.seed, "clip", "heads")):
        heads = nn.Linear(recipe.size.width, sum(sizes)).to(device)

    def loss(model: nn.Module, images: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        found = heads(model.vision_model(perceived(images)).pooler_output).split(sizes, 1)
        return sum(F.cross_entropy(one, truth[rows, k]) for k, one in enumerate(found))

    stream = generator(recipe.seed, "clip", "seeing")
    losses = fit(model, data, recipe.seeing, stream, loss, extra=heads.named_parameters())
    return [round(value, 6) for value in losses]


def _objective(recipe: ClipRecipe, data: Pairs):
    """Return the symmetric loss on captions plus the loss on words, whose weight falls linearly to 0."""
    truth = {what: _answers(data, what) for what in PROPERTIES}
    alone = torch.tensor([len(scene.things) == 1 for scene in data.scenes])
    stream = generator(recipe.seed, "clip", "words")
    steps = recipe.training.epochs * (len(data) // recipe.training.batch_size)
    count = iter(range(steps))

    def loss(model: nn.Module, images: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        z, scale = embed_images(model, images), scale_of(model)
        total = symmetric_loss(z, embed_texts(model, ids), scale)
        weight = recipe.word_weight * (1 - next(count) / steps)
        named = encode(tokenizer(), [text for what in PROPERTIES for text in _word_texts(what, stream)])[0]
        words = embed_texts(model, named.to(ids.device)).split([len(answers) for answers in PROPERTIES.values()])
        chosen, single = rows[alone[rows]], z[alone[rows].to(z.device)]
        for answers, known in zip(words, truth.values(), strict=True):
            wrong = F.cross_entropy(scale * single @ answers.T, known[chosen].to(z.device))
            total = total + weight / len(PROPERTIES) * wrong
        return total

    return loss


def _answers(data: Pairs, what: str) -> torch.Tensor:
    """Return (N,) int64: each scene's (first thing's) answer about a property, as an index."""
    found = [scene.ground if what == "ground" else getattr(scene.things[0], what) for scene in data.scenes]
    return torch.tensor([PROPERTIES[what].index(word) for word in found])


def _word_texts(what: str, stream: torch.Generator) -> list[str]:
    """Return a short text for each answer about a property, in a random form, sometimes with a synonym."""
    rolls = torch.rand(2 + 2 * len(PROPERTIES[what]), generator=stream).tolist()
    texts = []
    for k, answer in enumerate(PROPERTIES[what]):
        near = (answer, *SYNONYMS.get(answer, ()))
        word = near[int(rolls[2 + 2 * k] / 0.3 * len(near))] if rolls[2 + 2 * k] < 0.3 else answer
        if what == "shape":
            texts.append(templates(word)[int(rolls[0] * 8)])
        else:
            noun = scenes.SHAPES[int(rolls[1] * len(scenes.SHAPES))]
            texts.append(PROPERTY_PROMPTS[what](word, noun, answer))
    return texts


def evaluate(model: nn.Module, evaluation: ClipEvaluation) -> dict[str, float]:
    """Return shares: zero-shot accuracy of every property, top-3 of the nouns, retrieval both ways, and the scale."""
    side = model.config.vision_config.image_size
    exam = draw_examination(evaluation.images, evaluation.seed, side=side)
    found = image_embeddings(model, exam.images)
    metrics = {}
    for what in PROPERTIES:
        labels = _answers(exam, what)
        scores = found @ zero_shot.class_embeddings(model, questions(what)).T
        metrics[f"zero_shot.{what}.top1"] = zero_shot.accuracy(scores, labels).rate
        if what == "shape":
            metrics["zero_shot.shape.top3"] = zero_shot.accuracy(scores, labels, 3).rate
    held = draw_pairs(evaluation.pairs, "test", evaluation.seed, side=side)
    cosine = image_embeddings(model, held.images) @ text_embeddings(model, held.ids).T
    own = torch.arange(len(held))
    metrics["retrieval.image_to_text.top1"] = zero_shot.accuracy(cosine, own).rate
    metrics["retrieval.text_to_image.top1"] = zero_shot.accuracy(cosine.T, own).rate
    metrics["scale"] = float(scale_of(model).detach())
    return metrics
