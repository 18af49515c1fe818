"""What codes and weights are like, apart from the rankings they give."""

import numpy as np
import torch
from scipy.stats import rankdata

from companion.errors import CompanionError


def bit_imbalance(codes: torch.Tensor) -> float:
    """Return the mean over bits of |mean over images of the bit as -1 or 1|: 0 if every bit splits the images in half,
    1 if no bit ever changes. codes: (N, bits) bool."""
    return float((2 * codes.double() - 1).mean(0).abs().mean())


def bit_correlation(codes: torch.Tensor) -> float:
    """Return the mean absolute correlation of different bits of codes (N, bits) bool; constant bits count as 0."""
    signs = 2 * codes.double() - 1
    centred = signs - signs.mean(0)
    scale = centred.square().sum(0).sqrt()
    found = (centred.T @ centred / (scale[:, None] * scale).clamp(min=1e-12)).abs()
    bits = codes.shape[1]
    return float((found.sum() - found.diagonal().sum()) / (bits * (bits - 1)))


def different_codes(codes: torch.Tensor) -> int:
    """Return how many different codes there are among (N, bits) bool."""
    return len(torch.unique(codes, dim=0))


def same_class_auc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the chance in [0, 1] that a pair of one class scores higher than a pair of two classes (ties: one half).

    scores: (K, B, B), one matrix for each of K batches; labels: (K, B). Diagonals are left out.
    Raises CompanionError if all pairs are of one kind.
    """
    same = labels[:, :, None] == labels[:, None, :]
    off = ~torch.eye(labels.shape[1], dtype=torch.bool).expand_as(same)
    values, truth = scores[off].double().numpy(), same[off].numpy()
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        raise CompanionError(
            f"{positive} pairs of one class and {negative} of two: expected some of each. Take larger batches."
        )
    ranks = rankdata(values)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def nearest_neighbour_accuracy(
    queries: torch.Tensor, query_labels: torch.Tensor, database: torch.Tensor, labels: torch.Tensor
) -> tuple[int, int]:
    """Return (right, asked): how many queries (Q, D) have their class's item nearest by cosine in a database (N, D)."""
    left = torch.nn.functional.normalize(queries, dim=-1)
    right = torch.nn.functional.normalize(database, dim=-1)
    found = labels[(left @ right.T).argmax(1)]
    return int((found == query_labels).sum()), len(query_labels)


def cosine_average_precision(
    queries: torch.Tensor, query_labels: torch.Tensor, database: torch.Tensor, labels: torch.Tensor, top: int
) -> np.ndarray:
    """Return the average precision (Q,) among the `top` items by cosine similarity of real-valued features: what a
    ranking by codes would have to reach to lose nothing."""
    left = torch.nn.functional.normalize(queries, dim=-1)
    right = torch.nn.functional.normalize(database, dim=-1)
    order = (left @ right.T).topk(min(top, len(right)), dim=1).indices
    relevant = (labels[order] == query_labels[:, None]).double().numpy()
    hits = relevant.cumsum(1)
    precisions = (hits / np.arange(1, relevant.shape[1] + 1) * relevant).sum(1)
    return precisions / np.maximum(hits[:, -1], 1)
