"""The experiments of the chapter on ShapPruning: what a defender may see, curves by hand, every path at tiny size."""

from dataclasses import replace

import pytest
import torch

from companion.defenses import inversion, neural_cleanse, pruning, shapley
from companion.errors import CompanionError
from companion.models.prunable import chain_of
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies import belt
from companion.studies import shap_pruning as study
from companion.training import TrainingConfig

TINY = replace(
    belt.SIDE,
    train_size=120,
    held_size=60,
    poison_count=12,
    training=TrainingConfig(epochs=2, batch_size=20, learning_rate=0.05, crop_padding=1),
    model_settings={"width": 2},
    triggers=belt.TRIGGERS["digits"],
)
SEARCH = replace(neural_cleanse.QUICK, steps=4, check_every=2, batch=10)
WALKS = shapley.Sampling(walks=4, together=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def held():
    return TINY.held_out()


@pytest.fixture(scope="module")
def victims(store):
    return study.train_all(TINY, 0, store)


@pytest.fixture(scope="module")
def few():
    return pruning.few_shot(TINY.defenders_images(200), 1)


def test_three_victims_are_the_recipes_of_belt_and_the_fourth_starts_from_the_clean_one(victims, store):
    assert list(victims) == ["clean", *study.ATTACKS]
    for name in study.ATTACKS[:-1]:
        (same,) = belt.train_victims([TINY.recipe(name, "plain", 0)], store)
        assert same.key == victims[name].key and not same.fresh
    assert victims["trojan"].plan.target == TINY.target and len(victims["trojan"].plan.poison) == 12
    weights = [victims[name].model.head.weight for name in ("clean", "trojan")]
    assert not torch.equal(*weights)


def test_a_backdoor_below_ninety_percent_is_none():
    def found(successes):
        return study.Health(Proportion(50, 50), Proportion(successes, 100))

    assert study.backdoored({"badnets": found(90), "wanet": found(89), "clean": found(100)}) == ["badnets"]
    with pytest.raises(CompanionError, match="no victim reached 90 % attack success"):
        study.mean_over({"wanet": 3.0}, [])
    assert study.mean_over({"a": 1.0, "b": 3.0, "c": 100.0}, ["a", "b"]) == 2


def test_the_suspect_has_the_smallest_mask_and_stamping_is_the_formula(victims, few):
    found = study.suspect(victims["badnets"], few, replace(SEARCH, batch=500), 0)
    assert found.suspect == int(found.found.norms.argmin())
    mask, pattern = found.found.masks[3], found.found.patterns[3]
    stamped = found.stamp(few.images, 3)
    assert torch.equal(stamped[4], (1 - mask) * few.images[4] + mask * pattern)
    assert torch.equal(found.triggered(3), stamped[few.labels != 3])
    again = study.suspect(victims["badnets"], few, SEARCH, 0)
    assert torch.equal(again.found.masks, found.found.masks), "a batch cannot be larger than the few images"


def test_drawn_images_use_none_of_the_images_given(victims, held):
    config = inversion.Config(steps=3)
    drawn = study.draw_images(victims["badnets"], held, 2, config, 0)
    dark = replace(held, images=torch.zeros_like(held.images))
    assert torch.equal(drawn.images, study.draw_images(victims["badnets"], dark, 2, config, 0).images)
    assert drawn.labels.tolist() == [label for label in range(10) for _ in range(2)]


def test_a_repair_is_the_network_with_the_stopped_neurons_off(victims, few, held):
    victim = victims["badnets"]
    suspicion = study.suspect(victim, few, SEARCH, 0)
    found = study.repair(victim, suspicion, 1, held, WALKS, pruning.Stopping(), 0)
    assert found.evaluations == found.estimate.evaluations > 4
    assert torch.equal(found.stop.neurons, found.estimate.ranking()[: found.stop.count])
    other = study.health(pruning.switched_off(victim.model, found.stop.neurons), victim, held)
    assert other == found.health
    share = study.outcomes({"badnets": found}, {"badnets": study.health(victim.model, victim, held)}, 14)
    assert share["share"]["badnets"] == pytest.approx(100 * found.stop.count / 14)
    assert set(share) == {"asr", "accuracy", "loss", "share"}


def test_curves_start_at_the_victim_and_every_ranking_is_an_order(victims, few, held):
    victim = victims["wanet"]
    suspicion = study.suspect(victim, few, SEARCH, 0)
    neurons = chain_of(victim.model).neurons
    ranked = study.orders(victim, suspicion, 1, torch.arange(neurons), 0)
    assert list(ranked) == list(study.RANKINGS)
    counts = study.counts_to(40, neurons)
    assert counts == [*range(11), 12, 14]
    before = study.health(victim.model, victim, held)
    for order in ranked.values():
        assert sorted(order.tolist()) == list(range(neurons))
        found = study.curve(victim, order, held, counts)
        assert (int(found.correct[0]), int(found.hits[0])) == (before.accuracy.successes, before.success.successes)
        assert (found.images, found.trials) == (before.accuracy.n, before.success.n)


def test_damage_is_the_mean_over_pruned_neurons_and_attacks():
    first = study.Curve(torch.tensor([10, 8, 6]), 10, torch.tensor([4, 2, 0]), 4)
    second = study.Curve(torch.tensor([10, 10, 10]), 10, torch.tensor([4, 4, 4]), 4)
    success, accuracy = study.damage([first, second], [0, 1, 2], 2)
    assert success == pytest.approx((25 + 100) / 2) and accuracy == pytest.approx((70 + 100) / 2)
    assert study.damage([first], [0, 1, 2], 1) == pytest.approx((50, 80))


def test_fine_tuning_leaves_the_victim_and_fine_pruning_silences(victims, few, held):
    victim = victims["badnets"]
    before = {name: value.clone() for name, value in victim.model.state_dict().items()}
    config = study.tuning_config(TINY.training, len(few), 5)
    assert (config.epochs, config.batch_size, config.learning_rate) == (10, 10, 0.025)
    for patience in (None, 0.2):
        found = study.tuned(victim, few, config, patience, held, 0)
        assert found.accuracy.n == len(held)
    assert all(torch.equal(before[name], value) for name, value in victim.model.state_dict().items())
    pruned = chain_of(study.fine_prune(victim, few, 1.0)).stages[-1](torch.ones(2, 4, 4, 4))
    assert int((pruned.amax((0, 2, 3)) != 0).sum()) <= 1, "with no limit to the loss one neuron of the block is left"


def test_rank_statistics_by_hand():
    values = torch.tensor([5.0, 3, 2, 1])
    assert study.spearman(values, values**3) == pytest.approx(1)
    assert study.spearman(values, -values) == pytest.approx(-1)
    assert study.shared_top(values, torch.tensor([5.0, 1, 4, 3]), 2) == 0.5


def test_the_oracle_sees_the_error_fall():
    value = shapley.tabulated(lambda c: (c[:, 0] & (c[:, 1] | c[:, 2])).double(), 4)
    few_walks = study.oracle_errors(value, 4, replace(shapley.PLAIN, walks=5), 4, 0)
    exact, many_walks = study.oracle_errors(value, 4, replace(shapley.PLAIN, walks=500), 4, 0)
    assert exact.tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6, 0])
    assert many_walks.error < few_walks[1].error / 3 and many_walks.evaluations > few_walks[1].evaluations


def test_the_path_of_the_profile_paper_at_tiny_size(store, held):
    """ResNet-18 and blocks of neurons, on forty digits."""
    arena = replace(TINY, model="resnet18", model_settings={}, train_size=40, poison_count=4)
    (victim,) = belt.train_victims([arena.recipe("badnets", "plain", 0)], store)
    drawn = study.draw_images(victim, held, 1, inversion.Config(steps=2), 0)
    suspicion = study.suspect(victim, drawn, replace(SEARCH, steps=2), 0)
    part = held.subset(torch.arange(10))
    walks = shapley.Sampling(walks=2, block=400, leaders=40)
    found = study.repair(victim, suspicion, 1, part, walks, pruning.Stopping(most=0.005), 0)
    assert found.estimate.values.shape == (1984,) and found.stop.count <= 9
    config = study.trojan_config(32, arena.training)
    assert config.patch == (2, 2, 6) and config.training.epochs == 2
