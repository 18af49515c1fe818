"""ABS, MNTD, MOTH and SentiNet against BELT's victims: the rows that the chapter on BELT lists among the defences.

Every function takes victims of `companion.studies.belt` by (attack, variant) and returns one row for each, as plain
numbers; the chapter adds tables. Settings are scaled to seconds on one core, and are arguments.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.defenses import abs as stimulation
from companion.defenses import mntd, moth, sentinet
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies.belt import Arena, others, utility
from companion.training import train
from companion.victims import Victim

Victims = Mapping[tuple[str, str], Victim]

ABS = replace(stimulation.OFFICIAL, steps=200)
"""The official settings with fewer steps."""

META = replace(mntd.BATCHED, epochs=60)

SHADOW_POOL = 1.5
"""Training images of a shadow, per clean image."""


@dataclass(frozen=True)
class AbsRow:
    """What ABS says of a victim: the best REASR in [0, 1], whether its label is the target, whether it is flagged."""

    reasr: float
    right: bool
    flagged: bool


def abs_rows(
    victims: Victims, held: ImageSet, sizes: Sequence[int], each: int = 2, config: stimulation.Config = ABS
) -> dict[tuple, AbsRow]:
    """Run ABS on every victim with the first `each` held-out images of every class as seed images.

    sizes: largest masks in pixels, each tried on its own from a corner of as many; they end the keys of the rows. The
    official size is 64.
    """
    columns = [(held.labels == label).nonzero().flatten()[:each] for label in range(len(held.classes))]
    if min(len(column) for column in columns) < each:
        raise CompanionError(f"{each} seed images of every class were asked for; {held.name} has fewer of some class.")
    chosen = torch.stack(columns, 1).flatten()  # one of each class, then the next of each
    found = {}
    for pair, victim in victims.items():
        for size in sizes:
            settings = replace(config, max_size=size, corner=math.isqrt(size))
            report = stimulation.inspect(victim.model, held.images[chosen], held.labels[chosen], settings)
            found[*pair, size] = AbsRow(report.best, report.label == victim.plan.target, report.flagged)
    return found


@dataclass(frozen=True)
class SentinetRow:
    """What SentiNet says: triggered images flagged, and clean ones, by the port's rule and by the boundary; means over
    triggered images of the fooled share, of the confidence, and of the region's share of the image."""

    detected: Proportion
    alarms: Proportion
    detected_boundary: Proportion
    alarms_boundary: Proportion
    fooled: float
    confidence: float
    region: float


def sentinet_rows(
    victims: Victims, held: ImageSet, count: int, pasted_on: int, seed: int, config: sentinet.Config = sentinet.PORT
) -> dict[tuple, SentinetRow]:
    """Run SentiNet with `count` triggered and `count` clean suspicious images, each pasted on `pasted_on` others.

    A second set of `count` clean images gives the boundary. All four groups are disjoint held-out images. config: its
    rule does not matter, as both are used.
    """
    order = torch.randperm(len(held), generator=generator(seed, "sentinet split"))
    shuffled = held.subset(order)
    base, clean, reference = shuffled.images[:pasted_on], *(
        shuffled.images[pasted_on + k * count : pasted_on + (k + 1) * count] for k in range(2)
    )  # fmt: skip
    rest = shuffled.subset(torch.arange(min(len(held), pasted_on + 2 * count), len(held)))
    found = {}
    for pair, victim in victims.items():
        triggered = victim.trigger.apply(others(rest, victim.plan.target, count).images)
        layer = sentinet.layer_of(victim.model)
        groups = [
            sentinet.examine(victim.model, layer, images, base, generator(seed, "sentinet noise"), config)
            for images in (triggered, clean, reference)
        ]
        rules = [replace(config, rule=rule) for rule in sentinet.RULES]
        flags = [sentinet.flagged(one, rule, groups[2]) for rule in rules for one in groups[:2]]
        shares = [Proportion(int(one.sum()), len(one)) for one in flags]
        means = [float(values.float().mean()) for values in (groups[0].fooled, groups[0].confidence, groups[0].masks)]
        found[pair] = SentinetRow(*shares, *means)
    return found


@dataclass(frozen=True)
class MothRow:
    """Clean accuracy and attack success of a victim after hardening, on held-out images."""

    accuracy: Proportion
    success: Proportion


def moth_rows(
    victims: Victims, clean: ImageSet, held: ImageSet, config: moth.Config = moth.QUICK, seed: int = 0
) -> dict[tuple, MothRow]:
    """Harden a copy of every victim with the defender's clean images; the victims stay as they are."""
    found = {}
    for pair, victim in victims.items():
        model = moth.harden(victim.model, clean.images, clean.labels, config, generator(seed, "moth"))
        measured = utility(replace(victim, model=model), held, 0.2, seed)
        found[pair] = MothRow(measured.accuracy, measured.success)
    return found


