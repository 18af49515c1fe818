"""What an attack makes large: functions of the logits, one value an image, so that images do not touch each other."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.errors import CompanionError


@dataclass(frozen=True)
class CrossEntropy:
    """J, the cross-entropy of the true class; with targets, minus the cross-entropy of the target."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Return (P,) values of logits (P, K), true labels (P,) and targets (P,) or None."""
        if targets is None:
            return F.cross_entropy(logits, labels, reduction="none")
        return -F.cross_entropy(logits, targets, reduction="none")


@dataclass(frozen=True)
class Logit:
    """The logit of the target (Zhao et al. 2021); without targets, minus the logit of the true class."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Return (P,) values; see `CrossEntropy`."""
        if targets is None:
            return -_of_class(logits, labels)
        return _of_class(logits, targets)


@dataclass(frozen=True)
class PoincareTriplet:
    """Minus (Poincare distance to the target + weight x angular triplet loss) (Po+Trip, Li et al. 2020); targeted only.

    The logits divided by their sum of absolute values are one point of the Poincare ball, the target's one-hot vector
    shrunk by 1e-5 the other; the triplet is max(0, D(z, target) - D(z, true) + margin) with D = 1 - abs(cos).
    weight and margin as in the reference; the form is our reconstruction.
    """

    weight: float = 0.01
    margin: float = 0.007

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Return (P,) values; see `CrossEntropy`. Raises `CompanionError` without targets."""
        if targets is None:
            raise CompanionError("Po+Trip was called without targets: expected a targeted attack. Pass targets=.")
        point = logits / (logits.abs().sum(1, keepdim=True) + 1e-12)  # (P, K)
        wanted = F.one_hot(targets, logits.shape[1]).to(logits.dtype) * (1 - 1e-5)
        apart = (point - wanted).square().sum(1)
        room = ((1 - point.square().sum(1)) * (1 - wanted.square().sum(1))).clamp(min=1e-12)
        poincare = torch.acosh(1 + 2 * apart / room + 1e-7)
        length = logits.norm(dim=1) + 1e-12
        to_target = 1 - (_of_class(logits, targets) / length).abs()
        to_truth = 1 - (_of_class(logits, labels) / length).abs()
        return -poincare - self.weight * (to_target - to_truth + self.margin).clamp(min=0)


def _of_class(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)
