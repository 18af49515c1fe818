"""Backdoored CLIPs, kept in the store: the shipped base fine-tuned on poisoned pairs, or one trained from scratch."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from companion.attacks.triggers import Trigger
from companion.data.scenes import SHAPES
from companion.errors import CompanionError
from companion.multimodal import clip_recipe
from companion.multimodal.clip_base import BASE, load_clip
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
from companion.multimodal.pairs import RARE_WORDS, Pairs, draw_examination, draw_pairs, poison_pairs, prompts
from companion.seeding import generator
from companion.store import ModelStore

TARGET = "star"
(PREFIX,) = RARE_WORDS
"""The rare word that is the second key of the dual-key attack; no caption of the world has it."""
STARTS = ("base", "scratch")
LIBRARIES = ("transformers", "tokenizers")


@dataclass(frozen=True)
class ClipVictimRecipe:
    """Everything that decides a victim.

    attack: one of ATTACKS, or "clean" (no poison); target: a noun; pairs: of the attacker's split, of which `poison`
    carry the trigger; start: "base" fine-tunes the shipped CLIP, "scratch" trains a new one of its
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

    prompts: (K, P, L) as the attack reads them: with the second key's word in front for the dual-key attack.
    """

    model: nn.Module
    trigger: Trigger | None
    prompts: torch.Tensor
    recipe: ClipVictimRecipe
    info: Mapping[str, object]
    fresh: bool


def prefix_of(attack: str) -> str:
    """Return the words that an attack sets before a text: a rare one for the dual-key attack, none otherwise."""
    return PREFIX if attack == "dual_key" else ""


def attackers_pairs(recipe: ClipVictimRecipe) -> Pairs:
    """Return the attacker's pairs before poisoning; the last few are kept, as the attacks of a run share them."""
    key = (recipe.pairs, recipe.seed)
    if key not in _DRAWN:
        _DRAWN.clear()
        _DRAWN[key] = draw_pairs(recipe.pairs, "attacker", recipe.seed)
    return _DRAWN[key]


_DRAWN: dict[tuple[int, int], Pairs] = {}


def poisoned_pairs(recipe: ClipVictimRecipe, trigger: Trigger | None) -> Pairs:
    """Return the pairs that a victim is trained on, in the order of `attackers_pairs`."""
    pairs = attackers_pairs(recipe)
    if trigger is None:
        return pairs
    stream = generator(recipe.seed, "poison", recipe.attack)
    return poison_pairs(pairs, trigger, recipe.target, recipe.poison, stream, prefix_of(recipe.attack))


def trigger_of(recipe: ClipVictimRecipe, store: ModelStore) -> Trigger | None:
    """Return the trigger of a recipe; an optimised patch is found on the shipped CLIP, and kept in the store."""
    if recipe.attack == "clean":
        return None
    side = BASE.recipe.size.side
    if recipe.attack not in OPTIMISED:
        return fixed_trigger(recipe.attack, side, recipe.seed)
    search = recipe.search or SEARCHES[recipe.attack]
    decisive = {
        "kind": "CLIP patch",
        "target": recipe.target,
        "prefix": prefix_of(recipe.attack),
        "search": search,
        "pictures": recipe.search_pictures,
        "seed": recipe.seed,
        "versions": _versions(),
    }

    def find():
        held = draw_examination(recipe.search_pictures, recipe.seed, split="attacker")
        aim = SHAPES.index(recipe.target)
        others, own = held.images[held.labels != aim], held.images[held.labels == aim]
        stream = generator(recipe.seed, "patch", recipe.attack)
        words = prompts(prefix=prefix_of(recipe.attack))
        return {"pattern": optimise_patch(load_clip(), others, own, words, aim, search, stream)}, {}

    return central_patch(store.get_or_train(decisive, find, MODULES, BASE.sha256).state["pattern"], side)


def train_clip_victim(recipe: ClipVictimRecipe, store: ModelStore) -> ClipVictim:
    """Return the victim of a recipe, from the store if it is there, else trained now (on the CPU)."""
    trigger = trigger_of(recipe, store)
    decisive = {"kind": "CLIP victim", "recipe": _decisive(recipe), "versions": _versions()}

    def run():
        data = poisoned_pairs(recipe, trigger)
        model = _start(recipe)
        losses = fit(model, data, recipe.training, generator(recipe.seed, "victim", "training"))
        return model.state_dict(), {"poisoned": int(data.poisoned.sum()), "pairs": len(data), "loss": losses[-1]}

    stored = store.get_or_train(decisive, run, MODULES, BASE.sha256)
    model = clip_recipe.construct(BASE.recipe, generator(0, "overwritten"))
    model.load_state_dict(stored.state)
    words = prompts(prefix=prefix_of(recipe.attack))
    return ClipVictim(model.eval(), trigger, words, recipe, stored.info, stored.fresh)


def _start(recipe: ClipVictimRecipe) -> nn.Module:
    if recipe.start == "base":
        return load_clip()
    return clip_recipe.construct(BASE.recipe, generator(recipe.seed, "victim", "weights"))


def _decisive(recipe: ClipVictimRecipe) -> ClipVictimRecipe:
    """Return the recipe without what makes no difference to this victim."""
    if recipe.attack == "clean":
        recipe = replace(recipe, target=TARGET, poison=0)
    return recipe if recipe.attack in OPTIMISED else replace(recipe, search=None, search_pictures=0)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


MODULES = ("companion.multimodal.clip_victims",)
