"""The Embedding Sanitizer (Qiu et al. 2024, version 1): a module at the text encoder's output that erases a concept.

What the paper's abstract confirms: a plug-in on the prompt embedding, trained on prompts alone, in which every token
gets a harmfulness score that sets how strongly it is changed. Architecture and losses here are the reconstruction of
the project's fact sheet, section 1.3: E_safe = E + alpha * s * Delta.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.concepts import Triples
from companion.multimodal.diffusion import hidden_states
from companion.multimodal.initialising import initialised_from
from companion.multimodal.optimisers import AdamW, warmup_cosine


class Block(nn.Module):
    """A transformer encoder layer without a causal mask: every token sees all others, (N, L, d) to (N, L, d)."""

    def __init__(self, width: int, heads: int, expansion: int):
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = self.attend(self.before(hidden)).unflatten(2, (3, self.heads, -1))  # (N, L, 3, heads, d / heads)
        mixed = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))  # (N, heads, L, d / heads)
        hidden = hidden + self.join(mixed.transpose(1, 2).flatten(2))
        return hidden + self.narrow(F.gelu(self.widen(self.after(hidden))))


@dataclass(frozen=True)
class SanitizerSettings:
    """Size and variant: width d, layers and heads of the trunk, context: L at most; gated: whether the score scales
    the edit (s = 1 where not); words_only: edit the positions of words and leave begin, end and padding as they are."""

    width: int = 64
    layers: int = 1
    heads: int = 4
    expansion: int = 2
    context: int = 64
    gated: bool = True
    words_only: bool = False


class Sanitizer(nn.Module):
    """Trunk g, score head s = sigmoid(MLP(g(E))) in [0, 1]^L and edit head Delta, which starts at zero.

    `alpha` is the strength at use; training uses 1.
    """

    def __init__(self, settings: SanitizerSettings, generator: torch.Generator):
        super().__init__()
        width = settings.width
        self.settings, self.alpha = settings, 1.0
        with initialised_from(generator):
            self.place = nn.Parameter(0.02 * torch.randn(1, settings.context, width))
            self.trunk = nn.Sequential(
                *[Block(width, settings.heads, settings.expansion) for _ in range(settings.layers)]
            )
            self.score = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 1)
            )
            self.edit = nn.Linear(width, width)
        nn.init.zeros_(self.edit.weight)
        nn.init.zeros_(self.edit.bias)

    def judge(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (N, L) of the scores and the edits Delta (N, L, d) for embeddings E (N, L, d)."""
        if hidden.ndim != 3 or hidden.shape[2] != self.settings.width or hidden.shape[1] > self.settings.context:
            raise CompanionError(
                f"embeddings of shape {tuple(hidden.shape)}: expected (N, L, {self.settings.width}) with L at most "
                f"{self.settings.context}, the output of the text encoder that this sanitizer was trained on."
            )
        trunk = self.trunk(hidden + self.place[:, : hidden.shape[1]])
        return self.score(trunk).squeeze(2), self.edit(trunk)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the harmfulness (N, L) in [0, 1] of every token."""
        return torch.sigmoid(self.judge(hidden)[0])

    def forward(self, hidden: torch.Tensor, words: torch.Tensor | None = None) -> torch.Tensor:
        """Return E_safe = E + alpha s Delta, (N, L, d); words: (N, L) bool, needed if only words are edited."""
        return self.apply_edit(hidden, *self.judge(hidden), words)

    def apply_edit(
        self, hidden: torch.Tensor, logits: torch.Tensor, edit: torch.Tensor, words: torch.Tensor | None
    ) -> torch.Tensor:
        """Return E_safe from the score logits and the edits."""
        if self.settings.gated:
            edit = torch.sigmoid(logits)[:, :, None] * edit
        if self.settings.words_only:
            edit = edit * words[:, :, None]
        return hidden + self.alpha * edit


@dataclass(frozen=True)
class SanitizerTraining:
    """AdamW; steps of `batch_size` triples; lambda_p and lambda_s, the weights of the preserving and the score loss;
    soft_labels: give positions after the target word a score label too; prompts: triples to draw batches from."""

    steps: int = 500
    batch_size: int = 32
    learning_rate: float = 4e-3
    preserve_weight: float = 1.0
    score_weight: float = 0.1
    soft_labels: bool = True
    prompts: int = 1500


@dataclass(frozen=True)
class Embedded:
    """The triples' embeddings (N, L, d) by the frozen text encoder, the words' positions, and score labels (N, L)."""

    target: torch.Tensor
    anchor: torch.Tensor
    benign: torch.Tensor
    target_words: torch.Tensor
    anchor_words: torch.Tensor
    benign_words: torch.Tensor
    labels: torch.Tensor


@torch.no_grad()
def embed_triples(text_encoder: nn.Module, found: Triples, soft_labels: bool = True) -> Embedded:
    """Return the embeddings of training prompts.

    A score's label is 1 at the target word; as the encoder is causal, later positions carry the concept too and get the
    soft label min(1, ||T(p_t)_i - T(p_a)_i|| / tau), with tau the median of that distance at the target word.
    """
    target, anchor, benign = (hidden_states(text_encoder, ids) for ids in (found.target, found.anchor, found.benign))
    differs = found.target != found.anchor
    distance = (target - anchor).norm(dim=2)  # (N, L)
    labels = (distance / distance[differs].quantile(0.5)).clamp(max=1)
    labels = labels if soft_labels else torch.zeros_like(labels)
    labels[differs] = 1.0
    words = [found.language.word_positions(ids) for ids in (found.target, found.anchor, found.benign)]
    return Embedded(target, anchor, benign, *words, labels)


def train_sanitizer(
    text_encoder: nn.Module,
    found: Triples,
    settings: SanitizerSettings,
    training: SanitizerTraining,
    generator: torch.Generator,
) -> Sanitizer:
    """Return a sanitizer trained on triples of prompts; no picture is used and the text encoder stays as it is.

    L = L_e + lambda_p L_p + lambda_s L_s: squared errors of ES(T(p_t)) to T(p_a), and of ES(T(p_a)) and ES(T(p_b)) to
    themselves; binary cross-entropy of the scores (fact sheet, section 1.3).
    """
    data = embed_triples(text_encoder, found, training.soft_labels)
    module = Sanitizer(settings, generator)
    optimiser = AdamW(module.named_parameters(), weight_decay=0.01)
    size = min(training.batch_size, len(data.target))
    for step in range(training.steps):
        pick = torch.randint(len(data.target), (size,), generator=generator)
        loss = sanitizer_loss(module, data, pick, training)
        loss.backward()
        optimiser.step(warmup_cosine(training.learning_rate, step, training.steps, 30))
    if not math.isfinite(loss.item()):
        raise CompanionError(
            f"the sanitizer's loss is {loss.item()} after {training.steps} steps; lower learning_rate "
            f"{training.learning_rate}."
        )
    return module.eval().requires_grad_(False)


def sanitizer_loss(module: Sanitizer, data: Embedded, pick: torch.Tensor, training: SanitizerTraining) -> torch.Tensor:
    """Return L for the triples `pick` (B,)."""
    target, anchor, benign = data.target[pick], data.anchor[pick], data.benign[pick]
    words = torch.cat([data.target_words[pick], data.anchor_words[pick], data.benign_words[pick]])
    given = torch.cat([target, anchor, benign])
    logits, edit = module.judge(given)
    erased, kept_anchor, kept_benign = module.apply_edit(given, logits, edit, words).chunk(3)
    erase = (erased - anchor).square().mean()
    preserve = (kept_anchor - anchor).square().mean() + (kept_benign - benign).square().mean()
    labels = torch.cat([data.labels[pick], torch.zeros(2 * len(pick), given.shape[1])])
    score = F.binary_cross_entropy_with_logits(logits, labels)
    return erase + training.preserve_weight * preserve + training.score_weight * score
