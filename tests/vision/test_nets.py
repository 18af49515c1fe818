"""Networks of equal cost: what they cost, what they are, and that the seed alone decides their weights."""

from dataclasses import replace

import pytest
import torch

from companion.errors import CompanionError
from companion.models.cloformer import VARIANTS, CloFormerConfig
from companion.models.cost import multiply_accumulates, parameter_count
from companion.studies.cloformer import Arena
from companion.vision import nets
from companion.vision.fitting import FitConfig
from companion.vision.rivals import vision_transformer

BASE = CloFormerConfig(
    (16, 32, 64), (1, 1, 1), (2, 4, 8), (1, 2, 4), (3, 5, 7), (2, 1, 1), ffn_ratio=2.0, stem_stride=2
)
TINY = Arena(
    "digits",
    train_size=60,
    held_size=40,
    base=BASE,
    fit=FitConfig(epochs=1, batch_size=20),
    rivals={"mobilenet": {"expansion": 2}, "vit": {"patch": 4, "depth": 2}},
)


@pytest.mark.parametrize("name", nets.CHANGES)
def test_variants_cost_what_the_full_network_costs(name):
    full = multiply_accumulates(nets.build(TINY.recipe("both", 0), (3, 32, 32), 10), (3, 32, 32))
    variant = multiply_accumulates(nets.build(TINY.recipe(name, 0), (3, 32, 32), 10), (3, 32, 32))
    assert variant == pytest.approx(full, rel=0.01)


@pytest.mark.parametrize("name", nets.FAMILIES)
def test_other_families_have_as_many_parameters(name):
    full = parameter_count(nets.build(TINY.recipe("both", 0), (3, 32, 32), 10))
    assert parameter_count(nets.build(TINY.recipe(name, 0), (3, 32, 32), 10)) == pytest.approx(full, rel=0.15)


def test_variants_are_what_they_are_called():
    shape = (3, 32, 32)
    local = nets.config_of("local", BASE, shape, 10)
    assert local.local_heads == BASE.heads and local.gate == "full"
    assert nets.config_of("pooled", BASE, shape, 10).local_heads == (0, 0, 0)
    depthwise = nets.config_of("depthwise", BASE, shape, 10)
    assert (depthwise.gate, depthwise.local_heads) == ("none", BASE.heads) and depthwise.ffn_ratio > BASE.ffn_ratio
    assert nets.config_of("both", BASE, shape, 10) == BASE


def test_weights_follow_from_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (nets.build(TINY.recipe("both", seed), (1, 16, 16), 10) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_the_papers_network_on_small_images():
    """The profile `paper`: XXS widths and depths with a stem of stride 2, one training step."""
    base = replace(VARIANTS["cloformer_xxs"], windows=(2, 1, 1, 1), stem_stride=2)
    recipe = replace(TINY.recipe("both", 0), base=base)
    network = nets.build(recipe, (3, 32, 32), 10)
    network(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in network.parameters())


def test_refusals():
    with pytest.raises(CompanionError, match='no network "resnet"'):
        nets.build(TINY.recipe("resnet", 0), (3, 32, 32), 10)
    with pytest.raises(CompanionError, match="maps of one size only"):
        nets.build_dense(TINY.recipe("vit", 0), 32, 8)
    with pytest.raises(CompanionError, match="expected divisors"):
        vision_transformer(3, 10, 32, 16, patch=5)
