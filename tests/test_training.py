import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from companion.errors import CompanionError
from companion.metrics import clean_accuracy
from companion.models.build import build_model
from companion.seeding import generator
from companion.training import TrainingConfig, features, learning_rate, logits, train

TINY = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.05, crop_padding=1)


def images_and_labels(n=37, channels=3, size=8, classes=4):
    images = torch.rand(n, channels, size, size, generator=generator(0, "images"))
    return images, torch.randint(classes, (n,), generator=generator(0, "labels"))


def tiny_model(seed=0, channels=3, classes=4):
    return build_model("small_cnn", channels, classes, generator(seed, "weights"), width=4)


def trained(seed=0, config=TINY, **arguments):
    model = tiny_model()
    history = train(model, *images_and_labels(), config, generator(seed, "training"), **arguments)
    return model, history


def same_weights(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class Stripes(nn.Module):
    """A network that records the batches it is shown."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)
        self.seen = []

    def features(self, images):
        self.seen.append(images.detach().clone())
        return images.mean((2, 3))

    def forward(self, images):
        return self.head(self.features(images))


def test_it_learns_to_read_digits():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, size=16, mode="bilinear")
    labels = torch.tensor(digits.target)
    model = build_model("small_cnn", 1, 10, generator(0, "weights"), width=16)
    history = train(model, images[:1200], labels[:1200], TrainingConfig(epochs=3), generator(0, "training"))
    assert clean_accuracy(logits(model, images[1200:]), labels[1200:]).rate > 0.9
    assert history[-1].loss < history[0].loss
    assert history[-1].accuracy > 0.9


def test_the_same_generator_seed_gives_the_same_bits_whatever_the_global_state():
    torch.random.default_generator.manual_seed(1)
    first, _ = trained()
    torch.random.default_generator.manual_seed(2)
    again, _ = trained()
    other, _ = trained(seed=1)
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_dropout_too_depends_on_the_generator_alone():
    def with_dropout(state):
        torch.random.default_generator.manual_seed(state)
        model = tiny_model()
        model.blocks.append(nn.Dropout(0.5))
        train(model, *images_and_labels(), TINY, generator(0, "training"))
        return model

    assert same_weights(with_dropout(1), with_dropout(2))


def test_the_global_random_state_stays_untouched():
    before = torch.random.get_rng_state()
    trained()
    assert torch.equal(before, torch.random.get_rng_state())


def test_channels_last_computes_the_same_network():
    last, _ = trained(config=TrainingConfig(epochs=1, learning_rate=0.01))
    first, _ = trained(config=TrainingConfig(epochs=1, learning_rate=0.01, channels_last=False))
    for name, value in last.state_dict().items():
        assert torch.allclose(value, first.state_dict()[name], atol=1e-4), name


def test_bfloat16_is_close_to_float32_and_keeps_float32_weights():
    config = {"epochs": 1, "learning_rate": 0.01}
    full, history = trained(config=TrainingConfig(**config))
    half, coarse = trained(config=TrainingConfig(**config, precision="bfloat16"))
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert not same_weights(full, half)
    assert coarse[0].loss == pytest.approx(history[0].loss, rel=0.02)


@pytest.mark.parametrize(("n", "sizes"), [(16, [8, 8]), (18, [8, 8, 2]), (17, [8, 8])])
def test_a_last_batch_of_one_image_is_dropped_and_no_other(n, sizes):
    model = Stripes()
    train(model, *images_and_labels(n), TrainingConfig(epochs=1, batch_size=8), generator(0, "t"))
    assert [len(batch) for batch in model.seen] == sizes


def test_every_epoch_shows_every_image_once_in_a_new_order():
    images, labels = images_and_labels(24)
    model = Stripes()
    train(model, images, labels, TrainingConfig(epochs=2, batch_size=8), generator(0, "t"))
    first, second = torch.cat(model.seen[:3]), torch.cat(model.seen[3:])
    assert not torch.equal(first, second)
    for shown in (first, second):
        assert torch.equal(shown.flatten(1).sort(0).values, images.flatten(1).sort(0).values)


def test_crops_are_windows_of_the_padded_image_and_reach_every_shift():
    images = torch.rand(1, 3, 5, 4, generator=generator(0, "images")).repeat(400, 1, 1, 1)
    model = Stripes()
    config = TrainingConfig(epochs=1, batch_size=400, crop_padding=1)
    train(model, images, torch.zeros(400, dtype=torch.int64), config, generator(0, "t"))
    padded = F.pad(images[0], (1, 1, 1, 1))
    windows = [padded[:, y : y + 5, x : x + 4] for y in range(3) for x in range(3)]
    matches = torch.stack([(model.seen[0] == window).flatten(1).all(1) for window in windows], 1)
    assert (matches.sum(1) == 1).all()
    assert (matches.sum(0) > 400 / 9 / 2).all()


def test_one_step_equals_stochastic_gradient_descent_by_hand():
    images, labels = images_and_labels(8)
    model, by_hand = Stripes(), Stripes()
    by_hand.load_state_dict(model.state_dict())
    config = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.5, schedule="constant", weight_decay=0.01)
    [epoch] = train(model, images, labels, config, generator(0, "t"))
    scores = by_hand(images)
    smooth = F.one_hot(labels, 4) * 0.9 + 0.1 / 4
    loss = -(smooth * scores.log_softmax(1)).sum(1).mean()
    loss.backward()
    assert epoch.loss == pytest.approx(loss.item(), rel=1e-5)
    assert epoch.accuracy == (scores.argmax(1) == labels).float().mean().item()
    for updated, start in zip(model.parameters(), by_hand.parameters(), strict=True):
        slope = start.grad + 0.01 * start
        expected = start - 0.5 * (slope + 0.9 * slope)  # Nesterov's first step, from zero velocity
        assert torch.allclose(updated, expected, atol=1e-6)


def test_the_extra_loss_gets_features_labels_and_roles_of_the_batch():
    images, labels = images_and_labels(16)
    roles = torch.arange(16)
    model = Stripes()
    calls = []

    def extra(found, batch_labels, batch_roles):
        calls.append((found.detach().clone(), batch_labels, batch_roles))
        return 10 + 0 * found.sum()

    config = TrainingConfig(epochs=1, batch_size=8)
    [epoch] = train(model, images, labels, config, generator(0, "t"), roles=roles, extra_loss=extra)
    assert len(model.seen) == len(calls) == 2  # features are computed once a batch
    for found, batch_labels, batch_roles in calls:
        assert torch.equal(labels[batch_roles], batch_labels)
        assert torch.allclose(found, images[batch_roles].mean((2, 3)))
    assert epoch.loss > 10


def test_the_extra_loss_moves_the_weights():
    def pull(found, labels, roles):
        return found.square().mean()

    plain, _ = trained()
    pulled, _ = trained(extra_loss=pull)
    images = images_and_labels()[0]
    assert features(pulled, images).square().mean() < features(plain, images).square().mean()


def test_progress_is_reported_after_every_epoch():
    reported = []
    _, history = trained(on_epoch=reported.append)
    assert reported == history
    assert [epoch.number for epoch in history] == [1, 2]
    assert all(epoch.seconds > 0 and 0 <= epoch.accuracy <= 1 for epoch in history)


def test_one_cycle_rises_in_a_line_and_falls_to_zero():
    rates = [learning_rate(TrainingConfig(learning_rate=0.2), step, 100) for step in range(100)]
    assert rates[:30] == pytest.approx([0.2 * (step + 1) / 30 for step in range(30)])
    assert max(rates) == 0.2
    assert all(a > b for a, b in pairwise(rates[30:]))
    assert 0 < rates[-1] < 1e-3


def test_the_cosine_and_constant_schedules():
    cosine = TrainingConfig(learning_rate=0.1, schedule="cosine")
    expected = torch.optim.lr_scheduler.CosineAnnealingLR
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = expected(optimizer, 20)
    for step in range(20):
        assert learning_rate(cosine, step, 20) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert {learning_rate(TrainingConfig(schedule="constant"), step, 20) for step in range(20)} == {0.2}


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_trainings_have_a_positive_rate_at_every_step(steps):
    for schedule in ("one_cycle", "cosine", "constant"):
        for step in range(steps):
            assert 0 < learning_rate(TrainingConfig(schedule=schedule), step, steps) <= 0.2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_at_once_and_says_where(value):
    calls = []

    def breaks(found, labels, roles):
        calls.append(1)
        return found.sum() * (value if len(calls) == 7 else 0)

    wanted = rf"loss is {value} in epoch 2 of 2, step 2 of 5, at learning rate 0\.0306:.*Lower TrainingConfig"
    with pytest.raises(CompanionError, match=wanted):
        trained(extra_loss=lambda f, y, r: breaks(f + 1, y, r))
    assert len(calls) == 7


BAD_INPUTS = {
    r"lie in \[.*expected \[0, 1\]": lambda x, y: (x * 255, y),
    r"lie in \[nan.*expected \[0, 1\]": lambda x, y: (x.clone().index_fill_(0, torch.tensor([3]), math.nan), y),
    "dtype torch.uint8": lambda x, y: ((x * 255).byte(), y),
    r"shape \(3, 8, 8\)": lambda x, y: (x[0], y),
    r"shape \(1, 3, 8, 8\)": lambda x, y: (x[:1], y[:1]),
    "labels have shape .36,. ": lambda x, y: (x, y[:-1]),
    "dtype torch.int32": lambda x, y: (x, y.int()),
    r"labels lie in \[0, 4\]: expected \[0, 3\]": lambda x, y: (x, torch.arange(37) % 5),
    r"labels lie in \[-1": lambda x, y: (x, y - 1),
}


@pytest.mark.parametrize("message", BAD_INPUTS)
def test_data_of_another_form_are_refused_before_training(message):
    model = tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CompanionError, match=message):
        train(model, *BAD_INPUTS[message](*images_and_labels()), TINY, generator(0, "t"))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_roles_of_another_length_are_refused():
    with pytest.raises(CompanionError, match="training roles have shape"):
        trained(roles=torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"momentum": 1.0},
        {"momentum": 0.0}, {"weight_decay": -1.0}, {"schedule": "step"}, {"warmup": 1.0}, {"label_smoothing": 1.0},
        {"crop_padding": -1}, {"precision": "float16"},
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_named(setting):
    [name] = setting if setting != {"momentum": 0.0} else ["nesterov"]
    with pytest.raises(CompanionError, match=f"TrainingConfig.{name} is "):
        TrainingConfig(**setting)


def test_evaluation_does_not_depend_on_the_batch_size_and_restores_every_mode():
    model, _ = trained()
    model.train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images = images_and_labels()[0]
    found = logits(model, images, batch_size=10)
    assert found.shape == (37, 4) and not found.requires_grad
    assert torch.allclose(found, logits(model, images), atol=1e-5)
    assert torch.allclose(found, model.head(features(model, images)), atol=1e-5)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.allclose(found, model.eval()(images), atol=1e-5)


def test_training_leaves_the_model_in_evaluation_mode():
    model, _ = trained()
    assert not any(module.training for module in model.modules())
