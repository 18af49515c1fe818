"""SentiNet on a network that answers by a bright corner, Grad-CAM against autograd by hand, and both rules."""

import pytest
import torch
from torch import nn

from companion.defenses import sentinet
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator

CLEAN = 0.3 * torch.rand(12, 1, 8, 8, generator=generator(0))


class Corner(nn.Module):
    """Label 2 if something is brighter than 0.9 somewhere; else label 0 or 1 by the mean of the image's lower half."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.maps.weight.copy_(torch.tensor([1.0, 1.0]).view(2, 1, 1, 1))
            self.maps.bias.copy_(torch.tensor([-0.9, 0.0]))

    def forward(self, images):
        found = self.maps(images).relu()
        bright, brightness = found[:, 0].amax((1, 2)), found[:, 1].mean((1, 2))
        return torch.stack([8 * (0.155 - brightness) + 3, 8 * (brightness - 0.155) + 3, 200 * bright], 1)


def stamped(images):
    out = images.clone()
    out[:, :, 1:3, 1:3] = 1.0
    return out


def test_a_trigger_rules_wherever_it_is_pasted_and_an_image_does_not():
    model = Corner()
    both = torch.cat([stamped(CLEAN[:3]), CLEAN[:3]])
    found = sentinet.examine(model, model.maps, both, CLEAN[3:], generator(1))
    assert found.labels[:3].tolist() == [2, 2, 2]
    assert (found.fooled[:3] == 1).all()
    assert found.masks[:3, 1:3, 1:3].any((1, 2)).all() and (sentinet.mask_sizes(found)[:3] <= 4).all()
    assert (sentinet.mask_sizes(found)[3:][found.labels[3:] == 1] > 4).all()
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_grad_cam_is_the_weighted_sum_of_maps():
    model = build_model("small_cnn", 1, 3, generator(2), width=4).eval()
    images = torch.rand(2, 1, 16, 16, generator=generator(3))
    found, labels = sentinet.grad_cam(model, model.blocks[-1], images)
    maps = model.blocks(images).detach().requires_grad_()
    logits = model.head(maps.amax((2, 3)))
    logits.gather(1, labels.unsqueeze(1)).sum().backward()
    small = (maps.grad.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
    large = nn.functional.interpolate(small, size=(16, 16), mode="bilinear").squeeze(1)
    torch.testing.assert_close(found, (large / large.amax((1, 2), keepdim=True).clamp(min=1e-12)).detach())
    assert torch.equal(labels, model(images).argmax(1))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_rules():
    def evidence(fooled, confidence):
        return sentinet.Evidence(None, None, torch.tensor(fooled), torch.tensor(confidence))

    found = evidence([1.0, 0.1], [0.95, 0.5])
    assert sentinet.flagged(found).tolist() == [True, False]
    clean = evidence([0.1, 0.2, 0.1, 0.15], [0.2, 0.4, 0.6, 0.95])
    assert sentinet.flagged(found, sentinet.ORIGINAL, clean).tolist() == [True, False]
    assert not sentinet.flagged(clean, sentinet.ORIGINAL, clean).any()
    with pytest.raises(CompanionError, match="at least 3 clean images"):
        sentinet.flagged(found, sentinet.ORIGINAL)


def test_bad_input_is_named():
    model = Corner()
    with pytest.raises(CompanionError, match="N >= 1"):
        sentinet.examine(model, model.maps, CLEAN, CLEAN[:0], generator(0))
    with pytest.raises(CompanionError, match="mask_share"):
        sentinet.Config(mask_share=0)
    with pytest.raises(CompanionError, match="no convolution"):
        sentinet.layer_of(nn.Linear(2, 2))
    flat = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(CompanionError, match="expected maps"):
        sentinet.grad_cam(flat, flat[2], CLEAN)
    assert sentinet.layer_of(flat) is flat[0]
