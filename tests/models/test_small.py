import pytest
import torch

from companion.models.small import SmallCNN
from companion.seeding import generator


@pytest.mark.parametrize(("channels", "size", "width"), [(1, 16, 16), (3, 32, 24), (3, 9, 4)])
def test_shapes_of_features_and_logits(channels, size, width):
    model = SmallCNN(channels, 7, width).eval()
    images = torch.rand(5, channels, size, size, generator=generator(0, "images"))
    features = model.features(images)
    assert features.shape == (5, 4 * width)
    assert (features >= 0).all()
    assert model(images).shape == (5, 7)
    assert torch.equal(model(images), model.head(features))


def test_parameter_count_by_hand():
    model = SmallCNN(3, 10, width=24)
    convolutions = 9 * (3 * 24 + 24 * 48 + 48 * 96)
    normalisations = 2 * (24 + 48 + 96)
    assert sum(p.numel() for p in model.parameters()) == convolutions + normalisations + 96 * 10 + 10


def test_every_parameter_gets_a_gradient():
    model = SmallCNN(3, 4, width=4)
    model(torch.rand(6, 3, 16, 16, generator=generator(0, "images"))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_an_image_does_not_depend_on_its_batch_in_evaluation_mode():
    model = SmallCNN(3, 4, width=4).eval()
    images = torch.rand(6, 3, 16, 16, generator=generator(0, "images"))
    alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(model(images), alone, atol=1e-5)
