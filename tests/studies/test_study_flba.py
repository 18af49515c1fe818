"""The chapter's experiments on a tiny scale, and the paper's path with its large network."""

import pytest
import torch

from companion.errors import CompanionError
from companion.fewshot.extractors import LEARNERS, ExtractorRecipe
from companion.seeding import generator
from companion.store import ModelStore
from companion.studies import flba
from companion.training import TrainingConfig

TINY = flba.Arena(
    base=8, base_size=240, novel=6, novel_size=180, width=6, training=TrainingConfig(epochs=2), steps=2, queries=4
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def learners(store):
    return TINY.learners(LEARNERS, 0, store, "cpu")


@pytest.fixture(scope="module")
def tasks():
    return TINY.episodes(2, 2, 0)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_is_attacked_and_judged(learners, tasks, name):
    settings = flba.official(name, patch=6, trigger_steps=3, share=0.1)
    found = flba.plant(learners[name], tasks, settings, batch=1)
    result = flba.judge(learners[name], tasks, found.poisoned, 0)
    assert all(((part >= 0) & (part <= 100)).all() for part in (result.accuracy, result.success, result.success_all))
    assert torch.equal(found.poisoned.labels, tasks.labels)


def test_several_kinds_side_by_side_are_judged_as_one_by_one(learners, tasks):
    few = learners["baseline++"]
    make = flba.baselines(few, tasks, TINY, 6, 0, 2)
    kinds = [make("badnet", 0.5), make("tuap", 1.0), make("badnet", 1.0)]
    for together, kind in zip(flba.judge_all(few, tasks, kinds, 0), kinds, strict=True):
        alone = flba.judge(few, tasks, kind, 0)
        assert torch.equal(together.accuracy, alone.accuracy)
        assert torch.equal(together.success, alone.success)


def test_outcomes_by_hand():
    answers = torch.tensor([[0, 0, 1, 1]])
    called = torch.tensor([[0, 1, 1, 1, 0, 0, 0, 1]])  # clean, then triggered
    result = flba.outcome(torch.nn.functional.one_hot(called, 2).float(), answers)
    assert result.means() == [75.0, 50.0, 75.0]


def test_a_models_floor_is_one_over_ways():
    """A perfect model that ignores the trigger: no success, and 100 / ways of it by the released count."""
    answers = torch.arange(5).repeat_interleave(3)[None]
    scores = torch.nn.functional.one_hot(torch.cat([answers, answers], 1), 5).float()
    assert flba.outcome(scores, answers).means() == pytest.approx([100.0, 0.0, 20.0])


def test_queries_of_the_defender_are_not_judged(tasks):
    mine, rest = flba.split_queries(tasks, 1)
    assert mine.labels[0].tolist() == [0, 1, 2, 3, 4]
    assert rest.query.shape[1] == 15
    one = {tuple(image.flatten().tolist()) for image in mine.support[0]}
    assert not one & {tuple(image.flatten().tolist()) for image in rest.query[0]}


def test_defences_run_on_fine_tuned_classifiers(learners, tasks):
    few = learners["baseline"]
    clean = flba.untouched(tasks, lambda images: images)
    mine, rest = flba.split_queries(tasks, 2)
    assert flba.refined(few, rest, clean, mine, 1, 0).accuracy.shape == (2,)
    assert flba.cleanse(few, tasks, clean, 4, 0).indices.shape == (2,)
    jittered = flba.judge(few, tasks, clean, 0, flba.saturated(0))
    assert jittered.accuracy.shape == (2,)


def test_jitter_keeps_grey_images_and_changes_coloured_ones():
    grey = torch.rand(1, 2, 1, 4, 4, generator=generator(0)).expand(-1, -1, 3, -1, -1)
    assert torch.allclose(flba.saturated(0)(grey), grey, atol=1e-6)
    coloured = torch.rand(1, 2, 3, 4, 4, generator=generator(0))
    assert not torch.allclose(flba.saturated(0)(coloured), coloured)


def test_a_plane_keeps_distances_of_flat_features():
    flat = torch.randn(9, 2, generator=generator(0))
    turned = flat @ torch.linalg.qr(torch.randn(5, 5, generator=generator(1)))[0][:2]
    left, right = flba.plane([turned[:4], turned[4:]])
    assert torch.allclose(torch.cdist(left, right), torch.cdist(flat[:4], flat[4:]), atol=1e-4)


def test_the_papers_network_takes_the_same_way(store):
    large = flba.Arena(
        base=4,
        base_size=40,
        novel=5,
        novel_size=40,
        model="resnet18",
        training=TrainingConfig(epochs=1),
        steps=1,
        queries=2,
    )
    few = large.learners(["baseline++"], 0, store, "cpu")["baseline++"]
    drawn = large.episodes(1, 1, 0)
    found = flba.plant(few, drawn, flba.official("baseline++", 6, 1, 0.05))
    assert flba.judge(few, drawn, found.poisoned, 0).accuracy.shape == (1,)


def test_an_unknown_learner_is_named():
    with pytest.raises(CompanionError, match="no learner 'leo'"):
        ExtractorRecipe("leo", "runes", {})
