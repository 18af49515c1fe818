"""Few-shot learners on features: from support features and labels to scores of the queries, many episodes at once.

A learner is called with support (E, S, D), labels (E, S) in [0, N) and queries (E, Q, D), all of the same frozen
extractor, and gives scores (E, Q, N). Clean and triggered queries handed over together are judged by one and the same
adapted classifier.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError


def prototypes(support: torch.Tensor, labels: torch.Tensor, ways: int) -> torch.Tensor:
    """Return the mean support feature of each class, (E, N, D).

    Raises CompanionError when a class has no support image, as its prototype would not exist.
    """
    shares = F.one_hot(labels, ways).to(support)  # (E, S, N)
    counts = shares.sum(1)  # (E, N)
    if not (counts > 0).all():
        raise CompanionError(
            "a class of an episode has no support image left, so it has no prototype: expected at least one of each. "
            "Relabelling all of a class's images, as a poison rate of 1 does, needs a learner that trains a classifier."
        )
    return torch.einsum("esn,esd->end", shares, support) / counts.unsqueeze(-1)


class ProtoNet(nn.Module):
    """Nearest prototype: scores are -|f(x) - c_k|^2 (Snell et al. 2017)."""

    def __init__(self, ways: int):
        super().__init__()
        self.ways = ways

    def forward(self, support, labels, query, generator=None):
        """Return scores (E, Q, N)."""
        return -torch.cdist(query, prototypes(support, labels, self.ways)).square()


class MatchingNet(nn.Module):
    """Attention over the support set with full context embeddings (Vinyals et al. 2016, as Chen et al. 2019 have it).

    Support features pass a bidirectional LSTM whose two outputs are added to them; a query attends to the support set
    in as many LSTM steps as there are support images; the cosine similarity, cut at 0 and times 100, is softmaxed over
    the support images, and the shares of each class are its probability. Scores are logarithms of probabilities.
    """

    def __init__(self, dimension: int, ways: int, steps: int | None = None):
        super().__init__()
        self.ways, self.steps = ways, steps
        self.around = nn.LSTM(dimension, dimension, batch_first=True, bidirectional=True)
        self.attention = nn.LSTMCell(dimension * 2, dimension)

    def forward(self, support, labels, query, generator=None):
        """Return scores (E, Q, N)."""
        episodes, queries, dimension = query.shape
        sides = self.around(support)[0].view(*support.shape[:2], 2, dimension)
        support = support + sides.sum(2)  # (E, S, D)
        flat = query.reshape(-1, dimension)
        read, cell = query.new_zeros(flat.shape), query.new_zeros(flat.shape)
        state = flat
        for _ in range(self.steps or support.shape[1]):
            hidden, cell = self.attention(torch.cat([flat, read], 1), (state, cell))
            state = hidden + flat
            weights = torch.bmm(state.view(episodes, queries, -1), support.transpose(1, 2)).softmax(-1)
            read = torch.bmm(weights, support).view(-1, dimension)
        alike = torch.bmm(F.normalize(state.view(episodes, queries, -1), dim=-1), F.normalize(support, dim=-1).mT)
        attention = (100 * alike.relu()).softmax(-1)  # (E, Q, S)
        share = torch.bmm(attention, F.one_hot(labels, self.ways).to(attention))
        return (share + 1e-6).log()


class ANIL(nn.Module):
    """A MAML-like learner whose inner loop adapts the head alone ("almost no inner loop", Raghu et al. 2020).

    The first head and its inner learning rate are meta-learned; the inner loop is `steps` full-batch gradient steps on
    the cross-entropy, written out, so that meta-training differentiates through it.
    """

    def __init__(self, dimension: int, ways: int, steps: int = 10, rate: float = 0.1):
        super().__init__()
        self.ways, self.steps = ways, steps
        self.weight = nn.Parameter(torch.zeros(ways, dimension))
        self.bias = nn.Parameter(torch.zeros(ways))
        self.log_rate = nn.Parameter(torch.tensor(float(rate)).log())

    def forward(self, support, labels, query, generator=None):
        """Return scores (E, Q, N) after the inner loop."""
        wanted = F.one_hot(labels, self.ways).to(support)  # (E, S, N)
        weight = self.weight.expand(len(support), -1, -1)  # (E, N, D)
        bias = self.bias.expand(len(support), -1)  # (E, N)
        for _ in range(self.steps):
            scores = torch.bmm(support, weight.mT) + bias.unsqueeze(1)
            error = (scores.softmax(-1) - wanted) / support.shape[1]  # gradient of the mean cross-entropy
            weight = weight - self.log_rate.exp() * torch.bmm(error.mT, support)
            bias = bias - self.log_rate.exp() * error.sum(1)
        return torch.bmm(query, weight.mT) + bias.unsqueeze(1)


@dataclass(frozen=True)
class HeadTraining:
    """How Baseline and Baseline++ train a new classifier on a support set; defaults of Chen et al. (2019).

    epochs over the support set, batch, and stochastic gradient descent with learning rate, momentum, dampening and
    weight decay; scale: of the cosine classifier's logits.
    """

    epochs: int = 100
    batch: int = 4
    learning_rate: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight_decay: float = 1e-3
    scale: float = 2.0


@dataclass
class Head:
    """Trained classifiers of E episodes: weight (E, N, D), bias (E, N) or None for cosine, and the cosine's scale."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return scores (E, B, N) of features (E, B, D)."""
        return _scores(features, self.weight, self.bias, self.scale)


