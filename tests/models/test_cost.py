"""The counter of multiply-accumulates: by hand, and against PyTorch's own counter of operations."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from companion.models.cloformer import VARIANTS, CloFormer
from companion.models.cost import multiply_accumulates, parameter_count
from companion.vision.rivals import MobileNetLike, vision_transformer


def test_layers_by_hand():
    assert multiply_accumulates(nn.Conv2d(3, 8, 3, 2, 1), (3, 8, 8)) == 8 * 16 * 27
    assert multiply_accumulates(nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 4, 4)) == 8 * 16 * 25
    assert multiply_accumulates(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)) == 60
    assert parameter_count(nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5))) == 65 + 10


def operations(model, shape):
    # PyTorch's counter does not know the fused attention of the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.eval()(torch.zeros(1, *shape, device=next(model.parameters()).device))
    return counter.get_total_flops()


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_pytorchs_counter_on_cloformer(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CloFormer(VARIANTS[name])
    assert operations(network, (3, 224, 224)) == 2 * multiply_accumulates(network, (3, 224, 224))


@pytest.mark.parametrize("make", [lambda: MobileNetLike(3, 10, 8), lambda: vision_transformer(3, 10, 32, 16)])
def test_equals_pytorchs_counter_on_other_families(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
    assert operations(network, (3, 32, 32)) == 2 * multiply_accumulates(network, (3, 32, 32))


def test_leaves_the_mode_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = network[1].running_mean.clone()
    multiply_accumulates(network, (3, 4, 4))
    assert network.training and torch.equal(network[1].running_mean, before)
