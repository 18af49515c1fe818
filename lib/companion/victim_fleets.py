"""Fleets of backdoored and clean networks from one recipe, trained side by side and kept in the store.

A chapter that wants a distribution over victims asks for dozens of them: every victim has its own trigger, target
label, poisoned images, initial weights and order of batches, all drawn from the recipe's seed and its own number.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache

import torch

from companion.attacks.poisoning import plan_dirty_label, poison
from companion.attacks.triggers import PatchTrigger, make_trigger
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.defenses.mntd import jumbo_trojan
from companion.errors import CompanionError
from companion.fleet import Fleet, FleetTraining, fleet_logits, train_fleet
from companion.models.conv import build_conv
from companion.seeding import generator
from companion.store import ModelStore

KINDS = ("clean", "badnets", "jumbo", "patch", "blend")
"""Clean; a corner patch whose poisoned images replace clean ones; and MNTD's three families of Trojans, whose poisoned
images are added to the clean ones."""

TOGETHER = 64
"""Networks in one stack: more of them leave the processor's cache."""

POOL = 1.5
"""Training images of a model of MNTD's families, per clean image: as many as its highest rate of added ones gives. The
places that a model does not need hold its own images once more."""


@dataclass(frozen=True)
class FleetRecipe:
    """Everything that decides a fleet.

    data: a manifest's name; labels: the classes of the task, in the order of the new labels; per_class: (start, stop),
    which of a class's training images are used; kind: one of KINDS; count: networks; side: of the corner patch, in
    pixels; rate: share of the training images that are poisoned, for "badnets" (at least one image); architecture,
    settings: for `build_conv`; enlarged: a clean pool has as many images as one of MNTD's families; training: its
    settings; seed: of every random choice.
    """

    data: str
    labels: tuple[int, ...]
    per_class: tuple[int, int]
    kind: str = "badnets"
    count: int = 10
    side: int = 4
    rate: float = 0.05
    architecture: str = "conv2"
    settings: Mapping[str, int] = field(default_factory=dict)
    enlarged: bool = False
    training: FleetTraining = field(default_factory=FleetTraining)
    seed: int = 0

    def __post_init__(self):
        if self.kind not in KINDS or self.count < 1 or len(set(self.labels)) < 2 or not 0 < self.rate < 1:
            raise CompanionError(
                f"a fleet of {self.count} networks of kind {self.kind!r} for the labels {self.labels} at rate "
                f"{self.rate}: expected at least one, one of {', '.join(KINDS)}, two labels, and a rate in (0, 1)."
            )


@dataclass(frozen=True, eq=False)
class VictimFleet:
    """A trained fleet: the recipe, the networks, each one's trigger (None where clean) and target, the store's key."""

    recipe: FleetRecipe
    fleet: Fleet
    triggers: tuple[PatchTrigger | None, ...]
    targets: tuple[int, ...]
    seconds: float
    key: str
    fresh: bool

    def __len__(self) -> int:
        return len(self.fleet)

    @cached_property
    def data(self) -> ImageSet:
        """The clean training images of the task."""
        return task(self.recipe.data, "train", self.recipe.labels, self.recipe.per_class)


@lru_cache(maxsize=16)
def task(data: str, split: str, labels: tuple[int, ...], per_class: tuple[int, int] | None = None) -> ImageSet:
    """Return the images of some labels of a split, called 0 to K - 1 in the order given.

    per_class: (start, stop), which images of each label, in the order of the split; None: all. Raises CompanionError
    for a label that the data set does not have and for more images than a label has.
    """
    everything = catalogue.load(data, split)
    chosen, names = [], []
    for label in labels:
        if not 0 <= label < len(everything.classes):
            raise CompanionError(
                f"the label {label} is asked for, but {data} has the labels 0 to {len(everything.classes) - 1}."
            )
        members = (everything.labels == label).nonzero().flatten()
        start, stop = per_class if per_class is not None else (0, len(members))
        if not 0 <= start < stop <= len(members):
            raise CompanionError(
                f"images {start} to {stop} of label {label} are asked for, but the {split} split of {data} has "
                f"{len(members)}; ask for fewer."
            )
        chosen.append(members[start:stop])
        names.append(torch.full_like(chosen[-1], len(names)))
    indices, order = torch.cat(chosen), torch.cat(chosen).argsort()
    found = everything.subset(indices[order])
    classes = tuple(everything.classes[label] for label in labels)
    return ImageSet(found.images, torch.cat(names)[order], classes, data, split)


