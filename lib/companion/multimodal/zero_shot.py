"""Zero-shot classification with an ensemble of prompts, and what is counted of it: accuracy, top-k, attack success."""

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.clip_network import image_embeddings, text_embeddings
from companion.statistics import Proportion


def class_embeddings(model: nn.Module, prompts: torch.Tensor) -> torch.Tensor:
    """Return one embedding (K, D) a class: normalise every prompt's, average, normalise again.

    prompts: token ids (K, P, L) of the P prompts of each of the K classes. Source: CLIP's zero-shot evaluation.
    """
    classes, each, length = prompts.shape
    found = text_embeddings(model, prompts.reshape(classes * each, length))  # (K P, D)
    return F.normalize(found.view(classes, each, -1).mean(1), dim=-1)


def scores(model: nn.Module, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """Return cosine similarities (N, K) of images (N, 3, H, W) in [0, 1] and classes; prompts as above."""
    return image_embeddings(model, images) @ class_embeddings(model, prompts).T.to(images.device)


def hits(found: torch.Tensor, labels: torch.Tensor, k: int = 1) -> torch.Tensor:
    """Return (N,) bool: whether a label is among the k best of its row of scores (N, K)."""
    if not 1 <= k <= found.shape[1]:
        raise CompanionError(f"top-{k} of {found.shape[1]} classes: expected k from 1 to {found.shape[1]}.")
    return (found.topk(k, dim=1).indices == labels[:, None]).any(1)


def accuracy(found: torch.Tensor, labels: torch.Tensor, k: int = 1) -> Proportion:
    """Return the share of images whose label is among the k best scores; labels: (N,) int64."""
    return Proportion(int(hits(found, labels, k).sum()), len(labels))


def attack_success(found: torch.Tensor, labels: torch.Tensor, target: int, k: int = 1) -> Proportion:
    """Return the share of triggered images with the target among the k best scores; target-class images left out.

    found: scores (N, K) of images that carry the trigger; labels: (N,) int64, their true classes.
    Raises CompanionError when no image of another class is left.
    """
    counted = labels != target
    if not counted.any():
        raise CompanionError(
            f"no image is left for the attack success: all {len(labels)} have the target class {target}. Pass images "
            "of other classes."
        )
    aims = torch.full_like(labels[counted], target)
    return Proportion(int(hits(found[counted], aims, k).sum()), int(counted.sum()))


def linear_probe(features: torch.Tensor, labels: torch.Tensor, classes: int, decay: float = 1e-3) -> torch.Tensor:
    """Return weights (D + 1, K) of a linear classifier on frozen embeddings: ridge regression to one-hot labels.

    features: (N, D); labels: (N,) int64; decay: ridge penalty times N. It has one solution, found in closed form, so
    the probe adds no randomness and no learning rate of its own. Use with `probe_scores`.
    """
    inputs = _with_bias(features.double())
    aims = F.one_hot(labels, classes).double() - 1 / classes
    system = inputs.T @ inputs + decay * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    return torch.linalg.solve(system, inputs.T @ aims).to(features.dtype)


def probe_scores(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return scores (N, K) of a probe for embeddings (N, D)."""
    return _with_bias(features) @ weights


def _with_bias(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)
