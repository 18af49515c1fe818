"""A method put together from its parts, and the loop that runs it.

Every step is: gradient source -> input transform -> (smoothing) -> momentum rule -> projection.
"""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.transfer.draws import Draws
from companion.attacks.transfer.features import Bound, Objective, Output
from companion.attacks.transfer.gradients import Plain, Source
from companion.attacks.transfer.rules import Momentum
from companion.attacks.transfer.state import Budget, Scene, State, project
from companion.attacks.transfer.transforms import Identity
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.models.frozen import frozen

PASS = (2**17, 2**23)
"""Pixels of one pass through a network, on a CPU (measured: more leave its caches) and on a GPU."""


@dataclass(frozen=True)
class Method:
    """A transfer attack as a composition of parts; each has a default that makes it MI-FGSM.

    source: where gradients are taken; transform: copies of the input; objective: what is made large; rule: from
    gradient to step; change: inside the network while its gradient is taken; smoothing: side of TI's Gaussian kernel,
    odd, 0 for none; single_step: one step of size eps whatever the budget says; members: networks of an ensemble that
    a gradient asks at once.

    >>> diverse = Method(transform=ResizePad(), source=VarianceTuned())  # VMI-DI-FGSM
    """

    source: Source = field(default_factory=Plain)
    transform: Any = field(default_factory=Identity)
    objective: Objective = field(default_factory=Output)
    rule: Any = field(default_factory=Momentum)
    change: Any = None
    smoothing: int = 0
    single_step: bool = False
    members: int = 1

    def evaluations(self, steps: int) -> int:
        """Return how many gradients of a network the method takes for one image in `steps` steps, preparation included.

        A gradient of an ensemble of K networks counts K times. Training of snapshots or generators is not counted.
        """
        taken = 1 if self.single_step else steps
        points = sum(self.source.points(step, taken) for step in range(taken))
        shared = getattr(self.source, "members", None)  # sources that themselves choose members count in networks
        return self.objective.setup(steps) + points * self.transform.copies * (1 if shared else self.members)


def attack(
    method: Method,
    models: nn.Module | Sequence[nn.Module],
    images: torch.Tensor,
    labels: torch.Tensor,
    budget: Budget,
    seed: int,
    **more: Any,
) -> torch.Tensor:
    """Return adversarial images (N, C, H, W) in [0, 1], each within `budget.eps` of its clean image.

    As `iterates`, which documents the arguments, of which it returns the last.

    >>> adversarial = attack(Method(), surrogate, images, labels, Budget(8 / 255), seed=0)
    """
    steps = 1 if method.single_step else budget.steps
    return iterates(method, models, images, labels, budget, seed, keep=(steps,), **more)[0]


