import pytest
import torch

from companion.models.resnet import ResNet18
from companion.seeding import generator


def test_parameter_count_is_that_of_the_cifar_resnet_18():
    assert sum(p.numel() for p in ResNet18(3, 10).parameters()) == 11_173_962


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_features_and_logits(channels):
    model = ResNet18(channels, 5).eval()
    images = torch.rand(2, channels, 32, 32, generator=generator(0, "images"))
    features = model.features(images)
    assert features.shape == (2, 512)
    assert model(images).shape == (2, 5)
    assert torch.equal(model(images), model.head(features))


def test_the_stem_keeps_the_resolution_and_the_last_stage_is_4_by_4():
    model = ResNet18(3, 10).eval()
    seen = {}
    model.backbone.layer1.register_forward_hook(lambda _m, _i, out: seen.update(first=out.shape))
    model.backbone.layer4.register_forward_hook(lambda _m, _i, out: seen.update(last=out.shape))
    model(torch.zeros(1, 3, 32, 32))
    assert seen == {"first": (1, 64, 32, 32), "last": (1, 512, 4, 4)}
