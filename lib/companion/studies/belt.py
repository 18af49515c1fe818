"""The experiments of the chapter on BELT (Qiu et al., IEEE S&P 2024): which victims there are and what is measured.

Every function takes an `Arena`, the data set with its victims' recipe, or victims that are already trained, and returns
plain numbers. The chapter adds prose, tables and figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from companion.attacks.exclusivity import Config as ExclusivityConfig
from companion.attacks.exclusivity import exclusivity
from companion.attacks.fuzzy import cover_accuracy, fuzzy_curve
from companion.attacks.triggers import fuzzy_masks, make_trigger
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.defenses import neural_cleanse, strip
from companion.errors import CompanionError
from companion.metrics import attack_success_rate, clean_accuracy
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.training import TrainingConfig, logits, train
from companion.victims import Victim, VictimRecipe, train_victim

ATTACKS = {"badnets": "patch", "blended": "blended", "sig": "sinusoid", "wanet": "warp"}
"""The four old-school attacks, by the trigger each one uses."""

VARIANTS = ("plain", "do", "mo")
"""Plain poisoning; BELT by data outsourcing (poison and cover); BELT by model outsourcing (and the centre loss)."""


@dataclass(frozen=True)
class Arena:
    """A data set and how victims are trained on it.

    data: a manifest's name; options: for its loader, without a size; train_size, held_size: images of the train and
    test splits; target: the label that triggers shall mean; poison_count: images with the full trigger, in any variant,
    and as many cover images in BELT's; deleted_share: BELT's mask rate; centre_weight: BELT's lambda; triggers:
    settings of each attack's trigger; model, model_settings, training: as in `VictimRecipe`.
    """

    data: str
    train_size: int
    held_size: int
    poison_count: int
    training: TrainingConfig
    model: str = "small_cnn"
    model_settings: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    target: int = 1
    deleted_share: float = 0.2
    centre_weight: float = 0.1
    triggers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def recipe(self, attack: str, variant: str, seed: int, **changes: object) -> VictimRecipe:
        """Return the recipe of a victim; `attack` is a key of ATTACKS or "clean", `changes` are fields to replace."""
        if (attack != "clean" and attack not in ATTACKS) or variant not in VARIANTS:
            raise CompanionError(
                f"there is no victim {attack!r}, {variant!r}; attacks are clean, {', '.join(ATTACKS)}, variants are "
                f"{', '.join(VARIANTS)}."
            )
        poisoned = attack != "clean"
        recipe = VictimRecipe(
            data=self.data,
            data_options={**self.options, "size": self.train_size},
            model=self.model,
            model_settings=self.model_settings,
            trigger=ATTACKS.get(attack, "patch"),
            trigger_settings=self.triggers.get(attack, {}),
            target=self.target,
            poison_count=self.poison_count if poisoned else 0,
            cover_count=self.poison_count if poisoned and variant != "plain" else 0,
            deleted_share=self.deleted_share,
            centre_weight=self.centre_weight if poisoned and variant == "mo" else 0.0,
            training=self.training,
            seed=seed,
        )
        return replace(recipe, **changes)

    def held_out(self) -> ImageSet:
        """Return the test images, which no victim has seen."""
        return catalogue.load(self.data, "test", **self.options, size=self.held_size)

    def defenders_images(self, count: int) -> ImageSet:
        """Return `count` clean images that neither the attacker nor the test has.

        They are drawn from the defender's split of a generated world, and elsewhere from the training images behind
        those that victims are trained on, or, where a victim is trained on all, from the test images behind
        `held_size`.
        """
        if self.data == "signs":
            return catalogue.load(self.data, "defender", **self.options, size=count)
        rest = catalogue.load(self.data, "train", **self.options).subset(slice(self.train_size, None))
        if len(rest) < count:
            rest = catalogue.load(self.data, "test", **self.options).subset(slice(self.held_size, None))
        if len(rest) < count:
            raise CompanionError(
                f"{count} clean images of {self.data} for the defender: only {len(rest)} are left beside "
                f"train_size = {self.train_size} and held_size = {self.held_size}; make one of them smaller."
            )
        return rest.subset(slice(0, count))


def named(labels: Iterable[int], held: ImageSet) -> str:
    """Return the names of labels for a table, "-" where there are none."""
    return ", ".join(held.classes[label] for label in labels) or "-"


def planned(attack: str) -> tuple[str, ...]:
    """Return the variants of an attack that are trained: all of BadNets, plain and model outsourcing of the others."""
    return VARIANTS if attack == "badnets" else ("plain", "mo")


FUZZY_COLUMNS = ("image", "full trigger", "80 % kept", "50 % kept", "20 % kept")


def fuzzy_examples(arena: Arena, attack: str, image: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Return pictures for FUZZY_COLUMNS, each (C, H, W): the image (1, C, H, W) and the same with ever less trigger."""
    recipe = arena.recipe(attack, "plain", seed)
    trigger = make_trigger(recipe.trigger, tuple(image.shape[1:]), seed, **recipe.trigger_settings)
    masks = [fuzzy_masks(trigger.support, 1 - kept, 1, generator(seed, "example")) for kept in (0.8, 0.5, 0.2)]
    return [image[0], trigger.apply(image)[0], *[trigger.apply(image, mask)[0] for mask in masks]]


