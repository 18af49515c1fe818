"""CLIP's objective and the in-modality term of CleanCLIP, on embeddings of length one.

The scale s = exp(logit_scale) is learned and kept in [1, 100] after every step (`clamp_scale`).
"""

import torch
import torch.nn.functional as F

from companion.errors import CompanionError

INITIAL_LOG_SCALE = 2.6593  # ln(1 / 0.07)
LARGEST_LOG_SCALE = 4.6052  # ln 100


def symmetric_loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Return L_CLIP = (CE(A, diagonal) + CE(A^T, diagonal)) / 2 with A = s Z T^T (CleanCLIP's code base).

    images, texts: (N, D) of length one, row i of one belongs to row i of the other; scale: s. Raises CompanionError
    when the shapes differ or there are fewer than two pairs, as one pair has nothing to be told apart from.

    >>> float(symmetric_loss(torch.eye(2), torch.eye(2), 100.0)) < 1e-6
    True
    """
    _check(images, texts)
    logits = scale * images @ texts.T  # (N, N)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def one_way_loss(anchors: torch.Tensor, others: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Return CE(s A B^T, diagonal): every anchor (N, D) shall find its own row among `others` (N, D)."""
    _check(anchors, others)
    logits = scale * anchors @ others.T
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def self_supervision(
    images: torch.Tensor,
    images_changed: torch.Tensor,
    texts: torch.Tensor,
    texts_changed: torch.Tensor,
    scale: torch.Tensor | float,
) -> torch.Tensor:
    """Return L_SS = (CE(s Z Z~^T) + CE(s T T~^T)) / 2, one direction in each modality (CleanCLIP's code base).

    All arguments (N, D) of length one; those called `changed` embed the augmented images and texts.
    """
    return (one_way_loss(images, images_changed, scale) + one_way_loss(texts, texts_changed, scale)) / 2


def sub_text_loss(
    images: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, scale: torch.Tensor | float, which: str
) -> torch.Tensor:
    """Return the sub-text term, a reconstruction: images are drawn to true fragments, pushed from changed ones.

    - "both": mean over i of -log softmax of s z_i.p_i among {s z_i.p_j for all j} and the own negative s z_i.n_i, an
      image-to-text InfoNCE with one extra hard negative.
    - "positive": without the negative. "negative": a binary choice between nothing and the negative,
      log(1 + exp(s z_i.n_i - s z_i.p_i)) with the positive's side held constant, so that only the negative moves.
    - "margin": max(0, 0.2 - z_i.p_i + z_i.n_i).

    images, positives, negatives: (m, D) of length one. The paper's equations were not read; fact sheet, section 2.2.
    """
    if which not in SUB_TEXT_FORMS:
        raise CompanionError(f"sub-text form {which!r}: expected one of {', '.join(SUB_TEXT_FORMS)}.")
    near = images @ positives.T  # (m, m)
    own = near.diagonal()  # (m,)
    far = (images * negatives).sum(1)  # (m,)
    if which == "margin":
        return (MARGIN - own + far).clamp_min(0).mean()
    if which == "negative":
        return F.softplus(scale * (far - own.detach())).mean()
    logits = scale * near
    if which == "both":
        logits = torch.cat([logits, (scale * far)[:, None]], 1)  # (m, m + 1)
    return F.cross_entropy(logits, torch.arange(len(images), device=images.device))


SUB_TEXT_FORMS = ("both", "positive", "negative", "margin")
MARGIN = 0.2


@torch.no_grad()
def clamp_scale(model: torch.nn.Module) -> None:
    """Keep the log scale of a CLIP model in [0, ln 100]; call it after every step."""
    model.logit_scale.clamp_(0, LARGEST_LOG_SCALE)


def _check(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise CompanionError(
            f"embeddings of shape {tuple(first.shape)} and {tuple(second.shape)}: expected (N, D) of the same shape "
            "with N >= 2 pairs."
        )