def iterates(
    method: Method,
    models: nn.Module | Sequence[nn.Module],
    images: torch.Tensor,
    labels: torch.Tensor,
    budget: Budget,
    seed: int,
    *,
    keep: Sequence[int],
    targets: torch.Tensor | None = None,
    indices: Sequence[int] | None = None,
    partners: ImageSet | None = None,
    generator: nn.Module | None = None,
    batch_size: int | None = None,
) -> torch.Tensor:
    """Return the images after each of the steps in `keep`, (len(keep), N, C, H, W).

    models: the surrogate, or the surrogates of an ensemble, taking images in [0, 1]; images: (N, C, H, W) in [0, 1];
    labels: (N,) int64, true classes; seed: of every random choice; keep: increasing numbers in 1..steps; targets:
    (N,) int64 for a targeted attack; indices: what names each image's random stream, 0..N - 1 by default; partners:
    labelled images for Admix; generator: for the generative attack; batch_size: images at a time, by default as many
    as make passes of about PASS pixels, which is fastest: all copies of an image go together.

    An image's result depends on its own pixels, label and index alone, not on what else is in the batch (but for the
    rounding of matrix products, which may depend on the batch size). The networks are used in evaluation mode and left
    as they were. Raises `CompanionError` for values outside these, and for networks that give no gradient.
    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    if method.single_step:
        budget = replace(budget, steps=1, step=budget.eps)
    indices = list(range(len(images))) if indices is None else list(indices)
    _check(method, models, images, labels, targets, indices, keep, budget)
    batch_size, found = batch_size or _fitting(method, images, budget.steps), []
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(frozen(model))
        for part in torch.arange(len(images)).split(batch_size):
            draws = Draws(seed, [indices[place] for place in part], images.device, images.dtype)
            wanted = None if targets is None else targets[part]
            scene = Scene(images[part], labels[part], wanted, budget, draws, partners, generator)
            found.append(_run(method, models, scene, keep))
    return torch.cat(found, dim=1)


def _fitting(method: Method, images: torch.Tensor, steps: int) -> int:
    """Return how many images at a time make one pass of about PASS pixels (height times width) of points and copies."""
    each = max(method.source.together(steps) * method.transform.copies, method.objective.together)
    return max(1, PASS[images.device.type == "cuda"] // (each * images.shape[2] * images.shape[3]))


class Field:
    """The gradients of a bound objective, at any points; counts how many networks it asked, an image."""

    def __init__(self, method: Method, models: Sequence[nn.Module], bound: Bound, scene: Scene):
        self.method, self.models, self.bound, self.scene = method, list(models), bound, scene
        self.kernel = gaussian_kernel(method.smoothing, scene.images) if method.smoothing else None

    def __call__(self, points: torch.Tensor, members: Sequence[int] | None = None) -> torch.Tensor:
        """Return gradients (B, n, C, H, W) at points (B, n, C, H, W), by all networks or by those in `members`."""
        active = self.models if members is None else [self.models[index] for index in members]
        copies, change = self.method.transform.copies, self.method.change
        draws = self.scene.draws.for_points(points.shape[1])
        flat = points.detach().flatten(0, 1).requires_grad_()  # (B n, C, H, W)
        with torch.enable_grad():
            seen = self.method.transform(flat, draws, self.scene).flatten(0, 1)  # (B n m, C, H, W)
            inside = self.scene.draws.for_points(points.shape[1] * copies)
            with change.applied(active, inside) if change else nullcontext():
                values = self.bound.value(active, seen)  # (B n m,)
            if not values.requires_grad:
                raise CompanionError(
                    f"{type(active[0]).__name__} gives no gradient with respect to its input: expected a network of "
                    "differentiable operations. Check for no_grad, detach, rounding or argmax inside it."
                )
            (gradient,) = torch.autograd.grad(values.sum() / copies, flat)
        return self._smooth(gradient).view_as(points)

    def _smooth(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.kernel is None:
            return gradient
        channels = gradient.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1)
        return F.conv2d(gradient, kernel, padding=self.method.smoothing // 2, groups=channels)


def gaussian_kernel(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return TI's kernel (side, side), a Gaussian over three deviations either way, that sums to 1.

    side: odd, at least 3. Source: Dong et al. 2019.
    """
    if side < 3 or side % 2 == 0:
        raise CompanionError(f"the smoothing kernel has side {side}: expected an odd number of at least 3.")
    line = torch.exp(-0.5 * torch.linspace(-3, 3, side, dtype=torch.float64) ** 2)
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum()).to(like)


def _run(method: Method, models: Sequence[nn.Module], scene: Scene, keep: Sequence[int]) -> torch.Tensor:
    def run(base: Method) -> torch.Tensor:
        return _run(base, models, scene, (scene.budget.steps,))[0]

    scene = replace(scene, run=run)
    bound = method.objective.bind(models, scene)
    gradients = Field(method, models, bound, scene)
    state = State(scene, scene.images if bound.start is None else bound.start)
    kept = []
    for step in range(max(keep)):
        state.step = step
        gradient = method.source(state, gradients)
        moved = state.images + method.rule(state, gradient)
        state.images = project(moved, scene.images, scene.budget.eps)
        if step + 1 in keep:
            kept.append(state.images)
    return torch.stack(kept)


def _check(method, models, images, labels, targets, indices, keep, budget) -> None:
    if not models:
        raise CompanionError("an attack got no network: expected at least one surrogate.")
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise CompanionError(
            f"images under attack have shape {tuple(images.shape)} and dtype {images.dtype}: expected (N, C, H, W) "
            "of a floating-point type with N >= 1."
        )
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise CompanionError(
            f"images under attack lie in [{low:.4g}, {high:.4g}]: expected [0, 1] and no NaN. Budgets are in these "
            "pixels; networks normalise by themselves."
        )
    for name, values in {"labels": labels, "targets": targets}.items():
        if values is not None and (values.shape != (len(images),) or values.dtype != torch.int64):
            raise CompanionError(
                f"{name} have shape {tuple(values.shape)} and dtype {values.dtype} for {len(images)} images: "
                f"expected ({len(images)},) int64."
            )
    if len(indices) != len(images):
        raise CompanionError(f"{len(indices)} indices for {len(images)} images: expected one for each.")
    if list(keep) != sorted(set(keep)) or not keep or keep[0] < 1 or keep[-1] > budget.steps:
        raise CompanionError(
            f"the steps to keep are {list(keep)}: expected increasing whole numbers in 1..{budget.steps}, the steps "
            "of the budget."
        )
    wanted = getattr(method.source, "members", method.members)
    if len(models) != wanted:
        raise CompanionError(f"the method asks {wanted} network(s) and got {len(models)}: pass as many as it asks.")
