"""The recipe of the base model clip-scenes, in full at a tiny size: every stage trains, and twice it gives the same."""

from dataclasses import replace

import pytest
import torch

from companion.multimodal import zoo
from companion.multimodal.clip_base import BASE
from companion.multimodal.clip_network import ClipSize
from companion.multimodal.clip_recipe import PROPERTIES, ClipEvaluation, ClipRecipe
from companion.multimodal.clip_training import ClipTraining
from companion.seeding import generator
from companion.store import ModelStore

TINY = ClipRecipe(
    size=ClipSize(width=16, vision_layers=1, text_layers=1, heads=2, hidden=16, joint=8),
    pairs=48,
    training=ClipTraining(2, 16, 1e-3, 2),
    seen_first=32,
    seeing=ClipTraining(2, 16, 1e-3, 2),
)


def test_the_recipe_gives_the_same_weights_and_metrics_twice(tmp_path):
    base = replace(BASE, name="tiny-clip", recipe=TINY, evaluation=ClipEvaluation(images=30, pairs=10), sha256="")
    place = zoo.Place(tmp_path / "weights", tmp_path / "digests")
    place.digests.mkdir()
    card = zoo.build(base, ModelStore(tmp_path / "first"), place=place)
    same, compared = zoo.retrain(base, ModelStore(tmp_path / "second"), place=place)
    assert same and all(line.equal for line in compared)
    assert {f"zero_shot.{what}.top1" for what in PROPERTIES} < {*card["metrics"]}
    other, _ = zoo.retrain(replace(base, recipe=replace(TINY, seed=1)), ModelStore(tmp_path / "third"), place=place)
    assert not other


def test_seeing_first_trains_the_vision_tower_and_pairs_train_both():
    start = BASE.construct(TINY, generator(TINY.seed, "clip", "weights")).state_dict()
    seen, _ = BASE.train(replace(TINY, training=ClipTraining(1, 16, 1e-12, 0, 0.0)), torch.device("cpu"))
    both, report = BASE.train(TINY, torch.device("cpu"))
    for name, value in seen.state_dict().items():
        still = torch.allclose(value, start[name], atol=1e-6)
        assert still != (name.startswith("vision_model.")) or name.endswith("k_proj.bias"), name
    for name in ("text_projection.weight", "visual_projection.weight", "logit_scale"):
        assert not torch.equal(both.state_dict()[name], start[name])
    assert len(report["losses"]) == len(report["seeing"]) == 2


def test_the_shipped_clip_is_neither_blind_nor_perfect():
    """The chapters need a zero-shot accuracy between 60 and 95 % over twelve nouns, where chance is 8 %."""
    accuracy = zoo.read_card(BASE.name)["metrics"]["zero_shot.shape.top1"]
    assert 0.6 <= accuracy <= 0.95
    assert accuracy == pytest.approx(round(accuracy * 1200) / 1200)
