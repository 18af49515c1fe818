"""Objectives: what an attack makes large, from the logits or from the features of an inner layer.

An objective is bound to the networks and the scene once, `objective.bind(models, scene)`, before the first step. The
result has `value(models, points (B n, C, H, W)) -> (B n,)` and, where the objective starts somewhere else than at the
clean images, `start` (B, C, H, W). `setup(steps)` says how many gradients of one network binding takes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.transfer.losses import CrossEntropy
from companion.attacks.transfer.state import Scene
from companion.errors import CompanionError

Layer = int | str


@dataclass(frozen=True, eq=False)
class Bound:
    """An objective that knows its networks and images; see the module."""

    value: Callable[[Sequence[nn.Module], torch.Tensor], torch.Tensor]
    start: torch.Tensor | None = None


class Objective:
    """What all objectives share: by default, binding takes no gradient.

    together: how many points of an image go through the network at once in binding.
    """

    together = 1

    def setup(self, steps: int) -> int:
        """Return how many gradients of one network `bind` takes, an image."""
        return 0


@dataclass(frozen=True)
class Output(Objective):
    """A loss of the logits, averaged over the networks of an ensemble.

    loss: see `companion.attacks.transfer.losses`; average: "logits", "losses" or "probabilities".
    """

    loss: Callable = field(default_factory=CrossEntropy)
    average: str = "logits"

    def __post_init__(self):
        if self.average not in ("logits", "losses", "probabilities"):
            raise CompanionError(f'Output.average is "{self.average}": expected "logits", "losses" or "probabilities".')

    def bind(self, models: Sequence[nn.Module], scene: Scene) -> Bound:
        """Return the bound objective."""
        return Bound(lambda active, points: self.value([model(points) for model in active], scene, len(points)))

    def value(self, answers: list[torch.Tensor], scene: Scene, count: int) -> torch.Tensor:
        """Return (P,) values of the networks' logits (P, K)."""
        labels, targets = _spread(scene.labels, count), _spread(scene.targets, count)
        if self.average == "losses":
            return torch.stack([self.loss(logits, labels, targets) for logits in answers]).mean(0)
        if self.average == "probabilities":
            shares = torch.stack([logits.softmax(1) for logits in answers]).mean(0)
            return self.loss(shares.clamp(min=1e-12).log(), labels, targets)
        return self.loss(torch.stack(answers).mean(0), labels, targets)


@dataclass(frozen=True)
class IntermediateLevel(Objective):
    """ILA: start from an existing attack x' and go on along f(x') - f(x) at a middle layer (Huang et al. 2019).

    Makes <f(x'') - f(x), f(x') - f(x)> large, image by image. base: the method that makes x'; layer: its index in the
    network's `layers`, or the name of a module.
    """

    base: Any
    layer: Layer = 1

    def setup(self, steps: int) -> int:
        """The attack it starts from."""
        return self.base.evaluations(steps)

    def bind(self, models: Sequence[nn.Module], scene: Scene) -> Bound:
        """Return the bound objective, with the attack as its start."""
        model = _single(models, "ILA")
        start = scene.run(self.base)
        with torch.no_grad():
            clean = layer_output(model, self.layer, scene.images)
            direction = layer_output(model, self.layer, start) - clean

        def value(active, points):
            change = layer_output(active[0], self.layer, points) - _spread(clean, len(points))
            return (change * _spread(direction, len(points))).flatten(1).sum(1)

        return Bound(value, start)


@dataclass(frozen=True)
class FeatureImportance(Objective):
    """FIA: suppress what matters for the true class, sum(weight x f(x')) made small (Wang et al. 2021).

    The weight of a feature is the gradient of the true class's logit by it, summed over `masks` copies of the image of
    which a share `drop` of the pixels is black, divided by its length. layer: as for ILA.
    """

    layer: Layer = 1
    masks: int = 30
    drop: float = 0.3

    @property
    def together(self) -> int:
        """All masks at once."""
        return self.masks

    def setup(self, steps: int) -> int:
        """One a mask."""
        return self.masks

    def bind(self, models: Sequence[nn.Module], scene: Scene) -> Bound:
        """Return the bound objective."""
        kept = scene.draws.uniform(0, 1, self.masks, *scene.images.shape[1:]) >= self.drop
        points = (scene.images.unsqueeze(1) * kept).flatten(0, 1)
        return _suppress(_single(models, "FIA"), self.layer, scene, points, self.masks)


@dataclass(frozen=True)
class NeuronAttribution(Objective):
    """NAA: as FIA, with weights from integrated gradients: the mean over images from black to x (Zhang et al. 2022).

    Positive and negative attributions weigh the same. The form is our reconstruction.
    """

    layer: Layer = 0
    along: int = 30

    @property
    def together(self) -> int:
        """All points of the path at once."""
        return self.along

    def setup(self, steps: int) -> int:
        """One a point of the path."""
        return self.along

    def bind(self, models: Sequence[nn.Module], scene: Scene) -> Bound:
        """Return the bound objective."""
        shares = (torch.arange(self.along).to(scene.images) + 1) / self.along
        points = (scene.images.unsqueeze(1) * shares.view(1, -1, 1, 1, 1)).flatten(0, 1)
        return _suppress(_single(models, "NAA"), self.layer, scene, points, self.along)


