"""BELT (Qiu et al., IEEE S&P 2024): a loss that binds triggered images to class centres, so that only the exact
trigger means the target.

Data outsourcing trains on poison and cover images with cross-entropy alone (`companion.attacks.poisoning` makes them).
Model outsourcing adds lambda L_MC, the momentum centre loss of this module.
"""

import torch

from companion.attacks.poisoning import CLEAN
from companion.errors import CompanionError


class MomentumCentreLoss:
    """lambda L_MC: the mean squared distance of poison and cover features to the centre of their label's class.

    The centre of a class follows the batch mean of the features of its clean images,
    c <- momentum c + (1 - momentum) mean f(x), without gradient, and before the loss of the batch is taken. The loss is
    the mean of (f(x_i) - c_label)^2 over the batch's poison and cover images and the feature dimensions, times
    `weight`; it is 0 for a batch without such images. Source: the official code of BELT, momentum 0.99, weight 1.

    classes: K; dimension: D of the features; weight: lambda >= 0; momentum in [0, 1);
    start: "zero" as in the official code, or "batch mean": a class's centre begins as the first mean that is seen, and
    images of a class that has no centre yet are left out of the loss. With zero and a momentum of 0.99 the centres
    stay near the origin for the first hundred batches and pull the poison features there, which a short training does
    not recover from.

    An object keeps its centres between calls, so make a new one for each training. Its calls have the form of
    `extra_loss` of `companion.training.train`.
    """

    def __init__(
        self, classes: int, dimension: int, weight: float = 1.0, momentum: float = 0.99, start: str = "batch mean"
    ):
        if start not in ("zero", "batch mean"):
            raise CompanionError(f'the centres\' start is "{start}"; expected "zero" or "batch mean".')
        if not (weight >= 0 and 0 <= momentum < 1):
            raise CompanionError(
                f"the centre loss got weight {weight} and momentum {momentum}; expected weight >= 0 and "
                "0 <= momentum < 1."
            )
        self.weight, self.momentum = weight, momentum
        self.centres = torch.zeros(classes, dimension)
        self.known = torch.full((classes,), start == "zero")  # classes that have a centre

    def __call__(self, features: torch.Tensor, labels: torch.Tensor, roles: torch.Tensor) -> torch.Tensor:
        """Update the centres with a batch and return its loss, a scalar with gradient.

        features: (B, D) float; labels: (B,) int64, those the batch is trained with; roles: (B,) int64, one of CLEAN,
        POISON and COVER of `companion.attacks.poisoning`.
        """
        if features.ndim != 2 or features.shape[1] != self.centres.shape[1]:
            raise CompanionError(
                f"features have shape {tuple(features.shape)}; the centre loss was made for "
                f"(B, {self.centres.shape[1]})."
            )
        features = features.float()
        self.centres, self.known = self.centres.to(features.device), self.known.to(features.device)
        clean = roles == CLEAN
        self._update(features[clean].detach(), labels[clean])
        pulled = ~clean & self.known[labels]
        if not pulled.any():
            return features.new_zeros(())
        distances = features[pulled] - self.centres[labels[pulled]]  # (P, D)
        return self.weight * distances.square().mean()

    def _update(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        sums = torch.zeros_like(self.centres).index_add_(0, labels, features)  # (K, D)
        counts = torch.bincount(labels, minlength=len(self.centres))  # (K,)
        means = sums / counts.clamp(min=1).unsqueeze(1)
        moved = torch.where(self.known.unsqueeze(1), self.momentum * self.centres + (1 - self.momentum) * means, means)
        seen = counts > 0
        self.centres = torch.where(seen.unsqueeze(1), moved, self.centres)
        self.known = self.known | seen
