"""Several surrogates: a variance-reduced inner loop over them (SVRE), and snapshots of one training run (LGV)."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from companion.attacks.transfer.gradients import Plain, Source
from companion.attacks.transfer.state import State, normalised, project
from companion.training import TrainingConfig, train


@dataclass(frozen=True)
class VarianceReduced(Source):
    """SVRE: `inner` steps by single networks, corrected by what the whole ensemble says (Xiong et al. 2022).

    From the current images, step by momentum along g_k(x~) - (g_k(x) - g_ensemble(x)) for a randomly drawn network k;
    the last of these gradients, accumulated, is the gradient of the outer step. The draws are the same for all images.
    The form is our reconstruction; inner >= 1, the reference takes 4 inner steps a network.
    """

    members: int
    inner: int = 16
    decay: float = 1.0

    def points(self, step: int, steps: int) -> int:
        """One a network, and two an inner step of which the first is at the current images."""
        return self.members + 2 * self.inner

    def together(self, steps: int) -> int:
        """The two points of an inner step."""
        return 2

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        start = state.images
        whole = field(start.unsqueeze(1)).squeeze(1)
        moving, momentum = start, torch.zeros_like(start)
        for _ in range(self.inner):
            chosen = [state.scene.draws.member(self.members)]
            both = field(torch.stack([moving, start], dim=1), chosen)  # (B, 2, C, H, W)
            corrected = both[:, 0] - (both[:, 1] - whole)
            momentum = self.decay * momentum + normalised(corrected)
            step = state.budget.size * momentum.sign()
            moving = project(moving + step, state.scene.images, state.budget.eps)
        return momentum


@dataclass(frozen=True)
class OneOfMany(Source):
    """LGV's use of snapshots: every step takes its gradient from one of them, drawn at random for all images."""

    members: int
    base: Source = field(default_factory=Plain)

    def points(self, step: int, steps: int) -> int:
        """As the source that is asked."""
        return self.base.points(step, steps)

    def together(self, steps: int) -> int:
        """As the source that is asked."""
        return self.base.together(steps)

    def __call__(self, state: State, ask) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        chosen = [state.scene.draws.member(self.members)]
        return self.base(state, lambda points: ask(points, chosen))


def collect_snapshots(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
    epochs: int = 10,
    learning_rate: float = 0.05,
    batch_size: int = 64,
) -> list[nn.Module]:
    """Return copies of `model` after each epoch of further training at a high constant learning rate (LGV).

    images: (N, C, H, W); labels: (N,); generator: of the training. `model` itself is not changed. Gubri et al. 2022
    take four snapshots an epoch; here it is one, of which an epoch may be made shorter by fewer images.
    """
    wanderer, found = copy.deepcopy(model), []
    config = TrainingConfig(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        schedule="constant",
        nesterov=False,
        label_smoothing=0.0,
        weight_decay=1e-4,
    )
    train(
        wanderer,
        images,
        labels,
        config,
        generator,
        on_epoch=lambda _: found.append(copy.deepcopy(wanderer).eval().requires_grad_(False)),
    )
    return found
