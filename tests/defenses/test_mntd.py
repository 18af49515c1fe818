"""MNTD: the family of Trojans, the meta-classifier on networks that differ by design, and the three rules."""

import pytest
import torch
from torch import nn

from companion.defenses import mntd
from companion.errors import CompanionError
from companion.fleet import Fleet
from companion.models.conv import build_conv
from companion.seeding import generator

SHAPE = (1, 8, 8)
QUICK = mntd.Config(queries=3, epochs=12, batch=4, learning_rate=0.02, replacement=False, repeats=2)


def shadows(count, start=0):
    """Half of the networks prefer class 0 whatever they see, as a strongly poisoned one does."""
    models = [build_conv("conv2", SHAPE, 3, generator(start + k), width=2, hidden=4) for k in range(count)]
    trojaned = torch.arange(count) % 2 == 0
    with torch.no_grad():
        for model, bad in zip(models, trojaned, strict=True):
            model.head.bias[0] += 2.0 * bad
    return models, trojaned


def trained(config=QUICK, fleet=True):
    models, trojaned = shadows(16)
    others, other_trojaned = shadows(8, 100)
    wrap = Fleet.of if fleet else list
    mean, deviation = torch.full(SHAPE, 0.5), torch.full(SHAPE, 0.2)
    return mntd.train_meta(wrap(models), trojaned, wrap(others), other_trojaned, mean, deviation, config, generator(0))


def test_it_learns_a_difference_and_a_list_of_networks_gives_the_same():
    first, again = trained(), trained(fleet=False)
    assert first.validation_auc == 1.0 and first.curve.shape == (12, 2)
    torch.testing.assert_close(first.validation_scores, again.validation_scores, rtol=1e-3, atol=1e-3)
    models, trojaned = shadows(6, 200)
    scores = mntd.score(first.meta, models)
    assert mntd.auc(scores, trojaned) == 1.0
    assert torch.equal(mntd.verdicts(scores, "median"), trojaned)
    assert torch.equal(mntd.verdicts(scores, "validation", first), trojaned)


def test_the_official_setting_asks_one_shadow_at_a_time_and_fixed_queries_stay():
    fixed = mntd.Config(queries=2, epochs=1, tune_queries=False, repeats=1)
    found = trained(fixed)
    noise = torch.randn(1, 2, *SHAPE, generator=generator(0))
    assert torch.equal(found.meta.queries, 0.5 + 0.2 * noise)
    assert not torch.equal(trained(mntd.Config(queries=2, epochs=1, repeats=1)).meta.queries, found.meta.queries)


def test_training_leaves_the_shadows_alone():
    models, trojaned = shadows(4)
    fleet = Fleet.of(models)
    before = {name: value.clone() for name, value in fleet.state().items()}
    mean = torch.full(SHAPE, 0.5)
    mntd.train_meta(fleet, trojaned, fleet, trojaned, mean, mean, QUICK, generator(0))
    assert all(torch.equal(before[name], value) for name, value in fleet.state().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in fleet.parameters())


def test_repeats_are_independent_networks():
    alone = mntd.Config(queries=2, repeats=1)
    meta = mntd.MetaClassifier(
        torch.zeros(SHAPE), torch.ones(SHAPE), 3, mntd.Config(queries=2, repeats=3), generator(1)
    )
    models, _ = shadows(2)
    together = meta(models, torch.arange(2))
    single = mntd.MetaClassifier(torch.zeros(SHAPE), torch.ones(SHAPE), 3, alone, generator(1))
    single.load_state_dict({name: value[1:2] for name, value in meta.state_dict().items()})
    torch.testing.assert_close(single(models, torch.arange(2))[0], together[1])


def test_the_median_rule_always_accuses_half():
    scores = torch.randn(20, generator=generator(3)) - 100
    assert mntd.verdicts(scores, "median").sum() == 10 and not mntd.verdicts(scores, "zero").any()


def test_the_best_threshold_by_hand():
    scores, positive = torch.tensor([0.0, 1, 2, 3]), torch.tensor([False, True, False, True])
    assert mntd.best_threshold(scores, positive) == 0.5
    assert mntd.auc(scores, positive) == 0.75
    assert mntd.auc(torch.zeros(4), positive) == 0.5


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16)])
def test_trojans_have_the_ranges_of_the_specification(shape):
    stream = generator(0)
    drawn = [mntd.jumbo_trojan(shape, 5, stream) for _ in range(300)]
    sizes = {int(one.trigger.support.sum()) for one in drawn}
    assert sizes == {4, 9, 16, 25, 256}
    for one in drawn:
        strength, full = one.trigger.strength, one.trigger.support.all()
        assert 0.05 <= strength <= 0.2 if full else (0.2 <= strength <= 0.5 or strength == 1)
        assert 0.05 <= one.rate <= 0.5 and 0 <= one.target < 5
    assert shape[0] == 3 or set(drawn[0].trigger.pattern.unique().tolist()) <= {0.0, 1.0}
    patches = [mntd.jumbo_trojan(shape, 5, stream, "patch").trigger for _ in range(50)]
    assert {int(one.support.sum()) for one in patches} == {4, 9, 16, 25} and {one.strength for one in patches} == {1.0}
    assert all(mntd.jumbo_trojan(shape, 5, stream, "blend").trigger.support.all() for _ in range(5))


def test_bad_input_is_named():
    models, trojaned = shadows(4)
    mean = torch.zeros(SHAPE)
    with pytest.raises(CompanionError, match="4 shadows, 4 of them backdoored"):
        mntd.train_meta(models, trojaned | True, models, trojaned, mean, mean, QUICK, generator(0))
    with pytest.raises(CompanionError, match="expected both kinds"):
        mntd.auc(torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(CompanionError, match='rule is "mean"'):
        mntd.verdicts(torch.zeros(3), "mean")
    with pytest.raises(CompanionError, match='kind "warp"'):
        mntd.jumbo_trojan((1, 16, 16), 3, generator(0), "warp")
    nn.init.constant_(models[0].head.weight, float("nan"))
    with pytest.raises(CompanionError, match="not finite"):
        mntd.train_meta(models, trojaned, models, trojaned, mean, mean, QUICK, generator(0))
