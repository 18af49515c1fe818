"""The experiments of the chapter on countermeasures (Qiu et al., IEEE TIFS 2024): four detectors against many victims.

Every function takes fleets of trained networks and returns plain numbers. Only victims whose attack success reaches
VERIFIED count: below it there is no backdoor worth the name, and so no verdict on a detector. Which failure factor is
held against which detector is our own pairing; the abstracts do not state it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from companion.attacks.triggers import make_trigger
from companion.data.imageset import ImageSet
from companion.defenses import abs as stimulation
from companion.defenses import mntd, scan
from companion.defenses.neural_cleanse import QUICK, Anomaly, Config, anomaly_index, reverse_triggers
from companion.errors import CompanionError
from companion.fleet import Fleet, FleetTraining, JointClassifier
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.training import features
from companion.victim_fleets import FleetRecipe, VictimFleet, assess, poisoned, task, train_victims

VERIFIED = 0.9
"""Attack success that a victim must reach."""

FACTORS = {
    "F1 binary classification": "Neural Cleanse, SCAn",
    "F2 poison rate": "ABS, SCAn",
    "F3 model complexity": "ABS, MNTD",
    "F4 single-model justification": "Neural Cleanse, MNTD",
    "F5 hyper-parameter sensitivity": "Neural Cleanse, ABS, MNTD",
}
"""The five failure factors of the journal version, and the detectors each is held against here: our inference."""

NEVER = 10**9
"""A patience that stops no search early, so that all classes of a fleet stay in one batch."""


@dataclass(frozen=True)
class Arena:
    """A data set and how fleets are trained on it.

    data: a manifest's name; per_class: training images of each class; share: (start, stop), the images of each class
    that the defender of MNTD has for shadows, disjoint from the former; training, shadow_training: of victims and of
    shadows; deep_training: of the deeper architectures; target_training: of the networks that MNTD is tested on;
    width: of the first convolution; side: of the corner patch; rate: of poisoned images; seed: of a run.
    """

    data: str
    per_class: int
    share: tuple[int, int]
    training: FleetTraining
    shadow_training: FleetTraining
    deep_training: FleetTraining
    target_training: FleetTraining
    width: int = 8
    side: int = 4
    rate: float = 0.05
    seed: int = 0

    def labels(self, count: int) -> tuple[int, ...]:
        """Return `count` of the ten labels, drawn by the seed; all ten in order."""
        if not 2 <= count <= 10:
            raise CompanionError(f"a task of {count} classes was asked for; expected 2 to 10.")
        return tuple(sorted(torch.randperm(10, generator=generator(self.seed, "labels", count))[:count].tolist()))

    def victims(self, kind: str, count: int, classes: int = 10, architecture: str = "conv2", **changes) -> FleetRecipe:
        """Return the recipe of `count` victims (or clean networks), with fields of `FleetRecipe` to change.

        A task with fewer classes has fewer images, and is trained for more epochs, so that it takes as many steps.
        """
        training = self.training if architecture == "conv2" else self.deep_training
        return FleetRecipe(
            data=self.data,
            labels=self.labels(classes),
            per_class=(0, self.per_class),
            kind=kind,
            count=count,
            architecture=architecture,
            training=replace(training, epochs=round(training.epochs * 10 / classes)),
            **{"side": self.side, "rate": self.rate, "seed": self.seed, "settings": {"width": self.width}} | changes,
        )

    def targets(self, kind: str, count: int, architecture: str = "conv2") -> FleetRecipe:
        """Return the recipe of `count` networks that MNTD is tested on: "clean", "patch" or "blend".

        Clean and Trojaned ones take the same number of steps.
        """
        seed = int(torch.randint(2**31, (), generator=generator(self.seed, "targets")))
        recipe = self.victims(kind, count, architecture=architecture, seed=seed, enlarged=kind == "clean")
        return replace(recipe, training=self.target_training)

    def shadows(self, kind: str, count: int, part: str) -> FleetRecipe:
        """Return the recipe of `count` of the defender's shadows, "jumbo" or "clean" ones; part: names a draw."""
        seed = int(torch.randint(2**31, (), generator=generator(self.seed, "shadows", part)))
        recipe = self.victims(kind, count, seed=seed, enlarged=kind == "clean")
        return replace(recipe, per_class=self.share, training=self.shadow_training)

    def held(self, classes: int = 10) -> ImageSet:
        """Return the test images of a task."""
        return task(self.data, "test", self.labels(classes))


