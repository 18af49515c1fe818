"""Many models trained side by side are the models trained one after another."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion.defenses.neural_cleanse import QUICK, reverse_triggers
from companion.errors import CompanionError
from companion.fleet import Fleet, FleetTraining, JointClassifier, fleet_logits, train_fleet
from companion.models.conv import ARCHITECTURES, build_conv
from companion.seeding import generator

SHORT = FleetTraining(epochs=2, batch_size=4)


def models(count, name="conv2", classes=3):
    return [build_conv(name, (1, 8, 8), classes, generator(k), width=4, hidden=6) for k in range(count)]


def pools(count, images=9):
    stream = generator(5)
    return torch.rand(count, images, 1, 8, 8, generator=stream), torch.randint(3, (count, images), generator=stream)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_a_fleet_is_training_each_model_alone_on_the_same_batches(name):
    images, labels = pools(3)
    fleet = Fleet.of(models(3, name))
    train_fleet(fleet, images, labels, SHORT, generator(1))
    stream = generator(1)
    orders = [torch.rand(3, 9, generator=stream).argsort(1) for _ in range(SHORT.epochs)]
    for m, model in enumerate(models(3, name)):
        optimizer = torch.optim.Adam(model.parameters(), SHORT.learning_rate)
        for step in range(4):
            chosen = orders[step // 2][m, step % 2 * 4 : step % 2 * 4 + 4]
            optimizer.param_groups[0]["lr"] = (
                SHORT.learning_rate * (1 + torch.cos(torch.tensor(step * torch.pi / 4))) / 2
            )
            optimizer.zero_grad()
            F.cross_entropy(model(images[m, chosen]), labels[m, chosen]).backward()
            optimizer.step()
        torch.testing.assert_close(fleet.member(m)(images[m]), model(images[m]), rtol=1e-3, atol=1e-4)


def test_training_is_the_same_bits_again_and_learns():
    images, labels = pools(2)
    images[labels == 0] *= 0.1
    first, again = Fleet.of(models(2)), Fleet.of(models(2))
    long = FleetTraining(epochs=60, batch_size=4, learning_rate=0.01)
    before = F.cross_entropy(first(images).flatten(0, 1), labels.flatten()).item()
    losses = train_fleet(first, images, labels, long, generator(1))
    train_fleet(again, images, labels, long, generator(1))
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), again.state().values(), strict=True))
    assert losses.mean() < before / 2


def test_members_parts_and_shared_images_agree():
    fleet = Fleet.of(models(3))
    images = pools(1)[0][0]
    together = fleet_logits(fleet, images, at_once=7)
    assert together.shape == (3, 9, 3) and len(fleet) == 3
    torch.testing.assert_close(together, fleet(images.expand(3, -1, -1, -1, -1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fleet(images, torch.tensor([2, 0])), together[[2, 0]], rtol=1e-4, atol=1e-5)
    for m in range(3):
        torch.testing.assert_close(together[m], fleet.member(m)(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fleet.part([m])(images)[0], together[m], rtol=1e-4, atol=1e-5)


def test_a_joint_classifier_gives_each_network_its_own_softmax():
    fleet = Fleet.of(models(2))
    images = pools(2)[0]
    joint = JointClassifier(fleet)(images.flatten(0, 1))
    assert joint.shape == (18, 6)
    own = fleet(images)
    torch.testing.assert_close(joint[:9, :3], own[0], rtol=1e-4, atol=1e-5)
    shares = joint.softmax(1)
    assert (shares[:9, 3:] == 0).all() and (shares[9:, :3] == 0).all()
    torch.testing.assert_close(shares[9:, 3:], own[1].softmax(1), rtol=1e-4, atol=1e-5)
    with pytest.raises(CompanionError, match="5 images for 2 networks"):
        JointClassifier(fleet)(torch.zeros(5, 1, 8, 8))


def test_neural_cleanse_of_a_joint_classifier_is_neural_cleanse_of_each_network():
    """Label 3 of the pair is class 0 of the second network: same start, same batches, same mask."""
    from dataclasses import replace

    fleet = Fleet.of(models(2))
    images = pools(1, 20)[0][0]
    config = replace(QUICK, steps=8, check_every=4, batch=4, stop_patience=10**9, threshold=0.0)

    class Shifted(nn.Module):
        """The second network alone, its classes called 3, 4 and 5."""

        def __init__(self):
            super().__init__()
            self.model = fleet.member(1)

        def forward(self, batch):
            return F.pad(self.model(batch), (3, 0), value=-1e4)

    joint = reverse_triggers(JointClassifier(fleet), images, range(6), config, generator(0))
    alone = reverse_triggers(Shifted(), images, range(3, 6), config, generator(0))
    torch.testing.assert_close(joint.norms[3:], alone.norms, rtol=1e-3, atol=1e-3)


def test_bad_fleets_and_bad_data_are_named():
    with pytest.raises(CompanionError, match="no models"):
        Fleet.of([])
    normalised = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with pytest.raises(CompanionError, match="without batch normalisation"):
        Fleet(normalised, {})
    fleet = Fleet.of(models(2))
    images, labels = pools(2)
    with pytest.raises(CompanionError, match="got images"):
        train_fleet(fleet, images[:1], labels[:1], SHORT, generator(0))
    with pytest.raises(CompanionError, match="lie in"):
        train_fleet(fleet, images * 3, labels, SHORT, generator(0))
    with pytest.raises(CompanionError, match="labels in"):
        train_fleet(fleet, images, labels + 5, SHORT, generator(0))
    with pytest.raises(CompanionError, match="at least one epoch"):
        FleetTraining(epochs=0)
    with pytest.raises(CompanionError, match="each for the same number"):
        Fleet(models(1)[0], {"head.weight": torch.zeros(2, 3)})
