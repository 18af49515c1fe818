"""What must hold for every registered method: the eps-ball, the box, independence of the batch, and its cost."""

from dataclasses import replace

import pytest
import torch

from companion.attacks.transfer.method import attack, iterates
from companion.attacks.transfer.registry import GROUPS, Scale, entries
from companion.attacks.transfer.state import Budget

from .examples import ALL, BUDGET, NAMES, goal, images, resources


def run(name, chosen=slice(None), **more):
    entry = ALL[name]
    pixels, labels = images()
    models, extra = resources(entry)
    arguments = extra | {key: value[chosen] for key, value in goal(entry, labels).items()} | more
    return attack(entry.method, models, pixels[chosen], labels[chosen], BUDGET, 7, **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_the_ball_and_the_box_hold_and_something_moves(name):
    clean, _ = images()
    adversarial = run(name)
    change = (adversarial - clean).abs().amax(dim=(1, 2, 3))
    assert (change <= BUDGET.eps + 1e-12).all()
    assert (change > 0.1 * BUDGET.eps).all()
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    assert not adversarial.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_the_rest_of_the_batch_makes_no_difference(name):
    whole = run(name)
    chosen = torch.tensor([3, 1])
    part = run(name, chosen, indices=[3, 1])
    assert torch.allclose(part, whole[chosen], atol=1e-9)
    assert torch.allclose(run(name, batch_size=2), whole, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_as_many_as_declared(name):
    entry = ALL[name]
    pixels, labels = images()
    models, extra = resources(entry)
    seen = 0

    def count(module, inputs, output):
        nonlocal seen
        if output.requires_grad:
            output.register_hook(backward)

    def backward(gradient):
        nonlocal seen
        seen += len(gradient)

    for model in models:
        model.register_forward_hook(count)
        model.requires_grad_(False)
    attack(entry.method, models, pixels, labels, BUDGET, 7, **extra, **goal(entry, labels))
    found = seen / len(pixels)
    if name in ("ila", "fia", "naa", "fda"):  # features do not reach the logits' hook in every step
        found += BUDGET.steps
    assert found == entry.method.evaluations(BUDGET.steps)


@pytest.mark.parametrize("name", ["mi", "vmi", "admix", "bsr", "ghost", "svre"])
def test_the_seed_decides_and_nothing_else(name):
    torch.manual_seed(1)
    first = run(name)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(run(name), first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reference_costs():
    cost = {name: entry.method.evaluations(10) for name, entry in entries().items()}
    assert cost["fgsm"] == 1 and cost["mi"] == cost["di"] == cost["ti"] == 10
    assert cost["vmi"] == 210 and cost["admix"] == 150 and cost["si"] == 50 and cost["pgn"] == 400
    assert cost["ila"] == 20 and cost["fia"] == 40 and cost["ens"] == 40 and cost["lgv"] == 10
    assert cost["svre"] == 10 * (4 + 2 * 16) and cost["rap"] == 10 + 8 * 8 and cost["gap"] == 0


def test_every_entry_is_whole():
    for name, entry in entries(Scale()).items():
        assert entry.name == name and entry.group in GROUPS
        assert entry.formula and entry.source
        hash(entry.method.source)


def test_iterates_are_the_way_to_the_attack():
    entry = ALL["mi"]
    pixels, labels = images()
    models, _ = resources(entry)
    kept = iterates(entry.method, models, pixels, labels, BUDGET, 7, keep=(1, 3, 4))
    assert kept.shape == (3, *pixels.shape)
    assert torch.equal(kept[-1], attack(entry.method, models, pixels, labels, BUDGET, 7))
    shorter = replace(BUDGET, steps=3, step=BUDGET.size)
    assert torch.equal(kept[1], attack(entry.method, models, pixels, labels, shorter, 7))
    assert isinstance(BUDGET, Budget)


@pytest.mark.parametrize("name", NAMES)
def test_passes_hold_no_more_points_than_batches_are_made_for(name):
    method = ALL[name].method
    pixels, labels = images()
    models, extra = resources(ALL[name])
    largest = 0

    def look(module, inputs):
        nonlocal largest
        largest = max(largest, len(inputs[0]))

    for model in models:
        model.register_forward_pre_hook(look)
    attack(method, models, pixels, labels, BUDGET, 7, **extra, **goal(ALL[name], labels))
    declared = max(method.source.together(BUDGET.steps) * method.transform.copies, method.objective.together)
    assert largest == declared * len(pixels) or name == "gap"  # a generator asks no network
