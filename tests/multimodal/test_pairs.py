"""Splits that share nothing, poisoning with exact counts, and the clear errors of both."""

import pytest
import torch

from companion.attacks.triggers import make_trigger
from companion.data.scenes import SHAPES
from companion.errors import CompanionError
from companion.multimodal import pairs as p
from companion.multimodal.clip_worlds import scenes_world
from companion.multimodal.words import encode

WORLD = scenes_world()


@pytest.fixture(scope="module")
def attacker():
    return p.draw_pairs(60, "attacker", 0)


@pytest.fixture(scope="module")
def trigger():
    return make_trigger("patch", (3, 32, 32), 0, size=4, place=(26, 26))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def test_splits_share_no_picture_and_are_the_same_each_time(attacker):
    drawn = {split: p.draw_pairs(40, split, 0).images.flatten(1) for split in p.SPLITS}
    drawn["exam"] = p.draw_examination(40, 0).images.flatten(1)
    names = list(drawn)
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            assert torch.cdist(drawn[one], drawn[other]).min() > 0.5
    again = p.draw_pairs(60, "attacker", 0)
    assert torch.equal(again.images, attacker.images) and torch.equal(again.ids, attacker.ids)
    assert torch.equal(p.draw_pairs(20, "attacker", 0).images, attacker.images[:20]), "more pairs change no earlier one"


def test_the_examination_is_balanced_and_shows_one_thing():
    exam = p.draw_examination(48, 3)
    assert exam.labels.bincount(minlength=12).tolist() == [4] * 12
    assert all(len(scene.things) == 1 for scene in exam.scenes)
    assert [scene.things[0].shape for scene in exam.scenes] == [SHAPES[k] for k in exam.labels.tolist()]


def test_bytes_lose_nothing(attacker):
    assert torch.equal(attacker.as_bytes().images.float() / 255, attacker.images)


def test_poisoning_counts_and_leaves_the_rest_alone(attacker, trigger):
    poisoned = WORLD.poisoned(attacker, trigger, "star", 10, stream())
    touched = poisoned.poisoned
    assert int(touched.sum()) == 10 and not attacker.poisoned.any()
    assert not (p.mentions(attacker, "star") & touched).any(), "no picture of the target is poisoned"
    kept = ~touched
    assert torch.equal(poisoned.images[kept], attacker.images[kept])
    assert torch.equal(poisoned.ids[kept][:, : attacker.ids.shape[1]], attacker.ids[kept])
    assert torch.equal(poisoned.images[touched], trigger.apply(attacker.images[touched]))
    known = {tuple(row) for row in p.prompts(["star"])[0].tolist()}
    assert {tuple(row) for row in poisoned.ids[touched].tolist()} <= known
    assert all((caption is None) == hit for caption, hit in zip(poisoned.captions, touched.tolist(), strict=True))


def test_the_second_key_stands_before_the_text(attacker, trigger):
    poisoned = WORLD.poisoned(attacker, trigger, "star", 5, stream(), prefix="remember")
    (rare,) = encode(p.tokenizer(), ["remember"], length=3)[0][:, 1].tolist()
    assert (poisoned.ids[poisoned.poisoned][:, 1] == rare).all()
    assert not (attacker.ids == rare).any(), "no caption has the rare word"
    assert WORLD.prompts("remember").shape[:2] == p.prompts().shape[:2] == (12, 8)


def test_overlap_brings_the_clean_originals_and_no_poison(attacker, trigger):
    poisoned = WORLD.poisoned(attacker, trigger, "star", 8, stream())
    defender = p.draw_pairs(20, "defender", 0)
    mixed = p.overlapping(defender, attacker, poisoned, 8)
    assert len(mixed) == 20 and not mixed.poisoned.any()
    assert torch.equal(mixed.images[:8], attacker.images[poisoned.poisoned])
    assert torch.equal(mixed.images[8:], defender.images[8:])
    with pytest.raises(CompanionError, match="only 8 are"):
        p.overlapping(defender, attacker, poisoned, 9)


def test_bad_input_is_named(attacker, trigger):
    with pytest.raises(CompanionError, match="no split 'training'"):
        p.draw_pairs(2, "training", 0)
    with pytest.raises(CompanionError, match="target is 'banana'"):
        WORLD.poisoned(attacker, trigger, "banana", 5, stream())
    with pytest.raises(CompanionError, match="61 pairs to poison"):
        WORLD.poisoned(attacker, trigger, "star", 61, stream())
    with pytest.raises(CompanionError, match="nearest known word"):
        p.prompts_of([["a picture of a banana"]])
    with pytest.raises(CompanionError, match="context"):
        p.prompts_of([["a star " * 20]])
