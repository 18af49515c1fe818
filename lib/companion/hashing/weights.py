"""Mutual attention and weighted similarities, the two additions of weighted contrastive hashing (Yu et al., 2022).

Equations as read in the official code: two views of B images give tokens X1, X2 (B, L, D). Everything is differentiable
and without parameters.
"""

import torch
import torch.nn.functional as F

from companion.errors import CompanionError

SIMILARITIES = ("identity", "global", "patch")
"""Where the weights come from: nowhere (W = 1, plain contrastive learning), the mean tokens, or single patches."""

CHUNK = 2**24  # numbers of the (B, B, L, L) similarities held at once, 64 MB


def mutual_attention(
    first: torch.Tensor, second: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return X1' and X2', each (B, L, D): every token replaced by a mixture of the *same* view's tokens, mixed by how
    much each resembles one token of the *other* view.

    first, second: X1, X2 (B, L, D), two views of the same images. With s_ij = cos(x1_i, x2_j),
    X1'_j = sum_i softmax_i(s_ij / T) x1_i and X2'_i = sum_j softmax_j(s_ij / T) x2_j; `temperature` is T, which the
    official code leaves at 1. Raises CompanionError for token sets of different form and for T <= 0.
    """
    if first.shape != second.shape or first.ndim != 3 or not temperature > 0:
        raise CompanionError(
            f"mutual attention of tokens {tuple(first.shape)} and {tuple(second.shape)} at temperature {temperature}: "
            "expected two views' tokens (B, L, D) of the same form, and a temperature above 0."
        )
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).transpose(1, 2)  # (B, L1, L2)
    scaled = cosines / temperature
    mixed_first = scaled.softmax(dim=1).transpose(1, 2) @ first  # (B, L2, D)
    mixed_second = scaled.softmax(dim=2) @ second  # (B, L1, D)
    return mixed_first, mixed_second


def patch_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return r (B, B): for image a of view 1 and b of view 2, the mean over a's tokens of the largest cosine with any
    of b's tokens. first, second: (B, L, D). The B^2 L^2 cosines are held in parts."""
    batch, length, width = first.shape
    left = F.normalize(first, dim=-1)
    right = F.normalize(second, dim=-1).reshape(batch * length, width).T.contiguous()  # (D, B * L)
    rows = max(1, CHUNK // (batch * length * length))
    found = []
    for part in left.split(rows):
        cosines = (part.reshape(-1, width) @ right).view(len(part), length, batch, length)
        found.append(cosines.amax(-1).mean(1))  # (rows, B)
    return torch.cat(found)


def global_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return r (B, B): the cosine of the mean tokens of image a in view 1 and b in view 2. first, second: (B, L, D)."""
    return F.normalize(first.mean(1), dim=-1) @ F.normalize(second.mean(1), dim=-1).T


def pair_weights(similarity: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """Return W (B, B) from similarities r (B, B): a softmax over each row, divided by its diagonal entry.

    That is W_ab = exp((r_ab - r_aa) / tau_w), so W_aa = 1; rows are not normalised.
    """
    return ((similarity - similarity.diagonal()[:, None]) / temperature).exp()


def weights_of(kind: str, first: torch.Tensor, second: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """Return W (B, B) of a kind in SIMILARITIES for tokens (B, L, D) of two views; raises CompanionError for others."""
    if kind == "identity":
        return torch.eye(len(first), device=first.device, dtype=first.dtype)
    if kind not in SIMILARITIES:
        raise CompanionError(f"unknown weights {kind!r}: expected one of {', '.join(SIMILARITIES)}.")
    measure = patch_similarity if kind == "patch" else global_similarity
    return pair_weights(measure(first, second), temperature)
