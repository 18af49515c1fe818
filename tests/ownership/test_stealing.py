"""Each theft does what it says: who answers, what may change, how many channels die, the ball of PGD."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.models.zoo import build_surrogate
from companion.ownership import stealing
from companion.seeding import generator
from companion.training import TrainingConfig, features, logits, train

CONFIG = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.05, label_smoothing=0.0)


def network(seed, classes=3, family="cnn", width=6):
    return build_surrogate(family, 1, classes, 16, generator(seed, "weights"), width=width)


@pytest.fixture(scope="module")
def images():
    labels = torch.arange(90) % 3
    spots = torch.rand(90, 1, 16, 16, generator=generator(0, "images")) * 0.4
    for label in range(3):
        spots[labels == label, :, 5 * label : 5 * label + 5] += 0.5
    return spots.clamp(0, 1)


@pytest.fixture(scope="module")
def labels():
    return torch.arange(90) % 3


@pytest.fixture(scope="module")
def source(images, labels):
    model = network(0)
    train(model, images, labels, CONFIG, generator(0, "train"))
    return model


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, model):
    return all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_extraction_by_label_is_training_on_the_sources_answers(source, images):
    student, before = network(1), weights(source)
    stolen = stealing.extract_by_label(student, source, images, CONFIG, generator(1))
    by_hand = network(1)
    train(by_hand, images, logits(source, images).argmax(1), CONFIG, generator(1))
    assert same(weights(by_hand), stolen) and same(before, source) and same(weights(network(1)), student)


def test_distillation_is_zero_for_the_teacher_and_a_kth_of_the_usual_loss():
    teacher = torch.randn(5, 4, generator=generator(0))
    own = torch.randn(5, 4, generator=generator(1))
    assert stealing.distillation(teacher, teacher, 20.0) == pytest.approx(0, abs=1e-6)
    assert stealing.distillation(teacher + 3, teacher, 2.0) == pytest.approx(0, abs=1e-6)
    p, q = (teacher / 3).softmax(1), (own / 3).softmax(1)
    usual = 9 * (p * (p.log() - q.log())).sum(1).mean()
    assert stealing.distillation(own, teacher, 3.0) == pytest.approx(float(usual) / 4, rel=1e-5)


def test_extraction_by_probability_minimises_the_weighted_sum(source, images):
    """With plain SGD and one batch, the first step equals a hand-made gradient step on the stated loss."""
    one = TrainingConfig(
        epochs=1, batch_size=90, learning_rate=0.1, momentum=0.0, nesterov=False, weight_decay=0.0,
        schedule="constant", label_smoothing=0.0,
    )  # fmt: skip
    stolen = stealing.extract_by_probability(network(2), source, images, one, generator(2), temperature=5.0, alpha=0.7)
    by_hand = network(2).train()
    answers = logits(source, images)
    own = by_hand(images)
    loss = 0.7 * stealing.distillation(own, answers, 5.0) + 0.3 * F.cross_entropy(own, answers.argmax(1))
    loss.backward()
    for mine, theirs in zip(by_hand.parameters(), stolen.parameters(), strict=True):
        torch.testing.assert_close(mine.detach() - 0.1 * mine.grad, theirs.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("match", ["direction", "similarity"])
def test_extraction_of_embeddings_brings_them_nearer(source, images, labels, match):
    stolen = stealing.extract_embedding(network(3), source, images, labels, CONFIG, generator(3), match)
    alone = network(3)
    train(alone, images, labels, CONFIG, generator(3))

    def apart(model):
        own, goal = (F.normalize(features(part, images), dim=1) for part in (model, source))
        if match == "direction":
            return float((1 - (own * goal).sum(1)).mean())
        return float((own @ own.T - goal @ goal.T).abs().mean())

    assert apart(stolen) < 0.7 * apart(alone)


def test_extraction_of_embeddings_refuses_what_it_cannot_match(source, images, labels):
    with pytest.raises(CompanionError, match="direction or similarity"):
        stealing.extract_embedding(network(3), source, images, labels, CONFIG, generator(0), "angle")
    with pytest.raises(CompanionError, match="32 dimensions, the source's 24"):
        stealing.extract_embedding(network(3, width=8), source, images, labels, CONFIG, generator(0))


def test_pgd_stays_in_the_ball_and_in_the_range_and_raises_the_loss(source, images, labels):
    source.train()
    before = weights(source)
    found = stealing.pgd(source, images, labels, 0.1, 0.03, 6)
    assert (found - images).abs().max() <= 0.1 + 1e-6
    assert found.min() >= 0 and found.max() <= 1
    assert source.training and same(before, source) and all(p.requires_grad for p in source.parameters())
    source.eval()
    loss = [F.cross_entropy(logits(source, x), labels) for x in (images, found)]
    assert loss[1] > loss[0] + 0.1
    assert torch.equal(stealing.pgd(source, images, labels, 0.1, 0.03, 0), images)
    with pytest.raises(CompanionError, match=r"eps -0\.1"):
        stealing.pgd(source, images, labels, -0.1, 0.03, 1)


def test_hardening_makes_the_copy_more_robust_and_leaves_the_model(source, images, labels):
    before = weights(source)
    config = replace(CONFIG, epochs=15)
    hardened = stealing.harden(source, images, labels, config, generator(4), eps=0.15, step=0.05, steps=4)
    control = deepcopy(source)
    train(control, images, labels, config, generator(4))
    assert same(before, source)

    def robust(model):
        attacked = stealing.pgd(model, images, labels, 0.15, 0.05, 6)
        return float((logits(model, attacked).argmax(1) == labels).float().mean())

    assert robust(hardened) > robust(control)
    with pytest.raises(CompanionError, match="crop_padding is 2"):
        stealing.harden(source, images, labels, replace(CONFIG, crop_padding=2), generator(4))


def test_fine_tuning_the_last_layer_changes_nothing_else(source, images, labels):
    before = weights(source)
    tuned = stealing.fine_tune(source, images, labels, CONFIG, generator(5), last_only=True)
    assert same(before, source)
    changed = {name for name, value in before.items() if not torch.equal(value, tuned.state_dict()[name])}
    assert changed == {"head.weight", "head.bias"}


def test_fine_tuning_all_layers_changes_them_and_a_new_head_fits_its_labels(source, images, labels):
    tuned = stealing.fine_tune(source, images, labels, CONFIG, generator(5))
    assert all(not torch.equal(a, b) for a, b in zip(source.parameters(), tuned.parameters(), strict=True))
    moved = stealing.fine_tune(source, images, labels % 2, CONFIG, generator(5), classes=2)
    assert logits(moved, images).shape == (90, 2) and not moved.training


@pytest.mark.parametrize("family", ["cnn", "resnet"])
def test_fine_pruning_zeroes_the_stated_number_of_channels_for_good(images, labels, family):
    model = network(6, family=family)
    total = sum(norm.num_features for _, norm in stealing.layers(model))
    rates = (0.2, 0.5, 0.8)
    found = stealing.fine_prune(model, images, labels, rates, CONFIG, generator(6))
    dead_before = None
    for rate, pruned in zip(rates, found, strict=True):
        dead = torch.cat([norm.weight.detach() == 0 for _, norm in stealing.layers(pruned)])
        assert int(dead.sum()) == round(rate * total)
        for conv, norm in stealing.layers(pruned):
            gone = norm.weight.detach() == 0
            assert (conv.weight[gone] == 0).all() and (norm.bias[gone] == 0).all()
            assert int((~gone).sum()) > 0
        assert dead_before is None or (dead[dead_before]).all()  # what is gone stays gone
        dead_before = dead


def test_fine_pruning_cuts_the_weakest_channels(source, images, labels):
    activity = torch.cat(stealing.mean_activations(source, images))
    norm = source.blocks[0][2]
    with torch.no_grad():  # the oracle: the first layer's activations by hand
        by_hand = source.blocks[0]((images - 0.5) / 0.25).mean((0, 2, 3))
    torch.testing.assert_close(activity[: norm.num_features], by_hand, rtol=1e-4, atol=1e-5)
    (pruned,) = stealing.fine_prune(source, images, labels, [0.2], CONFIG, generator(0))
    dead = torch.cat([norm.weight.detach() == 0 for _, norm in stealing.layers(pruned)])
    assert activity[dead].max() <= activity[~dead].min()


@pytest.mark.parametrize("rates", [[], [0.5, 0.4], [0.0], [1.0], [0.3, 0.3]])
def test_pruning_rates_must_rise_in_the_open_interval(source, images, labels, rates):
    with pytest.raises(CompanionError, match="pruning rates"):
        stealing.fine_prune(source, images, labels, rates, CONFIG, generator(0))


def test_images_outside_the_range_are_refused(source, images, labels):
    for theft in (
        lambda x: stealing.extract_by_label(network(1), source, x, CONFIG, generator(0)),
        lambda x: stealing.fine_tune(source, x, labels, CONFIG, generator(0)),
        lambda x: stealing.fine_prune(source, x, labels, [0.2], CONFIG, generator(0)),
    ):
        with pytest.raises(CompanionError, match=r"the thief's images lie in .*expected \[0, 1\]"):
            theft(images * 2)
