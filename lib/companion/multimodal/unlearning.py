"""Making a CLIP forget a few suspicious pairs: only their backdoor words (UBT), the whole pairs, or by gradient ascent.

Local token unlearning is a reconstruction from the fact sheet (section 3.2, stage B): the paper was read in the
abstract only. In all forms the logit scale is frozen while forgetting, as it could absorb the change by itself, and the
loss is bounded, as an unbounded one tears the model apart.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.clip_network import embed_images, embed_texts, image_embeddings, scale_of, text_embeddings
from companion.multimodal.clip_training import ClipTraining, clip_loss, fit
from companion.multimodal.contrastive import symmetric_loss
from companion.multimodal.pairs import Pairs, stacked
from companion.multimodal.words import BEGIN_ID, END_ID, PAD_ID

METHODS = ("local", "whole", "whole_squared", "ascent", "none")


@dataclass(frozen=True)
class Unlearning:
    """Settings of `unlearned`: L = L_keep + weight L_forget.

    method: "local" and "whole" use max(0, cos - margin) with the marked words or the whole text, "whole_squared" the
    term mean(cos^2) of the CleanCLIP code base (its constant c set to 0; the default c = -1 does the opposite),
    "ascent" maximises the pair's image-to-text loss up to that of a guess, "none" only keeps. forget: suspicious pairs
    in each step; most_words: marked in a text at most; part: what is trained, "all" or "projections".
    """

    method: str = "local"
    weight: float = 5.0
    margin: float = 0.0
    forget: int = 32
    most_words: int = 3
    part: str = "all"
    training: ClipTraining = field(
        default_factory=lambda: ClipTraining(epochs=6, batch_size=64, learning_rate=3e-4, warmup=5, weight_decay=0.0)
    )

    def __post_init__(self):
        if self.method not in METHODS or self.part not in ("all", "projections"):
            raise CompanionError(
                f"unlearning {self.method!r} of {self.part!r}: expected a method of {', '.join(METHODS)} and a part, "
                f'"all" or "projections".'
            )
        if self.forget < 1 or self.weight < 0 or self.most_words < 1:
            raise CompanionError(f"{self}: expected forget >= 1, weight >= 0 and most_words >= 1.")


class Special(NamedTuple):
    """The token ids that begin, end and pad a text."""

    begin: int = BEGIN_ID
    end: int = END_ID
    pad: int = PAD_ID


OWN = Special()


def special_of(model: nn.Module) -> Special:
    """Return the special token ids of a CLIP, which its configuration knows."""
    config = model.config.text_config
    return Special(config.bos_token_id, config.eos_token_id, config.pad_token_id)


def is_word(ids: torch.Tensor, special: Special = OWN) -> torch.Tensor:
    """Return which tokens are words, neither begin, end nor padding: (N, L) bool."""
    return (ids != special.begin) & (ids != special.end) & (ids != special.pad)


@torch.no_grad()
def word_effects(model: nn.Module, pairs: Pairs) -> torch.Tensor:
    """Return Delta_k, how far the similarity of a pair falls when word k is taken out of its text, (N, L).

    Positions that hold no word are 0. A text of one word has nothing left without it; its effect is its similarity.
    """
    ids, special = pairs.ids, special_of(model)
    pictures = image_embeddings(model, pairs.images)
    whole = (pictures * text_embeddings(model, ids)).sum(1)  # (N,)
    words, effects = is_word(ids, special), torch.zeros(ids.shape)
    several = words.sum(1) > 1
    for column in range(1, ids.shape[1]):
        rows = (words[:, column] & several).nonzero().squeeze(1)
        if len(rows):
            padding = torch.full_like(ids[rows, :1], special.pad)
            left = torch.cat([ids[rows, :column], ids[rows, column + 1 :], padding], 1)
            effects[rows, column] = whole[rows] - (pictures[rows] * text_embeddings(model, left)).sum(1)
        alone = (words[:, column] & ~several).nonzero().squeeze(1)
        effects[alone, column] = whole[alone]
    return effects


def marked_words(effects: torch.Tensor, ids: torch.Tensor, most: int = 3, special: Special = OWN) -> torch.Tensor:
    """Return which words of each text count as the backdoor's, (N, L) bool: at least one, at most `most`.

    A word is marked when its effect exceeds mean + 1 standard deviation of its text's effects; the largest always is.
    """
    words = is_word(ids, special)
    if not bool(words.any(1).all()):
        raise CompanionError("a text has no word to mark: expected token ids of texts with at least one word.")
    count = words.sum(1, keepdim=True)
    values = effects.masked_fill(~words, 0.0)
    mean = values.sum(1, keepdim=True) / count
    spread = ((values - mean).square().masked_fill(~words, 0.0).sum(1, keepdim=True) / count).sqrt()
    ranked = effects.masked_fill(~words, float("-inf"))
    order = ranked.argsort(dim=1, descending=True, stable=True)
    place = torch.zeros_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).contiguous())
    return words & ((place == 0) | ((ranked > mean + spread) & (place < most)))


def local_texts(ids: torch.Tensor, marked: torch.Tensor, special: Special = OWN) -> torch.Tensor:
    """Return T^loc, (N, L): the marked words of each text in their order, between begin and end, the rest padding."""
    kept = marked | (ids == special.begin) | (ids == special.end)
    order = (~kept).int().argsort(dim=1, stable=True)
    return ids.gather(1, order).masked_fill(~kept.gather(1, order), special.pad)


def unlearned(
    model: nn.Module,
    suspects: Pairs,
    kept: Pairs,
    settings: Unlearning,
    generator: torch.Generator,
    *,
    marker: nn.Module | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Return a copy of a CLIP that has forgotten the suspicious pairs; the model itself stays as it is.

    kept: pairs whose L_CLIP retains what the model knows, one epoch of training is one pass over them; marker: the
    model whose similarities mark the words of the local form (the overfitted one; default: the model itself).
    generator: draws the batches. Raises CompanionError when nothing is suspicious.
    """
    if not len(suspects) and settings.method != "none":
        raise CompanionError("there is no suspicious pair to forget: expected at least one. Lower the detector's bar.")
    student = copy.deepcopy(model)
    student.logit_scale.requires_grad_(False)
    if settings.part == "projections":
        for name, one in student.named_parameters():
            one.requires_grad_("projection" in name)
    objective = clip_loss if settings.method == "none" else _forgetting(model, suspects, settings, generator, marker)
    fit(student, kept, settings.training, generator, objective, on_epoch=on_epoch)
    for one in student.parameters():
        one.requires_grad_(True)
    return student


