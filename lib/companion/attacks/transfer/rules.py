"""Momentum rules: from gradients (B, C, H, W) and memory to the step that is added to the images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from companion.attacks.transfer.state import State, normalised


@dataclass(frozen=True)
class Momentum:
    """MI: g <- decay g + gradient / mean(abs(gradient)), image by image; the step is alpha sign(g) (Dong et al. 2018).

    With decay 0 this is the signed step of FGSM and I-FGSM.
    """

    decay: float = 1.0

    def __call__(self, state: State, gradient: torch.Tensor) -> torch.Tensor:
        """Return steps (B, C, H, W)."""
        return state.budget.size * self._accumulated(state, gradient).sign()

    def _accumulated(self, state: State, gradient: torch.Tensor) -> torch.Tensor:
        state.memory["momentum"] = self.decay * state.recall("momentum") + normalised(gradient)
        return state.memory["momentum"]


@dataclass(frozen=True)
class DecayIndicator(Momentum):
    """GRA: as MI, but a pixel's step shrinks by `shrink` whenever its direction turns. Our reconstruction."""

    shrink: float = 0.94

    def __call__(self, state: State, gradient: torch.Tensor) -> torch.Tensor:
        """Return steps (B, C, H, W)."""
        before = state.recall("momentum").sign()
        direction = self._accumulated(state, gradient).sign()
        width = state.memory.get("width", torch.full_like(gradient, 1 / self.shrink))
        state.memory["width"] = width * torch.where(direction == before, 1.0, self.shrink)
        return state.budget.size * state.memory["width"] * direction


@dataclass(frozen=True)
class PatchWise(Momentum):
    """PI: large steps, of which what exceeds eps is spread over the neighbouring pixels (Gao et al. 2020).

    amplification: beta, of the step; kernel: side of the uniform kernel with a zero centre, odd. The spread part has
    the size eps, which is how we read the reference's factor of 16 (meant for pixels up to 255).
    """

    amplification: float = 10.0
    kernel: int = 3

    def __call__(self, state: State, gradient: torch.Tensor) -> torch.Tensor:
        """Return steps (B, C, H, W)."""
        eps, channels = state.budget.eps, gradient.shape[1]
        step = self.amplification * state.budget.size * self._accumulated(state, gradient).sign()
        total = state.recall("total") + step
        cut = (total.abs() - eps).clamp(min=0) * total.sign()
        weights = torch.full((self.kernel, self.kernel), 1 / (self.kernel**2 - 1)).to(gradient)
        weights[self.kernel // 2, self.kernel // 2] = 0
        weights = weights.expand(channels, 1, -1, -1)
        spread = eps * F.conv2d(cut, weights, padding=self.kernel // 2, groups=channels).sign()
        state.memory["total"] = total + spread
        return step + spread


@dataclass(frozen=True)
class Jump:
    """The gradient source's values are steps already, in units of alpha."""

    def __call__(self, state: State, gradient: torch.Tensor) -> torch.Tensor:
        """Return steps (B, C, H, W)."""
        return state.budget.size * gradient
