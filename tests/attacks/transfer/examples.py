"""Small networks and images that the tests of transfer attacks share."""

from dataclasses import replace

import torch
from torch import nn

from companion.attacks.transfer.method import Method
from companion.attacks.transfer.registry import Entry, Scale, entries
from companion.attacks.transfer.state import Budget
from companion.data.imageset import ImageSet
from companion.models.zoo import build_surrogate
from companion.seeding import generator

SMALL = Scale(
    copies=3,
    samples=3,
    scales=2,
    partners=2,
    members=2,
    snapshots=2,
    inner=2,
    masks=3,
    rate=1.25,
    rates=(1.1, 1.3),
    kernel=3,
)
BUDGET = Budget(eps=0.1, steps=4)
SIDE, CLASSES = 16, 4


class Linear(nn.Module):
    """Two classes of three-pixel images whose logits differ by w x: J's gradient has the sign of -w for class 1."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images):
        score = (images.flatten(1) * self.weight).sum(1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def network(seed=0, family="resnet", dtype=torch.float64):
    model = build_surrogate(family, 1, CLASSES, SIDE, generator(seed, family), width=8).to(dtype)
    return model.eval()


def images(count=5, dtype=torch.float64):
    drawn = torch.rand(count, 1, SIDE, SIDE, generator=generator(0, "images"), dtype=torch.float64)
    return drawn.to(dtype), torch.arange(count) % CLASSES


def resources(entry: Entry, dtype=torch.float64) -> tuple[list[nn.Module], dict]:
    """The networks and further arguments that a method needs."""
    from companion.attacks.transfer.generative import PerturbationGenerator

    pool = torch.rand(12, 1, SIDE, SIDE, generator=generator(1, "pool"))
    more = {"partners": ImageSet(pool, torch.arange(12) % CLASSES, tuple("abcd"), "pool", "train")}
    models = [network(dtype=dtype)]
    if entry.needs in ("ensemble", "snapshots"):
        models.append(network(1, dtype=dtype))
    if entry.needs == "generator":
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(0)
            more["generator"] = PerturbationGenerator(1, 4).to(dtype).eval()
    return models, more


def goal(entry: Entry, labels: torch.Tensor) -> dict:
    return {"targets": (labels + 1) % CLASSES} if entry.needs == "targets" else {}


ALL = entries(SMALL)
NAMES = list(ALL)


def plain(**changes) -> Method:
    return replace(Method(), **changes)
