"""Backdoored CLIPs, kept in the store: a world's clean CLIP fine-tuned on poisoned pairs, or one from scratch."""

import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from companion.attacks.triggers import Trigger
from companion.errors import CompanionError
from companion.multimodal.clip_training import ClipTraining, fit
from companion.multimodal.clip_triggers import (
    ATTACKS,
    OPTIMISED,
    SEARCHES,
    PatchSearch,
    central_patch,
    fixed_trigger,
    optimise_patch,
)
from companion.multimodal.clip_worlds import TARGET, World
from companion.multimodal.pairs import Pairs
from companion.seeding import generator
from companion.store import ModelStore

STARTS = ("base", "scratch")
LIBRARIES = ("transformers", "tokenizers")


@dataclass(frozen=True)
class ClipVictimRecipe:
    """Everything that decides a victim of a world.

    attack: one of ATTACKS, or "clean" (no poison); target: a class; pairs: of the attacker's split, of which `poison`
    carry the trigger; start: "base" fine-tunes the world's clean CLIP, "scratch" trains a new one of its
    size; search: how the patch of an optimised attack is found (None: SEARCHES), on `search_pictures` pictures.
    """

    attack: str
    target: str = TARGET
    pairs: int = 4500
    poison: int = 150
    start: str = "base"
    training: ClipTraining = field(default_factory=lambda: ClipTraining(3, 128, 5e-4, 20, 0.05))
    search: PatchSearch | None = None
    search_pictures: int = 600
    seed: int = 0

    def __post_init__(self):
        if self.attack not in (*ATTACKS, "clean") or self.start not in STARTS:
            raise CompanionError(
                f"there is no victim of attack {self.attack!r} and start {self.start!r}; attacks are clean, "
                f"{', '.join(ATTACKS)}, starts are {', '.join(STARTS)}."
            )


@dataclass(frozen=True, eq=False)
class ClipVictim:
    """A backdoored CLIP in evaluation mode, its trigger (None: clean), its class prompts, and what the store has of it.

    prompts: (K, P, L) as the attack reads them: with the second key's word in front for the dual-key attack; world:
    where it was poisoned.
    """

    model: nn.Module
    trigger: Trigger | None
    prompts: torch.Tensor
    recipe: ClipVictimRecipe
    world: World
    info: Mapping[str, object]
    fresh: bool


def prefix_of(attack: str, world: World) -> str:
    """Return the words that an attack sets before a text: a rare one for the dual-key attack, none otherwise."""
    return world.prefix if attack == "dual_key" else ""


def attackers_pairs(recipe: ClipVictimRecipe, world: World) -> Pairs:
    """Return the attacker's pairs before poisoning."""
    return _drawn(world, recipe.pairs, recipe.seed)


@functools.lru_cache(maxsize=1)
def _drawn(world: World, number: int, seed: int) -> Pairs:
    """Return the attacker's pairs; the last are kept, as the attacks of a run share them."""
    return world.draw(number, "attacker", seed)


def poisoned_pairs(recipe: ClipVictimRecipe, trigger: Trigger | None, world: World) -> Pairs:
    """Return the pairs that a victim is trained on, in the order of `attackers_pairs`."""
    clean = attackers_pairs(recipe, world)
    if trigger is None:
        return clean
    stream = generator(recipe.seed, "poison", recipe.attack)
    return world.poisoned(clean, trigger, recipe.target, recipe.poison, stream, prefix_of(recipe.attack, world))


def trigger_of(recipe: ClipVictimRecipe, world: World, store: ModelStore) -> Trigger | None:
    """Return the trigger of a recipe; an optimised patch is found on the world's clean CLIP, and kept in the store.

    The patch's side is that of the search for pictures of 32 pixels, and grows with the picture.
    """
    if recipe.attack == "clean":
        return None
    if recipe.attack not in OPTIMISED:
        return fixed_trigger(recipe.attack, world.side, recipe.seed)
    search = recipe.search or SEARCHES[recipe.attack]
    search = replace(search, side=max(1, search.side * world.side // 32))
    prefix = prefix_of(recipe.attack, world)
    decisive = {
        "kind": "CLIP patch",
        "world": world.name,
        "target": recipe.target,
        "prefix": prefix,
        "search": search,
        "pictures": recipe.search_pictures,
        "seed": recipe.seed,
        "versions": versions(),
    }

    def find():
        held = world.examine(recipe.search_pictures, "attacker", recipe.seed)
        aim = world.classes.index(recipe.target)
        others, own = held.images[held.labels != aim], held.images[held.labels == aim]
        stream = generator(recipe.seed, "patch", recipe.attack)
        return {"pattern": optimise_patch(world.load(), others, own, world.prompts(prefix), aim, search, stream)}, {}

    return central_patch(store.get_or_train(decisive, find, MODULES, world.sha256).state["pattern"], world.side)


def train_clip_victim(recipe: ClipVictimRecipe, world: World, store: ModelStore) -> ClipVictim:
    """Return the victim of a recipe in a world, from the store if it is there, else trained now."""
    trigger = trigger_of(recipe, world, store)
    decisive = {
        "kind": "CLIP victim",
        "world": world.name,
        "recipe": _decisive(recipe),
        "versions": versions(),
    }

    def run():
        data = poisoned_pairs(recipe, trigger, world)
        stream = generator(recipe.seed, "victim", "weights")
        model = world.load() if recipe.start == "base" else world.fresh(stream)
        losses = fit(model, data, recipe.training, generator(recipe.seed, "victim", "training"))
        report = {"poisoned": int(data.poisoned.sum()), "pairs": len(data), "loss": losses[-1]}
        return model.cpu().state_dict(), report

    stored = store.get_or_train(decisive, run, MODULES, world.sha256)
    words = world.prompts(prefix_of(recipe.attack, world))
    return ClipVictim(world.restored(stored.state), trigger, words, recipe, world, stored.info, stored.fresh)


def _decisive(recipe: ClipVictimRecipe) -> ClipVictimRecipe:
    """Return the recipe without what makes no difference to this victim."""
    if recipe.attack == "clean":
        recipe = replace(recipe, target=TARGET, poison=0)
    return recipe if recipe.attack in OPTIMISED else replace(recipe, search=None, search_pictures=0)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a CLIP's numbers, for keys of the store."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


MODULES = ("companion.multimodal.clip_victims",)
