"""The experiments of the chapter on token unlearning at tiny size: the pool, suspects, costs, and every arm once."""

from dataclasses import replace

import pytest
import torch

from companion.errors import CompanionError
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_victims import ClipVictimRecipe, poisoned_pairs
from companion.multimodal.pairs import tokenizer
from companion.multimodal.suspicion import Isolation, Overfitting
from companion.multimodal.unlearning import Unlearning
from companion.statistics import Proportion
from companion.store import ModelStore
from companion.studies import ubt

SHORT = ClipTraining(epochs=1, batch_size=32, learning_rate=3e-4, warmup=0)
ARENA = ubt.Arena(
    ClipVictimRecipe("badnet", pairs=256, poison=40, training=SHORT),
    suspects=16,
    kept=64,
    clean=64,
    exam=60,
    probe=60,
    overfitting=Overfitting(0.25, SHORT),
    isolation=Isolation(training=SHORT),
    unlearning=Unlearning(forget=8, training=SHORT),
    repair=SHORT,
)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    return ubt.victims(ARENA, ["badnet"], ModelStore(tmp_path_factory.mktemp("store")))["badnet"]


@pytest.fixture(scope="module")
def case(victim):
    return ubt.case_of(ARENA, victim)


def state(model):
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def test_a_world_is_named(tmp_path):
    store = ModelStore(tmp_path)
    assert ubt.world_named("scenes", store) is ARENA.world
    with pytest.raises(CompanionError, match="the world 'emoij' with the checkpoint '': expected one of scenes, emoji"):
        ubt.world_named("emoij", store)
    with pytest.raises(CompanionError, match="world 'emoji' with the checkpoint 'somewhere'"):
        ubt.world_named("emoji", store, "somewhere")


def test_the_pool_is_the_training_data_with_some_texts_exchanged(victim):
    pool, noisy = ubt.suspect_pool(ARENA, victim)
    before = poisoned_pairs(victim.recipe, victim.trigger, victim.world)
    assert torch.equal(pool.images, before.images) and torch.equal(pool.poisoned, before.poisoned)
    assert int(noisy.sum()) == 26 and not (noisy & pool.poisoned).any()
    assert torch.equal(pool.ids[~noisy], before.ids[~noisy])
    assert sorted(pool.ids[noisy].tolist()) == sorted(before.ids[noisy].tolist())
    assert (pool.ids[noisy] != before.ids[noisy]).any(1).float().mean() > 0.9
    texts = tokenizer().batch_decode(pool.ids, skip_special_tokens=True)
    assert all(told is None or told.text == text for told, text in zip(pool.captions, texts, strict=True))
    with pytest.raises(CompanionError, match=r"share of mismatched pairs is 1\.5"):
        ubt.suspect_pool(replace(ARENA, noise=1.5), victim)


def test_detection_scores_every_pair_and_is_repeatable(case, victim):
    assert tuple(case.detection.scores) == ubt.SCORES == tuple(ubt.SCORE_TITLES)
    for score in ubt.SCORES:
        assert case.detection.scores[score].shape == (256,) and 0 <= case.detection.auroc(score) <= 100
    low, high = case.detection.auroc("low_similarity"), case.detection.auroc("similarity")
    assert low + high == pytest.approx(100)
    areas, alike = ubt.auroc_alike(case)
    assert alike < 10 and areas["low_similarity"] + areas["similarity"] == pytest.approx(100)
    bare = replace(case, pool=replace(case.pool, captions=(None,) * 256))
    assert ubt.auroc_alike(bare) == ({}, 0)
    assert case.detection.weak_share.n == 64
    again = ubt.case_of(ARENA, victim, ("overfitted",))
    assert torch.equal(again.detection.scores["overfitted"], case.detection.scores["overfitted"])


def test_suspects_have_the_precision_asked_for(case):
    for precision in (0.0, 0.5, 1.0):
        chosen = ubt.suspects_with_precision(ARENA, case, precision)
        assert len(chosen) == 16 and int(chosen.poisoned.sum()) == round(16 * precision)
    found = ubt.suspects_of(ARENA, case)
    assert len(found) == 16
    right = case.detection.precision("overfitted", 16)
    assert int(found.poisoned.sum()) == right.successes
    with pytest.raises(CompanionError, match=r"50 poisoned suspects.*has 40"):
        ubt.suspects_with_precision(replace(ARENA, suspects=50), case, 1.0)


