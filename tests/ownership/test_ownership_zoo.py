"""The zoo: halves that do not meet, families through the store, and what each family is made of."""

from dataclasses import replace

import pytest
import torch

from companion.errors import CompanionError
from companion.ownership.zoo import CLASSIFIER_THEFTS, MAKERS, Part, Settings, Task, Zoo
from companion.store import ModelStore
from companion.training import TrainingConfig, logits

TINY = Settings(
    source=("cnn", 6),
    architectures=(("cnn", 4), ("resnet", 4)),
    irrelevant=3,
    stolen=2,
    owned=1,
    rates=(0.25, 0.5),
    training=TrainingConfig(epochs=2, learning_rate=0.05, label_smoothing=0.0),
    tuning=TrainingConfig(epochs=1, learning_rate=0.01, schedule="cosine", label_smoothing=0.0),
    prune_epochs=1,
    attack_epochs=1,
    attack_steps=2,
)
DIGITS = Task(
    "objects",
    Part("digits", "defender", size=200),
    Part("digits", "attacker", size=200),
    Part("digits", "attacker", classes=(5, 10)),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def zoo(store):
    return Zoo(DIGITS, TINY, 0, store)


def test_owner_and_others_share_no_image(zoo):
    mine, theirs = (zoo.data(part).images.flatten(1) for part in ("owner", "others"))
    assert len(mine) == len(theirs) == 200
    assert (torch.cdist(mine, theirs) > 0).all()


def test_a_part_keeps_its_classes_and_counts_them_from_zero():
    part = Part("digits", "test", classes=(5, 10)).load()
    everything = Part("digits", "test").load()
    kept = everything.labels >= 5
    assert part.classes == everything.classes[5:] and torch.equal(part.labels, everything.labels[kept] - 5)
    assert torch.equal(part.images, everything.images[kept])
    assert Part("digits", "test", side=8, size=3).load().images.shape == (3, 1, 8, 8)
    with pytest.raises(CompanionError, match=r"digits/test has 359 images.*400 are wanted"):
        Part("digits", "test", size=400).load()


def test_every_family_has_its_number_architectures_and_outputs(zoo):
    sizes = {"source": 1, "irrelevant": 3, "surrogates": 1, "references": 1, "fine_prune": 2}
    for name in ("source", "irrelevant", *CLASSIFIER_THEFTS, "transfer_irrelevant", "surrogates", "references"):
        family = zoo.family(name)
        assert len(family.models) == sizes.get(name, 2), name
        outputs = 5 if name.startswith("transfer") else 10
        assert all(model.head.out_features == outputs and not model.training for model in family.models), name
        of_source = name in ("source", "fine_tune_all", "fine_tune_last", "fine_prune", "transfer")
        expected = [("cnn", 6)] * len(family.models) if of_source else None
        assert family.architectures == (expected or [("cnn", 4), ("resnet", 4), ("cnn", 4)][: len(family.models)]), name


def test_families_come_back_from_the_store_bit_for_bit(zoo, store):
    trained = store.trained
    again = Zoo(DIGITS, TINY, 0, store)
    images = zoo.data("owner").images[:20]
    for name in ("source", "irrelevant", "extract_label", "fine_prune"):
        for first, second in zip(zoo.family(name).models, again.family(name).models, strict=True):
            assert torch.equal(logits(first, images), logits(second, images))
    assert store.trained == trained and not again.family("source").fresh


def test_seeds_members_and_settings_give_other_models(zoo, store):
    images = zoo.data("owner").images[:20]
    members = [logits(model, images) for model in zoo.family("irrelevant").models]
    assert not torch.equal(members[0], members[2])  # of one architecture
    other = Zoo(DIGITS, TINY, 1, store)
    assert not torch.equal(logits(other.source, images), logits(zoo.source, images))
    longer = Zoo(DIGITS, replace(TINY, training=replace(TINY.training, epochs=3)), 0, store)
    assert not torch.equal(logits(longer.source, images), logits(zoo.source, images))


def test_verification_has_embeddings_of_three_groups_of_persons(store):
    people = {"task": "identity", "people": 5}
    task = Task(
        "verification",
        Part("faces", "train", {**people, "size": 60}),
        Part("faces", "train", {**people, "first_person": 5, "size": 60}),
        embeds=True,
    )
    zoo = Zoo(task, replace(TINY, source=("cnn", 4)), 0, store)
    for name in ("extract_embedding", "extract_similarity", "extract_adversarial", "fine_tune_all", "fine_prune"):
        assert all(model.head.out_features == 5 for model in zoo.family(name).models), name
    assert set(zoo.data("owner").classes).isdisjoint(zoo.data("others").classes)
    with pytest.raises(CompanionError, match="verification has no second label set"):
        zoo.family("transfer")


def test_an_unknown_family_is_named(zoo):
    with pytest.raises(CompanionError, match=r"'burglary'.*fine_prune"):
        zoo.family("burglary")
    assert set(CLASSIFIER_THEFTS) < set(MAKERS)
