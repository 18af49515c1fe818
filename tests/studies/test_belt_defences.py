"""Four more defences against BELT's victims, at tiny size."""

from dataclasses import replace

import pytest
import torch

from companion.defenses import abs as stimulation
from companion.defenses import mntd, moth, sentinet
from companion.errors import CompanionError
from companion.store import ModelStore
from companion.studies import belt, belt_defences
from companion.training import TrainingConfig

TINY = replace(
    belt.SIDE,
    train_size=60,
    held_size=120,
    poison_count=6,
    training=TrainingConfig(epochs=1, batch_size=20, learning_rate=0.05, crop_padding=1),
    model_settings={"width": 4},
)
PAIRS = [("badnets", "plain"), ("badnets", "mo")]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def victims(store):
    recipes = [TINY.recipe(*pair, 0) for pair in PAIRS]
    return dict(zip(PAIRS, belt.train_victims(recipes, store), strict=True))


@pytest.fixture(scope="module")
def held():
    return TINY.held_out()


def test_abs_has_a_row_for_each_victim(victims, held):
    rows = belt_defences.abs_rows(victims, held, (4, 16), 1, replace(belt_defences.ABS, steps=2))
    assert list(rows) == [(*pair, size) for pair in PAIRS for size in (4, 16)]
    assert all(0 <= row.reasr <= 1 for row in rows.values())
    with pytest.raises(CompanionError, match="99 seed images"):
        belt_defences.abs_rows(victims, held, (16,), 99)


def test_sentinet_counts_triggered_and_clean_images(victims, held):
    rows = belt_defences.sentinet_rows(victims, held, 6, 10, 0)
    again = belt_defences.sentinet_rows(victims, held, 6, 10, 0)
    assert rows == again and list(rows) == PAIRS
    for row in rows.values():
        assert row.detected.n == row.alarms.n == row.detected_boundary.n == row.alarms_boundary.n == 6
        assert 0 <= row.fooled <= 1 and 0 <= row.confidence <= 1 and 0 < row.region <= 1
    narrow = belt_defences.sentinet_rows(victims, held, 6, 10, 0, replace(sentinet.PORT, mask_share=0.9))
    assert all(narrow[pair].region < row.region for pair, row in rows.items())
    with pytest.raises(CompanionError, match="images outside class 1 were asked for"):
        belt_defences.sentinet_rows(victims, held, 50, 10, 0)


def test_moth_leaves_the_victims_alone(victims, held):
    config = replace(moth.QUICK, warm_steps=2, first_steps=2, next_steps=2, images=2, batch=20, epochs=2, warm_epochs=1)
    before = victims["badnets", "plain"].model.head.weight.clone()
    rows = belt_defences.moth_rows(victims, TINY.defenders_images(40), held, config, 0)
    assert list(rows) == PAIRS and rows["badnets", "mo"].accuracy.n == len(held)
    assert torch.equal(victims["badnets", "plain"].model.head.weight, before)


def test_mntd_trains_shadows_of_the_victims_architecture(victims, store):
    kinds = {"clean": [victims["badnets", "mo"]], "plain": [victims["badnets", "plain"]]}
    config = mntd.Config(queries=2, epochs=2, batch=2, replacement=False, repeats=2)
    rows, validation = belt_defences.mntd_rows(TINY, kinds, 2, 1, 1, store, 0, config)
    assert set(rows) == set(kinds) and 0 <= validation <= 1
    assert rows["clean"].auc == 0.5, "the clean ones against themselves"
    trained = store.trained
    assert belt_defences.mntd_rows(TINY, kinds, 2, 1, 1, store, 0, config)[0] == rows and store.trained == trained
    with pytest.raises(CompanionError, match='"clean" among them'):
        belt_defences.mntd_rows(TINY, {"plain": kinds["plain"]}, 2, 1, 1, store, 0, config)


def test_the_network_of_the_profile_paper_takes_the_same_path(store, held, monkeypatch):
    monkeypatch.setattr(stimulation, "activations", lambda _: ["backbone.layer1.0.relu"])  # one layer is quick
    paper = replace(TINY, model="resnet18", model_settings={}, train_size=40, poison_count=4)
    victims = {PAIRS[0]: belt.train_victims([paper.recipe(*PAIRS[0], 0)], store)[0]}
    config = replace(belt_defences.ABS, steps=1, candidates=2, levels=2)
    assert 0 <= belt_defences.abs_rows(victims, held, (16,), 1, config)[*PAIRS[0], 16].reasr <= 1
    assert belt_defences.sentinet_rows(victims, held, 3, 3, 0)[PAIRS[0]].alarms.n == 3
