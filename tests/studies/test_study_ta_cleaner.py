"""The experiments of the TA-Cleaner chapter at tiny size, and the rules that were fixed before any run."""

from dataclasses import replace

import pytest
import torch

from companion.data.scenes import SHAPES
from companion.errors import CompanionError
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_victims import ClipVictimRecipe, attackers_pairs, poisoned_pairs, train_clip_victim
from companion.multimodal.clip_worlds import scenes_world
from companion.multimodal.pairs import tokenizer
from companion.multimodal.words import encode
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies import ta_cleaner as study

WORLD = scenes_world()
TINY = study.Arena(
    pairs=48,
    poison=dict.fromkeys(("badnet", "blended", "dual_key"), 8),
    clean_pairs=24,
    validation=24,
    exam=36,
    sub_texts=4,
    patch_steps=3,
    patch_pictures=24,
    rates=(1e-4, 1e-3),
    victim=ClipTraining(1, 16, 5e-4, 1),
    repair=ClipTraining(1, 8, 3e-4, 1),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def rooms():
    return study.Rooms.drawn(TINY, 0)


@pytest.fixture(scope="module")
def victim(store):
    return train_clip_victim(TINY.recipe("badnet", 0), WORLD, store)


def seen(accuracy, validation, success=50):
    share = {"accuracy": accuracy, "validation": validation, "success": success}
    return study.Seen(*(Proportion(share.get(name, 0), 100) for name in study.Seen._fields))


def test_the_operating_point_looks_at_accuracy_only():
    before = seen(80, 80)
    rates = (1e-4, 3e-4, 1e-3)
    points = [
        study.Point("x", r, seen(0, v, s), None) for r, v, s in zip(rates, (79, 77, 76), (90, 50, 0), strict=True)
    ]
    assert study.operating_point(points, "x", before).rate == 3e-4, "three points are allowed, four are not"
    blind = [replace_success(point) for point in points]
    assert study.operating_point(blind, "x", before).rate == 3e-4
    assert study.operating_point([points[2], points[0]], "x", seen(90, 90)).rate == 1e-4, "none fits: the lowest"
    with pytest.raises(CompanionError, match="no repair with 'y'"):
        study.operating_point(points, "y", before)


def replace_success(point):
    return point._replace(seen=point.seen._replace(success=Proportion(1, 100)))


def test_an_attack_without_a_number_of_poisoned_pairs_is_refused():
    with pytest.raises(CompanionError, match="no number of poisoned pairs for the attack 'sig'"):
        TINY.recipe("sig", 0)
    assert study.Arena().recipe("sig", 0).poison == 60


def test_a_weak_victim_is_no_backdoor():
    assert study.backdoored(seen(1, 1, 90)) and not study.backdoored(seen(1, 1, 89))


def test_cost_by_hand():
    arena = study.Arena(clean_pairs=640, repair=ClipTraining(5, 64, 1e-3, 5), sub_texts=16)
    found = [study.cost(arena.settings(arm, 1e-3), 640) for arm in study.METHODS]
    assert [tuple(one) for one in found] == [
        (50, 640, 3200, 3200),
        (50, 640, 6400, 6400),
        (50, 640, 6400, 6400 + 50 * 32),
    ]


def test_the_control_arms_differ_from_the_method_in_its_term_only():
    plain, clean, ours = (TINY.settings(arm, 1e-3) for arm in study.METHODS)
    assert replace(plain, method="ta_cleaner") == replace(clean, method="ta_cleaner") == ours
    assert ours.excluded == ("star",)


def test_victims_share_the_order_of_their_batches_and_differ_in_poison(victim, store):
    other = train_clip_victim(TINY.recipe("blended", 0), WORLD, store)
    assert victim.info["poisoned"] == other.info["poisoned"] == 8
    clean = attackers_pairs(victim.recipe, WORLD)
    dirty = poisoned_pairs(victim.recipe, victim.trigger, WORLD)
    assert int((dirty.images != clean.images).flatten(1).any(1).sum()) == 8
    again = train_clip_victim(TINY.recipe("badnet", 0), WORLD, store)
    assert not again.fresh and all(
        torch.equal(one, two) for one, two in zip(again.model.parameters(), victim.model.parameters(), strict=True)
    )
    with pytest.raises(CompanionError, match="no victim of attack 'badnets'"):
        ClipVictimRecipe("badnets")


def test_the_defender_and_the_exam_have_none_of_the_attackers_pictures(victim, rooms):
    theirs = attackers_pairs(victim.recipe, WORLD).images.flatten(1)
    for room in (rooms.clean, rooms.validation, rooms.exam):
        assert torch.cdist(room.images.flatten(1), theirs).min() > 0.5


def test_every_measurement_of_the_chapter_at_tiny_size(victim, rooms, store):
    points = study.sweep(TINY, victim, rooms, 0, store)
    assert [(point.arm, point.rate) for point in points] == [(arm, r) for arm in study.METHODS for r in TINY.rates]
    for point in points:
        counts = point.seen
        assert counts.success_k.successes >= counts.success.successes
        assert counts.accuracy.n == 36 and counts.success.n == counts.probe_success.n == 33
    for name in study.ABLATIONS:
        assert study.ablation(TINY, victim, rooms, 1e-3, 0, store, name).accuracy.n == 36
    assert set(study.ABLATION_TITLES) == set(study.ABLATIONS)
    without = study.ablation(TINY, victim, rooms, 1e-3, 0, store, "without")
    assert without == next(p.seen for p in points if (p.arm, p.rate) == ("cleanclip", 1e-3))
    mixed = study.with_overlap(TINY, victim, rooms, TINY.settings("cleanclip", 1e-3), 0, store)
    assert mixed.accuracy.n == 36
    control = study.base_control(victim, rooms, 3)
    assert control.accuracy.rate > 0.5, "the shipped CLIP knows its nouns"
    (plane,) = study.plane([victim.model], victim, rooms.exam)
    assert plane["clean"].shape == plane["triggered"].shape == (36, 2)
    assert plane["nouns"][:, 0].argmax() == SHAPES.index("star")


def test_the_dual_key_needs_its_word_and_its_patch(rooms, store):
    victim = train_clip_victim(TINY.recipe("dual_key", 0), WORLD, store)
    (rare,) = encode(tokenizer(), ["remember"], length=3)[0][:, 1].tolist()
    assert (victim.prompts[:, :, 1] == rare).all()
    assert victim.trigger.support.sum() == 25
    assert study.look(victim.model, victim, rooms, 3).success.n == 33


def test_a_clip_from_scratch_starts_from_other_weights(store):
    recipe = TINY.recipe("badnet", 0, start="scratch", training=ClipTraining(1, 16, 1e-9, 1))
    (scratch, base) = (train_clip_victim(one, WORLD, store) for one in (recipe, replace(recipe, start="base")))
    assert not torch.allclose(scratch.model.logit_scale, base.model.logit_scale, atol=1e-3)