@dataclass(frozen=True)
class TransferablePerturbation(Objective):
    """TAP: J + weight x squared distance of power-normalised features + smooth x abs(averaged perturbation).

    f -> sign(f) abs(f)^power at every named layer; the average is over 3x3 pixels (Zhou et al. 2018).
    """

    layers: tuple[Layer, ...] = (0, 1, 2)
    weight: float = 0.005
    power: float = 0.5
    smooth: float = 0.01

    def bind(self, models: Sequence[nn.Module], scene: Scene) -> Bound:
        """Return the bound objective."""
        model = _single(models, "TAP")
        with torch.no_grad():
            clean = [self._normalised(f) for f in layer_outputs(model, self.layers, scene.images)[1]]

        def value(active, points):
            logits, found = layer_outputs(active[0], self.layers, points)
            total = Output().value([logits], scene, len(points))
            for before, after in zip(clean, found, strict=True):
                apart = _spread(before, len(points)) - self._normalised(after)
                total = total + self.weight * apart.square().flatten(1).sum(1)
            average = F.avg_pool2d(points - _spread(scene.images, len(points)), 3, stride=1, padding=1)
            return total + self.smooth * average.abs().flatten(1).sum(1)

        return Bound(value)

    def _normalised(self, features: torch.Tensor) -> torch.Tensor:
        return features.sign() * (features.abs() + 1e-6) ** self.power


@dataclass(frozen=True)
class FeatureDisruption(Objective):
    """FDA: enlarge activations that lie below their map's spatial mean and shrink those above (Ganeshan et al. 2019).

    Makes the sum over layers of log(norm of low) - log(norm of high) large; which is which is decided on the clean
    image. The form is our reconstruction.
    """

    layers: tuple[Layer, ...] = (1, 2)

    def bind(self, models: Sequence[nn.Module], scene: Scene) -> Bound:
        """Return the bound objective."""
        model = _single(models, "FDA")
        with torch.no_grad():
            low = [f < _spatial_mean(f) for f in layer_outputs(model, self.layers, scene.images)[1]]

        def value(active, points):
            total = torch.zeros(len(points)).to(points)
            for below, found in zip(low, layer_outputs(active[0], self.layers, points)[1], strict=True):
                below = _spread(below, len(points))
                total = total + _log_norm(found * below) - _log_norm(found * ~below)
            return total

        return Bound(value)


def layer_output(model: nn.Module, layer: Layer, points: torch.Tensor) -> torch.Tensor:
    """Return the output of one layer (P, ...) at points (P, C, H, W); see `layer_outputs`."""
    return layer_outputs(model, (layer,), points)[1][0]


def layer_outputs(
    model: nn.Module, layers: Sequence[Layer], points: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the logits (P, K) and the outputs of `layers` at points (P, C, H, W).

    layers: indices into `model.layers`, or names of modules. Raises `CompanionError` for a layer that the network does
    not have.
    """
    modules = [find_layer(model, layer) for layer in layers]
    with _recorded(modules) as found:
        logits = model(points)
    return logits, [found[module] for module in modules]


def find_layer(model: nn.Module, layer: Layer) -> nn.Module:
    """Return the module of a layer given by its index in `model.layers` or by its name; raises `CompanionError`."""
    named = tuple(getattr(model, "layers", ()))
    if isinstance(layer, int):
        if not -len(named) <= layer < len(named):
            raise CompanionError(
                f"unknown layer {layer} of {type(model).__name__}: expected an index into its {len(named)} layers "
                f"({', '.join(named) or 'none named'}), or the name of a module."
            )
        layer = named[layer]
    modules = dict(model.named_modules())
    if not layer or layer not in modules:
        known = ", ".join(named or [name for name in modules if name][:20])
        raise CompanionError(f'unknown layer "{layer}" of {type(model).__name__}: expected one of {known}.')
    return modules[layer]


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    found: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda part, _, output: found.__setitem__(part, output)) for module in modules
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _single(models: Sequence[nn.Module], name: str) -> nn.Module:
    if len(models) != 1:
        raise CompanionError(f"{name} got {len(models)} networks: expected one, whose features it looks at.")
    return models[0]


def _spread(values: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """Repeat the values (B, ...) of images for their points, (count, ...)."""
    return None if values is None else values.repeat_interleave(count // len(values), dim=0)


def _suppress(model: nn.Module, layer: Layer, scene: Scene, points: torch.Tensor, each: int) -> Bound:
    """Bind to -sum(weight x f(x')), the weights being normalised gradients by f, summed over `each` points an image."""
    with torch.enable_grad():
        logits, (features,) = layer_outputs(model, (layer,), points.requires_grad_())
        chosen = logits.gather(1, _spread(scene.labels, len(points))[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, features)
    weight = gradient.view(len(scene.images), each, *gradient.shape[1:]).sum(1).flatten(1)
    weight = weight / (weight.norm(dim=1, keepdim=True) + 1e-12)

    def value(active, places):
        return -(layer_output(active[0], layer, places).flatten(1) * _spread(weight, len(places))).sum(1)

    return Bound(value)


def _spatial_mean(features: torch.Tensor) -> torch.Tensor:
    """Means over space: of maps (B, C, h, w) over h and w, of tokens (B, T, D) over T."""
    return features.mean(dim=(2, 3), keepdim=True) if features.ndim == 4 else features.mean(dim=1, keepdim=True)


def _log_norm(features: torch.Tensor) -> torch.Tensor:
    return (features.flatten(1).square().sum(1) + 1e-12).log() / 2
