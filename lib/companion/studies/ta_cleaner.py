"""The experiments of the TA-Cleaner chapter: backdoored CLIPs, three repairs, one grid of learning rates, ablations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal import zero_shot
from companion.multimodal.clip_defences import METHODS, Repair, repair
from companion.multimodal.clip_network import image_embeddings
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_triggers import OPTIMISED, SEARCHES
from companion.multimodal.clip_victims import (
    ClipVictim,
    ClipVictimRecipe,
    attackers_pairs,
    poisoned_pairs,
    train_clip_victim,
    versions,
)
from companion.multimodal.clip_worlds import World, scenes_world
from companion.multimodal.pairs import Pairs, overlapping
from companion.statistics import Proportion
from companion.store import ModelStore

SIMPLE = ("badnet", "blended", "sig", "wanet")
ARM_TITLES = {
    "none": "no repair",
    "fine_tuning": "fine-tuning",
    "cleanclip": "CleanCLIP",
    "ta_cleaner": "TA-Cleaner (reconstructed)",
}
BACKDOORED = 90.0
"""Attack success in percent below which a victim counts as no backdoor; fixed before any victim was trained."""
ALLOWED_LOSS = 3.0
"""Points of accuracy on the defender's own pictures that an operating point may cost; fixed before the first run."""

POISON: Mapping[str, int] = {"badnet": 300, "blended": 300, "sig": 60, "wanet": 450, "dual_key": 130, "badclip": 130}
"""Poisoned pairs of each attack in the laptop's 5,000: about as few as reach BACKDOORED on seeds 0, 1 and 2."""
# On seed 2 Blended and the dual key miss it, by a point and by one picture; the numbers were not changed for that.


@dataclass(frozen=True)
class Arena:
    """World and sizes of the experiment. rates: the learning rates that every arm gets; top_k: of the classes.

    pairs, poison: of the attacker, and how many of them he poisons in each attack; he optimises patches in patch_steps
    on patch_pictures; clean_pairs: of the defender, who also has `validation` labelled pictures of one thing; exam:
    test pictures of one thing; victim, repair: how both are trained (`repair` without its learning rate).
    """

    world: World = field(default_factory=scenes_world)
    pairs: int = 5000
    poison: Mapping[str, int] = field(default_factory=lambda: POISON)
    clean_pairs: int = 5120
    validation: int = 1440
    exam: int = 960
    top_k: int = 3
    sub_texts: int = 16
    patch_steps: int = 150
    patch_pictures: int = 600
    rates: tuple[float, ...] = (6e-4, 1.2e-3)
    victim: ClipTraining = field(default_factory=lambda: ClipTraining(2, 128, 5e-4, 20, 0.05))
    repair: ClipTraining = field(default_factory=lambda: ClipTraining(1, 128, 1e-3, 10, 0.05))

    def recipe(self, attack: str, seed: int, **changes: object) -> ClipVictimRecipe:
        """Return the recipe of a victim; changes: fields to replace. Raises CompanionError where `poison` misses it."""
        if attack not in self.poison:
            raise CompanionError(
                f"no number of poisoned pairs for the attack {attack!r}: `poison` has {', '.join(self.poison)}. Add it."
            )
        count = self.poison[attack]
        made = ClipVictimRecipe(attack, self.world.target, self.pairs, count, training=self.victim, seed=seed)
        if attack in OPTIMISED:
            search = replace(SEARCHES[attack], steps=self.patch_steps)
            made = replace(made, search=search, search_pictures=self.patch_pictures)
        return replace(made, **changes)

    def settings(self, method: str, rate: float, **changes: object) -> Repair:
        """Return the settings of a repair at a learning rate; the target's word is excluded from replacements."""
        training = replace(self.repair, learning_rate=rate)
        made = Repair(
            method, training, sub_texts=min(self.sub_texts, training.batch_size), excluded=(self.world.target,)
        )
        return replace(made, **changes)


@dataclass(frozen=True, eq=False)
class Rooms:
    """The data of a run, each drawn from a split of its own: the defender's pairs and pictures, and the exam."""

    clean: Pairs
    validation: Pairs
    exam: Pairs

    @staticmethod
    def drawn(arena: Arena, seed: int) -> "Rooms":
        """Draw the rooms of a seed."""
        return Rooms(
            arena.world.draw(arena.clean_pairs, "defender", seed),
            arena.world.examine(arena.validation, "validation", seed),
            arena.world.examine(arena.exam, "test", seed),
        )


class Seen(NamedTuple):
    """What a model shows: accuracy on clean pictures, attack success on triggered ones, each at top-1 and top-k.

    validation: accuracy on the defender's pictures; probe, probe_success: of a linear probe fitted on the defender's
    clean pictures, on clean and on triggered test pictures.
    """

    accuracy: Proportion
    accuracy_k: Proportion
    success: Proportion
    success_k: Proportion
    validation: Proportion
    probe: Proportion
    probe_success: Proportion

    def percent(self) -> list[float]:
        """Return the shares in percent, in order."""
        return [100 * share.rate for share in self]


