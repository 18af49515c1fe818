"""The experiments on countermeasures: the formal result, what counts as a verdict, and every path at tiny size."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.defenses import abs as stimulation
from companion.defenses import mntd, scan
from companion.defenses.neural_cleanse import QUICK, anomaly_index
from companion.errors import CompanionError
from companion.fleet import FleetTraining
from companion.store import ModelStore
from companion.studies import countermeasures as study

ONE = FleetTraining(epochs=1, batch_size=10)
ARENA = study.Arena("digits", 12, (12, 20), ONE, ONE, ONE, ONE, width=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checked(store):
    found = {kind: study.trained(ARENA.victims(kind, 3), store, ARENA.held()) for kind in ("badnets", "clean")}
    found["badnets"] = replace(found["badnets"], success=torch.tensor([0.95, 0.5, 0.9]))  # one without a backdoor
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**5), min_size=2, max_size=2, unique=True), st.tuples(st.booleans(), st.booleans()))
def test_with_two_classes_the_index_is_constant_whatever_the_trigger(norms, reached):
    """The proposition of the chapter. A class that was not reached counts with the largest norm, so ties are 0."""
    found = anomaly_index(torch.tensor(norms, dtype=torch.float64), torch.tensor(reached))
    small_is_reached = reached[norms.index(min(norms))]
    assert found.index == pytest.approx(1 / 1.4826 if small_is_reached else 0.0, rel=1e-9)
    assert found.flagged == ()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3, unique=True))
def test_with_three_classes_two_clean_ones_must_be_close(norms):
    a, b, c = sorted(norms)
    found = anomaly_index(torch.tensor([a, b, c], dtype=torch.float64), torch.ones(3, dtype=torch.bool))
    assert float(found.indices[0]) == pytest.approx((b - a) / (1.4826 * min(b - a, c - b)))
    assert (found.flagged == (0,)) == (b - a > 2 * 1.4826 * (c - b))


def test_gaussian_alarms_are_those_of_the_fact_sheet():
    expected = {3: 0.233, 4: 0.208, 5: 0.273, 10: 0.331, 43: 0.638}
    for classes, share in expected.items():
        assert study.gaussian_alarms(classes, 20_000, 0) == pytest.approx(share, abs=0.012)
    assert study.gaussian_alarms(2, 100, 0) == 0


def test_victims_without_a_backdoor_do_not_count(checked):
    assert checked["badnets"].counted == [0, 2] and checked["clean"].counted == [0, 1, 2]
    part = study.first(checked["badnets"], 5)
    assert len(part.victims) == 2 and part.victims.targets[1] == checked["badnets"].victims.targets[2]
    assert study.percent(study.share([])) == "no verdict" and study.balanced([], [True]) is None


def test_cleansing_a_fleet_in_parts(checked):
    config = replace(QUICK, steps=4, check_every=2, batch=2)
    images = ARENA.held().images[:10]
    found = study.cleanse(checked["badnets"], images, config, 0, together=2)
    assert found.norms.shape == (3, 10) and len(found.indices) == len(found.alarms) == len(found.accused) == 2
    again = study.cleanse(checked["badnets"], images, config, 0, together=2)
    assert torch.equal(found.norms, again.norms)


def test_tasks_are_drawn_by_the_seed():
    assert ARENA.labels(10) == tuple(range(10)) and len(ARENA.labels(4)) == 4
    assert {replace(ARENA, seed=k).labels(3) for k in range(9)} != {ARENA.labels(3)}
    with pytest.raises(CompanionError, match="expected 2 to 10"):
        ARENA.labels(11)
    victims, shadows = ARENA.victims("badnets", 2), ARENA.shadows("jumbo", 2, "train")
    assert victims.per_class[1] <= shadows.per_class[0], "the defender's images are not the attacker's"


def test_the_grid_of_settings_has_every_pair_once():
    grid = study.settings_grid(30, [0.9, 0.99], [1e-4, 1e-2], [20, 50])
    assert len(grid) == 7 and len({study.describe(one) for one in grid}) == 7


def test_abs_sees_only_what_counts_and_seed_images_are_in_turn(checked):
    held = ARENA.held()
    images, labels = study.seed_images(held, 2)
    assert labels.tolist() == [*range(10), *range(10)] and len(images.unique(dim=0)) == 20
    found = study.stimulate(checked["badnets"], held, replace(stimulation.OFFICIAL, steps=2, corner=4), (16, 36))
    assert found.reasr.shape == (2, 2) and found.right.shape == (2, 2)
    nobody = replace(checked["badnets"], success=torch.zeros(3))
    assert study.stimulate(nobody, held, stimulation.OFFICIAL, (16, 36)).reasr.shape == (0, 2)
    with pytest.raises(CompanionError, match="ask for fewer"):
        study.seed_images(held, 90)


def test_summaries_of_abs_leave_out_what_has_no_victim():
    nobody = torch.zeros(0, 2)
    found = study.abs_summary({4: torch.tensor([[0.9, 0.1]]), 8: nobody}, torch.zeros(3, 2), (16, 36), 16, 4, 0.8)
    assert found == {"detected.usual": 100, "alarm.default": 0, "alarm.generous": 0}
    some = torch.tensor([0.5])
    found = study.reasr_summary({("conv2", 0.1): some, ("conv2", 0.02): some * 0.5, ("conv4", 0.1): nobody[:, 0]})
    assert found == {"conv2.high_rate": 50, "conv2.low_rate": 25}


def test_targets_and_shadows_are_trained_on_equally_large_pools():
    clean, patch = ARENA.targets("clean", 2), ARENA.targets("patch", 2)
    assert clean.enlarged and clean.training == patch.training == ARENA.target_training
    assert ARENA.shadows("clean", 2, "train").enlarged


def test_changed_verdicts_by_hand():
    reasr = torch.tensor([[0.75, 0.9], [1.0, 1.0], [0.1, 0.2]])
    assert study.changed(reasr, (0.7, 0.8)) == pytest.approx(1 / 3)


def test_mntd_over_fleets(store, checked):
    config = mntd.Config(queries=2, epochs=2, batch=4, replacement=False, repeats=2)
    sides = {part: [study.trained(ARENA.shadows(kind, 4, part), store, ARENA.held()) for kind in ("clean", "jumbo")]
             for part in ("train", "validation")}  # fmt: skip
    meta = study.meta_classifier(*sides["train"], *sides["validation"], 3, ARENA.held(), config, 0)
    found = study.tested(meta, checked["clean"], checked["badnets"])
    assert found.scores.shape == (5,) and found.trojaned.tolist() == [False] * 3 + [True] * 2
    deep = study.trained(ARENA.targets("patch", 2, "resnet"), store, ARENA.held())
    deep = replace(deep, success=torch.ones(2))
    assert study.tested(meta, checked["clean"], deep).auc >= 0
    with pytest.raises(CompanionError, match="9 shadows of each side"):
        study.meta_classifier(*sides["train"], *sides["validation"], 9, ARENA.held(), config, 0)
    alarms, hits = study.rare(found, "median", meta, 2, 20, 0)
    assert (alarms.n, hits.n) == (40, 20)
    assert alarms.successes + hits.successes == 20, "the median of three accuses one"
    with pytest.raises(CompanionError, match="sets of 9 clean"):
        study.rare(found, "median", meta, 9, 1, 0)
    even = study.evened(found, 2)
    assert even.trojaned.tolist() == [False, False, True, True]


def test_balanced_accuracy_by_hand():
    flagged, trojaned = torch.tensor([True, False, False, True]), torch.tensor([True, True, False, False])
    assert study.balanced_accuracy(flagged, trojaned) == 50
    assert study.balanced([True, True], [False]) == 100


def test_scan_reads_the_victims_own_training_set(checked):
    found = study.scan_sets(checked["badnets"], ARENA.held(), scan.PORT)
    assert found.scores.shape == (2, 10) and len(found.found) == 2 and found.target_scores.shape == (2,)
    assert study.scan_sets(replace(checked["badnets"], success=torch.zeros(3)), ARENA.held(), scan.PORT).found == []


def test_ends_skip_rates_without_victims():
    assert study.ends({0.1: [True, False], 0.01: [], 0.05: [True]}) == {"lowest": 100, "best": 100, "highest": 50}
    with pytest.raises(CompanionError, match="no poison rate"):
        study.ends({0.1: []})
    assert study.rate_name(0.005) == "0_5" and study.rate_name(0.1) == "10"
