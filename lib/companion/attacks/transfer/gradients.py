"""Gradient sources: where around the current images the gradient is taken, and how several are put together.

A source is called as `source(state, field)` and returns (B, C, H, W). `field(points (B, n, C, H, W))` gives the
gradients of the objective at n points of each image. `points(step, steps)` says how many gradients of one network a
step asks for, transforms and ensembles not counted.
"""

import math
from dataclasses import dataclass

import torch

from companion.attacks.transfer.state import State, normalised
from companion.errors import CompanionError


class Source:
    """What all sources share: the number of gradients a step asks for, whatever the step."""

    def points(self, step: int, steps: int) -> int:
        """Return how many gradients of one network step `step` of `steps` takes."""
        return 1

    def together(self, steps: int) -> int:
        """Return how many points of an image are asked for in one pass; by default all of a step."""
        return self.points(0, steps)


@dataclass(frozen=True)
class Plain(Source):
    """The gradient at the current images."""

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        return field(state.images.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class LookAhead(Source):
    """NI: the gradient where the momentum would lead, at x + alpha mu g (Lin et al. 2020)."""

    decay: float = 1.0

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        return field(_ahead(state, self.decay).unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class VarianceTuned(Source):
    """VMI and VNI: to the gradient, add how much the last step's neighbours differed from theirs (Wang & He 2021).

    neighbours: N, uniform within `radius` eps of the current images; decay: None for VMI; for VNI, mu of the look-ahead
    at which the gradient is taken. All N + 1 gradients are computed in one pass.
    """

    neighbours: int = 20
    radius: float = 1.5
    decay: float | None = None

    def points(self, step: int, steps: int) -> int:
        """The gradient and its neighbours'."""
        return self.neighbours + 1

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        centre = state.images if self.decay is None else _ahead(state, self.decay)
        near = _neighbours(state, self.neighbours, self.radius)
        gradients = field(torch.cat([centre.unsqueeze(1), near], dim=1))
        gradient = gradients[:, 0]
        tuned = gradient + state.recall("variance")
        state.memory["variance"] = gradients[:, 1:].mean(1) - gradient
        return tuned


@dataclass(frozen=True)
class Enhanced(Source):
    """EMI: the mean gradient at points along the last mean gradient (Wang et al. 2021).

    Points are x + c alpha g with c evenly spaced in [-reach, reach] and g the last mean gradient over the mean of its
    absolute values.
    """

    samples: int = 11
    reach: float = 7.0

    def points(self, step: int, steps: int) -> int:
        """One a sample."""
        return self.samples

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        offsets = torch.linspace(-self.reach, self.reach, self.samples).to(state.images).view(1, -1, 1, 1, 1)
        along = offsets * state.budget.size * state.recall("mean gradient").unsqueeze(1)
        mean = field(state.images.unsqueeze(1) + along).mean(1)
        state.memory["mean gradient"] = normalised(mean)
        return mean


@dataclass(frozen=True)
class Relevance(Source):
    """GRA: the gradient and its neighbours' mean, weighed by their cosine (Zhu et al. 2023).

    s G + (1 - s) mean of neighbours, s their cosine image by image, neighbours uniform within `radius` eps. The form
    is our reconstruction.
    """

    neighbours: int = 20
    radius: float = 3.5

    def points(self, step: int, steps: int) -> int:
        """The gradient and its neighbours'."""
        return self.neighbours + 1

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        near = _neighbours(state, self.neighbours, self.radius)
        gradients = field(torch.cat([state.images.unsqueeze(1), near], dim=1))
        gradient, mean = gradients[:, 0], gradients[:, 1:].mean(1)
        cosine = torch.cosine_similarity(gradient.flatten(1), mean.flatten(1), eps=1e-12).view(-1, 1, 1, 1)
        return cosine * gradient + (1 - cosine) * mean


@dataclass(frozen=True)
class PenalisedNorm(Source):
    """PGN: prefer flat places, by mixing the gradient at a neighbour with that a step downhill of it (Ge et al. 2023).

    (1 - balance) g(x') + balance g(x' - alpha g(x')/mean abs g(x')), averaged over neighbours x' uniform within
    `radius` eps. The form is our reconstruction.
    """

    neighbours: int = 20
    radius: float = 3.0
    balance: float = 0.5

    def points(self, step: int, steps: int) -> int:
        """Two a neighbour."""
        return 2 * self.neighbours

    def together(self, steps: int) -> int:
        """The neighbours."""
        return self.neighbours

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        near = _neighbours(state, self.neighbours, self.radius)
        first = field(near)
        down = normalised(first.flatten(0, 1)).view_as(first)
        second = field(near - state.budget.size * down)
        return ((1 - self.balance) * first + self.balance * second).mean(1)


@dataclass(frozen=True)
class ReversePerturbation(Source):
    """RAP: the gradient at the place near by where the attack does worst (Qin et al. 2022).

    `inner` steps of signed descent find a perturbation within `radius` eps that makes the objective small; the first
    `late` share of the attack goes without. The form is our reconstruction.
    """

    inner: int = 8
    radius: float = 1.0
    late: float = 0.25

    def points(self, step: int, steps: int) -> int:
        """The gradient, and the search once it has begun."""
        return 1 + self.inner * (step >= math.floor(self.late * steps))

    def together(self, steps: int) -> int:
        """One after the other."""
        return 1

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return gradients (B, C, H, W)."""
        worst = torch.zeros_like(state.images)
        room = self.radius * state.budget.eps
        if self.points(state.step, state.budget.steps) > 1:
            for _ in range(self.inner):
                down = field((state.images + worst).unsqueeze(1)).squeeze(1).sign()
                worst = (worst - room / self.inner * down).clamp(-room, room)
        return field((state.images + worst).unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class Generated(Source):
    """A trained generator's perturbation in [-1, 1] instead of a gradient (GAP, Poursaeed et al. 2018)."""

    def points(self, step: int, steps: int) -> int:
        """None: the generator's training paid for them."""
        return 0

    def together(self, steps: int) -> int:
        """The image itself."""
        return 1

    def __call__(self, state: State, field) -> torch.Tensor:
        """Return perturbations (B, C, H, W). Raises `CompanionError` without a generator."""
        if state.scene.generator is None:
            raise CompanionError(
                "a generative attack has no generator: expected a trained one. Train it with "
                "companion.attacks.transfer.generative.train_generator and pass it as generator=."
            )
        with torch.no_grad():
            return state.scene.generator(state.images)


def _ahead(state: State, decay: float) -> torch.Tensor:
    return state.images + state.budget.size * decay * state.recall("momentum")


def _neighbours(state: State, count: int, radius: float) -> torch.Tensor:
    """Points (B, n, C, H, W) uniform within `radius` eps of the current images."""
    room = radius * state.budget.eps
    offsets = state.scene.draws.uniform(-room, room, count, *state.images.shape[1:])
    return state.images.unsqueeze(1) + offsets
