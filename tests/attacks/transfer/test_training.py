"""Snapshots and generators: what is trained for an attack."""

import torch

from companion.attacks.transfer.ensembles import collect_snapshots
from companion.attacks.transfer.generative import train_generator
from companion.attacks.transfer.method import attack
from companion.attacks.transfer.registry import entries
from companion.attacks.transfer.state import Budget
from companion.models.zoo import build_surrogate
from companion.seeding import generator
from companion.training import TrainingConfig, train


def trained():
    labels = torch.arange(120) % 3
    pixels = 0.2 * torch.rand(120, 1, 8, 8, generator=generator(0, "pixels"))
    pixels[torch.arange(120), :, labels * 2 + 1] += 0.5
    model = build_surrogate("cnn", 1, 3, 8, generator(0, "weights"), width=8)
    train(model, pixels, labels, TrainingConfig(epochs=8, batch_size=20), generator(0, "training"))
    return model, pixels, labels


def accuracy(model, pixels, labels):
    return (model(pixels).argmax(1) == labels).float().mean().item()


def test_snapshots_differ_and_the_model_stays():
    model, pixels, labels = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = collect_snapshots(model, pixels, labels, generator(1, "lgv"), epochs=3)
    assert len(found) == 3
    heads = [part.head.weight for part in [model, *found]]
    assert not any(torch.equal(heads[i], heads[j]) for i in range(4) for j in range(i))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_generator_learns_to_fool_its_surrogate():
    model, pixels, labels = trained()
    assert accuracy(model, pixels, labels) > 0.95
    network = train_generator(model, pixels, labels, 0.3, generator(2, "gap"), epochs=12, batch_size=20, width=8)
    method = entries()["gap"].method
    found = attack(method, model, pixels, labels, Budget(0.3), 0, generator=network)
    noise = (pixels + 0.3 * (torch.rand(pixels.shape, generator=generator(3, "noise")) * 2 - 1).sign()).clamp(0, 1)
    assert accuracy(model, found, labels) < 0.5 * accuracy(model, noise, labels)
    again = train_generator(model, pixels, labels, 0.3, generator(2, "gap"), epochs=1, batch_size=20, width=8)
    once = train_generator(model, pixels, labels, 0.3, generator(2, "gap"), epochs=1, batch_size=20, width=8)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), once.parameters(), strict=True))
