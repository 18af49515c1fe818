"""The token transformer: timm's numbers with timm's names, seeded weights, clear errors for shapes that do not fit."""

import pytest
import torch

from companion.errors import CompanionError
from companion.hashing.backbone import BackboneConfig, build_backbone, pooled_features, read_weights, tokens_of
from companion.seeding import generator

SMALL = BackboneConfig(side=16, patch=4, channels=1, width=16, depth=2, heads=4)


def test_ours_computes_what_timm_computes_with_the_same_weights():
    ours = build_backbone(SMALL, generator(0, "ours")).eval()
    theirs = build_backbone(BackboneConfig(16, 4, 1, 16, 2, 4, kind="timm"), generator(1, "theirs")).eval()
    missing = theirs.trunk.load_state_dict(ours.state_dict(), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    images = torch.rand(5, 1, 16, 16, generator=generator(0))
    assert torch.allclose(tokens_of(ours, images), tokens_of(theirs, images), atol=1e-5)


def test_tokens_and_mean_features_have_the_promised_form():
    backbone = build_backbone(SMALL, generator(0))
    images = torch.rand(7, 1, 16, 16, generator=generator(0))
    tokens = tokens_of(backbone, images, batch_size=3)
    assert tokens.shape == (7, 16, 16) and SMALL.tokens == 16 and not tokens.requires_grad
    assert torch.allclose(pooled_features(backbone, images, 2), tokens.mean(1), atol=1e-6)


def test_images_of_another_side_are_resized_and_must_be_square():
    backbone = build_backbone(SMALL, generator(0))
    flat = torch.full((2, 1, 24, 24), 0.25)
    assert torch.allclose(tokens_of(backbone, flat), tokens_of(backbone, flat[..., :16, :16]), atol=1e-5)
    with pytest.raises(CompanionError, match="expected square"):
        tokens_of(backbone, flat[..., :16])


def test_weights_come_from_the_generator_and_leave_the_global_state():
    before = torch.random.get_rng_state()
    first, second, third = (build_backbone(SMALL, generator(seed)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["pos_embed"], third["pos_embed"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"side": 30, "patch": 4}, "30x30 pixels cannot be cut into patches of 4x4"),
        ({"width": 50, "heads": 4}, "50 numbers cannot be split over 4 attention heads"),
        ({"depth": 0}, "at least one block"),
        ({"kind": "torch"}, "one of own, timm"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(CompanionError, match=says):
        BackboneConfig(**settings)


def test_weights_from_a_file_need_timm_and_a_file(tmp_path):
    with pytest.raises(CompanionError, match='kind "own"'):
        read_weights(build_backbone(SMALL, generator(0)), "x.npz")
    timm = build_backbone(BackboneConfig(16, 4, 1, 16, 2, 4, kind="timm"), generator(0))
    with pytest.raises(CompanionError, match=r"x\.npz cannot be read"):
        read_weights(timm, str(tmp_path / "x.npz"))
