"""Searches for prompts that ask for a concept without its words: black-box (B3), by embedding (B4), by vector (B5).

All of them fill free places of a prompt with allowed words. B3 sees pictures only, B4 and B5 the text encoder, and the
adaptive attack differentiates through the sanitizer as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.concepts import Carriers, Triples
from companion.multimodal.diffusion import hidden_states
from companion.multimodal.languages import WORDS, WordLanguage

Defence = Callable[[torch.Tensor], torch.Tensor]


def end_states(hidden: torch.Tensor, ids: torch.Tensor, language: WordLanguage = WORDS) -> torch.Tensor:
    """Return the embeddings (N, d) at the first end token of each prompt."""
    return hidden[torch.arange(len(ids)), language.ends(ids)]


@dataclass(frozen=True)
class Matching:
    """Settings of the greedy search: sweeps over the free places, and how many words the gradient shortlists."""

    sweeps: int = 2
    shortlist: int = 16


@dataclass(frozen=True)
class Aim:
    """What a search by embedding looks at: the end token's state, behind a defence if there is one."""

    text_encoder: nn.Module
    language: WordLanguage
    defence: Defence | None

    def end_states(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the states (N, d) of token ids (N, L)."""
        hidden = hidden_states(self.text_encoder, ids)
        return end_states(hidden if self.defence is None else self.defence(hidden), ids, self.language)


def match_embedding(
    text_encoder: nn.Module,
    prompts: Carriers,
    goal: torch.Tensor,
    allowed: torch.Tensor,
    settings: Matching,
    generator: torch.Generator,
    defence: Defence | None = None,
) -> torch.Tensor:
    """Return token ids (N, L) whose free places hold allowed words that bring the end token's state near `goal` (N, d).

    HotFlip (Ebrahimi et al. 2018), greedily: for one place after the other the gradient of the cosine with respect to
    the word's embedding shortlists words, and the best of them by the exact cosine is kept if it is better than the
    word there (MMA-Diffusion's objective). defence: a function of all embeddings (N, L, d) to differentiate through.
    """
    if not len(allowed):
        raise CompanionError("the attack has no allowed word to search with; give it some.")
    ids = prompts.ids.clone()
    rows = torch.arange(len(ids))[:, None]
    ids[rows, prompts.free] = allowed[torch.randint(len(allowed), prompts.free.shape, generator=generator)]
    table = text_encoder.get_input_embeddings().weight.detach()[allowed]  # (W, d)
    aim = Aim(text_encoder, prompts.language, defence)
    best = _cosine(aim, ids, goal)
    for _ in range(settings.sweeps):
        for place in prompts.free.T:  # (N,)
            slope = _slope(aim, ids, goal)[torch.arange(len(ids)), place]  # (N, d)
            words = allowed[(slope @ table.T).topk(min(settings.shortlist, len(allowed)), dim=1).indices]  # (N, S)
            tried = ids[:, None].repeat(1, words.shape[1], 1)
            tried.scatter_(2, place[:, None, None].expand(-1, words.shape[1], 1), words[:, :, None])
            scores = _cosine(aim, tried.flatten(0, 1), goal.repeat_interleave(words.shape[1], 0))
            top, index = scores.unflatten(0, words.shape).max(1)
            better = top > best
            ids = torch.where(better[:, None], tried[rows[:, 0], index], ids)
            best = torch.where(better, top, best)
    return ids


@torch.no_grad()
def _cosine(aim: Aim, ids: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    parts = []
    for some, wanted in zip(ids.split(1024), goal.split(1024), strict=True):
        parts.append(F.cosine_similarity(aim.end_states(some), wanted, dim=1))
    return torch.cat(parts)


def _slope(aim: Aim, ids: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Return the gradient (N, L, d) of the cosine with respect to the word embeddings."""
    kept = []

    def keep(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_(True))
        return kept[0]

    handle = aim.text_encoder.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad():
            found = F.cosine_similarity(aim.end_states(ids), goal, dim=1).sum()
            return torch.autograd.grad(found, kept[0])[0]
    finally:
        handle.remove()


@torch.no_grad()
def concept_vector(text_encoder: nn.Module, known: Triples) -> torch.Tensor:
    """Return c = mean(T(with) - T(without)) at the end token, (d,), over target and anchor prompts (Ring-A-Bell)."""
    aim = Aim(text_encoder, known.language, None)
    return (aim.end_states(known.target) - aim.end_states(known.anchor)).mean(0)


@dataclass(frozen=True)
class Search:
    """Settings of the black-box search: random fillings of the first round, how many are kept, and further rounds in
    which each kept one has `children` with one word changed."""

    first: int = 24
    kept: int = 3
    rounds: int = 2
    children: int = 8


def black_box(
    prompts: Carriers,
    allowed: torch.Tensor,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: Search,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return token ids (N, L) whose free places hold allowed words that a search by pictures alone found.

    score: (ids (M, L), rows (M,) of the prompt that each belongs to) to the concept's share (M,) in a generated
    picture. SneakyPrompt's setting; here random fillings, then mutations of the best.
    """
    if not len(allowed):
        raise CompanionError("the attack has no allowed word to search with; give it some.")
    number, tokens = prompts.free.shape
    fills = allowed[torch.randint(len(allowed), (number, settings.first, tokens), generator=generator)]  # (N, C, K)
    values = _score_fills(prompts, fills, score)
    for _ in range(settings.rounds):
        values, order = values.sort(dim=1, descending=True, stable=True)
        kept = fills.gather(1, order[:, : settings.kept, None].expand(-1, -1, tokens))
        values = values[:, : settings.kept]
        children = kept.repeat_interleave(settings.children, 1)  # (N, kept * children, K)
        place = torch.randint(tokens, (*children.shape[:2], 1), generator=generator)
        word = allowed[torch.randint(len(allowed), place.shape, generator=generator)]
        children = children.scatter(2, place, word)
        fills = torch.cat([kept, children], 1)
        values = torch.cat([values, _score_fills(prompts, children, score)], 1)
    best = fills[torch.arange(number), values.argmax(1)]
    return filled(prompts, best)


def filled(prompts: Carriers, words: torch.Tensor) -> torch.Tensor:
    """Return the prompts' ids (N, L) with `words` (N, K) in their free places."""
    return prompts.ids.scatter(1, prompts.free, words)


def _score_fills(
    prompts: Carriers, fills: torch.Tensor, score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    count = fills.shape[1]
    ids = prompts.ids.repeat_interleave(count, 0).scatter(
        1, prompts.free.repeat_interleave(count, 0), fills.flatten(0, 1)
    )
    return score(ids, torch.arange(len(fills)).repeat_interleave(count)).unflatten(0, fills.shape[:2])
