"""Rankings by hand, the rule that stops, and pruned copies against masks."""

import pytest
import torch
from torch import nn

from companion.data.imageset import ImageSet
from companion.defenses import pruning
from companion.defenses.shapley import BackdoorGame
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.models.prunable import Chain, Masked, chain_of
from companion.seeding import generator
from companion.training import TrainingConfig, logits, train


class Gain(nn.Module):
    """A stage that multiplies channel c by a fixed gain and applies ReLU."""

    def __init__(self, *gains):
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains))

    def forward(self, values):
        return (values * self.gains.view(1, -1, 1, 1)).relu()


def toy_chain():
    """Two channels in, neurons 0 and 1; logits: (0, neuron 0, 2 * neuron 1)."""
    tail = nn.Linear(2, 3, bias=False)
    tail.weight.data = torch.tensor([[0.0, 0], [1, 0], [0, 2]])
    return Chain([Gain(1.0, 1.0)], nn.Sequential(nn.Flatten(), tail), [2])


def columns(*rows):
    return torch.tensor(rows).view(len(rows), 2, 1, 1)


def images(labels, classes=4):
    stack = torch.rand(len(labels), 1, 16, 16, generator=generator(0, "images"))
    return ImageSet(stack, torch.tensor(labels), tuple("abcdefgh"[:classes]), "toys", "defender")


def test_few_shot_takes_the_first_of_every_class():
    data = images([3, 1, 1, 0, 2, 0, 3, 2])
    assert pruning.few_shot(data, 1).labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(pruning.few_shot(data, 1).images, data.images[[3, 1, 4, 0]])
    assert pruning.few_shot(data, 2).labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_fewer_clean_images_than_classes_are_refused():
    with pytest.raises(CompanionError, match="3 clean images of toys are too few for 1 of each of 4 classes: c have"):
        pruning.few_shot(images([0, 1, 3]), 1)
    with pytest.raises(CompanionError, match="0 images a class"):
        pruning.few_shot(images([0, 1, 2, 3]), 0)


def test_leaving_one_out_sorts_by_the_single_drop():
    weights = torch.tensor([1.0, 5, 3])
    order = pruning.by_leaving_one_out(lambda coalitions: (coalitions * weights).sum(1), 3)
    assert order.tolist() == [1, 2, 0]
    redundant = pruning.by_leaving_one_out(lambda c: (c[:, 1] | c[:, 2]).float(), 3)
    assert redundant.tolist() == [0, 1, 2], "of two neurons that replace each other, neither is seen"


def test_rankings_by_activation_by_hand():
    clean, triggered = columns([0.1, 0.9], [0.3, 0.7]), columns([0.8, 0.9], [0.6, 0.7])
    chain = toy_chain()
    assert pruning.by_activation_difference(chain, clean, triggered).tolist() == [0, 1]
    assert pruning.by_silence(chain, clean).tolist() == [0, 1]
    assert pruning.by_silence(chain, 1 - clean).tolist() == [1, 0]


def test_fine_pruning_takes_the_last_stage_first():
    chain = chain_of(build_model("small_cnn", 1, 4, generator(0, "weights"), width=2).eval())
    order = pruning.by_silence(chain, images([0, 1, 2]).images)
    assert sorted(order[:8].tolist()) == list(range(6, 14)) and sorted(order.tolist()) == list(range(14))
    assert sorted(pruning.by_silence(chain, images([0, 1, 2]).images, last_only=False).tolist()) == list(range(14))


def test_pruning_stops_where_the_trigger_fails_and_says_where():
    chain = toy_chain()  # label 1 for [1, 0.1], label 2 for the trigger [1, 0.9]
    clean, triggered = columns([1, 0.1], [0.9, 0.2]), columns([1, 0.9])
    labels = torch.tensor([1, 1])
    stop = pruning.Stopping(most=1.0)
    found = pruning.prune(chain, torch.tensor([1, 0]), clean, labels, triggered, 2, stop)
    assert (found.count, found.neurons.tolist(), found.success, found.accuracy) == (1, [1], 0.0, 1.0) and found.reached
    wrong = pruning.prune(chain, torch.tensor([0, 1]), clean, labels, triggered, 2, stop)
    assert (wrong.count, wrong.success, wrong.accuracy, wrong.reached) == (0, 1.0, 1.0, False)


def test_nested_masks_and_counts_out_of_range():
    masks = pruning.nested_masks(torch.tensor([2, 0, 1]), [0, 1, 3])
    assert masks.tolist() == [[True] * 3, [True, True, False], [False] * 3]
    for wrong in ([], [4], [-1]):
        with pytest.raises(CompanionError, match="of 3 neurons"):
            pruning.nested_masks(torch.tensor([2, 0, 1]), wrong)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_a_pruned_copy_answers_as_the_mask_does_and_can_be_trained(name):
    settings = {"width": 2} if name == "small_cnn" else {}
    model = build_model(name, 1, 4, generator(0, "weights"), **settings).eval()
    chain, data = chain_of(model), images([0, 1, 2, 3, 0, 1])
    order = torch.randperm(chain.neurons, generator=generator(0, "order"))
    count = chain.neurons * 2 // 3
    before = logits(model, data.images)
    pruned = pruning.switched_off(model, order[:count])
    masked = Masked(chain, data.images).logits(pruning.nested_masks(order, [count]))[0]
    assert torch.allclose(logits(pruned, data.images), masked, atol=1e-5)
    assert torch.equal(logits(model, data.images), before), "the network itself stays as it was"
    along = pruning.predictions_along(chain, data.images, order, [0, count], batch=4)
    assert torch.equal(along, torch.stack([before.argmax(1), masked.argmax(1)]))
    train(pruned, data.images, data.labels, TrainingConfig(epochs=1, batch_size=6), generator(0, "training"))
    dead = pruning.switched_off(pruned, order[:0])
    outputs = chain_of(dead).stages[0](data.images)
    off = [int(neuron) for neuron in order[:count] if neuron < chain.sizes[0]]
    assert off and (outputs[:, off] == 0).all(), "training does not wake a neuron up"


def test_leaving_one_out_of_a_network_costs_one_evaluation_a_neuron():
    chain = chain_of(build_model("small_cnn", 1, 4, generator(0, "weights"), width=1).eval())
    game = BackdoorGame(chain, images([0, 1]).images, 3)
    pruning.by_leaving_one_out(game, 7)
    assert game.evaluations == 8
