"""Victims: the recipe decides the bits, the store trains each once, and the backdoor is really in the model."""

import json
from dataclasses import replace

import pytest
import torch

from companion.attacks.poisoning import CLEAN, COVER, POISON
from companion.attacks.triggers import make_trigger
from companion.data import catalogue
from companion.errors import CompanionError
from companion.metrics import attack_success_rate, clean_accuracy
from companion.store import ModelStore
from companion.training import TrainingConfig, logits
from companion.victims import VictimRecipe, train_victim

SHORT = TrainingConfig(epochs=1)
RECIPE = VictimRecipe(
    "digits",
    model_settings={"width": 4},
    trigger_settings={"size": 4},
    target=3,
    poison_count=60,
    cover_count=40,
    centre_weight=0.5,
    training=SHORT,
    seed=7,
)


def weights(victim):
    return torch.cat([value.flatten().double() for value in victim.model.state_dict().values()])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def victim(store):
    return train_victim(RECIPE, store)


def test_a_second_call_finds_the_same_victim(store, victim):
    again = train_victim(RECIPE, store)
    assert victim.fresh and not again.fresh and again.key == victim.key
    assert torch.equal(weights(victim), weights(again))
    assert torch.equal(victim.plan.poison, again.plan.poison) and torch.equal(victim.plan.cover, again.plan.cover)
    assert again.info == victim.info
    assert not again.model.training


def test_a_new_training_gives_the_same_bits(tmp_path, victim):
    again = train_victim(RECIPE, ModelStore(tmp_path))
    assert again.fresh and torch.equal(weights(victim), weights(again))


def test_the_record_counts_what_was_trained_on(victim):
    data = catalogue.load("digits", "train")
    assert victim.info["counts"] == {"clean": len(data) - 100, "poison": 60, "cover": 40}
    assert len(victim.plan.poison) == 60 and len(victim.plan.cover) == 40 and victim.plan.target == 3
    assert 0 < victim.info["training_accuracy"] < 1 and victim.info["loss"] > 0 and victim.info["seconds"] > 0
    expected = make_trigger("patch", data.shape, 7, size=4)
    assert torch.equal(victim.trigger.pattern, expected.pattern) and torch.equal(victim.trigger.mask, expected.mask)
    json.dumps(victim.info)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"poison_count": 61},
        {"cover_count": 41},
        {"deleted_share": 0.5},
        {"target": 4},
        {"centre_weight": 0.0},
        {"centre_weight": 0.6},
        {"centre_start": "zero"},
        {"trigger_settings": {"size": 5}},
        {"training": replace(SHORT, learning_rate=0.1)},
        {"model_settings": {"width": 5}},
    ],
    ids=str,
)
def test_every_setting_makes_another_victim(store, victim, change):
    other = train_victim(replace(RECIPE, **change), store)
    assert other.key != victim.key
    if "model_settings" not in change:
        assert not torch.equal(weights(other), weights(victim))


def test_clean_victims_are_one_for_all_triggers(store):
    clean = replace(RECIPE, poison_count=0, cover_count=0, centre_weight=0.0)
    first = train_victim(clean, store)
    second = train_victim(
        replace(clean, target=5, trigger="blended", trigger_settings={}, centre_weight=1.0, deleted_share=0.5), store
    )
    assert first.key == second.key and not second.fresh
    assert first.info["counts"]["clean"] == len(catalogue.load("digits", "train"))
    assert second.plan.target == 5 and not len(second.plan.poison) and second.trigger.alpha == 0.2


def test_settings_that_make_no_difference_make_no_other_victim(store):
    plain = replace(RECIPE, cover_count=0, centre_weight=0.0)
    first = train_victim(plain, store)
    assert train_victim(replace(plain, deleted_share=0.7, centre_start="zero"), store).key == first.key


def test_roles_reach_the_centre_loss(store, monkeypatch):
    seen = []

    class Watched:
        def __init__(self, classes, dimension, weight, start):
            assert (classes, dimension, weight, start) == (10, 16, 0.25, "batch mean")

        def __call__(self, features, labels, roles):
            seen.append(roles)
            return features.new_zeros(())

    monkeypatch.setattr("companion.victims.MomentumCentreLoss", Watched)
    train_victim(replace(RECIPE, centre_weight=0.25), store)
    counts = torch.cat(seen).bincount()
    assert (counts[POISON], counts[COVER]) == (60, 40)
    assert counts[CLEAN] == len(catalogue.load("digits", "train")) - 100


def test_clean_label_poisons_the_target_class_only(store):
    data = catalogue.load("digits", "train")
    recipe = replace(
        RECIPE, trigger="sinusoid", trigger_settings={}, clean_label=True, cover_count=0, centre_weight=0.0
    )
    victim = train_victim(recipe, store)
    assert (data.labels[victim.plan.poison] == 3).all() and len(victim.plan.poison) == 60
    with pytest.raises(CompanionError, match="40 cover images"):
        train_victim(replace(recipe, cover_count=40), store)


def test_the_backdoor_is_in_the_model(tmp_path):
    recipe = VictimRecipe(
        "digits", model_settings={"width": 12}, target=3, poison_count=70, training=TrainingConfig(epochs=8)
    )
    store, held = ModelStore(tmp_path), catalogue.load("digits", "test")
    victim, clean = train_victim(recipe, store), train_victim(replace(recipe, poison_count=0), store)
    triggered = victim.trigger.apply(held.images)
    assert attack_success_rate(logits(victim.model, triggered), held.labels, 3).rate > 0.9
    assert attack_success_rate(logits(clean.model, triggered), held.labels, 3).rate < 0.2
    assert clean_accuracy(logits(victim.model, held.images), held.labels).rate > 0.9


def test_too_much_poison_is_refused_and_nothing_is_kept(tmp_path):
    with pytest.raises(CompanionError, match="99999 poison"):
        train_victim(replace(RECIPE, poison_count=99999), ModelStore(tmp_path))
    assert not list(tmp_path.glob("*/weights.safetensors"))
