"""Mutual attention and pair weights, against their equations written out with loops."""

import math

import pytest
import torch

from companion.errors import CompanionError
from companion.hashing import weights
from companion.seeding import generator


def two_views(batch: int = 3, length: int = 4, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(2, batch, length, width, generator=generator(0, "views"), dtype=torch.float64))


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_mutual_attention_by_the_equation(temperature):
    first, second = two_views()
    found = weights.mutual_attention(first, second, temperature)
    x1, x2 = first[1], second[1]
    for j in range(4):
        scores = [math.exp(cosine(x1[i], x2[j]) / temperature) for i in range(4)]
        expected = sum(score * x1[i] for i, score in enumerate(scores)) / sum(scores)
        assert torch.allclose(found[0][1, j], expected)
    for i in range(4):
        scores = [math.exp(cosine(x1[i], x2[j]) / temperature) for j in range(4)]
        expected = sum(score * x2[j] for j, score in enumerate(scores)) / sum(scores)
        assert torch.allclose(found[1][1, i], expected)


def test_at_temperature_one_no_token_weighs_more_than_e_squared_times_another():
    first, second = two_views(length=16)
    unit = torch.nn.functional.normalize
    shares = (unit(first, dim=-1) @ unit(second, dim=-1).transpose(1, 2)).softmax(1)
    assert (shares.amax(1) / shares.amin(1)).max() <= math.exp(2)


def test_a_cold_attention_picks_one_token():
    first, second = two_views()
    picked = weights.mutual_attention(first, second, 1e-4)[0]
    assert torch.cdist(picked, first).amin(-1).max() < 1e-6


def test_patch_similarity_by_the_equation_and_in_parts(monkeypatch):
    first, second = two_views()
    found = weights.patch_similarity(first, second)
    for a in range(3):
        for b in range(3):
            best = [max(cosine(first[a, i], second[b, j]) for j in range(4)) for i in range(4)]
            assert found[a, b] == pytest.approx(sum(best) / 4)
    monkeypatch.setattr(weights, "CHUNK", 1)
    assert torch.allclose(weights.patch_similarity(first, second), found)


def test_patches_in_another_order_are_as_similar():
    first, second = two_views()
    shuffled = second[:, torch.randperm(4, generator=generator(1))]
    assert torch.allclose(weights.patch_similarity(first, shuffled), weights.patch_similarity(first, second))


def test_pair_weights_are_a_softmax_over_its_diagonal():
    similarity = torch.randn(4, 4, generator=generator(0), dtype=torch.float64)
    softmax = (similarity / 0.2).softmax(1)
    found = weights.pair_weights(similarity, 0.2)
    assert torch.allclose(found, softmax / softmax.diagonal()[:, None])
    assert torch.equal(found.diagonal(), torch.ones(4, dtype=torch.float64))


def test_identity_weights_are_plain_contrastive_learning():
    assert torch.equal(weights.weights_of("identity", *two_views()), torch.eye(3, dtype=torch.float64))
    both = two_views()
    expected = weights.pair_weights(weights.global_similarity(*both))
    assert torch.equal(weights.weights_of("global", *both), expected)


def test_the_gradient_reaches_the_tokens_through_the_weights():
    first, second = two_views()
    first.requires_grad_()
    mixed = weights.mutual_attention(first, second)
    weights.weights_of("patch", *mixed).sum().backward()
    assert first.grad.abs().sum() > 0


def test_wrong_tokens_kinds_and_temperatures_are_named():
    first, second = two_views()
    with pytest.raises(CompanionError, match="of the same form"):
        weights.mutual_attention(first, second[:, :2])
    with pytest.raises(CompanionError, match="temperature 0"):
        weights.mutual_attention(first, second, 0)
    with pytest.raises(CompanionError, match="unknown weights 'local'"):
        weights.weights_of("local", first, second)
