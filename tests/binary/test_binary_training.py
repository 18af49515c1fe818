"""Training of several tasks: Adam as torch has it, the step's gradient, determinism, and what tasks leave alone."""

import pytest
import torch

from companion.binary import keys
from companion.binary.networks import build_network
from companion.binary.training import (
    Adam,
    BinaryTraining,
    accuracy,
    as_stored,
    predict,
    recalibrated,
    train_tasks,
)
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.seeding import generator


def toy(name, classes=2, count=60):
    """Bars across or down, which a few steps teach."""
    labels = torch.arange(count) % classes
    images = torch.rand(count, 1, 16, 16, generator=generator(0, name)) * 0.3
    for k in range(classes):
        images[labels == k, :, :, 4 * k : 4 * k + 4] += 0.6
    return ImageSet(images, labels, tuple(map(str, range(classes))), name, "train")


def network(m=2, width=4):
    made = build_network("vgg", (2, 3)[:m], width, generator(0, "w"))
    return keys.configure_all(made, [bytes([k + 1] * 16) for k in range(m)])


def streams(m=2):
    return [generator(0, "batches", k) for k in range(m)]


def test_adam_is_torchs_adam():
    parameters = [torch.nn.Parameter(torch.randn(4, 3, generator=generator(0, "p", k))) for k in range(2)]
    copies = [torch.nn.Parameter(one.detach().clone()) for one in parameters]
    ours, theirs = Adam(parameters), torch.optim.Adam(copies, 0.01)
    for step in range(5):
        for one, two in zip(parameters, copies, strict=True):
            one.grad = torch.randn(4, 3, generator=generator(step, "g"))
            two.grad = one.grad.clone()
        ours.step(0.01)
        theirs.step()
        assert all(one.grad is None for one in parameters)
    for one, two in zip(parameters, copies, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_two_tasks_are_learned_together_and_the_same_bits_come_again():
    data = [toy("a"), toy("b", 3)]
    found = []
    for _ in range(2):
        net = network()
        train_tasks(net, data, BinaryTraining(6, 20, 0.03), streams())
        found.append(net)
    assert all(torch.equal(a, b) for a, b in zip(*(one.state_dict().values() for one in found), strict=True))
    assert [accuracy(found[0], one, k).rate for k, one in enumerate(data)] > [0.9, 0.9]
    assert all(layer.weight.abs().max() <= 1 for layer in found[0].layers().values())
    assert not found[0].training


def test_a_step_takes_one_batch_of_every_task():
    data = [toy("a"), toy("b", 3)]
    net, seen = network(), []
    net.register_forward_pre_hook(lambda _, given: seen.append((len(given[0]), given[1])))
    train_tasks(net, data, BinaryTraining(1, 20, 0.03), streams())
    assert seen == [(20, 0), (20, 1)] * 3


def test_training_one_task_leaves_the_other_tasks_own_tensors():
    net = network()
    before = {name: values.clone() for name, values in net.task_tensors(0).items()}
    train_tasks(net, [toy("b", 3)], BinaryTraining(1, 20, 0.03), streams(1), tasks=[1])
    assert all(torch.equal(before[name], values) for name, values in net.task_tensors(0).items())


def test_recalibration_sets_the_statistics_of_one_task_in_a_copy():
    net, images = network(), toy("a").images
    before = {name: values.clone() for name, values in net.state_dict().items()}
    copy = recalibrated(net, images, 0)
    assert all(torch.equal(before[name], values) for name, values in net.state_dict().items())
    mean, _ = copy.stem_norm.statistics(0)
    with torch.no_grad():
        expected = copy.stem((images * 255).round() / 256, 0).mean(dim=(0, 2, 3))
    assert torch.allclose(mean, expected, atol=1e-4)
    assert torch.equal(copy.stem_norm.statistics(1)[0], net.stem_norm.statistics(1)[0])


def test_a_thief_gets_signs_and_answers_but_no_magnitudes():
    net = network().eval()
    stolen = as_stored(net, 0.1)
    images = toy("a").images
    assert torch.equal(predict(stolen, images, 0), predict(net, images, 0))
    assert {float(v) for layer in stolen.layers().values() for v in layer.weight.detach().abs().unique()} == {
        float(torch.tensor(0.1))
    }


def test_bad_settings_are_named():
    with pytest.raises(CompanionError, match="at least 1 epoch"):
        BinaryTraining(epochs=0)
    with pytest.raises(CompanionError, match="1 data sets and 2 generators for 2 tasks"):
        train_tasks(network(), [toy("a")], BinaryTraining(), streams())
