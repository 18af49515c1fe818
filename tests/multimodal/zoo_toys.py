"""A base model that trains in a moment: a line through points, with a tied output, as language models have it."""

from dataclasses import dataclass

import torch
from torch import nn

from companion.multimodal.base_models import BaseModel
from companion.multimodal.initialising import initialised_from
from companion.seeding import generator


@dataclass(frozen=True)
class ToyRecipe:
    seed: int = 0
    width: int = 4
    steps: int = 30
    rates: tuple[float, ...] = (0.1, 0.01)


@dataclass(frozen=True)
class ToyEvaluation:
    number: int = 64
    seed: int = 1


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.outer.weight = self.inner.weight

    def forward(self, x):
        return self.outer(self.inner(x))


def construct(recipe, stream):
    with initialised_from(stream):
        return Tied(recipe.width)


def train(recipe, device):
    network = construct(recipe, generator(recipe.seed, "weights")).to(device)
    points = torch.randn(50, recipe.width, generator=generator(recipe.seed, "points"))
    for rate in recipe.rates:
        for _ in range(recipe.steps):
            loss = (network(points) - points).square().mean()
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                    parameter -= rate * gradient
    return network, {"loss": loss.item()}


def evaluate(network, evaluation):
    points = torch.randn(evaluation.number, 4, generator=generator(evaluation.seed, "points"))
    with torch.no_grad():
        return {"error": float((network(points) - points).square().mean())}


def toy(**changes) -> BaseModel:
    settings = {
        "name": "toy-line",
        "title": "a line through points",
        "recipe": ToyRecipe(),
        "evaluation": ToyEvaluation(),
        "construct": construct,
        "train": train,
        "evaluate": evaluate,
        "modules": ("companion.multimodal.initialising",),
    }
    return BaseModel(**settings | changes)