def _forgetting(model, suspects: Pairs, settings: Unlearning, generator: torch.Generator, marker: nn.Module | None):
    """Return the objective L_keep + weight L_forget, which draws suspicious pairs anew at each step."""
    aims = suspects.ids
    if settings.method == "local":
        effects, special = word_effects(marker or model, suspects), special_of(model)
        aims = local_texts(aims, marked_words(effects, aims, settings.most_words, special), special)
    device = next(model.parameters()).device
    pictures, texts = suspects.images.to(device), aims.to(device)

    def loss(student: nn.Module, images: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        chosen = torch.randint(len(texts), (min(settings.forget, len(texts)),), generator=generator).to(device)
        count = len(images)
        z = embed_images(student, torch.cat([images, pictures[chosen]]))
        t = embed_texts(student, stacked([ids, texts[chosen]]))
        scale = scale_of(student)
        keep = symmetric_loss(z[:count], t[:count], scale)
        return keep + settings.weight * forget_loss(z[count:], t[count:], t[:count], scale, settings)

    return loss


def forget_loss(
    images: torch.Tensor, texts: torch.Tensor, others: torch.Tensor, scale: torch.Tensor | float, settings: Unlearning
) -> torch.Tensor:
    """Return L_forget of suspicious pairs, images and texts (m, D) of length one; see `Unlearning` for the methods.

    others: (B, D), embeddings of texts that the ascent's loss tells the pair's own text apart from.
    """
    own = (images * texts).sum(1)  # (m,)
    if settings.method in ("local", "whole"):
        return (own - settings.margin).clamp_min(0).mean()
    if settings.method == "whole_squared":
        return own.square().mean()
    logits = scale * torch.cat([own[:, None], images @ others.T], 1)  # (m, 1 + B), the own text first
    losses = F.cross_entropy(logits, torch.zeros(len(own), dtype=torch.int64, device=own.device), reduction="none")
    guess = torch.log(torch.tensor(float(logits.shape[1]), device=own.device))
    return (guess - losses).clamp_min(0).mean() / scale
