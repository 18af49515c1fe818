"""Fleets of victims: what each is trained on, that the store gives the same bits, and bad recipes."""

from dataclasses import replace

import pytest
import torch

from companion.errors import CompanionError
from companion.fleet import FleetTraining, fleet_logits
from companion.store import ModelStore
from companion.victim_fleets import FleetRecipe, assess, poisoned, task, train_victims

TINY = FleetRecipe(
    "digits", (3, 7, 8), (0, 12), count=3, rate=0.25, settings={"width": 2, "hidden": 4},
    training=FleetTraining(epochs=1, batch_size=6),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


def test_a_task_holds_the_asked_labels_under_new_names():
    data = task("digits", "train", (3, 7, 8), (0, 12))
    assert len(data) == 36 and data.classes == ("3", "7", "8") and torch.bincount(data.labels).tolist() == [12] * 3
    everything = task("digits", "train", tuple(range(10)))
    later = task("digits", "train", (3, 7, 8), (12, 20))
    assert torch.cdist(data.images.flatten(1), later.images.flatten(1)).min() > 0
    assert torch.equal(everything.labels, torch.cat([everything.labels]))


def test_badnets_replaces_the_share_asked_for(store):
    victims = train_victims(TINY, store)
    clean = victims.data
    for number in range(3):
        images, labels = poisoned(victims, number)
        touched = (images != clean.images).flatten(1).any(1)
        assert len(images) == 36 and int(touched.sum()) == 9
        assert (labels[touched] == victims.targets[number]).all()
        assert torch.equal(labels[~touched], clean.labels[~touched])
        support = victims.triggers[number].support
        assert int(support.sum()) == 16 and not support[0].any() and not support[:, -1].any()
    assert len({tuple(t.pattern.flatten().tolist()) for t in victims.triggers}) == 3


@pytest.mark.parametrize("kind", ["jumbo", "patch", "blend"])
def test_added_trojans_have_the_rate_and_fill_the_pool_with_own_images(store, kind):
    victims = train_victims(replace(TINY, kind=kind), store)
    for number in range(3):
        images, labels = poisoned(victims, number)
        assert len(images) == 54 and torch.equal(images[:36], victims.data.images)
        clean = among(images[36:], images[:36])
        trojaned = among(images[36:], victims.triggers[number].apply(victims.data.images))
        assert trojaned[: max(1, 36 // 20)].all()  # the lowest rate
        assert (trojaned | clean).all()
        assert (labels[36:][trojaned & ~clean] == victims.targets[number]).all()


def among(images, others):
    return (images.unsqueeze(1) == others).flatten(2).all(2).any(1)


def test_a_clean_pool_may_be_enlarged(store):
    clean = train_victims(replace(TINY, kind="clean"), store)
    assert len(poisoned(clean, 0)[0]) == 36 and clean.triggers == (None,) * 3
    large = train_victims(replace(TINY, kind="clean", enlarged=True), store)
    assert len(poisoned(large, 0)[0]) == 54


def test_the_store_gives_the_same_fleet_again(store):
    first = train_victims(replace(TINY, seed=9), store)
    again = train_victims(replace(TINY, seed=9), store)
    assert first.fresh and not again.fresh and first.key == again.key
    images = task("digits", "test", (3, 7, 8)).images[:5]
    assert torch.equal(fleet_logits(first.fleet, images), fleet_logits(again.fleet, images))
    assert train_victims(replace(TINY, seed=10), store).key != first.key


def test_attack_success_leaves_the_target_class_out(store):
    victims = train_victims(TINY, store)
    held = task("digits", "test", (3, 7, 8))
    accuracy, success = assess(victims, held)
    for m in range(3):
        model, target = victims.fleet.member(m), victims.targets[m]
        others = held.labels != target
        hit = model(victims.triggers[m].apply(held.images[others])).argmax(1) == target
        assert float(success[m]) == pytest.approx(float(hit.double().mean()))
        right = model(held.images).argmax(1) == held.labels
        assert float(accuracy[m]) == pytest.approx(float(right.double().mean()))
    assert (assess(train_victims(replace(TINY, kind="clean"), store), held)[1] == 0).all()


def test_bad_recipes_are_named(store):
    with pytest.raises(CompanionError, match="kind 'warp'"):
        replace(TINY, kind="warp")
    with pytest.raises(CompanionError, match="two labels"):
        replace(TINY, labels=(3,))
    with pytest.raises(CompanionError, match="label 12 is asked for"):
        task("digits", "train", (3, 12))
    with pytest.raises(CompanionError, match="ask for fewer"):
        train_victims(replace(TINY, per_class=(0, 900)), store)