def look(model: nn.Module, victim: ClipVictim, rooms: Rooms, top_k: int) -> Seen:
    """Examine a model under a victim's trigger; test pictures of the target class carry no trigger in the count."""
    world, labels = victim.world, rooms.exam.labels
    aim = world.classes.index(victim.recipe.target)
    plain = zero_shot.class_embeddings(model, world.prompts())
    attacked = plain if victim.recipe.attack != "dual_key" else zero_shot.class_embeddings(model, victim.prompts)
    clean, own = image_embeddings(model, rooms.exam.images), image_embeddings(model, rooms.validation.images)
    triggered = image_embeddings(model, victim.trigger.apply(rooms.exam.images))
    probe = zero_shot.linear_probe(own, rooms.validation.labels, len(world.classes))
    hit = triggered @ attacked.T
    return Seen(
        zero_shot.accuracy(clean @ plain.T, labels),
        zero_shot.accuracy(clean @ plain.T, labels, top_k),
        zero_shot.attack_success(hit, labels, aim),
        zero_shot.attack_success(hit, labels, aim, top_k),
        zero_shot.accuracy(own @ plain.T, rooms.validation.labels),
        zero_shot.accuracy(zero_shot.probe_scores(probe, clean), labels),
        zero_shot.attack_success(zero_shot.probe_scores(probe, triggered), labels, aim),
    )


def backdoored(seen: Seen) -> bool:
    """Return whether a victim counts as backdoored: attack success of at least BACKDOORED percent at top-1."""
    return 100 * seen.success.rate >= BACKDOORED


def repaired(
    victim: ClipVictim, clean: Pairs, settings: Repair, seed: int, store: ModelStore, room: str = ""
) -> nn.Module:
    """Return a victim after a repair, from the store if it is there.

    room: what distinguishes `clean` from the defender's pairs of the arena ("" where it is these).
    """
    decisive = {
        "kind": "CLIP repair",
        "world": victim.world.name,
        "victim": victim.recipe,
        "settings": settings,
        "clean": len(clean),
        "room": room,
        "seed": seed,
        "versions": versions(),
    }

    def run():
        return repair(victim.model, clean, settings, seed, encode=victim.world.encode).cpu().state_dict(), {}

    return victim.world.restored(store.get_or_train(decisive, run, REPAIRED_BY, victim.world.sha256).state)


REPAIRED_BY = ("companion.multimodal.clip_defences", "companion.multimodal.clip_victims")
"""The modules whose reach decides a repaired model."""


class Point(NamedTuple):
    """One repair: its arm, its learning rate, what it shows, and the model."""

    arm: str
    rate: float
    seen: Seen
    model: nn.Module


def sweep(
    arena: Arena, victim: ClipVictim, rooms: Rooms, seed: int, store: ModelStore, arms: Sequence[str] = METHODS
) -> list[Point]:
    """Repair a victim with every arm at every learning rate of the arena."""
    found = []
    for arm in arms:
        for rate in arena.rates:
            model = repaired(victim, rooms.clean, arena.settings(arm, rate), seed, store)
            found.append(Point(arm, rate, look(model, victim, rooms, arena.top_k), model))
    return found


def operating_point(points: Sequence[Point], arm: str, before: Seen) -> Point:
    """Return the repair that a defender would take, who sees clean accuracy and no attack.

    It is the highest learning rate whose accuracy on the defender's own pictures is at most ALLOWED_LOSS points below
    the victim's; where none is, the lowest learning rate. The rule is the same for all arms.
    """
    own = sorted((point for point in points if point.arm == arm), key=lambda point: point.rate)
    if not own:
        raise CompanionError(f"no repair with {arm!r} among the points; expected one at least.")
    floor = before.validation.rate - ALLOWED_LOSS / 100
    fitting = [point for point in own if point.seen.validation.rate >= floor - 1e-9]
    return fitting[-1] if fitting else own[0]


def simple_summary(before: Mapping[str, Seen], chosen: Mapping[tuple[str, str], Point]) -> dict[str, float]:
    """Return what is left of the simple attacks that count as backdoors, in percent and points.

    "worst.cleanclip", "worst.ta_cleaner": the highest attack success left; "gap": the largest difference of the two, in
    either direction; "victims": how many count. Empty where none does.
    """
    found = [attack for attack in SIMPLE if attack in before and backdoored(before[attack])]
    if not found:
        return {}
    left = {
        arm: [100 * chosen[attack, arm].seen.success.rate for attack in found] for arm in ("cleanclip", "ta_cleaner")
    }
    gaps = [abs(one - other) for one, other in zip(*left.values(), strict=True)]
    worst = {f"worst.{arm}": max(values) for arm, values in left.items()}
    return worst | {"gap": max(gaps), "victims": len(found)}


ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "without": {"method": "cleanclip"},
    "two": {"sub_texts": 2},
    "few": {"sub_texts": 4},
    "default": {},
    "all": {"sub_texts": 1_000_000},
    "positive": {"form": "positive"},
    "negative": {"form": "negative"},
    "margin": {"form": "margin"},
    "light": {"sub_text_weight": 0.3},
    "told": {"excluded": ()},
}
"""What is turned in TA-Cleaner: m (at most the batch), the form of its term, the target's word let in."""

