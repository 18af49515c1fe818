"""CloFormer: the published sizes, the equations by hand, timm's conventions, and clear refusals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from companion.errors import CompanionError
from companion.models.cloformer import (
    GATES,
    VARIANTS,
    AttnConv,
    Block,
    CloAttention,
    CloFormer,
    CloFormerConfig,
    DropPath,
    PooledAttention,
    attentions,
)
from companion.models.cost import multiply_accumulates, parameter_count

TINY = CloFormerConfig((8, 16), (1, 2), heads=(2, 4), local_heads=(1, 2), kernels=(3, 5), windows=(2, 1), ffn_ratio=2)


def built(config, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CloFormer(config, **settings)


def seeded(module):
    """Fill a module's parameters with fixed numbers, so that a test needs no random state."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=stream))
    return module.eval()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "parameters", "billions"),
    [
        ("cloformer_xxs", 4_166_728, 0.661),
        ("cloformer_xs", 7_172_216, 1.220),
        ("cloformer_s", 12_345_576, 2.171),
    ],
)
def test_sizes_are_the_published_ones(name, parameters, billions):
    network = built(VARIANTS[name])
    assert parameter_count(network) == parameters
    assert multiply_accumulates(network, (3, 224, 224)) / 1e9 == pytest.approx(billions, rel=0.002)


@pytest.mark.parametrize(("branch", "millions", "billions"), [("global", 3.998, 0.617), ("local", 4.733, 0.743)])
def test_sizes_of_the_official_ablation_networks(branch, millions, billions):
    network = built(VARIANTS["cloformer_xxs"].only(branch))
    assert parameter_count(network) / 1e6 == pytest.approx(millions, abs=0.0005)
    assert multiply_accumulates(network, (3, 224, 224)) / 1e9 == pytest.approx(billions, rel=0.002)


def test_attnconv_is_its_equation():
    module, x = seeded(AttnConv(8, 4, 4, 3)), images(2, 8, 6, 6)
    query, key, value = module.aggregate(module.project(x)).split(4, dim=1)
    first, _, last = module.mlp
    expected = torch.tanh(last(nn.functional.silu(first(query * key))) / math.sqrt(4)) * value
    torch.testing.assert_close(module(x), expected)


def test_the_depthwise_convolution_sees_its_window_only():
    module, x = seeded(AttnConv(4, 4, 4, 5)), images(1, 4, 11, 11)
    changed = x.clone()
    changed[:, :, 5, 5] += 1
    moved = (module(changed) - module(x)).abs().amax(dim=1)[0] > 0
    rows, columns = moved.nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 7, 3, 7)


@pytest.mark.parametrize("gate", GATES)
def test_gates_have_their_range_and_differ(gate):
    module, x = seeded(AttnConv(8, 8, 4, 3, gate)), images(2, 8, 8, 8)
    found, value = module.gate_and_values(x)
    if gate == "none":
        assert found is None and torch.equal(module(x), value)
        return
    low, high = {"full": (-1, 1), "sigmoid": (0, 1), "softmax": (0, 9), "no_silu": (-1, 1)}.get(gate, (-1e6, 1e6))
    assert found.min() >= low and found.max() <= high
    full = seeded(AttnConv(8, 8, 4, 3, "full"))
    assert gate == "full" or not torch.allclose(full(x), module(x))


def test_the_softmax_gate_is_a_share_of_its_window():
    module, x = seeded(AttnConv(4, 4, 4, 3, "softmax")), images(1, 4, 7, 7)
    query, key, _ = module.aggregate(module.project(x)).chunk(3, dim=1)
    scores = module.mlp(query * key) / math.sqrt(4)
    window = scores[0, 2, 2:5, 3:6].flatten()
    torch.testing.assert_close(module.gate_and_values(x)[0][0, 2, 3, 4], 9 * window.softmax(0)[4])


def test_pooled_attention_is_torchs_on_pooled_positions():
    module, x = seeded(PooledAttention(8, 8, 2, 2)), images(2, 8, 4, 6)
    pooled = nn.functional.avg_pool2d(x, 2)
    key, value = module.key_value(pooled).chunk(2, dim=1)
    heads = [one.flatten(2).unflatten(1, (2, 4)).transpose(2, 3) for one in (module.query(x), key, value)]
    expected = nn.functional.scaled_dot_product_attention(*heads)  # (B, 2, HW, 4)
    torch.testing.assert_close(module(x), expected.transpose(2, 3).flatten(1, 2).unflatten(2, (4, 6)))
    weights, _ = module.weights_and_values(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 24))


def test_fusion_takes_local_channels_first():
    module = seeded(CloAttention(8, 4, 3, 3, 1))
    with torch.no_grad():
        module.fuse.weight.copy_(torch.eye(8)[:, :, None, None])
        module.fuse.bias.zero_()
    x = images(1, 8, 4, 4)
    found = module(x)
    torch.testing.assert_close(found[:, :6], module.local(x))
    torch.testing.assert_close(found[:, 6:], module.pooled(x))