def test_kept_pairs_are_none_of_the_suspicious_share(case):
    kept = ubt.kept_of(ARENA, case)
    top = case.pool.subset(case.detection.scores["overfitted"].argsort(descending=True, stable=True)[:51])
    assert len(kept) == 64
    assert (torch.cdist(kept.images.flatten(1), top.images.flatten(1)) > 1e-3).all()
    with pytest.raises(CompanionError, match="500 pairs to keep"):
        ubt.kept_of(replace(ARENA, kept=500), case)


@pytest.mark.parametrize("method", [*ubt.ARMS, "none"])
def test_every_arm_leaves_the_victim_and_counts_its_pairs(case, method):
    before = state(case.victim.model)
    found = ubt.arm(ARENA, case, method, 3e-4, ubt.defenders_pairs(ARENA), curve=24)
    assert torch.equal(state(case.victim.model), before) and not torch.equal(state(found.model), before)
    expected = {"local": 80, "whole": 80, "ascent": 80, "none": 64, "fine_tuning": 64, "cleanclip": 128}
    assert found.passes == (expected[method],) and len(found.curve) == 1
    assert found.outcome.accuracy.n == 60 and found.outcome.recall.n == 5 and found.outcome.success.n == 55
    assert len(found.outcome.percent()) == len(ubt.OUTCOME_TITLES) == len(ubt.OUTCOMES)


def test_variants_and_marks_cover_what_the_chapter_shows(case):
    found = ubt.variants(ARENA, case, ubt.defenders_pairs(ARENA), ARENA.unlearning)
    assert set(found) == set(ubt.VARIANT_TITLES)
    assert ubt.control(ARENA.world, case.exam).n == 55
    words, effects, marks, poisoned = ubt.word_marks(case, 2)
    assert poisoned.tolist() == [True, True, False, False] and marks.any(1).all()
    for line, row, mark in zip(words, effects, marks, strict=True):
        assert (row[len(line) :] == 0).all() and not mark[len(line) :].any()
    hit, length = ubt.marked_target(case, "star")
    assert hit.n == 40 and 1 <= length <= 3


def test_costs_count_until_the_success_stays_low():
    def found(*rates):
        passes = tuple(100 * (i + 1) for i in range(len(rates)))
        return ubt.Repaired(None, None, passes, tuple(Proportion(rate, 100) for rate in rates))

    assert ubt.cost_to(found(90, 10, 8), 15.0, before=50) == (250, True)
    assert ubt.cost_to(found(10, 40, 8), 15.0) == (300, True)
    assert ubt.cost_to(found(5, 5, 5), 15.0) == (100, True)
    assert ubt.cost_to(found(10, 8, 40), 15.0) == (300, False)
    assert ubt.preparation(ARENA) == 64


def test_the_best_rate_is_the_most_accurate_of_those_that_repair():
    def outcome(accuracy, success):
        share = Proportion(accuracy, 100)
        return ubt.Outcome(share, share, share, Proportion(success, 100), share, share, share)

    found = {1e-4: outcome(80, 50), 3e-4: outcome(79, 14), 1e-3: outcome(60, 0)}
    assert ubt.best_rate(found, 15.0) == 3e-4
    assert ubt.best_rate(found, 60.0) == 1e-4
    assert ubt.best_rate({1e-4: outcome(80, 90), 3e-4: outcome(70, 80)}, 15.0) == 3e-4


def test_the_plane_is_orthonormal_and_fixed_in_sign():
    points = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3, 1, 1, 1, 1])
    mean, directions = ubt.plane(points)
    torch.testing.assert_close(directions.T @ directions, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(ubt.plane(points - 2 * (points - mean))[1], directions, atol=1e-4, rtol=0)
    assert directions[:, 0].abs().argmax() == 0 and directions[:, 1].abs().argmax() == 1


def test_the_map_and_the_cosines_describe_the_examination(case):
    points = ubt.embedding_map({"victim": case.victim.model}, case.exam, 20)["victim"]
    assert {name: tuple(cloud.shape) for name, cloud in points.items()} == {
        "target": (5, 2),
        "others": (20, 2),
        "triggered": (20, 2),
    }
    assert all(-1 <= value <= 1 for value in ubt.text_images(case.victim.model, case.exam))
