"""MNTD against the models of the chapter on quantization backdoors: shadows as fleets, of a plain network.

The victims' batch normalisations keep statistics that a stack of parameters does not have, so the shadows are two
convolutions and a dense layer without any: the defender knows the task and the form of the answers, and no more. That
is the mismatched case of the chapter on countermeasures.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import nn

from companion.defenses import mntd
from companion.errors import CompanionError
from companion.fleet import Fleet, FleetTraining
from companion.seeding import derive_seed, generator
from companion.store import ModelStore
from companion.victim_fleets import FleetRecipe, train_victims


@dataclass(frozen=True)
class Shadows:
    """The defender's shadows and meta-classifier.

    data: a manifest's name; classes: K, its first ones; share: (start, stop), the training images of each class that
    the defender has; per_side, validation: shadows of a side, to train on and to choose the epoch; width: of their
    first convolution; training: of each; meta: of the meta-classifier.
    """

    data: str
    classes: int
    share: Sequence[int]
    per_side: int = 32
    validation: int = 16
    width: int = 8
    training: FleetTraining = field(default_factory=lambda: FleetTraining(batch_size=32, learning_rate=0.01))
    meta: mntd.Config = mntd.BATCHED

    def recipe(self, kind: str, part: str, count: int, seed: int) -> FleetRecipe:
        """Return the recipe of `count` shadows, "clean" or "jumbo"; part: names a draw."""
        return FleetRecipe(
            data=self.data,
            labels=tuple(range(self.classes)),
            per_class=tuple(self.share),
            kind=kind,
            count=count,
            settings={"width": self.width},
            enlarged=kind == "clean",
            training=self.training,
            seed=derive_seed(seed, "shadows", part) % 2**31,
        )


@dataclass(frozen=True)
class Judgement:
    """What MNTD says of one model: its score above the threshold that is best on the validation shadows."""

    score: float

    @property
    def flagged(self) -> bool:
        """Whether the model counts as backdoored."""
        return self.score > 0


def judge(
    suspects: Mapping[str, nn.Module], shadows: Shadows, store: ModelStore, seed: int
) -> tuple[dict[str, Judgement], float]:
    """Return a judgement of each suspect, and the AUC in [0, 1] of the meta-classifier on validation shadows.

    suspects: models of the shadows' task, float or emulated, copied to the CPU. The shadows come from the store if they
    are there. Raises CompanionError where there is no suspect.
    """
    if not suspects:
        raise CompanionError("MNTD has no model to judge: expected at least one, by name.")
    sides, flags = {}, {}
    for part, count in (("train", shadows.per_side), ("validation", shadows.validation)):
        fleets = [train_victims(shadows.recipe(kind, part, count, seed), store) for kind in ("clean", "jumbo")]
        sides[part] = _joined([one.fleet for one in fleets])
        flags[part] = torch.arange(2 * count) >= count
    pixels = fleets[0].data.images  # (N, C, H, W)
    trained = mntd.train_meta(
        sides["train"], flags["train"], sides["validation"], flags["validation"], pixels.mean(0), pixels.std(0),
        shadows.meta, generator(seed, "meta-classifier"),
    )  # fmt: skip
    threshold = mntd.best_threshold(trained.validation_scores, trained.validation_labels)
    scores = mntd.score(trained.meta, [deepcopy(model).cpu() for model in suspects.values()])
    found = {name: Judgement(float(one) - threshold) for name, one in zip(suspects, scores, strict=True)}
    return found, trained.validation_auc


def _joined(fleets: Sequence[Fleet]) -> Fleet:
    states = [fleet.state() for fleet in fleets]
    return Fleet(fleets[0].architecture, {name: torch.cat([state[name] for state in states]) for name in states[0]})
