"""Learners: against torch's own optimiser, autograd and by hand; episodes do not influence each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.fewshot.learners import ANIL, Baseline, HeadTraining, MatchingNet, ProtoNet, prototypes
from companion.seeding import generator


def task(episodes=3, ways=3, shots=2, queries=4, dimension=6, seed=0):
    rng = generator(seed)
    labels = torch.arange(ways).repeat_interleave(shots).expand(episodes, -1)
    centres = 3 * torch.randn(episodes, ways, dimension, generator=rng)
    support = centres.repeat_interleave(shots, 1) + torch.randn(episodes, ways * shots, dimension, generator=rng)
    query = centres.repeat_interleave(queries, 1) + torch.randn(episodes, ways * queries, dimension, generator=rng)
    return support, labels, query


def test_prototypes_are_class_means():
    support, labels, _ = task()
    found = prototypes(support, labels, 3)
    assert torch.allclose(found[1, 2], support[1, 4:6].mean(0))


def test_a_class_without_an_image_has_no_prototype():
    support, labels, query = task()
    with pytest.raises(CompanionError, match="no support image left"):
        ProtoNet(3)(support, torch.zeros_like(labels), query)


def test_protonet_calls_the_nearest_mean():
    support, labels, query = task()
    scores = ProtoNet(3)(support, labels, query)
    nearest = (query.unsqueeze(2) - prototypes(support, labels, 3).unsqueeze(1)).norm(dim=-1).argmin(-1)
    assert torch.equal(scores.argmax(-1), nearest)


@pytest.mark.parametrize("cosine", [False, True])
def test_a_head_is_what_torchs_optimiser_gives(cosine):
    support, labels, query = task(episodes=1)
    plan = HeadTraining(epochs=7)
    found = Baseline(3, cosine, plan)(support, labels, query, generator(5))

    rng = generator(5)
    bound = 6**-0.5
    drawn = torch.rand(3, 7, generator=rng) * 2 * bound - bound
    weight = nn.Parameter(drawn[:, :-1].clone())
    bias = nn.Parameter(drawn[:, -1].clone())

    def scores(features):
        if cosine:
            return 2 * F.normalize(features, dim=-1) @ F.normalize(weight, dim=-1).T
        return features @ weight.T + bias

    optimizer = torch.optim.SGD(
        [weight] if cosine else [weight, bias], 0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3
    )
    for _ in range(7):
        for chosen in torch.randperm(6, generator=rng).split(4):
            optimizer.zero_grad()
            F.cross_entropy(scores(support[0, chosen]), labels[0, chosen]).backward()
            optimizer.step()
    assert torch.allclose(found[0], scores(query[0]), atol=1e-5)


@pytest.mark.parametrize("make", [lambda: Baseline(3, True), lambda: Baseline(3, False), lambda: ProtoNet(3)])
def test_episodes_do_not_influence_each_other(make):
    support, labels, query = task(episodes=4)
    together = make()(support, labels, query, generator(1))
    alone = make()(support[2:3], labels[2:3], query[2:3], generator(1))
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_anil_is_gradient_descent_on_the_head():
    support, labels, query = task(episodes=2)
    learner = ANIL(6, 3, steps=3, rate=0.05)
    with torch.no_grad():
        learner.weight.normal_(generator=generator(2))
    found = learner(support, labels, query)
    for episode in range(2):
        weight, bias = learner.weight.detach().clone(), learner.bias.detach().clone()
        for _ in range(3):
            weight.requires_grad_(True)
            bias.requires_grad_(True)
            loss = F.cross_entropy(support[episode] @ weight.T + bias, labels[episode])
            to_weight, to_bias = torch.autograd.grad(loss, [weight, bias])
            weight, bias = (weight - 0.05 * to_weight).detach(), (bias - 0.05 * to_bias).detach()
        assert torch.allclose(found[episode], query[episode] @ weight.T + bias, atol=1e-5)


def test_matchingnet_gives_probabilities_and_does_not_mind_the_order_of_queries():
    support, labels, query = task(episodes=2)
    torch.manual_seed(0)
    learner = MatchingNet(6, 3, steps=2)
    scores = learner(support, labels, query)
    assert torch.allclose(scores.exp().sum(-1), torch.ones(2, 12), atol=1e-4)
    order = torch.randperm(12, generator=generator(0))
    assert torch.allclose(learner(support, labels, query[:, order]), scores[:, order], atol=1e-5)
