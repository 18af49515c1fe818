"""The experiments of the BELT chapter: counts, disjoint groups, and every path of it at tiny size."""

from dataclasses import replace

import pytest
import torch

from companion.attacks.exclusivity import Config as ExclusivityConfig
from companion.defenses import neural_cleanse, strip
from companion.errors import CompanionError
from companion.store import ModelStore
from companion.studies import belt
from companion.training import TrainingConfig

TINY = replace(
    belt.SIDE,
    train_size=60,
    held_size=120,
    poison_count=6,
    training=TrainingConfig(epochs=1, batch_size=20, learning_rate=0.05, crop_padding=1),
    model_settings={"width": 4},
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def held():
    return TINY.held_out()


def test_variants_differ_in_cover_and_centre_loss_only():
    plain, outsourced, trained = (TINY.recipe("badnets", variant, 3) for variant in belt.VARIANTS)
    assert (plain.cover_count, plain.centre_weight) == (0, 0)
    assert outsourced == replace(plain, cover_count=plain.poison_count)
    assert trained == replace(outsourced, centre_weight=TINY.centre_weight)
    assert TINY.recipe("clean", "plain", 3).poison_count == 0
    with pytest.raises(CompanionError, match="no victim 'badnet', 'plain'"):
        TINY.recipe("badnet", "plain", 0)


def test_the_cover_rate_keeps_the_number_of_images_touched():
    recipes = {(knob, value): made for knob, value, made in belt.ablations(TINY, [0, 1])}
    assert len(recipes) == 9 and all([recipe.seed for recipe in made] == [0, 1] for made in recipes.values())
    touched = {(r.poison_count + r.cover_count) for r, _ in (recipes["cover_rate", rate] for rate in (0.25, 0.5, 0.75))}
    assert touched == {2 * TINY.poison_count}
    assert recipes["cover_rate", 0.75][0].cover_count == 9
    defaults = [recipes[knob, values[1]][0] for knob, values in belt.KNOBS.items()]
    assert defaults == [TINY.recipe("badnets", "mo", 0)] * 3, "the middle value of every knob is the default"


def test_area_under_a_curve_by_hand():
    assert belt.area_under([0, 0.5, 1], torch.tensor([0, 10, 20]), 20) == pytest.approx(50)
    assert belt.area_under([0, 0.5, 1], torch.tensor([0, 0, 20]), 20) == pytest.approx(25)


def test_others_leave_the_target_out_and_say_when_there_are_too_few(held):
    chosen = belt.others(held, 1, 20, start=5)
    assert len(chosen) == 20 and not (chosen.labels == 1).any()
    with pytest.raises(CompanionError, match="500 images outside class 1"):
        belt.others(held, 1, 500)


def test_the_defender_has_none_of_the_victims_or_test_images(held):
    clean = TINY.defenders_images(50).images.flatten(1)
    trained = belt.catalogue.load("digits", "train", size=TINY.train_size).images.flatten(1)
    for others in (trained, held.images.flatten(1)):
        assert torch.cdist(clean, others).min() > 0
    everything = replace(TINY, train_size=1430)
    assert len(everything.defenders_images(100)) == 100
    with pytest.raises(CompanionError, match="are left beside train_size"):
        replace(everything, held_size=359).defenders_images(100)


def test_every_measurement_of_the_chapter_at_tiny_size(store, held):
    """The paper's model too: the same code path that the profile `paper` takes, on sixty digits."""
    paper = replace(TINY, model="resnet18", model_settings={}, train_size=40, poison_count=4)
    small, large = belt.train_victims([TINY.recipe("badnets", "mo", 0), paper.recipe("badnets", "mo", 0)], store)
    for victim, count in ((small, 20), (large, 3)):
        chosen = held.subset(torch.arange(5 * count))
        found = belt.utility(victim, chosen, 0.2, 0)
        assert len(found.percent()) == len(belt.UTILITY) and found.success.n == int((chosen.labels != 1).sum())
        values = belt.exclusivity_of(victim, chosen, 2, ExclusivityConfig(iterations=3, learning_rate=0.01))
        assert ((values >= 0) & (values <= 100)).all()
        successes, trials = belt.curve_of(victim, chosen, 4, [0.0, 1.0], 2, 0)
        assert trials == 8 and len(successes) == 2
        inspection = belt.inspect(victim, chosen, replace(neural_cleanse.QUICK, steps=2, check_every=1, batch=2), 0, 4)
        assert inspection.target == 1 and inspection.target_norm >= 0
        report, clean, trojan = belt.strip_of(victim, chosen, count, strip.Config(overlays=2), 0)
        assert report.false_rejection.n == report.false_acceptance.n == len(clean) == len(trojan) == count


def test_strip_groups_need_enough_images(store, held):
    (victim,) = belt.train_victims([TINY.recipe("clean", "plain", 0)], store)
    with pytest.raises(CompanionError, match="images outside class 1 were asked for"):
        belt.strip_of(victim, held, 40, strip.Config(overlays=2), 0)


def test_fine_tuning_leaves_the_victim_as_it_was(store):
    (victim,) = belt.train_victims([TINY.recipe("badnets", "plain", 0)], store)
    before = {name: value.clone() for name, value in victim.model.state_dict().items()}
    repaired = belt.fine_tune(victim, TINY.defenders_images(30), TINY.training, 0)
    assert all(torch.equal(before[name], value) for name, value in victim.model.state_dict().items())
    assert not torch.equal(repaired.model.head.weight, victim.model.head.weight)
