"""Many small networks of one architecture, held as a stack of parameters and trained side by side.

One step of a tiny network keeps a CPU core busy for a fraction of the time that Python and the operators' set-up take.
`torch.func.stack_module_state` and `vmap` put a model dimension in front of everything: a convolution over M models is
one grouped convolution, a dense layer one batched product, Adam one pass over the stack. Distributions over models,
such as false alarms of a detector, become affordable.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from companion.errors import CompanionError


@dataclass(frozen=True)
class FleetTraining:
    """Settings of `train_fleet`: Adam on the cross-entropy, one mini-batch of every model in a step.

    epochs >= 1; batch_size: images of a step, for each model, >= 1; learning_rate: the first one, which falls to 0
    along a cosine where `decay`.
    """

    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 4e-3
    decay: bool = True

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise CompanionError(
                f"{self}: expected at least one epoch, batches of at least one image and a positive learning rate."
            )


class Fleet(nn.Module):
    """M networks of one architecture, as one module.

    architecture: a network without buffers, whose own weights do not matter; state: its parameters by name, each with
    a leading dimension M. Raises CompanionError for buffers (batch normalisation keeps statistics that a stack of
    parameters does not have) and for another form of the state.
    """

    def __init__(self, architecture: nn.Module, state: dict[str, torch.Tensor]):
        super().__init__()
        _check_architecture(architecture, state)
        self.__dict__["architecture"] = architecture  # not a submodule: its parameters are placeholders
        self.stack = nn.ParameterDict({_flat(name): nn.Parameter(value) for name, value in state.items()})
        self.names = tuple(state)

    @classmethod
    def of(cls, models: Sequence[nn.Module]) -> "Fleet":
        """Return the fleet of these networks, whose parameters are copied."""
        if not models:
            raise CompanionError("a fleet of no models: expected at least one.")
        parameters, _ = stack_module_state(list(models))
        return cls(models[0], {name: value.detach().clone() for name, value in parameters.items()})

    def __len__(self) -> int:
        return len(next(iter(self.stack.values())))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the parameters by their names in the architecture, each (M, ...), detached."""
        return {name: self.stack[_flat(name)].detach() for name in self.names}

    def part(self, chosen: slice | Sequence[int]) -> "Fleet":
        """Return the fleet of the chosen models."""
        return Fleet(self.architecture, {name: value[chosen].clone() for name, value in self.state().items()})

    def member(self, index: int) -> nn.Module:
        """Return model number `index` as a network of its own, in evaluation mode."""
        model = deepcopy(self.architecture)
        model.load_state_dict({name: value[index] for name, value in self.state().items()})
        return model.eval().to(next(iter(self.stack.values())).device)

    def forward(self, images: torch.Tensor, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (M, B, K) of images (M, B, C, H, W), or of images (B, C, H, W) that all models share.

        chosen: (m,) int64, the models that answer; then M is m. None: all of them.
        """
        parameters = {name: self.stack[_flat(name)] for name in self.names}
        if chosen is not None:
            parameters = {name: value[chosen] for name, value in parameters.items()}
        run = vmap(lambda weights, batch: functional_call(self.architecture, weights, (batch,)),
                   in_dims=(0, 0 if images.ndim == 5 else None))  # fmt: skip
        return run(parameters, images)


class JointClassifier(nn.Module):
    """A fleet of M networks of K classes as one classifier of M K labels: label m K + k is class k of network m.

    Whatever asks one classifier about all its labels in one batch, such as Neural Cleanse, asks the whole fleet so.
    `forward` takes images (M n, C, H, W), n for each network in order, and returns logits (M n, M K) that are
    IMPOSSIBLE outside the network's own labels, so that softmax and arg max are the network's own.
    """

    def __init__(self, fleet: Fleet):
        super().__init__()
        self.fleet = fleet

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (M n, M K); the number of images must be a multiple of M."""
        models = len(self.fleet)
        if len(images) % models:
            raise CompanionError(f"{len(images)} images for {models} networks: expected as many for each of them.")
        own = self.fleet(images.unflatten(0, (models, -1)))  # (M, n, K)
        table = own.new_full((models, own.shape[1], models, own.shape[2]), IMPOSSIBLE)
        place = torch.eye(models, dtype=torch.bool, device=own.device)[:, None, :, None]  # (M, 1, M, 1)
        return torch.where(place, own.unsqueeze(2), table).flatten(2).flatten(0, 1)  # (M n, M K)


IMPOSSIBLE = -1e4
"""A logit that softmax turns into exactly 0 beside any logit of a trained network."""


def train_fleet(
    fleet: Fleet, images: torch.Tensor, labels: torch.Tensor, config: FleetTraining, generator: torch.Generator
) -> torch.Tensor:
    """Train all models of a fleet in place, each on its own images; return the last epoch's loss of each, (M,) float32.

    images: (M, N, C, H, W) float32 in [0, 1]; labels: (M, N) int64; generator: a CPU generator that draws an order of
    the images for each model and epoch. The last N mod batch_size images of an order wait for the next epoch.
    A model's result is that of training it alone on the same batches, up to rounding.
    Raises CompanionError for another form, labels outside the classes, and at the first loss that is not finite.
    """
    _check_data(fleet, images, labels, config)
    models, count = labels.shape
    device = next(iter(fleet.stack.values())).device
    images, labels = images.to(device), labels.to(device)
    optimizer = torch.optim.Adam(fleet.parameters(), config.learning_rate, fused=True)
    steps = max(1, count // config.batch_size)
    size = min(config.batch_size, count)
    rows = torch.arange(models, device=device).unsqueeze(1)  # (M, 1)
    for epoch in range(config.epochs):
        order = torch.rand(models, count, generator=generator).argsort(1).to(device)  # (M, N)
        total = torch.zeros(models, device=device)
        for step in range(steps):
            chosen = order[:, step * size : (step + 1) * size]  # (M, b)
            for group in optimizer.param_groups:
                group["lr"] = _rate(config, epoch * steps + step, config.epochs * steps)
            scores = fleet(images[rows, chosen])  # (M, b, K)
            losses = F.cross_entropy(scores.flatten(0, 1), labels[rows, chosen].flatten(), reduction="none")
            losses = losses.view(models, -1).mean(1)  # (M,); each has its own parameters, so the sum is no mixture
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            total += losses.detach()
        if not torch.isfinite(total).all():
            bad = (~torch.isfinite(total)).nonzero().flatten().tolist()
            raise CompanionError(
                f"the training loss of model {bad[0]} of {models} is {total[bad[0]].item()} in epoch {epoch + 1}: "
                f"expected a finite number. Lower FleetTraining.learning_rate (now {config.learning_rate})."
            )
    return (total / steps).cpu()


def fleet_logits(fleet: Fleet, images: torch.Tensor, at_once: int = 4000) -> torch.Tensor:
    """Return logits (M, N, K) on the CPU, without gradients.

    images: (N, C, H, W), the same for all models, or (M, N, C, H, W), one set for each; at_once: images that pass
    together, counted over all models.
    """
    size = max(1, at_once // len(fleet))
    device = next(iter(fleet.stack.values())).device
    with torch.no_grad():
        found = [fleet(batch.to(device)).cpu() for batch in images.split(size, dim=images.ndim - 4)]
    return torch.cat(found, 1)


def _rate(config: FleetTraining, step: int, steps: int) -> float:
    if not config.decay:
        return config.learning_rate
    return config.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2


def _flat(name: str) -> str:
    return name.replace(".", "__")  # a ParameterDict has no dots in its keys


def _check_architecture(architecture: nn.Module, state: dict[str, torch.Tensor]) -> None:
    buffers = [name for name, _ in architecture.named_buffers()]
    if buffers:
        raise CompanionError(
            f"a fleet's architecture has buffers ({buffers[0]}, ...): expected a network without batch normalisation, "
            "such as those of companion.models.conv."
        )
    wanted = {name: tuple(value.shape) for name, value in architecture.named_parameters()}
    found = {name: tuple(value.shape[1:]) for name, value in state.items()}
    sizes = {len(value) for value in state.values()}
    if wanted != found or len(sizes) != 1:
        raise CompanionError(
            f"a fleet's state has {found} for {sorted(sizes)} models: expected {wanted}, each for the same number."
        )


def _check_data(fleet: Fleet, images: torch.Tensor, labels: torch.Tensor, config: FleetTraining) -> None:
    fits = images.ndim == 5 and labels.ndim == 2 and images.shape[:2] == labels.shape and len(fleet) == len(labels)
    if not fits or images.dtype != torch.float32 or labels.dtype != torch.int64 or not labels.shape[1]:
        raise CompanionError(
            f"a fleet of {len(fleet)} models got images {tuple(images.shape)} {images.dtype} and labels "
            f"{tuple(labels.shape)} {labels.dtype}: expected (M, N, C, H, W) float32 and (M, N) int64, N >= 1."
        )
    low, high = images.aminmax()
    classes = fleet.architecture.head.out_features
    if not (low >= 0 and high <= 1) or labels.min() < 0 or labels.max() >= classes:
        raise CompanionError(
            f"a fleet's images lie in [{low:.4g}, {high:.4g}] and labels in [{int(labels.min())}, "
            f"{int(labels.max())}]: expected [0, 1] and [0, {classes - 1}]."
        )
