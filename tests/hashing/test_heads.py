"""Banks of hash heads and their training: a head in a bank is the head alone; wrong lengths and calls are refused."""

import pytest
import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.hashing.backbone import BackboneConfig, build_backbone
from companion.hashing.heads import HeadBank
from companion.hashing.learning import HashingConfig, HashSpec, train_heads
from companion.hashing.views import Augmentation
from companion.hashing.warmup import WarmupConfig, nt_xent, warm_start
from companion.seeding import generator

TINY = BackboneConfig(side=8, patch=4, channels=1, width=8, depth=1, heads=2)
SHORT = HashingConfig(epochs=2, batch_size=8, learning_rate=0.01, hidden=12)
VIEWS = Augmentation(0.5, blur_share=0.0)
ALL = (
    HashSpec(16),
    HashSpec(8, weights="global"),
    HashSpec(8, weights="patch", mutual=True),
    HashSpec(16, weights="patch", mutual=True, attention_temperature=0.1, normalise=True, balance=False),
    HashSpec(16, "cibhash"),
    HashSpec(8, "greedyhash"),
    HashSpec(16, "bihalf"),
)


@pytest.fixture(scope="module")
def images():
    return torch.rand(24, 1, 8, 8, generator=generator(0, "images"))


@pytest.fixture(scope="module")
def backbone():
    return build_backbone(TINY, generator(0, "backbone")).eval()


def test_a_head_by_its_definition():
    bank = HeadBank(8, 12, [16, 8], [generator(0), generator(1)])
    features = torch.randn(2, 5, 8, generator=generator(2))
    found = bank(features)
    normed = F.layer_norm(features[1], (8,), eps=1e-6)
    hidden = (normed @ bank.weight1[1] + bank.bias1[1]).relu()
    expected = (hidden @ bank.weight2[1] + bank.bias2[1]).tanh()[:, :8]
    assert torch.allclose(found[1, :, :8], expected, atol=1e-6) and not found[1, :, 8:].any()
    codes = bank.codes(features[1], batch_size=2)
    assert [tuple(c.shape) for c in codes] == [(5, 16), (5, 8)] and torch.equal(codes[1], expected >= 0)


@pytest.mark.parametrize("objective", range(len(ALL)))
def test_a_head_of_a_bank_learns_what_it_learns_alone(objective, images, backbone):
    together = train_heads(backbone, images, ALL, SHORT, VIEWS, 0)
    spec = ALL[objective]
    alone = train_heads(backbone, images, [spec], SHORT, VIEWS, 0)
    if spec.objective == "cibhash":  # a bank draws its samples for the longest head
        assert torch.allclose(together.losses[:1, objective], alone.losses[:1, 0], rtol=0.5)
        return
    assert torch.allclose(together.losses[:, objective], alone.losses[:, 0], rtol=1e-3, atol=1e-4)
    same = alone.bank.weight2[0]
    assert torch.allclose(together.bank.weight2[objective, :, : same.shape[1]], same, atol=1e-3)


def test_training_repeats_bit_for_bit_and_leaves_a_frozen_backbone(images, backbone):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    first, second = (train_heads(backbone, images, ALL[:4], SHORT, VIEWS, 0) for _ in range(2))
    assert torch.equal(first.bank.weight1, second.bank.weight1)
    assert all(torch.equal(before[name], value) for name, value in first.backbone.state_dict().items())
    assert not torch.equal(first.bank.weight1, train_heads(backbone, images, ALL[:4], SHORT, VIEWS, 1).bank.weight1)


def test_a_tuned_backbone_is_a_copy_and_detaching_changes_what_it_learns(images, backbone):
    config = HashingConfig(epochs=1, batch_size=8, hidden=12, backbone_rate=0.01)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    spec = {"weights": "patch", "mutual": True}
    free, held = (train_heads(backbone, images, [HashSpec(8, **spec, detach=d)], config, VIEWS, 0) for d in (0, 1))
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert not torch.equal(free.backbone.pos_embed, backbone.pos_embed)
    assert not torch.equal(free.backbone.pos_embed, held.backbone.pos_embed)


def test_code_lengths_may_share_a_tuned_backbone(images, backbone):
    config = HashingConfig(epochs=1, batch_size=8, hidden=12, backbone_rate=0.01)
    found = train_heads(backbone, images, [HashSpec(8, "bihalf"), HashSpec(16, "bihalf")], config, VIEWS, 0)
    assert found.losses.shape == (1, 2) and not torch.equal(found.backbone.pos_embed, backbone.pos_embed)


def test_on_a_frozen_backbone_detaching_changes_nothing(images, backbone):
    spec = {"weights": "patch", "mutual": True}
    found = train_heads(backbone, images, [HashSpec(8, **spec), HashSpec(8, **spec, detach=True)], SHORT, VIEWS, 0)
    assert torch.equal(found.bank.weight1[0], found.bank.weight1[1])


@pytest.mark.parametrize("bits", [0, 12, -8, 20])
def test_code_lengths_are_whole_bytes(bits):
    with pytest.raises(CompanionError, match=f"a code of {bits} bits does not fill whole bytes"):
        HashSpec(bits)


def test_wrong_calls_are_named(images, backbone):
    with pytest.raises(CompanionError, match="objective 'hash'"):
        HashSpec(16, "hash")
    with pytest.raises(CompanionError, match="one full batch of 8"):
        train_heads(backbone, images[:5], ALL, SHORT, VIEWS, 0)
    with pytest.raises(CompanionError, match="different things"):
        train_heads(backbone, images, ALL, HashingConfig(batch_size=8, backbone_rate=0.1), VIEWS, 0)
    with pytest.raises(CompanionError, match="positive learning rate"):
        HashingConfig(learning_rate=0)
    with pytest.raises(CompanionError, match="one full batch"):
        warm_start(TINY, images, WarmupConfig(batch_size=32), VIEWS, 0, torch.device("cpu"))


def test_nt_xent_is_the_cross_entropy_of_finding_the_partner():
    first, second = torch.randn(2, 4, 6, generator=generator(0))
    both = F.normalize(torch.cat([first, second]), dim=1)
    logits = (both @ both.T / 0.5).fill_diagonal_(float("-inf"))
    expected = F.cross_entropy(logits, torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]))
    assert torch.allclose(nt_xent(first, second, 0.5), expected)
    assert torch.allclose(nt_xent(torch.stack([first, second]), torch.stack([second, first]), 0.5)[0], expected)


def test_a_warm_start_lowers_its_loss_and_repeats(images):
    config = WarmupConfig(epochs=4, batch_size=8, learning_rate=5e-3)
    runs = [warm_start(TINY, images, config, VIEWS, 0, torch.device("cpu")) for _ in range(2)]
    assert runs[0][1] == runs[1][1] and runs[0][1][-1] < runs[0][1][0]
    assert torch.equal(runs[0][0].pos_embed, runs[1][0].pos_embed)