def test_a_block_is_its_two_equations():
    block, x = seeded(Block(TINY, 0, 0.0, out=16)), images(2, 8, 8, 8)
    mixed = x + block.attention(block.norm1(x))
    expected = block.down(mixed) + block.ffn(block.norm2(mixed))
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, 16, 4, 4)
    inner = seeded(Block(TINY, 1, 0.0))
    assert isinstance(inner.down, nn.Identity)


def test_drop_path_leaves_whole_branches_out_and_keeps_the_mean():
    layer, x = DropPath(0.25), torch.ones(4000, 2, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = layer.train()(x)
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(found[:, 0], found[:, 1]) and found.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()(x), x)
    rates = [part.rate for part in built(VARIANTS["cloformer_s"]).modules() if isinstance(part, DropPath)]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.06) and rates == sorted(rates)


def test_head_and_intermediates():
    network, x = seeded(CloFormer(TINY, 5, 1)), images(2, 1, 32, 32)
    maps = network.forward_features(x)
    assert maps.shape == (2, 16, 4, 4)
    torch.testing.assert_close(network(x), network.head(network.features(x)))
    torch.testing.assert_close(network.features(x), maps.mean(dim=(2, 3)))
    final, stages = network.forward_intermediates(x, norm=True)
    torch.testing.assert_close(final, maps)
    torch.testing.assert_close(stages[-1], maps)
    assert stages[0].shape == (2, 8, 8, 8)
    torch.testing.assert_close(
        network.stages[1](network.stages[0][-1].feed(stages[0])), network.forward_intermediates(x)[1][-1]
    )
    network.reset_classifier(0)
    assert network(x).shape == (2, 16) and network.num_classes == 0
    assert len(list(attentions(network))) == 3


def test_timms_conventions():
    timm = pytest.importorskip("timm")
    import companion.models.cloformer_timm  # noqa: F401

    assert timm.list_models("cloformer*") == ["cloformer_s", "cloformer_xs", "cloformer_xxs"]
    network = timm.create_model("cloformer_xxs", num_classes=7, in_chans=1, drop_path_rate=0.1).eval()
    x = torch.zeros(1, 1, 32, 32)
    assert network(x).shape == (1, 7) and network.forward_features(x).shape == (1, 256, 1, 1)
    assert network.default_cfg["input_size"] == (3, 224, 224) and network.get_classifier() is network.head
    assert parameter_count(timm.create_model("cloformer_xxs")) == 4_166_728
    pyramid = timm.create_model("cloformer_xxs", features_only=True).eval()
    assert [one.shape[1:] for one in pyramid(torch.zeros(1, 3, 64, 64))] == [
        (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2),
    ]  # fmt: skip
    assert (pyramid.feature_info.channels(), pyramid.feature_info.reduction()) == ([32, 64, 128, 256], [4, 8, 16, 32])
    some = timm.create_model("cloformer_xxs", features_only=True, out_indices=(1, 2)).eval()
    assert [one.shape[1:] for one in some(torch.zeros(1, 3, 64, 64))] == [(64, 8, 8), (128, 4, 4)]
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("cloformer_xxs", pretrained=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (8, 18)}, "18 channels of stage 2 do not split into 4 heads"),
        ({"heads": (2,)}, "expected 2 numbers"),
        ({"local_heads": (3, 2)}, "3 of 2 heads of stage 1 are local"),
        ({"kernels": (3, 4)}, "odd numbers"),
        ({"gate": "relu"}, "expected one of full"),
        ({"ffn": "moe"}, "expected one of conv, plain"),
        ({"stem_stride": 3}, "expected 2 or 4"),
        ({"drop_path": 1.0}, "probability"),
        ({"channels": (9, 16), "heads": (3, 4)}, "even number first"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(CompanionError, match=message):
        replace(TINY, **changes)


def test_images_that_do_not_fit_are_refused():
    network = CloFormer(TINY, 5)
    with pytest.raises(CompanionError, match="36 x 32 pixels: expected multiples of 8"):
        network(torch.zeros(1, 3, 36, 32))
    with pytest.raises(CompanionError, match=r"expected \(B, 3, H, W\)"):
        network(torch.zeros(1, 1, 32, 32))
    with pytest.raises(CompanionError, match="no stage 2"):
        network.forward_intermediates(torch.zeros(1, 3, 32, 32), indices=[2])
    with pytest.raises(CompanionError, match="expected NCHW"):
        network.forward_intermediates(torch.zeros(1, 3, 32, 32), output_fmt="NLC")
    with pytest.raises(CompanionError, match="expected avg"):
        network.reset_classifier(3, "max")
    with pytest.raises(CompanionError, match="no branch"):
        TINY.only("middle")
