"""Fingerprints made of adversarial examples, against which SAC is held: each compares answers point by point.

The distance of a suspect is one minus the share of points that it answers as the fingerprint says. Both are in the
spirit of their papers, rebuilt from general knowledge of them and not from their code: IPGuard (Cao et al. 2021) looks
for points near the source's decision boundary, conferrable adversarial examples (Lukas et al. 2021) for points that
fool models derived from the source and no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import frozen
from companion.ownership.checks import check_ball, check_gradient, check_images
from companion.training import logits


@dataclass(frozen=True)
class PointFingerprint:
    """Points and the answers expected of a stolen model: images (N, C, H, W) in [0, 1], labels (N,) int64.

    passes: what making it cost, in passes of one image through one network (a forward pass is 1, a gradient 2 more).
    """

    images: torch.Tensor
    labels: torch.Tensor
    passes: int

    def distance(self, suspect: nn.Module) -> float:
        """Return one minus the matching rate of a suspect model, in [0, 1]; small means stolen."""
        return float((logits(suspect, self.images).argmax(1) != self.labels).double().mean())


def boundary_points(
    source: nn.Module, images: torch.Tensor, margin: float = 0.1, steps: int = 100, rate: float = 0.01
) -> PointFingerprint:
    """Return points near the source's decision boundary, one for each image (N, C, H, W), as IPGuard does.

    A point keeps the label i of its image while the second-best label j comes within `margin` of it: Adam lowers
    relu(max_k Z_k - Z_i + margin) for k not i or j, plus |Z_i - Z_j - margin|, and the point stays in [0, 1].
    rate: Adam's, of the range of a pixel. Raises CompanionError for a source that gives no gradient.
    """
    check_images(images)
    _check_steps(steps)
    points = images.to(_device(source), copy=True).requires_grad_(True)
    with frozen(source), torch.enable_grad():
        order = source(points.detach()).argsort(1, descending=True)
        first, second = order[:, :1], order[:, 1:2]  # (N, 1)
        optimizer = torch.optim.Adam([points], rate)
        for _ in range(steps):
            scores = source(points)  # (N, K)
            check_gradient(scores)
            best, rival = scores.gather(1, first), scores.gather(1, second)
            others = scores.scatter(1, torch.cat([first, second], 1), -torch.inf).amax(1, keepdim=True)
            loss = (others - best + margin).clamp(min=0) if scores.shape[1] > 2 else 0 * best
            loss = (loss + (best - rival - margin).abs()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                points.clamp_(0, 1)
    points = points.detach().to(images.device)
    return PointFingerprint(points, logits(source, points).argmax(1), len(images) * (3 * steps + 2))


def conferrable_points(
    source: nn.Module,
    surrogates: Sequence[nn.Module],
    references: Sequence[nn.Module],
    images: torch.Tensor,
    generator: torch.Generator,
    eps: float = 16 / 255,
    step: float = 2 / 255,
    steps: int = 20,
) -> PointFingerprint:
    """Return points in the eps-ball around images (N, C, H, W) that source and surrogates call t and references do not.

    surrogates: stolen from the source by its owner; references: trained by him independently. Signed gradient steps
    raise log p_source(t) + log(S (1 - R)), with S and R the mean probabilities of t over surrogates and references
    (the conferrability score); t is drawn for each image among the labels that the source does not give it. The better
    half of the images by the final score is kept.
    Raises CompanionError without surrogates or references, for a negative eps, and for models without gradient.
    """
    check_images(images)
    _check_steps(steps)
    check_ball(eps, step, steps)
    if not surrogates or not references:
        raise CompanionError(
            f"conferrable examples with {len(surrogates)} surrogates and {len(references)} references: expected at "
            "least one of each. Train them on the owner's data first."
        )
    answers, home = logits(source, images), images.device
    shift = torch.randint(1, answers.shape[1], (len(images),), generator=generator).to(home)
    target = ((answers.argmax(1) + shift) % answers.shape[1]).to(_device(source))  # (N,)
    images = images.to(_device(source))
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    points = images.clone()
    for _ in range(steps):
        points.requires_grad_(True)
        score = conferrability(source, surrogates, references, points, target).sum()
        check_gradient(score)
        (slope,) = torch.autograd.grad(score, points)
        points = torch.minimum(torch.maximum(points.detach() + step * slope.sign(), low), high)
    with torch.no_grad():
        final = conferrability(source, surrogates, references, points, target)
    best = final.argsort(descending=True)[: max(2, len(images) // 2)]
    models = 1 + len(surrogates) + len(references)
    return PointFingerprint(points[best].to(home), target[best].to(home), len(images) * models * (3 * steps + 1))


def conferrability(
    source: nn.Module,
    surrogates: Sequence[nn.Module],
    references: Sequence[nn.Module],
    points: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """Return log p_source(t) + log S + log(1 - R) of points (N, C, H, W) with targets (N,), as (N,)."""

    def probability(model):
        with frozen(model):
            return F.softmax(model(points), 1).gather(1, target[:, None]).squeeze(1)  # (N,)

    stolen = torch.stack([probability(model) for model in surrogates]).mean(0)
    honest = torch.stack([probability(model) for model in references]).mean(0)
    tiny = 1e-6
    return (probability(source) + tiny).log() + (stolen + tiny).log() + (1 - honest + tiny).log()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise CompanionError(f"a fingerprint with {steps} steps: expected at least 1.")