def trained(recipe: FleetRecipe, store: ModelStore, held: ImageSet, device: str = "cpu") -> "Checked":
    """Return a fleet with clean accuracy and attack success of each network."""
    victims = train_victims(recipe, store, device)
    return Checked(victims, *assess(victims, held))


@dataclass(frozen=True, eq=False)
class Checked:
    """A fleet, and clean accuracy and attack success (M,) of its networks."""

    victims: VictimFleet
    accuracy: torch.Tensor
    success: torch.Tensor

    @property
    def clean(self) -> bool:
        """Whether the networks are clean ones."""
        return self.victims.recipe.kind == "clean"

    @property
    def counted(self) -> list[int]:
        """Numbers of the networks that count: all clean ones, and the victims with a verified backdoor."""
        return [m for m in range(len(self.victims)) if self.clean or self.success[m] >= VERIFIED]


def first(checked: Checked, count: int) -> Checked:
    """Return the first `count` networks that count, as a fleet of their own without training sets."""
    numbers = checked.counted[:count]
    victims = checked.victims
    part = replace(
        victims,
        fleet=victims.fleet.part(numbers),
        triggers=tuple(victims.triggers[m] for m in numbers),
        targets=tuple(victims.targets[m] for m in numbers),
    )
    return Checked(part, checked.accuracy[numbers], checked.success[numbers])


# Neural Cleanse


@dataclass(frozen=True, eq=False)
class Cleansed:
    """What Neural Cleanse says of a fleet: norms (M, K) in pixels, and the anomaly and the target of each network."""

    norms: torch.Tensor
    anomalies: tuple[Anomaly, ...]
    targets: tuple[int, ...]
    counted: tuple[int, ...]

    @property
    def indices(self) -> torch.Tensor:
        """The anomaly index of the smallest mask of every network that counts."""
        return torch.tensor([self.anomalies[m].index for m in self.counted])

    @property
    def alarms(self) -> list[bool]:
        """Whether any label is accused, for every network that counts."""
        return [bool(self.anomalies[m].flagged) for m in self.counted]

    @property
    def accused(self) -> list[bool]:
        """Whether the attack's own target is accused, for every network that counts."""
        return [self.targets[m] in self.anomalies[m].flagged for m in self.counted]


def cleanse(checked: Checked, images: torch.Tensor, config: Config, seed: int, together: int = 8) -> Cleansed:
    """Run Neural Cleanse on every network of a fleet, `together` of them as one joint classifier.

    images: (N, C, H, W) clean ones that all networks share. The searches never stop early, so that all labels of all
    networks stay in one batch.
    """
    fleet, classes = checked.victims.fleet, len(checked.victims.recipe.labels)
    norms, reached = [torch.zeros(0, classes)], [torch.zeros(0, classes, dtype=torch.bool)]
    for start in range(0, len(fleet), together):
        part = fleet.part(slice(start, start + together))
        stream = generator(seed, "neural cleanse", start)
        found = reverse_triggers(
            JointClassifier(part), images, range(len(part) * classes), replace(config, stop_patience=NEVER), stream
        )
        norms.append(found.norms.view(-1, classes))
        reached.append(found.reached.view(-1, classes))
    norms, reached = torch.cat(norms), torch.cat(reached)
    anomalies = tuple(anomaly_index(row, met) for row, met in zip(norms, reached, strict=True))
    return Cleansed(norms, anomalies, checked.victims.targets, tuple(checked.counted))


def gaussian_alarms(classes: int, draws: int, seed: int) -> float:
    """Return how often the smallest of `classes` normal norms (mean 100, deviation 15) has an index above 2."""
    norms = 100 + 15 * torch.randn(draws, classes, generator=generator(seed, "gaussian", classes), dtype=torch.float64)
    median = norms.quantile(0.5, dim=1)
    mad = 1.4826 * (norms - median.unsqueeze(1)).abs().quantile(0.5, dim=1)
    return float(((median - norms.amin(1)) / mad > 2).double().mean())


