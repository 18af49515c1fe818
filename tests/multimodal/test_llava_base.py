"""The base model llava-scenes: its recipe trains the same twice, and the shipped weights are what their card says."""

from dataclasses import replace

import torch

from companion.multimodal import zoo
from companion.multimodal.llava import LlavaSettings, Stage
from companion.multimodal.llava_base import BASE
from companion.multimodal.llava_recipe import STAGES, LlavaEvaluation, LlavaRecipe
from companion.multimodal.vision_pretraining import TowerTraining, labels_of, tower_pictures
from companion.seeding import generator
from companion.store import ModelStore

BOTH = {"projector": 1e-3, "language": 1e-3}
TINY = LlavaRecipe(
    settings=LlavaSettings(vision_width=16, vision_layers=1, text_width=16, text_layers=1, heads=2),
    tower=TowerTraining(pictures=24, steps=2, batch=8),
    alignment_items=24,
    alignment=Stage(2, 8, {"language": 1e-3}),
    instruction_items=24,
    matching=Stage(2, 8, {"projector": 1e-3}),
    instruction=Stage(2, 8, BOTH),
)


def test_the_recipe_gives_the_same_weights_and_metrics_twice(tmp_path):
    base = replace(BASE, name="tiny-llava", recipe=TINY, evaluation=LlavaEvaluation(requests=4, scenes=3), sha256="")
    cards = []
    for attempt in ("first", "second"):
        place = zoo.Place(tmp_path / attempt / "weights", tmp_path / attempt / "digests")
        place.digests.mkdir(parents=True)
        cards.append(zoo.build(base, ModelStore(tmp_path / attempt / "store"), place=place))
    assert cards[0]["weights"]["sha256"] == cards[1]["weights"]["sha256"]
    assert cards[0]["metrics"] == cards[1]["metrics"]


def test_stages_train_what_they_say():
    networks, losses = BASE.train(TINY, torch.device("cpu"))
    assert tuple(networks) == STAGES and set(losses) == {"tower", "alignment", "matching", "instruction"}
    aligned, matched, tuned = (network.state_dict() for network in networks.values())
    changed = [name for name in aligned if not torch.equal(aligned[name], matched[name])]
    assert changed and all(name.startswith("model.multi_modal_projector.") for name in changed)
    again = [name for name in aligned if not torch.equal(matched[name], tuned[name])]
    assert not any("vision_tower" in name for name in again) and any("language_model" in name for name in again)


def test_the_shipped_weights_have_their_cards_metrics_and_the_gap():
    """The chapter stands on this: aligned in text, safe through the matched projector, open after tuning."""
    found = {one.metric: one for one in zoo.evaluate_shipped(BASE)}
    assert all(one.close for one in found.values()), [one for one in found.values() if not one.close]
    assert found["tuned.asr.text"].found < 10
    assert found["tuned.asr.typography"].found > 60 and found["matched.asr.typography"].found < 30
    assert zoo.read_card(BASE.name)["weights"]["bytes"] < 6_000_000


def test_the_towers_labels_are_what_is_drawn():
    pictures = tower_pictures(60, generator(0, "tower"))
    labels = labels_of(pictures)
    assert labels.shape == (60, 12)
    for picture, row in zip(pictures, labels.tolist(), strict=True):
        assert (row[0] > 0) == (picture.word is not None)
        if picture.style == "scene" and not picture.word:
            assert row[1] > 0 and sum(shape > 0 for shape in row[2:7]) == len(picture.scene.things)
            assert [shape > 0 for shape in row[2:7]] == [colour > 0 for colour in row[7:]]
