"""ABS on a network with one planted neuron, against stimulation by hand, and its limits."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from companion.defenses import abs as scanner
from companion.errors import CompanionError
from companion.models.conv import ARCHITECTURES, build_conv
from companion.seeding import generator

IMAGES = 0.5 * torch.rand(9, 1, 16, 16, generator=generator(1))
LABELS = torch.arange(9) % 3


class Planted(nn.Module):
    """Class by nothing much; neuron 1 sees a bright 2x2 square in a dark image at the top left and raises label 2."""

    def __init__(self, gain=20.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2, 2)
        self.relu = nn.ReLU()
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([0.01, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2))
            self.conv.bias.copy_(torch.tensor([0.0, -3.0]))  # four dark pixels are below 2
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.9, 0.0], [0.0, gain]]))
            self.head.bias.copy_(torch.tensor([0.5, 0.4, 0.0]))

    def forward(self, images):
        return self.head(self.relu(self.conv(images)).amax((2, 3)))


SHORT = replace(scanner.OFFICIAL, steps=60)


def test_a_planted_neuron_is_found_inverted_and_flagged():
    report = scanner.inspect(Planted(), IMAGES, LABELS, SHORT)
    best = report.candidates[0]
    assert (best.layer, best.channel, best.label) == ("relu", 1, 2)
    assert report.best == 1.0 and report.label == 2 and report.flagged
    assert ((report.masks >= 0) & (report.masks <= 1)).all() and (report.sizes > 0).all()


def test_a_network_whose_neurons_prefer_no_label_has_no_candidate():
    model = Planted()
    nn.init.ones_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    report = scanner.inspect(model, IMAGES, LABELS, SHORT)
    assert report.candidates == () and report.best == 0 and report.label is None and not report.flagged


def test_the_bound_decides_and_is_exclusive():
    assert not scanner.inspect(Planted(), IMAGES, LABELS, replace(SHORT, bound=1.0)).flagged


def test_a_mask_over_the_limit_is_punished_twice():
    opened = torch.zeros(3, 1, 16, 16)
    opened[0, :, :8, :8], opened[1, :, :9, :9], opened[2, :, :11, :11] = 0.5, 0.5, 0.5
    assert scanner._excess(opened, torch.full((3,), 64), slack=2).tolist() == [0, 1, 2]
    assert scanner._excess(opened, torch.tensor([63, 81, 1000]), slack=2).tolist() == [1, 0, 0]


def test_a_sweep_over_sizes_is_one_inspection_for_each():
    sizes = (4, 64)
    together = scanner.sweep(Planted(), IMAGES, LABELS, SHORT, sizes)
    for size, found in zip(sizes, together, strict=True):
        alone = scanner.inspect(Planted(), IMAGES, LABELS, replace(SHORT, max_size=size))
        assert found.candidates == alone.candidates and torch.equal(found.reasr, alone.reasr)
        torch.testing.assert_close(found.masks, alone.masks, rtol=1e-3, atol=1e-4)
    assert together[0].sizes.sum() < together[1].sizes.sum()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stimulation_is_what_setting_a_neuron_by_hand_gives(name):
    model = build_conv(name, (1, 16, 16), 3, generator(2), width=4, hidden=6).eval()
    for layer in scanner.activations(model):
        rise = scanner.stimulate(model, IMAGES, layer, scanner.OFFICIAL)
        found = by_hand(model, dict(model.named_modules())[layer], channel=-1)
        torch.testing.assert_close(rise[-1], found, rtol=1e-4, atol=1e-5)


def by_hand(model, module, channel):
    kept = []
    handle = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    model(IMAGES)
    handle.remove()
    largest, logits = kept[0].max(), []
    for level in range(5):
        changed = kept[0].clone()
        changed[:, channel] = level * 8 * largest / 5
        handle = module.register_forward_hook(lambda _m, _i, _o, changed=changed: changed)
        logits.append(model(IMAGES).detach())
        handle.remove()
    return torch.stack(logits[1:]).amax(0) - logits[0]


def test_early_layers_give_few_candidates_and_all_come_sorted():
    model = build_conv("conv4", (1, 16, 16), 3, generator(3)).eval()
    found = scanner.rank(model, IMAGES, LABELS, scanner.activations(model), replace(scanner.OFFICIAL, candidates=1000))
    early = [one for one in found if one.layer in scanner.activations(model)[:2]]
    assert all(sum(one.layer == layer for one in early) <= 3 for layer in scanner.activations(model)[:2])
    assert [one.elevation for one in found] == sorted((one.elevation for one in found), reverse=True)


def test_the_logit_term_of_the_other_setting_changes_the_trigger():
    first, second = (scanner.inspect(Planted(), IMAGES, LABELS, replace(base, steps=20)) for base in
                     (scanner.OFFICIAL, scanner.TROJAI))  # fmt: skip
    assert not torch.equal(first.patterns, second.patterns)


def test_the_model_is_left_as_it_was():
    model = Planted().train()
    scanner.inspect(model, IMAGES, LABELS, replace(SHORT, steps=2))
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not model.relu._forward_hooks


def test_bad_input_is_named():
    with pytest.raises(CompanionError, match="at least 3 images"):
        scanner.inspect(Planted(), IMAGES[:2], LABELS[:2])
    with pytest.raises(CompanionError, match="values from"):
        scanner.inspect(Planted(), IMAGES * 4, LABELS)
    with pytest.raises(CompanionError, match="at least two classes"):
        scanner.inspect(Planted(), IMAGES, LABELS * 0)
    with pytest.raises(CompanionError, match="no ReLU modules"):
        scanner.inspect(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), IMAGES, LABELS)
    with pytest.raises(CompanionError, match="no module 'elu'"):
        scanner.inspect(Planted(), IMAGES, LABELS, layers=["elu"])
    model = Planted()
    nn.init.constant_(model.head.bias, float("inf"))
    with pytest.raises(CompanionError, match=r"head\.bias are not finite"):
        scanner.inspect(model, IMAGES, LABELS)