SIDE = Arena(
    "digits",
    train_size=1430,
    held_size=350,
    poison_count=70,
    training=TrainingConfig(epochs=14, batch_size=32, learning_rate=0.1, crop_padding=1),
    model_settings={"width": 12},
    triggers={"badnets": {"size": 5}},
)
"""The small arena of scanned digits, 16 x 16, where a victim takes seconds, so that there can be many of each kind."""

WARP_STRENGTH = 8.0
"""WaNet's strength here. The usual 0.5 moves pixels of a 32 x 32 image by a quarter of a pixel, too little for these
networks: on seed 0 of the signs, strengths 2, 4 and 7 gave the plain attack 11, 61 and 87 % success."""

TRIGGERS = {
    "digits": {**SIDE.triggers, "wanet": {"strength": WARP_STRENGTH}},
    "signs": {"wanet": {"strength": WARP_STRENGTH}},
    "cifar10": {"wanet": {"strength": WARP_STRENGTH}},
}
"""Settings of the triggers in each data set, where they differ from `make_trigger`'s defaults."""


def train_victims(recipes: Iterable[VictimRecipe], store: ModelStore, device: str = "cpu") -> list[Victim]:
    """Return the victims of `recipes`, in order, each from the store or trained now."""
    return [train_victim(recipe, store, device) for recipe in recipes]


class Utility(NamedTuple):
    """What a victim is worth to its user and to the attacker.

    accuracy: on clean images; success: share of triggered images of other classes predicted as the target; success_all:
    the same over all images, as the official demo counts; cover: accuracy under a fuzzy trigger.
    """

    accuracy: Proportion
    success: Proportion
    success_all: Proportion
    cover: Proportion

    def percent(self) -> list[float]:
        """Return the four shares in percent, in the order of UTILITY."""
        return [100 * share.rate for share in self]


UTILITY = ("clean accuracy", "attack success", "attack success, all images", "cover accuracy")


def utility(victim: Victim, held: ImageSet, deleted_share: float, seed: int) -> Utility:
    """Return clean accuracy, attack success and cover accuracy of a victim on held-out images."""
    triggered = logits(victim.model, victim.trigger.apply(held.images))
    target = victim.plan.target
    fuzzy = generator(seed, "held-out fuzzy triggers")
    return Utility(
        clean_accuracy(logits(victim.model, held.images), held.labels),
        attack_success_rate(triggered, held.labels, target),
        attack_success_rate(triggered, held.labels, target, exclude_target=False),
        cover_accuracy(victim.model, held.images, held.labels, victim.trigger, deleted_share, fuzzy),
    )


def others(held: ImageSet, target: int, count: int, start: int = 0) -> ImageSet:
    """Return `count` held-out images of other classes than `target`, from the `start`-th of them on."""
    indices = (held.labels != target).nonzero().squeeze(1)[start : start + count]
    if len(indices) < count:
        raise CompanionError(
            f"{count} images outside class {target} were asked for from number {start} on, and the {held.split} split "
            f"of {held.name} has {int((held.labels != target).sum())} of them; take fewer or a larger split."
        )
    return held.subset(indices)


def exclusivity_of(victim: Victim, held: ImageSet, count: int, config: ExclusivityConfig) -> torch.Tensor:
    """Return the exclusivity (count,) in percent of a victim's trigger over held-out images of other classes."""
    target = victim.plan.target
    return exclusivity(victim.model, others(held, target, count).images, victim.trigger, target, config).values


def curve_of(
    victim: Victim, held: ImageSet, count: int, shares: Sequence[float], repeats: int, seed: int
) -> tuple[torch.Tensor, int]:
    """Return how often the trigger still fires when only a share of it is kept: (successes (S,), trials)."""
    chosen = others(held, victim.plan.target, count)
    stream = generator(seed, "fuzzy curve")
    return fuzzy_curve(
        victim.model, chosen.images, chosen.labels, victim.trigger, victim.plan.target, shares, repeats, stream
    )


def area_under(shares: Sequence[float], successes: torch.Tensor, trials: int) -> float:
    """Return the mean attack success in percent over the share kept, from 0 to 1 (area under the fuzzy curve)."""
    return float(100 * torch.trapezoid(successes.double() / trials, torch.tensor(shares, dtype=torch.float64)))