@dataclass(frozen=True)
class MntdRow:
    """MNTD's scores of several victims of one kind, AUC against the clean ones in [0, 1], and those above 0."""

    scores: tuple[float, ...]
    auc: float
    flagged: Proportion


def mntd_rows(
    arena: Arena,
    kinds: Mapping[str, Sequence[Victim]],
    per_side: int,
    validation: int,
    epochs: int,
    store: ModelStore,
    seed: int,
    config: mntd.Config = META,
) -> tuple[dict[str, MntdRow], float]:
    """Return a row for every kind of victims, and the meta-classifier's AUC on validation shadows.

    kinds: victims by name, "clean" among them, all of the arena's network. The shadows are trained on the arena's
    held-out images, which no victim has seen, one after another (their batch normalisation keeps statistics that a
    fleet does not have), and kept in the store as one entry. per_side, validation: shadows of a side; epochs: of one.
    """
    if "clean" not in kinds:
        raise CompanionError(f'MNTD got victims of the kinds {", ".join(kinds)}; expected "clean" among them.')
    held = arena.held_out()
    models = {part: _shadows(arena, held, part, number, epochs, store, seed) for part, number in
              (("train", per_side), ("validation", validation))}  # fmt: skip
    flags = {part: torch.arange(len(found)) % 2 == 1 for part, found in models.items()}
    mean, deviation = held.images.mean(0), held.images.std(0)
    trained = mntd.train_meta(
        models["train"], flags["train"], models["validation"], flags["validation"], mean, deviation, config,
        generator(seed, "belt meta-classifier"),
    )  # fmt: skip
    scores = {name: mntd.score(trained.meta, [one.model for one in found]) for name, found in kinds.items()}
    rows = {}
    for name, found in scores.items():
        together = torch.cat([scores["clean"], found])
        backdoored = torch.arange(len(together)) >= len(scores["clean"])
        share = Proportion(int((found > 0).sum()), len(found))
        rows[name] = MntdRow(tuple(found.tolist()), mntd.auc(together, backdoored), share)
    return rows, trained.validation_auc


def _shadows(
    arena: Arena, held: ImageSet, part: str, per_side: int, epochs: int, store: ModelStore, seed: int
) -> list[nn.Module]:
    """Return 2 `per_side` shadows, clean and Trojaned ones in turn."""
    training = replace(arena.training, epochs=epochs)
    recipe = {
        "kind": "belt shadows", "data": arena.data, "options": dict(arena.options), "images": arena.held_size,
        "model": arena.model, "settings": dict(arena.model_settings), "training": training, "part": part,
        "per_side": per_side, "seed": seed,
    }  # fmt: skip
    modules = ("companion.studies.belt_defences", catalogue.loader_module(arena.data))
    stored = store.get_or_train(
        recipe,
        lambda: _train_shadows(arena, held, part, per_side, training, seed),
        modules,
        catalogue.digest(arena.data),
    )
    models = []
    for number in range(2 * per_side):
        model = _blank(arena, held, part, number, seed)
        start = f"{number}."
        model.load_state_dict({k.removeprefix(start): v for k, v in stored.state.items() if k.startswith(start)})
        models.append(model.eval())
    return models


def _blank(arena: Arena, held: ImageSet, part: str, number: int, seed: int) -> nn.Module:
    stream = generator(seed, "shadow weights", part, number)
    return build_model(arena.model, held.shape[0], len(held.classes), stream, **arena.model_settings)


def _train_shadows(arena, held, part, per_side, training, seed):
    state = {}
    for number in range(2 * per_side):
        stream = generator(seed, "shadow", part, number)
        images, labels = held.images, held.labels
        if number % 2:
            trojan = mntd.jumbo_trojan(held.shape, len(held.classes), stream)
            extra = torch.randint(len(held), (max(1, round(trojan.rate * len(held))),), generator=stream)
            images = torch.cat([images, trojan.trigger.apply(held.images[extra])])
            labels = torch.cat([labels, torch.full_like(extra, trojan.target)])
        rest = torch.randint(len(labels), (max(0, round(SHADOW_POOL * len(held)) - len(labels)),), generator=stream)
        every = torch.cat([torch.arange(len(labels)), rest])
        model = _blank(arena, held, part, number, seed)
        train(model, images[every], labels[every], training, stream)
        state |= {f"{number}.{name}": value for name, value in model.state_dict().items()}
    return state, {"shadows": 2 * per_side}
