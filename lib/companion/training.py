"""The one training function that all chapters share, and evaluation of a trained network in batches.

Nothing here reads or moves torch's global random state: batches and crops are drawn from the generator passed in, so
the same generator seed gives the same weights, bit for bit, on one machine with one number of threads.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError

SCHEDULES = ("one_cycle", "cosine", "constant")
PRECISIONS = ("float32", "bfloat16")

ExtraLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of `train`: stochastic gradient descent with momentum on the cross-entropy.

    learning_rate is the highest of the schedule. schedule: "one_cycle" rises linearly to it over the first `warmup`
    share of all steps and falls to 0 along a cosine; "cosine" only falls; "constant" stays. label_smoothing in [0, 1).
    crop_padding: pixels of zeros around an image before a random crop of its own size (0: none). precision "bfloat16"
    is autocast: worth it on a GPU or a CPU with bfloat16 instructions, and many times slower on a CPU without.
    channels_last: memory layout of weights and batches.
    """

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    warmup: float = 0.3
    label_smoothing: float = 0.1
    crop_padding: int = 0
    precision: str = "float32"
    channels_last: bool = True

    def __post_init__(self):
        expected = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2, because batch normalisation needs two images"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a positive number"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "nesterov": (not self.nesterov or self.momentum > 0, "False where momentum is 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "warmup": (0 <= self.warmup < 1, "a share of all steps, in [0, 1)"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "crop_padding": (self.crop_padding >= 0, "at least 0 pixels"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise CompanionError(f"TrainingConfig.{name} is {getattr(self, name)!r}: expected {wanted}.")


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its number from 1, mean loss (extra loss included), training accuracy, wall seconds."""

    number: int
    loss: float
    accuracy: float
    seconds: float


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the learning rate of `step` in [0, steps); see `TrainingConfig` for the schedules."""
    rising = math.floor(config.warmup * steps) if config.schedule == "one_cycle" else 0
    if config.schedule == "constant":
        return config.learning_rate
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    return config.learning_rate * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def train(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: TrainingConfig,
    generator: torch.Generator,
    *,
    roles: torch.Tensor | None = None,
    extra_loss: ExtraLoss | None = None,
    device: str | torch.device | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `model` in place and return what each epoch gave; the model is left in evaluation mode on `device`.

    model: with `features(images)` -> (B, D), `head` -> (B, K) and forward = head(features), as `companion.models`
    has them; images: (N, C, H, W) float32 in [0, 1], N >= 2; labels: (N,) int64 in [0, K); generator: a CPU generator,
    which draws a new order of the images each epoch, and crops; roles: (N,) int64 or None, handed to `extra_loss`;
    extra_loss: called as `extra_loss(features (B, D) float32, labels (B,), roles (B,) or None)`, returns a scalar that
    is added to the cross-entropy; device: where to train (default: where the model is), the data are kept there;
    on_epoch: called after every epoch.
    The last batch of an epoch may be smaller; one of a single image is dropped, as batch normalisation needs two.
    Raises `CompanionError` for images or labels of another form, and at the first loss that is not finite.

    >>> model = build_model("small_cnn", 3, 10, generator(0, "weights"))
    >>> epochs = train(model, data.images, data.labels, TrainingConfig(), generator(0, "training"))
    """
    _check(model, images, labels, roles)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)
    batches = _Batches(images, labels, roles, config, generator, device)
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, 0, config.weight_decay, config.nesterov
    )
    history = []
    with _own_randomness(generator, device):
        model.train()
        for number in range(1, config.epochs + 1):
            history.append(_train_epoch(model, batches, optimizer, config, extra_loss, number))
            if on_epoch is not None:
                on_epoch(history[-1])
    model.eval()
    return history


def logits(model: nn.Module, images: torch.Tensor, batch_size: int = 250) -> torch.Tensor:
    """Return logits (N, K) of images (N, C, H, W), on the images' device.

    The model computes in evaluation mode, without gradients, and is left in the mode it was in.
    """
    return _evaluate(model, model, images, batch_size)


def features(model: nn.Module, images: torch.Tensor, batch_size: int = 250) -> torch.Tensor:
    """Return penultimate features (N, D) of images (N, C, H, W); as `logits` otherwise."""
    return _evaluate(model, model.features, images, batch_size)


class _Batches:
    """The training data on the device, and how a batch is drawn from them."""

    def __init__(self, images, labels, roles, config, generator, device):
        pad = config.crop_padding
        padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
        self.padded = padded.contiguous().to(device)  # (N, H + 2 pad, W + 2 pad, C)
        self.labels = labels.to(device)
        self.roles = roles.to(device) if roles is not None else None
        self.config, self.generator, self.device = config, generator, device
        self.height, self.width = images.shape[2:]
        full, rest = divmod(len(images), config.batch_size)
        self.per_epoch = full + (rest >= 2)

    def epoch(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yield images (B, C, H, W), labels (B,) and roles (B,) or None of every batch, in a newly drawn order."""
        order = torch.randperm(len(self.labels), generator=self.generator).to(self.device)
        for chosen in order.split(self.config.batch_size)[: self.per_epoch]:
            yield self._images(chosen), self.labels[chosen], None if self.roles is None else self.roles[chosen]

    def _images(self, chosen: torch.Tensor) -> torch.Tensor:
        if self.config.crop_padding:
            shifts = torch.randint(2 * self.config.crop_padding + 1, (2, len(chosen), 1), generator=self.generator)
            shifts = shifts.to(self.device)
            rows = shifts[0] + torch.arange(self.height, device=self.device)  # (B, H)
            columns = shifts[1] + torch.arange(self.width, device=self.device)  # (B, W)
            batch = self.padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
        else:
            batch = self.padded[chosen]  # (B, H, W, C)
        batch = batch.permute(0, 3, 1, 2)  # (B, C, H, W), channels_last without a copy
        return batch if self.config.channels_last else batch.contiguous()


def _train_epoch(model, batches, optimizer, config, extra_loss, number) -> Epoch:
    begin, total, correct, seen = time.perf_counter(), 0.0, 0, 0
    for index, (images, labels, roles) in enumerate(batches.epoch()):
        step = (number - 1) * batches.per_epoch + index
        rate = learning_rate(config, step, config.epochs * batches.per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            found = model.features(images)  # (B, D)
            scores = model.head(found)  # (B, K)
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=config.label_smoothing)
        if extra_loss is not None:
            loss = loss + extra_loss(found.float(), labels, roles)
        value = loss.item()
        if not math.isfinite(value):
            raise CompanionError(
                f"training loss is {value} in epoch {number} of {config.epochs}, step {index + 1} of "
                f"{batches.per_epoch}, at learning rate {rate:.3g}: expected a finite number. Lower "
                f"TrainingConfig.learning_rate (now {config.learning_rate}) or look at the extra loss, if there is one."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += value * len(labels)
        correct += int((scores.argmax(1) == labels).sum())
        seen += len(labels)
    return Epoch(number, total / seen, correct / seen, time.perf_counter() - begin)


@contextmanager
def _own_randomness(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Give layers that can only draw from torch's global state, such as dropout, a stream that `generator` decides."""
    seed = int(torch.randint(2**62, (), generator=generator))
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _evaluate(model: nn.Module, function: Callable, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            return torch.cat([function(batch.to(device)).to(images.device) for batch in images.split(batch_size)])
    finally:
        for module, mode in modes:
            module.training = mode


def _check(model, images, labels, roles) -> None:
    if images.ndim != 4 or images.dtype != torch.float32 or len(images) < 2:
        raise CompanionError(
            f"training images have shape {tuple(images.shape)} and dtype {images.dtype}: expected (N, C, H, W) "
            "float32 with N >= 2."
        )
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise CompanionError(
            f"training images lie in [{low:.4g}, {high:.4g}]: expected [0, 1] and no NaN. Divide bytes by 255 and "
            "clamp what was added to images; the networks take images without mean and deviation."
        )
    for name, tensor in {"labels": labels, "roles": roles}.items():
        if tensor is not None and (tensor.shape != (len(images),) or tensor.dtype != torch.int64):
            raise CompanionError(
                f"training {name} have shape {tuple(tensor.shape)} and dtype {tensor.dtype} for {len(images)} images: "
                f"expected ({len(images)},) int64."
            )
    classes = model.head.out_features
    low, high = labels.aminmax()
    if low < 0 or high >= classes:
        raise CompanionError(
            f"training labels lie in [{low}, {high}]: expected [0, {classes - 1}], as the network has {classes} "
            "outputs. Build the network with the data set's number of classes."
        )