ABLATION_TITLES = {
    "without": "no sub-texts (CleanCLIP)",
    "two": "m = 2",
    "few": "m = 4",
    "default": "m of this profile",
    "all": "m = the whole batch",
    "positive": "positive only",
    "negative": "negative only",
    "margin": "margin form",
    "light": "weight 0.3 instead of 1",
    "told": "target's word allowed",
}


def ablation(
    arena: Arena, victim: ClipVictim, rooms: Rooms, rate: float, seed: int, store: ModelStore, name: str
) -> Seen:
    """Return what a victim shows after the repair of ABLATIONS called `name` at a learning rate."""
    changes = dict(ABLATIONS[name])
    if "sub_texts" in changes:
        changes["sub_texts"] = min(int(changes["sub_texts"]), arena.repair.batch_size)
    settings = arena.settings(str(changes.pop("method", "ta_cleaner")), rate, **changes)
    return look(repaired(victim, rooms.clean, settings, seed, store), victim, rooms, arena.top_k)


def with_overlap(
    arena: Arena, victim: ClipVictim, rooms: Rooms, settings: Repair, seed: int, store: ModelStore
) -> Seen:
    """Return what a victim shows after a repair whose clean pairs include the originals of the poisoned ones."""
    before = attackers_pairs(victim.recipe, victim.world)
    after = poisoned_pairs(victim.recipe, victim.trigger, victim.world)
    count = min(int(after.poisoned.sum()), len(rooms.clean) // 2)
    clean = overlapping(rooms.clean, before, after, count)
    return look(repaired(victim, clean, settings, seed, store, "overlap"), victim, rooms, arena.top_k)


def plane(models: Sequence[nn.Module], victim: ClipVictim, pictures: Pairs) -> list[dict[str, torch.Tensor]]:
    """Return, for each model, embeddings in a plane: clean and triggered pictures, and the twelve nouns, each (., 2).

    The plane holds the direction from the nouns' mean to the target's noun, and the strongest direction (principal
    component of the clean pictures) at a right angle to it; every model has its own.
    """
    aim, found = victim.world.classes.index(victim.recipe.target), []
    for model in models:
        nouns = zero_shot.class_embeddings(model, victim.prompts)
        clean, hit = (
            image_embeddings(model, images) for images in (pictures.images, victim.trigger.apply(pictures.images))
        )
        first = nouns[aim] - nouns.mean(0)
        first = first / first.norm()
        rest = clean - clean.mean(0)
        rest = rest - (rest @ first)[:, None] * first
        second = torch.linalg.svd(rest, full_matrices=False).Vh[0]
        second = second * torch.where(second[second.abs().argmax()] < 0, -1.0, 1.0)
        axes, middle = torch.stack([first, second], 1), clean.mean(0)
        found.append(
            {
                "clean": (clean - middle) @ axes,
                "triggered": (hit - middle) @ axes,
                "nouns": (nouns - nouns.mean(0)) @ axes,
            }
        )
    return found


class Cost(NamedTuple):
    """What a repair costs, counted: steps, clean pairs, and pictures and texts that are encoded with gradients."""

    steps: int
    pairs: int
    pictures: int
    texts: int


def cost(settings: Repair, pairs: int) -> Cost:
    """Return the cost of a repair with so many clean pairs."""
    size, epochs = settings.training.batch_size, settings.training.epochs
    steps = epochs * (pairs // size)
    doubled = 1 if settings.method == "fine_tuning" else 2
    extra = 2 * settings.sub_texts if settings.method == "ta_cleaner" else 0
    return Cost(steps, pairs, steps * size * doubled, steps * (size * doubled + extra))


def base_control(victim: ClipVictim, rooms: Rooms, top_k: int) -> Seen:
    """Return what the clean base model shows under a victim's trigger: the attack success that needs no backdoor."""
    return look(victim.world.load(), victim, rooms, top_k)


def train_all(arena: Arena, attacks: Sequence[str], seed: int, store: ModelStore) -> dict[str, ClipVictim]:
    """Return the victim of each attack, fine-tuned from the world's clean CLIP."""
    return {attack: train_clip_victim(arena.recipe(attack, seed), arena.world, store) for attack in attacks}
