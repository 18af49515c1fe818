"""The Trojan-like attack: its neurons, its patch, and the network that comes out of the store."""

from dataclasses import replace

import pytest
import torch

from companion.attacks import trojan
from companion.data import catalogue
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.models.prunable import chain_of
from companion.seeding import generator
from companion.store import ModelStore
from companion.training import TrainingConfig
from companion.victims import VictimRecipe, train_victim

QUICK = trojan.TrojanConfig(
    patch=(1, 1, 5), steps=30, images=20, training=TrainingConfig(epochs=2, batch_size=20, learning_rate=0.05)
)
CLEAN = VictimRecipe(
    "digits",
    data_options={"size": 300},
    model_settings={"width": 4},
    training=TrainingConfig(epochs=3, batch_size=20, learning_rate=0.1),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


def test_the_best_connected_neurons_have_the_largest_incoming_weights():
    model = build_model("small_cnn", 1, 4, generator(0, "weights"), width=2)
    model.blocks[2][0].weight.data[5] = 3.0
    model.blocks[2][0].weight.data[1] = -4.0
    assert trojan.best_connected(model, 2).tolist() == [1, 5]
    with pytest.raises(CompanionError, match="the last stage has 8"):
        trojan.best_connected(model, 9)


def test_the_patch_makes_its_neurons_fire_and_stays_in_its_square(store):
    model = train_victim(CLEAN, store).model
    images = catalogue.load("digits", "test", size=20).images
    neurons = trojan.best_connected(model, 2)
    found = trojan.draw_trigger(model, images, neurons, QUICK, generator(0, "trigger"))
    start = trojan.draw_trigger(model, images, neurons, replace(QUICK, steps=0), generator(0, "trigger"))
    assert int(found.support.sum()) == 25 and found.pattern.min() >= 0 and found.pattern.max() <= 1

    def fired(shown):
        maps = shown
        for stage in chain_of(model).stages:
            maps = stage(maps)
        return float(maps.flatten(2).amax(2)[:, neurons].mean().detach())

    assert fired(found.apply(images)) > fired(start.apply(images)) > 0


def test_the_attack_is_kept_in_the_store_and_leaves_the_clean_network_alone(store):
    before = {name: value.clone() for name, value in train_victim(CLEAN, store).model.state_dict().items()}
    victim = trojan.train_trojan(CLEAN, 2, 30, QUICK, store)
    again = trojan.train_trojan(CLEAN, 2, 30, QUICK, store)
    assert victim.fresh and not again.fresh and victim.key == again.key
    assert torch.equal(victim.trigger.pattern, again.trigger.pattern) and len(victim.plan.poison) == 30
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in victim.model.state_dict().items())
    after = train_victim(CLEAN, store).model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.equal(victim.model.head.weight, after["head.weight"])
    assert victim.plan.target == 2


def test_recipes_and_patches_that_do_not_fit_are_refused(store):
    with pytest.raises(CompanionError, match="starts from a clean network"):
        trojan.train_trojan(replace(CLEAN, poison_count=5), 2, 30, QUICK, store)
    model = build_model("small_cnn", 1, 4, generator(0, "weights"), width=2)
    with pytest.raises(CompanionError, match="does not fit into 16 x 16"):
        images = torch.rand(2, 1, 16, 16, generator=generator(0, "images"))
        wrong = replace(QUICK, patch=(12, 12, 6))
        trojan.draw_trigger(model, images, torch.tensor([0]), wrong, generator(0, "trigger"))