def settings_grid(steps: int, thresholds: Sequence[float], costs: Sequence[float], more: Sequence[int]) -> list[Config]:
    """Return Neural Cleanse's settings of E3: thresholds x costs at `steps`, other steps, and the other start."""
    base = replace(QUICK, steps=steps)
    grid = [replace(base, threshold=t, initial_cost=c) for t in thresholds for c in costs]
    return [*grid, *[replace(base, steps=n) for n in more], replace(base, start=1.0)]


def describe(config: Config) -> str:
    """Return a row's name for one setting."""
    start = "random" if config.start is None else "even"
    return f"{100 * config.threshold:g} %, cost {config.initial_cost:g}, {config.steps} steps, {start} start"


# ABS


@dataclass(frozen=True, eq=False)
class Stimulated:
    """What ABS says of the networks of a fleet that count: REASR (m, sizes), and whether the label is the target."""

    reasr: torch.Tensor
    right: torch.Tensor
    seconds: float = 0.0


def stimulate(checked: Checked, held: ImageSet, config: stimulation.Config, sizes: Sequence[int], each: int = 2,
              most: int | None = None) -> Stimulated:  # fmt: skip
    """Run ABS with each of several sizes of the mask on (the first `most` of) the networks that count.

    The seed images are `each` held-out images of every class, in turn.
    """
    images, labels = seed_images(held, each)
    rows, right = [], []
    for m in checked.counted[:most]:
        found = stimulation.sweep(checked.victims.fleet.member(m), images, labels, config, sizes)
        rows.append([report.best for report in found])
        right.append([report.label == checked.victims.targets[m] for report in found])
    shape = (len(rows), len(sizes))
    return Stimulated(torch.tensor(rows).view(shape), torch.tensor(right, dtype=torch.bool).view(shape))