class Baseline(nn.Module):
    """A new linear (Baseline) or cosine (Baseline++) classifier for every episode (Chen et al. 2019)."""

    def __init__(self, ways: int, cosine: bool, training: HeadTraining | None = None):
        super().__init__()
        self.ways, self.cosine, self.training_plan = ways, cosine, training or HeadTraining()

    def forward(self, support, labels, query, generator):
        """Return scores (E, Q, N); `generator` draws the first weights and the order of the support images."""
        return self.fit(support, labels, generator).scores(query)

    def fit(self, support: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> Head:
        """Return the classifiers trained on support features (E, S, D) and labels (E, S)."""
        bound = support.shape[-1] ** -0.5
        drawn = torch.rand(self.ways, support.shape[-1] + 1, generator=generator) * 2 * bound - bound
        drawn = drawn.to(support).expand(len(support), -1, -1)  # all episodes of a call begin alike
        head = Head(drawn[..., :-1], None if self.cosine else drawn[..., -1], self.training_plan.scale)
        return refine(head, support, labels, self.training_plan, generator)


def refine(
    head: Head, support: torch.Tensor, labels: torch.Tensor, plan: HeadTraining, generator: torch.Generator
) -> Head:
    """Return the classifiers after further training on features (E, S, D) and labels (E, S), as `plan` says.

    Each episode is trained as if alone: the loss is summed over episodes, and all see the images in the same order.
    """
    parts = [part.detach().clone() for part in (head.weight, head.bias) if part is not None]
    speed: list[torch.Tensor] | None = None
    for _ in range(plan.epochs):
        order = torch.randperm(support.shape[1], generator=generator).to(support.device)
        for chosen in order.split(plan.batch):
            slopes = _slopes(parts, support[:, chosen], labels[:, chosen], head.scale)
            slopes = [slope + plan.weight_decay * part for slope, part in zip(slopes, parts, strict=True)]
            if speed is None:
                speed = slopes
            else:
                speed = [plan.momentum * v + (1 - plan.dampening) * g for v, g in zip(speed, slopes, strict=True)]
            parts = [part - plan.learning_rate * v for part, v in zip(parts, speed, strict=True)]
    return Head(parts[0], parts[1] if len(parts) > 1 else None, head.scale)


def _slopes(parts: list[torch.Tensor], features: torch.Tensor, labels: torch.Tensor, scale: float):
    """Gradients of each episode's mean cross-entropy on its batch, features (E, b, D), labels (E, b)."""
    with torch.enable_grad():
        leaves = [part.detach().requires_grad_(True) for part in parts]
        scores = _scores(features.detach(), leaves[0], leaves[1] if len(leaves) > 1 else None, scale)
        loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]
        return torch.autograd.grad(loss, leaves)


def _scores(features, weight, bias, scale):
    if bias is None:
        return scale * torch.bmm(F.normalize(features, dim=-1), F.normalize(weight, dim=-1).mT)
    return torch.bmm(features, weight.mT) + bias.unsqueeze(1)
