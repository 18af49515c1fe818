"""The momentum centre loss against a slow loop over samples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.attacks.belt import MomentumCentreLoss
from companion.attacks.poisoning import CLEAN, COVER, POISON
from companion.errors import CompanionError
from companion.seeding import generator

CLASSES, DIMENSION = 4, 5


def batch(seed, size=12):
    stream = generator(seed, "batch")
    features = torch.randn(size, DIMENSION, generator=stream, dtype=torch.float64).float()
    return (
        features,
        torch.randint(CLASSES, (size,), generator=stream),
        torch.randint(3, (size,), generator=stream),
    )


def slow_loss(centres, features, labels, roles, weight, momentum):
    """Qiu et al.'s L_MC sample by sample; `centres` maps a class to its centre and is updated in place."""
    for label in range(CLASSES):
        clean = [f for f, y, r in zip(features, labels, roles, strict=True) if y == label and r == CLEAN]
        if clean:
            mean = torch.stack(clean).mean(0)
            centres[label] = momentum * centres[label] + (1 - momentum) * mean if label in centres else mean
    terms = []
    for feature, label, role in zip(features, labels, roles, strict=True):
        if role != CLEAN and int(label) in centres:
            terms += [(value - c) ** 2 for value, c in zip(feature, centres[int(label)], strict=True)]
    return weight * sum(terms) / len(terms) if terms else torch.tensor(0.0)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1000), st.sampled_from(["zero", "batch mean"]), st.sampled_from([0.0, 0.9, 0.99]), st.floats(0, 5)
)
def test_equals_the_loop_over_samples(seed, start, momentum, weight):
    loss = MomentumCentreLoss(CLASSES, DIMENSION, weight, momentum, start)
    centres = {k: torch.zeros(DIMENSION) for k in range(CLASSES)} if start == "zero" else {}
    for number in range(4):
        features, labels, roles = batch(seed * 10 + number)
        expected = slow_loss(centres, features, labels, roles, weight, momentum)
        assert torch.allclose(loss(features, labels, roles), expected, rtol=1e-4, atol=1e-6)
        for label, centre in centres.items():
            assert torch.allclose(loss.centres[label], centre, atol=1e-6)


def test_zero_start_moves_by_a_hundredth():
    loss = MomentumCentreLoss(CLASSES, 2, start="zero")
    features = torch.tensor([[1.0, 3.0], [3.0, 5.0], [2.0, 2.0]])
    value = loss(features, torch.tensor([1, 1, 1]), torch.tensor([CLEAN, CLEAN, POISON]))
    assert torch.allclose(loss.centres[1], torch.tensor([0.02, 0.04]))  # 0.01 of the mean (2, 4)
    assert value.item() == pytest.approx(((2 - 0.02) ** 2 + (2 - 0.04) ** 2) / 2)
    assert torch.equal(loss.centres[[0, 2, 3]], torch.zeros(3, 2))


def test_nothing_to_pull_costs_nothing():
    features, labels, _ = batch(0)
    loss = MomentumCentreLoss(CLASSES, DIMENSION)
    assert loss(features, labels, torch.full((12,), CLEAN)).item() == 0
    assert loss.known[labels].all()  # the centres were updated all the same
    unseen = MomentumCentreLoss(CLASSES, DIMENSION)
    assert unseen(features, labels, torch.full((12,), COVER)).item() == 0  # no class has a centre


def test_gradient_reaches_poison_and_cover_only():
    features, labels, roles = batch(2)
    features.requires_grad_()
    loss = MomentumCentreLoss(CLASSES, DIMENSION, start="zero")
    loss(features, labels, roles).backward()
    pulled = features.grad.abs().sum(1) > 0
    assert torch.equal(pulled, roles != CLEAN)
    assert not loss.centres.requires_grad


def test_errors_name_the_value():
    with pytest.raises(CompanionError, match='"first"'):
        MomentumCentreLoss(CLASSES, DIMENSION, start="first")
    with pytest.raises(CompanionError, match="momentum 1"):
        MomentumCentreLoss(CLASSES, DIMENSION, momentum=1.0)
    with pytest.raises(CompanionError, match=r"\(12, 4\).*\(B, 5\)"):
        features, labels, roles = batch(0)
        MomentumCentreLoss(CLASSES, DIMENSION)(features[:, :4], labels, roles)