def train_victims(recipe: FleetRecipe, store: ModelStore, device: str | torch.device = "cpu") -> VictimFleet:
    """Return the fleet of `recipe`, from the store if it is there.

    >>> recipe = FleetRecipe("digits", tuple(range(10)), (0, 100), count=40)
    >>> train_victims(recipe, default_store())  # doctest: +SKIP
    """
    device = torch.device(device)
    stored = store.get_or_train(
        {"kind of entry": "victim fleet", "device": device.type} | asdict(recipe),
        lambda: _train(recipe, device),
        ("companion.victim_fleets", catalogue.loader_module(recipe.data)),
        catalogue.digest(recipe.data),
    )
    shape = tuple(stored.info["shape"])
    planned = [_trigger(recipe, shape, number) for number in range(recipe.count)]
    architecture = build_conv(recipe.architecture, shape, len(recipe.labels), generator(0), **recipe.settings)
    names = [name for name, _ in architecture.named_parameters()]
    fleet = Fleet(architecture, {name: stored.state[name] for name in names}).to(device)
    triggers, targets = zip(*[(trigger, target) for trigger, target, _ in planned], strict=True)
    return VictimFleet(recipe, fleet, triggers, targets, stored.info["seconds"], stored.key, stored.fresh)


def assess(victims: VictimFleet, held: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clean accuracy and attack success of each network on held-out images of the task, (M,) float64 each.

    Attack success is the share of triggered images of other classes that are predicted as the target, and 0 for a
    clean network.
    """
    right = fleet_logits(victims.fleet, held.images).argmax(2) == held.labels
    accuracy = right.double().mean(1)
    if victims.triggers[0] is None:
        return accuracy, torch.zeros_like(accuracy)
    stamped = torch.stack([trigger.apply(held.images) for trigger in victims.triggers])  # (M, N, C, H, W)
    targets = torch.tensor(victims.targets).unsqueeze(1)  # (M, 1)
    hit = fleet_logits(victims.fleet, stamped).argmax(2) == targets
    others = held.labels != targets  # (M, N)
    return accuracy, (hit & others).double().sum(1) / others.double().sum(1)


def poisoned(victims: VictimFleet, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the training images and labels of victim `number`, as it was trained."""
    return _pool(victims.recipe, victims.data, number)


def _trigger(recipe: FleetRecipe, shape: tuple[int, int, int], number: int):
    """Return trigger, target and rate of a victim: (None, 0, 0) for a clean one."""
    if recipe.kind == "clean":
        return None, 0, 0.0
    stream = generator(recipe.seed, "trojan", recipe.kind, number)
    if recipe.kind != "badnets":
        trojan = jumbo_trojan(shape, len(recipe.labels), stream, recipe.kind)
        return trojan.trigger, trojan.target, trojan.rate
    row, column = torch.randint(2, (2,), generator=stream).tolist()
    far = shape[1] - recipe.side - 1
    target = int(torch.randint(len(recipe.labels), (), generator=stream))
    drawn = int(torch.randint(2**31, (), generator=stream))
    place = (far if row else 1, far if column else 1)
    return make_trigger("patch", shape, drawn, size=recipe.side, place=place), target, recipe.rate


def _pool(recipe: FleetRecipe, data: ImageSet, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    trigger, target, rate = _trigger(recipe, data.shape, number)
    stream = generator(recipe.seed, "pool", recipe.kind, number)
    if recipe.kind == "badnets":
        count = max(1, round(rate * len(data)))
        made = poison(data, plan_dirty_label(data.labels, target, count, 0, stream), trigger, 0.0, stream)
        return made.images, made.labels
    if trigger is None and not recipe.enlarged:
        return data.images, data.labels
    images, labels = data.images, data.labels
    if trigger is not None:
        extra = torch.randint(len(data), (max(1, round(rate * len(data))),), generator=stream)
        images = torch.cat([images, trigger.apply(data.images[extra])])
        labels = torch.cat([labels, torch.full_like(extra, target)])
    rest = torch.randint(len(labels), (max(0, round(POOL * len(data)) - len(labels)),), generator=stream)
    every = torch.cat([torch.arange(len(labels)), rest])
    return images[every], labels[every]


def _train(recipe: FleetRecipe, device: torch.device) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    data = task(recipe.data, "train", recipe.labels, recipe.per_class)
    parts, losses = [], []
    for start in range(0, recipe.count, TOGETHER):
        numbers = range(start, min(start + TOGETHER, recipe.count))
        models = [
            build_conv(
                recipe.architecture, data.shape, len(recipe.labels), generator(recipe.seed, "weights", number),
                **recipe.settings,
            )
            for number in numbers
        ]  # fmt: skip
        images, labels = (torch.stack(part) for part in zip(*[_pool(recipe, data, n) for n in numbers], strict=True))
        fleet = Fleet.of(models).to(device)
        stream = generator(recipe.seed, "training", start)
        losses += train_fleet(fleet, images, labels, recipe.training, stream).tolist()
        parts.append(fleet.state())
    state = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
    return state, {"shape": list(data.shape), "losses": losses}
