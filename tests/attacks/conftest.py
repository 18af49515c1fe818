"""What tests of several attacks share."""

import pytest
import torch

from companion.fewshot.extractors import FewShot
from companion.models.build import build_model
from companion.seeding import generator


@pytest.fixture(scope="module")
def few():
    model = build_model("small_cnn", 3, 4, generator(0), width=4).eval().requires_grad_(False)
    return FewShot("protonet", model, torch.nn.Identity(), 16)