def seed_images(held: ImageSet, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `each` images of every class and their labels: one of each class, then the next of each."""
    columns = [(held.labels == label).nonzero().flatten()[:each] for label in range(len(held.classes))]
    if min(len(column) for column in columns) < each:
        raise CompanionError(
            f"{each} seed images of every class were asked for, but {held.name} has fewer of some class in its "
            f"{held.split} split; ask for fewer."
        )
    chosen = torch.stack(columns, 1).flatten()
    return held.images[chosen], held.labels[chosen]


def abs_summary(
    by_side: dict[int, torch.Tensor], quiet: torch.Tensor, sizes: Sequence[int], size: int, side: int, bound: float
) -> dict[str, float]:
    """Return shares of networks flagged, in percent: of the usual and the largest trigger at the default size, and of
    clean networks at the default and at the largest size. by_side, quiet: REASR (m, sizes). What has no network is
    left out."""
    column = list(sizes).index(size)
    tables = {
        "detected.usual": by_side[side][:, column],
        "detected.large": by_side[max(by_side)][:, column],
        "alarm.default": quiet[:, column],
        "alarm.generous": quiet[:, len(sizes) - 1],
    }
    return {name: 100 * float((values > bound).double().mean()) for name, values in tables.items() if len(values)}


def reasr_summary(reasr: dict[tuple[str, float], torch.Tensor]) -> dict[str, float]:
    """Return mean REASR in percent: of conv2 at the lowest and the highest rate with victims, of all at the highest."""
    named = {key: 100 * float(values.mean()) for key, values in reasr.items() if len(values)}
    highest = max(rate for _, rate in reasr)
    found = {f"{name}.high_rate": value for (name, rate), value in named.items() if rate == highest}
    lower = [value for (name, rate), value in sorted(named.items()) if name == "conv2" and rate < highest]
    return found | ({"conv2.low_rate": lower[0]} if lower else {})


def changed(reasr: torch.Tensor, bounds: Sequence[float]) -> float:
    """Return the share of networks, REASR (m, sizes), whose verdict is not the same for all sizes and bounds."""
    flags = torch.stack([reasr > bound for bound in bounds], 2).flatten(1)  # (m, sizes x bounds)
    return float((flags.any(1) & ~flags.all(1)).double().mean()) if len(flags) else 0.0


# MNTD


@dataclass(frozen=True, eq=False)
class Tested:
    """MNTD's scores of a set of networks, and which are backdoored: (M,) each."""

    scores: torch.Tensor
    trojaned: torch.Tensor

    @property
    def auc(self) -> float:
        """Area under the ROC curve."""
        return mntd.auc(self.scores, self.trojaned)


def meta_classifier(
    good: Checked, bad: Checked, good_more: Checked, bad_more: Checked, per_side: int, held: ImageSet,
    config: mntd.Config, seed: int,
) -> mntd.Trained:  # fmt: skip
    """Train MNTD's meta-classifier on the first `per_side` clean and Trojaned shadows; `*_more` are for validation."""
    shadows = _joined(good.victims, bad.victims, per_side)
    validation = _joined(good_more.victims, bad_more.victims, len(good_more.victims))
    pixels = good.victims.data.images
    mean, deviation = pixels.mean(0), pixels.std(0)
    stream = generator(seed, "meta-classifier", per_side)
    return mntd.train_meta(*shadows, *validation, mean, deviation, config, stream)


def tested(trained: mntd.Trained, good: Checked, bad: Checked) -> Tested:
    """Return the scores of all clean and all verified backdoored networks."""
    scores = [mntd.score(trained.meta, one.victims.fleet)[one.counted] for one in (good, bad)]
    labels = [torch.full((len(part),), flag) for part, flag in zip(scores, (False, True), strict=True)]
    return Tested(torch.cat(scores), torch.cat(labels))


def balanced_accuracy(flagged: torch.Tensor, trojaned: torch.Tensor) -> float:
    """Return the mean of the share of backdoored networks flagged and of clean ones passed, in percent."""
    return 50 * float(flagged[trojaned].double().mean() + (~flagged[~trojaned]).double().mean())


def evened(found: Tested, count: int) -> Tested:
    """Return the first `count` clean and the first `count` backdoored networks of a tested set."""
    chosen = torch.cat([(found.trojaned == flag).nonzero().flatten()[:count] for flag in (False, True)])
    return Tested(found.scores[chosen], found.trojaned[chosen])


def rare(
    found: Tested, rule: str, trained: mntd.Trained, clean: int, draws: int, seed: int
) -> tuple[Proportion, Proportion]:
    """Return (false alarms among clean networks, Trojans found) over sets of one Trojan among `clean` clean networks.

    Each of `draws` sets is drawn from the tested networks without replacement, and judged as a set.
    """
    stream = generator(seed, "rare", rule)
    good, bad = (~found.trojaned).nonzero().flatten(), found.trojaned.nonzero().flatten()
    if len(good) < clean:
        raise CompanionError(
            f"sets of {clean} clean networks were asked for, and {len(good)} were tested; ask for fewer."
        )
    alarms = hits = 0
    for _ in range(draws):
        chosen = good[torch.randperm(len(good), generator=stream)[:clean]]
        one = bad[torch.randint(len(bad), (1,), generator=stream)]
        flagged = mntd.verdicts(found.scores[torch.cat([chosen, one])], rule, trained)
        alarms += int(flagged[:-1].sum())
        hits += int(flagged[-1])
    return Proportion(alarms, draws * clean), Proportion(hits, draws)


def _joined(good: VictimFleet, bad: VictimFleet, count: int):
    """Return one fleet of `count` networks of each, in turn, and which of them are backdoored."""
    if count > min(len(good), len(bad)):
        raise CompanionError(f"{count} shadows of each side were asked for; there are {len(good)} and {len(bad)}.")
    state = {
        name: torch.cat([value[:count], bad.fleet.state()[name][:count]]) for name, value in good.fleet.state().items()
    }
    return Fleet(good.fleet.architecture, state), torch.arange(2 * count) >= count


# SCAn


@dataclass(frozen=True, eq=False)
class Scanned:
    """What SCAn says of the training sets behind the victims that count: scores (m, K), flagged labels, the targets."""

    scores: torch.Tensor
    flagged: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]

    @property
    def target_scores(self) -> torch.Tensor:
        """The score of the target's label, for each victim, (m,)."""
        return self.scores[torch.arange(len(self.targets)), torch.tensor(self.targets, dtype=torch.int64)]

    @property
    def found(self) -> list[bool]:
        """Whether the target's label is flagged, for each victim."""
        return [target in labels for target, labels in zip(self.targets, self.flagged, strict=True)]


