"""Changes inside the surrogate while its gradient is taken: SGM, LinBP, Ghost. The network's weights stay as they are.

A change is used as `with change.applied(models, draws):`, where `draws` serves the points that the networks will see.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from companion.attacks.transfer.draws import Draws
from companion.attacks.transfer.features import Layer, find_layer
from companion.errors import CompanionError


@dataclass(frozen=True)
class SkipGradient:
    """SGM: what flows back through a residual branch is scaled by gamma, so that skips carry more (Wu et al. 2020).

    gamma: in (0, 1]; 1 changes nothing. Raises `CompanionError` for a network without residual branches.
    """

    gamma: float = 0.2

    def __post_init__(self):
        if not 0 < self.gamma <= 1:
            raise CompanionError(f"SkipGradient.gamma is {self.gamma}: expected a number in (0, 1].")

    @contextmanager
    def applied(self, models: Sequence[nn.Module], draws: Draws) -> Iterator[None]:
        """Scale gradients inside the block."""
        with _hooked([branch for model in models for branch in _parts(model, "branches", "SGM")], self._scaled):
            yield

    def _scaled(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: self.gamma * gradient)


@dataclass(frozen=True)
class LinearBackward:
    """LinBP: from a layer on, the backward pass treats ReLU as the identity (Guo et al. 2020).

    Each gradient that skips a ReLU is brought back, image by image, to the length that it would have had. That is our
    reconstruction of the paper's renormalisation. layer: the first one of which the ReLUs are changed.
    """

    layer: Layer = 1

    @contextmanager
    def applied(self, models: Sequence[nn.Module], draws: Draws) -> Iterator[None]:
        """Change the backward pass inside the block."""
        chosen = [part for model in models for part in self._activations(model)]
        with _hooked(chosen, lambda module, inputs, output: _LinearBackward.apply(inputs[0], output)):
            yield

    def _activations(self, model: nn.Module) -> list[nn.Module]:
        first, parts = find_layer(model, self.layer), list(model.modules())
        later = parts[parts.index(first) :]
        found = [part for part in later if isinstance(part, nn.ReLU | nn.ReLU6)]
        if not found:
            raise CompanionError(
                f"LinBP found no ReLU from layer {self.layer!r} of {type(model).__name__} on: expected a network with "
                "ReLUs, such as the residual one."
            )
        return found


@dataclass(frozen=True)
class Ghost:
    """Ghost networks: at every gradient each image meets a slightly different surrogate (Li et al. 2020).

    Outputs of skip connections are scaled by a number uniform in [1 - spread, 1 + spread); a network without skips
    drops features of its `layers` with probability 1 - keep instead.
    """

    spread: float = 0.16
    keep: float = 0.994

    @contextmanager
    def applied(self, models: Sequence[nn.Module], draws: Draws) -> Iterator[None]:
        """Disturb the networks inside the block."""

        def scaled(module, inputs, output):
            factor = draws.uniform(1 - self.spread, 1 + self.spread)
            return output * factor.view(-1, *[1] * (output.ndim - 1))

        def dropped(module, inputs, output):
            return output * (draws.uniform(0, 1, *output.shape[1:]) < self.keep) / self.keep

        with ExitStack() as stack:
            for model in models:
                skips = list(getattr(model, "skips", list)())
                parts = skips or [find_layer(model, index) for index in range(len(getattr(model, "layers", ())))]
                if not parts:
                    raise CompanionError(
                        f"Ghost found neither skip connections nor named layers in {type(model).__name__}: expected "
                        "a network of companion.models.zoo."
                    )
                stack.enter_context(_hooked(parts, scaled if skips else dropped))
            yield


class _LinearBackward(torch.autograd.Function):
    """A ReLU's output, of which the gradient passes unchanged but for its length."""

    @staticmethod
    def forward(context, before, after):
        context.save_for_backward(before)
        return after.clone()

    @staticmethod
    def backward(context, gradient):
        (before,) = context.saved_tensors
        length = gradient.flatten(1).norm(dim=1)
        wanted = (gradient * (before > 0)).flatten(1).norm(dim=1)
        ratio = (wanted / (length + 1e-12)).view(-1, *[1] * (gradient.ndim - 1))
        return gradient * ratio, None


def _parts(model: nn.Module, kind: str, name: str) -> list[nn.Module]:
    found = list(getattr(model, kind, list)())
    if not found:
        raise CompanionError(
            f"{name} found no residual {kind} in {type(model).__name__}: expected a network with skip connections, "
            "such as the residual one."
        )
    return found


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
