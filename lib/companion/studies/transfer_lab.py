"""The laboratory of the chapter on transferability: networks, the images under attack, and how an attack is judged.

A `Lab` holds the trained networks and the images that all of them classify correctly. Every experiment attacks those
images from one or several networks and reports, for each network, which images it then gets wrong. Images are rounded
to 256 levels before they are judged, as a file would round them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from companion.attacks.transfer.method import Method, iterates
from companion.attacks.transfer.state import Budget
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.metrics import clean_accuracy
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.surrogates import SurrogateRecipe, train_surrogate
from companion.training import TrainingConfig, logits

ROBUST = "robust"
"""The name of the adversarially trained network, a small CNN; the others are called as their families."""

CNNS = ("cnn", "resnet", "mobile")

SCHEDULES = {
    "cnn": TrainingConfig(epochs=8),
    "resnet": TrainingConfig(epochs=8),
    "mobile": TrainingConfig(epochs=8),
    "mixer": TrainingConfig(epochs=12, learning_rate=0.1),
    "vit": TrainingConfig(epochs=60, learning_rate=0.15, batch_size=48, crop_padding=1),
    ROBUST: TrainingConfig(epochs=12),
}
"""How each network is trained."""


@dataclass(frozen=True, eq=False)
class Lab:
    """Trained networks and the images under attack.

    networks: by name; images: those all networks classify correctly, first in the order of the test split; indices:
    their places in it; train: the networks' training images; accuracy: of each network on the whole test split; seed:
    of every random choice.
    """

    networks: Mapping[str, nn.Module]
    images: ImageSet
    indices: tuple[int, ...]
    train: ImageSet
    accuracy: Mapping[str, Proportion]
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """All networks."""
        return tuple(self.networks)

    def undefended(self, *without: str) -> list[str]:
        """Return the networks that were trained in the ordinary way, but for `without`."""
        return [name for name in self.networks if name != ROBUST and name not in without]


def build_lab(
    data: str,
    names: Sequence[str],
    seed: int,
    store: ModelStore,
    *,
    count: int,
    eps: float,
    train_count: int | None = None,
    effort: float = 1.0,
    epochs: Mapping[str, int] | None = None,
    widths: Mapping[str, int] | None = None,
    device: str = "cpu",
) -> Lab:
    """Train the networks `names` on `data` and choose the first `count` test images that all of them get right.

    names: families, and "robust" for a CNN trained on FGSM examples of size eps; train_count: training images, None
    for all; effort: times the epochs of SCHEDULES; epochs: of networks, instead of that; widths: of families, where
    not their defaults.
    Raises `CompanionError` for an unknown name, and where no image is classified correctly by all networks.
    """
    networks = {}
    for name in names:
        if name not in SCHEDULES:
            raise CompanionError(f'unknown network "{name}": expected some of {", ".join(SCHEDULES)}.')
        config = replace(SCHEDULES[name], epochs=max(1, round(effort * SCHEDULES[name].epochs)))
        if epochs and name in epochs:
            config = replace(config, epochs=epochs[name])
        recipe = _recipe(name, data, seed, eps, train_count, config, widths)
        networks[name] = train_surrogate(recipe, store, device).model
    train, test = (catalogue.load(data, split) for split in ("train", "test"))
    answers = {name: logits(model, test.images) for name, model in networks.items()}
    right = torch.stack([found.argmax(1) == test.labels for found in answers.values()]).all(0)
    chosen = right.nonzero().flatten()[:count]
    if not len(chosen):
        raise CompanionError(
            f"no test image of {data} is classified correctly by all of {', '.join(names)}: train them longer."
        )
    accuracy = {name: clean_accuracy(found, test.labels) for name, found in answers.items()}
    used = train.subset(torch.arange(len(train) if train_count is None else train_count))
    images, used = (_on(device, one) for one in (test.subset(chosen), used))
    return Lab(networks, images, tuple(chosen.tolist()), used, accuracy, seed)


def _on(device: str, data: ImageSet) -> ImageSet:
    return replace(data, images=data.images.to(device), labels=data.labels.to(device))


def _recipe(name, data, seed, eps, train_count, config, widths) -> SurrogateRecipe:
    family = "cnn" if name == ROBUST else name
    settings = {"width": widths[family]} if widths and family in widths else {}
    return SurrogateRecipe(
        data, family, count=train_count, robust_eps=eps if name == ROBUST else 0.0, settings=settings, training=config,
        seed=seed,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one attack did.

    steps: after which numbers of steps it was judged, (S,); cost: gradients of a network each image had cost by then,
    (S,); fooled: (S, K, N) bool, whether each network's answer counts as a success on each image; norms: (S, N) L2
    norms of the perturbations; ranks: (S, K, N) places of the true class among the logits, from 0.
    """

    names: tuple[str, ...]
    steps: tuple[int, ...]
    cost: tuple[int, ...]
    fooled: np.ndarray
    norms: np.ndarray
    ranks: np.ndarray

    def of(self, *networks: str, at: int | None = None) -> np.ndarray:
        """Return for each image the share of `networks` that were fooled after `at` steps (the last), (N,)."""
        rows = [self.names.index(name) for name in networks]
        return self.fooled[self._place(at)][rows].mean(0)

    def norm(self, at: int | None = None) -> float:
        """Return the mean L2 norm."""
        return float(self.norms[self._place(at)].mean())

    def rank(self, *networks: str, at: int | None = None) -> float:
        """Return the mean place of the true class in `networks`, 0 being the first."""
        rows = [self.names.index(name) for name in networks]
        return float(self.ranks[self._place(at)][rows].mean())

    def _place(self, at: int | None) -> int:
        return -1 if at is None else self.steps.index(at)


def run(
    lab: Lab,
    method: Method,
    sources: Sequence[str | nn.Module],
    budget: Budget,
    *,
    keep: Iterable[int] = (),
    targets: torch.Tensor | None = None,
    network: nn.Module | None = None,
    count: int | None = None,
) -> Outcome:
    """Attack the lab's images (or the first `count`) from `sources` and judge the result on every network.

    sources: names of networks, or networks; keep: numbers of steps after which to judge as well as at the end;
    targets: (N,) classes to reach; network: the generator of a generative attack.
    """
    chosen = lab.images.subset(torch.arange(len(lab.images) if count is None else min(count, len(lab.images))))
    models = [lab.networks[source] if isinstance(source, str) else source for source in sources]
    last = 1 if method.single_step else budget.steps
    steps = tuple(sorted({step for step in keep if step < last} | {last}))
    goal = None if targets is None else targets[: len(chosen)]
    found = iterates(
        method, models, chosen.images, chosen.labels, budget, lab.seed, keep=steps, targets=goal,
        indices=lab.indices[: len(chosen)], partners=lab.train, generator=network,
    )  # fmt: skip
    found = (found * 255).round() / 255  # (S, N, C, H, W)
    answers = [torch.stack([logits(model, images) for images in found]) for model in lab.networks.values()]
    answers = torch.stack(answers, dim=1)  # (S, K, N, classes)
    said = answers.argmax(-1)
    true = answers.gather(-1, chosen.labels.view(1, 1, -1, 1).expand(*said.shape, 1))
    return Outcome(
        lab.names,
        steps,
        tuple(method.evaluations(step) for step in steps),
        (said != chosen.labels if goal is None else said == goal).cpu().numpy(),
        (found - chosen.images).flatten(2).norm(dim=2).cpu().numpy(),
        (answers > true).sum(-1).cpu().numpy(),
    )
