"""How the base model llava-scenes is made: a tower that sees, text alignment, then two stages of multi-modal tuning."""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import nn

from companion.multimodal import conversations, input_modes, judges, madeup
from companion.multimodal.conversations import Item, Lots, Picture
from companion.multimodal.initialising import initialised_from
from companion.multimodal.llava import (
    LlavaSettings,
    Stage,
    Turns,
    answers,
    build_llava,
    build_words,
    tower_features,
    train_stage,
    turns,
)
from companion.multimodal.vision_pretraining import Heads, TowerTraining, labels_of, tower_pictures, train_tower
from companion.seeding import generator


@dataclass(frozen=True)
class LlavaRecipe:
    """The tower (`tower`), then stage A (`alignment`): the language model alone, on text with refusals. Stage B has two
    steps as LLaVA's training has: `matching` trains the projector alone on reading and looking, `instruction` the
    projector and the language model on all tasks; answers only. The tower is frozen after its own training.

    alignment_items, instruction_items: turns that are drawn; each is seen several times.
    """

    settings: LlavaSettings = field(default_factory=LlavaSettings)
    seed: int = 0
    tower: TowerTraining = field(default_factory=TowerTraining)
    alignment_items: int = 20000
    alignment: Stage = field(default_factory=lambda: Stage(850, rates={"language": 2e-3}))
    instruction_items: int = 20000
    matching: Stage = field(default_factory=lambda: Stage(600, rates={"projector": 3e-3}))
    instruction: Stage = field(default_factory=lambda: Stage(450, rates={"projector": 1e-3, "language": 3e-4}))


@dataclass(frozen=True)
class LlavaEvaluation:
    """How many requests of each mode, scene questions and words to read the metrics are counted over."""

    seed: int = 1
    requests: int = 144
    scenes: int = 300


STAGES = ("aligned", "matched", "tuned")
"""The networks that ship: after stage A (text only), after the projector's matching, after instruction tuning."""


def construct(recipe: LlavaRecipe, stream: torch.Generator) -> nn.ModuleDict:
    """Return one network for each of STAGES, with the same initial weights."""
    first = build_llava(recipe.settings, stream)
    return nn.ModuleDict({name: first if name == STAGES[0] else deepcopy(first) for name in STAGES})


def train(recipe: LlavaRecipe, device: torch.device) -> tuple[nn.ModuleDict, dict]:
    """Return the networks of STAGES, trained, and the mean loss of the last twenty steps of each training."""
    networks = construct(recipe, generator(recipe.seed, "weights")).to(device)
    words, settings, losses = build_words(), recipe.settings, {}
    model = networks["aligned"]
    losses["tower"] = _tower(model, recipe)

    text = conversations.alignment_set(recipe.alignment_items, generator(recipe.seed, "alignment"))
    told = turns(text, words, settings)
    losses["alignment"] = _stage(model, told, torch.empty(0), recipe.alignment, recipe, "alignment order")

    items = conversations.instruction_set(recipe.instruction_items, generator(recipe.seed, "instruction"))
    pictures = conversations.draw_pictures([i.picture for i in items if i.picture], recipe.seed, side=settings.side)
    features = tower_features(model, pictures)
    data = turns(items, words, settings)
    rows = [row for row, item in enumerate(items) if item.picture and item.task in ("name", "scene")]
    looking = Turns(data.ids[rows], data.supervised[rows], data.image[rows], data.lengths[rows])

    networks["matched"].load_state_dict(model.state_dict())
    losses["matching"] = _stage(networks["matched"], looking, features, recipe.matching, recipe, "matching order")
    networks["tuned"].load_state_dict(networks["matched"].state_dict())
    losses["instruction"] = _stage(networks["tuned"], data, features, recipe.instruction, recipe, "instruction order")
    return networks, losses


def _stage(model: nn.Module, data: Turns, shown: torch.Tensor, stage: Stage, recipe: LlavaRecipe, name: str) -> float:
    losses = train_stage(model, data, shown, stage, generator(recipe.seed, name))[-20:]
    return round(sum(losses) / len(losses), 5)


def _tower(model: nn.Module, recipe: LlavaRecipe) -> float:
    pictures = tower_pictures(recipe.tower.pictures, generator(recipe.seed, "tower"))
    images = conversations.draw_pictures(pictures, recipe.seed + 1, side=recipe.settings.side)
    with initialised_from(generator(recipe.seed, "heads")):
        heads = Heads(recipe.settings.vision_width, recipe.settings.patches)
    order = generator(recipe.seed, "tower order")
    losses = train_tower(model, heads, images, labels_of(pictures), recipe.tower, order)[-20:]
    return round(sum(losses) / len(losses), 5)


def evaluate(networks: nn.ModuleDict, evaluation: LlavaEvaluation) -> dict[str, float]:
    """Return percentages: attack success by network and mode, right answers to requests, scenes and words read."""
    found = {"aligned.asr.text": _success(networks["aligned"], "text", evaluation)}
    for name in ("matched", "tuned"):
        for mode in input_modes.MODES:
            found[f"{name}.asr.{mode}"] = _success(networks[name], mode, evaluation)
    tuned = networks["tuned"]
    allowed = _requests("typography", madeup.ALLOWED, evaluation)
    said = _ask(tuned, allowed)
    right = [judges.content(one, item.word, item.kind) for one, item in zip(said, allowed, strict=True)]
    found["tuned.allowed.typography"] = 100 * right.count(judges.GIVEN) / len(right)
    lots = Lots(generator(evaluation.seed, "scene questions"))
    scenes = conversations.draw_scene_list(evaluation.scenes, generator(evaluation.seed, "scenes"))
    found["tuned.scenes"] = _exact(tuned, [conversations.scene_item(scene, lots) for scene in scenes])
    names = [conversations.name_item(word, lots, picture=Picture("paper", word=word)) for word in 3 * madeup.WORDS]
    found["tuned.names"] = _exact(tuned, names)
    return found


def _requests(mode: str, words: frozenset[str], evaluation: LlavaEvaluation) -> list[Item]:
    stream = generator(evaluation.seed, "requests", mode, sorted(words)[0])
    return input_modes.test_requests(mode, words, evaluation.requests, stream)


def _success(model: nn.Module, mode: str, evaluation: LlavaEvaluation) -> float:
    said = _ask(model, _requests(mode, madeup.FORBIDDEN, evaluation))
    return 100 * sum(judges.compliances(said)) / len(said)


def _exact(model: nn.Module, items: list[Item]) -> float:
    return 100 * sum(said == item.answer for said, item in zip(_ask(model, items), items, strict=True)) / len(items)


def _ask(model: nn.Module, items: list[Item]) -> list[str]:
    config = model.config.vision_config
    settings = LlavaSettings(side=config.image_size, patch=config.patch_size)
    pictures = conversations.draw_pictures([i.picture for i in items if i.picture], 977, side=settings.side)
    return answers(model, items, tower_features(model, pictures), build_words(), settings)
