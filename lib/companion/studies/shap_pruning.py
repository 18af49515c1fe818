"""The experiments of the chapter on ShapPruning (Guan et al., CVPR 2022): victims, defenders, and what is measured.

A *defender* has a few images, from the world or drawn out of the network, reverses a trigger for every class, suspects
the class with the smallest mask, values the neurons, and prunes. Nothing of the attack reaches the defender; where an
experiment tells the target class, to look at one step apart from the others, it says so. The true trigger is used to
measure only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from companion.attacks.trojan import TrojanConfig, train_trojan
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.defenses import inversion, neural_cleanse, pruning, shapley
from companion.errors import CompanionError
from companion.metrics import attack_success_rate, clean_accuracy
from companion.models.prunable import Chain, chain_of
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies import belt
from companion.training import TrainingConfig, logits, train
from companion.victims import Victim, train_victim

ATTACKS = ("badnets", "blended", "wanet", "trojan")
WORKS = 0.9  # attack success from which a victim counts as backdoored

RANKINGS = {
    "shapley": "Shapley value",
    "alone": "leave one out",
    "difference": "activation difference",
    "silent_last": "fine-pruning, last block",
    "silent_all": "fine-pruning, all blocks",
    "chance": "random order",
}
"""The orders of pruning that are compared, with the names that tables and figures print."""


def trojan_config(side: int, training: TrainingConfig) -> TrojanConfig:
    """Return the Trojan attack for images of `side` pixels: BadNets' square, and a short retraining at a lower rate."""
    patch = (2, 2, 6) if side >= 32 else (1, 1, 5)
    short = replace(training, epochs=max(2, training.epochs // 6), learning_rate=training.learning_rate / 4)
    return TrojanConfig(patch=patch, training=short)


def train_all(arena: belt.Arena, seed: int, store: ModelStore, device: str = "cpu") -> dict[str, Victim]:
    """Return the clean network and a victim of each of ATTACKS; all but the Trojan one are BELT's plain recipes."""
    recipes = {name: arena.recipe(name, "plain", seed) for name in ("clean", *ATTACKS[:-1])}
    victims = {name: train_victim(recipe, store, device) for name, recipe in recipes.items()}
    config = trojan_config(catalogue.load(arena.data, "test", **arena.options, size=1).shape[1], arena.training)
    trojan = train_trojan(recipes["clean"], arena.target, arena.poison_count, config, store, device)
    return victims | {"trojan": trojan}


@dataclass(frozen=True)
class Health:
    """Clean accuracy and true-trigger success (images of the target class left out) of a network."""

    accuracy: Proportion
    success: Proportion


def health(model: torch.nn.Module, victim: Victim, held: ImageSet) -> Health:
    """Measure a network, the victim's own or a repaired one, with the victim's true trigger on held-out images."""
    triggered = logits(model, victim.trigger.apply(held.images))
    clean = clean_accuracy(logits(model, held.images), held.labels)
    return Health(clean, attack_success_rate(triggered, held.labels, victim.plan.target))


def backdoored(found: Mapping[str, Health]) -> list[str]:
    """Return the attacks that reached WORKS; the others give no verdict on a defence."""
    return [name for name in ATTACKS if name in found and found[name].success.rate >= WORKS]


def draw_images(victim: Victim, like: ImageSet, per_class: int, config: inversion.Config, seed: int) -> ImageSet:
    """Return images drawn out of a network, `per_class` of every class, for a defender who has no data.

    like: an image set whose shape and classes they take; none of its images is used.
    """
    labels = torch.arange(len(like.classes)).repeat_interleave(per_class)
    images = inversion.invert(victim.model, like.shape, labels, config, generator(seed, "inversion"))
    return ImageSet(images, labels, like.classes, like.name, "inverted")


@dataclass(frozen=True, eq=False)
class Suspicion:
    """What trigger reversal gives a defender.

    few: the defender's images; found: the reversed triggers of all classes; anomaly: of their norms; suspect: the class
    with the smallest mask.
    """

    few: ImageSet
    found: neural_cleanse.Reversed
    anomaly: neural_cleanse.Anomaly
    suspect: int

    def stamp(self, images: torch.Tensor, label: int) -> torch.Tensor:
        """Return images (N, C, H, W) with the reversed trigger of class `label`."""
        mask, pattern = self.found.masks[label], self.found.patterns[label]
        return (1 - mask) * images + mask * pattern

    def triggered(self, label: int) -> torch.Tensor:
        """Return the defender's images of other classes with the reversed trigger of class `label`."""
        return self.stamp(self.few.images[self.few.labels != label], label)


def suspect(victim: Victim, few: ImageSet, config: neural_cleanse.Config, seed: int) -> Suspicion:
    """Reverse a trigger for each class from the defender's images, all of them in every step."""
    classes = range(len(few.classes))
    config = replace(config, batch=min(config.batch, len(few)))
    found = neural_cleanse.reverse_triggers(victim.model, few.images, classes, config, generator(seed, "reversal"))
    anomaly = neural_cleanse.anomaly_index(found.norms, found.reached)
    return Suspicion(few, found, anomaly, int(found.norms.argmin()))


def reversed_success(victim: Victim, suspicion: Suspicion, label: int, held: ImageSet) -> Proportion:
    """Return how well the reversed trigger of `label` works on held-out images that the defender never had."""
    return attack_success_rate(logits(victim.model, suspicion.stamp(held.images, label)), held.labels, label)


@dataclass(frozen=True, eq=False)
class Repair:
    """A pruned network, how it was found and what that cost.

    label: the class that was cleaned; estimate: of the Shapley values; stop: where pruning stopped; health: of the
    pruned network; evaluations, seconds: of the valuation (coalitions, wall clock).
    """

    label: int
    estimate: shapley.Estimate
    stop: pruning.Pruned
    health: Health
    evaluations: int
    seconds: float


def outcomes(repairs: Mapping[str, Repair], before: Mapping[str, Health], neurons: int) -> dict[str, dict[str, float]]:
    """Return, in percent and by attack, what repairs came to.

    asr, accuracy: of the pruned networks; loss: of clean accuracy, in points; share: of the neurons that are off.
    """
    accuracy = {name: 100 * found.health.accuracy.rate for name, found in repairs.items()}
    return {
        "asr": {name: 100 * found.health.success.rate for name, found in repairs.items()},
        "accuracy": accuracy,
        "loss": {name: 100 * before[name].accuracy.rate - accuracy[name] for name in repairs},
        "share": {name: 100 * found.stop.count / neurons for name, found in repairs.items()},
    }


def game_of(chain: Chain, suspicion: Suspicion, label: int) -> shapley.BackdoorGame:
    """Return the game whose value is how well the reversed trigger of `label` works on the defender's images."""
    return shapley.BackdoorGame(chain, suspicion.triggered(label), label)


def repair(
    victim: Victim,
    suspicion: Suspicion,
    label: int,
    held: ImageSet,
    sampling: shapley.Sampling,
    stopping: pruning.Stopping,
    seed: int,
) -> Repair:
    """Value the neurons for the reversed trigger of `label`, prune by value, and measure the network that is left."""
    chain, few = chain_of(victim.model), suspicion.few
    game = game_of(chain, suspicion, label)
    begin = perf_counter()
    estimate = shapley.estimate(game, game.players, sampling, generator(seed, "walks"))
    seconds = perf_counter() - begin
    order, shown = estimate.ranking(), suspicion.triggered(label)
    stop = pruning.prune(chain, order, few.images, few.labels, shown, label, stopping)
    after = health(pruning.switched_off(victim.model, stop.neurons), victim, held)
    return Repair(label, estimate, stop, after, game.evaluations, seconds)


def orders(victim: Victim, suspicion: Suspicion, label: int, by_value: torch.Tensor, seed: int) -> dict[str, object]:
    """Return an order of all neurons for each of RANKINGS; `by_value` is the Shapley ranking (n,)."""
    chain, few = chain_of(victim.model), suspicion.few
    others = few.images[few.labels != label]
    game = game_of(chain, suspicion, label)
    return {
        "shapley": by_value,
        "alone": pruning.by_leaving_one_out(game, game.players),
        "difference": pruning.by_activation_difference(chain, others, suspicion.triggered(label)),
        "silent_last": pruning.by_silence(chain, few.images),
        "silent_all": pruning.by_silence(chain, few.images, last_only=False),
        "chance": torch.randperm(chain.neurons, generator=generator(seed, "random order")),
    }


@dataclass(frozen=True, eq=False)
class Curve:
    """A pruning curve: `correct` and `hits` (counts,) int64 images answered right and triggered images called target.

    images, trials: out of how many.
    """

    correct: torch.Tensor
    images: int
    hits: torch.Tensor
    trials: int

    @property
    def accuracy(self) -> torch.Tensor:
        """Clean accuracy in percent, (counts,) float64."""
        return 100 * self.correct.double() / self.images

    @property
    def success(self) -> torch.Tensor:
        """True-trigger success in percent, (counts,) float64."""
        return 100 * self.hits.double() / self.trials


def curve(victim: Victim, order: torch.Tensor, held: ImageSet, counts: Sequence[int]) -> Curve:
    """Return clean accuracy and true-trigger success after pruning each number of neurons of `order`."""
    chain, target = chain_of(victim.model), victim.plan.target
    right = pruning.predictions_along(chain, held.images, order, counts) == held.labels
    triggered = victim.trigger.apply(held.images[held.labels != target])
    hits = pruning.predictions_along(chain, triggered, order, counts) == target
    return Curve(right.sum(1), len(held), hits.sum(1), len(triggered))


def counts_to(most: int, neurons: int) -> list[int]:
    """Return the numbers of pruned neurons of a curve: all up to 10, then ever wider steps up to `most`."""
    wide = [*range(11), 12, 14, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512]
    return [count for count in wide if count <= min(most, neurons)]


def first_below(shares: torch.Tensor, counts: Sequence[int], level: float) -> int | None:
    """Return the smallest count from which on the success (counts,) in percent is at most `level`; None if never."""
    low = (shares <= level).nonzero().squeeze(1)
    return counts[int(low[0])] if len(low) else None


def damage(curves: Iterable[Curve], counts: Sequence[int], most: int) -> tuple[float, float]:
    """Return (success, accuracy) in percent, mean over curves and over 1 to `most` pruned neurons."""
    chosen = [index for index, count in enumerate(counts) if 1 <= count <= most]
    kept = list(curves)
    success = torch.stack([one.success[chosen].mean() for one in kept]).mean()
    accuracy = torch.stack([one.accuracy[chosen].mean() for one in kept]).mean()
    return float(success), float(accuracy)


def fine_tune(model: torch.nn.Module, few: ImageSet, config: TrainingConfig, seed: int) -> torch.nn.Module:
    """Return a copy of a network, pruned or not, after training on the defender's images alone."""
    copy = pruning.switched_off(model, torch.empty(0, dtype=torch.int64))
    batch = max(2, min(config.batch_size, len(few)))
    train(copy, few.images, few.labels, replace(config, batch_size=batch), generator(seed, "fine-tuning"))
    return copy


def tuning_config(base: TrainingConfig, images: int, steps: int) -> TrainingConfig:
    """Return the settings of fine-tuning on `images` images: about `steps` steps, at least 10 epochs, half the rate."""
    batch = max(2, min(base.batch_size, images))
    epochs = max(10, round(steps * batch / images))
    return replace(base, epochs=epochs, batch_size=batch, learning_rate=base.learning_rate / 2, schedule="cosine")


def fine_prune(victim: Victim, few: ImageSet, patience: float) -> torch.nn.Module:
    """Return a copy without the quietest neurons of the last block, as many as the few images seem to allow.

    Pruning goes on while the accuracy on the defender's images falls by no more than `patience`.
    """
    chain = chain_of(victim.model)
    order = pruning.by_silence(chain, few.images)
    counts = list(range(chain.sizes[-1]))
    right = (pruning.predictions_along(chain, few.images, order, counts) == few.labels).double().mean(1)
    broken = (right < right[0] - patience - 1e-9).nonzero().squeeze(1)
    count = counts[-1] if not len(broken) else int(broken[0]) - 1
    return pruning.switched_off(victim.model, order[:count])


def tuned(
    victim: Victim, few: ImageSet, config: TrainingConfig, patience: float | None, held: ImageSet, seed: int
) -> Health:
    """Measure a victim after fine-tuning, with fine-pruning before it unless `patience` is None; see `fine_prune`."""
    start = victim.model if patience is None else fine_prune(victim, few, patience)
    return health(fine_tune(start, few, config, seed), victim, held)


def spearman(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return Spearman's rank correlation of two lists of values (n,), ties by position."""
    ranks = [values.argsort(stable=True).argsort().double() for values in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def shared_top(first: torch.Tensor, second: torch.Tensor, top: int) -> float:
    """Return the share of the `top` highest values (n,) that two lists have in common."""
    tops = [set(values.argsort(descending=True, stable=True)[:top].tolist()) for values in (first, second)]
    return len(tops[0] & tops[1]) / top


@dataclass(frozen=True)
class Errors:
    """How far estimates are from exact values: mean over repeats of the largest error, and of the evaluations."""

    error: float
    evaluations: float


def oracle_errors(
    game: shapley.Value, count: int, sampling: shapley.Sampling, repeats: int, seed: int
) -> tuple[torch.Tensor, Errors]:
    """Return the exact Shapley values (count,) of a small game, and the errors of estimates of it."""
    table = shapley.tabulated(game, count)
    exact = shapley.exact_shapley(table, count)
    found = [shapley.estimate(table, count, sampling, generator(seed, "oracle", repeat)) for repeat in range(repeats)]
    errors = torch.stack([(one.values - exact).abs().max() for one in found])
    evaluations = sum(one.evaluations for one in found) / repeats
    return exact, Errors(float(errors.mean()), evaluations)


def mean_over(values: Mapping[str, float], names: Sequence[str]) -> float:
    """Return the mean of `values` over the attacks in `names`.

    Raises CompanionError when there is none: without a working backdoor there is nothing to repair.
    """
    if not names:
        raise CompanionError(
            f"no victim reached {100 * WORKS:.0f} % attack success, so there is no backdoor and no verdict. Train "
            "longer, poison more images, or make the trigger larger."
        )
    return sum(float(values[name]) for name in names) / len(names)
