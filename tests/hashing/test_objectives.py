"""The hashing losses: gradients of the straight-through signs, the weighted loss by hand, and heads that stay apart."""

import math

import pytest
import torch
import torch.nn.functional as F

from companion.hashing import objectives
from companion.seeding import generator

LENGTHS = torch.tensor([8, 16])
MASK = (torch.arange(16) < LENGTHS.view(-1, 1, 1)).float()


def activations(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 6, 16, generator=generator(seed)).tanh() * MASK


def signs(seed: int = 0) -> torch.Tensor:
    return objectives.straight_through_sign(activations(seed)) * MASK


def test_signs_forwards_and_tanh_backwards():
    values = torch.tensor([-2.0, -0.1, 0.0, 3.0], requires_grad=True)
    found = objectives.straight_through_sign(values.tanh())
    found.sum().backward()
    assert found.tolist() == [-1, -1, 1, 1]
    assert torch.allclose(values.grad, 1 - values.detach().tanh() ** 2)


def test_weighted_contrastive_by_hand_for_each_head():
    first, second = signs(0), signs(1)
    weights = torch.rand(2, 6, 6, generator=generator(2))
    found = objectives.weighted_contrastive(first, second, weights, LENGTHS, 0.3)
    for head, bits in enumerate(LENGTHS.tolist()):
        total = 0.0
        for a in range(6):
            row = [float(first[head, a] @ second[head, b]) / (bits * 0.3) for b in range(6)]
            total -= sum(float(weights[head, a, b]) * (row[b] - math.log(sum(map(math.exp, row)))) for b in range(6))
        assert float(found[head]) == pytest.approx(total / 6, rel=1e-5)


def test_identity_weights_give_cross_entropy_with_the_partner():
    first, second = signs(0), signs(1)
    found = objectives.weighted_contrastive(first, second, torch.eye(6).expand(2, 6, 6), LENGTHS)
    logits = first[1] @ second[1].T / (16 * 0.3)
    assert torch.allclose(found[1], F.cross_entropy(logits, torch.arange(6)))


def test_the_energy_is_minus_one_and_its_gradient_quantises():
    values = torch.tensor([[[0.3, -0.2] * 4] * 2], requires_grad=True)
    codes = objectives.straight_through_sign(values.tanh())
    lengths = torch.tensor([8])
    found = objectives.balance_and_energy(codes, lengths)
    assert found.item() == pytest.approx(1 - 1)  # every bit is the same for both images: balance 1, energy -1
    (-codes.square().mean()).backward()
    assert (values.grad * values < 0).all(), "descent moves every activation away from zero"


def test_balance_falls_when_bits_split_the_images():
    half = torch.ones(1, 6, 8)
    half[:, :3] = -1
    found = objectives.balance_and_energy(torch.cat([half, torch.ones(1, 6, 8)]), torch.tensor([8, 8]))
    assert found.tolist() == [-1, 0]


def test_bi_half_gives_each_bit_to_half_of_the_images():
    values = activations().requires_grad_()
    codes = objectives.bi_half(values)
    assert (codes.sum(1) == 0).all() and set(codes.unique().tolist()) == {-1, 1}
    codes.sum().backward()
    assert torch.equal(values.grad, torch.ones_like(values))
    largest = values.detach()[1, :, 3].argmax()
    assert codes[1, largest, 3] == 1


def test_sampled_codes_follow_their_probability():
    soft = torch.full((1, 20000, 2), 0.5)
    found = objectives.sampled_codes(soft, torch.rand(1, 20000, 2, generator=generator(0)))
    assert float(found.mean()) == pytest.approx(0.5, abs=0.02)


def test_the_bottleneck_is_zero_for_equal_views_and_symmetric():
    first, second = activations(0), activations(1)
    codes = (signs(0), signs(1))
    plain = objectives.information_bottleneck(first, first, LENGTHS, codes, weight=0)
    assert torch.allclose(objectives.information_bottleneck(first, first, LENGTHS, codes, weight=5.0), plain)
    there, back = (
        objectives.information_bottleneck(*p, LENGTHS, codes, weight=5.0) for p in ((first, second), (second, first))
    )
    assert torch.allclose(there, back) and (there > plain).all()


def test_similarity_is_kept_where_codes_say_what_features_say():
    features = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    bit = torch.tensor([1.0, 1, -1, -1]).view(1, 4, 1).expand(1, 4, 8)
    assert float(objectives.similarity_preserving(bit, features, torch.tensor([8]))) == pytest.approx(0, abs=1e-10)
    assert float(objectives.similarity_preserving(bit.roll(1, 1), features, torch.tensor([8]))) > 1


def test_bits_behind_a_heads_last_one_never_count():
    soft, second = activations(), activations(1)
    found = [
        objectives.greedy_penalty(soft, LENGTHS)[0],
        objectives.distance_to_half(soft, LENGTHS)[0],
        objectives.information_bottleneck(soft, second, LENGTHS, (signs(0), signs(1)))[0],
    ]
    short, other, length = soft[:1, :, :8], second[:1, :, :8], torch.tensor([8])
    codes = (signs(0)[:1, :, :8], signs(1)[:1, :, :8])
    alone = [
        objectives.greedy_penalty(short, length)[0],
        objectives.distance_to_half(short, length)[0],
        objectives.information_bottleneck(short, other, length, codes)[0],
    ]
    assert torch.allclose(torch.stack(found), torch.stack(alone))