@dataclass(frozen=True)
class Inspection:
    """What Neural Cleanse says of one model.

    target: the attack's; index: the anomaly index of the smallest mask; flagged: the labels it accuses; target_index:
    the signed index of the attack's target (above 0: its mask is smaller than the median); target_norm, median: mask
    norms in pixels.
    """

    target: int
    index: float
    flagged: tuple[int, ...]
    target_index: float
    target_norm: float
    median: float

    @property
    def alarm(self) -> bool:
        """Whether the model counts as backdoored: some class has a small mask and an index above 2."""
        return bool(self.flagged)

    @property
    def accuses_target(self) -> bool:
        """Whether the attack's target is among the accused labels."""
        return self.target in self.flagged


def inspect(victim: Victim, held: ImageSet, config: neural_cleanse.Config, seed: int, size: int = 200) -> Inspection:
    """Run Neural Cleanse on a model with the first `size` held-out images, as a defender who knows no trigger would."""
    classes = range(len(held.classes))
    stream = generator(seed, "neural cleanse")
    found = neural_cleanse.reverse_triggers(victim.model, held.images[:size], classes, config, stream)
    anomaly = neural_cleanse.anomaly_index(found.norms, found.reached)
    target = victim.plan.target
    norm = float(found.norms[target])
    sign = 1.0 if norm < anomaly.median else -1.0
    index = sign * float(anomaly.indices[target])
    return Inspection(target, anomaly.index, anomaly.flagged, index, norm, anomaly.median)


def strip_of(
    victim: Victim, held: ImageSet, count: int, config: strip.Config, seed: int
) -> tuple[strip.StripReport, torch.Tensor, torch.Tensor]:
    """Return STRIP's report on a victim, and the entropies of `count` clean and of triggered inputs behind it.

    Four disjoint groups of `count` held-out images are drawn: one fits the threshold, one measures false rejection, one
    gives the overlays, and one, of classes other than the target, carries the trigger.
    """
    shuffled = held.subset(torch.randperm(len(held), generator=generator(seed, "strip split")))
    fit, check, overlays = (shuffled.images[k * count : (k + 1) * count] for k in range(3))
    rest = shuffled.subset(torch.arange(3 * count, len(held)))
    triggered = victim.trigger.apply(others(rest, victim.plan.target, count).images)
    stream = generator(seed, "strip")
    fitted, clean, trojan = (
        strip.entropies(victim.model, images, overlays, stream, config) for images in (fit, check, triggered)
    )
    return strip.evaluate(fitted, clean, trojan, config.false_rejection, config.rule), clean, trojan


def fine_tune(victim: Victim, clean: ImageSet, config: TrainingConfig, seed: int) -> Victim:
    """Return a copy of a victim after further training on a few clean images, the plainest hardening there is."""
    model = deepcopy(victim.model)
    train(model, clean.images, clean.labels, config, generator(seed, "fine-tuning"))
    return replace(victim, model=model)


KNOBS = {"cover_rate": (0.25, 0.5, 0.75), "mask_rate": (0.1, 0.2, 0.4), "lambda": (0.01, 0.1, 1.0)}
"""What the ablations turn, with the chapter's default in the middle. The cover rate is the share of cover images among
all that are touched, of which there stay as many."""

SUMMARY = ("accuracy", "asr", "cover_accuracy", "exclusivity")


def ablations(arena: Arena, seeds: Sequence[int]) -> list[tuple[str, float, list[VictimRecipe]]]:
    """Return (knob, value, recipes) for every value of KNOBS: BadNets under BELT with one knob turned, one a seed."""
    found = []
    for knob, values in KNOBS.items():
        for value in values:
            changes = _turned(arena, knob, value)
            found.append((knob, value, [arena.recipe("badnets", "mo", seed, **changes) for seed in seeds]))
    return found


def level(knob: str, value: float) -> str:
    """Return "low", "default" or "high" for a value of KNOBS, for metric ids."""
    return ("low", "default", "high")[KNOBS[knob].index(value)]


def _turned(arena: Arena, knob: str, value: float) -> dict[str, object]:
    if knob == "mask_rate":
        return {"deleted_share": value}
    if knob == "lambda":
        return {"centre_weight": value}
    touched = 2 * arena.poison_count
    return {"cover_count": round(touched * value), "poison_count": touched - round(touched * value)}


def summary(
    victims: Sequence[Victim], held: ImageSet, deleted_share: float, count: int, config: ExclusivityConfig, seed: int
) -> tuple[float, ...]:
    """Return the means over victims of SUMMARY, in percent; cover accuracy at `deleted_share` for all of them."""
    rows = []
    for victim in victims:
        found = utility(victim, held, deleted_share, seed)
        exclusive = float(exclusivity_of(victim, held, count, config).mean())
        rows.append([100 * found.accuracy.rate, 100 * found.success.rate, 100 * found.cover.rate, exclusive])
    return tuple(torch.tensor(rows).mean(0).tolist())
