"""The adversarial fingerprints: points where they should be, a matching rate by hand, cost, and errors."""

import pytest
import torch

from companion.errors import CompanionError
from companion.models.zoo import build_surrogate
from companion.ownership import baselines
from companion.ownership.stealing import pgd
from companion.seeding import generator
from companion.training import TrainingConfig, logits, train

CONFIG = TrainingConfig(epochs=6, batch_size=16, learning_rate=0.05, label_smoothing=0.0)


def trained(seed, images, labels):
    model = build_surrogate("cnn", 1, 3, 16, generator(seed, "weights"), width=6)
    train(model, images, labels, CONFIG, generator(seed, "train"))
    return model


@pytest.fixture(scope="module")
def images():
    labels = torch.arange(90) % 3
    spots = torch.rand(90, 1, 16, 16, generator=generator(0, "images")) * 0.4
    for label in range(3):
        spots[labels == label, :, 5 * label : 5 * label + 5] += 0.5
    return spots.clamp(0, 1)


@pytest.fixture(scope="module")
def models(images):
    return [trained(seed, images, torch.arange(90) % 3) for seed in range(3)]


def margins(model, images):
    best = logits(model, images).topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def test_boundary_points_lie_near_the_boundary_and_match_the_source(models, images):
    found = baselines.boundary_points(models[0], images[:20], margin=0.1, steps=150)
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert margins(models[0], found.images).median() < 0.2 * margins(models[0], images[:20]).median()
    assert found.distance(models[0]) == 0
    assert found.passes == 20 * (3 * 150 + 2)


def test_distance_is_one_minus_the_matching_rate(models, images):
    found = baselines.PointFingerprint(images[:10], torch.arange(10) % 3, 0)
    right = sum(int(logits(models[1], image[None]).argmax()) == place % 3 for place, image in enumerate(images[:10]))
    assert found.distance(models[1]) == pytest.approx(1 - right / 10)


def test_conferrable_points_raise_the_score_inside_the_ball(models, images):
    source, surrogate, reference = models
    some = images[:24]
    found = baselines.conferrable_points(
        source, [surrogate], [reference], some, generator(0), eps=0.2, step=0.04, steps=8
    )
    assert len(found.images) == 12 and found.images.min() >= 0 and found.images.max() <= 1
    nearest = (found.images[:, None] - some[None]).abs().amax((2, 3, 4)).amin(1)
    assert nearest.max() <= 0.2 + 1e-6
    start = nearest.new_tensor([int((point - some).abs().amax((1, 2, 3)).argmin()) for point in found.images]).long()
    after, before = (
        baselines.conferrability(source, [surrogate], [reference], points, found.labels)
        for points in (found.images, some[start])
    )
    assert (after > before).all()
    assert (logits(source, some[start]).argmax(1) != found.labels).all()  # a target is never the source's own answer
    assert found.passes == 24 * 3 * (3 * 8 + 1)


def test_models_are_left_as_they_were(models, images):
    model = models[0].train()
    models[1].zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    baselines.boundary_points(model, images[:4], steps=2)
    baselines.conferrable_points(model, models[1:2], models[2:], images[:4], generator(0), steps=2)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in models[1].parameters())
    model.eval()


def test_errors(models, images):
    with pytest.raises(CompanionError, match="0 steps"):
        baselines.boundary_points(models[0], images[:2], steps=0)
    with pytest.raises(CompanionError, match=r"expected \[0, 1\]"):
        baselines.boundary_points(models[0], images[:2] * 3)
    with pytest.raises(CompanionError, match="0 surrogates and 1 references"):
        baselines.conferrable_points(models[0], [], models[1:2], images[:2], generator(0))
    with pytest.raises(CompanionError, match=r"eps -0\.1"):
        baselines.conferrable_points(models[0], models[1:2], models[2:], images[:2], generator(0), eps=-0.1)


class Sealed(torch.nn.Module):
    """A model behind an interface: it answers, and no gradient comes back."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        with torch.no_grad():
            return self.model(images)


def test_a_model_without_gradient_is_named(models, images):
    sealed, labels = Sealed(models[0]), torch.zeros(2, dtype=torch.int64)
    for attempt in (
        lambda: baselines.boundary_points(sealed, images[:2], steps=1),
        lambda: baselines.conferrable_points(sealed, [sealed], [sealed], images[:2], generator(0), steps=1),
        lambda: pgd(sealed, images[:2], labels, 0.1, 0.1, 1),
    ):
        with pytest.raises(CompanionError, match="carry no gradient"):
            attempt()