def scan_sets(checked: Checked, held: ImageSet, config: scan.Config, most: int | None = None) -> Scanned:
    """Run SCAn on the training set of (the first `most` of) the victims that count, with held-out images as clean set.

    The features are the victim's own penultimate ones.
    """
    numbers = checked.counted[:most]
    scores, flagged = [], []
    for m in numbers:
        model = checked.victims.fleet.member(m)
        images, labels = poisoned(checked.victims, m)
        found = scan.inspect(features(model, images), labels, features(model, held.images), held.labels, config)
        scores.append(found.scores)
        flagged.append(found.flagged)
    classes = len(held.classes)
    table = torch.stack(scores) if scores else torch.zeros(0, classes, dtype=torch.float64)
    return Scanned(table, tuple(flagged), tuple(checked.victims.targets[m] for m in numbers))


# Summaries


def share(flags: Sequence[bool]) -> Proportion | None:
    """Return the share of True, None where nothing was tested."""
    return Proportion(sum(map(bool, flags)), len(flags)) if len(flags) else None


def percent(found: Proportion | None) -> str:
    """Return "k/n" for a table, "no verdict" where nothing was tested."""
    return f"{found.successes}/{found.n}" if found is not None else "no verdict"


def balanced(detected: Sequence[bool], alarms: Sequence[bool]) -> float | None:
    """Return the balanced accuracy in percent of a detector, None where no victim or no clean network was tested."""
    if not len(detected) or not len(alarms):
        return None
    return 50 * (sum(map(bool, detected)) / len(detected) + 1 - sum(map(bool, alarms)) / len(alarms))


def rate_name(rate: float) -> str:
    """Return a poison rate as part of a metric id: "0_5" for half a percent."""
    return f"{100 * rate:g}".replace(".", "_")


def ends(found: dict[float, list[bool]]) -> dict[str, float]:
    """Return the share of victims found, in percent, at the lowest, the best and the highest rate with any victim."""
    shares = [100 * float(np.mean(flags)) for _, flags in sorted(found.items()) if len(flags)]
    if not shares:
        raise CompanionError("no poison rate has a verified victim; train longer or poison more.")
    return {"lowest": shares[0], "best": max(shares), "highest": shares[-1]}


def cases(
    cleansed: dict, nc_grid: Sequence[float], abs_grid: dict, reasr: dict, quiet: dict, rules: dict, abs_size: int
) -> dict[str, tuple[float, list[float]]]:
    """Return, for each detector, its balanced accuracy by default and in all cases tested.

    cleansed: by ("badnets" or "clean", classes); nc_grid: of E3; abs_grid: by (size, bound); reasr: by (network, rate);
    quiet: REASR of clean networks by network; rules: by (set, rule), or (set, rule, "rare").
    """
    counts = sorted({count for _, count in cleansed})
    by_class = {k: balanced(cleansed["badnets", k].accused, cleansed["clean", k].alarms) for k in counts}
    bound = stimulation.OFFICIAL.bound
    models = [balanced((v > bound).tolist(), (quiet[name] > bound).tolist()) for (name, _), v in reasr.items()]
    found = {
        "nc": (by_class[max(counts)], [*by_class.values(), *nc_grid]),
        "abs": (abs_grid[abs_size, bound], [*abs_grid.values(), *models]),
        "mntd": (rules["patch", "median"], list(rules.values())),
    }
    for name, (usual, _) in found.items():
        if usual is None:
            raise CompanionError(f"{name} has no verified victim in its default case; train longer or poison more.")
    return {name: (usual, [v for v in values if v is not None and v == v]) for name, (usual, values) in found.items()}


def examples(held: ImageSet, sides: Sequence[int], seed: int) -> list[torch.Tensor]:
    """Return one held-out image (C, H, W) without and with a corner patch of each side."""
    image = held.images[:1]
    triggers = [make_trigger("patch", held.shape, seed, size=side, place=(1, 1)) for side in sides]
    return [image[0], *[trigger.apply(image)[0] for trigger in triggers]]
